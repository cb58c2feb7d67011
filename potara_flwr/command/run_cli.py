"""Run the app once and show what came out: the same command as ``potara run``.

    potara run data.shift=shared merge.rule=segment seed=3
    potara run --runtime flwr
    potara run experiment=paper

``experiment`` names a preset in conf/experiment. Settings are ``name=value``, with the names of
docs/reference/settings.md, and hold over the preset's. Hydra reads them: a text with commas or
spaces stands in quotes of its own, ``lora.target-modules="'q_proj,k_proj'"``. ``in-process`` calls
the apps one client after the other in this process; ``flwr`` runs them through ``flwr run``, in
parallel on Ray. Both give the same bits. The exit status is 0 if, and only if, there are results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from potara_flwr.command.main import main as potara


def main(arguments: Sequence[str] | None = None) -> int:
    """Be ``potara run``; return the exit status."""
    return potara(["run", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
