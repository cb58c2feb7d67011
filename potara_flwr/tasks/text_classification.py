"""Classes of texts or of pairs of texts, from any data set with columns of texts and of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.clients import Source, client_rows, content_rows, source_of
from potara_flwr.data.prepared import Columns, prepare_rows
from potara_flwr.data.sources import listed
from potara_flwr.models.base_models import load_text_classifier
from potara_flwr.models.pretrained import (
    check_length,
    check_tokens,
    load_tokenizer,
    tokenizer_of,
)
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Inputs, Samples, by_length
from potara_flwr.tasks.classification import Classification, client_data
from potara_flwr.tasks.usage import Usage, tokenizer_code

if TYPE_CHECKING:
    import datasets


class TextClassification(Classification):
    """Classification of texts by any model with a head for it."""

    auto_class = "AutoModelForSequenceClassification"
    content = "text"

    def load_base_model(self) -> nn.Module:
        """Load the model, with a head of as many classes as the data has."""
        return load_text_classifier(self.settings, len(self.classes))

    def processor(self) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer."""
        return load_tokenizer(self.settings.task.model)

    def usage(self) -> Usage:
        """Return how texts are classified."""
        name, data = self.settings.task.model, self.settings.data
        tokenizer, _ = tokenizer_of(name)
        pairs = any("+" in column for column in listed(data.text_column))
        texts = "first_texts, second_texts" if pairs else "texts"
        segments = pairs and "token_type_ids" in tokenizer.model_input_names
        pad = tokenizer.pad_token_id
        return Usage(
            imports=("AutoTokenizer",),
            loads=f"""{tokenizer_code(name, tokenizer, tokenizer.padding_side)}
for config in (base.config, base.config.get_text_config(decoder=True)):
    config.pad_token_id = {pad}""",
            inputs=f"`{texts}`: lists of texts, none empty.",
            runs=f"""inputs = tokenizer(
    {texts}, padding=True, truncation=True, max_length={max_tokens(self.settings)},
    return_token_type_ids={segments}, return_tensors="pt",
)
with torch.no_grad():
    logits = model(**inputs).logits
predicted = [model.config.id2label[at] for at in logits.argmax(-1).tolist()]""",
        )

    def load_client(self, client: int) -> ClientData:
        """Load and tokenize the texts of one client: token ids and attention mask, (n, tokens)."""
        held = client_rows(self.settings, client, self.content)

        def prepare(
            rows: datasets.Dataset, positions: Tensor, labels: Tensor
        ) -> tuple[Samples, int]:
            who = f"client {client}"
            samples, cut = text_samples(rows, positions, held.source, self.settings, who)
            return by_length({**samples, "labels": labels}), cut

        return client_data(self.settings, client, held, prepare)

    def load_inputs(self) -> Inputs:
        """Load all texts of ``data.path``, as :meth:`load_client` does those of a client."""
        source = source_of(self.settings.data, 0, self.content)
        rows = content_rows(source)
        positions = torch.arange(len(rows))
        samples, cut = text_samples(rows, positions, source, self.settings)
        return Inputs({**samples, "labels": torch.zeros_like(positions)}, cut=cut)

    def collate(self, samples: Samples) -> Samples:
        """Cut the columns that are padding for every text of the batch; pad on the tokenizer's
        side, with its token, by which a decoder finds a text's last one.
        """
        tokenizer, _ = tokenizer_of(self.settings.task.model)
        mask = samples["attention_mask"]
        longest = int(mask.sum(1).max())
        if tokenizer.padding_side == "left":
            order = mask.argsort(dim=1, stable=True)[:, -longest:]
        else:
            order = torch.arange(longest, device=mask.device).expand(len(mask), -1)
        batch = {
            name: tensor if tensor.ndim == 1 else tensor.gather(1, order)
            for name, tensor in samples.items()
        }
        padding = batch["attention_mask"] == 0
        batch["input_ids"] = batch["input_ids"].masked_fill(padding, tokenizer.pad_token_id)
        return batch


CUT = "cut"
"""Column of prepared rows that says whether a text is longer than what is used of it."""


def max_tokens(settings: Settings) -> int:
    """Return how many tokens a text is cut to."""
    tokenizer, _ = tokenizer_of(settings.task.model)
    return int(min(settings.data.max_tokens, tokenizer.model_max_length))


def text_samples(
    rows: datasets.Dataset, positions: Tensor, source: Source, settings: Settings, who: str = ""
) -> tuple[Samples, int]:
    """Tokenize texts, padded to the longest; also return how many are cut.

    Parameters
    ----------
    who : str
        Whose they are, for error messages: a client, or, by default, whoever has the source.

    Raises
    ------
    SettingsError
        A text is empty or no text, or longer than the model takes; names source, column and client.
    """
    name, of_whom = settings.task.model, f", of {who}," if who else ""
    tokenizer, version = tokenizer_of(name)
    columns = [column for _, column in source.contents]
    for setting, column in source.contents:
        for position, text in zip(positions.tolist(), rows[column], strict=True):
            if text is not None and not isinstance(text, str):
                raise SettingsError(f"{setting}: {source.where}, column {column!r} holds no texts")
            if not (text or "").strip():
                raise SettingsError(
                    f"{setting}: {source.where}, column {column!r}: row {position}{of_whom} is "
                    "empty; remove it from the data"
                )
    most = max_tokens(settings)

    def tokenized(texts: Columns) -> Columns:
        given = [texts[column] for column in columns]
        encoded = dict(
            tokenizer(
                *given,
                truncation=True,
                max_length=most,
                # Only pairs have a second segment that a model could tell from the first.
                return_token_type_ids=len(columns) > 1
                and "token_type_ids" in tokenizer.model_input_names,
            )
        )
        whole = tokenizer(*given, truncation=False, verbose=False)["input_ids"]
        return encoded | {CUT: [len(ids) > most for ids in whole]}

    encoded = prepare_rows(rows, tokenized, columns, most, version)
    cut = sum(encoded[CUT])
    tokens = encoded.remove_columns(CUT)[:]
    samples: Samples = dict(tokenizer.pad(tokens, padding=True, return_tensors="pt"))
    for at in (samples["attention_mask"].sum(1) == 0).nonzero()[:1]:
        raise SettingsError(
            f"{setting}: {source.where}, column {column!r}: row {int(positions[at])}{of_whom} "
            f"has no token of task.model {name!r}; remove it from the data, or mend the "
            "tokenizer"
        )
    check_length(name, samples["input_ids"].shape[1], who or source.where)
    check_tokens(name, samples["input_ids"], who or source.where)
    return samples, cut
