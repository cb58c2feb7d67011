"""The report: whole, self-contained, escaped, and its figures are pictures of the results."""

from __future__ import annotations

import base64
import copy
import io
import math
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.text import Text
from results_example import example_results
from rich.console import Console

from potara_flwr.results.figures import FIGURES, figures_of
from potara_flwr.results.html import SEARCH_AND_SORT
from potara_flwr.results.report import CAPTIONS, remove_report, write_report
from potara_flwr.results.rows import in_words
from potara_flwr.results.tables import client_table, privacy, refusals, summary_table
from potara_flwr.results.verdict import verdict
from potara_flwr.settings.schema import Settings, flat


class Page(HTMLParser):
    """The tags, attributes and text of a page, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(results: dict[str, Any], folder: Path) -> tuple[str, Page]:
    write_report(results, folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


def words_of(figure: Figure) -> str:
    return " ".join(part.get_text() for part in figure.findobj(Text) if isinstance(part, Text))


def x_of(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata())]


def y_of(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str, Page]:
    folder = tmp_path_factory.mktemp("results") / "made" / "by-the-report"
    results = example_results(3, rounds=4)
    html, page = page_of(results, folder)
    return results, folder, html, page


def test_every_client_is_in_the_page_with_its_weight_and_accuracy(reported: Any) -> None:
    results, _, html, _ = reported
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"(?s)<tr>(.*?)</tr>", html)
    ]
    for client in results["clients"]:
        row = next(row for row in rows if row[:1] == [str(client["client"])] and len(row) > 7)
        accuracies = [client["accuracy"][name] for name in ("federated", "local")]
        accuracies.append(client["personalized"]["accuracy"])
        assert row[1:4] == [f"{100 * accuracy:.1f}" for accuracy in accuracies]
        assert row[4] == f"{client['personalized']['weight']:.2f}"
        assert row[7] == str(client["num_train"])


def test_the_page_begins_with_what_the_numbers_say(reported: Any) -> None:
    results, _, html, _ = reported
    assert verdict(results) in re.sub(r"\s+", " ", html.split("<h2>")[0])


def test_what_became_of_the_rows_is_said_where_results_say_it(
    reported: Any, tmp_path: Path
) -> None:
    results, _, _, page = reported
    assert f"Rows of all clients together: {in_words(results['rows'])}." in page.text
    older = {name: part for name, part in results.items() if name != "rows"}
    assert "Rows of all" not in page_of(older, tmp_path)[1].text


def test_settings_at_their_default_are_folded_away(reported: Any) -> None:
    results, _, html, _ = reported
    config = flat(results["config"])
    shown, folded_away = html.split("<h2>Settings</h2>")[1].split("<details>")
    defaults = Settings().to_flat()
    for name in config:
        place = folded_away if config[name] == defaults.get(name) else shown
        assert f"<td>{name}</td>" in place
    assert "<td>data.shift</td>" in shown


def test_page_loads_nothing_and_runs_nothing(reported: Any) -> None:
    _, _, html, page = reported
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {
        tag for tag, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = re.search(r"(?s)<style>(.*?)</style>", html)
    assert style is not None
    for loads in ("url(", "@import"):
        assert loads not in style[1]
    for address in ("http:", "https:"):
        assert address not in html


def test_page_embeds_the_figures_it_writes(reported: Any) -> None:
    _, folder, _, page = reported
    embedded = [
        base64.b64decode((attributes["src"] or "").removeprefix("data:image/png;base64,"))
        for tag, attributes in page.tags
        if tag == "img"
    ]

    written = {path.stem: path.read_bytes() for path in (folder / "figures").iterdir()}

    assert set(written) == set(FIGURES) == set(CAPTIONS)
    assert embedded == [written[name] for name in FIGURES]


def test_page_says_that_the_oracle_sees_the_test_data(reported: Any) -> None:
    _, _, _, page = reported
    assert "The oracle sees the test data" in page.text
    assert "oracle (sees test data)" in page.text


def test_page_tells_what_was_run_and_all_settings(reported: Any) -> None:
    _, _, _, page = reported
    assert "3 clients" in page.text
    assert "4 federated rounds (factors averaged, sent as float32)" in page.text
    assert "from the federated adapter (warm)" in page.text
    assert "merge.svd false" in page.text
    assert "lora.target-modules q_proj,v_proj" in page.text


@pytest.mark.usefixtures("no_pictures")
def test_refused_and_missing_are_shown_also_when_there_are_none(tmp_path: Path) -> None:
    results = example_results(1, rounds=1)
    results["missing"] = [
        {"client": 5, "round": 2, "kind": "train", "reason": "no reply within 3600 s"},
        {"client": 6, "round": 0, "kind": "describe", "reason": "gone"},
        {"client": 7, "round": None, "kind": "personalize", "reason": "late"},
    ]

    _, page = page_of(results, tmp_path)

    assert "Refused none Missing" in page.text
    assert "5 round 2 train no reply within 3600 s" in page.text
    assert "6 before the rounds describe gone" in page.text
    assert "7 after the last round personalize late" in page.text


@pytest.mark.usefixtures("no_pictures")
def test_text_of_the_results_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    results = example_results(2, rounds=1, rules=(evil, "uniform"), reason=evil)
    results["config"]["task"]["name"] = evil
    results["refused"] = [{"client": 0, "round": 1, "kind": "train", "reason": evil}]

    html, page = page_of(results, tmp_path)

    assert "<script" not in html
    assert page.text.count(evil) >= 5


@pytest.mark.usefixtures("no_pictures")
def test_reason_is_given_with_the_clients_it_is_of(tmp_path: Path) -> None:
    results = example_results(3, rounds=1)
    results["clients"][1]["personalized"] |= {"weight": 0.0, "reason": "traces too small"}

    _, page = page_of(results, tmp_path)

    assert "0.00*" in page.text
    assert "* client 1: traces too small." in page.text


@pytest.mark.parametrize("clients", [1, 2, 8, 20])
def test_figures_are_pictures_of_one_size_class_without_warnings(
    clients: int, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a layout that does not fit
        write_report(example_results(clients, rounds=3), tmp_path)
    for name in FIGURES:
        picture = imread(tmp_path / "figures" / f"{name}.png")[..., :3]
        height, width, _ = picture.shape
        assert 600 <= width <= 1500
        assert height >= 400
        inked = np.any(picture < 0.99, axis=2)
        assert 0.01 < inked.mean() < 0.7
        # Ink in every quarter: no axes have collapsed or left the page.
        for rows in (slice(0, height // 2), slice(height // 2, None)):
            for columns in (slice(0, width // 2), slice(width // 2, None)):
                assert inked[rows, columns].any()


@pytest.mark.usefixtures("no_pictures")
def test_zero_rounds_are_said_in_words(tmp_path: Path) -> None:
    results = example_results(2, rounds=0, reason="no federated round was run")

    _, page = page_of(results, tmp_path)

    for name in ("accuracy-against-bytes", "learning-curves"):
        assert "No federated round was run" in words_of(FIGURES[name](results))
    assert "made no federated round" in page.text
    assert "* every client: no federated round was run." in page.text


def test_rounds_without_evaluation_are_drawn_by_what_is_known() -> None:
    results = example_results(2, rounds=5, evaluated=False)

    curves = FIGURES["learning-curves"](results)
    against_bytes = FIGURES["accuracy-against-bytes"](results)

    assert [line.get_label() for line in curves.axes[0].lines] == ["training loss"]
    assert "No round was evaluated." in words_of(curves)
    federated = 100 * results["summary"]["mean"]["accuracy"]["federated"]
    assert y_of(against_bytes.axes[0].lines[0]) == [12.0, pytest.approx(federated)]


def test_a_round_that_was_not_evaluated_is_left_out() -> None:
    results = example_results(2, rounds=5)
    results["rounds"][2] |= {"loss": None, "accuracy": None}

    curves = FIGURES["learning-curves"](results)

    assert x_of(curves.axes[1].lines[0]) == [1, 2, 4, 5]


def test_bytes_add_up_to_all_that_was_sent() -> None:
    results = example_results(2, rounds=3)
    sent = results["communication"]

    axes = FIGURES["accuracy-against-bytes"](results).axes[0]
    curve, _, star = axes.lines[:3]

    total = (sent["bytes_down"] + sent["bytes_up"]) / 1e3
    assert "kB" in axes.get_xlabel()
    assert x_of(star)[0] == pytest.approx(total)
    last_message = 2 * (43_210 + 900) / 1e3
    assert x_of(curve)[-1] == pytest.approx(total - last_message)
    assert np.all(np.diff(x_of(curve)) > 0)


def test_every_rule_is_marked_at_its_weight_and_accuracy() -> None:
    results = example_results(2)
    client = results["clients"][1]

    axes = FIGURES["accuracy-along-weight"](results).axes[1]

    marks = {(x_of(line)[0], y_of(line)[0]) for line in axes.lines if len(x_of(line)) == 1}
    assert marks == {
        (weight, 100 * client["accuracy"][name]) for name, weight in client["weights"].items()
    }


def test_many_rules_are_told_apart_by_marker_and_colour() -> None:
    rules = tuple(f"rule-{i}" for i in range(30))

    figure = FIGURES["accuracy-along-weight"](example_results(1, rules=rules))

    looks = {
        (handle.get_marker(), handle.get_markerfacecolor())
        for handle in figure.legends[0].get_lines()
        if handle.get_marker() != "None"
    }
    assert len(looks) == len(rules) + 1


def test_a_cross_trace_of_zero_is_drawn_on_the_edge_of_the_log_scale() -> None:
    results = example_results(2)
    for client in results["clients"]:
        client["traces"]["cross"] = 0.0

    axes = FIGURES["traces-and-bound"](results).axes[0]

    on_edge = [line for line in axes.lines if len(x_of(line)) and y_of(line)[0] == 0.0]
    assert axes.get_yscale() == "log"
    assert [len(x_of(line)) for line in on_edge if line.get_marker() == "^"] == [2]


@pytest.mark.usefixtures("no_pictures")
def test_no_clients_at_all_is_said_in_words(tmp_path: Path) -> None:
    results = example_results(0, rounds=0)

    _, page = page_of(results, tmp_path)

    assert "No client was personalized." in page.text


def test_report_changes_nothing_and_is_the_same_twice(reported: Any, tmp_path: Path) -> None:
    _, _, first, _ = reported
    results = example_results(3, rounds=4)
    before = copy.deepcopy(results)

    second, _ = page_of(results, tmp_path)

    assert results == before
    assert first == second


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("others", [(), ("figures/mine.png", "notes.md")])
def test_a_report_is_removed_with_its_figures_and_nothing_else(others, tmp_path):
    write_report(example_results(2, rounds=2), tmp_path)
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    for _ in range(2):
        remove_report(tmp_path)
        left = (path for path in tmp_path.rglob("*") if path.is_file())
        assert {str(path.relative_to(tmp_path)) for path in left} == set(others)
    assert (tmp_path / "figures").exists() == bool(others)


def test_figures_leave_pyplot_alone() -> None:
    from matplotlib import _pylab_helpers

    FIGURES["learning-curves"](example_results(1, rounds=2)).savefig(io.BytesIO(), format="png")

    assert _pylab_helpers.Gcf.figs == {}


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_no_number_that_a_client_may_report_breaks_a_figure_or_a_table(tmp_path, value):
    results = example_results(clients=3, rounds=2)
    entry = results["clients"][0]
    for group in ("traces", "bound", "weights"):
        entry[group] = dict.fromkeys(entry[group], value)
    loss = math.copysign(1e12, value)
    entry["loss"] = dict.fromkeys(entry["loss"], loss)
    entry["grid"] = [point | {"weight": value, "loss": loss} for point in entry["grid"]]
    entry["personalized"] |= {"weight": value, "loss": loss}
    entry["diagnosis"] |= {"low": value, "high": value}
    write_report(results, tmp_path)
    assert len(list((tmp_path / "figures").iterdir())) == 5
    console = Console(file=io.StringIO(), width=200)
    console.print(client_table(results), summary_table(results))


@pytest.mark.usefixtures("no_pictures")
def test_refusals_and_privacy_are_said_in_a_line_under_the_summary(tmp_path):
    results = example_results(clients=3, rounds=2)
    assert refusals(results) == privacy(results) == ""
    item = {"client": 2, "round": 1, "kind": "train", "reason": "no"}
    results["refused"] = [item, item | {"round": 2}, item | {"client": None}]
    results["privacy"] = {"releases": 20, "noise": "secret", "epsilon": 5.25, "delta": 1e-5}
    console = Console(file=io.StringIO(), record=True, width=120)
    console.print(summary_table(results))
    text = " ".join(console.export_text().split())
    assert "3 replies were refused, of clients 2, –" in text
    words = (
        "ε = 5.25 at δ = 1e-05 for a client's whole part in the rounds (20 of them, noise secret)"
    )
    assert words in text
    write_report(results, tmp_path)
    assert "ε = 5.25" in (tmp_path / "report.html").read_text()
    results["privacy"]["noise"] = "seeded"
    assert privacy(results).startswith("no privacy: the noise is seeded")
    results["privacy"]["epsilon"] = None
    assert "without noise" in privacy(results)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Page]:
    results = example_results(300, rounds=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html, page = page_of(results, tmp_path_factory.mktemp("many"))
    return results, html, page


def test_the_table_of_many_clients_has_them_all_and_says_how_they_are_spread(many: Any) -> None:
    results, html, page = many
    table = html.split('<div class="scroll tall">')[1].split("</table>")[0]
    clients = re.findall(r"<tr><td>(\d+)</td>", table)
    assert clients == [str(client["client"]) for client in results["clients"]]
    own = sorted(client["personalized"]["accuracy"] for client in results["clients"])
    row = html.split("<td>personalized (accuracy %)</td>")[1].split("</tr>")[0]
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[0] == f"{100 * own[0]:.1f}"
    assert cells[3] == f"{100 * np.median(own):.1f}"
    assert cells[-1] == f"{100 * own[-1]:.1f}"
    assert "5 % 25 % median" in page.text


def test_the_page_of_many_clients_loads_nothing_but_has_one_script_of_its_own(many: Any) -> None:
    _, html, page = many
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{}]
    assert SEARCH_AND_SORT in html
    for address in ("http:", "https:", "import(", "fetch("):
        assert address not in html


def test_no_figure_draws_each_of_many_clients(many: Any) -> None:
    results = many[0]
    drawn = figures_of(results)
    assert set(drawn) == set(FIGURES)
    for draw in drawn.values():
        axes = draw(results).axes
        assert len(axes) <= 2
        assert sum(len(at.lines) + len(at.patches) for at in axes) < 100
    along = drawn["accuracy-along-weight"](results)
    counted = sum(patch.get_height() for patch in along.axes[1].patches)
    assert counted == len(results["clients"])


def test_zero_traces_of_many_clients_are_counted(many: Any) -> None:
    figure = figures_of(many[0])["traces-and-bound"](many[0])
    assert "c, cross (60 at zero)" in words_of(figure)


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30])
def test_no_number_breaks_the_figures_of_many_clients(tmp_path: Path, value: float) -> None:
    results = example_results(clients=50, rounds=2)
    for entry in results["clients"][:1] if value else results["clients"]:
        for group in ("traces", "bound", "weights"):
            entry[group] = dict.fromkeys(entry[group], value)
        entry["personalized"] |= {"weight": value}
    write_report(results, tmp_path)
    assert len(list((tmp_path / "figures").iterdir())) == 5


@pytest.mark.usefixtures("no_pictures")
def test_long_lists_of_refusals_are_searched_too(tmp_path: Path) -> None:
    results = example_results(50, rounds=1)
    item = {"round": 1, "kind": "train", "reason": "no"}
    results["refused"] = [item | {"client": client} for client in range(50)]
    html, _ = page_of(results, tmp_path)
    assert html.count('<div class="scroll tall">') == 2
