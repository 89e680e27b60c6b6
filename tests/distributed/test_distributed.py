"""Several processes train the same model as one: same losses, same weights, same scores, whatever they share.

Each launch costs seconds of imports, so all that one number of processes shows is one script, `work.py`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pellucid import AutoModelForCausalLM, AutoModelForSequenceClassification, auto
from pellucid.training import shards

HERE = Path(__file__).parent
LLAMA = {
    "vocab_size": 99,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
PARTS = ["optimizer-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"]
LIMIT = 300  # seconds; each takes about ten


def launch(folder, kinds, processes, *options):
    """Run `work.py` in so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *options] if processes > 1 else []
    paths = [str(Path(auto.__file__).parents[1]), str(HERE.parent / "training"), os.environ.get("PYTHONPATH", "")]
    settings = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else restarted workers wait for the addresses of killed ones
    }
    command = [sys.executable, *torchrun, str(HERE / "work.py"), kinds, str(folder)]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def result(folder, kind, processes):
    return json.loads((folder / f"{kind}-{processes}.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Decoders whose products can be split, one of them with experts."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in (("llama", {}), ("mixtral", {"num_local_experts": 4, "sliding_window": None})):
        torch.manual_seed(0)
        model = auto.heads_of(name)["ForCausalLM"].from_config(auto.config_class(name)(**LLAMA | more))
        model.save_pretrained(folder / name)
    return folder


def trained(models, folder, processes, more=""):
    shutil.copytree(models, folder, dirs_exist_ok=True)
    launch(folder, f"ddp,fsdp,adam,experts,adapters,products,tensor{more}", processes)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, models):
    """What one process gives."""
    return trained(models, tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory, models):
    """What two processes give."""
    return trained(models, tmp_path_factory.mktemp("two"), 2, ",full")


def assert_near(a, b, limit=1e-6):
    assert len(a) == len(b) and a == pytest.approx(b, rel=limit, abs=limit)


def assert_same_weights(a, b, limit=1e-6, file="model.safetensors"):
    ours, theirs = (load_file(folder / file) for folder in (a, b))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < limit


def assert_same_moments(a, b, limit=1e-5):
    like = dict(AutoModelForSequenceClassification.from_pretrained(b).named_parameters())
    ours, theirs = shards.read(a, like), load_file(b / "optimizer.safetensors")
    assert ours.keys() == theirs.keys() and len(ours) == 3 * len(like)
    assert all(torch.allclose(ours[name], theirs[name], atol=limit) for name in ours)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(kind, one, two):
    ours, theirs = result(two, kind, 2), result(one, kind, 1)
    assert_near(ours["losses"], theirs["losses"])
    assert ours["eval"] == pytest.approx(theirs["eval"], rel=1e-6)
    assert_same_weights(two / f"{kind}-end", one / f"{kind}-end", limit=1e-5 if kind == "fsdp" else 1e-6)


def test_predictions_of_parts_are_whole(one, two):
    ours, theirs = (torch.tensor(result(folder, "fsdp", n)["said"]) for folder, n in ((two, 2), (one, 1)))
    assert ours.shape == (5, 3) and torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_checkpoints_of_several_are_those_of_one(kind, one, two):
    """A checkpoint's model loads as any other, however it was shared; there is no pickle."""
    ours, theirs = two / kind / "checkpoint-6", one / kind / "checkpoint-6"
    names = {file.name for file in ours.iterdir()}
    shared = {file.name for file in theirs.iterdir()} - {"optimizer.safetensors"}
    assert names - shared == (set(PARTS) if kind == "fsdp" else set()) and shared <= names
    assert not [name for name in names if not name.endswith((".safetensors", ".json"))]
    model = (AutoModelForSequenceClassification if kind == "fsdp" else AutoModelForCausalLM).from_pretrained(ours)
    assert not model.load_report.new


def test_each_process_writes_its_own_part_of_an_optimizer(one, two):
    parts = [load_file(two / "fsdp" / "checkpoint-6" / name) for name in PARTS]
    numbers = [sum(tensor.numel() for tensor in part.values()) for part in parts]
    assert max(numbers) < 0.6 * sum(numbers)  # nobody gathered it
    assert_same_moments(two / "fsdp" / "checkpoint-6", one / "fsdp" / "checkpoint-6")


@pytest.mark.parametrize("processes", [1, 3])
def test_taken_up_by_another_number_of_processes(processes, one, two, tmp_path):
    shutil.copytree(two / "adam" / "checkpoint-3", tmp_path / "checkpoint")
    shutil.copytree(two / "fsdp" / "checkpoint-3", tmp_path / "parts")
    launch(tmp_path, "resumed,taken", processes)
    assert_near(result(tmp_path, "resumed", processes)["losses"], result(one, "adam", 1)["losses"])
    assert_same_weights(tmp_path / "resumed-end", one / "adam-end", limit=1e-5)
    assert_near(result(tmp_path, "taken", processes)["losses"], result(one, "fsdp", 1)["losses"])
    assert_same_weights(tmp_path / "taken-end", one / "fsdp-end", limit=1e-5)
    assert_same_moments(tmp_path / "taken" / "checkpoint-6", one / "fsdp" / "checkpoint-6")


def test_split_products_score_and_write_as_whole_ones(one, two):
    ours, theirs = result(two, "products", 2), result(one, "products", 1)
    assert torch.allclose(torch.tensor(ours["logits"]), torch.tensor(theirs["logits"]), atol=1e-6)
    assert ours["written"] == theirs["written"]


@pytest.mark.parametrize("kind", ["experts", "adapters", "tensor"])
def test_parts_of_all_kinds_train_as_whole_ones(kind, one, two):
    """Stacks of experts, adapters and products, each taken up from a checkpoint on the way."""
    assert_near(result(two, kind, 2)["losses"], result(one, kind, 1)["losses"])
    for file in ("model.safetensors", *(["adapter_model.safetensors"] if kind == "adapters" else [])):
        assert_same_weights(two / f"{kind}-end", one / f"{kind}-end", file=file)
    assert (two / f"{kind}-end" / "config.json").read_text() == (one / f"{kind}-end" / "config.json").read_text()


def test_no_room_for_one_part(two):
    """All processes say so, and the checkpoint before is as it was."""
    found = result(two, "full", 2)
    assert "checkpoint-6 could not be written, process 1: " in found["said"]
    assert found["left"] == ["checkpoint-3", "last_checkpoints.json"]


def test_a_killed_process_is_started_again(two, tmp_path):
    """torchrun starts all processes again, and they take up the last checkpoint: bit for bit as if nothing had been."""
    launch(tmp_path, "killed", 2, "--max-restarts", "2")
    assert (tmp_path / "mark").exists()
    assert result(tmp_path, "killed", 2) == result(two, "adam", 2)
    assert_same_weights(tmp_path / "killed-end", two / "adam-end", limit=1e-12)
