"""Batches for language models: sources with padded targets, and tokens that are masked or predicted in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from hftrain.data.collators import padded
from hftrain.errors import DataError
from hftrain.types.outputs import IGNORED_LABEL


@dataclass
class DataCollatorForSeq2Seq:
    """Pads sources by the tokenizer and targets with a label that the loss leaves out.

    Args:
        tokenizer: pads the sources; its ``padding_side`` holds for the targets too.
        model: where it has ``prepare_decoder_input_ids_from_labels``, the batch gets ``decoder_input_ids``, which a
            loss that is computed outside the model (label smoothing) needs.
        padding: True or "longest" pads to the longest of the batch, "max_length" to ``max_length``, False not at all.
        max_length: for "max_length".
        pad_to_multiple_of: round the lengths up to a multiple of it.
        label_pad_token_id: pads the targets.
        return_tensors: "pt" for torch tensors, "np" for arrays.
    """

    tokenizer: Any
    model: Any = None
    padding: Any = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED_LABEL
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None) -> Any:
        """Make a batch; ``label``, or else ``labels``, holds a sample's target."""
        kind = return_tensors or self.return_tensors
        name = "label" if "label" in features[0] else "labels"
        labels = [feature.get(name) for feature in features]
        batch = padded(
            self.tokenizer,
            [{key: value for key, value in feature.items() if key != name} for feature in features],
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=kind,
        )
        if all(label is None for label in labels):
            batch["labels"] = None
            return batch
        batch["labels"] = self._targets(labels, kind)
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None:
            batch["decoder_input_ids"] = prepare(labels=batch["labels"])
        return batch

    def _targets(self, labels: list[Any], kind: str) -> Any:
        """Return (batch, longest target) int64."""
        if not self._pads:
            targets = np.array([list(label) for label in labels], dtype=np.int64)
        else:
            targets = np.full((len(labels), self._width(labels)), self.label_pad_token_id, dtype=np.int64)
            for row, label in zip(targets, labels, strict=True):
                row[self._place(len(row), len(label))] = np.asarray(label)
        return torch.from_numpy(targets) if kind == "pt" else targets

    def _place(self, width: int, length: int) -> slice:
        return slice(0, length) if self.tokenizer.padding_side == "right" else slice(width - length, width)

    @property
    def _pads(self) -> bool:
        return self.padding is not False and str(getattr(self.padding, "value", self.padding)) != "do_not_pad"

    def _width(self, labels: list[Any]) -> int:
        is_fixed = getattr(self.padding, "value", self.padding) == "max_length" and self.max_length is not None
        longest: int = self.max_length if is_fixed else max(len(label) for label in labels)  # type: ignore[assignment]
        multiple = self.pad_to_multiple_of or 1
        return -(-longest // multiple) * multiple


@dataclass
class DataCollatorForLanguageModeling:
    """Pads sequences and makes labels of them: of masked tokens (``mlm``), or of every token, for causal models.

    Args:
        tokenizer: pads, and knows the mask token, the special tokens and the size of the vocabulary.
        mlm: predict masked tokens; False: labels are the inputs, padding apart.
        mlm_probability: share of the tokens, special ones apart, that are to be predicted.
        mask_replace_prob: share of these that the mask token replaces.
        random_replace_prob: share of these that a random token replaces; the rest stays as it is.
        pad_to_multiple_of: round the length up to a multiple of it.
        return_tensors: "pt"; there are no others here.
        seed: of a generator of its own (each worker has seed + its number); None or 0 draws from torch's default.

    Raises:
        DataError: the tokenizer has no mask token, or a probability is none.
    """

    tokenizer: Any
    mlm: bool = True
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None
    generator: torch.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.return_tensors != "pt":
            raise DataError(f"return_tensors={self.return_tensors!r}: batches are torch tensors here. Set 'pt'.")
        if self.mlm and self.tokenizer.mask_token is None:
            raise DataError(
                f"mlm=True masks tokens, and {type(self.tokenizer).__name__} has no mask token. Set mlm=False for a "
                "causal language model, or give the tokenizer a mask token."
            )
        names = ("mlm_probability",) if self.mlm else ()
        for name in (*names, "mask_replace_prob", "random_replace_prob"):
            value = getattr(self, name)
            if value is None or not 0 <= value <= 1:
                raise DataError(f"{name}={value} is no probability. Set it to at least 0 and at most 1.")
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise DataError(
                f"mask_replace_prob={self.mask_replace_prob} and random_replace_prob={self.random_replace_prob} are "
                "shares of the same tokens and together more than 1. Lower one of them."
            )

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Any:
        """Make a batch of dicts with ``input_ids``, or of sequences of token numbers."""
        if self.seed and self.generator is None:
            worker = get_worker_info()
            self.generator = torch.Generator().manual_seed(self.seed + (0 if worker is None else worker.id))
        batch = self._padded(features)
        special = batch.pop("special_tokens_mask", None)
        if self.mlm:
            batch["input_ids"], batch["labels"] = self._masked(batch["input_ids"], special)
            return batch
        labels = batch["input_ids"].clone()
        if self.tokenizer.pad_token_id is not None:
            labels[labels == self.tokenizer.pad_token_id] = IGNORED_LABEL
        batch["labels"] = labels
        return batch

    def _padded(self, features: Sequence[Any]) -> Any:
        rows = [feature if isinstance(feature, Mapping) else {"input_ids": _ids(feature)} for feature in features]
        batch = padded(self.tokenizer, rows, return_tensors="pt", pad_to_multiple_of=self.pad_to_multiple_of)
        # Bare sequences are told apart from dicts, which ask for the mask that hides their padding.
        return batch if isinstance(features[0], Mapping) else {"input_ids": batch["input_ids"]}

    def _masked(self, inputs: Tensor, special: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (inputs, labels), both (batch, tokens); the labels of all but the chosen tokens are left out.

        The scheme, and the order of the draws, are those of BERT's pretraining in transformers.
        """
        if special is None:
            rows = inputs.tolist()
            special = torch.tensor(
                [self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in rows]
            )
        share = torch.full(inputs.shape, float(self.mlm_probability or 0.0)).masked_fill_(special.bool(), 0.0)
        chosen = self._drawn(share)
        labels = torch.where(chosen, inputs, IGNORED_LABEL)
        masked = self._drawn(torch.full(inputs.shape, float(self.mask_replace_prob))) & chosen
        inputs = inputs.masked_fill(masked, self.tokenizer.convert_tokens_to_ids(self.tokenizer.mask_token))
        if self.mask_replace_prob == 1 or self.random_replace_prob == 0:
            return inputs, labels
        of_the_rest = self.random_replace_prob / (1 - self.mask_replace_prob)
        replaced = self._drawn(torch.full(inputs.shape, of_the_rest)) & chosen & ~masked
        words = torch.randint(len(self.tokenizer), inputs.shape, dtype=torch.int64, generator=self.generator)
        return torch.where(replaced, words, inputs), labels

    def _drawn(self, share: Tensor) -> Tensor:
        return torch.bernoulli(share, generator=self.generator).bool()


def _ids(sequence: Any) -> list[int]:
    return [int(token) for token in sequence]
