"""Noise on the input embeddings while a model trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hftrain.errors import ConfigurationError
from hftrain.trainer.construction import base_of

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from hftrain.trainer.trainer import Trainer


def add_embedding_noise(model: nn.Module, alpha: float) -> RemovableHandle:
    """Add uniform noise to what the input embeddings return in train mode; the handle's ``remove`` ends it.

    Its range is ``alpha / sqrt(length * width)``. Source: Jain et al., NEFTune: Noisy Embeddings Improve Instruction
    Finetuning (2023).

    Raises:
        ConfigurationError: the model has no ``get_input_embeddings``.
    """
    embeddings: Any = input_embeddings(model)
    embeddings.neftune_noise_alpha = alpha
    handle: RemovableHandle = embeddings.register_forward_hook(_with_noise)
    return handle


def input_embeddings(model: nn.Module) -> nn.Module:
    """Return the module that embeds the input.

    Raises:
        ConfigurationError: the model does not say which one that is.
    """
    base = base_of(model)
    get = getattr(base, "get_input_embeddings", None)
    if get is None:
        raise ConfigurationError(
            f"neftune_noise_alpha needs a model with get_input_embeddings(), and {type(base).__name__} has none. "
            "Define it to return the nn.Embedding, or leave neftune_noise_alpha out."
        )
    return get()  # type: ignore[no-any-return]


def _with_noise(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    if not module.training:
        return output
    alpha: Any = module.neftune_noise_alpha
    reach = float(alpha / torch.tensor(output.shape[-2] * output.shape[-1]).sqrt())
    return output + torch.empty_like(output).uniform_(-reach, reach)


@contextmanager
def embedding_noise(trainer: Trainer) -> Iterator[None]:
    """Train with noise on the embeddings while the context is open, if the arguments ask for it."""
    if trainer.neftune_noise_alpha is None:
        yield
        return
    trainer.model = trainer._activate_neftune(trainer.model)
    try:
        yield
    finally:
        trainer._deactivate_neftune(trainer.model)
