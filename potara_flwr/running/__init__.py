"""One run: its settings composed, and the runtimes that make it."""
