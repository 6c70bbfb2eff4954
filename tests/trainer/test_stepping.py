"""Around a model's call: what it is told from its class, and in which precision it runs."""

from __future__ import annotations

from collections import UserDict
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hftrain import Trainer
from hftrain.errors import TaskError
from hftrain.hardware.precision import float_outputs
from hftrain.trainer.stepping import autocast_in_forward, call_model, is_causal_lm, loss_of, own_batch, past_of
from tests.parity.models import causal_lm, classifier, gpt2
from tests.trainer.models import Tagger, token_trainer
from tests.trainer.tasks import Fit, weights


class TinyForCausalLM(nn.Module):
    """A module that is named as the models of transformers are."""


@pytest.mark.parametrize(
    ("model", "expected"),
    [(causal_lm, True), (gpt2, True), (classifier, False), (TinyForCausalLM, True), (Tagger, False)],
)
def test_a_causal_language_model_is_known_by_its_class(model: Any, expected: bool) -> None:
    assert is_causal_lm(model()) is expected


def test_adapters_do_not_hide_what_the_model_is() -> None:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert is_causal_lm(peft.get_peft_model(causal_lm(), config))


def test_label_smoothing_shifts_the_labels_of_a_causal_model_only(tmp_path: Path) -> None:
    class Named(Tagger):
        pass

    logits, labels = torch.randn(2, 4, 11), torch.randint(11, (2, 4))
    losses = {}
    for name in ("Named", "NamedForCausalLM"):
        model = type(name, (Named,), {})
        ours = token_trainer(tmp_path, model, label_smoothing_factor=0.2)
        losses[name] = float(ours._loss_of({"logits": logits}, labels, None, {}))
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.2)
    assert losses["NamedForCausalLM"] == pytest.approx(float(expected), abs=1e-6)
    assert losses["Named"] != pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_batch_that_did_not_move_is_copied_so_that_entries_may_be_taken_out(kind: Any) -> None:
    batch = kind(x=1, labels=2)
    copied = own_batch(batch, batch)
    assert type(copied) is kind
    copied.pop("labels")
    assert list(batch) == ["x", "labels"]


def test_a_batch_that_moved_is_used_as_it_is() -> None:
    moved: dict[str, int] = {}
    assert own_batch(moved, {}) is moved


@pytest.mark.parametrize("outputs", [{"loss": 1, "logits": 2}, (1, 2), [1, 2], 1])
def test_the_loss_is_the_entry_of_that_name_or_the_first_output(outputs: Any) -> None:
    assert loss_of(outputs, {}) == 1


def test_outputs_without_a_loss_are_named_with_the_inputs() -> None:
    with pytest.raises(TaskError, match=r"only the keys logits. The inputs were \{'x': float32\[2\]\}. Pass labels"):
        loss_of({"logits": 1}, {"x": torch.ones(2)})


@pytest.mark.parametrize("outputs", [{"loss": 1, "mems": 2}, (1, 2)])
def test_a_memory_is_counted_from_zero(outputs: Any) -> None:
    assert past_of(outputs, 1) == 2


class Unlabelled(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        return {"logits": scale * x}


@pytest.mark.parametrize("label", ["labels", "target"])
def test_a_label_that_the_model_does_not_take_means_that_it_computes_no_loss(label: str) -> None:
    with pytest.raises(TaskError, match=f"takes no '{label}', so it computes no loss: pass compute_loss_func"):
        call_model(Unlabelled(), {"x": torch.ones(2), label: torch.ones(2)}, label_names=["target"])


def test_another_entry_that_the_model_does_not_take_is_to_be_renamed() -> None:
    with pytest.raises(TaskError, match=r"Unlabelled\.forward\(x, scale\) cannot .*'idx'.* Rename") as caught:
        call_model(Unlabelled(), {"x": torch.ones(2), "idx": torch.ones(2)})
    assert "loss" not in str(caught.value)


def test_a_forward_that_takes_everything_raises_its_own_errors() -> None:
    class Anything(nn.Module):
        def forward(self, **kwargs: Any) -> Any:
            return kwargs["x"] + None

    with pytest.raises(TypeError, match="unsupported operand"):
        call_model(Anything(), {"x": 1})


# ---- precision -----------------------------------------------------------------------------------------


def engine(device: str) -> Any:
    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16)

    return SimpleNamespace(device=SimpleNamespace(type=device), autocast=autocast, float_outputs=float_outputs)


@pytest.mark.parametrize(("device", "outside"), [("cpu", torch.bfloat16), ("cuda", torch.float32)])
def test_forward_runs_in_half_precision_and_returns_fp32(device: str, outside: torch.dtype) -> None:
    seen = []
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with autocast_in_forward(engine(device), model):
        outputs = model(torch.ones(2, 2))
        assert (seen, outputs.dtype, (outputs @ outputs).dtype) == ([torch.bfloat16], torch.float32, outside)
    assert model(torch.ones(2, 2)).dtype is torch.float32
    assert not model._forward_hooks


def test_autocast_ends_with_a_forward_that_raises() -> None:
    model = nn.Linear(2, 2)
    with autocast_in_forward(engine("cuda"), model):
        with pytest.raises(RuntimeError):
            model(torch.ones(3, 3))
        assert not torch.is_autocast_enabled("cpu")


def test_a_loss_function_gets_fp32_in_a_bf16_run(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    def loss_function(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
        seen.append(outputs["logits"].dtype)
        return functional.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten())

    class Own(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            seen.append(model(inputs["input_ids"])["logits"].dtype)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    token_trainer(tmp_path, parameters={"compute_loss_func": loss_function}, bf16=True, max_steps=1).train()
    token_trainer(tmp_path, kind=Own, bf16=True, max_steps=1).train()
    assert seen == [torch.float32, torch.float32]


# ---- other arguments -----------------------------------------------------------------------------------


def test_a_plain_module_is_compiled_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: asked.append(options) or compile_(call, **options))
    losses = {}
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        ours = token_trainer(tmp_path, **options)
        names = list(ours.model.state_dict())
        ours.train()
        losses[len(options)] = weights(ours.model)
        assert list(ours.model.state_dict()) == names
    assert asked == [{"backend": "eager"}]
    assert torch.allclose(losses[0], losses[2])


@pytest.mark.parametrize("kwargs", [None, {"use_reentrant": False}])
def test_the_model_is_told_how_to_recompute_as_the_arguments_say(tmp_path: Path, kwargs: Any) -> None:
    told: list[Any] = []

    class Telling(Tagger):
        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = "nothing") -> None:
            told.append(gradient_checkpointing_kwargs)

    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": kwargs}
    token_trainer(tmp_path, Telling, max_steps=1, **options).train()
    assert told == [kwargs]


class Checkpointed(Tagger):
    """Can recompute its activations."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Do nothing: this model is too small."""


@pytest.mark.parametrize(
    ("model", "changes", "unused", "buffers"),
    [
        (Checkpointed, {}, True, None),
        (Checkpointed, {"gradient_checkpointing": True}, False, False),
        (Checkpointed, {"gradient_checkpointing": True, "ddp_find_unused_parameters": True}, True, False),
        (Checkpointed, {"ddp_broadcast_buffers": False}, True, False),
        (Checkpointed, {"gradient_checkpointing": True, "ddp_broadcast_buffers": True}, False, True),
        (Fit, {}, None, None),
    ],
)
def test_ddp_looks_for_unused_parameters_unless_activations_are_recomputed(
    tmp_path: Path, model: type[nn.Module], changes: dict[str, Any], unused: bool | None, buffers: bool | None
) -> None:
    settings = token_trainer(tmp_path, model, **changes)._running_engine().settings
    assert (settings.ddp_find_unused_parameters, settings.ddp_broadcast_buffers) == (unused, buffers)
