"""How fast a classifier is fine-tuned: ours, the original's Trainer, and the plain loop that everybody can write.

An epoch over texts cut at 128 tokens, 16 a batch, with AdamW and clipped gradients, dropout as the model has it. The
mean loss of the first epoch tells that all learn alike; orders and dropout differ, so it is not the same number.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import encoders
import measure

GIVEN = """
import importlib, json, sys, torch
folder, out, library, variant, texts, count = sys.argv[1:]
library, variant = importlib.import_module(library), json.loads(variant)
texts = json.load(open(texts))[: int(count)]
torch.manual_seed(0)
model = library.AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = library.AutoTokenizer.from_pretrained(folder)
read = tokenizer(texts, truncation=True, max_length=128)
columns = {name: read[name] for name in ("input_ids", "attention_mask")} | {"labels": [int(" is " in t) for t in texts]}
rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
"""
TRAINER = """
settings = {"output_dir": out, "per_device_train_batch_size": 16, "num_train_epochs": 1, "learning_rate": 5e-5}
settings |= {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
def work():
    arguments = library.TrainingArguments(**settings, **variant)
    collator = library.DataCollatorWithPadding(tokenizer)
    trainer = library.Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    return [trainer.train().training_loss]
"""
LOOP = """
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
def batches():
    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(rows), 16):
        picked = [rows[i] for i in order[start : start + 16]]
        longest = max(len(row["input_ids"]) for row in picked)
        batch = {"labels": torch.tensor([row["labels"] for row in picked])}
        for name in ("input_ids", "attention_mask"):
            batch[name] = torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in picked])
        yield batch
def work():
    losses = []
    for batch in batches():
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(variant)):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return [sum(losses) / len(losses)]
"""
PROGRAMS = {
    "transformers.Trainer": (TRAINER, "transformers", "{}"),
    "transformers.Trainer, bf16": (TRAINER, "transformers", '{"bf16": true}'),
    "transformers.Trainer, by length": (TRAINER, "transformers", '{"train_sampling_strategy": "group_by_length"}'),
    "transformers, plain loop": (LOOP, "transformers", "{}"),
    "transformers, plain loop, bf16": (LOOP, "transformers", '{"bf16": true}'),
    "pellucid, plain loop": (LOOP, "pellucid", "{}"),
    "pellucid, plain loop, bf16": (LOOP, "pellucid", '{"bf16": true}'),
    "pellucid.Trainer": (TRAINER, "pellucid", "{}"),
    "pellucid.Trainer, bf16": (TRAINER, "pellucid", '{"bf16": true}'),
    "pellucid.Trainer, by length": (TRAINER, "pellucid", '{"train_sampling_strategy": "group_by_length"}'),
    "pellucid.Trainer, bf16, by length": (
        TRAINER,
        "pellucid",
        '{"bf16": true, "train_sampling_strategy": "group_by_length"}',
    ),
}


def rows_of(found: Mapping[str, measure.Turns], count: int) -> list[list[str]]:
    """Make the rows of the table; the first program is what the others are compared with."""
    import numpy as np

    base = next(iter(found.values())).median("work")
    rows = []
    for name, turns in found.items():
        if turns.failed:
            rows.append([name, "not run", "", "", ""])
            continue
        seconds, loss = turns.median("work"), np.load(turns.answer)[0]
        rows.append([name, f"{count / seconds:.1f}", f"{base / seconds:.2f}", f"{turns.mib:,.0f}", f"{loss:.4f}"])
    return rows


def measured(count: int, rounds: int, scratch: Path) -> str:
    """Return the table and what there is to know about it."""
    folder, texts = scratch / "model", scratch / "texts.json"
    about = encoders.make("minilm", folder, texts)
    programs: dict[str, measure.Program] = {
        name: [GIVEN + program, folder, scratch / "out", library, variant, texts, str(count)]
        for name, (program, library, variant) in PROGRAMS.items()
    }
    found = measure.in_turns(programs, {"work": 1}, rounds, scratch)
    heads = [f"MiniLM-L6, {count} texts", "texts/s", "ratio", "peak MiB", "loss"]
    return f"{measure.table(heads, rows_of(found, count))}\n\n{about}{measure.left_out(found)}"


def main() -> None:
    options = measure.arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as scratch:
        text = measured(32 if options.quick else 128, 1 if options.quick else 3, Path(scratch))
    measure.report("finetuning", text, save=options.save)


if __name__ == "__main__":
    main()
