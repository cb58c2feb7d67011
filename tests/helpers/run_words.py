"""The words of a command line that give some settings."""

import json

from potara_flwr.settings.schema import Settings


def words_of(settings: Settings) -> list[str]:
    """Return ``name=value`` for every setting but the folders of the run."""
    return [
        f"{name}={json.dumps(value)}"
        for name, value in settings.to_flat().items()
        if name not in ("run.results", "run.resume", "run.personalize-only")
    ]
