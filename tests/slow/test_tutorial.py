"""The tutorial, word for word: every command of its page in turn, in one shell, offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from potara_flwr.results.folder import read_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "tutorial.md"


def commands() -> list[str]:
    """The page's blocks of commands; the set-up is that of the tests themselves."""
    setup, *blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert setup.startswith("make run\n")
    return blocks


def test_every_command_of_the_page_works_in_turn(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", "\n".join(commands())],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": f"{scripts}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "tickets" / "results"
    first, deployed = (read_results(results / name) for name in ("first", "deployed"))
    assert [client["num_test"] for client in first["clients"]] == [60] * 3
    means = {
        name: sum(client["accuracy"][name] for client in first["clients"]) / 3
        for name in ("federated", "local")
    }
    merged = sum(client["personalized"]["accuracy"] for client in first["clients"]) / 3
    # As the page shows: the teams differ, so that their own adapters are far ahead.
    assert means["federated"] < 0.85 < 0.9 < means["local"]
    assert merged >= means["local"] - 0.02
    assert len(deployed["clients"]) == 3
    assert (results / "sweep" / "comparison" / "comparison.html").is_file()
    assert (results / "shop" / "report.json").is_file()
