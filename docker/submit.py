"""Submit the app to a SuperLink that runs, follow it, show what came out: the role ``run``.

    FLWR_HOME=<folder with config.toml> python docker/submit.py data.num-clients=3 seed=1

Settings are those of ``potara run``. The results folder must be one that the ServerApp writes to
under the same path, which a volume shared with the superexec's container is.
"""

import os
import sys
from pathlib import Path

from rich.console import Console

from potara_flwr.errors import PotaraError
from simulations.composition import compose_settings
from simulations.display import LiveDisplay
from simulations.flower_cli import environment_of, run_app
from simulations.run import placed, show


def main(words: list[str]) -> int:
    """Run; return the exit status."""
    console = Console()
    try:
        settings = placed(compose_settings(words), None)
        environment = environment_of(Path(os.environ["FLWR_HOME"]))
        with LiveDisplay(console) as display:
            folder = run_app(settings, environment, display, "submitted")
    except PotaraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by the user; the run goes on: flwr stop ends it", file=sys.stderr)
        return 130
    show(folder, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
