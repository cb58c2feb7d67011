"""Instruction data as people keep it: what is read of a row, and which tokens of it are learned."""

import json

import datasets
import pytest
import torch
from tiny_llama import make_tiny_llama

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.conversations import (
    ANSWER,
    FORMATS,
    recognised,
    recognised_unanswered,
)
from potara_flwr.data.examples import RowError
from potara_flwr.models.pretrained import load_tokenizer, tokenizer_of
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.chat import PLAIN_TEMPLATE, parts_of, stop_tokens
from potara_flwr.tasks.encoding import ids_of_parts
from potara_flwr.tasks.workbench import Workbench

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As ChatML has it, with marks around what the assistant says."""
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% generation %} {{ m['content'] | trim }}{{ eos_token }}"
    "{% endgeneration %}{% else %}[INST] {{ m['content'] | trim }} [/INST]{% endif %}{% endfor %}"
)
"""As the Llama 2 and Mistral families have it: no beginning of an answer, no system message."""
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen3 has it: the last answer alone begins with its (empty) thoughts."""
TALK = [
    {"role": "user", "content": "Is the blank yes?"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": " Which of these? "},
    {"role": "assistant", "content": "negative and positive"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_tokenizer(str(model))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(name, row):
    return FORMATS[name].read(row)


def learned(parts):
    return [part.text for part in parts if part.trained]


def learned_ids(tokenizer, parts):
    """The ids of all tokens, and which of them are learned."""
    ids = ids_of_parts(tokenizer, [part.text for part in parts])
    return (
        [token for part in ids for token in part],
        [int(part.trained) for part, some in zip(parts, ids, strict=True) for _ in some],
    )


@pytest.mark.parametrize("template", [CHATML, TRIMMED])
def test_the_learned_tokens_are_those_that_the_template_marks(tokenizer, template):
    talk = read("messages", {"messages": TALK})
    theirs = tokenizer.apply_chat_template(
        TALK, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, marks = learned_ids(tokenizer, parts_of(tokenizer, talk, template))
    # Ours end with the last answer.
    assert ids == theirs["input_ids"][: len(ids)]
    assert marks == theirs["assistant_masks"][: len(ids)]
    assert sum(marks) == sum(theirs["assistant_masks"]) > 0


def test_every_turn_of_the_assistant_is_learned_with_its_end(tokenizer):
    talk = read("messages", {"messages": [{"role": "system", "content": "Be kind."}, *TALK]})
    parts = parts_of(tokenizer, talk, CHATML)
    assert learned(parts) == ["no<|im_end|>", "negative and positive<|im_end|>"]
    assert parts[0].text.startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert parts[0].text.endswith("Is the blank yes?<|im_end|>\n<|im_start|>assistant\n")
    plain = parts_of(tokenizer, talk, PLAIN_TEMPLATE)
    assert learned(plain) == ["no<|end|>", "negative and positive<|end|>"]
    assert (
        plain[0].text == "### System:\nBe kind.\n\n### User:\nIs the blank yes?\n\n### Assistant:\n"
    )


def test_a_template_that_thinks_in_the_last_turn_alone(tokenizer):
    parts = parts_of(tokenizer, read("messages", {"messages": TALK}), THINKING)
    assert learned(parts) == [
        "no<|im_end|>", "<think>\n\n</think>\n\nnegative and positive<|im_end|>",
    ]  # fmt: skip


def test_what_a_template_does_not_take_is_said_with_the_cure(tokenizer):
    talk = read("messages", {"messages": [{"role": "system", "content": "Be kind."}, *TALK]})
    with pytest.raises(RowError, match=r"no system\); data.chat-template=false"):
        parts_of(tokenizer, talk, TRIMMED)
    forgetful = "{{ messages[-1]['content'] }}"
    with pytest.raises(RowError, match=r"writes message 1 otherwise .* data.chat-template=false"):
        parts_of(tokenizer, read("messages", {"messages": TALK}), forgetful)


def test_formats_are_recognised_by_their_columns():
    assert recognised(["id", "messages"]) == "messages"
    assert recognised(["conversations", "source"]) == "conversations"
    assert recognised(["prompt", "completion"]) == "completion"
    assert recognised(["instruction", "input", "output"]) == "alpaca"
    assert recognised(["instruction", "context", "response", "category"]) == "dolly"
    assert recognised(["question", "reply"]) == ""


def said(talk):
    return [(message.role, message.content, message.trained) for message in talk.messages]


SAID = {"role": "user", "content": "Hello?"}
ASKED = {
    "messages": {"messages": [SAID]},
    "conversations": {"conversations": [{"from": "human", "value": "Hello?"}]},
    "completion": {"prompt": [SAID]},
    "alpaca": {"instruction": "Hello?", "input": ""},
    "dolly": {"instruction": "Hello?", "context": ""},
}
ANSWERED = {
    "messages": {"messages": [SAID, {"role": "assistant", "content": "Yes."}]},
    "conversations": {"conversations": [
        *ASKED["conversations"]["conversations"], {"from": "gpt", "value": "Yes."},
    ]},
    "completion": {"prompt": [SAID], "completion": [{"role": "assistant", "content": "Yes."}]},
    "alpaca": ASKED["alpaca"] | {"output": "Yes."},
    "dolly": ASKED["dolly"] | {"response": "Yes."},
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_asked_is_the_same_with_and_without_an_answer(name):
    form = FORMATS[name]
    asked, answered = (form.read(form.asking(rows[name])) for rows in (ASKED, ANSWERED))
    assert asked == answered
    *before, last = asked.messages
    assert [message.content for message in before] == ["Hello?"]
    assert (last.role, last.content, last.trained) == ("assistant", ANSWER, True)
    assert recognised_unanswered(list(ASKED[name])) == name
    assert not recognised(list(ASKED[name])) or name in ("messages", "conversations")


def test_what_asks_nothing_is_still_refused_by_its_column():
    form = FORMATS["messages"]
    for talk, why in (([], "no list of messages"), ("Hello?", "no list"), ([3], "message 0 has")):
        with pytest.raises(RowError) as refused:
            form.read(form.asking({"messages": talk}))
        assert refused.value.args[0] == "messages"
        assert why in refused.value.args[1]
    assert recognised_unanswered(["text", "label"]) == ""


def test_sharegpt_has_other_words_for_the_same():
    talk = read(
        "conversations",
        {
            "conversations": [
                {"from": "gpt", "value": "Welcome!"},
                {"from": "human", "value": "yes?"},
                {"from": "gpt", "value": "no", "weight": 0},
                {"from": "human", "value": "no?"},
                {"from": "gpt", "value": "yes"},
                {"from": "human", "value": "thanks"},
            ]
        },
    )
    # What answers nobody, and what nobody answers, is left out.
    assert said(talk) == [
        ("user", "yes?", False), ("assistant", "no", False),
        ("user", "no?", False), ("assistant", "yes", True),
    ]  # fmt: skip
    assert talk.skipped


def test_single_questions_with_a_text_that_belongs_to_them():
    row = {"instruction": "Choose.", "input": "yes or no", "output": "yes"}
    assert said(read("alpaca", row)) == [
        ("user", "Choose.\n\nyes or no", False), ("assistant", "yes", True),
    ]  # fmt: skip
    assert said(read("alpaca", {**row, "input": ""}))[0] == ("user", "Choose.", False)
    dolly = {"instruction": "Choose.", "context": "a or b", "response": "b"}
    assert [content for _, content, _ in said(read("dolly", dolly))] == ["Choose.\n\na or b", "b"]


def test_a_completion_is_taken_as_it_is_or_learned_alone():
    assert read("completion", {"prompt": "1 + 1 =\n", "completion": "  2"}) == ("1 + 1 =\n", "  2")
    talk = read("completion", {"prompt": TALK[:3], "completion": TALK[3:]})
    assert [trained for _, _, trained in said(talk)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "row", "column", "why"),
    [
        ("messages", {"messages": "hello"}, "messages", "no list of messages"),
        ("messages", {"messages": [{"text": "a"}]}, "messages", "message 0 has neither role"),
        ("messages", {"messages": [{"role": "bob", "content": "a"}]}, "messages", "said by 'bob'"),
        ("messages", {"messages": TALK[:1]}, "messages", "no message of the assistant"),
        (
            "messages", {"messages": [TALK[0], {"role": "assistant", "content": None}]},
            "messages", "message 1, of the assistant, has no text",
        ),
        (
            "messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages", "message 0, of the user, has no text",
        ),
        ("alpaca", {"instruction": "a", "input": "b", "output": None}, "output", "it is empty"),
        ("completion", {"prompt": "a", "completion": " "}, "completion", "it is empty"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation_is_refused_by_its_column(name, row, column, why):
    with pytest.raises(RowError) as error:
        read(name, row)
    assert error.value.args[0] == column
    assert why in error.value.args[1]


def bench_of(model, path, **overrides):
    return Workbench(
        from_flat(
            {
                "task.name": "instruction", "task.model": str(model), "data.path": str(path),
                "data.num-clients": 1, "data.partition": "whole", "data.max-tokens": 200,
                "data.train-samples": 4, "calibration.samples": 2, "task.max-new-tokens": 3,
                **overrides,
            }
        )
    )  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_chat_is_one_sample_whose_loss_is_of_the_assistants_tokens(model, tmp_path, caplog):
    path = write(tmp_path / "chats.jsonl", [{"messages": TALK}] * 10)
    bench = bench_of(model, path)
    data = bench.client(0)
    assert "chats.jsonl: read as chats (columns messages)" in caplog.text
    samples = data.train
    tokenizer, _ = tokenizer_of(str(model))
    answer = samples["labels_answers"][0, 0][samples["labels_mask"][0, 0]]
    scored = samples["labels_answers"][0, 0][samples["labels_weights"][0, 0] > 0]
    assert tokenizer.decode(answer) == (
        "no<|end|>\n\n### User:\n Which of these? \n\n### Assistant:\nnegative and positive<|end|>"
    )
    assert tokenizer.decode(scored) == "no<|end|>negative and positive<|end|>"

    # Against the plain model on the whole text.
    batch = bench.task.collate({name: at[:1] for name, at in samples.items()})
    loss = bench.task.losses(bench.model(bench.model.initial, batch), batch)
    prompt = samples["input_ids"][0][samples["attention_mask"][0] == 1]
    ids = torch.cat([prompt, answer])
    labels = torch.where(samples["labels_weights"][0, 0][: len(answer)] > 0, answer, -100)
    labels = torch.cat([torch.full_like(prompt, -100), labels])
    with torch.no_grad():
        expected = bench.task.load_base_model()(input_ids=ids[None], labels=labels[None]).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_model_answers_the_last_turn_of_a_chat(model, tmp_path):
    bench = bench_of(model, write(tmp_path / "chats.jsonl", [{"messages": TALK}] * 10))
    tokenizer, _ = tokenizer_of(str(model))
    asked = {}

    def generate(batch, *, max_new_tokens, stop):
        asked.update(batch)
        right = tokenizer("negative and positive", add_special_tokens=False)["input_ids"]
        return torch.tensor([right] * len(batch["input_ids"]))

    class Answering:
        def __call__(self, batch):
            return bench.model(bench.model.initial, batch)

    Answering.generate = staticmethod(generate)
    _, scores = bench.task.scores(Answering(), bench.client(0).test)
    assert scores.tolist() == [1.0] * len(scores)
    row = asked["input_ids"][0][asked["attention_mask"][0] == 1]
    assert tokenizer.decode(row).endswith("Which of these? \n\n### Assistant:\n")


def test_a_long_chat_ends_with_the_last_turn_that_has_room(model, tmp_path):
    path = write(tmp_path / "chats.jsonl", [{"messages": TALK}] * 10)
    tokenizer, _ = tokenizer_of(str(model))
    data = bench_of(model, path, **{"data.max-tokens": 60}).client(0)
    assert data.rows.cut == data.rows.train + data.rows.calibration + data.rows.test == 10
    samples = data.train
    answer = samples["labels_answers"][0, 0][samples["labels_mask"][0, 0]]
    assert tokenizer.decode(answer) == "no<|end|>"
    with pytest.raises(SettingsError, match=r"row \d+: its longest answer has \d+ tokens"):
        bench_of(model, path, **{"data.max-tokens": 2}).client(0)


def test_columns_that_somebody_named_are_not_taken_for_a_format(model, tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"messages": TALK}] * 10)
    with pytest.raises(SettingsError, match=r"data.prompt-column is 'question', but rows.jsonl"):
        bench_of(model, path, **{"data.prompt-column": "question"}).client(0)


def test_the_tokenizers_template_is_used_unless_it_is_turned_off(model, tmp_path):
    folder = tmp_path / "model"
    make_tiny_llama(folder)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = TRIMMED
    tokenizer.save_pretrained(folder)
    path = write(tmp_path / "chats.jsonl", [{"messages": TALK}] * 10)

    def prompt(**settings):
        samples = bench_of(folder, path, **settings).client(0).train
        ids = samples["input_ids"][0][samples["attention_mask"][0] == 1]
        return tokenizer.decode(ids)

    assert prompt() == "<|begin|>[INST] Is the blank yes? [/INST]"
    assert prompt(**{"data.chat-template": False}).startswith("<|begin|>### User:\nIs the blank")


@pytest.mark.parametrize(
    ("template", "ends"),
    [(CHATML, "<|im_end|>"), (THINKING, "<|im_end|>"), (TRIMMED, None), ("", None)],
    ids=["chatml", "thinking", "trimmed", "none"],
)
def test_an_answer_ends_with_its_turn_or_with_the_text(tokenizer, template, ends):
    of_turn = [tokenizer.convert_tokens_to_ids(ends)] if ends else []
    assert stop_tokens(tokenizer, template) == [tokenizer.eos_token_id, *of_turn]


def test_a_template_that_takes_no_plain_chat_leaves_the_end_of_the_text(tokenizer):
    refuses = "{{ raise_exception('tools alone') }}"
    assert stop_tokens(tokenizer, refuses) == [tokenizer.eos_token_id]
