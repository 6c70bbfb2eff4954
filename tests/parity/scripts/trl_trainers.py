"""Nine of TRL's trainers, each trained for eight steps; with "hftrain" as second argument its Trainer is their base.

TRL's trainers are the heaviest users of Trainer's override points, so they are the measure of this door.
"""

import json
import os
import sys
import tempfile

import transformers

FOLDER, LIBRARY = sys.argv[1:3]
if LIBRARY == "hftrain":
    import transformers.trainer
    import transformers.training_args

    import hftrain

    for name in ("Trainer", "TrainingArguments", "TrainerCallback", "TrainerState", "TrainerControl"):
        setattr(transformers, name, getattr(hftrain, name))
    transformers.trainer.Trainer = hftrain.Trainer
    transformers.training_args.TrainingArguments = hftrain.TrainingArguments

import trl  # noqa: E402 - TRL takes the names above when it is imported
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)

NUMBERS = range(40)
TEXTS = [f"the number {i} and then {i + 1} <eos>" for i in NUMBERS]


def tokenizer():
    words = sorted({word for text in TEXTS for word in text.split()} - {"<eos>"})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *words, "<eos>"])}
    level = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>", "bos_token": "<eos>"}
    made = PreTrainedTokenizerFast(tokenizer_object=level, **special)
    made.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}<eos>"
    return made


def model(kind=GPT2LMHeadModel, **changes):
    words = tokenizer()
    special = {"eos_token_id": words.eos_token_id, "bos_token_id": words.eos_token_id, "pad_token_id": 0}
    return kind(GPT2Config(vocab_size=len(words), n_positions=64, n_embd=16, n_layer=1, n_head=2, **special, **changes))


def arguments(kind, folder, **changes):
    settings = {
        "use_cpu": True,
        "report_to": "none",
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_steps": 4,
        "bf16": False,
        "disable_tqdm": True,
    }
    return kind(output_dir=os.path.join(folder, kind.__name__), **{**settings, **changes})


def tables():
    prompts = [f"the number {i}" for i in NUMBERS]
    good, bad = [f" and then {i + 1}" for i in NUMBERS], [f" and {i}" for i in NUMBERS]
    talk = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(prompts, good, strict=True)
    ]
    odd = [i % 2 == 0 for i in NUMBERS]
    rows = {
        "texts": {"text": TEXTS},
        "prompts": {"prompt": prompts},
        "pairs": {"prompt": prompts, "chosen": good, "rejected": bad},
        "judged": {"prompt": prompts, "completion": good, "label": odd},
        "talk": {"messages": talk},
        "steps": {
            "prompt": prompts,
            "completions": [["and", f"then {i + 1}"] for i in NUMBERS],
            "labels": [[True, is_odd] for is_odd in odd],
        },
    }
    return {name: Dataset.from_dict(columns) for name, columns in rows.items()}


def lengths(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


TRAINERS = {
    "sft": (trl.SFTTrainer, trl.SFTConfig, "texts", {}, {"max_length": 32}),
    "dpo": (trl.DPOTrainer, trl.DPOConfig, "pairs", {"ref_model": model}, {"max_length": 32}),
    "reward": (trl.RewardTrainer, trl.RewardConfig, "pairs", {}, {"max_length": 32}),
    "orpo": (trl.ORPOTrainer, trl.ORPOConfig, "pairs", {}, {"max_length": 32, "max_prompt_length": 16}),
    "cpo": (trl.CPOTrainer, trl.CPOConfig, "pairs", {}, {"max_length": 32, "max_prompt_length": 16}),
    "kto": (trl.KTOTrainer, trl.KTOConfig, "judged", {"ref_model": model}, {"max_length": 32, "max_prompt_length": 16}),
    "gkd": (trl.GKDTrainer, trl.GKDConfig, "talk", {"teacher_model": model}, {"max_new_tokens": 8, "max_length": 32}),
    "prm": (trl.PRMTrainer, trl.PRMConfig, "steps", {}, {"max_length": 32}),
    "grpo": (
        trl.GRPOTrainer,
        trl.GRPOConfig,
        "prompts",
        {"reward_funcs": lambda: lengths},
        {"max_completion_length": 8, "num_generations": 4, "per_device_eval_batch_size": 4},
    ),
}
HEADS = {
    "reward": (GPT2ForSequenceClassification, {"num_labels": 1}),
    "prm": (GPT2ForTokenClassification, {"num_labels": 2}),
}


def rows_of(name, folder):
    trainer_class, config, table, others, settings = TRAINERS[name]
    set_seed(0)
    head, changes = HEADS.get(name, (GPT2LMHeadModel, {}))
    data = tables()[table]
    trainer = trainer_class(
        model(head, **changes),
        args=arguments(config, folder, **settings),
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        processing_class=tokenizer(),
        **{key: make() for key, make in others.items()},
    )
    trainer.train()
    return trainer.state.log_history


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        result = {name: rows_of(name, folder) for name in TRAINERS}
    with open(os.path.join(FOLDER, f"{LIBRARY}.json"), "w") as file:
        json.dump(result, file)
