"""The parts of the merge-quality benchmark: adapters, candidates, measures, page."""
