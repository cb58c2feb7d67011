"""What docs/research/results.md compares: which runs, how they are kept, and the page."""
