"""Trainers as people build them on the reference: the same class on both bases gives the same rows and weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import hftrain
from tests.trainer.tasks import weights

SIZE, PAD = 32, 0


@pytest.fixture(autouse=True)
def each_run_has_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # the reference leaves that of its last run there


def llama() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=SIZE, max_position_embeddings=32, pad_token_id=PAD, **sizes))


def rows(num: int = 24) -> list[dict[str, list[int]]]:
    draw = torch.Generator().manual_seed(1)

    def some(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=draw))
        return torch.randint(2, SIZE, (length,), generator=draw).tolist()

    return [{"prompt": some(2, 4), "chosen": some(2, 6), "rejected": some(2, 6)} for _ in range(num)]


def padded(lists: list[list[int]], value: int) -> Tensor:
    width = max(map(len, lists))
    return torch.tensor([one + [value] * (width - len(one)) for one in lists])


class RowLogs:
    """Averages what steps note into each row, as a mixin before the base."""

    accelerator: Any
    model: nn.Module

    def note(self, **numbers: Tensor) -> None:
        kind = "train" if self.model.training else "eval"
        for name, number in numbers.items():
            mean = self.accelerator.gather_for_metrics(number.detach()).mean().item()
            self._metrics[kind][name].append(mean)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        kind = "eval" if next(iter(logs)).startswith("eval_") else "train"
        means = {name: sum(numbers) / len(numbers) for name, numbers in self._metrics[kind].items()}
        self._metrics[kind].clear()
        prefix = "eval_" if kind == "eval" else ""
        super().log({**logs, **{f"{prefix}{name}": mean for name, mean in means.items()}}, start_time)  # type: ignore[misc]

    def start_notes(self) -> None:
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}


def fine_tuner(base: Any) -> Any:
    """Prepares its data set, keeps its own columns, masks the prompt and logs an accuracy."""

    class FineTuner(RowLogs, base):  # type: ignore[misc]
        def __init__(self, model: Any, args: Any, train_dataset: Any, eval_dataset: Any) -> None:
            data = [self._prepare_dataset(Dataset.from_list(one)) for one in (train_dataset, eval_dataset)]
            self.start_notes()
            super().__init__(model, args, self.collate, *data, processing_class=None)

        def _prepare_dataset(self, dataset: Any) -> Any:
            return dataset.map(
                lambda row: {
                    "input_ids": row["prompt"] + row["chosen"],
                    "answers": [0] * len(row["prompt"]) + [1] * len(row["chosen"]),
                }
            )

        @staticmethod
        def collate(samples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
            assert set(samples[0]) == {"input_ids", "answers"}
            tokens = padded([one["input_ids"] for one in samples], PAD)
            answers = padded([one["answers"] for one in samples], 0)
            return {"input_ids": tokens, "labels": tokens.masked_fill(answers == 0, -100)}

        def _set_signature_columns_if_needed(self) -> None:
            if self._signature_columns is None:
                self._signature_columns = ["input_ids", "answers"]

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            labels = inputs["labels"][:, 1:]
            hits = (outputs["logits"][:, :-1].argmax(-1) == labels)[labels != -100]
            self.note(accuracy=hits.float().mean())
            return (loss, outputs) if return_outputs else loss

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            if self.accelerator.is_main_process:
                (Path(self.args.output_dir) / "README.md").write_text(f"step {self.state.global_step}")

    return FineTuner


def preference_tuner(base: Any) -> Any:
    """Compares with a frozen reference model, makes its own loaders and gives metrics of the evaluation loop."""

    class PreferenceTuner(RowLogs, base):  # type: ignore[misc]
        def __init__(self, model: Any, args: Any, train_dataset: Any, eval_dataset: Any) -> None:
            self.start_notes()
            reference = llama().eval()
            super().__init__(model, args, self.collate, train_dataset, eval_dataset)
            self.model_accepts_loss_kwargs = False
            self.reference = self.accelerator.prepare_model(reference, evaluation_mode=True)

        @staticmethod
        def collate(samples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
            pairs = [(one["prompt"], one[side]) for side in ("chosen", "rejected") for one in samples]
            tokens = padded([prompt + answer for prompt, answer in pairs], PAD)
            mask = padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0)
            return {"tokens": tokens, "mask": mask}

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["prompt", "chosen", "rejected"]

        def get_train_dataloader(self) -> Any:
            loader = DataLoader(
                self.train_dataset, self._train_batch_size, sampler=self._get_train_sampler(), collate_fn=self.collate
            )
            return self.accelerator.prepare(loader)

        def _prepare_inputs(self, inputs: Any) -> Any:
            inputs = super()._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                return {**inputs, "before": self.log_probabilities(self.reference, inputs)}

        def log_probabilities(self, model: Any, inputs: Any) -> Tensor:
            logits = model(input_ids=inputs["tokens"]).logits[:, :-1]
            each = logits.log_softmax(-1).gather(2, inputs["tokens"][:, 1:, None]).squeeze(2)
            return (each * inputs["mask"][:, 1:]).sum(1)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            gain = self.log_probabilities(model, inputs) - inputs["before"]
            chosen, rejected = gain.chunk(2)
            loss = -functional.logsigmoid(chosen - rejected).mean()
            self.note(margin=(chosen - rejected).mean())
            return (loss, {"chosen": chosen, "rejected": rejected}) if return_outputs else loss

        def prediction_step(
            self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
        ) -> tuple[Any, Any, Any]:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            logits = torch.stack([outputs["chosen"], outputs["rejected"]], dim=1)
            return (loss, None, None) if prediction_loss_only else (loss, logits, torch.zeros(len(logits)))

        def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
            output.metrics["eval_batches"] = len(dataloader)
            return output

    return PreferenceTuner


def policy_tuner(base: Any) -> Any:
    """Generates with the unwrapped model, rewards what it generated and does its own backward."""

    class PolicyTuner(base):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            model.train()
            inputs = self._prepare_inputs(inputs)
            policy = self.accelerator.unwrap_model(model)
            with torch.no_grad():
                policy.eval()
                tokens = policy.generate(inputs["input_ids"], max_new_tokens=3, do_sample=True, pad_token_id=PAD)
                policy.train()
            reward = (tokens[:, 2:] % 2).float().mean(1)
            reward = reward - self.accelerator.gather(reward).mean()
            chance = model(input_ids=tokens).logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None]).sum((1, 2))
            loss = -(reward * chance).mean()
            self.accelerator.backward(loss / self.args.gradient_accumulation_steps)
            return loss.detach() / self.args.gradient_accumulation_steps

    return PolicyTuner


def run(library: Any, kind: Callable[[Any], Any], folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_steps": 3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = library.TrainingArguments(str(folder), **{**settings, **changes})
    trainer = kind(library.Trainer)(model=llama(), args=args, train_dataset=rows(), eval_dataset=rows(8))
    trainer.train()
    return trainer


def compared(trainer: Any) -> list[dict[str, float]]:
    times = ("runtime", "per_second", "flos", "preparation_time")
    return [{k: v for k, v in row.items() if not k.endswith(times)} for row in trainer.state.log_history]


@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast")  # the reference's
@pytest.mark.parametrize("kind", [fine_tuner, preference_tuner])
@pytest.mark.parametrize("changes", [{}, {"bf16": True}], ids=str)
def test_rows_and_weights_are_those_on_the_reference(
    tmp_path: Path, kind: Callable[[Any], Any], changes: dict[str, Any]
) -> None:
    theirs = run(transformers, kind, tmp_path / "theirs", **changes)
    ours = run(hftrain, kind, tmp_path / "ours", **changes)
    bound = 1e-2 if changes else 1e-5
    for mine, other in zip(compared(ours), compared(theirs), strict=True):
        assert mine == pytest.approx(other, rel=bound, abs=bound)
    assert torch.allclose(weights(ours.model), weights(theirs.model), atol=1e-6 if not changes else 1e-2)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_policy_that_does_its_own_backward_learns_as_on_the_reference(tmp_path: Path, bf16: bool) -> None:
    changes = {"eval_strategy": "no", "remove_unused_columns": False, "bf16": bf16}
    tokens = [{"input_ids": torch.tensor(row["prompt"][:2])} for row in rows()]

    def over_tokens(base: Any) -> Any:
        return lambda model, args, **_: policy_tuner(base)(model=model, args=args, train_dataset=tokens)

    theirs = run(transformers, over_tokens, tmp_path / "theirs", **changes)
    ours = run(hftrain, over_tokens, tmp_path / "ours", **changes)
    for mine, other in zip(compared(ours), compared(theirs), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert torch.allclose(weights(ours.model), weights(theirs.model), atol=1e-6)


def test_what_the_subclass_wrote_lies_beside_its_checkpoints(tmp_path: Path) -> None:
    run(hftrain, fine_tuner, tmp_path)
    assert (tmp_path / "README.md").read_text() == "step 6"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
