"""The page of a comparison: one file of HTML that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from potara_flwr.config import Value
from potara_flwr.page import STYLE, embedded, plural, png_of
from simulations.comparison.differences import Row
from simulations.comparison.drawings import figures_of
from simulations.comparison.runs import show
from simulations.comparison.tables import READING, cells, csv_text, headers

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }} body { max-width: 1200px; }</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>Every score is that of the personalized adapters, on test data, the mean over clients.</p>
<div class="scroll"><table>
<thead><tr>{% for name in headers %}<th{% if loop.index <= texts %} class="text"{% endif %}>
{{- name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for reference, row in rows -%}
<tr{% if reference %} class="chosen"{% endif %}>{% for cell in row %}<td
{%- if loop.index <= texts %} class="text"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor -%}
</tbody></table></div>
<p class="note">{{ reading }}</p>
{% if remarks -%}
<h2>To be borne in mind</h2>
<ul>{% for remark in remarks %}<li>{{ remark }}</li>{% endfor %}</ul>
{% endif %}
<h2>Figures</h2>
{% for figure in figures -%}
<figure><img src="data:image/png;base64,{{ figure.image }}" width="{{ figure.width }}"
alt="{{ figure.name | replace('-', ' ') }}"><figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
<h2>Settings that all runs share</h2>
<div class="scroll"><table>
<thead><tr><th>Setting</th><th class="text">Value</th></tr></thead>
<tbody>
{% for name, value in settings -%}
<tr><td>{{ name }}</td><td class="text">{{ value }}</td></tr>
{% endfor -%}
</tbody></table></div>
</body>
</html>
"""


def write_page(
    folder: Path, rows: Sequence[Row], shared: Mapping[str, Value], remarks: Sequence[str]
) -> None:
    """Write ``comparison.html``, ``comparison.csv`` and ``figures/*.png`` into ``folder``.

    The page loads nothing: its images and its style are in it.
    """
    images = folder / "figures"
    images.mkdir(parents=True, exist_ok=True)
    figures: list[dict[str, Any]] = []
    for name, (draw, caption) in figures_of(rows).items():
        png = png_of(draw(rows))
        (images / f"{name}.png").write_bytes(png)
        figures.append(embedded(name, png, caption))
    columns = headers(rows)
    num_runs = sum(len(row.group.runs) for row in rows)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    html = environment.from_string(TEMPLATE).render(
        title=f"Comparison of {plural(num_runs, 'run')} of {plural(len(rows), 'setting')}",
        style=STYLE,
        headers=columns,
        texts=len(rows[0].group.settings),
        rows=[(row.is_reference, cells(row, columns)) for row in rows],
        reading=READING,
        remarks=remarks,
        figures=figures,
        settings=[(name, show(value)) for name, value in shared.items()],
    )
    (folder / "comparison.html").write_text(html, encoding="utf-8")
    (folder / "comparison.csv").write_text(csv_text(rows), encoding="utf-8")
