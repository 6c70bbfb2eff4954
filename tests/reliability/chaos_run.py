"""The run that chaos.py kills: small, with dropout and accumulation, and it says at any instant where it is.

What the run does with files is seen by an audit hook, so nothing in hftrain is replaced: opening a file of a
checkpoint for writing, removing one, reading one. The rest comes from a callback. All of it is noted on a board, a
file that the processes share, which is still there when the run is not.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils.data import Dataset

from hftrain import DataModule, Trainer, TrainerCallback, TrainingArguments
from hftrain.checkpoint import manager, patience
from tests.checkpoint.failing import FailingFileSystem, Faults
from tests.checkpoint.full import FullDisk
from tests.reliability.train_small_task import small_data
from tests.reliability.train_until_stopped import EvaluatedTask

NUM_STEPS, SAVE_STEPS, WIDTH = 30, 3, 2048


class Instant(IntEnum):
    """Where a run is; of two, what it does with a checkpoint's files counts."""

    STARTING = 0
    READING = 1
    STEPPING = 2
    EVALUATING = 3
    MARKING = 4
    WRITING = 5
    COMMITTING = 6
    UNMARKING = 7
    DELETING = 8
    ENDING = 9


class Note(IntEnum):
    """The places on the board, one row of them for each process."""

    LOOP = 0
    FILES = 1
    STARTED = 2
    RESUMED = 3
    STEP = 4
    AIMED = 5
    PID = 6


class Board:
    """Whole numbers that outlive the process which wrote them."""

    def __init__(self, path: str | os.PathLike[str], rank: int = 0, *, new: bool = False) -> None:
        if new:
            Path(path).write_bytes(bytes(8 * len(Note) * 2))
        with open(path, "r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._first = rank * len(Note)

    def __getitem__(self, note: Note) -> int:
        return self._numbers[self._first + note]

    def __setitem__(self, note: Note, value: int) -> None:
        self._numbers[self._first + note] = value

    def instant(self) -> Instant:
        return Instant(self[Note.FILES] or self[Note.LOOP])


@dataclass(frozen=True, kw_only=True)
class Aim:
    """When a run is to be killed.

    Attributes:
        instant: at which instant; None for a time after its start.
        nth: the how manyth of this process.
        delay_s: so long after it; 0 for at once, by the process itself, before the file operation.
        rank: of two processes, which.
    """

    instant: Instant | None = None
    nth: int = 1
    delay_s: float = 0.0
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One start of a run, in words that a command line can carry.

    Attributes:
        folder: holds the board and what is told of the run.
        output_dir: where the checkpoints go; a path or a URL.
        arguments: of TrainingArguments, beside the fixed ones.
        ballast: a file that fills the disk, from and up to these steps.
        room: bytes of a disk that is made up; 0 for the disk that is there.
        faults: of the filesystem, where ``output_dir`` is on the failing one.
    """

    folder: str
    output_dir: str
    arguments: dict[str, Any] = field(default_factory=dict)
    aim: Aim | None = None
    ballast: tuple[str, int, int] | None = None
    room: int = 0
    faults: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        aim, ballast = fields.pop("aim"), fields.pop("ballast")
        if aim is not None:
            instant = None if aim["instant"] is None else Instant(aim["instant"])
            aim = Aim(**{**aim, "instant": instant})
        return cls(**fields, aim=aim, ballast=tuple(ballast) if ballast else None)

    @property
    def place(self) -> str:
        """Where the checkpoints lie on this machine's disks."""
        return self.output_dir.removeprefix("failing://")

    @property
    def board(self) -> str:
        return f"{self.folder}/board"

    @property
    def line(self) -> str:
        """A pipe on which a process says its id when it is where it is to be killed."""
        return f"{self.folder}/line"

    @property
    def result(self) -> str:
        return f"{self.folder}/result.json"

    def errors(self, rank: int) -> str:
        return f"{self.folder}/errors-{rank}.txt"


class Watch:
    """Notes where this process is, and has it killed where it is aimed at."""

    def __init__(self, job: Job, rank: int) -> None:
        self.board = Board(job.board, rank)
        self.board[Note.PID] = os.getpid()
        self._line = job.line
        self._aim = job.aim if job.aim is not None and job.aim.rank == rank else None
        self._num_seen = 0
        self._main = threading.get_ident()
        self._committing = ""

    def enter(self, instant: Instant, *, by_files: bool = False) -> None:
        """Note an instant, and be killed if it is the one."""
        self.board[Note.FILES if by_files else Note.LOOP] = instant
        aim = self._aim
        if aim is None or aim.instant is not instant:
            return
        self._num_seen += 1
        if self._num_seen != aim.nth:
            return
        self._aim = None
        self.board[Note.AIMED] = 1
        if aim.delay_s == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        line = os.open(self._line, os.O_WRONLY)
        os.write(line, f"{os.getpid()}\n".encode())
        os.close(line)

    def leave_files(self) -> None:
        """Note that no file of a checkpoint is being written."""
        self.board[Note.FILES] = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Be told by Python of what is about to be done."""
        if event not in ("open", "os.remove", "shutil.rmtree") or not isinstance(arguments[0], str):
            return
        path = arguments[0].removesuffix(".upload")  # of the failing filesystem
        folder, found, file = path.partition("/checkpoint-")
        step, _, name = file.partition("/")
        if not found or not step.isdigit():
            return
        place = f"{folder}{found}{step}"
        if event != "open":
            self._hear_removal(name, place)
        elif arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self._hear_writing(name, place)
        elif name and self.board[Note.LOOP] in (Instant.STARTING, Instant.READING):
            self.enter(Instant.READING)

    def _hear_removal(self, name: str, place: str) -> None:
        is_end = name == ".incomplete" and place == self._committing
        self.enter(Instant.UNMARKING if is_end else Instant.DELETING, by_files=True)

    def _hear_writing(self, name: str, place: str) -> None:
        if name == ".incomplete":
            is_old = os.path.exists(f"{place}/MANIFEST.json")
            self.enter(Instant.DELETING if is_old else Instant.MARKING, by_files=True)
        elif name == "MANIFEST.json":
            self._committing = place
            self.enter(Instant.COMMITTING, by_files=True)
        else:
            self.enter(Instant.WRITING, by_files=True)


class Noting(TrainerCallback):
    """Tells the board what the loop does, and fills the disk for a while."""

    def __init__(self, watch: Watch, job: Job) -> None:
        self.watch = watch
        self.job = job

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.board[Note.RESUMED] = state.global_step
        self.watch.board[Note.STEP] = state.global_step
        self.watch.board[Note.STARTED] = 1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        fill(self.job, state.global_step)
        self.watch.enter(Instant.STEPPING)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.board[Note.STEP] = state.global_step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.enter(Instant.EVALUATING)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.board[Note.LOOP] = Instant.STEPPING

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.leave_files()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.enter(Instant.ENDING)


class NoisyData(Dataset[list[Tensor]]):
    """Augmented at random as it is read."""

    def __init__(self) -> None:
        self._rows = small_data()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> list[Tensor]:
        features, target = self._rows[index]
        return [features + 0.1 * torch.randn(features.shape), target]


def fill(job: Job, step: int) -> None:
    """Fill the disk before one step, and empty it before another, as the job says."""
    path, first, last = job.ballast or ("", -1, -1)
    if step == last and os.path.exists(path):
        os.unlink(path)
    if step != first:
        return
    with open(path, "wb", buffering=0) as file:
        if job.room:
            file.truncate(job.room)
            return
        with suppress(OSError):
            while file.write(bytes(1024)):
                pass


def prepare_disk(job: Job) -> None:
    """Let the disk be as bad as the job says; for this process."""
    if job.faults:
        FailingFileSystem.faults = Faults(**job.faults)
        patience.WAITS_S, patience.ARRIVAL_WAITS_S = (0.02, 0.04, 0.08, 0.16), (0.0, 0.01)
    if job.room:
        manager.storage_for = lambda path: FullDisk(root=path, room=job.room)


def fixed_arguments(job: Job) -> TrainingArguments:
    fixed: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 4,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "seed": 7,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return TrainingArguments(job.output_dir, **{**fixed, **job.arguments})


def train(job: Job, rank: int) -> None:
    """Train to the end, from wherever the run is; what came out goes into the job's result."""
    watch = Watch(job, rank)
    sys.addaudithook(watch.hear)
    watch.enter(Instant.STARTING)
    prepare_disk(job)
    args = fixed_arguments(job)
    torch.manual_seed(args.seed)
    data = DataModule(train=NoisyData(), eval=small_data())
    trainer = Trainer(model=EvaluatedTask(WIDTH), args=args, datamodule=data, callbacks=[Noting(watch, job)])
    output = trainer.train(resume_from_checkpoint="auto")
    if trainer.is_world_process_zero():
        weights = {name: sha256(it.numpy().tobytes()).hexdigest() for name, it in trainer.model.state_dict().items()}
        result = {
            "weights": weights,
            "training_loss": output.training_loss,
            "rows": [without_times(row) for row in trainer.state.log_history],
            "best": [trainer.state.best_metric, trainer.state.best_global_step],
            "modules": sorted(sys.modules),
        }
        Path(job.result).write_text(json.dumps(result))


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A log row without what the clock says."""
    return {name: value for name, value in row.items() if not name.endswith(("_runtime", "_per_second"))}


def train_and_exit(job: Job, rank: int) -> None:
    """Train in a process of its own. Does not return."""
    with exit_code(job, rank):
        train(job, rank)


def launch_and_exit(job: Job, processes: int) -> None:
    """Be what torchrun is: its agent, which starts the processes, waits for them and ends the others of one that died.

    They are forked from here, so that they need not import what is here. Does not return.
    """
    with exit_code(job, processes):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=f"chaos-{os.getpid()}",
            max_restarts=0,
            start_method="fork",
        )
        elastic_launch(config, train_as_told)(job)


def train_as_told(job: Job) -> None:
    """Train as the rank that the launcher says."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the agent's handler came along
    rank = int(os.environ["RANK"])
    write_output_to(job.errors(rank))
    train(job, rank)


@contextmanager
def exit_code(job: Job, rank: int) -> Iterator[None]:
    """End this process with 0 after what is inside, and with 1 after an error, which is written down."""
    code = 1
    write_output_to(job.errors(rank))
    try:
        yield
        code = 0
    except BaseException:  # whatever it is, it is what chaos.py looks for
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def write_output_to(path: str) -> None:
    with open(path, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


if __name__ == "__main__":
    train_and_exit(Job.from_json(sys.argv[1]), int(os.environ.get("RANK", "0")))
