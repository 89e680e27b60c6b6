"""The course's chapters on fine-tuning, call for call, on small models and a few rows."""

import numpy as np
import pytest
import torch
from small import bert, gpt2
from torch.utils.data import DataLoader

import pellucid
from pellucid import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_scheduler,
)
from tiny import tokenizer as small_tokenizer

PAIRS = [("good film", "the film is good", 1), ("bad film", "anna works in paris", 0), ("who is anna", "anna", 1)] * 4


class Dataset:
    """As much of `datasets.Dataset` as the course calls."""

    def __init__(self, columns, kind=None):
        self.columns, self.kind = columns, kind

    @property
    def column_names(self):
        return list(self.columns)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        if isinstance(key, slice):
            return {name: values[key] for name, values in self.columns.items()}
        row = {name: values[key] for name, values in self.columns.items()}
        return {name: torch.tensor(v) for name, v in row.items()} if self.kind == "torch" else row

    def map(self, function, batched=False, remove_columns=()):
        made = dict(function(self.columns))
        return Dataset({n: v for n, v in (self.columns | made).items() if n not in remove_columns})

    def remove_columns(self, names):
        return Dataset({name: values for name, values in self.columns.items() if name not in names})

    def rename_column(self, old, new):
        return Dataset({new if name == old else name: values for name, values in self.columns.items()})

    def set_format(self, kind):
        self.kind = kind


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("bert"), small_tokenizer()
    bert("ForMaskedLM", vocab_size=len(words), max_position_embeddings=48).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def raw():
    first, second, labels = (list(part) for part in zip(*PAIRS, strict=True))
    columns = {"sentence1": first, "sentence2": second, "label": labels, "idx": list(range(len(PAIRS)))}
    return {"train": Dataset(columns), "validation": Dataset({name: part[:5] for name, part in columns.items()})}


def test_chapter_3(checkpoint, raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def tokenize_function(example):
        return tokenizer(example["sentence1"], example["sentence2"], truncation=True)

    tokenized_datasets = {name: part.map(tokenize_function, batched=True) for name, part in raw.items()}
    data_collator = DataCollatorWithPadding(tokenizer=tokenizer)
    training_args = TrainingArguments("test-trainer")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    trainer = Trainer(
        model,
        training_args,
        train_dataset=tokenized_datasets["train"],
        eval_dataset=tokenized_datasets["validation"],
        data_collator=data_collator,
        processing_class=tokenizer,
    )
    trainer.train()
    predictions = trainer.predict(tokenized_datasets["validation"])
    assert predictions.predictions.shape == (5, 2) and predictions.label_ids.shape == (5,)
    preds = np.argmax(predictions.predictions, axis=-1)

    def compute_metrics(eval_preds):
        logits, labels = eval_preds
        predictions = np.argmax(logits, axis=-1)
        return {"accuracy": (predictions == labels).mean()}

    training_args = TrainingArguments("test-trainer", eval_strategy="epoch")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    trainer = Trainer(
        model,
        training_args,
        train_dataset=tokenized_datasets["train"],
        eval_dataset=tokenized_datasets["validation"],
        data_collator=data_collator,
        tokenizer=tokenizer,
        compute_metrics=compute_metrics,
    )
    trainer.train()
    assert len([log for log in trainer.state.log_history if "eval_accuracy" in log]) == 3 and preds.shape == (5,)


def test_chapter_3_by_hand(checkpoint, raw):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    train = raw["train"].map(lambda e: tokenizer(e["sentence1"], e["sentence2"], truncation=True), batched=True)
    train = train.remove_columns(["sentence1", "sentence2", "idx"])
    train = train.rename_column("label", "labels")
    train.set_format("torch")
    collator = DataCollatorWithPadding(tokenizer=tokenizer)
    train_dataloader = DataLoader(train, shuffle=True, batch_size=8, collate_fn=collator)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    num_training_steps = 3 * len(train_dataloader)
    lr_scheduler = get_scheduler(
        "linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=num_training_steps
    )
    model.train()
    for _ in range(3):
        for batch in train_dataloader:
            outputs = model(**dict(batch))
            outputs.loss.backward()
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
    assert lr_scheduler.get_last_lr() == [0.0]


def test_chapter_7_token_classification(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [["anna", "works", "for", "acme"], ["the", "film", "is", "good"]] * 4
    encoded = tokenizer(texts, truncation=True, is_split_into_words=True)
    labels = [[-100 if w is None else w % 3 for w in encoded.word_ids(i)] for i in range(len(texts))]
    data = Dataset({**{name: encoded[name] for name in encoded}, "labels": labels})
    label_names = ["O", "B-PER", "I-PER"]
    seen = []

    def compute_metrics(eval_preds):
        logits, labels = eval_preds
        predictions = np.argmax(logits, axis=-1)
        rows = zip(predictions, labels, strict=True)
        seen.append([[label_names[p] for p, q in zip(*row, strict=True) if q != -100] for row in rows])
        return {"f1": 1.0}

    model = AutoModelForTokenClassification.from_pretrained(
        checkpoint, id2label=dict(enumerate(label_names)), label2id={name: i for i, name in enumerate(label_names)}
    )
    args = TrainingArguments(str(tmp_path / "bert-finetuned-ner"), evaluation_strategy="epoch", save_strategy="epoch",
                             learning_rate=2e-5, num_train_epochs=1, weight_decay=0.01)  # fmt: skip
    collator = DataCollatorForTokenClassification(tokenizer=tokenizer)
    trainer = Trainer(model=model, args=args, train_dataset=data, eval_dataset=data, data_collator=collator,
                      compute_metrics=compute_metrics, tokenizer=tokenizer)  # fmt: skip
    trainer.train()
    assert seen and [len(row) for row in seen[0]] == [sum(label != -100 for label in row) for row in labels]


def test_chapter_7_language_modeling(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encoded = tokenizer([a for a, _, _ in PAIRS])
    data = Dataset({"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]})
    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.5)
    args = TrainingArguments(output_dir=str(tmp_path / "mlm"), overwrite_output_dir=True, evaluation_strategy="epoch",
                             learning_rate=1e-3, weight_decay=0.01, per_device_train_batch_size=4, num_train_epochs=1,
                             per_device_eval_batch_size=4, fp16=True, logging_steps=3)  # fmt: skip
    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    trainer = Trainer(model=model, args=args, train_dataset=data, eval_dataset=data, data_collator=collator,
                      tokenizer=tokenizer)  # fmt: skip
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before

    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    args = TrainingArguments(output_dir=str(tmp_path / "clm"), per_device_train_batch_size=2, eval_strategy="steps",
                             eval_steps=2, logging_steps=2, gradient_accumulation_steps=2, num_train_epochs=1,
                             weight_decay=0.1, warmup_steps=1, lr_scheduler_type="cosine", save_steps=3)  # fmt: skip
    model = gpt2(vocab_size=len(tokenizer))
    trainer = Trainer(model=model, tokenizer=tokenizer, args=args, data_collator=collator, train_dataset=data,
                      eval_dataset=data)  # fmt: skip
    assert trainer.train().global_step == 3
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "clm" / "checkpoint-3")


def test_chapter_7_question_answering(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encoded = tokenizer([a for a, _, _ in PAIRS], [b for _, b, _ in PAIRS], truncation="only_second", max_length=16,
                        padding="max_length", return_offsets_mapping=True)  # fmt: skip
    columns = {name: encoded[name] for name in encoded}
    train = Dataset(columns | {"start_positions": [1] * len(PAIRS), "end_positions": [2] * len(PAIRS)})
    validation = Dataset(columns | {"example_id": [str(i) for i in range(len(PAIRS))]})
    args = TrainingArguments(str(tmp_path), evaluation_strategy="no", save_strategy="epoch", num_train_epochs=1)
    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint, num_labels=2)
    trainer = Trainer(model=model, args=args, train_dataset=train, eval_dataset=validation, tokenizer=tokenizer)
    trainer.train()
    predictions, _, _ = trainer.predict(validation)
    start_logits, end_logits = predictions
    assert start_logits.shape == end_logits.shape == (12, 16)


def test_public_names():
    assert pellucid.Seq2SeqTrainer and pellucid.EarlyStoppingCallback and pellucid.TrainerCallback
    pellucid.set_seed(3)
    assert torch.initial_seed() == 3


def test_adapters_are_trained_and_taken_up(tmp_path):
    """Of a model with an adapter the adapter alone learns, and a checkpoint has it."""
    from small import distance, rows, trainer

    ends = []
    for resume in (None, tmp_path / "0" / "checkpoint-3"):
        model = bert()
        model.add_adapter(pellucid.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], lora_dropout=0.1))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        made = trainer(tmp_path / str(len(ends)), model, rows(22), save_strategy="steps", save_steps=3)
        made.train(resume_from_checkpoint=resume)
        frozen = {n for n in before if "classifier" not in n}
        assert distance({n: before[n] for n in frozen}, model.state_dict()) == 0
        ends.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert distance(*ends) == 0 and any(float(p.abs().max()) > 0 for n, p in ends[0].items() if n.endswith("lora.B"))
