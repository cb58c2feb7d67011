"""Files of the user's own, as they are: literal paths, and what has changed since."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

MAGIC = frozenset("*?[]{}")
"""What means something else than itself in a path that `datasets` is given."""


def files_of(place: Path) -> list[Path]:
    """Return a file, or all files below a folder, sorted; links are followed."""
    if place.is_file():
        return [place]
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(place, followlinks=True)
        for name in names
        if Path(folder, name).is_file()
    )


def visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, relative to it, sorted: those that are not hidden, nor in a
    hidden folder.

    Raises
    ------
    SettingsError
        A link leads nowhere.
    """
    for inner, _, names in os.walk(folder, followlinks=True):
        for name in names:
            file = Path(inner, name)
            if file.is_symlink() and not file.exists() and not name.startswith("."):
                raise SettingsError(
                    f"data.path: {folder.name}: {file.relative_to(folder)} is a link to "
                    f"{os.readlink(file)}, which is not there; mend it or remove it"
                )
    files = [file.relative_to(folder) for file in files_of(folder)]
    return [file for file in files if not any(part.startswith(".") for part in file.parts)]


def literal(place: Path) -> Path:
    """Return a path of a file or folder that `datasets` takes for nothing else: files below one in
    which some character stands for others are reached through links in its cache.
    """
    place = place.absolute()
    if not MAGIC & set(str(place)):
        return place
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "links" / _state_of(place)
    links = {folder / f"data{place.suffix.lower()}": place}
    if place.is_dir():
        links = {folder / file.relative_to(place): file for file in files_of(place)}
    for link, file in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(file)
    return folder if place.is_dir() else next(iter(links))


def cache_of(folder: Path) -> Path:
    """Return where `datasets` caches a folder: another place whenever one of its files changes.

    Its own cache knows a folder with a README only by its name and that README, and would give the
    rows that another folder of that name, or an older state of this one, had.
    """
    return Path(datasets.config.HF_DATASETS_CACHE) / "folders" / _state_of(folder.resolve())


def _state_of(place: Path) -> str:
    """Return a hash that changes whenever a file, or one of a folder's, does."""
    state = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files_of(place)]
    return hashlib.sha256("\n".join(state).encode()).hexdigest()[:16]
