"""Planted tokens, and every place where one could come out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hftrain import Trainer, TrainerCallback, TrainingArguments
from hftrain.errors import CallbackError, ConfigurationError
from hftrain.plugin_api.registry import registry
from hftrain.trainer.tracking import known_secrets
from tests.plugin_api.distributions import install
from tests.trainer.tasks import Fit, Points
from tests.trainer.telling import NOTES

PLANTED = {
    "HF_TOKEN": "hf_planted_in_the_environment",
    "WANDB_API_KEY": "planted-wandb-key-0123456789",
    "my_own_secret": "planted-custom-argument",
}


@dataclasses.dataclass(repr=False)
class Arguments(TrainingArguments):
    my_own_secret: str = ""


class Leaks(TrainerCallback):
    """Logs every token, then raises an error with all of them."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise ValueError(" ".join(PLANTED.values()))


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arguments]:
    site = tmp_path / "site"
    site.mkdir()
    code = NOTES.replace(
        "    def log(self, metrics, step):",
        "    def log(self, metrics, step):\n        if step == 1: raise ConnectionError(os.environ['HF_TOKEN'])",
    )
    install(site, "notes-of-a-test", plugins=["notes"], code=code)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, PLANTED[name])
    registry.cache_clear()
    yield Arguments(
        str(tmp_path / "out"),
        report_to="notes",
        my_own_secret=PLANTED["my_own_secret"],
        run_name=f"run with {PLANTED['WANDB_API_KEY']}",
        use_cpu=True,
        max_steps=2,
        logging_steps=1,
        save_steps=1,
        tracker_close_s=0.05,
        disable_tqdm=True,
    )
    registry.cache_clear()
    sys.modules.pop("notes_of_a_test", None)


def written(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def assert_clean(text: str) -> None:
    for name, token in PLANTED.items():
        assert token not in text, name


def test_no_planted_token_comes_out_anywhere(
    arguments: Arguments, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG", "hftrain")
    run = Trainer(Fit(), arguments, train_dataset=Points(), callbacks=[Leaks()])
    with pytest.raises(CallbackError):
        run.train()
    run.log({"note": " ".join(PLANTED.values()), "loss": 1.0})
    del run
    out = capfd.readouterr()
    assert_clean(written(tmp_path / "out" / "runs") + (tmp_path / "notes").read_text())
    assert_clean(caplog.text + out.err)


def test_no_form_of_the_arguments_shows_one(arguments: Arguments) -> None:
    args = dataclasses.replace(arguments, run_name="clean")
    assert_clean(repr(args) + str(args) + str(args.to_dict()) + args.to_json_string() + str(args.to_sanitized_dict()))


def test_a_token_that_is_refused_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="hub_token=<HUB_TOKEN>") as caught:
        TrainingArguments(str(tmp_path), hub_token="hf_planted_as_an_argument")
    assert "planted" not in str(caught.value)


def test_no_checkpoint_holds_one(arguments: Arguments, tmp_path: Path) -> None:
    Trainer(Fit(), dataclasses.replace(arguments, run_name="clean"), train_dataset=Points()).train()
    assert (tmp_path / "out" / "checkpoint-2" / "run.json").exists()
    assert_clean(written(tmp_path / "out"))


def test_a_start_that_fails_with_a_key_in_its_text_shows_none(arguments: Arguments, tmp_path: Path) -> None:
    code = NOTES.replace(
        "    def start(self, run):",
        "    def start(self, run):\n        raise PermissionError(os.environ['WANDB_API_KEY'])",
    )
    (tmp_path / "site" / "notes_of_a_test.py").write_text(code)
    with pytest.raises(ConfigurationError, match="PermissionError: \\*\\*\\*") as caught:
        Trainer(Fit(), arguments, train_dataset=Points()).train()
    assert_clean(str(caught.getrepr(chain=True)))


def test_a_special_token_of_a_tokenizer_is_no_secret(tmp_path: Path) -> None:
    @dataclasses.dataclass(repr=False)
    class WithTokens(TrainingArguments):
        eos_token: str = "<|endoftext|>"
        upload_token: str = "planted-token"

    given = WithTokens(str(tmp_path), report_to="none", use_cpu=True)
    assert "<|endoftext|>" not in known_secrets(given)
    assert "planted-token" in known_secrets(given)


def test_a_word_of_an_argument_that_is_called_a_key_stays_in_texts(tmp_path: Path) -> None:
    @dataclasses.dataclass(repr=False)
    class WithKey(TrainingArguments):
        sort_by_keys: str = "length"
        store_api_key: str = "planted-key"

    given = WithKey(str(tmp_path), report_to="none", use_cpu=True)
    assert "length" not in known_secrets(given)
    assert "planted-key" in known_secrets(given)
