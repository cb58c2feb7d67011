"""Causal language models: tokens at the boundary, scores and losses against plain transformers."""

import pytest
import torch
from hub_copies import write_copies
from tiny_llama import make_tiny_llama
from tokenizers import Tokenizer, models, trainers
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MarianConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RwkvConfig,
    XLNetConfig,
    XLNetLMHeadModel,
)

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.base_models import load_causal_lm
from potara_flwr.models.padding import padding_side
from potara_flwr.models.pretrained import tokenizer_of
from potara_flwr.models.runner import AdaptedModel
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import num_samples, take
from potara_flwr.tasks.causal import prompts_of
from potara_flwr.tasks.encoding import ids_of_parts
from potara_flwr.tasks.multiple_choice import option_scores
from potara_flwr.tasks.shared_prompt import log_probabilities
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import evaluate, train

BEGIN, END = 0, 1


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    return {
        "task.model": str(make_tiny_llama(folder / "model")),
        "data.root": str(
            write_copies(folder / "root", ["arc_easy", "hellaswag", "squad_v1"], rows=12)
        ),
    }


def bench_of(places, name, datasets="arc_easy,hellaswag", **overrides):
    return Workbench(
        from_flat(
            {
                **places,
                "task.name": name,
                "task.max-new-tokens": 6,
                "data.datasets": datasets,
                "data.num-clients": datasets.count(",") + 1,
                "data.max-tokens": 128,
                "lora.rank": 2,
                "train.batch-size": 4,
                "calibration.samples": 5,
                **overrides,
            }
        )
    )


def trained(bench, client=0):
    adapter, _ = train(
        bench.model, bench.task, bench.model.initial, bench.client(client).train,
        bench.settings.train, steps=3, seed=0, who="test",
    )  # fmt: skip
    return adapter


def answers_of(samples, row):
    """The prompt's ids and the ids of every answer, without padding."""
    prompt = samples["input_ids"][row][samples["attention_mask"][row] == 1]
    pairs = zip(samples["labels_answers"][row], samples["labels_weights"][row], strict=True)
    return prompt, [ids[weights > 0] for ids, weights in pairs if (weights > 0).any()]


def test_a_prompt_and_its_answers_are_whole_and_begin_with_the_begin_token(places):
    bench = bench_of(places, "multiple-choice")
    samples = bench.client(0).test
    tokenizer, _ = tokenizer_of(places["task.model"])
    for row in range(num_samples(samples)):
        prompt, answers = answers_of(samples, row)
        assert prompt[0] == BEGIN
        text = tokenizer.decode(prompt[1:])
        assert text.startswith("Question: What is a ")
        assert text.endswith(" made of?\nAnswer:")
        assert [tokenizer.decode(ids) for ids in answers] in (
            [f" material {key}" for key in keys] for keys in ("ABCD", "1234", "ABC", "ABCDE")
        )


def test_an_instruction_lists_the_options_and_its_answers_end(places):
    bench = bench_of(places, "instruction")
    tokenizer, _ = tokenizer_of(places["task.model"])
    prompt, answers = answers_of(bench.client(0).test, 0)
    assert "Choose from:\n- material " in tokenizer.decode(prompt)
    assert all(ids[-1] == END and END not in ids[:-1] for ids in answers)


def test_the_boundary_is_kept_where_a_token_would_span_it():
    # Without a pre-tokenizer, this one learns "r: y" as one token.
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<end>"])
    raw = Tokenizer(models.BPE())
    raw.train_from_iterator(["Answer: yes", "or: yes", "r: yes", "Answer:", " yes"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    asked = ids("Answer:")
    assert ids("Answer: yes")[: len(asked)] != asked
    assert ids_of_parts(tokenizer, ["Answer:", " yes"]) == [asked, ids(" yes")]


def test_the_boundary_follows_both_texts_together_where_no_token_spans_it(places):
    tokenizer, _ = tokenizer_of(places["task.model"])
    asked = tokenizer("Answer:", add_special_tokens=False)["input_ids"]
    together = tokenizer("Answer: positive", add_special_tokens=False)["input_ids"]
    first, second = ids_of_parts(tokenizer, ["Answer:", " positive"])
    assert (first, first + second) == (asked, together)


def test_a_long_prompt_loses_its_beginning_and_an_answer_nothing(places):
    full = bench_of(places, "multiple-choice").client(1).test
    short = bench_of(places, "multiple-choice", **{"data.max-tokens": 30}).client(1).test
    tokenizer, _ = tokenizer_of(places["task.model"])

    def texts(samples):
        found = (answers_of(samples, row) for row in range(num_samples(samples)))
        pairs = (([ids.tolist() for ids in answers], prompt.tolist()) for prompt, answers in found)
        return sorted(pairs, key=lambda pair: pair[1][::-1])  # by the end of the prompt

    for (all_answers, prompt), (answers, cut) in zip(texts(full), texts(short), strict=True):
        assert answers == all_answers
        assert len(cut) + max(map(len, answers)) == 30 < len(prompt) + max(map(len, answers))
        assert cut[0] == BEGIN
        assert prompt[-len(cut) + 1 :] == cut[1:]
        assert tokenizer.decode(cut).endswith("She")


@pytest.mark.parametrize("score", ["sum", "mean"])
@pytest.mark.parametrize("client", [0, 1])
def test_option_scores_equal_a_plain_loop_with_transformers(places, score, client):
    bench = bench_of(places, "multiple-choice", **{"task.option-score": score})
    samples = bench.client(client).test
    plain = AutoModelForCausalLM.from_pretrained(places["task.model"]).eval()
    batch = bench.task.collate(samples)
    with torch.no_grad():
        logits = bench.model(bench.model.initial, batch)
        scores = option_scores(logits, batch)
        # Logits are made for the longest answer alone, not for the prompts.
        assert logits.shape[1] == (batch["labels_weights"] > 0).sum(2).max()
        losses, correct = bench.task.scores(AdaptedModel(bench.model, bench.model.initial), samples)
        for row in range(num_samples(samples)):
            prompt, answers = answers_of(samples, row)
            expected = []
            for ids in answers:
                text = torch.cat([prompt, ids])[None]
                log_probs = plain(input_ids=text).logits[0].log_softmax(-1)
                each = log_probs[len(prompt) - 1 : -1].gather(1, ids[:, None])
                expected.append(each.sum() if score == "sum" else each.mean())
            found = scores[row]
            torch.testing.assert_close(found[: len(expected)], torch.stack(expected))
            assert (found[len(expected) :] == -torch.inf).all()
            label = samples["labels"][row]
            loss = -torch.stack(expected).log_softmax(0)[label]
            torch.testing.assert_close(losses[row], loss)
            assert correct[row] == float(torch.stack(expected).argmax() == label)
    if client == 0:
        assert (scores == -torch.inf).any()  # questions with fewer options were among them


def test_the_instruction_loss_is_the_one_of_transformers_on_answer_tokens(places):
    bench = bench_of(places, "instruction", "arc_easy,squad_v1")
    plain = AutoModelForCausalLM.from_pretrained(places["task.model"]).eval()
    for client in (0, 1):
        samples = bench.client(client).test
        batch = bench.task.collate(samples)
        losses = bench.task.losses(bench.model(bench.model.initial, batch), batch)
        adapted = AdaptedModel(bench.model, bench.model.initial)
        torch.testing.assert_close(bench.task.scores(adapted, samples)[0], losses)
        for row in range(num_samples(samples)):
            prompt, answers = answers_of(samples, row)
            answer = answers[samples["labels"][row]]
            text = torch.cat([prompt, answer])
            labels = torch.cat([torch.full_like(prompt, -100), answer])  # −100 is left out
            expected = plain(input_ids=text[None], labels=labels[None]).loss
            torch.testing.assert_close(losses[row], expected)


@pytest.mark.parametrize("name", ["multiple-choice", "instruction"])
@pytest.mark.parametrize("client", [0, 1])
def test_per_sample_gradients_equal_a_loop_of_single_samples(places, name, client):
    bench = bench_of(places, name)
    adapter = trained(bench, client)
    samples = bench.client(client).calibration

    together = per_sample_gradients(bench.model, bench.task, adapter, samples)
    in_parts = per_sample_gradients(bench.model, bench.task, adapter, samples, batch_size=2)

    for row in range(num_samples(samples)):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.items()}
        batch = bench.task.collate(take(samples, slice(row, row + 1)))
        loss = bench.task.losses(bench.model(leaves, batch), batch)
        torch.testing.assert_close(together.losses[row], loss[0])
        for one, gradient in zip(
            adapter, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True
        ):
            assert gradient.abs().max() > 0, one
            for found in (together, in_parts):
                torch.testing.assert_close(
                    found.gradients[one][row], gradient, rtol=1e-3, atol=1e-5
                )
    torch.testing.assert_close(in_parts.losses, together.losses)


def test_training_lifts_the_right_answers(places):
    for name in ("multiple-choice", "instruction"):
        bench = bench_of(places, name, "hellaswag", **{"train.learning-rate": 0.1})
        data = bench.client(0)
        before = evaluate(bench.model, bench.task, bench.model.initial, data.train).loss
        adapter, _ = train(
            bench.model, bench.task, bench.model.initial, data.train, bench.settings.train,
            steps=8, seed=0, who="test",
        )  # fmt: skip
        assert evaluate(bench.model, bench.task, adapter, data.train).loss < 0.9 * before


@pytest.mark.parametrize("name", ["multiple-choice", "instruction"])
def test_checkpoints_change_nothing_and_bfloat16_little(places, name):
    plain = bench_of(places, name, "hellaswag")
    saving = bench_of(places, name, "hellaswag", **{"model.gradient-checkpointing": True})
    small = bench_of(
        places, name, "hellaswag",
        **{"model.gradient-checkpointing": True, "model.dtype": "bfloat16"},
    )  # fmt: skip
    adapters = [trained(bench) for bench in (plain, saving, small)]
    for one, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][one], tensor)
        assert adapters[2][one].dtype == torch.float32
    samples = plain.client(0).test
    exact, coarse = (
        evaluate(bench.model, bench.task, adapters[0], samples).loss for bench in (plain, small)
    )
    assert coarse == pytest.approx(exact, rel=0.05)
    assert coarse != exact
    passed = per_sample_gradients(small.model, small.task, adapters[0], samples)
    expected = per_sample_gradients(plain.model, plain.task, adapters[0], samples)
    for one, gradient in passed.gradients.items():
        assert gradient.dtype == torch.float32
        cosine = torch.cosine_similarity(gradient.flatten(), expected.gradients[one].flatten(), 0)
        assert cosine > 0.95, one


@pytest.mark.parametrize("at_once", [1, 3])
def test_per_sample_gradients_with_checkpoints_keep_less_and_are_the_same(places, at_once):
    found, kept, adapter = [], [], None
    for checkpoints in (False, True):
        bench = bench_of(
            places, "multiple-choice", "hellaswag",
            **{"model.gradient-checkpointing": checkpoints, "lora.dropout": 0.5},
        )  # fmt: skip
        adapter = adapter or trained(bench)
        samples = take(bench.client(0).calibration, slice(0, 3))
        bytes_kept = 0

        def pack(tensor):
            nonlocal bytes_kept
            bytes_kept += tensor.nbytes
            return tensor

        for _ in range(2):  # the first time both ways are compared
            bytes_kept = 0
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                at = per_sample_gradients(bench.model, bench.task, adapter, samples, at_once)
        assert at.batched == (at_once > 1)
        assert not any(module.training for module in bench.model.module.modules())
        found.append(at)
        kept.append(bytes_kept)
    assert kept[1] < 0.5 * kept[0]
    torch.testing.assert_close(found[1].losses, found[0].losses)
    for name, gradient in found[0].gradients.items():
        torch.testing.assert_close(found[1].gradients[name], gradient)


def test_generation_is_the_most_likely_token_after_token_whatever_the_padding(places, caplog):
    bench = bench_of(places, "instruction", "squad_v1")
    adapter, samples = trained(bench), bench.client(0).test
    prompts = {name: samples[name] for name in ("input_ids", "attention_mask")}
    adapted = AdaptedModel(bench.model, adapter)
    # The token that most rows write third stops them there.
    free = adapted.generate(prompts, 6, [END])
    stop = int(free[:, 2].mode().values)
    written = adapted.generate(prompts, 6, [stop, END])
    assert (written == stop).any()
    for row in range(num_samples(samples)):
        text, _ = answers_of(samples, row)
        for token in written[row].tolist():
            inputs = {"input_ids": text[None], "attention_mask": torch.ones_like(text)[None]}
            assert token == bench.model(adapter, inputs)[0, -1].argmax()
            if token in (stop, END):
                break
            text = torch.cat([text, torch.tensor([token])])
        rest = written[row].tolist()
        if stop in rest and END not in rest:
            assert set(rest[rest.index(stop) :]) == {stop}
    assert "generation flags" not in caplog.text


class Parrot:
    """A model that writes given tokens and is otherwise ``model``."""

    def __init__(self, model, written):
        self.model, self.written = model, written

    def __call__(self, batch):
        return self.model(batch)

    def generate(self, batch, max_new_tokens, stop):
        assert (max_new_tokens, stop) == (6, [END])
        assert len(batch["input_ids"]) == len(self.written)
        return self.written


@pytest.mark.parametrize(("metric", "half"), [("f1", 2 / 3), ("exact-match", 0), ("rouge-l", 0.8)])
def test_free_answers_are_scored_by_the_text_metric(places, metric, half):
    bench = bench_of(places, "instruction", "squad_v1", **{"task.metric": metric})
    samples = bench.client(0).test
    tokenizer, _ = tokenizer_of(places["task.model"])
    texts = ["nothing"] * num_samples(samples)
    texts[0] = tokenizer.decode(answers_of(samples, 0)[1][0][:-1])
    texts[1] = tokenizer.decode(answers_of(samples, 1)[1][0][:-1]) + " maybe"
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    width = max(map(len, ids)) + 1
    written = torch.tensor([row + [END] * (width - len(row)) for row in ids])
    adapted = Parrot(AdaptedModel(bench.model, bench.model.initial), written)
    with torch.no_grad():
        _, scores = bench.task.scores(adapted, samples)
    assert scores[0] == 1
    assert scores[1] == pytest.approx(half)
    assert (scores[2:] == 0).all()


def test_questions_with_and_without_options_may_be_mixed(places):
    bench = bench_of(places, "instruction", "arc_easy,squad_v1")
    choices, free = (bench.client(client).test for client in (0, 1))
    adapted = AdaptedModel(bench.model, bench.model.initial)

    def padded(tensor, like, left=False):
        grown = tensor.new_zeros(len(tensor), *like.shape[1:])
        at = [slice(-size, None) if left else slice(size) for size in tensor.shape[1:]]
        grown[(slice(None), *at)] = tensor
        return grown

    # The free questions take the room of the longer prompts and of the five options.
    assert choices["input_ids"].shape[1] > free["input_ids"].shape[1]
    mixed = {}
    for name, tensor in choices.items():
        left = name in ("input_ids", "attention_mask")
        like = torch.empty([max(a, b) for a, b in zip(tensor.shape, free[name].shape, strict=True)])
        mixed[name] = torch.cat([padded(part, like, left) for part in (tensor, free[name])])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = [bench.task.scores(adapted, part) for part in (choices, free)]
        together = bench.task.scores(adapted, take(mixed, order))
    for one, two, both in zip(*apart, together, strict=True):
        torch.testing.assert_close(torch.cat([one, two])[order], both)


def test_log_probabilities_do_not_depend_on_the_batch(places):
    bench = bench_of(places, "multiple-choice")
    samples = bench.client(1).test
    with torch.no_grad():
        batch = bench.task.collate(samples)
        together = log_probabilities(
            bench.model(bench.model.initial, batch), batch["labels_answers"]
        )
        for row in range(num_samples(samples)):
            alone = bench.task.collate(take(samples, slice(row, row + 1)))
            single = log_probabilities(
                bench.model(bench.model.initial, alone), alone["labels_answers"]
            )
            used = alone["labels_weights"][0] > 0
            torch.testing.assert_close(
                single[0][used], together[row][: used.shape[0], : used.shape[1]][used]
            )


BART = BartConfig(
    vocab_size=320, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=16,
    is_decoder=True, init_std=0.2, max_position_embeddings=160,
)  # fmt: skip
COUNTING = {
    "bloom": (BloomConfig(vocab_size=320, hidden_size=16, n_layer=2, n_head=2), "left"),
    "mamba": (MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=2), "left"),
    "bart": (BART, "right"),
    "marian": (
        MarianConfig(
            vocab_size=320, d_model=16, decoder_layers=2, decoder_attention_heads=2,
            decoder_ffn_dim=16, is_decoder=True, init_std=0.2, pad_token_id=2,
            forced_eos_token_id=1,
        ),
        "right",
    ),
    "roberta": (
        RobertaConfig(
            vocab_size=320, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, is_decoder=True, max_position_embeddings=164,
        ),
        "right",
    ),
    "rwkv": (
        RwkvConfig(vocab_size=320, hidden_size=16, num_hidden_layers=2, intermediate_size=16),
        "right",
    ),
}  # fmt: skip
"""Configurations of models that count positions themselves; where they take padding."""


@pytest.fixture
def counting(places, tmp_path, request):
    """The name of such a model, and a workbench of it."""
    folder = make_tiny_llama(tmp_path / "model")  # for its tokenizer
    config, _ = COUNTING[request.param]
    config.initializer_range = 0.2
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    bench = bench_of({**places, "task.model": str(folder)}, "instruction", "arc_easy,squad_v1")
    return request.param, bench


every_model = pytest.mark.parametrize("counting", COUNTING, indirect=True)


@every_model
def test_models_that_count_positions_give_the_losses_of_rows_without_padding(counting):
    name, bench = counting
    samples = bench.client(0).calibration
    batch = bench.task.collate(samples)
    assert bench.model.padding_side == COUNTING[name][1]
    together = bench.task.losses(bench.model(bench.model.initial, batch), batch)
    plain = AutoModelForCausalLM.from_pretrained(bench.settings.task.model)
    lengths = set()
    with torch.no_grad():
        for row in range(num_samples(samples)):
            prompt, answers = answers_of(samples, row)
            answer = answers[samples["labels"][row]]
            lengths.add(len(prompt))
            logits = plain(input_ids=torch.cat([prompt, answer])[None]).logits[0]
            loss = torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], answer)
            torch.testing.assert_close(together[row], loss, rtol=1e-4, atol=1e-5)
    assert len(lengths) > 1
    adapter = trained(bench)
    assert evaluate(bench.model, bench.task, adapter, samples).loss == pytest.approx(
        bench.task.losses(bench.model(adapter, batch), batch).mean().item(), rel=1e-4
    )


@every_model
def test_models_that_count_positions_give_the_gradients_of_rows_without_padding(counting):
    _, bench = counting
    samples, adapter = bench.client(0).calibration, trained(bench)
    together = per_sample_gradients(bench.model, bench.task, adapter, samples)
    assert together.batched
    for row in range(num_samples(samples)):
        one = take(samples, slice(row, row + 1))
        alone = per_sample_gradients(bench.model, bench.task, adapter, one)
        torch.testing.assert_close(alone.losses[0], together.losses[row], rtol=1e-4, atol=1e-5)
        for name, gradients in together.gradients.items():
            torch.testing.assert_close(
                alone.gradients[name][0], gradients[row], rtol=1e-3, atol=1e-5
            )


@every_model
def test_models_that_count_positions_write_what_they_write_without_padding(counting):
    _, bench = counting
    samples = bench.client(1).test
    plain = AutoModelForCausalLM.from_pretrained(bench.settings.task.model)
    prompts, mask = prompts_of(samples)
    written = bench.model.generate(
        bench.model.initial, {"input_ids": prompts, "attention_mask": mask}, 5, [END]
    )
    assert len(set(mask.sum(1).tolist())) > 1
    for row in range(len(prompts)):
        ids = prompts[row][mask[row] > 0][None]
        start = ids.shape[1]
        with torch.no_grad():
            while ids.shape[1] < start + 5 and not (ids[0, start:] == END).any():
                following = plain(input_ids=ids).logits[0, -1].argmax()
                ids = torch.cat([ids, following[None, None]], dim=1)
        expected = ids[0, start:]
        assert written[row, : len(expected)].tolist() == expected.tolist()
        assert (written[row, len(expected) :] == END).all()


@pytest.mark.parametrize("counts_from", [0, 3])
def test_a_model_that_counts_positions_from_another_number_counts_them_itself(counts_from):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2)
    ).eval()
    forward = model.forward

    def counting(input_ids, attention_mask=None, position_ids=None, **more):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None] + counts_from
        return forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **more
        )

    model.forward = counting
    assert padding_side(model, "m") == ("right" if counts_from else "left")


def test_a_model_that_minds_padding_on_either_side_is_refused():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2)
    ).eval()
    forward = model.forward

    def minding(input_ids, attention_mask=None, **more):
        found = forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        found.logits = found.logits * input_ids.shape[1]
        return found

    model.forward = minding
    with pytest.raises(SettingsError, match=r"'m', a GPT2LMHeadModel, which scores a text other"):
        padding_side(model, "m")


def test_a_model_in_which_tokens_see_those_after_them_is_refused():
    torch.manual_seed(0)
    model = XLNetLMHeadModel(
        XLNetConfig(vocab_size=8, d_model=8, n_layer=2, n_head=1, d_inner=8, initializer_range=0.2)
    ).eval()
    with pytest.raises(SettingsError, match="in which a token sees those after it") as error:
        padding_side(model, "m")
    assert "\n" not in str(error.value)


def test_a_language_model_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match="not a readable model"):
        load_causal_lm(from_flat({"task.model": "no/such"}))


def test_a_tokenizer_without_an_end_is_refused_where_answers_must_end(places, tmp_path):
    folder = make_tiny_llama(tmp_path / "endless")
    PreTrainedTokenizerFast.from_pretrained(
        folder, eos_token=None, pad_token="<|end|>"
    ).save_pretrained(folder)
    bench = bench_of({**places, "task.model": str(folder)}, "instruction")
    with pytest.raises(SettingsError, match="has no end-of-text token"):
        bench.client(0)
