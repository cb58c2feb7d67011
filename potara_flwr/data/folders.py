"""Folders of images or of data files, used whole.

Images stand in a folder a class, within a folder a split where there are splits. `datasets` tells
splits from words in the names of files and folders, and then leaves out whatever has none of these
words: of a folder with ``train_2.png`` and ``IMG_3.png`` only the former. Here what stands where
decides, and a folder whose images stand in other places is refused.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.data.files import cache_of, literal, visible_files
from potara_flwr.data.tables import AS_WRITTEN, features_of

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

logger = logging.getLogger(__name__)

MUCH = 0.1
"""Share of a folder's files above which one that leaves them out is refused."""
DATA = (".csv", ".json", ".jsonl", ".parquet")
"""Files that hold rows."""
OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")
"""Files that an operating system leaves in folders of images."""
TABLES = (".csv", ".json", ".jsonl", ".parquet", ".arrow", ".tsv", ".zip")
"""Files that may be the data instead of the images, unless they are named as one next to them."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images."""

    root: Path
    """The folder that holds the folders of classes or splits."""
    images: tuple[Path, ...]
    """All images in it, relative to ``root``."""
    splits: dict[str, list[str]]
    """Split → its folders, as patterns below ``root``."""
    tabled: bool
    """Whether metadata files say what the images are, instead of the folders' names."""

    def load(self, split: str, place: str) -> datasets.Dataset:
        """Load one split, or a slice of one: the columns ``image`` and ``label``, or what the
        metadata files have.

        Raises
        ------
        SettingsError
            Some images were not read, or are in no line of the metadata.
        ValueError
            There is no such split.
        """
        builder = datasets.load_dataset_builder(
            "imagefolder",
            data_dir=str(literal(self.root)),
            data_files=self.splits,
            cache_dir=str(cache_of(self.root)),
            **({} if self.tabled else {"drop_labels": False}),
        )
        builder.download_and_prepare()
        self._check_used(builder.as_dataset(), place)
        return builder.as_dataset(split)

    def _check_used(self, parts: datasets.DatasetDict, place: str) -> None:
        """Check that the rows are all images that there are."""
        used = set()
        for table in parts.values():
            if "image" in table.column_names:
                table = table.cast_column("image", datasets.Image(decode=False))
                used |= {str(stored["path"]) for stored in table["image"]}
        root = literal(self.root)
        lost = sorted(set(map(str, self.images)) - {os.path.relpath(path, root) for path in used})
        if not lost:
            return
        words = f"{place}: {len(lost)} of its {len(self.images)} images are "
        words += "in no line of the metadata" if self.tabled else "not found"
        if len(lost) > MUCH * len(self.images) or not self.tabled:
            raise SettingsError(f"{words}, e.g. {lost[0]}; complete it, or move them away")
        logger.warning("%s and are not used: %s", words, _first(lost))


@functools.lru_cache(maxsize=16)
def image_folder(folder: Path, place: str) -> ImageFolder | None:
    """Return a folder of images, ready to be loaded; None where it is none, or where a README says
    what its files are.

    Its files that are no images are warned of, with their number.

    Parameters
    ----------
    place : str
        The folder in words that begin an error message.

    Raises
    ------
    SettingsError
        The images stand where their classes cannot be told, or many files are no images.
    """
    files = visible_files(folder)
    known = datasets.packaged_modules.imagefolder.ImageFolder
    images = [file for file in files if file.suffix.lower() in known.EXTENSIONS]
    metadata = [file for file in files if file.name in known.METADATA_FILENAMES]
    named = {image.with_suffix("") for image in images}
    tables = [
        file
        for file in files
        if file.suffix.lower() in TABLES
        and file not in metadata
        and file.with_suffix("") not in named
    ]
    if len(images) <= len(tables) or _has_configs(folder):
        return None
    _say_what_is_left_out(set(files) - set(images) - set(metadata), images, place)
    root = Path()
    while (deeper := _only_folder(images, metadata, root)) is not None:
        root = deeper
    images = [image.relative_to(root) for image in images]
    metadata = [file.relative_to(root) for file in metadata]
    splits = _splits(images, metadata)
    if not metadata:
        _check_classes(images, split=splits is not None, place=place)
        tops = {image.parts[0] for image in images}
        for inner in sorted((folder / root).iterdir()):
            if inner.is_dir() and inner.name not in tops and not inner.name.startswith("."):
                logger.warning("%s: its folder %s holds no images", place, inner.name)
    return ImageFolder(folder / root, tuple(images), splits or {"train": ["**"]}, bool(metadata))


def load_folder(folder: Path, name: str, split: str, place: str) -> datasets.Dataset:
    """Load one split, or a slice of one, of a folder that is laid out in a way that the hub knows.

    Its csv and json files are checked row by row. Data files that are in no split are warned of.

    Parameters
    ----------
    name : str
        Configuration; empty is the only one.
    place : str
        The folder in words that begin an error message.

    Raises
    ------
    SettingsError
        Much of the data is in no split.
    ValueError
        There is no such configuration or split, or a file cannot be used; names it and the row.
    """
    given: dict[str, Any] = {"name": name or None, "cache_dir": str(cache_of(folder))}
    builder = datasets.load_dataset_builder(str(literal(folder)), **given)
    files = [Path(file) for files in builder.config.data_files.values() for file in files]
    if not _has_configs(folder):
        _check_all_in_splits(folder, files, place)
    kind = type(builder.config).__name__
    if kind == "CsvConfig":
        given |= AS_WRITTEN
    form = {"CsvConfig": "csv", "JsonConfig": "json"}.get(kind)
    if form and type(builder.config)(**_named(builder.config)) == builder.config:
        given["features"] = features_of(files, form)
    return datasets.load_dataset(str(literal(folder)), split=split, **given)


def _named(config: Any) -> dict[str, Any]:
    """Return what a configuration has that has no options of its own."""
    return {key: getattr(config, key) for key in ("name", "version", "data_dir", "data_files",
                                                  "description")}  # fmt: skip


def _check_all_in_splits(folder: Path, used: Sequence[Path], place: str) -> None:
    """Check that the data files of a folder are in some split, by their names.

    Raises
    ------
    SettingsError
        More than ``MUCH`` of the data is in none.
    """
    size = {file: (folder / file).stat().st_size for file in visible_files(folder)
            if file.suffix.lower() in DATA}  # fmt: skip
    root = literal(folder).resolve()
    known = {Path(os.path.relpath(file, root)) for file in used}
    lost = set(size) - known
    if not lost:
        return
    words = (
        f"{place}: {len(lost)} of its {len(size)} data files are in no split, which is told by the "
        f"words train, validation and test in names: {_first(lost)}"
    )
    if sum(size[file] for file in lost) > MUCH * sum(size.values()):
        raise SettingsError(f"{words}; rename them, or name one file")
    logger.warning("%s", words)


def _has_configs(folder: Path) -> bool:
    """Say whether a card says what a folder's files are."""
    card = folder / "README.md"
    return card.is_file() and "\nconfigs:" in card.read_text(errors="replace")


def _only_folder(images: Sequence[Path], metadata: Sequence[Path], root: Path) -> Path | None:
    """Return the one folder in ``root`` that holds all, where it is neither a class nor a split."""
    depth = len(root.parts)
    inner = {file.parts[: depth + 1] for file in [*images, *metadata]}
    if len(inner) > 1 or any(len(image.parts) < depth + 3 for image in images):
        return None
    (parts,) = inner
    return None if _split_of(parts[-1]) else Path(*parts)


def _splits(images: Sequence[Path], metadata: Sequence[Path]) -> dict[str, list[str]] | None:
    """Return split → its folders, where all images stand in one of a split: ``train/cat/1.png``, or
    next to metadata of its own.
    """
    tops = sorted({image.parts[0] for image in images})
    described = {file.parts[0] for file in metadata if len(file.parts) > 1}
    deep = all(len(image.parts) > 2 for image in images)
    if not (described >= set(tops) if metadata else deep) or not all(map(_split_of, tops)):
        return None
    splits: dict[str, list[str]] = {}
    for top in tops:
        splits.setdefault(_split_of(top), []).append(f"{top}/**")
    return splits


def _split_of(name: str) -> str:
    """Return the split that a folder's name stands for, as `datasets` has it, or nothing."""
    words = re.split(r"[-._ 0-9]+", name.lower())
    for split, keywords in datasets.data_files.SPLIT_KEYWORDS.items():
        if set(words) & set(keywords):
            return str(split)
    return ""


def _check_classes(images: Sequence[Path], split: bool, place: str) -> None:
    """Check that every image stands in the folder of its class.

    Raises
    ------
    SettingsError
        One does not; says how many, and names one.
    """
    home = "SPLIT/CLASS" if split else "CLASS"
    others = [image for image in images if len(image.parts) != 2 + split]
    if others:
        raise SettingsError(
            f"{place}: {len(others)} of its {len(images)} images are not in {home}/, "
            f"where their classes could be told, e.g. {others[0]}; move each into the folder of "
            "its class (CLASS/1.png, or train/CLASS/1.png and test/CLASS/1.png), or write a "
            "metadata.csv"
        )
    tops = sorted({image.parts[0] for image in images})
    if not split and all(map(_split_of, tops)):
        raise SettingsError(
            f"{place}: its images stand directly in {', '.join(tops)}, which may be "
            "splits or classes; put them into folders of their classes (train/CLASS/1.png), or, "
            "if these are the classes, rename one of them"
        )


def _say_what_is_left_out(others: set[Path], images: Sequence[Path], place: str) -> None:
    """Warn of files that are no images.

    Raises
    ------
    SettingsError
        They are many: more than ``MUCH`` of what stands in folders of images, not counting what
        belongs to an image of the same name or to the operating system.
    """
    folders = {image.parent for image in images} - {Path()}
    names = {image.with_suffix("") for image in images}
    lost = [
        file
        for file in sorted(others)
        if file.parent in folders
        and file.with_suffix("") not in names
        and file.name.lower() not in OF_THE_SYSTEM
    ]
    if len(lost) > MUCH * (len(images) + len(lost)):
        raise SettingsError(
            f"{place}: {len(lost)} files in its folders of images are no images that "
            f"can be read, next to {len(images)} that can, e.g. {lost[0]}; convert them to PNG or "
            "JPEG, or move them away"
        )
    if others:
        logger.warning(
            "%s: %d of its %d files are no images and are not used: %s",
            place, len(others), len(others) + len(images), _first(others),
        )  # fmt: skip


def _first(files: Iterable[Path | str], most: int = 3) -> str:
    """Return some files in a line."""
    names = sorted(map(str, files))
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
