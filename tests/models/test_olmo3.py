"""OLMo 3's spellings of config.json: however the stretching is written down, layers with a window have none."""

import json
import shutil

import pytest
import torch

from oracle import checkpoint, ours
from pellucid import AutoModel

FLAT = {"rope_type": "linear", "factor": 3.0}


@pytest.mark.parametrize(
    "spelling", [{"rope_scaling": FLAT, "rope_theta": 500000}, {"rope_parameters": {**FLAT, "rope_theta": 500000.0}}]
)
def test_other_spellings_give_the_same_numbers(spelling, tmp_path):
    folder = shutil.copytree(checkpoint("olmo3:biases", "ForCausalLM"), tmp_path / "old")
    values = json.loads((folder / "config.json").read_text())
    assert values.pop("rope_parameters")["full_attention"]["factor"] == 3.0
    (folder / "config.json").write_text(json.dumps(values | spelling))
    ids = torch.arange(5, 20)[None]
    old, new = AutoModel.from_pretrained(folder), ours("olmo3:biases", "ForCausalLM")
    assert torch.equal(old(ids)[0], new.model(ids)[0])
