"""What every page shares: its layout, its images inside it, and numbers in words."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from matplotlib.figure import Figure

from potara_flwr.results.drawing import DPI, png_of
from potara_flwr.results.tables import byte_unit, plural
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings

STYLE = """
  body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1a1a1a;
         background: #fff; max-width: 1040px; margin: 0 auto; padding: 24px 20px 48px; }
  h1 { font-size: 26px; line-height: 1.25; margin: 0 0 12px; }
  h2 { font-size: 19px; margin: 36px 0 8px; border-bottom: 1px solid #ccc; padding-bottom: 4px; }
  .verdict { font-weight: 600; background: #e9f5f0; padding: 8px 12px; }
  .scroll { overflow-x: auto; }
  .tall { max-height: 520px; overflow: auto; border: 1px solid #ccc; }
  .tall th { position: sticky; top: 0; background: #fff; cursor: pointer; }
  .search { font: inherit; width: 320px; max-width: 100%; padding: 4px 8px; margin: 0 8px 8px 0; }
  table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
  summary { cursor: pointer; margin: 12px 0 6px; }
  th { text-align: right; vertical-align: bottom; border-bottom: 2px solid #555; }
  th, td { padding: 4px 9px; }
  td { text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
  .text, th:first-child, td:first-child { text-align: left; }
  .text { overflow-wrap: anywhere; white-space: normal; }
  tr.chosen td { font-weight: 600; background: #e9f5f0; }
  tr.oracle td { color: #555; font-style: italic; }
  .note { color: #444; font-size: 14px; }
  figure { margin: 16px 0 32px; break-inside: avoid; }
  figure img { max-width: 100%; height: auto; display: block; }
  figcaption { color: #444; font-size: 14px; margin-top: 6px; }
  @media (max-width: 800px) {
    body { padding: 16px 10px 32px; }
    table { font-size: 12px; }
    th, td { padding: 3px; }
  }
  @media print {
    body { max-width: none; padding: 0; font-size: 11pt; }
    .scroll { overflow: visible; max-height: none; border: 0; }
    .search, .shown { display: none; }
    table { font-size: 9pt; }
    th, td { padding: 2px 7px; }
    tr, figure { break-inside: avoid; }
    h2 { break-after: avoid; }
    tr.chosen td { print-color-adjust: exact; }
  }
"""


SEARCH_AND_SORT = """
document.querySelectorAll(".tall").forEach(box => {
  const body = box.querySelector("tbody"), rows = [...body.rows];
  const field = document.createElement("input"), shown = document.createElement("span");
  field.type = "search"; field.className = "search"; shown.className = "note shown";
  field.placeholder = "search: a client, or part of a cell";
  field.setAttribute("aria-label", "search the table");
  const texts = rows.map(row => [...row.cells].map(cell => cell.textContent.toLowerCase()));
  const search = () => {
    const words = field.value.toLowerCase().split(" ").filter(word => word);
    let left = 0;
    rows.forEach((row, at) => {
      row.hidden = !words.every(word => texts[at].some(
        text => /^[0-9]+$/.test(word) ? text === word : text.includes(word)));
      left += !row.hidden;
    });
    shown.textContent = left + " of " + rows.length + " rows";
  };
  field.addEventListener("input", search);
  box.before(field, shown);
  search();
  const value = (row, column) => {
    const text = row.cells[column].textContent, number = parseFloat(text);
    return isNaN(number) ? text : number;
  };
  [...box.querySelectorAll("th")].forEach((head, column) => {
    let up = true;
    head.addEventListener("click", () => {
      const keyed = rows.map(row => [value(row, column), row]);
      keyed.sort(([one], [two]) => {
        const order = typeof one === typeof two ? (one < two ? -1 : one > two ? 1 : 0)
          : typeof one === "number" ? -1 : 1;
        return up ? order : -order;
      });
      body.append(...keyed.map(([, row]) => row));
      up = !up;
    });
  });
});
"""
"""Puts a field above each long table that leaves the rows which have all words in it, a whole
number as a whole cell; and has a click on the head of a column sort by it, back and forth."""


LAYOUT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}{% block more_style %}{% endblock %}</style>
</head>
<body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
<h2>Figures</h2>
{% for figure in figures -%}
<figure><img src="data:image/png;base64,{{ figure.image }}" width="{{ figure.width }}"
alt="{{ figure.name | replace('-', ' ') }}"><figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% block after_figures %}{% endblock %}
<h2>{% block settings_title %}Settings{% endblock %}</h2>
{% for heading, some in settings -%}
{% if heading %}<details><summary>{{ heading }}</summary>{% endif %}
<table>
<thead><tr><th>Setting</th><th class="text">Value</th></tr></thead>
<tbody>
{% for name, value in some -%}
<tr><td>{{ name }}</td><td class="text">{{ value }}</td></tr>
{% endfor -%}
</tbody></table>
{% if heading %}</details>{% endif %}
{% endfor -%}
</body>
</html>
"""


def rendered(template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """Return a page: ``template`` fills the blocks of :data:`LAYOUT`, whatever ``values`` say is
    escaped, and nothing is loaded from elsewhere.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=DictLoader({"layout": LAYOUT})
    )
    environment.filters |= filters
    body = "{% extends 'layout' %}" + template
    return environment.from_string(body).render(style=STYLE, **values)


def folded(settings: Mapping[str, Value]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what the page shows of settings by their flat names: those that differ from their
    default, and under a heading, folded away, those that do not.
    """
    defaults = Settings().to_flat()
    shown = [(name, _shown(value)) for name, value in settings.items()]
    same = [(name, value) for name, value in shown if settings[name] == defaults.get(name)]
    other = [item for item in shown if item not in same]
    return [(heading, some) for heading, some in (
        ("", other), (f"{plural(len(same), 'setting')} at the default", same)
    ) if some]  # fmt: skip


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_figures(folder: Path, figures: Mapping[str, tuple[Figure, str]]) -> list[dict[str, Any]]:
    """Write figures, each with its caption, as ``<name>.png`` into ``folder``, which is made where
    absent; return what a page needs of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (figure, caption) in figures.items():
        png = png_of(figure)
        (folder / f"{name}.png").write_bytes(png)
        written.append(_embedded(name, png, caption))
    return written


def _embedded(name: str, png: bytes, caption: str) -> dict[str, Any]:
    """Return what a page needs of a figure; its width is in CSS pixels, 96 to the inch."""
    pixels = int.from_bytes(png[16:20], "big")
    return {
        "name": name,
        "image": base64.b64encode(png).decode("ascii"),
        "width": round(pixels * 96 / DPI),
        "caption": caption,
    }


def bytes_of(count: float) -> str:
    """Say how many bytes these are in the unit in which they are best read, e.g. ``8.9 MB``."""
    unit, name = byte_unit(count)
    return f"{count / unit:.1f} {name}" if unit > 1 else f"{count:g} {name}"
