"""Label smoothing, counting labels, and what is no loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain.core.losses import LabelSmoother, count_labels, scalar_loss
from hftrain.errors import TaskError


def by_hand(logits: Tensor, labels: Tensor, epsilon: float) -> float:
    """The definition, one counted position after the other."""
    costs = []
    for row, label in zip(logits.flatten(0, -2).double(), labels.flatten().tolist(), strict=True):
        if label != -100:
            nats = -row.log_softmax(0)
            costs.append((1 - epsilon) * nats[label] + epsilon * nats.mean())
    return float(torch.stack(costs).mean())


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_a_share_of_the_labels_weight_goes_to_all_classes_alike(epsilon: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 5), torch.tensor([[0, 1, 2, -100], [4, -100, -100, 3], [1, 1, 0, 2]])
    loss = LabelSmoother(epsilon)({"logits": logits}, labels)
    assert float(loss) == pytest.approx(by_hand(logits, labels, epsilon), abs=1e-6)


def test_shifted_labels_are_those_of_the_next_position() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    loss = LabelSmoother(0.1)((logits,), labels, shift_labels=True)
    assert float(loss) == pytest.approx(by_hand(logits[:, :-1], labels[:, 1:], 0.1), abs=1e-6)


@pytest.mark.parametrize("shift_labels", [False, True])
def test_the_loss_is_the_references(shift_labels: bool) -> None:
    from transformers.trainer_pt_utils import LabelSmoother as Reference

    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 7), torch.randint(7, (2, 6))
    labels[0, 3:] = -100
    ours = LabelSmoother(0.2)({"logits": logits}, labels.clone(), shift_labels=shift_labels)
    theirs = Reference(epsilon=0.2)({"logits": logits}, labels.clone(), shift_labels=shift_labels)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


def test_labels_may_have_a_last_dimension_of_one() -> None:
    logits, labels = torch.eye(3), torch.tensor([0, 1, 2])
    assert LabelSmoother()((logits,), labels.unsqueeze(1)).equal(LabelSmoother()((logits,), labels))


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ({"start": torch.ones(2)}, torch.ones(2), "needs logits, and the model returned start"),
        ((torch.ones(2, 3),), torch.ones(3), r"logits are \[2, 3\] and the labels \[3\]"),
    ],
)
def test_outputs_that_are_no_classes_are_named(outputs: Any, labels: Tensor, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        LabelSmoother()(outputs, labels)


def test_labels_of_a_step_are_counted_where_they_are_not_ignored() -> None:
    batches = [{"labels": torch.tensor([[1, -100], [2, 3]])}, {"labels": torch.tensor([[-100, -100]])}]
    assert int(count_labels(batches)) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("batches", [[], [{"x": torch.ones(1)}], [{"labels": [{"boxes": 1}]}], [torch.ones(2)]])
def test_nothing_is_counted_without_label_tensors(batches: list[Any]) -> None:
    assert count_labels(batches) is None


def test_a_loss_of_one_element_becomes_a_scalar() -> None:
    assert scalar_loss("compute_loss", torch.ones(1, 1, requires_grad=True)).shape == ()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(3, requires_grad=True), r"compute_loss returned a loss of shape \(3,\).*loss.mean"),
        (torch.ones(()), "does not require grad"),
        (0.5, "compute_loss returned float"),
    ],
)
def test_what_is_no_loss_is_described(loss: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        scalar_loss("compute_loss", loss)
