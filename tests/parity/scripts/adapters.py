"""LoRA adapters on a causal language model, written for transformers: checkpoints of the adapters, resumed."""

import argparse
import json
import os

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from transformers import Trainer, TrainingArguments, set_seed  # isort: skip - the import that changes


class Cycles(torch.utils.data.Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        ids = (torch.arange(12) * (1 + index % 3) + index) % 32
        return {"input_ids": ids, "labels": ids.clone()}


def base():
    set_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2))


def make(output_dir, **changes):
    settings = {
        "use_cpu": True,
        "report_to": [],
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "neftune_noise_alpha": 5.0,
        "disable_tqdm": True,
    }
    model = get_peft_model(base(), LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", lora_dropout=0.1))
    args = TrainingArguments(output_dir, **{**settings, **changes})
    return Trainer(model, args, train_dataset=Cycles(), eval_dataset=Cycles())


def main(output_dir):
    whole = make(os.path.join(output_dir, "whole"))
    whole.train()
    resumed = make(os.path.join(output_dir, "whole"))
    resumed.train(resume_from_checkpoint=os.path.join(output_dir, "whole", "checkpoint-3"))
    resumed.save_model(os.path.join(output_dir, "saved"))
    again = PeftModel.from_pretrained(base(), os.path.join(output_dir, "saved"))
    return {
        "log_history": whole.state.log_history,
        "resumed_history": resumed.state.log_history,
        "weights": [float(p.detach().sum()) for name, p in again.named_parameters() if "lora" in name],
        "files": sorted(os.listdir(os.path.join(output_dir, "saved"))),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    folder = parser.parse_args().output_dir
    os.makedirs(folder, exist_ok=True)
    result = main(folder)
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)
