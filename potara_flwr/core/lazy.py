"""Modules that are imported when something of them is first used.

On a SuperNode every message runs in a process of its own, most of which touch no data set: their
tensors are kept from the message before.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def lazy(name: str) -> ModuleType:
    """Return a top-level module that loads itself on first use.

    After https://docs.python.org/3/library/importlib.html#implementing-lazy-imports.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module
