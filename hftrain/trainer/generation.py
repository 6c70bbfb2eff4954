"""How `Seq2SeqTrainer` generates: its settings, which of them contradict each other, and how wide tokens are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hftrain.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

    from hftrain.args.seq2seq import Seq2SeqTrainingArguments

_LENGTHS = ("max_length", "max_new_tokens")


def generation_arguments(given: Mapping[str, Any], args: Seq2SeqTrainingArguments) -> dict[str, Any]:
    """Return keyword arguments of ``generate``: those that were passed, then those of the training arguments.

    A ``max_length`` or ``num_beams`` of None means that it was not passed.
    """
    merged = {name: value for name, value in given.items() if name not in ("max_length", "num_beams")}
    merged |= {name: given[name] for name in ("max_length", "num_beams") if given.get(name) is not None}
    if args.generation_max_length is not None and all(given.get(name) is None for name in _LENGTHS):
        merged["max_length"] = args.generation_max_length
    if args.generation_num_beams is not None:
        merged.setdefault("num_beams", args.generation_num_beams)
    return merged


def check_generation(arguments: Mapping[str, Any], config: Any) -> None:
    """Raise if ``generate`` would pass over something that it is asked for.

    Args:
        arguments: what `generation_arguments` returned.
        config: the generation configuration, or None.

    Raises:
        ConfigurationError: ``max_length`` beside ``max_new_tokens``, which wins, or below ``min_length``; or several
            generations a sample, where predictions have one row for each.
    """
    sequences, where = _looked_up("num_return_sequences", arguments, config)
    if sequences is not None and sequences > 1:
        raise ConfigurationError(
            f"num_return_sequences={sequences} {where}: predictions hold one row for each sample. Set it to 1, or "
            "override prediction_step."
        )
    length = arguments.get("max_length")
    new, where = _looked_up("max_new_tokens", arguments, config)
    if length is not None and new is not None:
        raise ConfigurationError(
            f"max_length={length} (or generation_max_length) has no effect: max_new_tokens={new} {where} comes before "
            "it. Pass max_new_tokens instead, or pass max_new_tokens=None beside max_length."
        )
    least, where = _looked_up("min_length", arguments, config)
    if length is not None and least is not None and least > length:
        raise ConfigurationError(
            f"max_length={length} (or generation_max_length) is below min_length={least} {where}. Pass a max_length of "
            "at least that, or a smaller min_length."
        )


def _looked_up(name: str, arguments: Mapping[str, Any], config: Any) -> tuple[Any, str]:
    if name in arguments:
        return arguments[name], "among the arguments of generate"
    return getattr(config, name, None), "in the generation configuration"


def generation_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``generate`` starts from: the batch without decoder inputs that were made of its labels.

    It would continue from them, and they hold the answer.
    """
    labels, decoder = inputs.get("labels"), inputs.get("decoder_input_ids")
    if labels is None or decoder is None or labels.shape != decoder.shape:
        return dict(inputs)
    made_of_labels = ("decoder_input_ids", "decoder_attention_mask")
    return {name: value for name, value in inputs.items() if name not in made_of_labels}


def padded_width(width: int, config: Any) -> int | None:
    """Return the width that (batch, width) tokens are filled up to, or None if they stay as they are.

    That is the configuration's ``max_length``, or one more than its ``max_new_tokens`` (the token that the decoder
    starts with), whatever was passed to ``generate``: so most batches have one width.
    """
    longest, new = getattr(config, "max_length", None), getattr(config, "max_new_tokens", None)
    if longest is not None and width < longest:
        return int(longest)
    return int(new) + 1 if new is not None and width < new + 1 else None


def pad_token_of(processing_class: Any, model: nn.Module) -> int:
    """Return the token that fills up: the tokenizer's pad token, or else its end token; without one, the model's.

    Raises:
        ConfigurationError: there is none.
    """
    if hasattr(processing_class, "pad_token_id"):
        token = processing_class.pad_token_id
        token = processing_class.eos_token_id if token is None else token
    else:
        token = getattr(getattr(model, "config", None), "pad_token_id", None)
    if token is None:
        raise ConfigurationError(
            "Generations of different lengths are filled up with the pad token, and there is none. Set "
            "model.config.pad_token_id, or pass a processing_class that has one."
        )
    return int(token)


def load_generation_config(given: Any) -> Any:
    """Return a copy of a generation configuration, or the one that a JSON file, a folder or a model's name holds.

    Raises:
        ConfigurationError: transformers, which reads them, is not installed; it is something else; or settings
            contradict each other.
    """
    config = _read_generation_config(os.fspath(given)) if isinstance(given, str | os.PathLike) else deepcopy(given)
    if not hasattr(config, "validate"):
        raise ConfigurationError(
            f"generation_config={given!r} is a {type(given).__name__}. Pass a GenerationConfig, or a JSON file, a "
            "folder or a model's name that holds one."
        )
    try:
        config.validate(strict=True)  # as saving does, but before hours of training
    except ValueError as error:
        raise ConfigurationError(f"generation_config holds settings that contradict each other. {error}") from error
    return config


def _read_generation_config(path: str) -> Any:
    try:
        reader = import_module("transformers").GenerationConfig
    except ImportError as error:
        raise ConfigurationError(
            f'generation_config={path!r} is read by transformers, which is not installed: pip install "hftrain'
            '[transformers]"'
        ) from error
    folder, name = os.path.split(path) if os.path.isfile(path) else (path, None)
    return reader.from_pretrained(folder or os.curdir, name)
