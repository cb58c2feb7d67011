"""What a model card says besides the numbers: to the hub, what the adapter is; to its reader, the
code with which, without this package, it gives the numbers of the results.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import Tensor

from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.models.base_models import FOUR_BITS, HEAD_SEED
from potara_flwr.models.lora import LoraModel
from potara_flwr.models.pretrained import find_model
from potara_flwr.tasks.base import Task

KINDS = {
    "AutoModelForCausalLM": ("CAUSAL_LM", "text-generation"),
    "AutoModelForSequenceClassification": ("SEQ_CLS", "text-classification"),
    "AutoModelForImageClassification": (None, "image-classification"),
}
"""Auto class → peft's type of task, where it has one, and the hub's."""

METRICS = {"exact-match": "exact_match", "rouge-l": "rouge"}
"""Metric of answers → the hub's name of it, where that is another."""


def task_type_of(adapter: Adapter, task: Task) -> str | None:
    """Return the type of task in an adapter's configuration, by which peft chooses a class. A
    classifier's makes peft look for a head, and is told of an adapter with one alone.
    """
    task_type, _ = KINDS[task.auto_class]
    return task_type if task_type != "SEQ_CLS" or _head(adapter) else None


def metadata(task: Task, title: str, accuracy: float | None) -> str:
    """Return the YAML at the head of a model card
    (https://huggingface.co/docs/hub/model-cards#model-card-metadata).

    Parameters
    ----------
    title : str
        Of the model.
    accuracy : float, optional
        On test data; told with the name of the data set.
    """
    settings, (_, pipeline_tag) = task.settings, KINDS[task.auto_class]
    base = settings.task.model_name or settings.task.model
    on_hub = not Path(find_model(base)).exists()
    answers = settings.task.name == "instruction" and not settings.data.options_column
    data = settings.data.datasets or settings.data.path or settings.task.name
    scored = EvalResult(
        task_type=pipeline_tag,
        dataset_type="own" if Path(data).exists() else data,
        dataset_name=f"{Path(data).name}, test samples of the federation",
        metric_type=METRICS.get(settings.task.metric, settings.task.metric)
        if answers
        else "accuracy",
        metric_value=round(accuracy, 4) if accuracy is not None else None,
    )
    return ModelCardData(
        base_model=base if on_hub else None,
        library_name="peft",
        license=license_of(find_model(settings.task.model)),
        model_name=title,
        pipeline_tag=pipeline_tag,
        tags=["lora", "federated-learning"],
        eval_results=[scored] if accuracy is not None else None,
    ).to_yaml()


def license_of(base: str) -> str | None:
    """Return the licence that the card in a base model's folder tells, None where none does."""
    card = Path(base) / "README.md"
    if not card.is_file():
        return None
    try:
        told = ModelCard.load(card).data.to_dict().get("license")
    except ValueError:  # no card, whatever else stands in a README
        return None
    return told if isinstance(told, str) else None


def code_section(
    adapter: Adapter, model: LoraModel, task: Task, classes: tuple[str, ...], folder: str
) -> str:
    """Return the end of a model card: how to load the adapter from ``folder``, and how to use it.

    Parameters
    ----------
    classes : tuple of str
        By name, of the head, where the adapter has one.
    """
    settings, usage = task.settings, task.usage()
    place = find_model(settings.task.model)
    options = _options(adapter, task, classes)
    imports = {task.auto_class, *usage.imports}
    if settings.model.quantize == "4bit":
        imports.add("BitsAndBytesConfig")
    loads = "\n".join(
        [
            *_seed_code(adapter, task),
            f"base = {task.auto_class}.from_pretrained(",
            *(f"    {line}," for line in [repr(place), *options]),
            ")",
            *([usage.loads] if usage.loads else []),
            *_head_code(adapter, model),
            f"model = PeftModel.from_pretrained(base, {folder!r}).eval()",
        ]
    )
    no_head = task.head_modules is None and not _head(adapter)
    more = (
        " Its head is the base model's own: each client keeps the one it trains." if no_head else ""
    )
    return f"""## How to load it

Base model: `{settings.task.model}`, at `{place}`, with weights of {settings.model.dtype}.{more}

```python
import torch
from peft import PeftModel
from transformers import {", ".join(sorted(imports))}

{loads}
```

## How to use it

{usage.inputs}

```python
{usage.runs}
```

## How to publish it

`hf upload USER/NAME {shlex.quote(folder)} --exclude run.json`, which names files of yours.
Others then have what it has learned from its data.
"""


def _options(adapter: Adapter, task: Task, classes: tuple[str, ...]) -> list[str]:
    """Return the options with which the base model is loaded as in the run, and with a head of the
    adapter's classes.
    """
    settings = task.settings
    options = [f"dtype={settings.model.dtype!r}"]
    if settings.model.attention != "auto":
        options.append(f"attn_implementation={settings.model.attention!r}")
    if settings.model.quantize == "4bit":
        values = FOUR_BITS | {"bnb_4bit_compute_dtype": settings.model.dtype}
        options.append(f"quantization_config=BitsAndBytesConfig(**{values!r})")
    if head := _head(adapter):
        options.append(f"num_labels={len(head[-1])}")
        if classes:
            names = dict(enumerate(classes))
            options.append(f"id2label={names!r}")
            options.append(f"label2id={ {name: at for at, name in names.items()}!r}")
        options.append("ignore_mismatched_sizes=True")
    return options


def _head(adapter: Adapter) -> list[Tensor]:
    """Return the tensors of an adapter's head, where it has one."""
    return [tensor for name, tensor in adapter.items() if kind_of(name) == "head"]


def _seed_code(adapter: Adapter, task: Task) -> list[str]:
    """Return the line by which what the checkpoint lacks is made anew as it was in the run."""
    if not _head(adapter):
        return []
    seed = derive_seed(task.settings.seed, HEAD_SEED)
    return [f"torch.manual_seed({seed})  # makes what the checkpoint lacks, such as a pooler"]


def _head_code(adapter: Adapter, model: LoraModel) -> list[str]:
    """Return the lines that keep a head in float32 on a base model of a smaller type."""
    if model.dtype.itemsize >= 4 or not _head(adapter):
        return []
    return [
        "# The head is of float32, and takes what the base model gives as float32.",
        f"for name in {model.head_modules!r}:",
        "    base.get_submodule(name).float().register_forward_pre_hook(",
        "        lambda _, args: tuple(arg.float() for arg in args)",
        "    )",
    ]
