"""The builder's RUN lines of the Dockerfile, in an environment and a folder of their own.

Minutes, and a gigabyte from the package index; torch's CPU wheels from ``TORCH_INDEX_URL``, or
where pip is told to look. ``apt-get`` and ``useradd``, of the second stage, are not replayed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUILDER = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1]


def instructions() -> list[tuple[str, str]]:
    """Return the builder's instructions in order: the word and the rest, on one line."""
    lines = [line for line in BUILDER.splitlines()[1:] if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest) for word, _, rest in (x.partition(" ") for x in joined.splitlines()) if word
    ]


def context(folder: Path) -> Path:
    """Copy what .dockerignore lets through."""
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    folder.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def scratch():
    """A folder that is gone afterwards: pytest would keep its gigabytes for three runs."""
    with tempfile.TemporaryDirectory(prefix="potara-") as folder:
        yield Path(folder)


def test_the_builders_lines_make_an_environment_in_which_the_image_works(scratch):
    build = context(scratch / "context")
    places = {"/opt/potara": scratch / "opt", "/requirements": scratch / "requirements",
              "/app": scratch / "app"}  # fmt: skip
    args = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["run"]["build"]["args"]
    given = {name: os.environ.get(name, "") for name in args}
    environment = {**os.environ, **given}
    environment.pop("PYTHONPATH", None)

    def here(text: str) -> str:
        for place, instead in places.items():
            text = re.sub(rf"{place}(?=[/:\s]|$)", str(instead), text)
        return text

    folder = scratch
    for word, rest in instructions():
        if word == "ENV":
            for pair in rest.split():
                name, _, value = here(pair).partition("=")
                environment[name] = value.replace("$PATH", environment["PATH"])
        elif word == "WORKDIR":
            folder = Path(here(rest))
            folder.mkdir(exist_ok=True)
        elif word == "COPY":
            *sources, target = rest.split()
            assert target in (".", "./")
            for source in sources:
                if source == ".":
                    shutil.copytree(build, folder, dirs_exist_ok=True)
                else:
                    shutil.copy2(build / source, folder)
        elif word == "RUN":
            done = subprocess.run(
                ["/bin/sh", "-c", here(rest)], cwd=folder, env=environment,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
        else:
            assert word == "ARG"
            assert rest in given

    def role(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [places["/app"] / "docker" / "entrypoint.sh", *words], cwd=scratch, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert role("--version").stdout.startswith("potara ")
    looked = role("doctor")
    for package in ("flwr", "torch", "packages", "compute", "model", "data"):
        assert f"ok    {package}: " in looked.stdout, looked.stdout + looked.stderr
    environment["POTARA_PRINT"] = "1"
    assert role("superlink").stdout.startswith("flower-superlink\n")
    assert (places["/opt/potara"] / "bin" / "flower-superlink").is_file()
