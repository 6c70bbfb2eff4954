"""Losses over labels, and what they are averaged over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hftrain.errors import TaskError
from hftrain.types.outputs import IGNORED_LABEL


@dataclass(frozen=True)
class LabelSmoother:
    """Cross entropy against labels that give a share ``epsilon`` of their weight to all classes alike.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision (2016), section 7.

    Attributes:
        epsilon: the share, 0 to 1.
        ignore_index: the label of positions that do not count.
    """

    epsilon: float = 0.1
    ignore_index: int = IGNORED_LABEL

    def __call__(self, outputs: Any, labels: Tensor, shift_labels: bool = False) -> Tensor:
        """Return the mean over the labels that count, in nats: 0-d.

        Args:
            outputs: a mapping with "logits", or a sequence that begins with them: (..., classes).
            labels: class indices of the logits' leading shape, or with a last dimension of 1.
            shift_labels: the logits at a position are of the label behind it, as in causal language models.

        Raises:
            TaskError: there are no logits, or their shape is not that of the labels.
        """
        logits = _logits_of(outputs)
        if labels.dim() == logits.dim() and labels.shape[-1] == 1:
            labels = labels.squeeze(-1)
        if logits.shape[:-1] != labels.shape:
            raise TaskError(
                f"label_smoothing_factor needs labels of the shape of the logits without their last dimension. The "
                f"logits are {list(logits.shape)} and the labels {list(labels.shape)}. Set label_smoothing_factor=0.0 "
                "for a model that predicts no classes."
            )
        if shift_labels:
            logits, labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        counts = labels.ne(self.ignore_index)
        log_probs = functional.log_softmax(logits, dim=-1)
        of_label = log_probs.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        of_all = log_probs.sum(dim=-1, dtype=torch.float32)
        # Not torch's cross_entropy: its order of summation differs in the last digits, and runs would drift apart.
        nats = [-values.masked_fill(~counts, 0.0).sum() for values in (of_label, of_all)]
        num_labels, num_classes = counts.sum(), logits.shape[-1]
        of_label, of_all = nats[0] / num_labels, nats[1] / (num_labels * num_classes)
        return (1 - self.epsilon) * of_label + self.epsilon * of_all


def _logits_of(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    if not isinstance(outputs, Mapping):
        return outputs[0]  # type: ignore[no-any-return]
    if "logits" not in outputs:
        raise TaskError(
            f"label_smoothing_factor needs logits, and the model returned {', '.join(outputs) or 'nothing'}. Return "
            "them as 'logits', or set label_smoothing_factor=0.0."
        )
    return outputs["logits"]  # type: ignore[no-any-return]


def count_labels(batches: Sequence[Any]) -> Tensor | None:
    """Return how many labels of the batches' "labels" count, 0-d, on their device; None where there are no tensors."""
    counted = []
    for batch in batches:
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor):
            return None
        counted.append(labels.ne(IGNORED_LABEL).sum())
    if len(counted) == 1:
        return counted[0]
    return torch.stack(counted).sum() if counted else None


def scalar_loss(source: str, loss: Any) -> Tensor:
    """Return a loss of one element as 0-d.

    Args:
        source: who returned it, for the message.
        loss: what was returned.

    Raises:
        TaskError: it is no tensor, has more than one element, or depends on nothing that is trained.
    """
    if not isinstance(loss, Tensor):
        raise TaskError(f"{source} returned {type(loss).__name__}. Return the loss tensor.")
    if loss.numel() != 1:
        raise TaskError(
            f"{source} returned a loss of shape {tuple(loss.shape)}; it must be a scalar (0-d). "
            "Average it, for example with loss.mean()."
        )
    if not loss.requires_grad:
        raise TaskError(
            f"{source} returned a loss that does not require grad, so there is nothing to learn from. Compute it from "
            "trainable parameters, without detach(), .item() or torch.no_grad()."
        )
    return loss.reshape(())
