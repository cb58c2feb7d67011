"""One seed decides everything: every random draw has a generator of its own, named by purpose."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one named purpose, e.g. ``derive_seed(0, "local", client)``.

    The same arguments give the same seed in every process and on every machine; different
    purposes give unrelated seeds, so that no draw depends on how many came before it.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
