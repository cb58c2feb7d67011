"""Installed packages against what the project asks for, and what torch computes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from packaging.requirements import Requirement

from potara_flwr.command.checks.check import Check, fail, ok
from potara_flwr.core.errors import SettingsError
from potara_flwr.settings.schema import Settings

DISTRIBUTION = "potara-flwr"
INSTALL = "pip install --constraint constraints.txt --editable . in the clone, or the wheel"
SINGLE = ("flwr", "torch")
"""Packages with a line of their own."""


def required() -> list[str]:
    """Return what the installed project asks for; empty where it is not installed."""
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def installed(name: str) -> str:
    """Return the version of a package; empty where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def check_packages(
    lines: Sequence[str] | None = None, version: Callable[[str], str] = installed
) -> Iterator[Check]:
    """Check each package: those of ``SINGLE`` one by one, all others in one line."""
    needed = [Requirement(line) for line in (required() if lines is None else lines)]
    needed = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    if not needed:
        yield fail("packages", f"{DISTRIBUTION} is not installed in this Python", INSTALL)
        return
    faults = {need.name: _fault(need, version(need.name)) for need in needed}
    for need in needed:
        if need.name in SINGLE:
            fault = faults.pop(need.name)
            found = f"{version(need.name)} is in the range {need.specifier}"
            yield fail(need.name, fault, INSTALL) if fault else ok(need.name, found)
    if wrong := [f"{name} {fault}" for name, fault in faults.items() if fault]:
        yield fail("packages", ", ".join(wrong), INSTALL)
    else:
        yield ok("packages", f"{len(faults)} others are in their ranges")


def _fault(need: Requirement, version: str) -> str:
    if not version:
        return "is not installed"
    if not need.specifier.contains(version, prereleases=True):
        return f"{version} is not in the range {need.specifier}"
    return ""


def check_torch(settings: Settings) -> Check:
    """Check that torch can be loaded and computes on the device of the settings."""
    try:
        import torch

        from potara_flwr.models.base_models import find_device
    except (ImportError, OSError) as error:
        return fail("compute", f"torch cannot be loaded: {error}", INSTALL)
    try:
        device = find_device(settings.model)
    except SettingsError as error:
        return fail("compute", str(error), "model.device=cpu, or mend the driver")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    threads = torch.get_num_threads()
    return ok(
        "compute",
        f"on {device.type}; torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}, "
        f"{', '.join(gpus) or 'no GPU'}",
    )
