"""The code on a model card: with it, and without this package, an adapter gives the numbers of the
results.
"""

from __future__ import annotations

from torch import Tensor

from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.models.base_models import FOUR_BITS, HEAD_SEED
from potara_flwr.models.lora import LoraModel
from potara_flwr.models.pretrained import find_model
from potara_flwr.tasks.base import Task


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
"""


def _options(adapter: Adapter, task: Task, classes: tuple[str, ...]) -> list[str]:
    """Return the options with which the base model is loaded as in the run, and with a head of the
    adapter's classes.
    """
    settings = task.settings
    options = [f"dtype={settings.model.dtype!r}"]
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
