"""Submit the app to a SuperLink that runs, follow it, show what came out: the role ``run``.

    FLWR_HOME=<folder with config.toml> python docker/submit.py data.num-clients=3 seed=1

Settings are those of ``potara run``. The results folder must be one that the ServerApp writes to
under the same path, which a volume shared with the superexec's container is.
"""

import os
import sys
from pathlib import Path

from rich.console import Console

from potara_flwr.command.exit_status import at_interrupt, exit_status
from potara_flwr.running.composition import compose_settings
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_cli import environment_of, run_app
from potara_flwr.running.one_run import placed, show


def submit(words: list[str]) -> None:
    """Run with these settings, and show what came out."""
    console = Console()
    settings = placed(compose_settings(words), None)
    environment = environment_of(Path(os.environ["FLWR_HOME"]))
    with LiveDisplay(console) as display, at_interrupt("the run goes on: flwr stop ends it"):
        folder = run_app(settings, environment, display, "submitted")
    show(folder, console)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: submit(sys.argv[1:])))
