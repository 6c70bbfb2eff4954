from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hftrain.args.seq2seq import Seq2SeqTrainingArguments
from hftrain.args.training import TrainingArguments
from hftrain.errors import ConfigurationError


@dataclass
class Mine(TrainingArguments):
    margin: float = field(default=0.5, metadata={"help": "Distance between classes."})
    logging_steps: float = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.doubled = self.margin * 2


def test_a_subclass_adds_fields_and_extends_the_hook() -> None:
    args = Mine("out", margin=2.0, learning_rate=0.1)
    assert (args.margin, args.doubled, args.learning_rate) == (2.0, 4.0, 0.1)
    assert args.to_dict()["margin"] == 2.0


def test_a_subclass_may_change_a_default() -> None:
    assert Mine("out", eval_strategy="steps").eval_steps == 10


def test_a_subclass_without_the_hook_s_super_call_is_checked_by_validate() -> None:
    @dataclass
    class Careless(TrainingArguments):
        def __post_init__(self) -> None:
            """Forget the checks."""

    args = Careless(None, learning_rate="0.1")  # type: ignore[arg-type]
    args.validate()
    assert (args.output_dir, args.learning_rate) == ("trainer_output", 0.1)


def test_arguments_changed_later_are_checked_again() -> None:
    args = TrainingArguments("out")
    args.save_steps, args.eval_strategy = "0.5", "epoch"  # type: ignore[assignment]
    args.validate()
    assert (args.save_steps, args.do_eval) == (0.5, True)
    args.bf16 = args.fp16 = True
    with pytest.raises(ConfigurationError, match="exclude each other"):
        args.validate()


def test_copies_are_equal_and_independent() -> None:
    args = TrainingArguments("out", label_names=["a"], load_best_model_at_end=True, save_strategy="no")
    for twin in (copy.deepcopy(args), pickle.loads(pickle.dumps(args)), dataclasses.replace(args)):
        assert twin == args
        twin.seed = 3
        twin.validate()
        assert args.seed == 42


def test_arguments_of_generating_models_are_arguments() -> None:
    args = Seq2SeqTrainingArguments("out", learning_rate="0.1")  # type: ignore[arg-type]
    assert (args.learning_rate, args.predict_with_generate) == (0.1, False)


def test_no_folder_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TrainingArguments()
    TrainingArguments("out", logging_strategy="epoch")
    assert list(tmp_path.iterdir()) == []


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = (
        "import sys\n"
        "from hftrain.args.seq2seq import Seq2SeqTrainingArguments as A\n"
        "args = A('out', eval_strategy='epoch', bf16=True)\n"
        "args.to_json_string(), repr(args), args.set_training(), args.world_size, args.get_warmup_steps(5)\n"
        "sys.exit(bool({'torch', 'numpy', 'lightning_fabric'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_contradictory_launcher_variables_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="torchrun"):
        TrainingArguments("out")


@dataclass
class WithDict(TrainingArguments):
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "model_kwargs"]

    model_kwargs: dict[str, Any] | str | None = None


@pytest.mark.parametrize(
    ("given", "read"), [('{"layers": "2"}', {"layers": 2}), ("name", "name"), ({"a": 1}, {"a": 1}), (None, None)]
)
def test_a_dict_field_of_a_subclass_takes_json_text(tmp_path: Path, given: Any, read: Any) -> None:
    assert WithDict(str(tmp_path), report_to="none", model_kwargs=given).model_kwargs == read
