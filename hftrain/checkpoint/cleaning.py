"""Which folders of an output folder go after a commit: torn ones, and this run's surplus."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from hftrain.checkpoint.catalog import CheckpointFolder, Status
from hftrain.checkpoint.layout import INCOMPLETE
from hftrain.checkpoint.retention import Candidate, Policy, every, limit, named, surplus


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What the user asked to be kept.

    Attributes:
        limit: so many of the newest; None for all.
        every: beside them those whose step is a multiple of this; None for none.
    """

    limit: int | None = None
    every: int | None = None

    def going(
        self,
        found: Sequence[CheckpointFolder],
        *,
        run_id: str,
        newest: str | None,
        best: str | None,
        in_use: Collection[str],
        at_end: bool,
    ) -> list[str]:
        """The names of those that nothing keeps.

        Args:
            found: in the order of their commits.
            run_id: of this run; what another one committed is kept, whole or damaged.
            newest: the name of the one this process committed last; None before it did, and then torn ones stay.
            best: the name of the best.
            in_use: the names of those that are kept whatever they are.
            at_end: of training, where nothing was committed just now.
        """
        torn_may_go = newest is not None and not at_end
        going = [folder.name for folder in found if torn_may_go and _is_rubbish(folder, run_id)]
        if self.limit is not None:
            candidates = [
                Candidate(name=folder.name, step=folder.manifest.step)
                for folder in found
                if folder.status is Status.COMMITTED and folder.manifest and folder.manifest.run_id == run_id
            ]
            is_best_alone = at_end and self.limit == 1 and any(candidate.name == best for candidate in candidates)
            policies = self._policies(newest, best=best, is_best_alone=is_best_alone, at_end=at_end)
            going += [candidate.name for candidate in surplus(candidates, list(policies))]
        return [name for name in going if name not in in_use]

    def _policies(self, newest: str | None, *, best: str | None, is_best_alone: bool, at_end: bool) -> Iterator[Policy]:
        if self.limit is not None and not is_best_alone:
            yield limit(self.limit, best=best)
        if best is not None:
            yield named({best})
        if not at_end and newest is not None:
            yield named({newest})
        if self.every is not None:
            yield every(self.every)


def torn_bytes(found: Sequence[CheckpointFolder], run_id: str) -> int:
    """Bytes in folders that go with the next commits, or are written over by them."""
    return sum(entry.num_bytes for folder in found if _is_rubbish(folder, run_id) for entry in folder.files.values())


def _is_rubbish(folder: CheckpointFolder, run_id: str) -> bool:
    """Whether it is torn, and this run's or never committed: what another run committed is not ours to judge."""
    is_begun = INCOMPLETE in folder.files or not folder.files
    is_own = folder.manifest is not None and folder.manifest.run_id == run_id
    return folder.status is Status.TORN and (is_begun or is_own)
