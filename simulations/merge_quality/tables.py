"""The tables of docs/research/merge-quality.md, and what is said in words beside them."""

from __future__ import annotations

from potara_flwr.core.markdown import table
from potara_flwr.merging.rules import RULES
from simulations.merge_quality.candidates import CANDIDATES, EVALUATIONS
from simulations.merge_quality.statistics import (
    ENDS,
    Cases,
    by,
    cost_of,
    lead,
    mean,
    over_seeds,
    paired,
    regime_of,
    regime_words,
    regret,
    score,
    weight_correlation,
)

SHIPPED = (*RULES, "excess-loss + fallback", "variance-trace + fallback")


def rule_row(cases: Cases, rule: str) -> list[str]:
    """Return a rule's row of the main table."""
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
    if rule in ENDS or rule in ("uniform",):
        correlation = "–"
    else:
        correlation = f"{weight_correlation(cases, rule):.2f}"
    cost = "–"
    if rule in RULES or rule in CANDIDATES:
        cost = f"{100 * cost_of(cases, rule):.1f}"
    return [
        f"**{rule}**" if rule in SHIPPED else rule,
        over_seeds(cases, lambda case: regret(case, rule)).words(decimals=2),
        f"{max(regimes.values()):.2f}",
        paired(cases, lead("grid", rule)).words(decimals=2),
        f"{loss:.3f}",
        f"{100 * kept:.0f}",
        correlation,
        str(EVALUATIONS.get(rule, 0)),
        cost,
    ]


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


def tuning_table(cases: Cases) -> str:
    """Return what the merge gains over fine-tuning the federated adapter, by regime."""
    warm = [case for case in cases if case["start"] == "warm"]
    rows = []
    for regime, group in by(warm, regime_of).items():
        gains = [
            paired(group, lead(rule, "tuned"))
            for rule in ("local", "excess-loss", "excess-loss + fallback", "grid", "oracle")
        ]
        words = regime_words(regime)
        rows.append([words[0], *words[2:], f"{100 * mean(score(c, 'tuned') for c in group):.1f}",
                     *(gain.words(decimals=2) for gain in gains)])  # fmt: skip
    return table(
        ["group", "samples", "rounds", "fine-tuned (%)", "local", "excess-loss",
         "excess-loss + fallback", "grid", "oracle"],
        rows,
    )  # fmt: skip


def refit_table(cases: Cases) -> str:
    """Return what the calibration samples are worth in training, by regime."""
    rows = []
    both = [case for case in cases if case["kept_out"] is not None]
    for regime, group in by(both, regime_of).items():
        gain = paired(group, lambda case: 100 * (score(case, "excess-loss") - case["kept_out"]))
        out, back = (
            f"{100 * mean(values):.1f}"
            for values in (
                [case["kept_out"] for case in group],
                [score(case, "excess-loss") for case in group],
            )
        )
        words = regime_words(regime)
        rows.append([words[0], *words[2:], out, back, gain.words(decimals=2)])
    return table(
        ["group", "samples", "rounds", "kept out (%)", "refit (%)", "refit over kept out (points)"],
        rows,
    )


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
        gain = paired(joined, lambda case: float(case["gain"]))
        accuracies = [
            f"{100 * mean(score(case, 'excess-loss') for case in side.values()):.1f}"
            for side in sides.values()
        ]
        words = regime_words((group, "", samples, rounds))
        # In a round a client receives the adapter to train and sends it back; at the end it
        # receives the last one.
        megabytes = (2 * rounds + 1) * members[0]["adapter_bytes"] / 1e6
        rows.append([words[0], *words[2:], f"{megabytes:.1f}", str(members[0]["steps"]),
                     *accuracies, gain.words(decimals=2)])  # fmt: skip
    return table(
        ["group", "samples", "rounds", "MB", "steps", "cold (%)", "warm (%)",
         "warm over cold (points)"],
        rows,
    )  # fmt: skip


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
         paired(cases, lead("excess-loss", rule)).words(decimals=2)]
        for rule in rules
    ]  # fmt: skip
    return table(["calibration samples", "regret (points)", "against 30"], rows)


def verdict(cases: Cases, what: str) -> str:
    """Say in words which shipped rule wins, and by how much against the noise."""
    rules = [rule for rule in RULES if rule != "fisher"]
    means = {rule: mean(regret(case, rule) for case in cases) for rule in rules}
    best, *others = sorted(rules, key=means.__getitem__)
    compared = []
    for rule in others:
        gap = paired(cases, lead(best, rule))
        word = "beyond the noise" if gap.is_sure else "within the noise"
        compared.append(f"{rule} {gap.words(decimals=2)} ({word})")
    honest = mean(100 * (score(case, "oracle") - case["oracle_of_halves"]) for case in cases)
    return (
        f"On {what} **{best}** has the lowest mean regret of the rules that ship, "
        f"{means[best]:.2f} points. The others, against it: {', '.join(compared)}. Of the oracle's "
        f"lead, {honest:.2f} points are flattery: that much it loses when it is chosen on one half "
        "of the test data and scored on the other."
    )


def aims_table(cases: Cases) -> str:
    """Return what the default rule was to reach on digits, and what it has reached."""
    regimes = by(cases, regime_of)
    against = paired(cases, lead("grid", "excess-loss"))
    worst = max(mean(regret(c, "excess-loss") for c in group) for group in regimes.values())
    gains = {
        shift: [
            paired(group, lead("excess-loss", "tuned")).mean
            for group in regimes.values()
            if (group[0]["group"], group[0]["start"]) == (shift, "warm")
        ]
        for shift in ("shared", "conflicting")
    }
    kept = 100 * mean(
        score(case, "excess-loss") >= max(score(case, end) for end in ENDS) - 1e-9 for case in cases
    )
    cost = 100 * cost_of(cases, "excess-loss")
    rows = [
        (
            "no worse than the grid, paired (points)",
            against.words(decimals=2),
            against.mean <= 0 or not against.is_sure,
        ),
        (
            "forward passes beyond the gradient pass, of the grid's",
            f"{EVALUATIONS.get('excess-loss', 0)} of {EVALUATIONS['grid']}",
            4 * EVALUATIONS.get("excess-loss", 0) <= EVALUATIONS["grid"],
        ),
        ("regret in the worst regime ≤ 1.5 points", f"{worst:.2f}", worst <= 1.5),
        (
            "over fine-tuning, every shared regime: ≥ +2 points",
            f"{min(gains['shared']):+.2f} to {max(gains['shared']):+.2f}",
            min(gains["shared"]) >= 2,
        ),
        (
            "over fine-tuning, every conflicting regime: ≥ −0.3 points",
            f"{min(gains['conflicting']):+.2f} to {max(gains['conflicting']):+.2f}",
            min(gains["conflicting"]) >= -0.3,
        ),
        ("no worse than the better adapter: ≥ 90 % of clients", f"{kept:.0f} %", kept >= 90),
        ("cost ≤ 2 % of 300 local steps", f"{cost:.1f} %", cost <= 2),
    ]
    return table(
        ["aim", "reached", "met"], [[aim, got, "yes" if met else "no"] for aim, got, met in rows]
    )
