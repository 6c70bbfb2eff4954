"""``accelerator_config``: how batches are dealt to processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(kw_only=True)
class AcceleratorConfig:
    """The seven documented keys.

    Attributes:
        split_batches: the train batch size counts all processes together, not each one.
        dispatch_batches: one process reads and sends to the others; ``False`` lets each read its own, and ``None``
            lets each do so unless the data set is iterable only.
        even_batches: repeat samples from the start so that every process gets the same number of batches.
        use_seedable_sampler: the order of an epoch follows from seed and epoch alone.
        non_blocking: copies to the device do not wait for it.
        gradient_accumulation_kwargs: ``num_steps`` (instead of ``gradient_accumulation_steps``) and
            ``sync_each_batch`` (sum gradients over processes after every micro-batch: slower, less memory).
            ``adjust_scheduler`` and ``sync_with_dataloader`` may be said and change nothing, as in transformers: the
            schedule moves once per update, and an epoch ends with an update.
        use_configured_state: take over a process group that somebody else described.
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = True
    non_blocking: bool = False
    gradient_accumulation_kwargs: dict[str, Any] | None = None
    use_configured_state: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The stored form; ``use_configured_state`` describes this process and is left out."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "use_configured_state"}

    @property
    def sync_each_batch(self) -> bool:
        """Whether gradients are summed over processes after every micro-batch."""
        return bool((self.gradient_accumulation_kwargs or {}).get("sync_each_batch", False))

    @property
    def num_steps(self) -> int | None:
        """Micro-batches of an update, when they are given here."""
        return (self.gradient_accumulation_kwargs or {}).get("num_steps")


KEYS: Mapping[str, bool] = {  # key -> whether None is a value
    "split_batches": False,
    "dispatch_batches": True,
    "even_batches": False,
    "use_seedable_sampler": False,
    "non_blocking": False,
    "use_configured_state": False,
}
