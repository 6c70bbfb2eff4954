"""Tiny models that generate, and ragged data for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

PAD, EOS, SIZE = 0, 1, 24


def t5() -> T5ForConditionalGeneration:
    """A model whose generations differ and end at different places: one batch of `samples` is narrower than others."""
    torch.manual_seed(8)
    tokens = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=SIZE, tie_word_embeddings=False, initializer_factor=5.0, **sizes, **tokens)
    )
    model.lm_head.weight.data[EOS] *= 1.5
    return model


def bart() -> BartForConditionalGeneration:
    torch.manual_seed(1)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2}
    return BartForConditionalGeneration(BartConfig(vocab_size=SIZE, **sizes, **heads, **tokens))


def samples(num: int = 10, *, has_labels: bool = True) -> list[dict[str, list[int]]]:
    draw = torch.Generator().manual_seed(0)
    rows = []
    for index in range(num):
        row = {"input_ids": torch.randint(3, SIZE, (3 + index % 4,), generator=draw).tolist()}
        if has_labels:
            row["labels"] = torch.randint(3, SIZE, (2 + index % 5,), generator=draw).tolist() + [EOS]
        rows.append(row)
    return rows


class Collator:
    """Fills up with the pad token, the labels with -100, and shifts the labels into decoder inputs."""

    def __init__(self, model: Any, *, is_shifting: bool = True) -> None:
        self.shift = model.prepare_decoder_input_ids_from_labels if is_shifting else None

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        inputs = filled_up([row["input_ids"] for row in rows], PAD)
        batch = {"input_ids": inputs, "attention_mask": (inputs != PAD).long()}
        if "labels" in rows[0]:
            batch["labels"] = filled_up([row["labels"] for row in rows], -100)
            if self.shift is not None:
                batch["decoder_input_ids"] = self.shift(labels=batch["labels"])
        return batch


def filled_up(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def arguments(folder: Path, **given: Any) -> dict[str, Any]:
    basic = {"predict_with_generate": True, "per_device_eval_batch_size": 3, "report_to": "none", "use_cpu": True}
    return {"output_dir": str(folder), "disable_tqdm": True, **basic, **given}
