"""The methods that trainers built on the reference override most: each override changes a real run."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from hftrain import Trainer, TrainerCallback, TrainingArguments
from tests.trainer.models import VOCABULARY, Tagger, Tokens
from tests.trainer.tasks import arguments, weights

SETTINGS: dict[str, Any] = {
    "max_steps": 4,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}


class Pair(NamedTuple):
    number: int
    text: str


class Base(Trainer):
    """Notes things in ``seen``."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.seen: list[Any] = []
        torch.manual_seed(0)
        args = arguments(folder, **{**SETTINGS, **changes})
        super().__init__(Tagger(), args, train_dataset=Tokens(), eval_dataset=Tokens(8))


def run(kind: type[Base], folder: Path, **changes: Any) -> Base:
    made = kind(folder, **changes)
    made.train()
    return made


def losses(trainer: Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def evaluated(trainer: Trainer, name: str = "eval_loss") -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def test_init_may_change_arguments_model_and_callbacks_after_the_base(tmp_path: Path) -> None:
    class Stopper(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    class Own(Base):
        def __init__(self, folder: Path, **changes: Any) -> None:
            super().__init__(folder, **changes)
            self.args.logging_steps = 3
            self.model.head.requires_grad_(False)  # type: ignore[union-attr]
            self.add_callback(Stopper)

    own = run(Own, tmp_path)
    assert (own.state.global_step, len(losses(own))) == (3, 1)
    assert torch.equal(own.model.head.weight, Own(tmp_path).model.head.weight)  # type: ignore[union-attr]


def test_compute_loss_is_what_is_minimised_and_evaluated(tmp_path: Path) -> None:
    class Own(Base):
        def compute_loss(
            self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            loss = 0 * loss + self.state.global_step + 1
            return (loss, outputs) if return_outputs else loss

    own = run(Own, tmp_path)
    assert losses(own) == [1, 2, 3, 4]
    assert evaluated(own) == [3, 5]
    assert torch.equal(weights(own.model), weights(Own(tmp_path).model))


def test_log_may_add_to_a_row(tmp_path: Path) -> None:
    class Own(Base):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log({**logs, "answer": 42.0}, start_time)

    rows = run(Own, tmp_path).state.log_history
    assert [row["answer"] for row in rows] == [42.0] * 7


def test_training_step_may_do_its_own_backward(tmp_path: Path) -> None:
    class Own(Base):
        def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            model.train()
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
            if self.state.global_step >= 2:  # from the third step on nothing is learnt
                loss = loss * 0
            self.accelerator.backward(loss)
            return loss.detach()

    plain, own = run(Base, tmp_path / "a"), run(Own, tmp_path / "b")
    assert losses(own)[:2] == losses(plain)[:2]
    assert losses(own)[2:] == [0, 0]


def test_signature_columns_may_keep_what_the_model_does_not_take(tmp_path: Path) -> None:
    class Own(Base):
        def _set_signature_columns_if_needed(self) -> None:
            if self._signature_columns is None:
                self._signature_columns = ["input_ids", "labels", "row"]

        def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.seen.append(sorted(inputs))
            return super().compute_loss(model, {k: v for k, v in inputs.items() if k != "row"}, *args, **kwargs)

    own = Own(tmp_path)
    own.train_dataset = [{**Tokens()[i], "row": i, "other": i} for i in range(8)]
    own.train()
    assert own.seen[0] == ["input_ids", "labels", "row"]


def test_prediction_step_gives_loss_and_predictions(tmp_path: Path) -> None:
    class Own(Base):
        def prediction_step(
            self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
        ) -> tuple[Any, Any, Any]:
            rows = len(inputs["input_ids"])
            return torch.tensor(7.0), torch.full((rows, 2), 0.5), inputs["labels"]

    own = run(Own, tmp_path)
    assert evaluated(own) == [7, 7]
    assert own.predict(Tokens(8)).predictions.tolist() == [[0.5, 0.5]] * 8


def test_save_checkpoint_may_write_more_files(tmp_path: Path) -> None:
    class Own(Base):
        def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            (folder / "notes.txt").write_text("mine")

    run(Own, tmp_path)
    assert [file.parent.name for file in sorted(tmp_path.glob("*/notes.txt"))] == ["checkpoint-2", "checkpoint-4"]
    assert run(Base, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2")).global_step == 4


class InOrder(Base):
    """Reads the training data in its order; the losses tell."""

    def get_train_dataloader(self) -> Any:
        return DataLoader(Tokens(16), batch_size=4)


class SampledInOrder(Base):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(Tokens(16))


def test_the_training_loader_and_its_sampler_decide_what_is_trained_on(tmp_path: Path) -> None:
    plain, loader = run(Base, tmp_path / "a"), run(InOrder, tmp_path / "b")
    assert losses(loader) == losses(run(SampledInOrder, tmp_path / "c")) != losses(plain)


def test_prepare_inputs_may_change_a_batch_in_training_and_evaluation(tmp_path: Path) -> None:
    class Own(Base):
        def _prepare_inputs(self, inputs: Any) -> Any:
            inputs = super()._prepare_inputs(inputs)
            return {"input_ids": inputs["input_ids"], "labels": torch.zeros_like(inputs["labels"])}

    plain, own = run(Base, tmp_path / "a"), run(Own, tmp_path / "b")
    assert all(mine != theirs for mine, theirs in zip(losses(own), losses(plain), strict=True))
    assert evaluated(own) != evaluated(plain)


def test_prepare_input_sees_each_tensor_of_a_batch_in_training_and_evaluation(tmp_path: Path) -> None:
    class Own(Base):
        def _prepare_input(self, data: Any) -> Any:
            return torch.zeros_like(data) if isinstance(data, Tensor) else super()._prepare_input(data)

    class Outer(Base):
        def _prepare_inputs(self, inputs: Any) -> Any:
            return {name: torch.zeros_like(value) for name, value in super()._prepare_inputs(inputs).items()}

    own, outer = run(Own, tmp_path / "a"), run(Outer, tmp_path / "b")
    assert (losses(own), evaluated(own)) == (losses(outer), evaluated(outer))
    assert losses(own) != losses(run(Base, tmp_path / "c"))


def test_prepare_input_goes_through_nested_batches_and_keeps_their_types(tmp_path: Path) -> None:
    class Own(Base):
        def _prepare_input(self, data: Any) -> Any:
            return data + 1 if isinstance(data, int) else super()._prepare_input(data)

    packed = nn.utils.rnn.pack_sequence([torch.zeros(2)])
    batch = UserDict(a=[1, (2, Pair(3, "x"))], b=OrderedDict(c=4), d=packed, e=None, f=MappingProxyType({"g": 5}))
    prepared = Own(tmp_path)._prepare_input(batch)
    assert prepared == UserDict(a=[2, (3, Pair(4, "x"))], b={"c": 5}, d=packed, e=None, f={"g": 6})
    assert [type(value) for value in prepared.values()] == [type(value) for value in batch.values()]
    assert (type(prepared["a"][1][1]), batch["a"][0]) == (Pair, 1)  # the loader's batch is as it was


@pytest.mark.parametrize("as_attribute", [False, True])
def test_prepare_input_may_be_put_on_one_trainer(tmp_path: Path, as_attribute: bool) -> None:
    made, seen = Base(tmp_path), []
    own = made._prepare_input

    def noting(data: Any) -> Any:
        seen.append(type(data))
        return own(data)

    if as_attribute:
        made._prepare_input = noting  # type: ignore[method-assign]
    prepared = made._prepare_input({"x": [torch.ones(1)]})
    assert (seen, prepared["x"][0]) == ([dict, list, Tensor] if as_attribute else [], 1)


def test_wrap_model_is_asked_before_each_evaluation_what_to_call(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **inputs: Any) -> dict[str, Tensor]:
            assert not self.training
            return {name: 2 * value for name, value in self.inner(**inputs).items()}

    class Own(Base):
        def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
            self.seen.append((training, len(dataloader)))
            wrapped = super()._wrap_model(model, training, dataloader)
            return wrapped if training else Doubled(wrapped)

    plain, own = Base(tmp_path / "a"), Own(tmp_path / "b")
    assert own.evaluate()["eval_loss"] == pytest.approx(2 * plain.evaluate()["eval_loss"])
    assert (own.predict(Tokens(3)).predictions == 2 * plain.predict(Tokens(3)).predictions).all()
    own.train()
    assert own.seen == [(False, 2), (False, 1), (True, 8), (False, 2), (False, 2)]
    assert own.model_wrapped is own.model


def test_evaluate_gives_the_metrics_that_decide_what_is_best(tmp_path: Path) -> None:
    class Own(Base):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            return {**super().evaluate(*args, **kwargs), "eval_mine": float(self.state.global_step)}

    own = run(Own, tmp_path, metric_for_best_model="mine", greater_is_better=False, load_best_model_at_end=True)
    assert (own.state.best_metric, own.state.best_global_step) == (2.0, 2)


def test_the_evaluation_loader_and_its_sampler_decide_what_is_evaluated(tmp_path: Path) -> None:
    class Loader(Base):
        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return DataLoader(Tokens(3), batch_size=4)

    class Sampler(Base):
        def _get_eval_sampler(self, eval_dataset: Any) -> Any:
            return SequentialSampler(range(3))

    plain = run(Base, tmp_path / "a")
    assert evaluated(run(Loader, tmp_path / "b")) == pytest.approx(evaluated(run(Sampler, tmp_path / "c")))
    assert evaluated(run(Loader, tmp_path / "d")) != evaluated(plain)


def test_evaluation_loop_may_add_metrics_to_those_of_the_default(tmp_path: Path) -> None:
    class Own(Base):
        def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            return output._replace(metrics={**output.metrics, f"{metric_key_prefix}_batches": len(dataloader)})

    own = run(Own, tmp_path)
    assert evaluated(own, "eval_batches") == [2, 2]
    assert own.predict(Tokens(4)).metrics["test_batches"] == 1


def test_create_optimizer_and_create_scheduler_give_those_of_the_run(tmp_path: Path) -> None:
    class Own(Base):
        def create_optimizer(self) -> torch.optim.Optimizer:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)
            return self.optimizer

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.seen.append((num_training_steps, type(optimizer).__name__))
            self.lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer or self.optimizer, 1, gamma=0.1)
            return self.lr_scheduler

    own = run(Own, tmp_path)
    assert own.seen == [(4, "SGD")]
    rates = [row["learning_rate"] for row in own.state.log_history if "loss" in row]
    assert rates == pytest.approx([0.5, 0.05, 0.005, 0.0005])


def test_rotate_checkpoints_decides_what_stays(tmp_path: Path) -> None:
    class Own(Base):
        def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: str | None = None) -> None:
            self.seen.append(self._sorted_checkpoints())

    own = run(Own, tmp_path, save_total_limit=1, save_steps=1)
    assert [len(paths) for paths in own.seen] == [1, 2, 3, 4]
    assert len(list(tmp_path.glob("checkpoint-*"))) == 4


def test_activate_neftune_may_put_noise_elsewhere(tmp_path: Path) -> None:
    class Own(Base):
        def _activate_neftune(self, model: Any) -> Any:
            self.hook = model.embedding.register_forward_hook(lambda module, inputs, output: output * 0)
            return model

        def _deactivate_neftune(self, model: Any) -> None:
            self.hook.remove()

    own = run(Own, tmp_path, neftune_noise_alpha=5.0)
    assert losses(own)[0] != losses(run(Base, tmp_path / "plain"))[0]
    assert not own.model.embedding._forward_hooks  # type: ignore[union-attr]


def test_the_inner_evaluate_gives_what_is_judged(tmp_path: Path) -> None:
    class Own(Base):
        def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
            metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
            return {**metrics, "eval_loss": -float(self.state.global_step)}

    own = run(Own, tmp_path, metric_for_best_model="loss")
    assert (own.state.best_metric, own.state.best_global_step) == (-4.0, 4)


def test_the_handlers_list_of_callbacks_may_be_changed_in_place(tmp_path: Path) -> None:
    class Own(Base):
        def __init__(self, folder: Path, **changes: Any) -> None:
            super().__init__(folder, **changes)
            self.callback_handler.callbacks = [self.callback_handler.callbacks[0]]
            self.callback_handler.callbacks.append(Noting(self.seen))

    class Noting(TrainerCallback):
        def __init__(self, seen: list[Any]) -> None:
            self.seen = seen

        def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
            self.seen.append(state.global_step)

    assert run(Own, tmp_path).seen == [1, 2, 3, 4]


def test_get_batch_samples_may_replace_a_steps_batches(tmp_path: Path) -> None:
    class Own(Base):
        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
            self.seen.append(len(batches))
            tokens = torch.arange(4).remainder(VOCABULARY).reshape(1, 4)
            return [{"input_ids": tokens, "labels": tokens}] * len(batches), count

    own = run(Own, tmp_path, gradient_accumulation_steps=2, learning_rate=0.0)
    assert own.seen == [2] * 4
    assert len(set(losses(own))) == 1


def test_overrides_may_name_their_parameters_as_they_like(tmp_path: Path) -> None:
    called: list[str] = []

    class Named(Base):
        def _get_output_dir(self, trial: Any) -> str:  # type: ignore[override]
            called.append("output")
            return str(tmp_path / "elsewhere")

        def _evaluate(self, _trial: Any, ignored: Any) -> dict[str, float]:  # type: ignore[override]
            called.append("evaluate")
            return super()._evaluate(_trial, ignored)

        def _save_checkpoint(self, module: nn.Module, _trial: Any) -> None:  # type: ignore[override]
            called.append("save")
            super()._save_checkpoint(module, _trial)

        def add_callback(self, one: Any) -> None:
            called.append("callback")
            super().add_callback(one)

    run(Named, tmp_path)
    assert set(called) == {"output", "evaluate", "save", "callback"}
    assert (tmp_path / "elsewhere" / "checkpoint-2").is_dir()
