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
one, which has imported everything, has started no thread, and never computes with torch. For two processes what is
forked is torchrun's agent, which forks the two; the scenario "torchrun" starts the command as anybody would.

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
from tests.reliability import chaos_run  # noqa: E402
from tests.reliability.chaos_report import WORDS, Kill, Scenario, Trial, summary, table  # noqa: E402
from tests.reliability.chaos_run import NUM_STEPS, SAVE_STEPS, Aim, Board, Instant, Job, Note  # noqa: E402

LONGEST_S = 240.0
"""A process that takes longer hangs."""
FAULTS = {"drop": 0.02, "truncate": 0.02, "refuse": 0.02, "delay_s": 0.002}
SAME_FILES = ("model.safetensors", "optimizer.safetensors", "optimizer.json", "scheduler.json", "data.json")
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
    Scenario(
        name="failing",
        what="a filesystem that drops, truncates, refuses and delays",
        arguments={"save_async": True},
        kills=20,
        disk="failing",
    ),
    Scenario(
        name="full",
        what="a disk that is full for some steps",
        arguments={"save_async": True},
        kills=20,
        disk="full",
    ),
    Scenario(
        name="full-now",
        what="the same, saving before it goes on",
        arguments={"save_async": False},
        kills=20,
        disk="full",
    ),
    Scenario(
        name="two",
        what="two processes, one is killed",
        arguments={"save_async": False},
        kills=15,
        processes=2,
    ),
    Scenario(
        name="two-later",
        what="the same, saving in the background",
        arguments={"save_async": True},
        kills=15,
        processes=2,
    ),
    Scenario(
        name="torchrun",
        what="the same, by the command torchrun",
        arguments={"save_async": True},
        kills=4,
        processes=2,
        is_torchrun=True,
    ),
]


# ---- one process ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class End:
    """How a start ended: killed by us, or by itself with an exit code; ``left`` are its processes that go on."""

    is_killed: bool
    code: int
    took_s: float = 0.0
    left: list[int] = field(default_factory=list)


def start(job: Job, scenario: Scenario) -> End:
    """Start a run, kill it where it is aimed at, wait for all of it to end, and say how it ended."""
    began = time.monotonic()
    with the_line(job) as line:
        pid = launch(job) if scenario.is_torchrun else fork(job, scenario.processes)
        ended = os.pidfd_open(pid)
        try:
            is_hanging = not wait_and_kill(job, line, ended)
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(ended)
    code = os.waitstatus_to_exitcode(status)
    if scenario.processes == 1:
        return End(is_killed=code == -signal.SIGKILL and not is_hanging, code=code)
    boards = [Board(job.board, rank) for rank in range(scenario.processes)]
    left = [board[Note.PID] for board in boards if is_alive(board[Note.PID])]
    for process in left:
        signal_if_alive(process, signal.SIGKILL)
    is_aimed = any(board[Note.AIMED] for board in boards)
    return End(
        is_killed=is_aimed and code != 0 and not is_hanging, code=code, left=left, took_s=time.monotonic() - began
    )


def fork(job: Job, processes: int) -> int:
    pid = os.fork()
    if pid == 0 and processes == 1:
        chaos_run.train_and_exit(job, 0)
    if pid == 0:
        chaos_run.launch_and_exit(job, processes)
    return pid


def launch(job: Job) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(ROOT / "tests/reliability/chaos_run.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    said = os.open(f"{job.folder}/launcher.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    quiet = [(os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
    pid = os.posix_spawn(sys.executable, [*command, script, job.to_json()], environment, file_actions=quiet)
    os.close(said)
    return pid


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


def is_alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- one trial --------------------------------------------------------------------------------------


def run_trial(scenario: Scenario, number: int, *, seed: int, folder: Path, whole: dict[str, Any]) -> Trial:
    """Start, kill, start again, until it is done; and compare with the run that nobody killed."""
    choose = random.Random(f"{seed} {scenario.name} {number}")
    trial, began = Trial(scenario, number), time.monotonic()
    job = job_on_disk(new_job(scenario, folder), scenario, choose, whole["num_bytes"])
    num_kills = choose.randint(3, 7)
    for start in range(40):
        aim = None
        if len(trial.kills) < num_kills and start < 3 * num_kills:
            aim = draw_aim(choose, trial, num_kills - len(trial.kills), usual_s=whole["took_s"])
        faults = {**job.faults, "seed": start} if job.faults else {}
        if not start_once(trial, replace(job, aim=aim, faults=faults)):
            break
    if not trial.violations:
        compare(trial, job, whole)
    if os.path.ismount(f"{folder}/disk"):
        subprocess.run(["umount", "--lazy", f"{folder}/disk"], check=True)
    trial.took_s = time.monotonic() - began
    return trial


def new_job(scenario: Scenario, folder: Path) -> Job:
    folder.mkdir(parents=True)
    job = Job(folder=str(folder), output_dir=f"{folder}/run", arguments=scenario.arguments)
    Board(job.board, new=True)
    return job


def job_on_disk(job: Job, scenario: Scenario, choose: random.Random, checkpoint_bytes: int) -> Job:
    """Give a run the disk of its scenario."""
    if scenario.disk == "failing":
        return replace(job, output_dir=f"failing://{job.folder}/run", faults=FAULTS)
    if scenario.disk != "full":
        return job
    disk, room = f"{job.folder}/disk", int(6.5 * checkpoint_bytes)  # a resume asks for 1.1 beside what is kept and torn
    os.mkdir(disk)
    first = choose.randint(2, 20)
    job = replace(job, output_dir=f"{disk}/run", ballast=(f"{disk}/ballast", first, first + choose.randint(3, 8)))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "chaos", disk], check=False)
    if mounted.returncode == 0:
        return job
    return replace(job, output_dir=disk, room=room)  # only root may mount: a storage that refuses


def draw_aim(choose: random.Random, trial: Trial, kills_left: int, *, usual_s: float) -> Aim:
    """Draw where the next kill goes, so far ahead that those to come find something left to kill."""
    committed = trial.kills[-1].committed if trial.kills else 0
    ahead = (NUM_STEPS - committed) / kills_left
    instants = set(Instant)
    if not committed and choose.random() < 0.5:  # before the first commit
        ahead = SAVE_STEPS
        instants -= {Instant.EVALUATING, Instant.UNMARKING, Instant.DELETING, Instant.ENDING}
    if not committed:
        instants.discard(Instant.READING)
    if kills_left > 1:
        instants.discard(Instant.ENDING)
    if committed == NUM_STEPS:
        instants &= {Instant.STARTING, Instant.READING, Instant.ENDING}
    rank = choose.randrange(trial.scenario.processes)
    if rank:
        instants -= {Instant.MARKING, Instant.COMMITTING, Instant.UNMARKING, Instant.DELETING}  # rank 0 does these
    timed = [None] if trial.scenario.processes == 1 else []
    instant = choose.choice([*timed, *sorted(instants)])
    if instant is None:
        return Aim(delay_s=choose.uniform(0.1, 1.0) * usual_s * ahead / NUM_STEPS)
    often = PER_STEP.get(instant, 0.0) if not rank else min(PER_STEP.get(instant, 0.0), 1 / SAVE_STEPS)
    nth = 1 + int(often * ahead * choose.random())
    delay_s = 0.0 if choose.random() < 0.4 else 10 ** choose.uniform(-4.0, -1.7)
    return Aim(instant=instant, nth=nth, delay_s=delay_s, rank=rank)


def start_once(trial: Trial, job: Job) -> bool:
    """Start once, and look at what it left; whether it is to be started again."""
    processes = trial.scenario.processes
    boards = [Board(job.board, rank) for rank in range(processes)]
    for board in boards:
        board[Note.STARTED] = board[Note.AIMED] = 0
        board[Note.LOOP] = board[Note.FILES] = Instant.STARTING
    end = start(job, trial.scenario)
    board = boards[0]
    if end.left:
        trial.violations.append(f"the launcher ended, and left the processes {end.left}")
    resumed = board[Note.RESUMED]
    if board[Note.STARTED] and trial.expected not in (None, resumed):
        trial.violations.append(f"went on from step {resumed}, where step {trial.expected} was committed")
    if end.is_killed:
        killed = boards[job.aim.rank if job.aim is not None else 0]
        note_kill(trial, killed.instant(), max(it[Note.STEP] for it in boards), job)
    elif end.code != 0 and is_refused_end(job, boards[0]):
        trial.refused_ends, trial.expected = trial.refused_ends + 1, None
        return trial.refused_ends < 5
    elif end.code != 0:
        hint = " (killed: it hung)" if end.code == -signal.SIGKILL else ""
        trial.violations.append(f"a start ended with exit code {end.code}{hint}: {last_error(job)}")
    return end.is_killed and not trial.violations


def is_refused_end(job: Job, board: Board) -> bool:
    """Whether a bad disk refused the last save of all, which is an error; the same command saves it then."""
    is_end = board[Note.STARTED] and board[Note.STEP] == NUM_STEPS
    return bool((job.faults or job.ballast) and is_end and "could not be written" in last_error(job))


def note_kill(trial: Trial, instant: Instant, step: int, job: Job) -> None:
    """Look at the disk after a kill."""
    if job.ballast is not None:
        Path(job.ballast[0]).unlink(missing_ok=True)  # somebody made room before the run was started again
    found = scan(LocalStorage(), job.place)
    whole = [it for it in found if it.status is Status.COMMITTED and is_whole(it)]
    torn = [it.step or 0 for it in found if it.status is Status.TORN]
    committed = max((it.step or 0 for it in whole), default=0)
    begun = max((it for it in torn if committed < it <= step), default=step)
    kill = Kill(
        instant=instant,
        step=step,
        committed=committed,
        allowed=SAVE_STEPS + (step - begun if trial.scenario.arguments["save_async"] else 0) + steps_unsaved(job),
    )
    trial.kills.append(kill)
    trial.expected = committed
    for it in found:
        if it.status is Status.COMMITTED and it not in whole and not job.faults:
            trial.violations.append(f"{it.name} is committed, and its files are not those of its manifest")
    best = best_named_by(job, whole)
    if best is not None and best not in [it.name for it in whole]:
        trial.violations.append(f"the best one, {best}, is not there any more")
    if kill.lost > kill.allowed:
        trial.violations.append(f"{kill.lost} steps are lost, {kill.allowed} may be; killed {WORDS[kill.instant]}")


def best_named_by(job: Job, found: list[CheckpointFolder]) -> str | None:
    """The folder of the best checkpoint, as the newest one says."""
    if not found or not job.arguments.get("load_best_model_at_end"):
        return None
    newest = max(found, key=lambda it: it.step or 0)
    best = json.loads(Path(newest.path, "trainer_state.json").read_text())["best_model_checkpoint"]
    return best and Path(best).name


def steps_unsaved(job: Job) -> int:
    """How many steps more may be lost because saves between them failed, as they had to."""
    if job.faults:
        return 2 * SAVE_STEPS
    return 0 if job.ballast is None else job.ballast[2] - job.ballast[1] + SAVE_STEPS


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
    end = start(job, scenario)
    if end.code != 0:
        raise SystemExit(f"{scenario.name}: without any kill it ended with exit code {end.code}: {last_error(job)}")
    return {**outcome(job), "took_s": time.monotonic() - began}


def outcome(job: Job) -> dict[str, Any]:
    result = json.loads(Path(job.result).read_text())
    found = scan(LocalStorage(), job.place)
    result["folders"] = [it.name for it in found]
    result["files"] = {
        it.name: {name: record.sha256 for name, record in it.manifest.files.items() if name in SAME_FILES}
        for it in found
        if it.manifest is not None
    }
    result["num_bytes"] = max(it.manifest.total_bytes for it in found if it.manifest is not None)
    return result


def compare(trial: Trial, job: Job, whole: dict[str, Any]) -> None:
    ours = outcome(job)
    trial.leftovers = sorted(set(ours["folders"]) - set(whole["folders"]))
    has_saved_since = not trial.kills or trial.kills[-1].committed < NUM_STEPS
    if trial.leftovers and has_saved_since and trial.scenario.disk == "plain":
        trial.violations.append(f"{', '.join(trial.leftovers)} should have been removed after the last commit")
    for name in ("weights", "training_loss", "rows", "best"):
        if ours[name] != whole[name]:
            trial.violations.append(f"final {name} are not those of the run that nobody killed")
    trial.refused_saves = Path(job.errors(0)).read_text(errors="replace").count("the next save tries again")
    is_bad_disk = bool(job.faults or job.ballast)  # where older saves may have been refused
    for name, files in whole["files"].items():
        if is_bad_disk and name not in ours["files"] and name != f"checkpoint-{NUM_STEPS}":
            continue
        if ours["files"].get(name) != files:
            trial.violations.append(f"{name} is not that of the run that nobody killed")


# ---- the command ------------------------------------------------------------------------------------


def main() -> int:
    options = parse()
    chosen = [it for it in SCENARIOS if it.name in options.only and it.name not in options.without]
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.dir))
    trials: list[Trial] = []
    began = time.monotonic()
    total = sum(it.share for it in chosen) or 1.0
    for scenario in chosen:
        whole = train_whole(scenario, folder / f"{scenario.name}-whole")
        preload(whole["modules"])
        wanted = round(options.kills * scenario.share / total) or max(1, scenario.kills * options.kills // 200)
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="with one process, a good disk (default: 200)")
    names = [it.name for it in SCENARIOS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these scenarios")
    parser.add_argument("--without", nargs="+", choices=names, default=[], help="not these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", help="where the runs' folders go (default: the temporary folder)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
