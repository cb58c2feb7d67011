"""docs/merge-quality.md and its figures, from the measures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from potara_flwr.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from potara_flwr.rules import RULES
from simulations.quality.candidates import CANDIDATES, EVALUATIONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "merge-quality.md"
IMAGES = ROOT / "docs" / "images"
ENDS = {"local": 0, "federated": 10}
"""The adapters themselves, by their place on the grid."""
SHIPPED = (*RULES, "excess-loss + fallback", "variance-trace + fallback")
DRAWN = {
    "excess-loss": (GREEN, "D"),
    "segment": (SKY, "s"),
    "grid": (BLUE, "o"),
    "uniform": (ORANGE, "v"),
    "variance-trace": (VERMILLION, "^"),
}
ALL = 0
"""``data.train-samples`` of a client that uses all it has."""

Cases = Sequence[dict[str, Any]]


def score(case: dict[str, Any], rule: str, metric: str = "accuracy") -> float:
    """Return a rule's test score; the oracle's is the best of the grid."""
    if rule in ENDS:
        return float(case["grid"][ENDS[rule]][metric])
    if rule == "oracle":
        best = max(case["grid"], key=lambda point: (point["accuracy"], -point["loss"]))
        return float(best[metric])
    return float(case["rules"][rule][metric])


def oracle_weight(case: dict[str, Any]) -> float:
    """Return the grid point with the best test accuracy; of equals, the lowest loss."""
    grid = case["grid"]
    return max(range(len(grid)), key=lambda k: (grid[k]["accuracy"], -grid[k]["loss"])) / 10


def lead(rule: str, over: str) -> Callable[[dict[str, Any]], float]:
    """Return what a rule gains over another on a case, in points of accuracy."""
    return lambda case: 100 * (score(case, rule) - score(case, over))


def regret(case: dict[str, Any], rule: str) -> float:
    """Return the points of accuracy that a rule loses against the oracle."""
    return 100 * (score(case, "oracle") - score(case, rule))


def regime_of(case: dict[str, Any]) -> tuple[str, str, int, int]:
    """Return what makes a regime: group, local start, samples, rounds."""
    return case["group"], case["start"], case["samples"], case["rounds"]


def by(cases: Cases, key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """Group cases, in the order of their keys."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    return {name: groups[name] for name in sorted(groups)}


def mean(values: Iterable[float]) -> float:
    """Return the mean."""
    return statistics.fmean(values)


def paired(cases: Cases, difference: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Return the mean of paired differences and two standard errors of it.

    The cases of one client at one seed share its data and count as one.
    """
    clients = by(cases, lambda case: (case["group"], case["seed"], case["client"]))
    means = [mean(map(difference, group)) for group in clients.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.inf
    return mean(map(difference, cases)), 2 * error


def rule_row(cases: Cases, rule: str) -> list[str]:
    """Return a rule's row of the main table."""
    seeds = [
        mean(regret(case, rule) for case in group)
        for group in by(cases, lambda case: case["seed"]).values()
    ]
    regimes = {
        name: mean(regret(case, rule) for case in group)
        for name, group in by(cases, regime_of).items()
    }
    loss = mean(
        score(case, rule, "loss") - min(point["loss"] for point in case["grid"]) for case in cases
    )
    kept = mean(
        score(case, rule) >= max(score(case, "local"), score(case, "federated")) - 1e-9
        for case in cases
    )
    against, noise = paired(cases, lead("grid", rule))
    if rule in ENDS or rule in ("uniform",):
        correlation = "–"
    else:
        correlation = f"{weight_correlation(cases, rule):.2f}"
    cost = "–"
    if rule in RULES or rule in CANDIDATES:
        cost = f"{100 * cost_of(cases, rule):.1f}"
    spread = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
    return [
        f"**{rule}**" if rule in SHIPPED else rule,
        f"{mean(seeds):.2f} ± {spread:.2f}",
        f"{max(regimes.values()):.2f}",
        f"{against:+.2f} ± {noise:.2f}",
        f"{loss:.3f}",
        f"{100 * kept:.0f}",
        correlation,
        str(EVALUATIONS.get(rule, 0)),
        cost,
    ]


def weight_correlation(cases: Cases, rule: str) -> float:
    """Return the rank correlation over clients of λ with the oracle's, meaned over regimes."""
    found = []
    for group in by(cases, regime_of).values():
        oracle = [oracle_weight(case) for case in group]
        weights = [case["rules"][rule]["weight"] for case in group]
        if len(set(oracle)) > 1 and len(set(weights)) > 1:
            found.append(float(spearmanr(weights, oracle).statistic))
    return mean(found) if found else math.nan


def cost_of(cases: Cases, rule: str) -> float:
    """Return gradient passes and rule over the client's local training; the median case."""
    shares: list[float] = [
        (case["seconds_evidence"] + case["rules"][rule]["seconds"]) / case["seconds_training"]
        for case in cases
    ]
    return statistics.median(shares)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def rules_table(cases: Cases) -> str:
    """Return all rules and candidates, the lowest mean regret first."""
    rules = [*ENDS, *SHIPPED, *CANDIDATES]
    rules.sort(key=lambda rule: mean(regret(case, rule) for case in cases))
    return table(
        ["rule", "regret (points)", "worst regime", "against grid", "regret in loss",
         "no worse than the better adapter (%)", "rank correlation of λ", "forward passes",
         "cost (% of local training)"],
        [rule_row(cases, rule) for rule in rules],
    )  # fmt: skip


def regimes_table(cases: Cases) -> str:
    """Return the mean regret of the shipped rules in every regime."""
    rules = ["excess-loss", "segment", "grid", "uniform", "variance-trace", "fisher"]
    rows = []
    for regime, group in by(cases, regime_of).items():
        rows.append(
            [*regime_words(regime),
             *(f"{100 * mean(score(c, end) for c in group):.1f}" for end in (*ENDS, "oracle")),
             *(f"{mean(regret(case, rule) for case in group):.2f}" for rule in rules)]
        )  # fmt: skip
    return table(
        ["group", "start", "samples", "rounds", "local (%)", "federated (%)", "oracle (%)", *rules],
        rows,
    )


def regime_words(regime: tuple[str, str, int, int]) -> list[str]:
    """Return a regime in words."""
    group, start, samples, rounds = regime
    return [group, start, "all" if samples == ALL else str(samples), str(rounds)]


def tuning_table(cases: Cases) -> str:
    """Return what the merge gains over fine-tuning the federated adapter, by regime."""
    warm = [case for case in cases if case["start"] == "warm"]
    rows = []
    for regime, group in by(warm, regime_of).items():
        gains = [
            paired(group, lead(rule, "local"))
            for rule in ("excess-loss", "excess-loss + fallback", "grid", "oracle")
        ]
        tuned = [case for case in group if case["tuned"] is not None]
        every = "–"
        if tuned:
            gain, noise = paired(
                tuned, lambda case: 100 * (score(case, "excess-loss + fallback") - case["tuned"])
            )
            every = f"{gain:+.2f} ± {noise:.2f}"
        words = regime_words(regime)
        rows.append(
            [words[0], *words[2:], *(f"{gain:+.2f} ± {noise:.2f}" for gain, noise in gains), every]
        )
    return table(
        ["group", "samples", "rounds", "excess-loss", "excess-loss + fallback", "grid", "oracle",
         "excess-loss + fallback, against fine-tuning on the calibration samples too"],
        rows,
    )  # fmt: skip


def starts_table(cases: Cases) -> str:
    """Return warm against cold local training, each with the default rule."""
    pairs = by(cases, lambda case: (case["group"], case["samples"], case["rounds"]))
    rows = []
    for (group, samples, rounds), members in pairs.items():
        sides = {
            start: {(c["seed"], c["client"]): c for c in members if c["start"] == start}
            for start in ("cold", "warm")
        }
        joined = [
            {**warm, "gain": 100 * (score(warm, "excess-loss") - score(sides["cold"][key],
                                                                       "excess-loss"))}
            for key, warm in sides["warm"].items()
        ]  # fmt: skip
        gain, noise = paired(joined, lambda case: float(case["gain"]))
        accuracies = [
            f"{100 * mean(score(case, 'excess-loss') for case in side.values()):.1f}"
            for side in sides.values()
        ]
        words = regime_words((group, "", samples, rounds))
        rows.append([words[0], *words[2:], *accuracies, f"{gain:+.2f} ± {noise:.2f}"])
    return table(
        ["group", "samples", "rounds", "cold (%)", "warm (%)", "warm over cold (points)"], rows
    )


def edges_table(cases: Cases) -> str:
    """Return the edge cases: few samples, few classes, one client."""
    rows = []
    for regime, group in by(cases, regime_of).items():
        words = regime_words(regime)
        rows.append(
            [words[0], words[1], str(len(group)), f"{mean(c['num_classes'] for c in group):.1f}",
             *(f"{100 * mean(score(case, rule) for case in group):.1f}"
               for rule in ("local", "federated", "excess-loss", "excess-loss + fallback",
                            "variance-trace", "oracle"))]
        )  # fmt: skip
    return table(
        ["group", "start", "cases", "classes", "local (%)", "federated (%)", "excess-loss (%)",
         "with fallback (%)", "variance-trace (%)", "oracle (%)"],
        rows,
    )  # fmt: skip


def diagnosis_table(cases: Cases) -> str:
    """Return how often a merge falls back, and whether the diagnosis is right."""
    rows = []
    for rule in ("excess-loss", "variance-trace"):
        found = [(case, case["rules"][f"{rule} + fallback"]) for case in cases]
        fallen = [(case, entry) for case, entry in found if entry["fell_back"]]
        gain = (
            f"{100 * mean(entry['accuracy'] - score(case, rule) for case, entry in fallen):+.2f}"
            if fallen
            else "–"
        )
        rows.append(
            [rule, f"{100 * len(fallen) / len(found):.1f}", gain,
             f"{100 * mean(entry['warned'] for _, entry in found):.1f}"]
        )  # fmt: skip
    return table(
        ["rule", "falls back (% of clients)", "gain where it does (points)", "warned (%)"], rows
    )


def favours_words(cases: Cases) -> str:
    """Say how often the adapter that the evidence favours is the better one on test data."""
    sure = [
        (case, case["rules"]["excess-loss + fallback"]["favours"])
        for case in cases
        if case["rules"]["excess-loss + fallback"]["favours"] != "both"
    ]
    right = mean(
        score(case, favoured) >= score(case, "federated" if favoured == "local" else "local")
        for case, favoured in sure
    )
    inside = mean(
        entry["low"] - 0.05 <= best <= entry["high"] + 0.05
        for entry, best in (
            (
                case["rules"]["excess-loss + fallback"],
                min(range(11), key=lambda k: case["grid"][k]["loss"]) / 10,
            )
            for case in cases
        )
    )
    return (
        f"The interval lies on one side of λ = 1/2 for {100 * len(sure) / len(cases):.0f} % of the "
        f"cases, and there the adapter it favours is the better one on test data in "
        f"{100 * right:.0f} %. It holds the grid point with the lowest test loss in "
        f"{100 * inside:.0f} % (nominal: 90 % for its own λ, which is that of the tempered loss on "
        "thirty samples)."
    )


def samples_table(cases: Cases) -> str:
    """Return the regret of the default rule by the number of calibration samples."""
    rules = [*(f"excess-loss, {n} samples" for n in (5, 10, 20)), "excess-loss"]
    rows = [
        [rule.removeprefix("excess-loss, ") if "," in rule else "30 samples",
         f"{mean(regret(case, rule) for case in cases):.2f}",
         "{:+.2f} ± {:.2f}".format(*paired(cases, lead("excess-loss", rule)))]
        for rule in rules
    ]  # fmt: skip
    return table(["calibration samples", "regret (points)", "against 30"], rows)


def draw_regimes(cases: Cases) -> Figure:
    """Draw the mean regret of the shipped rules in every regime."""
    regimes = by(cases, regime_of)
    figure = Figure(figsize=(9, 0.3 * len(regimes) + 1.6), layout="constrained")
    axes = figure.subplots()
    for rule, (colour, marker) in DRAWN.items():
        values = [mean(regret(case, rule) for case in group) for group in regimes.values()]
        axes.plot(values, range(len(regimes)), marker, color=colour, label=rule, alpha=0.9)
    labels = [", ".join(regime_words(regime)) for regime in regimes]
    axes.set_yticks(range(len(regimes)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="#E4E4E4")
    axes.set_axisbelow(True)
    axes.set_xlabel("mean regret against the oracle (points of accuracy)")
    figure.suptitle("group, local start, training samples, rounds", fontsize=9, x=0.02, ha="left")
    figure.legend(loc="outside upper right", ncols=5, frameon=False, fontsize=9)
    return figure


def draw_tuning(cases: Cases) -> Figure:
    """Draw what the merge gains over federated-then-fine-tuned in every warm regime."""
    regimes = by([case for case in cases if case["start"] == "warm"], regime_of)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for shift, (rule, colour) in enumerate(
        {"excess-loss": GREEN, "uniform": ORANGE, "oracle": GREY}.items()
    ):
        gains = [paired(group, lead(rule, "local")) for group in regimes.values()]
        places = [index + 0.27 * (shift - 1) for index in range(len(gains))]
        axes.bar(places, [gain for gain, _ in gains], 0.25, color=colour, label=rule)
        axes.errorbar(places, [gain for gain, _ in gains], [noise for _, noise in gains],
                      fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.8)
    labels = [
        f"{group}\nn = {'all' if samples == ALL else samples}\n{rounds} rounds"
        for group, _, samples, rounds in regimes
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylabel("points over federated,\nthen fine-tuned (± 2 standard errors)")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_weights(cases: Cases) -> Figure:
    """Draw each rule's mean λ in every regime against the oracle's."""
    regimes = by(cases, regime_of)
    oracle = [mean(map(oracle_weight, group)) for group in regimes.values()]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for rule, (colour, marker) in DRAWN.items():
        weights = [
            mean(case["rules"][rule]["weight"] for case in group) for group in regimes.values()
        ]
        axes.plot(oracle, weights, marker, color=colour, label=rule, alpha=0.85)
    axes.plot([0, 1], [0, 1], color=PURPLE, linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("oracle's mean λ in a regime")
    axes.set_ylabel("rule's mean λ in that regime")
    axes.legend(frameon=False, fontsize=9)
    return figure


def verdict(cases: Cases, what: str) -> str:
    """Say in words which shipped rule wins, and by how much against the noise."""
    rules = [rule for rule in RULES if rule != "fisher"]
    means = {rule: mean(regret(case, rule) for case in cases) for rule in rules}
    best, *others = sorted(rules, key=means.__getitem__)
    compared = []
    for rule in others:
        gap, noise = paired(cases, lead(best, rule))
        word = "beyond the noise" if abs(gap) > noise else "within the noise"
        compared.append(f"{rule} {gap:+.2f} ± {noise:.2f} ({word})")
    honest = mean(100 * (score(case, "oracle") - case["oracle_of_halves"]) for case in cases)
    return (
        f"On {what} **{best}** has the lowest mean regret of the rules that ship, "
        f"{means[best]:.2f} points. The others, against it: {', '.join(compared)}. Of the oracle's "
        f"lead, {honest:.2f} points are flattery: that much it loses when it is chosen on one half "
        "of the test data and scored on the other."
    )


def write_page(cases: Cases) -> None:
    """Write the page and its figures."""
    digits = [case for case in cases if case["group"] in ("shared", "conflicting")]
    sentiment = [case for case in cases if case["group"] == "sentiment"]
    edges = [case for case in cases if case["group"] in ("one-class", "one-client")]
    main = [*digits, *sentiment]
    IMAGES.mkdir(exist_ok=True)
    for name, draw in (
        ("regimes", draw_regimes), ("fine-tuning", draw_tuning), ("weights", draw_weights)
    ):  # fmt: skip
        draw(main).savefig(
            IMAGES / f"merge-quality-{name}.png", dpi=130, metadata={"Software": None}
        )
    seeds = {name: len({case["seed"] for case in group})
             for name, group in (("digits", digits), ("sentiment", sentiment))}  # fmt: skip
    language = (
        f"""### Sentiment: twelve clients, four domains, MiniLM ({seeds["sentiment"]} seeds)

{verdict(sentiment, "sentiment")}

{rules_table(sentiment)}
"""
        if sentiment
        else ""
    )
    PAGE.write_text(
        f"""# Merge quality

Written by `python -m simulations.merge_quality` from stored measures. Digits: the embedded default,
{seeds["digits"]} seeds, in {len(by(digits, regime_of))} regimes: shared and conflicting shift, cold
and warm local training, 40, 100 and all (about 195) training samples a client, 5 and 20 federated
rounds; {len(digits)} cases, a case being one client in one regime at one seed. Every rule sees the
same adapters, the same 30 held-out samples and the same gradient pass. What each rule is, and why,
stands in [method.md](method.md).

*Regret* is the test accuracy, in points, that a rule's merge loses against the *oracle*, the best
of 11 λ on the test data itself. ± after a regret is the standard deviation over seeds of its mean;
± after a difference is two standard errors of the paired difference, where all cases of one client
at one seed count as one. Rules that ship are bold.

## Which rule loses least?

### Digits

{verdict(digits, "digits")}

{rules_table(digits)}

*Cost* is the gradient pass at both adapters and the rule, over the client's 300 local steps, each
timed in the same minute; *forward passes* are those over the calibration samples beyond it.

{language}
## Which rule wins where?

![Regret by regime](images/merge-quality-regimes.png)

{regimes_table(main)}

## Does merging beat fine-tuning?

With warm local training the local adapter is "federated, then fine-tuned": same bytes, same steps.
Points of accuracy over it; the last column is against fine-tuning that may train on the
calibration samples as well.

![Gain over fine-tuning](images/merge-quality-fine-tuning.png)

{tuning_table(main)}

## Cold or warm?

Accuracy of the default rule's merge. Both cost the same bytes and the same local steps.

{starts_table(main)}

## How near does λ come?

![λ of the rules against the oracle's](images/merge-quality-weights.png)

{favours_words(main)}

{diagnosis_table(main)}

## Few samples, few classes, one client

{samples_table(main)}

*one-class*: label skew so strong (α = 0.001) that most clients hold one or two classes.
*one-client*: a federation of one, whose federated adapter is its own.

{edges_table(edges)}
"""
    )
