"""The models and data sets that both libraries train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, LONGEST = 31, 12


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples that were made before, by index."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


def points(num_samples: int = 64, seed: int = 0) -> Rows:
    """Four numbers each, and their noisy sum."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, 4, generator=generator)
    noise = torch.randn(num_samples, generator=generator)
    return Rows([{"x": x[i], "labels": x[i].sum() + 0.1 * noise[i]} for i in range(num_samples)])


def sentences(num_samples: int = 64, seed: int = 0) -> Rows:
    """Padded token sequences of 3 to 12 tokens; labels are -100 where nothing is to be learned."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for length in torch.randint(3, LONGEST + 1, (num_samples,), generator=generator).tolist():
        tokens = torch.zeros(LONGEST, dtype=torch.long)
        tokens[:length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        is_token = torch.arange(LONGEST) < length
        labels = torch.where(is_token, tokens, -100)
        samples.append({"input_ids": tokens, "attention_mask": is_token.long(), "labels": labels})
    return Rows(samples)


def classified(num_samples: int = 64, seed: int = 0) -> Rows:
    """The same sequences, each with one of three classes."""
    samples = sentences(num_samples, seed).samples
    return Rows([{**sample, "labels": sample["input_ids"].sum() % 3} for sample in samples])


def ragged(num_samples: int = 64, seed: int = 0) -> Rows:
    """Sequences without padding, as lists of numbers: `pad` makes a batch of them."""
    samples = []
    for sample in sentences(num_samples, seed).samples:
        length = int(sample["attention_mask"].sum())
        samples.append({"input_ids": sample["input_ids"][:length].tolist(), "labels": int(length % 3)})
    return Rows(samples)


def pad(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Make a batch of samples of `ragged`."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    tokens = [sample["input_ids"] + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    mask = [[1] * len(sample["input_ids"]) + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    labels = [sample["labels"] for sample in samples]
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


class Perceptron(nn.Module):
    """A plain module with dropout and a norm, so that there are parameters without weight decay."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.dropout, self.outer = nn.Dropout(dropout), nn.Linear(8, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.outer(self.dropout(torch.relu(self.norm(self.inner(x))))).squeeze(1)
        outputs = {"logits": logits}
        return outputs if labels is None else {"loss": functional.mse_loss(logits, labels), **outputs}


class TupleModel(Perceptron):
    """The same, returning a tuple."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        return tuple(super().forward(x, labels).values())


class Recurrent(Perceptron):
    """One that gives its output back with the next batch, as ``past_index`` asks."""

    def forward(self, x: Tensor, labels: Tensor, mems: Tensor | None = None) -> Any:  # type: ignore[override]
        logits = super().forward(x)["logits"]
        if mems is not None:
            logits = logits + 0.1 * mems.mean()
        return functional.mse_loss(logits, labels), logits.detach()


class Stream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """The same samples one after the other, without a length."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows.samples)


def causal_lm() -> nn.Module:
    """A Llama of one layer with attention dropout, whose loss is weighted by items."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LONGEST,
            attention_dropout=0.1,
            attn_implementation="eager",
        )
    )


def gpt2() -> nn.Module:
    """A GPT-2 of one layer: dropout everywhere, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=LONGEST, n_embd=16, n_layer=1, n_head=2))


def classifier(dropout: float = 0.1) -> nn.Module:
    """A BERT classifier of one layer with dropout."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=LONGEST,
            num_labels=3,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def weighted_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """A loss of a user: cross entropy of the next token, divided by the items of the whole step."""
    logits = outputs["logits"][:, :-1].flatten(0, 1)
    total = functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return total / num_items_in_batch


def flat(model: nn.Module) -> Tensor:
    """Return all weights as one vector of float64."""
    return torch.cat([parameter.detach().flatten().double() for parameter in model.parameters()])
