from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hftrain.args.accelerator import AcceleratorConfig
from hftrain.args.conversion import FoundTrackers
from hftrain.args.training import TrainingArguments
from hftrain.errors import ConfigurationError, PluginNotFoundError
from hftrain.plugin_api.registry import registry
from hftrain.types.choices import IntervalStrategy, OptimizerNames
from tests.plugin_api.distributions import PLUGIN, install


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("max_steps", "1e3", 1000),
        ("max_steps", 10.0, 10),
        ("max_steps", np.int64(7), 7),
        ("warmup_steps", "3", 3),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", np.float64(0.5), 0.5),
        ("num_train_epochs", 2, 2),
        ("save_steps", 2.0, 2),
        ("save_steps", "0.25", 0.25),
        ("save_steps", 1.0, 1),
        ("bf16", "true", True),
        ("bf16", 0, False),
        ("bf16", np.True_, True),
        ("tf32", None, None),
        ("tf32", "no", False),
        ("save_total_limit", "3", 3),
        ("label_names", "labels", ["labels"]),
        ("label_names", ("a", "b"), ["a", "b"]),
        ("log_level", "DEBUG", "debug"),
        ("eval_delay", None, 0),
        ("max_grad_norm", None, 0.0),
        ("lr_scheduler_kwargs", None, {}),
        ("resume_from_checkpoint", True, True),
        ("max_shard_size", 1_000_000, "1000000B"),
    ],
)
def test_a_value_becomes_the_declared_type(name: str, given: Any, kept: Any) -> None:
    found = getattr(TrainingArguments("out", **{name: given}), name)
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("learning_rate", "fast", "a number is expected"),
        ("learning_rate", True, "a number is expected"),
        ("max_steps", 1.5, "an integer is expected"),
        ("per_device_train_batch_size", None, "a number is expected"),
        ("bf16", "perhaps", "True or False is expected"),
        ("bf16", 2, "True or False is expected"),
        ("run_name", 3, "text is expected"),
        ("label_names", 3, "a list of words is expected"),
        ("lr_scheduler_kwargs", 3, "a dict, JSON text or the name of a JSON file is expected"),
        ("lr_scheduler_kwargs", "{bad", "valid JSON is expected"),
        ("lr_scheduler_kwargs", "missing.json", "this file cannot be read"),
        ("eval_strategy", "stpes", "not known. Did you mean 'steps'? Choose one of 'no', 'steps', 'epoch'"),
        ("eval_strategy", True, "not known"),
        ("accelerator_config", {"splt_batches": True}, "no key 'splt_batches'. Did you mean 'split_batches'"),
        ("accelerator_config", {"even_batches": "perhaps"}, "even_batches='perhaps': True or False is expected"),
    ],
)
def test_a_value_that_cannot_become_it_is_named_with_what_is_expected(name: str, given: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrainingArguments("out", **{name: given})
    assert str(caught.value).startswith(f"{name}={given!r}: ")
    assert expected in str(caught.value)


def test_a_choice_becomes_the_enum_and_still_equals_its_word() -> None:
    args = TrainingArguments("out", eval_strategy="steps", optim="sgd")
    found: list[object] = [args.eval_strategy, args.optim]
    assert [type(choice) for choice in found] == [IntervalStrategy, OptimizerNames]
    assert found == ["steps", "sgd"]


def test_another_library_s_enum_of_the_same_words_is_understood() -> None:
    theirs = Enum("theirs", {"EPOCH": "epoch"})
    assert TrainingArguments("out", eval_strategy=theirs.EPOCH).eval_strategy is IntervalStrategy.EPOCH  # type: ignore[arg-type]


def test_a_path_becomes_text_and_the_home_folder_is_spelled_out() -> None:
    assert TrainingArguments(Path("a") / "b").output_dir == str(Path("a") / "b")  # type: ignore[arg-type]
    assert TrainingArguments("~/runs").output_dir == str(Path.home() / "runs")


def test_json_text_is_a_dict_and_its_quoted_numbers_are_numbers() -> None:
    args = TrainingArguments("out", lr_scheduler_kwargs='{"num_cycles": "2", "flag": "true", "rate": "0.5", "w": "x"}')
    assert args.lr_scheduler_kwargs == {"num_cycles": 2, "flag": True, "rate": 0.5, "w": "x"}


def test_a_json_file_is_a_dict(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"split_batches": True}))
    assert TrainingArguments("out", accelerator_config=str(file)).accelerator_config == AcceleratorConfig(
        split_batches=True
    )


def test_accelerator_config_has_its_defaults_when_nothing_is_said() -> None:
    assert TrainingArguments("out").accelerator_config == AcceleratorConfig()


def test_another_library_s_accelerator_config_is_understood() -> None:
    @dataclasses.dataclass
    class Theirs:
        even_batches: bool = False
        non_blocking: bool = True

    args = TrainingArguments("out", accelerator_config=Theirs())  # type: ignore[arg-type]
    assert args.accelerator_config == AcceleratorConfig(even_batches=False, non_blocking=True)


def test_a_user_s_own_field_is_left_as_it_is() -> None:
    @dataclasses.dataclass
    class Mine(TrainingArguments):
        rate: float = 0.5

    given: Any = "as text"
    assert vars(Mine("out", rate=given))["rate"] == given


def test_all_means_the_installed_trackers_and_says_that_nobody_named_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "tracker-of-a-test", plugins=["notes"], code=PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    registry.cache_clear()
    for report_to in (None, "all", ["all"]):
        found = TrainingArguments("out", report_to=report_to).report_to
        assert "notes" in (found or [])
        assert isinstance(found, FoundTrackers)
        again = dataclasses.replace(TrainingArguments("out", report_to=report_to), seed=1)
        assert isinstance(again.report_to, FoundTrackers)
    assert type(TrainingArguments("out", report_to="notes").report_to) is list
    registry.cache_clear()


def test_an_unknown_tracker_beside_all_is_an_error() -> None:
    with pytest.raises(PluginNotFoundError, match="nosuch"):
        TrainingArguments("out", report_to=["all", "nosuch"])
