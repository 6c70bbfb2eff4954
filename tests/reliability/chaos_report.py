"""What chaos.py finds, and how it says it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.reliability.chaos_run import SAVE_STEPS, Instant

WORDS = {
    Instant.STARTING: "starting, nothing read yet",
    Instant.READING: "reading the checkpoint to resume from",
    Instant.STEPPING: "inside a step",
    Instant.EVALUATING: "evaluating",
    Instant.MARKING: "saving: the folder is marked",
    Instant.WRITING: "saving: a file is written",
    Instant.COMMITTING: "saving: the manifest is written",
    Instant.UNMARKING: "saving: committed, the mark goes",
    Instant.DELETING: "retention: a checkpoint is deleted",
    Instant.ENDING: "after the last step",
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One way to run.

    Attributes:
        share: of the kills of one process on a good disk.
        kills: where there is no share, how many there are beside 200 of those.
        disk: "plain", "failing" or "full".
        is_torchrun: whether the command is run, and not its agent forked.
    """

    name: str
    what: str
    arguments: dict[str, Any]
    share: float = 0.0
    kills: int = 0
    disk: str = "plain"
    processes: int = 1
    is_torchrun: bool = False


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A process that was killed, and what lay on the disk then.

    Attributes:
        step: steps done.
        committed: step of the newest checkpoint; 0 before the first commit.
        allowed: how many steps may be trained again.
    """

    instant: Instant
    step: int
    committed: int
    allowed: int

    @property
    def lost(self) -> int:
        return self.step - self.committed


@dataclass
class Trial:
    """One run, from its first start to its end.

    Attributes:
        leftovers: folders at the end that a run without kills does not leave.
        expected: the step that the next start goes on from; None where nobody knows.
        refused_saves: how many saves a bad disk refused.
        refused_ends: how many of them were the last of a process, which was started once more.
    """

    scenario: Scenario
    number: int
    kills: list[Kill] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    expected: int | None = None
    refused_saves: int = 0
    refused_ends: int = 0
    took_s: float = 0.0


def table(trials: list[Trial]) -> str:
    """Where the kills hit, by scenario."""
    names = list(dict.fromkeys(trial.scenario.name for trial in trials))
    hits = Counter((kill.instant, trial.scenario.name) for trial in trials for kill in trial.kills)
    early = Counter(trial.scenario.name for trial in trials for kill in trial.kills if not kill.committed)
    kills = Counter(trial.scenario.name for trial in trials for _ in trial.kills)
    refused = Counter({name: sum(it.refused_saves for it in trials if it.scenario.name == name) for name in names})
    body = {words: [hits[instant, name] for name in names] for instant, words in WORDS.items()}
    feet = {
        "all kills": [kills[name] for name in names],
        "  before the first commit": [early[name] for name in names],
        "saves that the disk refused": [refused[name] for name in names],
    }
    lost = {
        name: max((kill.lost for it in trials if it.scenario.name == name for kill in it.kills), default=0)
        for name in names
    }
    first = max(map(len, [*body, *feet]))
    widths = [max(6, len(name)) for name in [*names, "all"]]

    def row(words: str, cells: list[Any]) -> str:
        right = [str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([words.ljust(first), *right])

    head = row("killed while", [*names, "all"])
    rows = [[row(words, [*counts, sum(counts)]) for words, counts in part.items()] for part in (body, feet)]
    rows[1].append(row("steps trained again, at most", [*lost.values(), max(lost.values(), default=0)]))
    line = "-" * len(head)
    return "\n".join(["", head, line, *rows[0], line, *rows[1]])


def summary(trials: list[Trial], took_s: float) -> str:
    kills = [kill for trial in trials for kill in trial.kills]
    bad = [trial for trial in trials if trial.violations]
    left = sum(bool(trial.leftovers) for trial in trials)
    ends = sum(trial.refused_ends for trial in trials)
    return (
        f"\n{len(kills)} kills in {len(trials)} runs, {took_s:.0f} s: {len(bad)} violations."
        f"\nRuns are saved every {SAVE_STEPS} steps. {left} ended with a folder too many, killed after their last "
        f"commit or on a bad disk. {ends} starts ended because a bad disk refused the last save."
    )
