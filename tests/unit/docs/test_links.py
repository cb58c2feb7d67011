"""Every relative link of the documentation leads somewhere, its anchor included."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [
        *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").rglob("*.ipynb"),
    ],
    key=lambda page: str(page.relative_to(ROOT)),
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?<![\w/.-])(docs/[\w./-]*[\w/])")
TEXT = {".py", ".md", ".yaml", ".yml", ".sh", ".service", ""}
PLACES = ("potara_flwr", "simulations", "conf", "docker", "docs", "tests", ".github")


def words(page: Path) -> str:
    """Return the text of a page, or of a notebook's text cells, code blocks left out."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", words(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found[anchor] = found.get(anchor, -1) + 1
        result.add(f"{anchor}-{count}" if count else anchor)
    return result


def links(page: Path) -> list[str]:
    """Return the relative links of a page, code blocks left out."""
    found = LINK.findall(words(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_resolve(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix not in (".md", ".ipynb"):
            continue
        reached.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert set(PAGES) <= reached


def test_pages_that_code_and_comments_name_exist():
    files = [ROOT / name for name in ("Makefile", "Dockerfile", "compose.yaml", "pyproject.toml")]
    for place in PLACES:
        files += [file for file in (ROOT / place).rglob("*") if file.is_file()]
    gone = []
    for file in files:
        if file.suffix in TEXT and "__pycache__" not in file.parts:
            text = re.sub(r"https?://\S+", "", file.read_text())
            gone += [
                f"{file.relative_to(ROOT)}: {name}"
                for name in NAMED.findall(text)
                if not (ROOT / name.rstrip(".")).exists()
            ]
    assert gone == []
