"""Base models, and LoRA adapters as tensors."""
