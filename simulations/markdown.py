"""Pages of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


def rendered(template: Path, **values: Any) -> str:
    """Return a page: a Jinja template filled with values, which are not escaped."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=select_autoescape(),  # of HTML alone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values).rstrip() + "\n"
