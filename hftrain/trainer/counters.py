"""What is counted of the batches of a run as they go by, for the Trainer's state and its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hftrain.core.counting import ObservedSource, TokenCounter
from hftrain.core.speed import speed_metrics
from hftrain.trainer.construction import base_of
from hftrain.trainer.overrides import is_replaced
from hftrain.types.state import TrainerState

if TYPE_CHECKING:
    from hftrain.core.ports import EpochSource
    from hftrain.core.timing import StepTimes
    from hftrain.trainer.trainer import Trainer


def observed(trainer: Trainer, source: EpochSource, times: StepTimes | None = None) -> EpochSource:
    """Return the source, counting what goes by, and how long it takes to come, if anything is to be counted."""
    trainer._token_counter = _token_counter(trainer)
    observers = [count for count in (trainer._token_counter, _flops_counter(trainer)) if count is not None]
    return ObservedSource(source, observers, times) if observers or times is not None else source


def settle_counts(trainer: Trainer) -> None:
    """Bring the counts of the state up to date. All ranks must call this."""
    if trainer._token_counter is not None:
        trainer._token_counter.settle()
    trainer.store_flos()


def tokens_per_second(trainer: Trainer, started: float) -> dict[str, float]:
    """Return the row that ``include_tokens_per_second`` asks for: what this process read since ``started``."""
    if not trainer.args.include_tokens_per_second or trainer._token_counter is None:
        return {}
    rows = speed_metrics("train", started, num_tokens=trainer._token_counter.num_tokens)
    return {name: value for name, value in rows.items() if name.endswith("tokens_per_second")}


def _token_counter(trainer: Trainer) -> TokenCounter | None:
    if not (trainer.args.include_num_input_tokens_seen or trainer.args.include_tokens_per_second):
        return None
    name = getattr(base_of(trainer.model), "main_input_name", "input_ids")
    if not trainer.args.include_num_input_tokens_seen:
        return TokenCounter(name, TrainerState())  # the rate is of this process, and the run's state is left alone
    is_shared = trainer._running_engine().world_size > 1
    return TokenCounter(name, trainer.state, trainer._sum_over_ranks if is_shared else None)


def _flops_counter(trainer: Trainer) -> Callable[[Any], None] | None:
    """Return what adds a batch's floating point operations to ``current_flos``; None when nothing tells them."""
    is_own = not is_replaced(trainer, "floating_point_ops")
    own = getattr(trainer.model, "floating_point_ops", None)
    if own is None and is_own:
        return None
    of_batch = _cached_by_size(own, base_of(trainer.model)) if is_own else trainer.floating_point_ops

    def count(batch: Any) -> None:
        trainer.current_flos += float(of_batch(batch))

    return count


def _cached_by_size(own: Any, model: nn.Module) -> Callable[[Any], float]:
    """Remember the result by the input's size for models of transformers, which walk all parameters at each call."""
    if not getattr(own, "__module__", "").startswith("transformers.modeling_utils"):
        return own  # type: ignore[no-any-return]
    name, known = getattr(model, "main_input_name", "input_ids"), dict[int, float]()

    def of_batch(batch: Any) -> float:
        entry = batch.get(name) if isinstance(batch, Mapping) else None
        if not isinstance(entry, Tensor):
            return own(batch)  # type: ignore[no-any-return]
        size = entry.numel()
        if size not in known:
            known[size] = own(batch)
        return known[size]

    return of_batch
