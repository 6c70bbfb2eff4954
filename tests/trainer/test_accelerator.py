"""`trainer.accelerator` in one process: the answers are those of accelerate's own object."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate import state as accelerate_state
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hftrain import Trainer
from hftrain.errors import ConfigurationError
from hftrain.trainer.accelerator import INSTEAD, AcceleratorShim
from hftrain.trainer.process_place import AcceleratorState
from tests.trainer.tasks import Model, Points, arguments


def made(folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    return Trainer(Model(), arguments(folder, max_steps=3, **changes), train_dataset=Points())


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[AcceleratorShim]:
    trainer = made(tmp_path)
    yield trainer.accelerator
    del trainer  # it lives as long as the test


@pytest.mark.parametrize(
    "name",
    [
        "device",
        "dispatch_batches",
        "distributed_type",
        "even_batches",
        "gradient_accumulation_steps",
        "is_last_process",
        "is_local_main_process",
        "is_main_process",
        "local_process_index",
        "mixed_precision",
        "native_amp",
        "non_blocking",
        "num_processes",
        "optimizer_step_was_skipped",
        "process_index",
        "split_batches",
        "sync_gradients",
        "use_distributed",
    ],
)
def test_it_answers_as_accelerate_does(alone: AcceleratorShim, name: str) -> None:
    assert getattr(alone, name) == getattr(Accelerator(cpu=True), name)


def test_it_answers_as_accelerates_does_in_a_trainer_that_accumulates_and_deals(tmp_path: Path) -> None:
    import transformers

    dealing = {"even_batches": False, "split_batches": True, "dispatch_batches": True, "use_seedable_sampler": False}
    given = {"gradient_accumulation_steps": 4, "accelerator_config": dealing}
    ours = made(tmp_path, **given)
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **given)
    theirs = transformers.Trainer(Model(), args)
    for name in ("gradient_accumulation_steps", "non_blocking", *dealing):
        assert getattr(ours.accelerator, name) == getattr(theirs.accelerator, name), name
    ours.accelerator.even_batches = True
    assert ours.accelerator.even_batches


def test_it_says_whether_the_latest_step_was_skipped(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    assert not trainer.accelerator.optimizer_step_was_skipped
    trainer._running_engine().step_was_skipped = True
    assert trainer.accelerator.optimizer_step_was_skipped


def test_the_state_says_what_accelerates_state_says(alone: AcceleratorShim) -> None:
    ours, theirs = alone.state, Accelerator(cpu=True).state
    for name in AcceleratorState.__dataclass_fields__:
        assert getattr(ours, name) == getattr(theirs, name, None), name


def test_gathering_and_reducing_alone_returns_what_accelerate_returns(alone: AcceleratorShim) -> None:
    theirs = Accelerator(cpu=True)
    tree = {"loss": torch.tensor(2.0), "ids": torch.tensor([1, 2])}
    assert alone.gather(tree) is tree
    assert alone.gather_for_metrics(["a"]) == theirs.gather_for_metrics(["a"])
    assert alone.pad_across_processes(tree, dim=1, pad_index=-100) is tree
    torch.testing.assert_close(alone.reduce(tree, "mean"), theirs.reduce(tree, "mean"))
    assert alone.reduce(tree)["ids"] is not tree["ids"]
    assert alone.free_memory(1, 2) == theirs.free_memory(1, 2) == [None, None]


def test_an_unknown_reduction_is_named(alone: AcceleratorShim) -> None:
    with pytest.raises(ConfigurationError, match=r"reduction='max'. is not known. Use 'sum' or 'mean'"):
        alone.reduce(torch.ones(1), "max")
    with pytest.raises(ConfigurationError, match="Multiply the result"):
        alone.reduce(torch.ones(1), scale=2.0)


def test_what_accelerate_has_and_this_lacks_says_what_to_use(alone: AcceleratorShim) -> None:
    accelerator = alone
    theirs = {name for name in dir(Accelerator) if not name.startswith("_")}
    lacking = theirs - set(dir(accelerator))
    assert set(INSTEAD) & set(dir(accelerator)) == set()
    for name in lacking:
        with pytest.raises(AttributeError, match=f"has no '{name}'. Use .*"):
            getattr(accelerator, name)
    with pytest.raises(AttributeError, match="Use trainer.log"):
        accelerator.log({"a": 1})


def test_prepare_returns_models_loaders_optimizers_and_schedules_in_their_order(alone: AcceleratorShim) -> None:
    model, loader = nn.Linear(1, 1), DataLoader([1, 2])
    optimizer = torch.optim.SGD(model.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    assert alone.prepare(model, optimizer, loader, schedule) == (model, optimizer, loader, schedule)
    assert alone.prepare(model) is model
    assert alone.prepare_model(model, evaluation_mode=True) is model
    assert alone.prepare_scheduler(schedule) is schedule


def test_unwrapping_gives_the_module_and_its_weights_under_their_own_names(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    compiled = torch.compile(trainer.model, backend="eager")
    assert trainer.accelerator.unwrap_model(trainer.model_wrapped) is trainer.model
    assert trainer.accelerator.unwrap_model(compiled, keep_torch_compile=False) is trainer.model
    assert trainer.accelerator.unwrap_model(compiled) is compiled
    assert list(trainer.accelerator.get_state_dict(trainer.model)) == ["net.weight", "net.bias"]


def test_backward_passes_its_keywords_on_and_divides_nothing(tmp_path: Path) -> None:
    weight = torch.ones(1, requires_grad=True)
    loss = (weight * 2).sum()
    trainer = made(tmp_path, gradient_accumulation_steps=4)
    accelerator = trainer.accelerator
    accelerator.backward(loss, retain_graph=True)
    accelerator.backward(loss)
    assert weight.grad == 4


def test_clipping_returns_the_norm_before(alone: AcceleratorShim) -> None:
    weight = torch.ones(1, requires_grad=True)
    (weight * 3).sum().backward()
    assert alone.clip_grad_norm_([weight], 1.0) == 3
    alone.clip_grad_value_([weight], 0.5)
    assert weight.grad == 0.5


def test_sync_gradients_is_true_in_the_last_micro_batch_of_a_step(tmp_path: Path) -> None:
    seen = []

    class Watching(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(self.accelerator.sync_gradients)
            return super().training_step(*args, **kwargs)

    Watching(Model(), arguments(tmp_path, max_steps=2, gradient_accumulation_steps=2), train_dataset=Points()).train()
    assert seen == [False, True, False, True]


def test_only_the_right_process_runs_and_prints(alone: AcceleratorShim, capsys: pytest.CaptureFixture[str]) -> None:
    assert alone.on_main_process(lambda: 1)() == alone.on_local_main_process(lambda: 1)() == 1
    with alone.main_process_first(), alone.local_main_process_first(), alone.no_sync():
        alone.print("here", end="")
    alone.wait_for_everyone()
    assert capsys.readouterr().out == "here"


def test_autocast_is_the_runs(tmp_path: Path) -> None:
    trainer = made(tmp_path, bf16=True)
    accelerator = trainer.accelerator
    with accelerator.autocast():
        assert nn.Linear(1, 1)(torch.ones(1)).dtype is torch.bfloat16
    assert (accelerator.mixed_precision, accelerator.native_amp) == ("bf16", True)


def test_the_forward_of_a_prepared_model_runs_in_the_runs_precision_and_returns_fp32(tmp_path: Path) -> None:
    trainer = made(tmp_path, bf16=True)
    model, exact = nn.Linear(3, 1), torch.tensor([[0.1, 0.2, 0.3]])
    before = model(exact)
    prepared = trainer.accelerator.prepare_model(model, evaluation_mode=True)
    assert prepared(exact).dtype is torch.float32
    assert prepared(exact) != before
    assert not torch.is_autocast_enabled("cpu")


def test_it_keeps_no_trainer_alive(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    accelerator, model = trainer.accelerator, weakref.ref(trainer.model)
    assert accelerator.device.type == "cpu"
    gc.disable()
    try:
        del trainer
        assert model() is None
    finally:
        gc.enable()
    with pytest.raises(AttributeError, match="Keep the Trainer"):
        accelerator.device  # noqa: B018
    names = (name for name in dir(Accelerator) if not name.startswith("_"))
    answers = {name: hasattr(accelerator, name) for name in names}
    assert (answers["device"], answers["gather"], answers["log"]) == (False, True, False)


def test_a_subclass_may_put_another_in_its_place(tmp_path: Path) -> None:
    class Louder(AcceleratorShim):
        calls = 0

        def backward(self, loss: Tensor, **kwargs: Any) -> None:
            Louder.calls += 1
            super().backward(loss, **kwargs)

    class Own(Trainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            self.accelerator = Louder(self)

        def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
            loss = self.compute_loss(model, inputs)
            self.accelerator.backward(loss)
            return loss.detach()

    trainer = Own(Model(), arguments(tmp_path, max_steps=3), train_dataset=Points())
    trainer.train()
    assert (Louder.calls, trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (3, False, False)


def test_a_subclass_may_call_functions_of_accelerate_that_need_its_state(tmp_path: Path) -> None:
    class Own(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            set_seed(3, device_specific=True)

    theirs = accelerate_state.AcceleratorState
    theirs._reset_state(reset_partial_state=True)
    made(tmp_path)
    assert not theirs._shared_state  # nothing is started for a Trainer that is nobody's subclass
    Own(Model(), arguments(tmp_path), train_dataset=Points())
    assert torch.initial_seed() == 3
