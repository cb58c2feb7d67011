"""APFL's defining properties, on one client and without a message."""

import pytest
import torch
from clients import client_of, moved, same_bits

from potara_flwr.core.errors import TrainingError
from potara_flwr.merging.segment import interpolate
from potara_flwr.methods import METHODS
from potara_flwr.methods.apfl import ALPHA, PERSONAL, Beside, keep_mix, train_beside, weight_of
from potara_flwr.methods.base import plain_round
from potara_flwr.training.local_steps import one_thread

DROPOUT = {"lora.dropout": 0.3, "train.accumulate": 2, "train.max-grad-norm": 0.5}


@pytest.fixture
def client(tiny):
    """A client of APFL with these settings; computed on one thread, as the apps do."""

    def make(overrides=None):
        some = {"method": "apfl", "data.test-samples": 12, "baseline.apfl-rate": 0.0}
        return client_of(tiny({**some, **(overrides or {})}))

    with one_thread():
        yield make


def batch_of(client):
    return [{name: tensor[:8] for name, tensor in client.samples.items()}]


@pytest.mark.parametrize("overrides", [{}, DROPOUT])
def test_what_is_sent_is_what_fedit_sends_whatever_the_mix(client, overrides):
    one = client({**overrides, "baseline.apfl-alpha": 0.7})
    received = moved(one)
    assert same_bits(train_beside(one, received, 1).adapter, plain_round(one, received, 1).adapter)


def test_no_weight_on_the_personal_adapter_is_fedit_to_the_bit(client):
    one = client({"baseline.apfl-alpha": 0.0})
    received = moved(one)
    train_beside(one, one.model.initial, 1)
    outcome = keep_mix(one, received)
    assert same_bits(outcome.adapters[""], METHODS["fedit"].personalize(one, received).adapters[""])
    assert outcome.report.personalized.weight == 1.0
    assert same_bits(one.personal[PERSONAL], one.model.initial)


def test_all_weight_on_the_personal_adapter_is_local_training(client):
    one = client({"baseline.apfl-alpha": 1.0})
    for server_round in (1, 2):
        train_beside(one, moved(one, purpose=str(server_round)), server_round)
    alone = one.model.initial
    for server_round in (1, 2):  # the same batches, with an optimizer of each round's own
        alone, _ = one.train_in_round(alone, server_round)
    assert same_bits(keep_mix(one, moved(one)).adapters[""], alone)


def test_the_personal_adapter_takes_its_steps_at_the_mix_with_the_moving_federated_one(client):
    one = client({"train.local-steps": 1, "baseline.apfl-alpha": 0.25})
    received = moved(one)
    beside = Beside(one, 1)
    beside._gradients(received, batch_of(one))
    mixed = {name: tensor.requires_grad_() for name, tensor in interpolate(
        one.model.initial, received, 0.25).items()}  # fmt: skip
    inputs = one.task.collate(batch_of(one)[0])
    one.task.losses(one.model(mixed, inputs), inputs).mean().backward()
    for name, tensor in beside.learner.tensors.items():
        torch.testing.assert_close(tensor.grad, 0.25 * mixed[name].grad)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_gradient_of_the_weight_is_that_of_the_loss_at_the_mix(client, alpha):
    one = client({"baseline.apfl-alpha": alpha})
    own, other = moved(one, 12, "own"), moved(one, 12)
    one.personal[PERSONAL] = own
    slope = Beside(one, 1)._gradients(other, batch_of(one))
    inputs = one.task.collate(batch_of(one)[0])

    def loss(at):
        mixed = {n: at * own[n].double() + (1 - at) * other[n].double() for n in own}
        logits = one.model({n: t.float() for n, t in mixed.items()}, inputs)
        return one.task.losses(logits, inputs).double().mean().item()

    step = 1e-2
    assert slope == pytest.approx((loss(alpha + step) - loss(alpha - step)) / (2 * step), rel=2e-2)
    assert abs(slope) > 1e-3


def test_the_weight_takes_one_step_a_round_and_stays_between_0_and_1(client):
    one = client({"baseline.apfl-rate": 0.2, "train.local-steps": 3})
    one.personal[PERSONAL] = own = moved(one, 12, "own")
    received = moved(one)
    train_beside(one, received, 1)
    once = weight_of(one)
    assert once != 0.5
    one = client({"baseline.apfl-rate": 0.2, "train.local-steps": 1})
    one.personal[PERSONAL] = own
    train_beside(one, received, 1)
    assert weight_of(one) == once
    far = client({"baseline.apfl-rate": 1e6})
    far.personal[PERSONAL] = own
    train_beside(far, received, 1)
    assert weight_of(far) in (0.0, 1.0)


def test_what_is_personal_is_never_sent(client):
    one = client({"baseline.apfl-rate": 0.1})
    one.personal[PERSONAL] = moved(one, 12, "own")
    sent = train_beside(one, moved(one), 2).adapter
    assert set(one.personal) == {PERSONAL, ALPHA}
    assert sent.keys() == one.model.initial.keys()
    assert not any(torch.equal(sent[name], one.personal[PERSONAL][name]) for name in sent)


def test_a_personal_adapter_that_diverges_says_whose_it_is(client):
    one = client()
    one.personal[PERSONAL] = {n: t * float("nan") for n, t in one.model.initial.items()}
    with pytest.raises(TrainingError, match="client 0, round 3, personal adapter: the loss is nan"):
        train_beside(one, one.model.initial, 3)
