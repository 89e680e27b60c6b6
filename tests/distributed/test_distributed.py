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
def llama(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    auto.heads_of("llama")["ForCausalLM"].from_config(auto.config_class("llama")(**LLAMA)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, llama):
    """What one process gives."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(llama, folder / "llama")
    launch(folder, "ddp,fsdp,adam,products,tensor", 1)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, llama):
    """What two processes give."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(llama, folder / "llama")
    launch(folder, "ddp,fsdp,adam,products,tensor", 2)
    return folder


def assert_near(a, b, limit=1e-6):
    assert len(a) == len(b) and a == pytest.approx(b, rel=limit, abs=limit)


def assert_same_weights(a, b, limit=1e-6):
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < limit


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
    """Nothing in a checkpoint says how a model was shared, and it loads as any other."""
    ours, theirs = two / kind / "checkpoint-6", one / kind / "checkpoint-6"
    names = {file.name for file in ours.iterdir()}
    assert names == {file.name for file in theirs.iterdir()} and not [
        n for n in names if n.endswith((".pt", ".distcp"))
    ]
    model = (AutoModelForSequenceClassification if kind == "fsdp" else AutoModelForCausalLM).from_pretrained(ours)
    assert not model.load_report.new
    if kind == "fsdp":
        moments = [load_file(path / "optimizer.safetensors") for path in (ours, theirs)]
        assert moments[0].keys() == moments[1].keys()
        assert all(torch.allclose(moments[0][name], moments[1][name], atol=1e-5) for name in moments[0])


@pytest.mark.parametrize("processes", [1, 3])
def test_taken_up_by_another_number_of_processes(processes, one, two, tmp_path):
    shutil.copytree(two / "adam" / "checkpoint-3", tmp_path / "checkpoint")
    launch(tmp_path, "resumed", processes)
    assert_near(result(tmp_path, "resumed", processes)["losses"], result(one, "adam", 1)["losses"])
    assert_same_weights(tmp_path / "resumed-end", one / "adam-end", limit=1e-5)


def test_split_products_score_and_write_as_whole_ones(one, two):
    ours, theirs = result(two, "products", 2), result(one, "products", 1)
    assert torch.allclose(torch.tensor(ours["logits"]), torch.tensor(theirs["logits"]), atol=1e-6)
    assert ours["written"] == theirs["written"]


def test_split_products_train_as_whole_ones(one, two):
    assert_near(result(two, "tensor", 2)["losses"], result(one, "tensor", 1)["losses"])
    assert_same_weights(two / "tensor-end", one / "tensor-end")


def test_a_killed_process_is_started_again(two, tmp_path):
    """torchrun starts all processes again, and they take up the last checkpoint: bit for bit as if nothing had been."""
    launch(tmp_path, "killed", 2, "--max-restarts", "2")
    assert (tmp_path / "mark").exists()
    assert result(tmp_path, "killed", 2) == result(two, "adam", 2)
    assert_same_weights(tmp_path / "killed-end", two / "adam-end", limit=1e-12)
