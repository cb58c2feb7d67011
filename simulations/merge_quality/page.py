"""docs/research/merge-quality.md and its figures, from the measures."""

from __future__ import annotations

from pathlib import Path

from potara_flwr.merging.rules import RULES
from potara_flwr.settings.schema import Settings
from simulations.markdown import table
from simulations.merge_quality.drawings import draw_regimes, draw_tuning, draw_weights
from simulations.merge_quality.statistics import Cases, by, over_seeds, points, regime_of
from simulations.merge_quality.tables import (
    aims_table,
    diagnosis_table,
    edges_table,
    favours_words,
    refit_table,
    regimes_table,
    rules_table,
    samples_table,
    starts_table,
    tuning_table,
    verdict,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "research" / "merge-quality.md"
README = ROOT / "README.md"
START, END = "<!-- table:start -->", "<!-- table:end -->"
DEFAULT_SAMPLES, DEFAULT_ROUNDS = Settings().data.train_samples, Settings().federation.rounds
IMAGES = ROOT / "docs" / "research" / "images"


def readme_table(cases: Cases) -> str:
    """Return the README's table: every adapter and rule in the regimes of the default."""
    regimes = by(
        [
            case
            for case in cases
            if case["group"] in ("shared", "conflicting")
            and (case["samples"], case["rounds"]) == (DEFAULT_SAMPLES, DEFAULT_ROUNDS)
        ],
        regime_of,
    )
    regimes = dict(reversed(regimes.items()))  # warm before cold, as the default is
    names = {
        "initial": "initial",
        "federated": "federated",
        "tuned": "federated, then fine-tuned",
        "local": "local",
        **{rule: rule for rule in RULES},
        "oracle": "oracle",
    }
    rows = [
        [words, *(over_seeds(c, points(name)).words() for c in regimes.values())]
        for name, words in names.items()
    ]
    return table(["adapter", *(f"{group}, {start}" for group, start, *_ in regimes)], rows)


def write_readme(cases: Cases) -> None:
    """Put the table between the README's marks."""
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{readme_table(cases)}\n{END}{after}")


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
rounds; {len(digits)} cases, a case being one client in one regime at one seed. Adapters are
averaged in float32 and not rounded for transport (`federation.transport`). Every rule sees the
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

## What was aimed at, and what is reached

Of the default rule on digits, over all regimes; against fine-tuning with the warm start, which the
numbers favour.

{aims_table(digits)}

## Does merging beat fine-tuning?

*Fine-tuned* is the federated adapter trained on for as many steps, on all of a client's samples but
its test data: same bytes, same steps, same samples, no merge. Points of accuracy over it, with warm
local training; *local* is Potara's local adapter alone, which sees the calibration samples in the
second half of its steps only.

![Gain over fine-tuning](images/merge-quality-fine-tuning.png)

{tuning_table(main)}

## Is it worth giving the calibration samples back?

The default chooses λ half way through local training and then trains on, with the calibration
samples in training (`local.refit-share`). *Kept out*: never, with λ chosen for the very adapter
that is merged. Accuracy of the default rule's merge, warm; same bytes, same steps.

{refit_table(main)}

## Cold or warm?

Accuracy of the default rule's merge. Both starts cost a client the same bytes of adapters (*MB*,
sent and received, without evaluation) and the same optimizer steps (*steps*, rounds and local).

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
