"""A causal language model on the standard library's source, written for transformers: cut, resumed, evaluated."""

import argparse
import inspect
import json
import math
import os

import torch
from transformers import GPT2Config, GPT2LMHeadModel, default_data_collator

from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed  # isort: skip - the import that changes
from transformers.trainer_utils import get_last_checkpoint  # isort: skip - the import that changes

BLOCK = 32


class Blocks(torch.utils.data.Dataset):
    def __init__(self, text, start, count):
        codes = torch.tensor(list(text.encode("utf-8", "replace")))
        self.blocks = codes[start * BLOCK : (start + count) * BLOCK].view(count, BLOCK)

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, index):
        block = self.blocks[index]
        return {"input_ids": block, "attention_mask": torch.ones_like(block), "labels": block.clone()}


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def tokens(logits, labels):
    return logits.argmax(dim=-1)


def metrics(prediction):
    hits = prediction.predictions[:, :-1] == prediction.label_ids[:, 1:]
    return {"token_accuracy": float(hits.mean())}


def make(output_dir, callbacks=()):
    args = TrainingArguments(
        output_dir,
        use_cpu=True,
        report_to=[],
        max_steps=12,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_ratio=0.25,
        weight_decay=0.1,
        logging_steps=2,
        logging_first_step=True,
        eval_strategy="steps",
        eval_steps=6,
        save_steps=6,
        save_total_limit=2,
        disable_tqdm=True,
    )
    set_seed(args.seed)
    text = inspect.getsource(argparse)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=BLOCK, n_embd=16, n_layer=2, n_head=2))
    return Trainer(
        model,
        args,
        train_dataset=Blocks(text, 0, 64),
        eval_dataset=Blocks(text, 64, 20),
        data_collator=default_data_collator,
        compute_metrics=metrics,
        preprocess_logits_for_metrics=tokens,
        callbacks=list(callbacks),
    )


def main(output_dir):
    make(output_dir, [StopAt(8)]).train()
    last = get_last_checkpoint(output_dir)
    trainer = make(output_dir)
    result = trainer.train(resume_from_checkpoint=last)
    evaluation = trainer.evaluate()
    trainer.save_model()
    return {
        "log_history": trainer.state.log_history,
        "global_step": result.global_step,
        "training_loss": result.training_loss,
        "perplexity": math.exp(evaluation["eval_loss"]),
        "resumed": os.path.basename(last),
        "weights": [float(p.detach().sum()) for p in GPT2LMHeadModel.from_pretrained(output_dir).parameters()],
        "files": sorted(os.listdir(output_dir)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    folder = parser.parse_args().output_dir
    result = main(folder)
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)
