"""All that happened so far, on disk after every run."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from simulations.faults.disturbing import Struck
from simulations.faults.here import Finding
from simulations.faults.table import page


@dataclass
class Diary:
    """What was found in one process, and every kill."""

    folder: Path
    """Gets ``faults.json`` and ``faults.md``."""
    kills: int
    seed: int
    findings: list[Finding] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    @property
    def well(self) -> bool:
        """Whether all kills were done, and everything ended as it should."""
        return (
            len(self.struck) == self.kills
            and all(item.well for item in self.struck)
            and all(item.equal for item in self.findings)
        )

    def add(self, findings: Sequence[Finding] = (), struck: Sequence[Struck] = ()) -> None:
        """Take in what has happened, and write it down."""
        self.findings += findings
        self.struck += struck
        document = {
            "kills": self.kills,
            "seed": self.seed,
            "minutes": round((time.monotonic() - self._begun) / 60, 1),
            "well": self.well,
            "one_process": [asdict(item) for item in self.findings],
            "struck": [item.to_json() for item in self.struck],
        }
        (self.folder / "faults.json").write_text(json.dumps(document, indent=1) + "\n")
        (self.folder / "faults.md").write_text(page(self.findings, self.struck))
