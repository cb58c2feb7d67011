"""How adapters are averaged: one file a strategy, one line here."""

from potara_flwr.strategies.lora_averaging import LoraAveraging

__all__ = ["STRATEGIES", "LoraAveraging"]

STRATEGIES: dict[str, type[LoraAveraging]] = {
    "fedit": LoraAveraging,
}
