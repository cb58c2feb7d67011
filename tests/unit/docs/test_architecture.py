"""The page on the architecture is true: its tower is the contract's, and what it names is there."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "architecture.md"
ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)
LINK = re.compile(r"\]\(\.\./(potara_flwr/[^)#]*)\)")
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table, without its head."""
    text = PAGE.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in row.split("|")] for row in ROW.findall(text)][2:]


def defined(file: Path) -> set[str]:
    """Return what a module defines: functions, classes, their methods, constants."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            names |= {node.name, *(f"{node.name}.{member}" for member in members)}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_the_tower_is_that_of_the_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {
        room.strip(): str(len(layers) - above)
        for above, layer in enumerate(layers)
        for room in layer.split("|")
    }
    shown = {re.match(r"\[(\w+)\]", room)[1]: floor for floor, room, _ in rows("The tower")}
    assert shown == floors
    assert [int(floor) for floor, *_ in rows("The tower")] == sorted(
        map(int, floors.values()), reverse=True
    )


def test_every_room_of_the_package_stands_in_the_tower():
    package = ROOT / "potara_flwr"
    rooms = {place.stem for place in package.glob("*.py")} - {"__init__"}
    rooms |= {place.parent.name for place in package.glob("*/__init__.py")}
    linked = {Path(LINK.search(room)[1]).stem for _, room, _ in rows("The tower")}
    assert linked == rooms


@pytest.mark.parametrize("section", ["Answers first", "An adapter's way, from message to merge"])
def test_every_name_is_defined_in_the_file_beside_it(section):
    for *cells, names in rows(section):
        files = [ROOT / link for link in LINK.findall(" ".join([*cells, names]))]
        there = {name for file in files if file.suffix == ".py" for name in defined(file)}
        assert set(NAME.findall(names)) <= there, cells[0]
