"""The report of a run: one page of HTML that stands alone, and its figures as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from potara_flwr.core.many import MANY, QUANTILES
from potara_flwr.methods import METHODS
from potara_flwr.results.figures import FIGURES, figures_of
from potara_flwr.results.html import SEARCH_AND_SORT, bytes_of, folded, rendered, write_figures
from potara_flwr.results.rows import in_words
from potara_flwr.results.tables import (
    Results,
    client_columns,
    client_name,
    compares,
    distributions,
    has_weight,
    is_many,
    merges,
    number,
    percent,
    plural,
    privacy,
    remarks,
    single_adapters,
    summary_rows,
)
from potara_flwr.results.verdict import verdict
from potara_flwr.settings.schema import flat

CAPTIONS = {
    "accuracy-along-weight": "Each panel is a client: the line is the test accuracy of its merge "
    "from the local adapter (λ = 0) to the federated one (λ = 1), each mark is where a rule puts λ "
    "(a rule with a λ per coordinate stands at its mean λ, off the line), and the nearer a mark is "
    "to the height of the ring, the oracle, which sees the test data, the better.",
    "traces-and-bound": "Above, the larger of a and b belongs to the adapter of which the client's "
    "calibration samples are less sure; below, the closed form puts λ* where the bound is lowest, "
    "so the diamond is never above the other two (an open mark on the lower edge is a zero). A "
    "smaller bound is not a smaller loss: docs/research/method.md.",
    "accuracy-per-client": "Personalization pays for a client where its third bar is the highest; "
    "the group on the right is the mean over clients.",
    "accuracy-against-bytes": "Up and to the left is better: the line is what the rounds buy with "
    "their bytes, and the star what merging adds for one more message per client.",
    "learning-curves": "A test loss that rises while the training loss falls is overfitting; a "
    "round that was not evaluated has no point.",
}
"""Figure → the sentence that says how to read it."""

CAPTIONS_OF_MANY = {
    "accuracy-along-weight": "Above, the test accuracy of the clients' merges from the local "
    "adapter (λ = 0) to the federated one (λ = 1); each mark stands at the mean λ of a rule and at "
    "the mean accuracy that it reaches, which is above the line where clients differ in their best "
    "λ. Below, how many clients have which λ.",
    "traces-and-bound": "Above, the larger of a and b belongs to the adapter of which a client's "
    "calibration samples are less sure; below, what the closed form makes of them. A smaller bound "
    "is not a smaller loss: docs/research/method.md.",
    "accuracy-per-client": "Left, the further right a line the better: where it crosses 50 % is "
    "the median client, and its lower end are the clients that are served worst. Right, clients to "
    "the right of zero have gained by personalization.",
}
"""The same of the figures that a run with many clients has in their place."""

SOFT_HYPHEN = "\u00ad"

TEMPLATE = """{% block body %}<p>{{ explanation }}</p>
<p class="verdict">{{ verdict }}</p>

<h2>Summary</h2>
<div class="scroll"><table>
<thead><tr><th>Adapter</th><th>Mean<br>accuracy (%)</th>
<th>Example-weighted<br>accuracy (%)</th><th>Mean<br>loss</th>
{%- if weighted %}<th>Mean<br>λ</th>{% endif %}
{%- if compares %}<th>Regret<br>(points)</th>{% endif %}</tr></thead>
<tbody>
{% for row in summary -%}
<tr{% if row.note == "chosen" %} class="chosen"{% elif row.name == "oracle" %} class="oracle"
{%- endif %}><td>{{ row.label }}</td><td>{{ row.accuracy | percent }}</td>
<td>{{ row.weighted_accuracy | percent }}</td><td>{{ row.loss | number(3) }}</td>
{%- if weighted %}<td>{{ row.weight | number }}</td>{% endif %}
{%- if compares %}<td>{{ row.regret | percent }}</td>{% endif %}</tr>
{% endfor -%}
</tbody></table></div>
<p class="note">All scores are on test data.
{% if compares %}<strong>The oracle sees the test data</strong>: it is
the best of the weights on a grid, chosen by test accuracy itself. No client could choose so, and
it flatters; it is here as the yardstick. Regret is the mean accuracy that a rule loses against it.
{% endif %}{{ communication }}</p>

<h2>Clients</h2>
{% if distributions -%}
<p>How the numbers of {{ clients | length }} clients are distributed, each on its own:</p>
<div class="scroll"><table>
<thead><tr><th></th>{% for name in quantiles %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in distributions -%}
<tr><td>{{ row.name }}</td>{% for value in row.quantiles.values() %}<td>{{ value }}</td>
{%- endfor %}</tr>
{% endfor -%}
</tbody></table></div>
<p>All of them. A click on the head of a column sorts by it.</p>
{% endif -%}
{% if clients -%}
<div class="scroll{{ searched }}"><table>
<thead><tr><th>Client</th>{% for header in client_headers %}<th>{{ header }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in clients -%}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor -%}
</tbody></table></div>
{% if weighted %}<p class="note">λ is the weight on the federated adapter in the client's
personalized adapter: 1 is all federated, 0 all local.
{%- if merges %}
The interval holds the middle 90 % of λ over resamples of the calibration samples; what favours
neither side is favoured by both.
{%- endif %}
{%- for mark, who, text in remarks %}<br>{{ mark }} {{ who }}: {{ text }}.{% endfor %}</p>
{% endif %}
{%- else %}<p>No client was personalized.</p>{% endif %}
{% if rows %}<p class="note">Rows of all clients together: {{ rows }}.
{%- if not held_out %} Calibration samples are trained on too.{% endif %}</p>{% endif %}

{% endblock %}
{% block after_figures %}{% for heading, entries in troubles -%}
<h2>{{ heading }}</h2>
{% if entries -%}
<div class="scroll{{ searched if entries | length > many }}"><table>
<thead><tr><th>Client</th><th class="text">When</th><th class="text">Message</th>
<th class="text">Reason</th></tr></thead>
<tbody>
{% for entry in entries -%}
<tr><td>{{ entry | client_name }}</td><td class="text">{{ entry.round | when }}</td>
<td class="text">{{ entry.kind }}</td><td class="text">{{ entry.reason }}</td></tr>
{% endfor -%}
</tbody></table></div>
{%- else %}<p>none</p>{% endif %}
{% endfor %}
{% if searched %}<script>{{ script | safe }}</script>{% endif %}
{% endblock %}"""


def write_report(results: Results, folder: Path) -> None:
    """Write ``report.html`` and ``figures/*.png`` into ``folder``, which is made where absent.

    ``results`` are the contents of ``results.json``. The page loads nothing: its images and its
    style are in it. It has a script only where clients are many, to search and sort their table.
    Whatever the results say is escaped.
    """
    captions = CAPTIONS | CAPTIONS_OF_MANY if is_many(results) else CAPTIONS
    drawn = {name: (draw(results), captions[name]) for name, draw in figures_of(results).items()}
    figures = write_figures(folder / "figures", drawn)
    (folder / "report.html").write_text(_page(results, figures), encoding="utf-8")


def remove_report(folder: Path) -> None:
    """Remove what :func:`write_report` has written into ``folder``, where it has, and no more."""
    (folder / "report.html").unlink(missing_ok=True)
    figures = folder / "figures"
    for name in FIGURES:
        (figures / f"{name}.png").unlink(missing_ok=True)
    if figures.is_dir() and not any(figures.iterdir()):
        figures.rmdir()


def _page(results: Results, figures: list[dict[str, Any]]) -> str:
    config = results["config"]
    rounds = len(results["rounds"])
    columns = _client_columns(results)
    clients = plural(config["data"]["num-clients"], "client")
    return rendered(
        TEMPLATE,
        {"percent": percent, "number": number, "when": _when, "client_name": client_name},
        title=f"{METHODS[results['method']].title}: {config['task']['name']}, {clients}, "
        f"{plural(rounds, 'federated round')}",
        explanation=_explanation(results),
        verdict=verdict(results),
        merges=merges(results),
        compares=compares(results),
        weighted=has_weight(results),
        summary=summary_rows(results),
        communication=_communication(results),
        client_headers=columns,
        clients=[
            [client_name(client), *(show(client) for show in columns.values())]
            for client in results["clients"]
        ],
        distributions=distributions(results) if is_many(results) else [],
        quantiles=QUANTILES,
        searched=" tall" if is_many(results) else "",
        many=MANY,
        script=SEARCH_AND_SORT,
        remarks=remarks(results),
        rows=in_words(results["rows"]) if "rows" in results else "",
        held_out=config["calibration"]["source"] == "held-out",
        figures=figures,
        troubles=[("Refused", results["refused"]), ("Missing", results["missing"])],
        settings=folded(flat(config)),
    )


def _client_columns(results: Results) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Return the columns of a client on the page: scores first, then the console's others and what
    is too wide for it; long words may break where they do there.
    """
    shown = {
        header.replace("-\n", SOFT_HYPHEN).replace("\n", " "): show
        for header, show in client_columns(results).items()
    }
    scores = len(single_adapters(results)) - ("initial" in single_adapters(results)) + 1
    names = list(shown)
    (samples, *others), last = names[:-scores], names[-scores:]
    columns = {name: shown[name] for name in last}
    if merges(results):
        columns |= {name: shown[name] for name in others[:2]}
        columns["evidence favours"] = lambda client: str(client["diagnosis"]["favours"])
        others = others[2:]
    columns[samples] = shown[samples]
    columns["test samples"] = lambda client: str(client["num_test"])
    columns["optimizer steps"] = lambda client: str(client["optimizer_steps"])
    columns |= {name: shown[name] for name in others}
    if any(client.get("svd_error") is not None for client in results["clients"]):
        columns["SVD error"] = lambda client: number(client["svd_error"], 4)
    return columns


def _explanation(results: Results) -> str:
    """Say in one paragraph what was run."""
    config = results["config"]
    data = config["data"]
    who = (
        f"{plural(data['num-clients'], 'client')} with the task {config['task']['name']} (base "
        f"model {config['task']['model']})"
    )
    rounds = len(results["rounds"])
    done = _merging(config, rounds) if merges(results) else _baseline(results, rounds)
    return f"{who} {done} The seed is {config['seed']}."


def _baseline(results: Results, rounds: int) -> str:
    """Say what a method other than Potara did."""
    method = METHODS[results["method"]]
    steps = results["summary"].get("optimizer_steps", {}).get("mean", 0)
    source = f" (arXiv {method.source})" if method.source else ""
    return (
        f"ran {method.title}{source} in {plural(rounds, 'federated round')}, with {steps:.0f} "
        f"optimizer steps a client. {method.summary}"
    )


def _merging(config: dict[str, Any], rounds: int) -> str:
    """Say what Potara did."""
    federation, local, merge = (config[group] for group in ("federation", "local", "merge"))
    federated = (
        f"made a federated adapter in {plural(rounds, 'federated round')} "
        f"({federation['aggregation']} averaged, sent as {federation['transport']})"
        if rounds
        else "made no federated round, so that the federated adapter is the initial one"
    )
    start = {"cold": "the initial adapter (cold)", "warm": "the federated adapter (warm)"}
    merged = (
        "merged the two into its personalized adapter with a mixing weight λ on the federated one, "
        f"chosen by the rule {merge['rule']} in the space {merge['space']}"
        f"{', with an SVD back to the rank' if merge['svd'] else ''}"
        if rounds
        else "kept it as its personalized adapter, with nothing to merge it with"
    )
    return (
        f"{federated}. Each client then trained a local adapter for "
        f"{plural(local['steps'], 'step')} from {start.get(local['start'], local['start'])} on its "
        f"own samples alone, and {merged}."
    )


def _communication(results: Results) -> str:
    sent = results["communication"]
    return (
        f"All clients together received {bytes_of(sent['bytes_down'])} and sent "
        f"{bytes_of(sent['bytes_up'])} in {plural(len(sent['messages']), 'message')}."
        f"{f' Differential privacy: {spent}.' if (spent := privacy(results)) else ''}"
    )


def _when(round_number: int | None) -> str:
    if round_number is None:
        return "after the last round"
    return f"round {round_number}" if round_number else "before the rounds"
