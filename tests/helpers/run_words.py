"""The words of a command line that give some settings."""

import json

from potara_flwr.config import Settings


def words_of(settings: Settings) -> list[str]:
    """Return ``name=value`` for every setting but the results folder."""
    return [
        f"{name}={json.dumps(value)}"
        for name, value in settings.to_flat().items()
        if name != "run.results"
    ]
