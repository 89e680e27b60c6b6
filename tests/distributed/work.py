"""What the processes of the tests do, started by torchrun: `work.py KIND FOLDER`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from small import STILL, bert, gpt2, rows, texts, trainer

from pellucid import AutoModelForCausalLM
from pellucid.training.callbacks import TrainerCallback
from pellucid.training.distributed import join, tensor_parallel
from pellucid.training.metrics import Accuracy

GLOBAL = 6  # rows of a step, whoever computes them
SETTINGS = {"learning_rate": 1e-3, "optim": "sgd", "logging_steps": 1, "num_train_epochs": 2, "disable_tqdm": True}


def settings(processes, **changes):
    """The same steps for any number of processes."""
    return SETTINGS | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": GLOBAL // processes} | changes


def losses(made):
    return [log["loss"] for log in made.state.log_history if "loss" in log]


def data_parallel(folder, processes):
    """Train whole models on texts of unequal lengths; evaluate; save on the way."""
    made = trainer(
        folder / "ddp",
        gpt2(),
        rows(22),
        collate=texts,
        eval_dataset=rows(7, seed=1),
        save_strategy="steps",
        save_steps=3,
        per_device_eval_batch_size=2,
        **settings(processes),
    )
    assert made.world.size == processes
    made.train()
    assert processes == 1 or isinstance(made.model_wrapped, torch.nn.Module)
    made.save_model(folder / "ddp-end")
    return {"losses": losses(made), "eval": made.evaluate()["eval_loss"]}


def adam(folder, processes, resume=None):
    """Train with moments, from the beginning or from a checkpoint that any number of processes wrote."""
    name = "resumed" if resume else "adam"
    changes = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3, "weight_decay": 0.1}
    made = trainer(folder / name, bert(**STILL), rows(22), **settings(processes, **changes))
    made.train(resume_from_checkpoint=resume)
    made.save_model(folder / f"{name}-end")
    return {"losses": losses(made)}


def sharded(folder, processes):
    """Train a model of which each process has a part; evaluate it, and classify."""
    made = trainer(
        folder / "fsdp",
        bert(**STILL),
        rows(22),
        eval_dataset=rows(7, seed=1),
        compute_metrics=Accuracy(),
        save_strategy="steps",
        save_steps=3,
        parallel="fsdp",
        **settings(processes, optim="adamw_torch", weight_decay=0.1),
    )
    made.train()
    if processes > 1:
        from torch.distributed.tensor import DTensor

        parts = [p for p in made.model.parameters() if isinstance(p, DTensor)]
        assert len(parts) == len(list(made.model.parameters()))
        assert any(p.to_local().numel() < p.numel() for p in parts)
    made.save_model(folder / "fsdp-end")
    return {
        "losses": losses(made),
        "eval": made.evaluate()["eval_accuracy"],
        "said": made.predict(rows(5)).predictions.tolist(),
    }


def split_products(folder, processes):
    """Split each product of a decoder's layers; score and write."""
    model = AutoModelForCausalLM.from_pretrained(folder / "llama")
    world = join(torch.device("cpu"), tensor_parallel_size=processes)
    if processes > 1:
        from torch.distributed.tensor import DTensor

        tensor_parallel(model, world.mesh["tensor"])
        weight = model.model.layers[0].self_attn.q_proj.weight
        assert isinstance(weight, DTensor) and weight.to_local().shape[0] * processes == weight.shape[0]
    ids = torch.tensor([row["input_ids"][:3] for row in rows(4)])
    with torch.no_grad():
        logits = model(ids).logits
    return {"logits": logits.tolist(), "written": model.generate(ids, max_new_tokens=6, do_sample=False).tolist()}


def trained_in_products(folder, processes):
    """Train with products split."""
    model = AutoModelForCausalLM.from_pretrained(folder / "llama")
    made = trainer(
        folder / "tensor", model, rows(22), collate=texts, tensor_parallel_size=processes,
        **settings(1, max_steps=4, max_grad_norm=0.5),
    )  # fmt: skip
    made.train()
    made.save_model(folder / "tensor-end")
    return {"losses": losses(made)}


class Killed(TrainerCallback):
    """Ends the second process without a word, once."""

    def __init__(self, mark):
        self.mark = mark

    def on_step_begin(self, args, state, control, **kwargs):
        if os.environ["RANK"] == "1" and state.global_step == 5 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, processes):
    """Train as `adam` does, killed on the way; torchrun starts the script again, which takes up the last checkpoint."""
    out = folder / "killed"
    changes = {
        "optim": "adamw_torch",
        "save_strategy": "steps",
        "save_steps": 3,
        "weight_decay": 0.1,
        "ddp_timeout": 60,
    }
    made = trainer(out, bert(**STILL), rows(22), callbacks=[Killed(folder / "mark")], **settings(processes, **changes))
    made.train(resume_from_checkpoint=True if (folder / "mark").exists() else None)
    made.save_model(folder / "killed-end")
    return {"losses": losses(made)}


def main(kinds, folder):
    torch.set_num_threads(1)
    folder, processes, rank = Path(folder), int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    works = {
        "ddp": data_parallel,
        "adam": adam,
        "fsdp": sharded,
        "products": split_products,
        "tensor": trained_in_products,
        "killed": killed,
        "resumed": lambda folder, processes: adam(folder, processes, folder / "checkpoint"),
    }
    for kind in kinds.split(","):
        result = works[kind](folder, processes)
        if rank == 0:
            (folder / f"{kind}-{processes}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
