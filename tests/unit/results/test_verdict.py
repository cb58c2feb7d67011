"""The sentence that says what a run's numbers say, on numbers made by hand."""

import pytest

from potara_flwr.results.verdict import verdict


def results(method, *clients):
    """Results of clients with (personalized, {adapter: accuracy})."""
    return {
        "method": method,
        "clients": [
            {"client": number, "personalized": {"accuracy": own}, "accuracy": single}
            for number, (own, single) in enumerate(clients)
        ],
    }


def merged(*rows):
    """Potara's results of clients with (federated, local, personalized)."""
    return results(
        "potara",
        *((own, {"initial": 0.1, "federated": f, "local": x}) for f, x, own in rows),
    )


def test_a_merge_is_compared_with_the_adapter_that_is_better_on_average():
    # Over the local adapter's 80 %: +2, +4 and 0 points, mean 2, two errors 2·2/√3 = 2.3.
    rows = (0.5, 0.8, 0.82), (0.9, 0.8, 0.84), (0.6, 0.8, 0.8)
    assert verdict(merged(*rows)) == (
        "On average over the clients, the merge reaches 82.0 % and the better single adapter "
        "(local) 80.0 %: +2.0 ± 2.3 points, within the noise; no worse for 3 of 3 clients."
    )


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ((0.72, 0.83), "+2.5 ± 1.0 points, better beyond the noise; no worse for 2 of 2 clients."),
        ((0.68, 0.77), "-2.5 ± 1.0 points, worse beyond the noise; no worse for 0 of 2 clients."),
        ((0.70, 0.80), "+0.0 ± 0.0 points, within the noise; no worse for 2 of 2 clients."),
    ],
)
def test_noise_decides_what_is_said(own, words):
    said = verdict(merged((0.7, 0.3, own[0]), (0.8, 0.3, own[1])))
    assert "(federated) 75.0 %" in said
    assert said.endswith(words)


def test_one_client_tells_no_noise():
    assert verdict(merged((0.7, 0.8, 0.9))) == (
        "On the one client, the merge reaches 90.0 % and the better single adapter (local) 80.0 %: "
        "+10.0 points, whose noise one client does not tell; no worse for 1 of 1 client."
    )


def test_a_method_without_a_merge_is_compared_with_its_own_other_adapter():
    rows = (0.8, {"initial": 0.1, "federated": 0.6}), (0.9, {"initial": 0.1, "federated": 0.8})
    said = verdict(results("fedit_ft", *rows))
    assert "FedIT + fine-tuning reaches 85.0 % and its federated adapter 70.0 %: +15.0" in said


def test_where_there_is_no_other_adapter_it_is_the_initial_one():
    rows = (0.8, {"initial": 0.1, "federated": 0.8}), (0.9, {"initial": 0.1, "federated": 0.9})
    said = verdict(results("fedit", *rows))
    assert "reaches 85.0 % and the initial adapter, before any training, 10.0 %: +75.0" in said


def test_no_client_is_no_verdict():
    assert verdict(results("potara")) == "No client was personalized."
