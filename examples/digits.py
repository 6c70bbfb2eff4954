"""Handwritten digits: train a small network, keep its best checkpoint, test it, reload it, read one digit.

    python examples/digits.py --output-dir runs/digits

The 1,797 digits come with scikit-learn, so nothing is downloaded. They are split three ways, by class and by seed:
the network learns from the first part, the second decides when to stop and which checkpoint is best, and the last,
which decided nothing, is what the accuracy printed at the end was measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from hftrain import DataModule, EarlyStoppingCallback, TaskModule, Trainer, TrainingArguments, set_seed

NUM_CLASSES = 10
SHADES = " .:-=+*#%@"

Batch = tuple[Tensor, Tensor]


class DigitReader(TaskModule):
    """What is computed: a small convolutional network that names the digit on an 8 x 8 picture."""

    def __init__(self, width: int = 32, dropout: float = 0.2) -> None:
        """Build the network; the two numbers are saved with every checkpoint, so it can be rebuilt from there."""
        super().__init__()
        self.net = nn.Sequential(
            *convolution(1, width),
            *convolution(width, width),
            nn.MaxPool2d(2),
            *convolution(width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * width, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, NUM_CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 8, 8) with values from 0 to 1."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Loss on slightly moved pictures; smoothed labels keep a few odd digits from ruling the fit."""
        images, labels = batch
        return functional.cross_entropy(self(jittered(images)), labels, label_smoothing=0.05)

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and what the metrics are updated with."""
        images, labels = batch
        logits = self(images)
        return {"loss": functional.cross_entropy(logits, labels), "preds": logits, "target": labels}

    def predict_step(self, batch: Batch) -> Tensor:
        """Probabilities (batch, 10)."""
        probabilities: Tensor = self(batch[0]).softmax(dim=-1)
        return probabilities

    def configure_metrics(self) -> dict[str, Metric]:
        """Accuracy; it is logged as ``eval_accuracy``."""
        return {"accuracy": MulticlassAccuracy(num_classes=NUM_CLASSES, average="micro")}


class Digits(DataModule):
    """What it is computed on: three parts of scikit-learn's digits, each with its share of every class."""

    def __init__(self, seed: int = 42) -> None:
        """Split by ``seed``: a fifth to test on, 15 % of the rest to validate on, and the others to learn from."""
        super().__init__()
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Load and split; called once before each of fit, evaluate and predict."""
        pixels, labels = load_digits(return_X_y=True)
        images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        rest, test = stratified_split(images, labels, share=0.2, seed=self.seed)
        train, validation = stratified_split(*rest, share=0.15, seed=self.seed)
        self.parts = {"train": dataset(*train), "validation": dataset(*validation), "test": dataset(*test)}

    def train_data(self) -> TensorDataset:
        """The 1,221 digits to learn from."""
        return self.parts["train"]

    def eval_data(self) -> TensorDataset:
        """The 216 digits that choose the checkpoint."""
        return self.parts["validation"]

    def test_data(self) -> TensorDataset:
        """The 360 digits that choose nothing."""
        return self.parts["test"]


def convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A 3 x 3 convolution that keeps the size, normalised and rectified."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def jittered(images: Tensor) -> Tensor:
    """Turn each picture by up to 0.2 rad, scale it by up to 10 % and shift it by up to one pixel, at random."""
    num_images = len(images)
    angle, stretch, right, down = torch.empty(4, num_images, device=images.device).uniform_(-1, 1)
    sine, cosine, scale = (0.2 * angle).sin(), (0.2 * angle).cos(), 1 + 0.1 * stretch
    maps = torch.stack([scale * cosine, -sine, 0.25 * right, sine, scale * cosine, 0.25 * down], dim=-1)
    grid = functional.affine_grid(maps.view(num_images, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def stratified_split(
    images: np.ndarray, labels: np.ndarray, *, share: float, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Set ``share`` of the digits apart, the same share of every class."""
    kept, apart, kept_labels, apart_labels = train_test_split(
        images, labels, test_size=share, stratify=labels, random_state=seed
    )
    return (kept, kept_labels), (apart, apart_labels)


def dataset(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    """The same as tensors."""
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))


def as_text(image: Tensor) -> str:
    """One picture (1, 8, 8) drawn with characters, two for a pixel."""
    rows = (image[0] * (len(SHADES) - 1)).round().int().tolist()
    return "\n".join("".join(2 * SHADES[shade] for shade in row) for row in rows)


def arguments(output_dir: str, *, epochs: int, seed: int) -> TrainingArguments:
    """How it is trained: every epoch is logged, evaluated and saved, and the best one on validation counts."""
    return TrainingArguments(
        output_dir,
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=256,
        learning_rate=3e-3,
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=seed,
        report_to="none",
    )


def show_one_prediction(checkpoint: str, data: Digits) -> None:
    """Rebuild the network from its checkpoint alone and let it read the first test digit."""
    reader = DigitReader.from_checkpoint(checkpoint).eval()
    image, label = data.test_data()[0]
    with torch.no_grad():
        probabilities = reader.predict_step((image[None], label[None]))[0]
    print(f"\nreloaded from {checkpoint}\n\n{as_text(image)}\n")
    print(f"read as {int(probabilities.argmax())} with probability {float(probabilities.max()):.3f}; it is a {label}\n")


def main(argv: list[str] | None = None) -> float:
    """Train, test and read one digit; returns the accuracy on the test part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/digits", help="where checkpoints go (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the split, the weights and the order (default: 42)")
    options = parser.parse_args(argv)

    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    set_seed(options.seed)
    data = Digits(seed=options.seed)
    trainer = Trainer(
        model=DigitReader(),
        args=arguments(options.output_dir, epochs=options.epochs, seed=options.seed),
        datamodule=data,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=12)],
    )
    trainer.train()
    accuracy = trainer.evaluate(data.test_data(), metric_key_prefix="test")["test_accuracy"]

    best = trainer.state.best_model_checkpoint
    assert best is not None, "load_best_model_at_end keeps one"
    show_one_prediction(best, data)
    print(f"run folder: {Path(options.output_dir).resolve()}")
    print(f"held-out accuracy: {accuracy:.4f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
