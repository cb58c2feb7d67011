"""Potara on Flower: personalized federated LoRA by closed-form federated-local merging."""

__version__ = "0.1.0"
