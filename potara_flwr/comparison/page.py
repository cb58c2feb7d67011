"""The page of a comparison: one file of HTML that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from potara_flwr.comparison.differences import Row
from potara_flwr.comparison.drawings import figures_of
from potara_flwr.comparison.tables import READING, cells, csv_text, headers
from potara_flwr.results.html import folded, rendered, write_figures
from potara_flwr.results.tables import plural
from potara_flwr.settings.groups import Value

TEMPLATE = """{% block more_style %} body { max-width: 1200px; }{% endblock %}
{% block body %}
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
{% endblock %}
{% block settings_title %}Settings that all runs share{% endblock %}"""


def write_page(
    folder: Path, rows: Sequence[Row], shared: Mapping[str, Value], remarks: Sequence[str]
) -> None:
    """Write ``comparison.html``, ``comparison.csv`` and ``figures/*.png`` into ``folder``.

    The page loads nothing: its images and its style are in it.
    """
    drawn = {name: (draw(rows), caption) for name, (draw, caption) in figures_of(rows).items()}
    figures = write_figures(folder / "figures", drawn)
    columns = headers(rows)
    num_runs = sum(len(row.group.runs) for row in rows)
    html = rendered(
        TEMPLATE,
        {},
        title=f"Comparison of {plural(num_runs, 'run')} of {plural(len(rows), 'setting')}",
        headers=columns,
        texts=len(rows[0].group.settings),
        rows=[(row.is_reference, cells(row, columns)) for row in rows],
        reading=READING,
        remarks=remarks,
        figures=figures,
        settings=folded(shared),
    )
    (folder / "comparison.html").write_text(html, encoding="utf-8")
    (folder / "comparison.csv").write_text(csv_text(rows), encoding="utf-8")
