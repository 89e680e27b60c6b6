"""Checkpoints of other formats become ordinary folders."""

import json

import pytest
import torch
from typer.testing import CliRunner

from oracle import checkpoint, ours
from pellucid import AutoModelForCausalLM, BertForSequenceClassification
from pellucid.cli import app
from pellucid.convert import convert
from test_gguf import model_of, write


def run(*words):
    return CliRunner().invoke(app, ["convert", *map(str, words)])


def test_from_gguf(tmp_path):
    model = model_of("llama")
    path = write(tmp_path / "model.gguf", "llama", model)
    result = run(path, tmp_path / "folder")
    assert result.exit_code == 0 and not result.stderr
    assert [line.rsplit("/", 1)[1] for line in result.stdout.splitlines()] == ["config.json", "model.safetensors"]
    ids = torch.randint(5, 90, (2, 9))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-4)
    assert convert(tmp_path, tmp_path / "half", dtype="bfloat16", gguf_file="model.gguf")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_from_a_pickle(tmp_path):
    model = ours("bert", "ForSequenceClassification")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((checkpoint("bert", "ForSequenceClassification") / "config.json").read_text())
    assert convert(tmp_path, tmp_path / "folder") == ["config.json", "model.safetensors"]
    again = BertForSequenceClassification.from_pretrained(tmp_path / "folder", use_safetensors=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    convert(tmp_path, tmp_path / "backbone")
    assert json.loads((tmp_path / "backbone" / "config.json").read_text())["architectures"] == ["BertModel"]


@pytest.mark.parametrize("source", ["nothing.gguf", "nothing"])
def test_nothing_to_convert(source, tmp_path):
    result = run(tmp_path / source, tmp_path / "folder")
    assert result.exit_code == 1 and "nothing" in result.stderr and not (tmp_path / "folder").exists()
