"""A classifier of lines of text, written for transformers: command line, tables, metrics, best model."""

import json
import os
import sys
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from transformers import (  # isort: skip - the import that changes
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class DataArguments:
    max_seq_length: int = field(default=24, metadata={"help": "tokens kept of a line"})
    lowercase: bool = field(default=True)


def lines():
    """Lines of two modules of the standard library, labelled by the module."""
    rows = {"text": [], "label": []}
    for label, module in enumerate((json, os)):
        with open(module.__file__, encoding="utf-8") as source:
            kept = [line.strip() for line in source if len(line.split()) > 3][:96]
        rows["text"] += kept
        rows["label"] += [label] * len(kept)
    return Dataset.from_dict({**rows, "source": list(range(len(rows["text"])))})


def tokenizer_of(texts):
    words = sorted({word for text in texts for word in text.lower().split()})[:300]
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def accuracy(prediction):
    return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


def main():
    data_args, training_args = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(training_args.seed)
    table = lines()
    tokenizer = tokenizer_of(table["text"])

    def tokenize(batch):
        texts = [text.lower() if data_args.lowercase else text for text in batch["text"]]
        return tokenizer(texts, truncation=True, max_length=data_args.max_seq_length)

    parts = table.map(tokenize, batched=True).train_test_split(test_size=0.25, seed=0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=training_args,
        train_dataset=parts["train"],
        eval_dataset={"held_out": parts["test"], "seen": parts["train"].select(range(20))},
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=5)],
    )
    result = trainer.train()
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    prediction = trainer.predict(parts["test"])
    trainer.save_metrics("test", prediction.metrics)
    again = BertForSequenceClassification.from_pretrained(training_args.output_dir)
    return {
        "log_history": trainer.state.log_history,
        "best_metric": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step,
        "best_checkpoint": trainer.state.best_model_checkpoint,
        "predictions": prediction.predictions.tolist(),
        "label_ids": prediction.label_ids.tolist(),
        "weights": [float(p.detach().sum()) for p in again.parameters()],
        "files": sorted(os.listdir(training_args.output_dir)),
    }


if __name__ == "__main__":
    result = main()
    with open(os.path.join(sys.argv[sys.argv.index("--output_dir") + 1], "result.json"), "w") as file:
        json.dump(result, file)
