"""Local steps against a bare PyTorch loop; order, evaluation, and a loss that is not finite."""

import math
import time

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForImageClassification, get_scheduler

from potara_flwr.core.errors import TrainingError
from potara_flwr.methods import METHODS
from potara_flwr.methods.local_adapter import refit, train_local
from potara_flwr.tasks.base import take
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import batches, evaluate, one_thread, train
from potara_flwr.training.schedules import CONSTANT, Course


def run_train(bench, steps=5, seed=0, settings=None, **more):
    return train(
        bench.model, bench.task, bench.model.initial, bench.client(0).train,
        settings or bench.settings.train, steps=steps, seed=seed, who="client 0, local training",
        **more,
    )  # fmt: skip


def bare_peft_loop(bench, settings, factors):
    """Train as plain peft and torch do; return the adapter and the loss of every step."""
    data = bench.client(0).train
    base = AutoModelForImageClassification.from_pretrained(bench.settings.task.model)
    model = get_peft_model(
        base,
        LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"],
                   modules_to_save=["classifier"]),
    )  # fmt: skip
    model.load_state_dict(
        {bench.model.parameters[name]: t for name, t in bench.model.initial.items()}, strict=False
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors.__getitem__)
    losses = []
    for indices in batches(len(data["labels"]), settings.batch_size, len(factors) - 1, seed=0):
        batch = take(data, indices)
        logits = model(pixel_values=batch["pixel_values"]).logits
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return get_peft_model_state_dict(model), losses


def check_equal(bench, settings, course, factors):
    adapter, mean_loss = run_train(bench, settings=settings, course=course)
    expected, losses = bare_peft_loop(bench, settings, factors)
    for name, tensor in expected.items():
        torch.testing.assert_close(adapter[name], tensor, rtol=1e-4, atol=1e-6)
    assert mean_loss == pytest.approx(sum(losses) / 5, rel=1e-5)


def test_training_equals_a_bare_peft_loop(bench):
    check_equal(bench, bench.settings.train, CONSTANT, [1.0] * 6)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        # 3 of 10 steps lie behind, warm-up has 4: the fourth step has 4/5 of the rate.
        ("constant", [4 / 5, 1, 1, 1, 1, 1]),
        ("linear", [4 / 5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6]),
        ("cosine", [4 / 5, *((1 + math.cos(math.pi * k / 6)) / 2 for k in range(5))]),
    ],
)
def test_all_that_people_train_with_equals_a_bare_peft_loop(bench, kind, factors):
    settings = bench.settings.train.model_copy(
        update={"weight_decay": 0.1, "max_grad_norm": 0.5, "accumulate": 3}
    )
    check_equal(bench, settings, Course(kind, warmup=4, done=3, total=10), factors)


def test_a_step_in_parts_is_the_same_step(bench):
    whole, loss = run_train(bench)
    settings = bench.settings.train.model_copy(update={"accumulate": 2})
    parts, same = run_train(bench, settings=settings)
    assert same == pytest.approx(loss, rel=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_linear_and_cosine_are_those_of_transformers():
    model = torch.nn.Linear(1, 1)
    for kind in ("linear", "cosine"):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = get_scheduler(kind, optimizer, num_warmup_steps=0, num_training_steps=9)
        for step in range(9):
            (rate,) = scheduler.get_last_lr()
            assert Course(kind, total=9).factor(step) == pytest.approx(rate)
            optimizer.step()
            scheduler.step()


def test_rounds_and_local_training_have_a_course_each(tiny, monkeypatch):
    settings = tiny({
        "train.schedule": "linear", "federation.rounds": 4, "train.local-steps": 2,
        "local.schedule": "cosine", "local.warmup-steps": 3, "local.steps": 10,
    })  # fmt: skip
    seen = []
    monkeypatch.setattr(
        "potara_flwr.methods.client.train",
        lambda *args, **more: seen.append((more["course"], more["steps"])) or (args[2], 0.0),
    )
    bench = Workbench(settings)
    client = METHODS["potara"].client(bench, bench.client(0))
    client.train_in_round(bench.model.initial, 3)
    halfway, _ = train_local(client, bench.model.initial, later=3)
    refit(client, halfway, 3)
    assert seen == [
        (Course("linear", 0, done=4, total=8), 2),
        (Course("cosine", 3, done=0, total=10), 7),
        (Course("cosine", 3, done=7, total=10), 3),
    ]


def test_training_changes_every_tensor_and_not_its_start(bench):
    before = {name: tensor.clone() for name, tensor in bench.model.initial.items()}
    adapter, _ = run_train(bench)
    for name, tensor in adapter.items():
        assert not torch.equal(tensor, before[name]), name
        assert torch.equal(bench.model.initial[name], before[name])
        assert not tensor.requires_grad


def test_the_seed_decides_training_and_the_global_generator_does_not(bench):
    torch.manual_seed(1)
    first, _ = run_train(bench)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, _ = run_train(bench)
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = run_train(bench, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_seeded_and_off_in_evaluation(tiny):
    from potara_flwr.tasks.workbench import Workbench

    bench = Workbench(tiny({"lora.dropout": 0.5}))
    first, again = run_train(bench)[0], run_train(bench)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    test = bench.client(0).test
    assert evaluate(bench.model, bench.task, first, test) == evaluate(
        bench.model, bench.task, first, test
    )


def test_zero_steps_give_back_the_start(bench):
    adapter, loss = run_train(bench, steps=0)
    assert all(torch.equal(adapter[name], bench.model.initial[name]) for name in adapter)
    assert loss == 0.0


def test_batches_run_through_every_sample_before_any_comes_again():
    drawn = torch.cat(list(batches(10, 4, 5, seed=0)))
    assert len(drawn) == 20
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))


def test_a_client_with_fewer_samples_than_a_batch_trains_on_what_it_has():
    assert [len(indices) for indices in batches(3, 8, 2, seed=0)] == [3, 3]


def test_a_loss_that_is_not_finite_names_client_and_step(bench):
    settings = bench.settings.train.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match="client 0, local training: the loss is nan at step 2"):
        run_train(bench, settings=settings)
    assert not bench.model.module.training


def test_a_result_that_is_not_finite_names_client_and_remedy(bench):
    settings = bench.settings.train.model_copy(update={"learning_rate": float("inf")})
    with pytest.raises(TrainingError, match=r"finite after 1 steps; lower train\.learning-rate"):
        run_train(bench, settings=settings, steps=1)


def test_evaluation_is_the_plain_mean(bench):
    samples = bench.client(0).test
    score = evaluate(bench.model, bench.task, bench.model.initial, samples)
    logits = bench.model(bench.model.initial, samples)
    expected = torch.nn.functional.cross_entropy(logits, samples["labels"]).item()
    assert score.loss == pytest.approx(expected, rel=1e-5)
    hits = (logits.argmax(-1) == samples["labels"]).float().mean().item()
    assert score.accuracy == pytest.approx(hits)
    assert score.num_samples == len(samples["labels"])


def test_one_thread_gives_the_threads_back():
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_training_that_comes_too_late_stops(bench):
    now = time.monotonic()
    with pytest.raises(TrainingError, match="too late, stopped at step 1 of 5"):
        run_train(bench, deadline=now)
    run_train(bench, steps=1, deadline=now + 1000.0)
    run_train(bench, steps=1)
