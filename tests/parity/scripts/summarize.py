"""A sequence to sequence model that copies and reverses digits, written for transformers: generation in evaluation."""

import argparse
import json
import os

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, T5Config, T5ForConditionalGeneration

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed  # isort: skip - the import that changes

PAD, END = 0, 1


class Digits(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        draw = np.random.default_rng(seed)
        self.rows = [draw.integers(2, 12, size=draw.integers(3, 8)).tolist() for _ in range(count)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {"input_ids": [*row, END], "attention_mask": [1] * (len(row) + 1), "labels": [*row[::-1], END]}


class Padding:
    """As much of a tokenizer as the collator uses."""

    padding_side = "right"
    pad_token_id = PAD

    def pad(self, features, padding=True, max_length=None, pad_to_multiple_of=None, return_tensors=None):
        length = max(len(feature["input_ids"]) for feature in features)
        fill = {"input_ids": PAD, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([row[name] + [value] * (length - len(row[name])) for row in features])
            if name != "labels"
            else torch.tensor(np.array([row[name] for row in features]))
            for name, value in fill.items()
            if name in features[0]
        }


def exact(prediction):
    predictions, labels = prediction.predictions, prediction.label_ids
    width = min(predictions.shape[1] - 1, labels.shape[1])
    hits = (predictions[:, 1 : width + 1] == labels[:, :width]) | (labels[:, :width] == -100)
    return {"hits": float(hits.mean()), "width": predictions.shape[1]}


def main(output_dir):
    set_seed(1)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=16,
            d_model=16,
            d_ff=32,
            d_kv=8,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=PAD,
            pad_token_id=PAD,
            eos_token_id=END,
        )
    )
    args = Seq2SeqTrainingArguments(
        output_dir,
        use_cpu=True,
        report_to=[],
        num_train_epochs=2,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=1e-2,
        label_smoothing_factor=0.1,
        logging_steps=4,
        eval_strategy="epoch",
        save_strategy="no",
        predict_with_generate=True,
        generation_max_length=9,
        generation_num_beams=2,
        disable_tqdm=True,
    )
    trainer = Seq2SeqTrainer(
        model,
        args,
        train_dataset=Digits(40, 0),
        eval_dataset=Digits(20, 1),
        data_collator=DataCollatorForSeq2Seq(Padding(), model=model),
        compute_metrics=exact,
    )
    trainer.train()
    prediction = trainer.predict(Digits(12, 2), max_length=6, num_beams=1)
    return {
        "log_history": trainer.state.log_history,
        "predictions": prediction.predictions.tolist(),
        "label_ids": prediction.label_ids.tolist(),
        "metrics": prediction.metrics,
        "weights": [float(p.detach().sum()) for p in model.parameters()],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    folder = parser.parse_args().output_dir
    result = main(folder)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(result, file)
