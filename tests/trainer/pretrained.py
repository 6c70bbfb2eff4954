"""A tiny language model of transformers, its tokenizer, its adapters and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hftrain import Trainer, TrainerCallback
from tests.trainer.tasks import arguments

VOCABULARY = 11


class Sentences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Sequences of five tokens."""

    def __init__(self, num_samples: int = 32) -> None:
        self.tokens = torch.randint(VOCABULARY, (num_samples, 5), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class StopAt(TrainerCallback):
    """Stand in for an interruption: training ends at a step, whatever was planned."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


def language_model(seed: int = 0) -> Any:
    """A GPT-2 of one layer: dropout, and a head tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1
    )
    return GPT2LMHeadModel(config)


def tokenizer() -> Any:
    """A tokenizer of eleven words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    model = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


def pretrained_trainer(
    folder: Path | str, model: nn.Module | None = None, kind: type[Trainer] = Trainer, **changes: Any
) -> Trainer:
    """A Trainer over a model and `Sentences`: 8 samples a batch, 8 steps, a checkpoint each."""
    parameters = {name: changes.pop(name) for name in ("callbacks", "processing_class") if name in changes}
    settings = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 1, **changes}
    return kind(
        model=model if model is not None else language_model(),
        args=arguments(folder, **settings),
        train_dataset=Sentences(),
        eval_dataset=Sentences(8),
        **parameters,
    )
