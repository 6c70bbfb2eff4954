"""A small GPT that learns to write Python, byte by byte, from the source of the standard library.

    python examples/stdlib_gpt.py --output-dir runs/stdlib_gpt

It is trained on the ``.py`` files of the running interpreter (their tests left out) and judged on 40 modules that it
never saw: how many bits it needs for each byte, beside what gzip and xz need for the same bytes. Kill it whenever you
like and start it again with the same command: it goes on from its last checkpoint and says so.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import math
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset

from hftrain import DataModule, TaskModule, Trainer, TrainerCallback, TrainingArguments, set_seed

NUM_BYTES = 256
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
SMALLEST_MODULE_BYTES = 1024
PADDING = -100  # the target that cross_entropy ignores

Batch = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Attention over the bytes so far, then a feed-forward layer; both normalised before and added to their input."""

    def __init__(self, width: int, *, num_heads: int, expansion: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, expansion * width)
        self.feed_forward_out = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, bytes, width) to the same."""
        batch, length, width = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(seen.transpose(1, 2).reshape(batch, length, width))
        hidden = functional.gelu(self.feed_forward_in(self.feed_forward_norm(x)), approximate="tanh")
        out: Tensor = x + self.feed_forward_out(hidden)
        return out


class StdlibGPT(TaskModule):
    """What is computed: the next byte, by a decoder-only transformer.

    A single byte says little, so each position also looks up embeddings of the last two, three, four and five bytes,
    in tables of a prime size where several sequences share a row. It costs little and saves most of the training.
    """

    def __init__(
        self,
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        context: int = 128,
        longest_sequence: int = 5,
        table_size: int = 8191,
    ) -> None:
        super().__init__()
        self.context = context
        self.table_size = table_size
        self.byte_embedding = nn.Embedding(NUM_BYTES, width)
        self.position_embedding = nn.Embedding(context, width)
        self.sequence_embeddings = nn.ModuleList(
            nn.Embedding(table_size, width) for _ in range(2, longest_sequence + 1)
        )
        self.blocks = nn.Sequential(*(Block(width, num_heads=num_heads, expansion=2) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self._initialise(num_layers)

    def _initialise(self, num_layers: int) -> None:
        """Start small, and smaller where a block adds to its input, as GPT-2 does."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = 0.02 / math.sqrt(2 * num_layers) if name.endswith("_out.weight") else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (batch, bytes, 256) for the byte after each of ``text`` (batch, bytes), integers up to 255."""
        length = text.shape[1]
        x = self.byte_embedding(text) + self.position_embedding.weight[:length]
        row = text
        for shift, embedding in enumerate(self.sequence_embeddings, start=1):
            before = functional.pad(text, (shift, 0))[:, :length]
            row = (NUM_BYTES * row + before) % self.table_size  # the last bytes read as one number
            x = x + embedding(row)
        logits: Tensor = self.norm(self.blocks(x)) @ self.byte_embedding.weight.T
        return logits

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Mean loss in nats; the same in bits goes into the log."""
        nats = self.nats_per_byte(batch)
        return {"loss": nats, "bits_per_byte": nats.detach() / math.log(2)}

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Bits per byte, weighted by the bytes that count: the last window of a text is padded."""
        nats = self.nats_per_byte(batch)
        self.log("bits_per_byte", nats / math.log(2), weight=(batch[1] != PADDING).sum())
        return {"loss": nats}

    def nats_per_byte(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the targets."""
        text, target = batch
        return functional.cross_entropy(self(text).flatten(0, 1), target.flatten(), ignore_index=PADDING)

    @torch.no_grad()
    def continuation(self, prompt: bytes, *, num_bytes: int, temperature: float = 0.7) -> bytes:
        """Write on from ``prompt``, one sampled byte after the other."""
        text = torch.tensor([list(prompt)], device=self.device)
        for _ in range(num_bytes):
            logits = self(text[:, -self.context :])[0, -1]
            following = torch.multinomial((logits / temperature).softmax(dim=-1), num_samples=1)
            text = torch.cat([text, following[None]], dim=1)
        return bytes(text[0].tolist())


class Windows(Dataset[Batch]):
    """A text cut into windows side by side, each with its bytes and the bytes that follow them.

    The bytes before the text count as one newline, so that every byte of it is a target exactly once.
    """

    def __init__(self, text: bytes, *, context: int) -> None:
        self.context = context
        self.bytes = torch.frombuffer(bytearray(b"\n" + text), dtype=torch.uint8)

    def __len__(self) -> int:
        return math.ceil((len(self.bytes) - 1) / self.context)

    def __getitem__(self, index: int) -> Batch:
        begin = index * self.context
        window = self.bytes[begin : begin + self.context + 1].long()
        missing = self.context + 1 - len(window)
        return functional.pad(window[:-1], (0, missing)), functional.pad(window[1:], (0, missing), value=PADDING)


class StandardLibrary(DataModule):
    """What it is computed on: the standard library, with some of its modules kept apart."""

    def __init__(self, *, context: int = 128, num_held_out: int = 40, seed: int = 42) -> None:
        super().__init__()
        modules = standard_library_modules()
        apart = set(random.Random(seed).sample(modules, num_held_out))
        self.held_out = b"".join(path.read_bytes() for path in modules if path in apart)
        self.train_windows = Windows(b"".join(p.read_bytes() for p in modules if p not in apart), context=context)
        self.test_windows = Windows(self.held_out, context=context)

    def train_data(self) -> Windows:
        """Everything but the held-out modules."""
        return self.train_windows

    def eval_data(self) -> Subset[Batch]:
        """Every 16th window of the held-out modules, for a look on the way; nothing is selected by it."""
        return Subset(self.test_windows, range(0, len(self.test_windows), 16))

    def test_data(self) -> Windows:
        """All bytes of the held-out modules."""
        return self.test_windows


@dataclass
class SayWhereItResumes(TrainerCallback):
    """Print the step that a run goes on from."""

    output_dir: str

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once the checkpoint is loaded."""
        if state.global_step:
            print(f"resumed from {self.output_dir}/checkpoint-{state.global_step}", flush=True)


def standard_library_modules() -> list[Path]:
    """The source files of the running interpreter's standard library, sorted, without tests and stubs."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not LEFT_OUT & set(path.relative_to(root).parts) and path.stat().st_size >= SMALLEST_MODULE_BYTES
    ]


def arguments(output_dir: str, *, steps: int, save_steps: int, seed: int) -> TrainingArguments:
    """How it is trained: AdamW, a cosine after a warm-up, two micro-batches of 8 windows to a step."""
    return TrainingArguments(
        output_dir,
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=64,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_steps=max(1, steps // 20),
        eval_strategy="steps",
        eval_steps=max(1, steps // 5),
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=2,
        seed=seed,
        report_to="none",
    )


def main(argv: list[str] | None = None) -> float:
    """Train or go on training, then compare; returns the bits per held-out byte."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/stdlib_gpt", help="where checkpoints go (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=900, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--save-steps", type=int, default=100, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=40, help="modules kept apart (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the split, the weights and the order (default: 42)")
    options = parser.parse_args(argv)

    set_seed(options.seed)
    task = StdlibGPT()
    data = StandardLibrary(context=task.context, num_held_out=options.held_out, seed=options.seed)
    trainer = Trainer(
        model=task,
        args=arguments(options.output_dir, steps=options.steps, save_steps=options.save_steps, seed=options.seed),
        datamodule=data,
        callbacks=[SayWhereItResumes(options.output_dir)],
    )
    trainer.train(resume_from_checkpoint="auto")
    bits_per_byte = trainer.evaluate(data.test_data(), metric_key_prefix="test")["test_bits_per_byte"]

    num_bytes = len(data.held_out)
    print(f"\n{task.eval().continuation(b'    def __init__(self', num_bytes=200).decode(errors='replace')}\n")
    print(f"bits per byte on {options.held_out} held-out modules, {num_bytes:,} bytes:")
    print(f"  gzip -9  {8 * len(gzip.compress(data.held_out, compresslevel=9)) / num_bytes:.3f}")
    print(f"  xz -9    {8 * len(lzma.compress(data.held_out, preset=9)) / num_bytes:.3f}")
    print(f"  this GPT {bits_per_byte:.3f}")
    return float(bits_per_byte)


if __name__ == "__main__":
    main()
