"""A small model with dropout, rows to train it on, and what the tests of training share."""

import json
from pathlib import Path

import torch

from pellucid import auto
from pellucid.training.arguments import TrainingArguments
from pellucid.training.trainer import Trainer

BERT = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def bert(head="ForSequenceClassification", seed=0, **fields):
    """A random BERT of three classes; `STILL` is without dropout."""
    torch.manual_seed(seed)
    return auto.heads_of("bert")[head].from_config(auto.config_class("bert")(**BERT | {"num_labels": 3} | fields))


def gpt2(seed=0, **fields):
    """A random GPT-2 without dropout."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 99, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "bos_token_id": 1}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": 1}
    return auto.heads_of("gpt2")["LMHeadModel"].from_config(auto.config_class("gpt2")(**sizes | still | fields))


def rows(count, seed=0, least=3, most=12):
    """Texts of several lengths, with a label of three."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, most, (count,), generator=generator).tolist()
    ids = [torch.randint(5, 99, (n,), generator=generator).tolist() for n in lengths]
    return [{"input_ids": row, "label": (row[0] + i) % 3} for i, row in enumerate(ids)]


def padded(batch):
    """A batch of texts with one label each."""
    longest = max(len(row["input_ids"]) for row in batch)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in batch]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch]
    made = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    return made | ({"labels": torch.tensor([row["label"] for row in batch])} if "label" in batch[0] else {})


def texts(batch):
    """A batch of texts that are their own labels."""
    made = padded(batch)
    return made | {"labels": made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)}


def masked(batch):
    """The same, with words masked at random."""
    made = texts(batch)
    hidden = (torch.rand(made["labels"].shape) < 0.3) & (made["labels"] != -100)
    hidden[:, 0] = True
    return made | {
        "input_ids": made["input_ids"].masked_fill(hidden, 4),
        "labels": made["labels"].masked_fill(~hidden, -100),
    }


def trainer(folder, model=None, data=None, *, collate=padded, **settings):
    """A trainer of two epochs that prints nothing to standard error."""
    given = {name: settings.pop(name) for name in GIVEN if name in settings}
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no"}
    args = TrainingArguments(str(folder), use_cpu=True, **defaults | settings)
    return Trainer(
        model or bert(), args, data_collator=collate, train_dataset=rows(22) if data is None else data, **given
    )


GIVEN = ("eval_dataset", "compute_metrics", "callbacks", "optimizers", "compute_loss_func", "processing_class")


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def distance(a, b):
    """The largest difference between two models' weights."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def assert_same_checkpoint(a: Path, b: Path):
    """The same bytes, but for what tells the time."""
    names = sorted(entry.name for entry in a.iterdir())
    assert names == sorted(entry.name for entry in b.iterdir())
    for name in names:
        if name == "trainer_state.json":
            assert told(a / name) == told(b / name)
        elif name != "training_args.json":
            assert (a / name).read_bytes() == (b / name).read_bytes(), name


def told(path: Path):
    state = json.loads(path.read_text())
    del state["files"], state["save_steps"], state["best_model_checkpoint"]
    clocks = ("runtime", "per_second")
    state["log_history"] = [
        {name: value for name, value in log.items() if not name.endswith(clocks)} for log in state["log_history"]
    ]
    return state
