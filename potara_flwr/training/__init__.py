"""Local steps, and per-sample gradients."""
