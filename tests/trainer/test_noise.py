"""Noise on the input embeddings: only in training, only while `train` runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hftrain import TrainerCallback
from hftrain.errors import ConfigurationError
from tests.trainer.models import Tagger, token_trainer
from tests.trainer.tasks import Fit


class Watching(TrainerCallback):
    """Measures how far the embeddings' output is from their weights, in train and in eval mode."""

    def __init__(self) -> None:
        self.reach: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        tokens = torch.arange(8).reshape(2, 4)
        distances = []
        for mode in (True, False):
            model.embedding.train(mode)
            distances.append(float((model.embedding(tokens) - model.embedding.weight[tokens]).abs().max().detach()))
        model.train()
        self.reach.append((distances[0], distances[1]))


def test_noise_is_uniform_within_alpha_over_the_root_of_length_times_width(tmp_path: Path) -> None:
    watching = Watching()
    token_trainer(tmp_path, parameters={"callbacks": [watching]}, neftune_noise_alpha=2.0).train()
    reach = 2.0 / math.sqrt(4 * 4)
    assert all(0.7 * reach < trained <= reach for trained, _ in watching.reach)
    assert {evaluated for _, evaluated in watching.reach} == {0.0}


def test_without_the_argument_there_is_none(tmp_path: Path) -> None:
    watching = Watching()
    token_trainer(tmp_path, parameters={"callbacks": [watching]}).train()
    assert set(watching.reach) == {(0.0, 0.0)}


@pytest.mark.parametrize("fails", [False, True])
def test_the_noise_ends_with_training_however_it_ends(tmp_path: Path, fails: bool) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if fails:
                raise KeyboardInterrupt

    ours = token_trainer(tmp_path, parameters={"callbacks": [Failing]}, neftune_noise_alpha=2.0)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            ours.train()
    else:
        ours.train()
    embedding: Any = ours.model.embedding
    assert not embedding._forward_hooks
    assert not hasattr(embedding, "neftune_noise_alpha")
    assert not hasattr(ours, "neftune_hook_handle")


def test_the_noise_that_an_override_adds_is_used(tmp_path: Path) -> None:
    from hftrain import Trainer

    class Louder(Trainer):
        def _activate_neftune(self, model: nn.Module) -> nn.Module:
            self.neftune_noise_alpha = 100.0
            return super()._activate_neftune(model)

    watching = Watching()
    token_trainer(tmp_path, kind=Louder, parameters={"callbacks": [watching]}, neftune_noise_alpha=0.001).train()
    assert all(trained > 1.0 for trained, _ in watching.reach)


def test_noise_that_is_not_there_cannot_be_ended(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path)
    with pytest.raises(ValueError, match="no noise on the embeddings"):
        ours._deactivate_neftune(ours.model)


@pytest.mark.parametrize("model", [nn.Linear, Fit])
def test_a_model_must_say_what_embeds_its_input(tmp_path: Path, model: type[nn.Module]) -> None:
    module = model(1, 1) if model is nn.Linear else model()
    with pytest.raises(ConfigurationError, match=f"{model.__name__} has none. Define it to return the nn.Embedding"):
        token_trainer(tmp_path, module, neftune_noise_alpha=1.0).train()


def test_two_runs_in_a_row_have_the_noise_once_each(tmp_path: Path) -> None:
    watching = Watching()
    ours = token_trainer(tmp_path, Tagger, parameters={"callbacks": [watching]}, neftune_noise_alpha=2.0)
    ours.train()
    ours.train()
    assert all(trained <= 0.5 for trained, _ in watching.reach)
    assert len(watching.reach) == 8


def test_adapters_have_the_noise_on_the_embeddings_of_their_base(tmp_path: Path) -> None:
    import peft

    from tests.parity.models import causal_lm, sentences

    model = peft.get_peft_model(causal_lm(), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    embedding = model.get_base_model().get_input_embeddings()
    hooks: list[int] = []

    class Looking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            hooks.append(len(embedding._forward_hooks))

    token_trainer(
        tmp_path, model, data=sentences(16), parameters={"callbacks": [Looking]}, neftune_noise_alpha=5.0
    ).train()
    assert hooks == [1, 1, 1, 1]
    assert not embedding._forward_hooks
