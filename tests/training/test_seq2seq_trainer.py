"""Models that write, evaluated by what they write."""

import numpy as np
import pytest
import torch
from small import bert, padded, rows

from pellucid import GenerationConfig, auto
from pellucid.errors import InputError
from pellucid.training.seq2seq import Seq2SeqTrainer, Seq2SeqTrainingArguments

T5 = {"vocab_size": 99, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0,
      "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip


def t5():
    torch.manual_seed(0)
    return auto.heads_of("t5")["ForConditionalGeneration"].from_config(auto.config_class("t5")(**T5))


def pairs(batch):
    made = padded(batch)
    made["labels"] = torch.full((len(batch), 4), -100)
    for i, row in enumerate(batch):
        made["labels"][i, : len(row["input_ids"]) % 3 + 1] = 7
    return made


def seq2seq(tmp_path, compute=None, model=None, **settings):
    settings = {"per_device_eval_batch_size": 3, "per_device_train_batch_size": 4, "save_strategy": "no"} | settings
    args = Seq2SeqTrainingArguments(tmp_path, use_cpu=True, **settings)
    return Seq2SeqTrainer(model or t5(), args, data_collator=pairs, train_dataset=rows(8), eval_dataset=rows(7),
                          compute_metrics=compute)  # fmt: skip


def test_predictions_are_what_the_model_writes(tmp_path):
    made = seq2seq(tmp_path, predict_with_generate=True, generation_max_length=6)
    output = made.predict(rows(7))
    batch = pairs(rows(7))
    written = made.model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_length=6)
    width = min(written.shape[1], output.predictions.shape[1])
    assert (output.predictions[:, :width] == written[:, :width].numpy()).all()
    assert output.metrics["test_loss"] == pytest.approx(made.model(**batch).loss.item(), abs=1e-5)
    assert (output.label_ids == batch["labels"].numpy()).all()
    assert (output.predictions >= 0).all()  # a tokenizer can decode it


def test_settings_of_a_call_count_more(tmp_path):
    made = seq2seq(tmp_path, predict_with_generate=True, generation_max_length=9)
    longest = [made.predict(rows(4), max_length=n).predictions.shape[1] for n in (3, 5)]
    assert longest[0] <= 3 and longest[1] <= 5
    assert made.predict(rows(4), max_new_tokens=2, num_beams=2).predictions.shape[1] <= 3
    config = GenerationConfig(max_length=4)
    short = seq2seq(tmp_path, predict_with_generate=True, generation_config=config)
    assert short.predict(rows(4)).predictions.shape[1] <= 4


def test_metrics_see_tokens_or_scores(tmp_path):
    shapes = []

    def compute(prediction):
        predictions, labels = prediction
        shapes.append(predictions.shape)
        labels = np.where(labels != -100, labels, 0)
        return {"tokens": float(labels.shape[1])}

    made = seq2seq(tmp_path, compute, predict_with_generate=True, generation_max_length=5, eval_strategy="epoch")
    made.train()
    assert made.evaluate(max_length=3)["eval_tokens"] == 4
    seq2seq(tmp_path, compute).evaluate()
    assert [len(shape) for shape in shapes] == [2, 2, 2, 2, 3] and shapes[-1] == (7, 4, 99)


def test_a_model_that_can_not_write(tmp_path):
    args = Seq2SeqTrainingArguments(tmp_path, use_cpu=True, predict_with_generate=True)
    with pytest.raises(InputError):
        Seq2SeqTrainer(bert(), args, data_collator=padded).predict(rows(2))
