"""``Seq2SeqTrainingArguments``: the arguments of models that generate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftrain.args.fields import argument
from hftrain.args.training import TrainingArguments


@dataclass(kw_only=True, repr=False)
class Seq2SeqTrainingArguments(TrainingArguments):
    """``TrainingArguments`` and what evaluation by generating needs."""

    sortish_sampler: bool = argument(False, "Put training samples of roughly similar length into one batch.")
    predict_with_generate: bool = argument(False, "Evaluate and predict by generating.")
    generation_max_length: int | None = argument(None, "Length that generation stops at; None: the model's.")
    generation_num_beams: int | None = argument(None, "Beams of the search; None: the model's.")
    generation_config: str | Path | Any | None = argument(
        None, "A generation configuration; or a JSON file, a folder or a model's name that holds one."
    )
