"""The files of a model, by what it is: a task, a pretrained model, adapters on one, or any module.

``transformers`` and ``peft`` are not imported: a model of theirs can only exist once its library is.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hftrain.checkpoint.contents import Part, document_part, files_part, model_part
from hftrain.checkpoint.layout import is_model_file
from hftrain.checkpoint.storage import is_url
from hftrain.core.task import TaskModule
from hftrain.errors import CheckpointNotFoundError

if TYPE_CHECKING:
    from torch import nn

    from hftrain.checkpoint.reader import CheckpointReader

logger = logging.getLogger(__name__)

ADAPTER = "adapter_model"
"""The part that is an adapter's weights; adapters not named "default" have it in a folder of their name."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What did not fit when weights were loaded; tied names that came with another are not missing."""

    missing_keys: list[str]
    unexpected_keys: list[str]


# ---- saving -----------------------------------------------------------------------------------------


def model_parts(
    model: nn.Module, folder: str, *, state_dict: Mapping[str, Any] | None = None, max_shard_size: str | int
) -> list[Part]:
    """Return the parts that are the model.

    Adapters, and a model with a ``save_pretrained`` of its own, write their files into ``folder`` instead.

    Args:
        model: the user's module.
        folder: where the parts will be written.
        state_dict: the weights; default: the model's own.
        max_shard_size: for a model that writes its files itself.
    """
    if _writes_itself(model):
        options = {} if state_dict is None else {"state_dict": state_dict}
        return _written_by(lambda place: _save_pretrained(model, place, max_shard_size, **options), folder)
    state = model.state_dict() if state_dict is None else state_dict
    if isinstance(model, TaskModule):
        return [model_part(state), document_part("task", model.task_document())]
    if not is_pretrained(model):
        return [model_part(state)]
    left_out = getattr(model, "_keys_to_ignore_on_save", None) or ()
    state = {name: value for name, value in state.items() if name not in left_out}
    # Without weights to save, save_pretrained writes what describes the model: configurations and the user's code.
    files = files_of(lambda place: model.save_pretrained(place, state_dict={}))  # type: ignore[operator]
    description = {name: data for name, data in files.items() if not is_model_file(name)}
    tied = _tied_names(model, state)
    return [model_part(state, tied=tied, keep_untied=True), files_part("config", description)]


def processing_parts(*candidates: Any) -> list[Part]:
    """Return the files of the first candidate that is there, a tokenizer or a processor; none if none can be saved."""
    found = next((candidate for candidate in candidates if candidate is not None), None)
    save = getattr(found, "save_pretrained", None)
    if save is None:
        if found is not None:
            logger.warning("%s has no save_pretrained, so it is not saved with the model.", type(found).__name__)
        return []
    return [files_part("processing", files_of(save))]


def merged(parts: Iterable[Part]) -> list[Part]:
    """Return parts whose plain files are one part, where a later file replaces an earlier one of its name."""
    files: dict[str, bytes] = {}
    others = []
    for part in parts:
        if part.files:
            files |= part.files
        else:
            others.append(part)
    return [*others, files_part("files", files)] if files else others


def files_of(save: Callable[[str], object]) -> dict[str, bytes]:
    """Return what a function writes into the folder it is given: path inside it -> bytes."""
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
        }


def is_pretrained(model: object) -> bool:
    """Whether it is a model of transformers."""
    library = sys.modules.get("transformers.modeling_utils")  # the package itself would begin to import it
    return library is not None and isinstance(model, library.PreTrainedModel)


def is_peft(model: object) -> bool:
    """Whether it is a model of peft that can save its adapters alone: a mixed one cannot."""
    library = sys.modules.get("peft")
    return library is not None and isinstance(model, library.PeftModel)


def has_adapters(model: object) -> bool:
    """Whether only adapters of it are saved: peft's wrapper, or a model of transformers with adapters added."""
    return is_peft(model) or bool(getattr(model, "_hf_peft_config_loaded", False))


def _writes_itself(model: nn.Module) -> bool:
    if has_adapters(model):
        return True
    if not is_pretrained(model):
        return False
    is_own = type(model).save_pretrained is not sys.modules["transformers"].PreTrainedModel.save_pretrained  # type: ignore[attr-defined]
    return is_own or getattr(model, "hf_quantizer", None) is not None


def _save_pretrained(model: Any, folder: str, max_shard_size: str | int, **options: Any) -> None:
    if not has_adapters(model):
        options["max_shard_size"] = max_shard_size
    model.save_pretrained(folder, **options)


def _written_by(save: Callable[[str], object], folder: str) -> list[Part]:
    if is_url(folder):
        return [files_part("pretrained", files_of(save))]
    os.makedirs(folder, exist_ok=True)
    save(folder)
    return []


def _tied_names(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Return the names that the model's classes call copies of another: of two that are one memory, these go."""
    patterns = [
        f"{prefix}.{pattern}" if prefix else pattern
        for prefix, module in model.named_modules()
        for attribute in ("_tied_weights_keys", "_dynamic_tied_weights_keys")
        for pattern in getattr(module, attribute, None) or ()
    ]
    return {name for name in names if any(re.search(pattern, name) for pattern in patterns)}


def saved_tensors(model: nn.Module) -> list[Tensor]:
    """Return the tensors that are saved of a model: of one with adapters what trains, else all."""
    if has_adapters(model):
        return [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [value for value in model.state_dict().values() if isinstance(value, Tensor)]


# ---- loading ----------------------------------------------------------------------------------------


def load_weights(model: nn.Module, reader: CheckpointReader) -> LoadResult:
    """Load a checkpoint's weights into the model: adapters into one that has them, else all.

    Raises:
        CheckpointNotFoundError: the folder holds no weights for such a model.
        RuntimeError: a weight has another shape.
    """
    if has_adapters(model):
        return _load_adapters(model, reader)
    if not reader.has("model"):
        raise CheckpointNotFoundError(
            f"Can't find a valid checkpoint at {reader.path}: it has no weights of a {type(model).__name__}. It holds "
            f"{', '.join(reader.files) or 'nothing'}."
        )
    result = model.load_state_dict(reader.model(), strict=False)
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    missing = _without_tied(model, result.missing_keys)
    return LoadResult(
        missing_keys=[name for name in missing if name not in ignored], unexpected_keys=list(result.unexpected_keys)
    )


def _without_tied(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """Return those names whose memory no other name filled."""
    missing = list(missing)
    if not missing:
        return []
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    filled = {_memory(tensor) for name, tensor in state.items() if name not in missing}
    return [name for name in missing if name not in state or _memory(state[name]) not in filled]


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape)


def _load_adapters(model: Any, reader: CheckpointReader) -> LoadResult:
    from peft.utils.save_and_load import set_peft_model_state_dict  # peft is there: the model has its adapters

    names = list(model.peft_config)
    parts = {name: ADAPTER if name == "default" else f"{name}/{ADAPTER}" for name in names}
    found = {name: part for name, part in parts.items() if reader.has(part)}
    if not found and len(names) == 1 and reader.has(ADAPTER):
        found = {names[0]: ADAPTER}
    if not found:
        raise CheckpointNotFoundError(
            f"Can't find a valid checkpoint at {reader.path}: it has no weights of the adapters "
            f"{', '.join(names)}. It holds {', '.join(reader.files) or 'nothing'}."
        )
    missing, unexpected = [name for name in names if name not in found], []
    for name, part in found.items():
        tensors = reader.tensors(part)
        if not is_peft(model):  # transformers writes them as peft does, with the names of a wrapper
            tensors = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
        result = set_peft_model_state_dict(model, tensors, adapter_name=name)
        unexpected += result.unexpected_keys
        if not model.peft_config[name].is_prompt_learning:  # a prompt is loaded behind the result's back
            missing += [key for key in result.missing_keys if name in key.split(".")]
    return LoadResult(missing_keys=missing, unexpected_keys=unexpected)
