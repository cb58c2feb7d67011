"""How adapters are averaged and sent: one file a strategy."""

from potara_flwr.strategies.lora_averaging import LoraAveraging
from potara_flwr.strategies.private import ClippedAveraging, PrivateAveraging
from potara_flwr.strategies.rest_of_world import RestOfWorld

__all__ = ["ClippedAveraging", "LoraAveraging", "PrivateAveraging", "RestOfWorld"]
