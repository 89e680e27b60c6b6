"""Saving: what is written is what the model holds, the folder changes at once or not at all, and others can read it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import pellucid
import writer
from cases import CASES
from oracle import assert_same_weights, ours, reference, reference_class
from pellucid import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
from pellucid.auto import config_class
from pellucid.errors import ArgumentError, InputError, SaveError, WeightsError
from pellucid.weights import same_bits

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def model():
    return ours("bert", "ForMaskedLM")


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_files_in_the_format(model, tmp_path):
    model.save_pretrained(tmp_path / "new/deep/folder")
    folder = tmp_path / "new/deep/folder"
    assert sorted(content(folder)) == ["config.json", FILE]
    with safe_open(folder / FILE, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["dtype"], config["model_type"]) == (["BertForMaskedLM"], "float32", "bert")
    assert "cls.predictions.decoder.weight" not in load_file(folder / FILE)  # tied: stored once


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("limit", ["5GB", "20KB", 1])
def test_save_load_save_gives_the_same_bytes(dtype, limit, tmp_path):
    model = ours("bert", "ForMaskedLM", dtype=dtype)
    model.save_pretrained(tmp_path / "one", max_shard_size=limit)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "one")
    assert_same_weights(again, model)
    assert str(again.dtype) == f"torch.{dtype}"
    again.save_pretrained(tmp_path / "two", max_shard_size=limit)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    again.save_pretrained(tmp_path / "one", max_shard_size=limit)  # onto the folder it was loaded from
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_config_keeps_what_was_read(tmp_path):
    values = {"model_type": "bert", "emb_size": 3, "torch_dtype": "float32", "id2label": {"0": "A", "1": "B"}}
    config = config_class("bert").from_dict(values | CASES["bert"])
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == values | CASES["bert"] | {"architectures": ["BertForSequenceClassification"]}
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.id2label == {0: "A", 1: "B"}


@pytest.mark.parametrize("limit", ["20KB", "40KB", 50_000])
@pytest.mark.parametrize(
    ("architecture", "head"), [("bert", "ForMaskedLM"), ("distilbert", "ForSequenceClassification")]
)
def test_the_original_reads_shards(architecture, head, limit, tmp_path):
    ours(architecture, head).save_pretrained(tmp_path, max_shard_size=limit)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1 and (tmp_path / INDEX).exists()
    back, info = reference_class(architecture, head).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in back.state_dict().items():
        assert same_bits(tensor, reference(architecture, head).state_dict()[name]), name


def test_old_weights_go_and_other_files_stay(model, tmp_path):
    kept = {"tokenizer.json": b"{}", "README.md": b"mine", "model.onnx": b"x", "training_args.bin": b"y",
            "model.fp16.safetensors": b"z", ".hidden": b"h"}  # fmt: skip
    gone = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", INDEX,
            "model-00001-of-00009.safetensors"]  # fmt: skip
    for name, data in (kept | dict.fromkeys(gone, b"old")).items():
        (tmp_path / name).write_bytes(data)
    model.save_pretrained(tmp_path)
    found = content(tmp_path)
    assert found.keys() == {*kept, "config.json", FILE}
    assert {name: found[name] for name in kept} == kept
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert FILE not in content(tmp_path) and INDEX in content(tmp_path)
    model.save_pretrained(tmp_path)
    assert content(tmp_path) == found


@pytest.mark.parametrize("size", ["5 elephants", 0, -1, "1.5GB", None])
def test_bad_shard_sizes_write_nothing(size, model, tmp_path):
    with pytest.raises(InputError, match="max_shard_size is"):
        model.save_pretrained(tmp_path / "new", max_shard_size=size)
    assert not (tmp_path / "new").exists() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("lie", ["flip", "lose", "full"])
def test_a_failed_save_changes_nothing(lie, model, tmp_path, monkeypatch):
    import safetensors.torch

    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/README.md").write_text("mine")
    before = content(tmp_path / "model")
    honest = safetensors.torch.save_file

    def lying(tensors, path, metadata):
        if lie == "full":
            path.write_bytes(b"some")
            raise OSError(28, "No space left on device")
        honest(
            {name: t for name, t in tensors.items() if lie != "lose" or "query" not in name}, path, metadata=metadata
        )
        if lie == "flip":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(safetensors.torch, "save_file", lying)
    error, message = (SaveError, "No space left") if lie == "full" else (WeightsError, "check the disk")
    with pytest.raises(error, match=message):
        ours("bert", "Model").save_pretrained(tmp_path / "model")
    assert content(tmp_path / "model") == before and os.listdir(tmp_path) == ["model"]


FULL = """
import resource, signal, sys
from pellucid import AutoModel, AutoTokenizer
from pellucid.errors import SaveError
made = {"model": AutoModel, "tokenizer": AutoTokenizer}[sys.argv[1]].from_pretrained(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    made.save_pretrained(sys.argv[2])
except SaveError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_files_that_may_not_grow(what, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(writer.folder("gpt2"), folder)
    before = content(folder)
    done = subprocess.run([sys.executable, "-c", FULL, what, folder], capture_output=True, text=True, check=True)
    assert f"{folder} could not be written: " in done.stdout and "File too large" in done.stdout, done
    assert "Nothing has changed; make room" in done.stdout and not done.stderr
    assert content(folder) == before and os.listdir(tmp_path) == ["folder"]


def test_a_path_that_is_a_file(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match="it is a file, expected a folder"):
        model.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# --- state_dict -------------------------------------------------------------------------------------------------------


def test_other_tensors_under_the_same_names(model, tmp_path):
    other = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "once", state_dict=other)
    back = AutoModelForMaskedLM.from_pretrained(tmp_path / "once")
    assert all(torch.equal(tensor, other[name]) for name, tensor in back.state_dict().items())
    without_tied = {name: t for name, t in other.items() if name not in model.tied}
    model.save_pretrained(tmp_path / "again", state_dict=without_tied)
    assert content(tmp_path / "again")[FILE] == content(tmp_path / "once")[FILE]


WRONG = {
    "wrapped": (lambda t: {f"module.{n}": x for n, x in t.items()}, "module.bert.embeddings"),
    "one missing": (lambda t: {n: x for n, x in t.items() if n != "cls.predictions.bias"}, r": cls\.predictions\.bias"),
    "one too many": (lambda t: t | {"bert.poler": torch.ones(1)}, r"'?bert\.poler"),
    "another shape": (lambda t: t | {"cls.predictions.bias": torch.ones(5)}, r"shape: cls\.predictions\.bias"),
    "empty": (lambda t: {}, "and [0-9]+ more"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG)
def test_tensors_of_another_model(edit, message, model, tmp_path):
    with pytest.raises(WeightsError, match=f"state_dict does not fit BertForMaskedLM.*{message}"):
        model.save_pretrained(tmp_path / "new", state_dict=edit(model.state_dict()))
    assert not list(tmp_path.iterdir())


def test_layers_that_share_their_weights(model, tmp_path):
    layers = model.bert.encoder.layer
    layers[1] = layers[0]
    model.save_pretrained(tmp_path)
    back = AutoModelForMaskedLM.from_pretrained(tmp_path)
    ids = torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(back(ids).logits, model(ids).logits)


def test_weights_that_are_views(model, tmp_path):
    attention = model.bert.encoder.layer[0].attention.self
    joined = torch.cat([attention.query.weight, attention.key.weight]).detach()
    attention.query.weight, attention.key.weight = map(torch.nn.Parameter, joined.chunk(2))
    attention.value.weight = torch.nn.Parameter(attention.value.weight.T.contiguous().T)
    model.save_pretrained(tmp_path)
    assert_same_weights(AutoModelForMaskedLM.from_pretrained(tmp_path), reference("bert", "ForMaskedLM"))


def test_nan_is_saved_as_it_is(model, tmp_path):
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    assert_same_weights(AutoModelForMaskedLM.from_pretrained(tmp_path), model)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_shard_sizes": "1GB"}, "no argument 'max_shard_sizes'; did you mean 'max_shard_size'"),
        ({"private": True}, "no argument 'private'"),  # which is for an upload
        ({"safe_serialization": False}, "safe_serialization=False would write a pickle"),
    ],
)
def test_unknown_arguments(options, message, model, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        model.save_pretrained(tmp_path / "new", **options)
    assert not list(tmp_path.iterdir())


def test_habits_of_the_original(model, tmp_path):
    model.save_pretrained(tmp_path / "skipped", is_main_process=False)
    assert not (tmp_path / "skipped").exists()
    model.save_pretrained(tmp_path / "saved", is_main_process=True, safe_serialization=True)
    assert (tmp_path / "saved" / FILE).exists()


def test_push_to_hub(model, tmp_path, monkeypatch):
    pushed = []

    def push(folder, repo_id, **options):
        shutil.copytree(folder, tmp_path / f"upload{len(pushed)}")
        pushed.append((repo_id, options))
        return "https://hub/commit"

    monkeypatch.setattr("pellucid.model.push", push)
    monkeypatch.setattr("pellucid.config.push", push)
    model.save_pretrained(tmp_path / "my-model", push_to_hub=True, private=True)
    model.save_pretrained(tmp_path / "my-model", push_to_hub=True, repo_id="me/other", commit_message="x")
    assert model.push_to_hub("me/third", private=False) == "https://hub/commit"
    model.config.save_pretrained(tmp_path / "my-config", push_to_hub=True, token="t")
    assert pushed == [
        ("my-model", {"private": True}),
        ("me/other", {"commit_message": "x"}),
        ("me/third", {"private": False}),
        ("my-config", {"token": "t"}),
    ]
    for number in range(3):
        assert_same_weights(AutoModelForMaskedLM.from_pretrained(tmp_path / f"upload{number}"), model)
    assert list(content(tmp_path / "upload3")) == ["config.json"]


def test_silence(model, tmp_path, capfd):
    capfd.readouterr()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    AutoModelForMaskedLM.from_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path)
    pellucid.BertModel.from_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")
