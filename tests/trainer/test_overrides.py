"""What becomes of a subclass that overrides a method of the reference's Trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import Seq2SeqTrainer as ReferenceSeq2SeqTrainer
from transformers import Trainer as ReferenceTrainer

from hftrain import Trainer
from hftrain.errors import NotAvailableError
from hftrain.trainer.overrides import OVERRIDES, Fate
from tests.trainer.tasks import Model, Points, arguments


def methods(kind: type) -> set[str]:
    kinds = (staticmethod, classmethod, property)
    found = {name for name, value in vars(kind).items() if callable(value) or isinstance(value, kinds)}
    return {name for name in found if not name.startswith("__")}


def of_fate(fate: Fate) -> list[str]:
    return sorted(name for name, row in OVERRIDES.items() if row.fate is fate)


def overriding(*names: str) -> type[Trainer]:
    return type("Mine", (Trainer,), dict.fromkeys(names, lambda self, *args, **kwargs: None))


def test_the_table_has_every_method_of_the_reference() -> None:
    assert set(OVERRIDES) == methods(ReferenceTrainer) | methods(ReferenceSeq2SeqTrainer)


@pytest.mark.parametrize("name", of_fate(Fate.REFUSED))
def test_an_override_that_cannot_be_honoured_is_refused_naming_the_port(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotAvailableError, match=f"Mine overrides {name}, .* Override "):
        overriding(name)(Model(), arguments(tmp_path), train_dataset=Points())


@pytest.mark.parametrize("name", of_fate(Fate.DEAD))
def test_an_override_that_nothing_calls_warns_naming_the_port(tmp_path: Path, name: str) -> None:
    with pytest.warns(UserWarning, match=f"Mine overrides {name}, and nothing calls it here. [A-Z]"):
        overriding(name)(Model(), arguments(tmp_path), train_dataset=Points())


def test_overrides_that_act_and_inherited_methods_say_nothing(tmp_path: Path) -> None:
    class Mine(overriding(*of_fate(Fate.YOURS))):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mine(Model(), arguments(tmp_path), train_dataset=Points())


def test_a_mixin_before_the_trainer_counts_as_an_override(tmp_path: Path) -> None:
    class Mixin:
        def _inner_training_loop(self) -> None: ...

    class Mine(Mixin, Trainer):
        pass

    with pytest.raises(NotAvailableError, match="Mixin overrides _inner_training_loop"):
        Mine(Model(), arguments(tmp_path), train_dataset=Points())


def test_a_name_that_our_own_trainer_uses_inside_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Mine defines _renew, a name that hftrain's Trainer uses inside. Rename it"):
        overriding("_renew")(Model(), arguments(tmp_path), train_dataset=Points())


# What trainers built on the reference call their own methods and attributes.
POPULAR = """
_metrics _stored_metrics _textual_logs _logs _step _buffered_inputs _tag_names _total_train_tokens _eval_loaders
_eval_dataloaders _last_loaded_step _peft_has_been_casted_to_bf16 _precomputed_train_ref_log_probs _prepare_dataset
_precomputed_eval_ref_log_probs _prepare_peft_model _prepare_gradient_checkpointing _enable_gradient_checkpointing
_generate _generate_and_score_completions _compute_loss _forward _tokenize _truncate _log_statistics _loss _warned
_sync_target_model _calculate_rewards _train_batched_samples _is_vlm _ema _teacher _model _loader _sampler _data
"""


@pytest.mark.parametrize("name", POPULAR.split())
def test_the_names_that_trainers_give_their_own_things_are_free(tmp_path: Path, name: str) -> None:
    trainer = Trainer(Model(), arguments(tmp_path, max_steps=1), train_dataset=Points())
    trainer.train()
    assert not hasattr(trainer, name)
