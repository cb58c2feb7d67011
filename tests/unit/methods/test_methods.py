"""Each method's defining property, on one client and without a message."""

from types import SimpleNamespace

import pytest
import torch
from clients import client_of, moved, same_bits

from potara_flwr.merging.segment import interpolate, segment_between
from potara_flwr.methods import METHODS
from potara_flwr.methods.base import plain_round, share_drawn, total_steps
from potara_flwr.methods.fedalt import MIXER, mixed, mixer
from potara_flwr.methods.feddpa import ByLikeness, next_to
from potara_flwr.methods.peft_merges import merge_task_vectors
from potara_flwr.methods.two_adapters import stack, weighed
from potara_flwr.models.adapter import kind_of
from potara_flwr.training.local_steps import Proximal, one_thread


@pytest.fixture
def tiny(tiny):
    """Settings as everywhere, with fewer test samples; computed on one thread, as the apps do."""
    with one_thread():
        yield lambda overrides=None: tiny({"data.test-samples": 12, **(overrides or {})})


def of_kind(adapter, kind):
    return {name: tensor for name, tensor in adapter.items() if kind_of(name) == kind}


def run_round(client, received, server_round=1):
    return METHODS[client.settings.method].train_round(client, received, server_round)


@pytest.mark.parametrize("method", METHODS)
def test_every_client_takes_the_same_optimizer_steps(tiny, method):
    client = client_of(tiny({"method": method, "train.local-steps": 2, "local.steps": 8}))
    row = METHODS[method]
    received = client.model.initial
    for server_round in range(1, row.rounds(client.settings) + 1):
        row.train_round(client, received, server_round)
    row.personalize(client, received)
    assert client.steps == total_steps(client.settings) == 12


def test_rounds_of_a_baseline_are_set_or_follow_from_the_steps(tiny):
    overrides = {"federation.rounds": 20, "train.local-steps": 10, "local.steps": 300}
    rounds = {name: row.rounds(tiny(overrides)) for name, row in METHODS.items()}
    assert rounds["potara"] == rounds["fedit_ft"] == rounds["feddpa_f"] == rounds["ties"] == 20
    assert rounds["fedit"] == rounds["ffa_lora"] == rounds["fedalt"] == 50
    assert rounds["ditto"] == rounds["feddpa_t"] == rounds["apfl"] == rounds["pf2lora"] == 25
    assert rounds["local"] == 0
    chosen = tiny({**overrides, "federation.baseline-rounds": 7})
    assert METHODS["fedit"].rounds(chosen) == METHODS["ditto"].rounds(chosen) == 7
    assert METHODS["potara"].rounds(chosen) == 20


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        # Rounds are rounded up, and there is one where there are steps to take.
        ({"federation.rounds": 1, "train.local-steps": 10, "local.steps": 4}, 14),
        ({"federation.rounds": 1, "train.local-steps": 3, "local.steps": 0}, 3),
        # Of four rounds a client is drawn for two.
        (
            {
                "data.num-clients": 4,
                "federation.fraction-train": 0.5,
                "federation.rounds": 4,
                "train.local-steps": 2,
                "local.steps": 8,
            },
            12,
        ),
        # A round has one of the three clients, though a tenth of them are none.
        ({"federation.fraction-train": 0.1, "federation.rounds": 3, "local.steps": 4}, 6),
    ],
)
def test_no_method_takes_fewer_steps_than_potara(tiny, overrides, steps):
    settings = tiny(overrides)
    assert total_steps(settings) == steps
    drawn = share_drawn(settings)
    for row in METHODS.values():
        rounds = row.rounds(settings)
        a_round = row.trainings * settings.train.local_steps
        expected = row.steps(settings, 0) + drawn * rounds * a_round * (row.trainings > 0)
        assert steps <= expected < steps + max(a_round, 1)


def test_only_methods_that_choose_on_them_keep_calibration_samples_out_of_training(tiny):
    for method in METHODS:
        client = client_of(tiny({"method": method, "calibration.source": "held-out"}))
        extra = len(client.samples["labels"]) - len(client.data.train["labels"])
        assert extra == (0 if method == "potara" else 6)


def test_ffa_never_changes_a(tiny):
    client = client_of(tiny({"method": "ffa_lora"}))
    received = client.model.initial
    trained = run_round(client, received).adapter
    for name, tensor in trained.items():
        assert torch.equal(tensor, received[name]) == (kind_of(name) == "A")


def test_fedsa_goes_on_from_its_own_b_and_head_and_the_received_a(tiny):
    client = client_of(tiny({"method": "fedsa_lora"}))
    first = run_round(client, client.model.initial).adapter
    others = moved(client)
    again = run_round(client, others, 2).adapter
    start = others | {name: first[name] for name in first if kind_of(name) != "A"}
    assert same_bits(again, client.train_in_round(start, 2)[0])
    kept = METHODS["fedsa_lora"].personalize(client, others).adapters[""]
    assert same_bits(of_kind(kept, "A"), of_kind(others, "A"))
    for kind in ("B", "head"):
        assert same_bits(of_kind(kept, kind), of_kind(again, kind))
    assert not any(kind_of(name) == "A" for name in client.personal["own"])


def test_fedprox_without_a_pull_is_fedit_to_the_bit(tiny):
    client = client_of(tiny({"method": "fedprox", "baseline.fedprox-mu": 0.0}))
    received = moved(client)
    plain = plain_round(client, received, 1)
    same = run_round(client, received)
    assert same_bits(same.adapter, plain.adapter)
    assert same.loss == plain.loss


def test_fedprox_stays_nearer_to_what_it_received(tiny):
    def distance(mu):
        overrides = {"method": "fedprox", "baseline.fedprox-mu": mu, "train.local-steps": 20}
        client = client_of(tiny(overrides))
        received = client.model.initial
        return Proximal(2.0, received)(run_round(client, received).adapter).item()

    assert distance(100.0) < 0.5 * distance(0.0)


def test_the_proximal_term_is_the_squared_distance():
    centre = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(1)}
    adapter = {"a": torch.tensor([3.0, 2.0]), "b": torch.ones(1)}
    assert Proximal(0.5, centre)(adapter).item() == pytest.approx(0.25 * (4.0 + 1.0))


def test_ditto_without_a_pull_knows_nothing_of_the_others(tiny):
    def personal(mu, start):
        client = client_of(tiny({"method": "ditto", "baseline.ditto-mu": mu}))
        for server_round in (1, 2):
            run_round(client, moved(client) if start else client.model.initial, server_round)
        return METHODS["ditto"].personalize(client, client.model.initial).adapters[""]

    assert same_bits(personal(0.0, start=True), personal(0.0, start=False))
    assert not same_bits(personal(1.0, start=True), personal(1.0, start=False))


def test_ditto_sends_what_fedit_sends(tiny):
    client = client_of(tiny({"method": "ditto"}))
    received = moved(client)
    assert same_bits(run_round(client, received).adapter, plain_round(client, received, 1).adapter)


def test_feddpa_t_trains_each_adapter_while_the_other_stands_still(tiny):
    client = client_of(tiny({"method": "feddpa_t"}))
    received = moved(client)
    before = {name: tensor.clone() for name, tensor in received.items()}
    sent = run_round(client, received).adapter
    assert same_bits(received, before)
    assert same_bits(sent, plain_round(client, received, 1).adapter)
    local = client.personal["local"]
    assert not same_bits(local, received)
    again = run_round(client, moved(client, purpose="other"), 2).adapter
    assert not same_bits(again, sent)
    assert not same_bits(client.personal["local"], local)


def test_feddpa_f_starts_its_local_adapter_from_the_federated_one(tiny):
    client = client_of(tiny({"method": "feddpa_f", "local.steps": 0}))
    received = moved(client)
    outcome = METHODS["feddpa_f"].personalize(client, received)
    assert same_bits(outcome.adapters["local"], received)
    # Two equal adapters are one, whatever their weights.
    assert outcome.report.personalized.loss == pytest.approx(outcome.report.loss["local"])


def test_feddpa_weighs_both_adapters_and_heads_for_every_sample(tiny):
    client = client_of(tiny({"method": "feddpa_f", "baseline.feddpa-scale": 1.0}))
    federated, local = moved(client, 20), moved(client, 20, "other")
    by_likeness = ByLikeness(client, federated, local)
    batch = client.task.collate(client.data.test)
    with by_likeness(local, batch) as both:
        logits = client.model(both, batch)
    alpha = by_likeness.local_weights[0]
    assert alpha.min() < alpha.max()
    for row in (0, 5, 9):
        one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        weight = 1 - alpha[row].item()
        merged = segment_between(federated, local, "delta").at(weight)
        torch.testing.assert_close(logits[row : row + 1], client.model(merged, one))


def test_feddpa_finds_a_training_sample_most_like_itself(tiny):
    overrides = {"method": "feddpa_f", "baseline.feddpa-scale": 1.0, "baseline.feddpa-samples": 1}
    client = client_of(tiny(overrides))
    by_likeness = ByLikeness(client, client.model.initial, client.model.initial)
    everything = by_likeness.represent(client.task.collate(client.samples))
    likeness = (everything @ by_likeness.references.T)[:, 0]
    assert likeness.max().item() == pytest.approx(1.0, abs=1e-5)
    assert (likeness > 0.9999).sum() == 1


def test_feddpa_represents_a_text_by_its_prompt_whatever_follows():
    torch.manual_seed(0)
    states = torch.randn(3, 6, 4)
    prompts = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
    answers = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    by_likeness = ByLikeness.__new__(ByLikeness)
    by_likeness.local = {}
    by_likeness.model = SimpleNamespace(hidden_states=lambda _, inputs: states)
    asked = {"attention_mask": torch.cat([prompts, answers], dim=1)}
    found = by_likeness.represent({**asked, "logits_to_keep": torch.tensor(4)})
    for row in range(3):
        mean = states[row, :3][prompts[row] > 0].mean(0)
        torch.testing.assert_close(found[row], mean / mean.norm())


def test_half_the_weight_next_to_the_federated_adapter_is_half_of_both_updates(tiny):
    client = client_of(tiny({"method": "feddpa_t"}))
    federated, local = moved(client), moved(client, 12, "other")
    batch = client.task.collate(client.data.test)

    def half(name, inputs):
        return torch.full((*inputs.shape[:-1], 2), 0.5)

    with weighed(client.model, federated, local, half, heads=True) as both:
        expected = client.model(both, batch)
    torch.testing.assert_close(next_to(client, federated)(local, batch), expected)


def test_a_pair_at_full_weight_is_the_sum_of_both_updates(tiny):
    client = client_of(tiny())
    first, second = moved(client), moved(client, 12, "other")
    batch = client.task.collate(client.data.test)
    with weighed(client.model, first, second, lambda name, inputs: torch.ones(2)) as both:
        weighed_logits = client.model(both, batch)
    torch.testing.assert_close(weighed_logits, client.model(stack(first, second), batch))
    with weighed(client.model, first, second, lambda name, x: torch.tensor([0.0, 1.0])) as both:
        of_second = client.model(both, batch)
    torch.testing.assert_close(of_second, client.model(second, batch))


def test_fedalt_trains_its_own_adapter_and_mixer_and_not_the_others(tiny):
    client = client_of(tiny({"method": "fedalt"}))
    rest = moved(client)
    before = {name: tensor.clone() for name, tensor in rest.items()}
    drawn = mixer(client)
    sent = run_round(client, rest).adapter
    assert same_bits(rest, before)
    for name, tensor in sent.items():
        assert not torch.equal(tensor, client.model.initial[name]), name
    for name, tensor in client.personal[MIXER].items():
        assert tensor.shape == drawn[name].shape == (2, 16)
        assert not torch.equal(tensor, drawn[name]), name
        assert drawn[name].abs().max() <= 16**-0.5
    assert not any(METHODS["fedalt"].sends(name, tiny()) for name in of_kind(sent, "head"))


def test_the_mixer_of_fedalt_chooses_token_by_token(tiny):
    client = client_of(tiny({"method": "fedalt"}))
    rest, own = moved(client), moved(client, 12, "other")
    batch = client.task.collate(client.data.test)
    # A mixer of zeros gives each half of the weight, to every token.
    even = {name: torch.zeros_like(tensor) for name, tensor in mixer(client).items()}
    half = segment_between(rest, own, "delta").at(0.5)
    expected = client.model({n: own[n] if kind_of(n) == "head" else half[n] for n in half}, batch)
    torch.testing.assert_close(mixed(client, rest)(own | even, batch), expected)
    uneven = mixed(client, rest)(own | {n: torch.randn_like(t) for n, t in even.items()}, batch)
    assert (uneven - expected).abs().max() > 1e-3


def test_ties_and_dare_at_full_density_are_the_averages_that_they_prune(tiny):
    from peft.utils.merge_utils import dare_linear, ties

    client = client_of(tiny({"method": "ties"}))
    initial = client.model.initial
    federated, local = moved(client), moved(client, 12, "other")
    dare = merge_task_vectors(dare_linear, 0.5, 1.0, initial, [federated, local])
    for name, tensor in interpolate(federated, local, 0.5).items():
        torch.testing.assert_close(dare[name], tensor)
    elected = merge_task_vectors(ties, 1.0, 1.0, initial, [federated, local])
    for name, tensor in elected.items():
        one, other = federated[name] - initial[name], local[name] - initial[name]
        agree = one.sign() == other.sign()
        stronger = torch.where(one.abs() >= other.abs(), one, other)
        expected = torch.where(agree, (one + other) / 2, stronger)
        torch.testing.assert_close(tensor - initial[name], expected, rtol=1e-3, atol=1e-6)


def test_ties_keeps_the_largest_entries_and_dare_rescales_the_others(tiny):
    from peft.utils.merge_utils import dare_linear, ties

    client = client_of(tiny())
    initial, one = client.model.initial, moved(client, 12)
    name = "base_model.model.classifier.weight"
    task_vector = one[name] - initial[name]
    alone = merge_task_vectors(ties, 1.0, 0.25, initial, [one])[name] - initial[name]
    kept = alone != 0
    assert kept.sum() == int(0.25 * kept.numel())
    assert task_vector[kept].abs().min() >= task_vector[~kept].abs().max()
    dropped = merge_task_vectors(dare_linear, 1.0, 0.25, initial, [one])[name] - initial[name]
    kept = dropped.abs() > 1e-6
    assert 0.1 < kept.float().mean() < 0.4
    torch.testing.assert_close(dropped[kept], task_vector[kept] / 0.25, rtol=1e-3, atol=1e-6)


def test_merges_of_other_papers_start_from_potaras_two_adapters(tiny):
    outcomes = {}
    for method in ("potara", "ties", "dare"):
        client = client_of(tiny({"method": method}))
        outcomes[method] = METHODS[method].personalize(client, moved(client))
    locals_ = [outcome.adapters["local"] for outcome in outcomes.values()]
    assert same_bits(locals_[0], locals_[1])
    assert same_bits(locals_[0], locals_[2])
    scores = [outcome.report.accuracy["federated"] for outcome in outcomes.values()]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_what_chooses_no_weight_trains_alike_whatever_calibrates(tiny, method):
    ends = []
    for source in ("training", "held-out"):
        client = client_of(tiny({"method": method, "calibration.source": source}))
        outcome = METHODS[method].personalize(client, moved(client))
        ends.append((outcome.report.optimizer_steps, outcome.adapters["local"]))
    assert ends[0][0] == ends[1][0]
    assert same_bits(ends[0][1], ends[1][1])


def test_local_training_ignores_what_it_receives_and_fine_tuning_starts_from_it(tiny):
    alone = client_of(tiny({"method": "local"}))
    received = moved(alone)
    first = METHODS["local"].personalize(alone, received).adapters[""]
    again = METHODS["local"].personalize(alone, alone.model.initial).adapters[""]
    assert same_bits(first, again)
    tuned = client_of(tiny({"method": "fedit_ft", "local.steps": 0}))
    assert same_bits(METHODS["fedit_ft"].personalize(tuned, received).adapters[""], received)


def test_frozen_tensors_stay_and_the_others_move(tiny):
    client = client_of(tiny())
    frozen = [name for name in client.model.initial if "lora_A" in name]
    adapter, _ = client.train_in_round(client.model.initial, 1, frozen=frozen)
    for name, tensor in adapter.items():
        assert torch.equal(tensor, client.model.initial[name]) == (name in frozen)
        assert not tensor.requires_grad
