"""A Trainer subclass for an imbalanced task, written for transformers: own loss, rows, sampler, callback."""

import argparse
import json
import os

import torch
from torch import nn
from torch.utils.data import WeightedRandomSampler

from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed  # isort: skip - the import that changes


class Spirals(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        draw = torch.Generator().manual_seed(seed)
        self.labels = (torch.rand(count, generator=draw) < 0.2).long()
        self.x = torch.randn(count, 2, generator=draw) + self.labels[:, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": self.labels[index], "weight": 1.0, "unused": "text"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(8, 2)

    def forward(self, x, labels=None):
        return {"logits": self.head(self.body(x))}


class WeightedTrainer(Trainer):
    def __init__(self, *args, class_weights=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_weights = class_weights
        self.seen = []

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs["logits"], labels, weight=self.class_weights)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset=None):
        weights = torch.where(self.train_dataset.labels == 1, 4.0, 1.0)
        return WeightedRandomSampler(weights, len(weights), generator=torch.Generator().manual_seed(3))

    def create_optimizer(self):
        groups = [
            {"params": self.model.body.parameters(), "lr": 1e-3},
            {"params": self.model.head.parameters(), "lr": 1e-2},
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9)
        return self.optimizer

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss, outputs["logits"].softmax(dim=-1), labels

    def log(self, logs, *args, **kwargs):
        logs["extra"] = len(self.seen)
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        self.seen.append(metrics["eval_recall"])
        return metrics


class Freeze(TrainerCallback):
    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        for parameter in model.body.parameters():
            parameter.requires_grad_(state.epoch is not None and state.epoch >= 1)


def recall(prediction):
    predictions, labels = prediction
    found = (predictions.argmax(axis=-1) == 1) & (labels == 1)
    return {"recall": float(found.sum() / max((labels == 1).sum(), 1))}


def main(output_dir):
    set_seed(0)
    args = TrainingArguments(
        output_dir,
        use_cpu=True,
        report_to=[],
        num_train_epochs=3,
        per_device_train_batch_size=16,
        logging_steps=3,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="recall",
        max_grad_norm=0.5,
        disable_tqdm=True,
    )
    trainer = WeightedTrainer(
        Net(),
        args,
        train_dataset=Spirals(100, 0),
        eval_dataset=Spirals(50, 1),
        compute_metrics=recall,
        callbacks=[Freeze],
        class_weights=torch.tensor([1.0, 2.0]),
    )
    trainer.train()
    return {
        "log_history": trainer.state.log_history,
        "seen": trainer.seen,
        "best": [trainer.state.best_metric, trainer.state.best_global_step],
        "weights": [float(p.detach().sum()) for p in trainer.model.parameters()],
        "files": sorted(os.listdir(output_dir)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    folder = parser.parse_args().output_dir
    result = main(folder)
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)
