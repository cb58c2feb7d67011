"""The runtimes against bare PyTorch."""
