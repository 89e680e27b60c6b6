"""What the processes of the tests do, started by torchrun: `work.py KIND FOLDER`."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch
from small import STILL, bert, gpt2, rows, texts, trainer

from pellucid import AutoModelForCausalLM, LoraConfig
from pellucid.errors import SaveError
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


def sharded(folder, processes, resume=None):
    """Train a model of which each process has a part, from the beginning or a checkpoint on; evaluate, and classify."""
    name = "taken" if resume else "fsdp"
    made = trainer(
        folder / name,
        bert(**STILL),
        rows(22),
        eval_dataset=rows(7, seed=1),
        eval_strategy="steps",
        eval_steps=3,
        compute_metrics=Accuracy(),
        save_strategy="steps",
        save_steps=3,
        parallel="fsdp",
        **settings(processes, optim="adamw_torch", weight_decay=0.1),
    )
    made.train(resume_from_checkpoint=resume)
    if processes > 1:
        from torch.distributed.tensor import DTensor

        parts = [p for p in made.model.parameters() if isinstance(p, DTensor)]
        assert len(parts) == len(list(made.model.parameters()))
        assert any(p.to_local().numel() < p.numel() for p in parts)
    made.save_model(folder / f"{name}-end")
    return {
        "losses": losses(made),
        "eval": made.evaluate()["eval_accuracy"],
        "said": made.predict(rows(5)).predictions.tolist(),
    }


def taken_up(folder, processes, name, make, **changes):
    """Train, and once more from a checkpoint on the way; both end with the same losses and weights."""
    ends = []
    changes = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3, "parallel": "fsdp"} | changes
    for resume in (None, folder / name / "checkpoint-3"):
        made = trainer(folder / name, make(), rows(22), collate=texts, **settings(processes, **changes))
        made.train(resume_from_checkpoint=resume)
        ends.append(losses(made))
    assert ends[0] == ends[1]
    made.save_model(folder / f"{name}-end")
    return {"losses": ends[1]}


def experts(folder, processes):
    """Train split stacks of experts, and compute layers twice."""

    def make():
        return AutoModelForCausalLM.from_pretrained(folder / "mixtral")

    return taken_up(folder, processes, "experts", make, gradient_checkpointing=True)


def adapters(folder, processes):
    """Train adapters of a split model."""

    def make():
        model = gpt2()
        model.add_adapter(LoraConfig(r=4, lora_alpha=8))
        return model

    return taken_up(folder, processes, "adapters", make)


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

    def make():
        return AutoModelForCausalLM.from_pretrained(folder / "llama")

    # the same rows for all, which count as one process
    return taken_up(folder, 1, "tensor", make, tensor_parallel_size=processes, max_grad_norm=0.5)


class Full(TrainerCallback):
    """Leaves the last process no room for a file after the first checkpoint."""

    def on_save(self, args, state, control, **kwargs):
        if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def full(folder, processes):
    """Train until one process can not write its part; all must know it."""
    changes = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3, "parallel": "fsdp"}
    made = trainer(folder / "full", bert(**STILL), rows(22), callbacks=[Full()], **settings(processes, **changes))
    try:
        made.train()
        said = ""
    except SaveError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "File too large" in said and made.state.global_step == 6, said
    return {"said": said, "left": sorted(path.name for path in (folder / "full").iterdir())}


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
        "full": full,
        "experts": experts,
        "adapters": adapters,
        "products": split_products,
        "tensor": trained_in_products,
        "killed": killed,
        "resumed": lambda folder, processes: adam(folder, processes, folder / "checkpoint"),
        "taken": lambda folder, processes: sharded(folder, processes, folder / "parts"),
    }
    for kind in kinds.split(","):
        result = works[kind](folder, processes)
        if rank == 0:
            (folder / f"{kind}-{processes}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
