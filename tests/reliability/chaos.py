"""Proof by chaos: runs are killed at random instants, resumed until they are done, and must end as if never killed.

    python tests/reliability/chaos.py                  (make chaos) 200 kills of one process, and the scenarios below
    python tests/reliability/chaos.py --kills 12 --only now later --seed 3

Each trial is one run: it is started, killed with SIGKILL and started again by the same command several times, then
left to end. Where a kill is aimed is drawn from the seed: after a time, or at the n-th file operation, step or
evaluated batch of some kind, there at once or a little later. Where it hit is read from a board that outlives the
process (chaos_run.py), and counted in the table.

What must hold, else the exit code is 1:
  - no start fails: a process ends because it was killed, or because it is done;
  - after each kill every checkpoint with a valid manifest verifies in full, and the next start goes on from the newest;
  - steps that are trained again after a kill are at most the save interval; with saves in the background plus the steps
    that were done during one write;
  - final weights, loss, log rows and the files of the final checkpoints are, to the bit, those of a run that nobody
    killed.

Starting Python with torch takes 3 s and more, so the processes of the scenarios with one process are forked from this
one, which has imported everything, has started no thread, and never computes with torch. Those with two processes are
started by torchrun as anybody would.

What this does not show: a kill is no power cut. What was written and not yet flushed to the disk outlives a kill.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from hftrain.checkpoint.catalog import CheckpointFolder, Status, check_sums, scan  # noqa: E402
from hftrain.checkpoint.storage import LocalStorage  # noqa: E402
from hftrain.errors import TornCheckpointError  # noqa: E402
from tests.reliability.chaos_run import NUM_STEPS, SAVE_STEPS, Aim, Board, Instant, Job, Note, train_and_exit  # noqa: E402

LONGEST_S = 240.0
"""A process that takes longer hangs."""
SAME_FILES = ("model.safetensors", "optimizer.safetensors", "optimizer.json", "scheduler.json", "data.json")
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
PER_STEP = {  # how often each happens, about; once in a process where nothing is said
    Instant.READING: 3.0,
    Instant.STEPPING: 1.0,
    Instant.EVALUATING: 1.0,
    Instant.MARKING: 1 / SAVE_STEPS,
    Instant.WRITING: 11 / SAVE_STEPS,
    Instant.COMMITTING: 1 / SAVE_STEPS,
    Instant.UNMARKING: 1 / SAVE_STEPS,
    Instant.DELETING: 12 / SAVE_STEPS,
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One way to run.

    Attributes:
        share: of the kills of one process; 0 where ``kills`` says how many.
    """

    name: str
    what: str
    arguments: dict[str, Any]
    share: float = 0.0
    kills: int = 0
    disk: str = "plain"
    processes: int = 1


SCENARIOS = [
    Scenario(name="now", what="saves before it goes on", arguments={"save_async": False}, share=0.35),
    Scenario(name="later", what="saves in the background", arguments={"save_async": True}, share=0.35),
    Scenario(
        name="best",
        what="keeps and loads the best, in the background",
        arguments={
            "save_async": True,
            "eval_steps": SAVE_STEPS,
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
            "save_total_limit": 1,
        },
        share=0.2,
    ),
    Scenario(
        name="workers",
        what="two loader workers that augment",
        arguments={"save_async": False, "dataloader_num_workers": 2},
        share=0.1,
    ),
]


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
    """One run, from its first start to its end."""

    scenario: Scenario
    number: int
    kills: list[Kill] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    took_s: float = 0.0


# ---- one process ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class End:
    """How a start ended: killed by us, or by itself with an exit code."""

    is_killed: bool
    code: int


def start_forked(job: Job) -> End:
    """Fork a run, kill it where it is aimed at, and say how it ended."""
    with the_line(job) as line:
        pid = os.fork()
        if pid == 0:
            train_and_exit(job, 0)
        ended = os.pidfd_open(pid)
        try:
            is_hanging = not wait_and_kill(job, line, ended)
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(ended)
    code = os.waitstatus_to_exitcode(status)
    return End(is_killed=code == -signal.SIGKILL and not is_hanging, code=code)


def wait_and_kill(job: Job, line: int, ended: int) -> bool:
    """Wait for the end of a process, or for where it is aimed at and kill it there; False if it hung."""
    aim = job.aim
    timeout = aim.delay_s if aim is not None and aim.instant is None else LONGEST_S
    ready, _, _ = select.select([line, ended], [], [], timeout)
    if line in ready:
        assert aim is not None
        pid = int(os.read(line, 100).split()[0])
        select.select([ended], [], [], aim.delay_s)
        signal_if_alive(pid, signal.SIGKILL)
        return bool(select.select([ended], [], [], LONGEST_S)[0])
    if not ready:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        return aim is not None and aim.instant is None
    return True


@contextmanager
def the_line(job: Job) -> Iterator[int]:
    os.mkfifo(job.line)
    line = os.open(job.line, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield line
    finally:
        os.close(line)
        os.unlink(job.line)


def signal_if_alive(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


# ---- one trial --------------------------------------------------------------------------------------


def run_trial(scenario: Scenario, number: int, *, seed: int, folder: Path, whole: dict[str, Any]) -> Trial:
    """Start, kill, start again, until it is done; and compare with the run that nobody killed."""
    choose = random.Random(f"{seed} {scenario.name} {number}")
    trial, began = Trial(scenario, number), time.monotonic()
    job = new_job(scenario, folder)
    num_kills = choose.randint(3, 7)
    for start in range(40):
        aim = None
        if len(trial.kills) < num_kills and start < 3 * num_kills:
            aim = draw_aim(choose, trial, num_kills - len(trial.kills), usual_s=whole["took_s"])
        if not start_once(trial, replace(job, aim=aim)):
            break
    if not trial.violations:
        compare(trial, folder, whole)
    trial.took_s = time.monotonic() - began
    return trial


def new_job(scenario: Scenario, folder: Path) -> Job:
    folder.mkdir(parents=True)
    job = Job(folder=str(folder), output_dir=f"{folder}/run", arguments=scenario.arguments)
    Board(job.board, new=True)
    return job


def draw_aim(choose: random.Random, trial: Trial, kills_left: int, *, usual_s: float) -> Aim:
    """Draw where the next kill goes, so far ahead that those to come find something left to kill."""
    committed = trial.kills[-1].committed if trial.kills else 0
    ahead = (NUM_STEPS - committed) / kills_left
    if not committed and choose.random() < 0.4:
        ahead = SAVE_STEPS  # before the first commit
    instants = set(Instant)
    if not committed:
        instants.remove(Instant.READING)
    if kills_left > 1:
        instants.remove(Instant.ENDING)
    if committed == NUM_STEPS:
        instants &= {Instant.STARTING, Instant.READING, Instant.ENDING}
    instant = choose.choice([None, *sorted(instants)])
    if instant is None:
        return Aim(delay_s=choose.uniform(0.1, 1.0) * usual_s * ahead / NUM_STEPS)
    nth = 1 + int(PER_STEP.get(instant, 0.0) * ahead * choose.random())
    delay_s = 0.0 if choose.random() < 0.4 else 10 ** choose.uniform(-4.0, -1.7)
    return Aim(instant=instant, nth=nth, delay_s=delay_s, rank=choose.randrange(trial.scenario.processes))


def start_once(trial: Trial, job: Job) -> bool:
    """Start once, and look at what it left; whether it is to be started again."""
    board = Board(job.board)
    board[Note.STARTED] = 0
    board[Note.LOOP] = board[Note.FILES] = Instant.STARTING
    end = start_forked(job)
    if board[Note.STARTED] and trial.kills:
        check_resume(trial, resumed=board[Note.RESUMED])
    if end.is_killed:
        note_kill(trial, board, Path(job.folder))
    elif end.code != 0:
        hint = " (killed: it hung)" if end.code == -signal.SIGKILL else ""
        trial.violations.append(f"a start ended with exit code {end.code}{hint}: {last_error(job)}")
    return end.is_killed and not trial.violations


def check_resume(trial: Trial, *, resumed: int) -> None:
    last = trial.kills[-1]
    if resumed != last.committed:
        trial.violations.append(f"went on from step {resumed}, where step {last.committed} was committed")


def note_kill(trial: Trial, board: Board, folder: Path) -> None:
    """Look at the disk after a kill."""
    step = max(board[Note.STEP], 0)
    found = scan(LocalStorage(), str(folder / "run"))
    whole = [it for it in found if it.status is Status.COMMITTED and is_whole(it)]
    torn = [it.step or 0 for it in found if it.status is Status.TORN]
    committed = max((it.step or 0 for it in whole), default=0)
    begun = max((it for it in torn if committed < it <= step), default=step)
    kill = Kill(
        instant=board.instant(),
        step=step,
        committed=committed,
        allowed=SAVE_STEPS + (step - begun if trial.scenario.arguments["save_async"] else 0),
    )
    trial.kills.append(kill)
    for it in found:
        if it.status is Status.COMMITTED and it not in whole:
            trial.violations.append(f"{it.name} is committed, and its files are not those of its manifest")
    if kill.lost > kill.allowed:
        trial.violations.append(f"{kill.lost} steps are lost, {kill.allowed} may be; killed {WORDS[kill.instant]}")


def is_whole(folder: CheckpointFolder) -> bool:
    try:
        check_sums(LocalStorage(), folder, "full")
    except TornCheckpointError:
        return False
    return True


def last_error(job: Job) -> str:
    errors = Path(job.errors(0))
    lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
    return f"{lines[-1] if lines else 'it said nothing'} ({errors})"


# ---- the end ----------------------------------------------------------------------------------------


def train_whole(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """Train once without a kill; what all trials of the scenario are compared with."""
    job, began = new_job(scenario, folder), time.monotonic()
    end = start_forked(job)
    if end.code != 0:
        raise SystemExit(f"{scenario.name}: without any kill it ended with exit code {end.code}: {last_error(job)}")
    return {**outcome(folder), "took_s": time.monotonic() - began}


def outcome(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    found = scan(LocalStorage(), str(folder / "run"))
    result["folders"] = [it.name for it in found]
    result["files"] = {
        it.name: {name: record.sha256 for name, record in it.manifest.files.items() if name in SAME_FILES}
        for it in found
        if it.manifest is not None
    }
    return result


def compare(trial: Trial, folder: Path, whole: dict[str, Any]) -> None:
    ours = outcome(folder)
    trial.leftovers = sorted(set(ours["folders"]) - set(whole["folders"]))
    for name in ("weights", "training_loss", "rows", "best"):
        if ours[name] != whole[name]:
            trial.violations.append(f"final {name} are not those of the run that nobody killed")
    for name, files in whole["files"].items():
        if ours["files"].get(name) != files:
            trial.violations.append(f"{name} is not that of the run that nobody killed")


# ---- the command ------------------------------------------------------------------------------------


def main() -> int:
    options = parse()
    chosen = [it for it in SCENARIOS if not options.only or it.name in options.only]
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.dir))
    trials: list[Trial] = []
    began = time.monotonic()
    total = sum(it.share for it in chosen) or 1.0
    for scenario in chosen:
        whole = train_whole(scenario, folder / f"{scenario.name}-whole")
        preload(whole["modules"])
        wanted = scenario.kills or round(options.kills * scenario.share / total)
        trials += run_scenario(scenario, wanted, options.seed, folder, whole)
    print(table(trials))
    print(summary(trials, time.monotonic() - began))
    is_bad = any(trial.violations for trial in trials)
    if not is_bad:
        shutil.rmtree(folder)
    return int(is_bad)


def run_scenario(scenario: Scenario, wanted: int, seed: int, folder: Path, whole: dict[str, Any]) -> list[Trial]:
    trials: list[Trial] = []
    while (num_kills := sum(len(trial.kills) for trial in trials)) < wanted and len(trials) < wanted:
        place = folder / f"{scenario.name}-{len(trials)}"
        trial = run_trial(scenario, len(trials), seed=seed, folder=place, whole=whole)
        trials.append(trial)
        hits = " ".join(f"{kill.instant.name.lower()}@{kill.step}" for kill in trial.kills)
        print(
            f"{scenario.name:8s} {num_kills + len(trial.kills):4d}/{wanted}  {trial.took_s:5.1f} s  {hits}", flush=True
        )
        for violation in trial.violations:
            print(f"    VIOLATION in {place}: {violation}", flush=True)
        if not trial.violations:
            shutil.rmtree(place)
    return trials


def preload(modules: list[str]) -> None:
    """Import what a run needed, so that those which are forked from here need not."""
    for name in modules:
        if name not in sys.modules and name != "__main__":
            try:
                importlib.import_module(name)
            except Exception:  # noqa: S112 what cannot be imported by its name is imported by the run
                continue


def table(trials: list[Trial]) -> str:
    names = list(dict.fromkeys(trial.scenario.name for trial in trials))
    counts = Counter((kill.instant, trial.scenario.name) for trial in trials for kill in trial.kills)
    early = Counter(trial.scenario.name for trial in trials for kill in trial.kills if not kill.committed)
    rows = [["killed while", *names, "all"]]
    for instant, words in WORDS.items():
        numbers = [counts[instant, name] for name in names]
        rows.append([words, *map(str, [*numbers, sum(numbers)])])
    rows.append(
        ["of these before the first commit", *map(str, [*(early[name] for name in names), sum(early.values())])]
    )
    totals = [sum(counts[instant, name] for instant in Instant) for name in names]
    rows.append(["all", *map(str, [*totals, sum(totals)])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in
             enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip
    return "\n".join(["", lines[0], "-" * len(lines[0]), *lines[1:-2], "-" * len(lines[0]), *lines[-2:]])


def summary(trials: list[Trial], took_s: float) -> str:
    kills = [kill for trial in trials for kill in trial.kills]
    bad = [trial for trial in trials if trial.violations]
    left = sum(bool(trial.leftovers) for trial in trials)
    most = max((kill.lost for kill in kills), default=0)
    most_allowed = max((kill.allowed for kill in kills), default=0)
    return (
        f"\n{len(kills)} kills in {len(trials)} runs, {took_s:.0f} s: {len(bad)} violations; at most {most} steps trained "
        f"again (save interval {SAVE_STEPS}, most allowed {most_allowed}); {left} runs ended with a folder too many."
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of one process, over its scenarios (default: 200)")
    parser.add_argument("--only", nargs="+", choices=[it.name for it in SCENARIOS], help="scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", help="where the runs' folders go (default: the temporary folder)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
