"""Loading: every parameter holds the checkpoint's value, or the load says which one does not and what to do."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import pellucid
from cases import CASES, EVERY_CLASS, HEADS
from oracle import assert_same_weights, checkpoint, our_class, ours, reference
from pellucid import weights
from pellucid.auto import config_class
from pellucid.errors import ArgumentError, ConfigError, InputError, MissingFileError, WeightsError
from pellucid.weights import same_bits
from threads import in_threads

ARCHITECTURES = ("bert", "distilbert")  # with and without a pooler; what differs between others is in test_models
CLASSES = [(architecture, head) for architecture, head in EVERY_CLASS if architecture in ARCHITECTURES]
every_class = pytest.mark.parametrize(("architecture", "head"), CLASSES)
AutoModel: Any = pellucid.AutoModel  # whose parts are those of the class that a checkpoint asks for
AutoModelForMaskedLM: Any = pellucid.AutoModelForMaskedLM
AutoModelForSequenceClassification: Any = pellucid.AutoModelForSequenceClassification
FILE, BIN = "model.safetensors", "pytorch_model.bin"
WORDS = "bert.embeddings.word_embeddings.weight"


def copy_of(architecture: str, head: str, folder: Path, **config: object) -> Path:
    """Copy the original's checkpoint, with some keys of config.json changed or, for ..., removed."""
    shutil.copytree(checkpoint(architecture, head), folder, dirs_exist_ok=True)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({name: v for name, v in values.items() if v is not ...}))
    return folder


def change(folder: Path, edit) -> Path:
    """Rewrite the tensors of a folder."""
    tensors = load_file(folder / FILE)
    edited = edit(tensors)
    save_file(
        {
            name: t.clone(memory_format=torch.contiguous_format)
            for name, t in (tensors if edited is None else edited).items()
        },
        folder / FILE,
    )
    return folder


# --- names ------------------------------------------------------------------------------------------------------------


def legacy(tensors):
    return {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for n, t in tensors.items()}  # fmt: skip


SAME_WEIGHTS = {
    "gamma and beta of 2018": legacy,
    "stray position_ids": lambda t: t | {"bert.embeddings.position_ids": torch.arange(40)[None]},
    "tied weights stored twice": lambda t: t | {"cls.predictions.decoder.weight": t[WORDS]},
    "tied bias stored twice": lambda t: t | {"cls.predictions.decoder.bias": t["cls.predictions.bias"]},
    "tied weights stored under the other name": lambda t: {
        "cls.predictions.decoder.weight" if n == WORDS else n: x for n, x in t.items()},
    "another head beside": lambda t: t | {
        "cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)},
    "a pooler that this class does not have": lambda t: t | {
        "bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)},
    "double precision": lambda t: {n: x.double() for n, x in t.items()},
}  # fmt: skip


@pytest.mark.parametrize("edit", SAME_WEIGHTS.values(), ids=SAME_WEIGHTS)
@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin"])
def test_what_checkpoints_may_look_like(edit, form, tmp_path):
    change(copy_of("bert", "ForMaskedLM", tmp_path), edit)
    if form != "safetensors":
        torch.save(load_file(tmp_path / FILE), tmp_path / BIN, _use_new_zipfile_serialization=form == "bin")
        (tmp_path / FILE).unlink()
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert_same_weights(model, reference("bert", "ForMaskedLM"))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert not model.load_report.new


REFUSED = {
    "tied weights that differ": (lambda t: t | {"cls.predictions.decoder.weight": t[WORDS] + 1},
                                 f"cls.predictions.decoder.weight and {WORDS} differ.*tie_word_embeddings=False"),
    "tied bias that differs": (lambda t: t | {"cls.predictions.decoder.bias": t["cls.predictions.bias"] + 1},
                               "cls.predictions.decoder.bias and cls.predictions.bias differ"),
    "foreign prefix": (lambda t: {f"model.{n}": x for n, x in t.items()}, r"missing in the checkpoint: bert\.emb"),
    "another architecture's prefix": (lambda t: {n.replace("bert.", "roberta."): x for n, x in t.items()},
                                      r"missing in the checkpoint: bert\.emb"),
    "wrapped for several GPUs": (lambda t: {f"module.{n}": x for n, x in t.items()}, "missing in the checkpoint"),
    "one missing": (lambda t: {n: x for n, x in t.items() if n != WORDS}, f"1 missing in the checkpoint: {WORDS}"),
    "one too many": (lambda t: t | {"bert.x": torch.ones(1)}, r"1 not in the model: bert\.x"),
    "one misspelt": (lambda t: {n.replace("query.bias", "qeury.bias"): x for n, x in t.items()},
                     r"did you mean 'bert\.encoder\.layer\.0\.attention\.self\.qeury\.bias'"),
    "gamma and weight": (lambda t: t | legacy(t), "not in the model"),
    "another shape": (lambda t: t | {WORDS: torch.ones(99, 16)}, rf"{WORDS} \(file \[99, 16\], model \[99, 32\]\)"),
    "turned": (lambda t: t | {WORDS: t[WORDS].T}, r"\(file \[32, 99\], model \[99, 32\]\)"),
    "whole numbers": (lambda t: t | {WORDS: t[WORDS].long()}, rf"1 not floating point: {WORDS} \(torch.int64\)"),
    "all whole numbers": (lambda t: {n: x.to(torch.int8) for n, x in t.items()}, "not floating point"),
    "one layer more": (lambda t: t | {n.replace("layer.1", "layer.2"): x for n, x in t.items()}, "16 not in the model"),
    "one layer less": (lambda t: {n: x for n, x in t.items() if "layer.1" not in n}, r"16 missing in the checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize(
    "options", [{}, {"num_labels": 2}, {"ignore_mismatched_sizes": True}], ids=["", "num_labels", "ignore"]
)
def test_what_does_not_fit_names_itself(edit, message, options, tmp_path):
    change(copy_of("bert", "ForMaskedLM", tmp_path), edit)
    with pytest.raises(WeightsError, match=rf"(?s){message}") as caught:
        AutoModelForMaskedLM.from_pretrained(tmp_path, **options)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_hidden_layers": 3}, WeightsError, "16 missing in the checkpoint: encoder.layer.2"),
        ({"num_hidden_layers": 1}, WeightsError, "16 not in the model: encoder.layer.1"),
        (
            {"num_hidden_layers": 10_000},
            ConfigError,
            "num_hidden_layers is 10000, but the checkpoint holds 3[0-9] tensors",
        ),
        ({"hidden_size": 64}, WeightsError, r"word_embeddings.weight \(file \[99, 32\], model \[99, 64\]\)"),
        ({"hidden_size": 10**8}, WeightsError, r"model \[99, 100000000\]"),
        ({"vocab_size": 10**8}, WeightsError, r"model \[100000000, 32\]"),
        ({"intermediate_size": 38}, WeightsError, r"\(file \[37, 32\], model \[38, 32\]\)"),
        ({"model_type": "distilbert"}, ConfigError, "type_vocab_size is 2, which DistilBertConfig does not implement"),
    ],
)
def test_a_config_of_other_weights(changes, error, message, tmp_path):
    copy_of("bert", "Model", tmp_path, **changes)
    with pytest.raises(error, match=message):
        AutoModel.from_pretrained(tmp_path)


def test_a_config_of_another_architecture(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json: model_type is 'distilbert', BertConfig reads 'bert'"):
        pellucid.BertModel.from_pretrained(checkpoint("distilbert", "Model"))
    values = {name: v for name, v in config_class("distilbert")(**CASES["distilbert"]).to_dict().items()}
    copy_of("bert", "Model", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="missing in the checkpoint"):
        AutoModel.from_pretrained(tmp_path)


@every_class
def test_a_backbone_without_its_optional_part(architecture, head, tmp_path):
    backbone = our_class(architecture, "Model").from_pretrained(checkpoint(architecture, head))
    tensors = load_file(checkpoint(architecture, head) / FILE)
    ids = torch.ones(2, 3, dtype=torch.long)
    has_pooler = any("pooler" in name for name in tensors)
    assert (backbone(ids).get("pooler_output") is not None) == has_pooler
    backbone.save_pretrained(tmp_path)
    assert_same_weights(our_class(architecture, "Model").from_pretrained(tmp_path), backbone)


# --- new heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_head_is_announced_once(architecture, caplog, capfd):
    source = checkpoint(architecture, "ForMaskedLM")
    capfd.readouterr()  # the original's, which wrote it
    with pytest.raises(WeightsError, match=r"say so: num_labels=\.\.\., or ignore_mismatched_sizes=True"):
        AutoModelForSequenceClassification.from_pretrained(source)
    torch.manual_seed(7)
    with caplog.at_level(logging.INFO, logger="pellucid"):
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=5)
    (record,) = caplog.records
    assert record.name == "pellucid" and record.levelno == logging.WARNING and "\n" not in record.getMessage()
    assert "new and untrained" in record.getMessage()
    assert all(name in record.getMessage() for name in model.load_report.new)
    assert set(model.load_report.new) == {n for n, _ in model.named_parameters() if "classifier" in n or "pooler" in n}
    assert model.classifier.weight.shape == (5, 32) and model.config.num_labels == 5
    assert 0.01 < model.classifier.weight.std() < 0.03 and not model.classifier.bias.any()
    torch.manual_seed(7)
    assert_same_weights(AutoModelForSequenceClassification.from_pretrained(source, num_labels=5), model)
    assert capfd.readouterr().err == ""


def test_a_head_of_another_size(tmp_path, caplog):
    source = checkpoint("bert", "ForSequenceClassification")  # 3 labels
    with pytest.raises(
        WeightsError, match=r"classifier\.bias \(file \[3\], model \[5\]\)[\s\S]*ignore_mismatched_sizes=True"
    ):
        AutoModelForSequenceClassification.from_pretrained(source, num_labels=5)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=5, ignore_mismatched_sizes=True)
    assert set(model.load_report.new) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(
        model.bert.pooler.dense.weight, reference("bert", "ForSequenceClassification").bert.pooler.dense.weight
    )
    assert len(caplog.records) == 1
    caplog.clear()
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=3, ignore_mismatched_sizes=True)
    assert not caplog.records


# --- heads of other tasks ---------------------------------------------------------------------------------------------

PARTS = ("ForMaskedLM", "ForNextSentencePrediction")  # of ForPreTraining
PAIRS = [
    (architecture, saved, asked)
    for architecture in ("bert", "distilbert", "modernbert", "deberta_v2", "xlm", "xlnet", "camembert")
    for saved in HEADS[architecture]
    for asked in HEADS[architecture]
    if saved != asked and "Model" not in (saved, asked)
]


def head_of(model):
    return {n for n, _ in model.named_parameters() if not n.startswith(f"{model.prefix}.")}


@pytest.mark.parametrize(("architecture", "saved", "asked"), PAIRS)
def test_a_head_reads_what_its_own_task_taught(architecture, saved, asked, caplog):
    source, cls = checkpoint(architecture, saved), our_class(architecture, asked)
    if saved == "ForPreTraining" and asked in PARTS:
        model = cls.from_pretrained(source)
        theirs = reference(architecture, saved).state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
        return
    with pytest.raises(WeightsError, match="say so: num_labels"):
        cls.from_pretrained(source)
    model = cls.from_pretrained(source, num_labels=3)
    assert set(model.load_report.new) >= head_of(model) or saved in ("ForPreTraining", *PARTS)
    assert len(caplog.records) == 1


def test_a_head_that_looks_alike_is_explained():
    source, stored = checkpoint("bert", "ForSequenceClassification"), reference("bert", "ForSequenceClassification")
    message = r"are of BertForSequenceClassification, .* of BertForTokenClassification, .*: classifier.bias, classifier"
    load: Any = pellucid.AutoModelForTokenClassification.from_pretrained
    with pytest.raises(
        WeightsError, match=rf"{message}.*\n  Load it with BertForSequenceClassification\. .*num_labels="
    ):
        load(source)
    config = pellucid.AutoConfig.from_pretrained(source)
    for options in ({"num_labels": 3}, {"ignore_mismatched_sizes": True}, {"config": config}):
        model = load(source, **options)
        assert model.classifier.weight.shape == (3, 32)
        assert not torch.equal(model.classifier.weight, stored.classifier.weight)
        assert {"classifier.weight", "classifier.bias"} == {*model.load_report.new}
        assert {"classifier.weight", "classifier.bias"} <= {*model.load_report.ignored}


class Tagger(pellucid.BertForTokenClassification):
    """A class of a user's own."""


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        (None, "BertForTokenClassification"),
        (..., "BertForTokenClassification"),
        ([], "BertForTokenClassification"),
        (["BertModel"], "BertForTokenClassification"),
        (["Linear"], "BertForTokenClassification"),
        (["BertForNamesAndPlaces"], "BertForTokenClassification"),
        (["TokenizerForTokenClassification"], "BertForTokenClassification"),
        (["BertForSequenceClassification", "BertForTokenClassification"], "BertForTokenClassification"),
        (["BertForMaskedLM"], "BertForTokenClassification"),  # a fine-tuned state_dict beside the config it began with
        (["BertForSequenceClassification"], "BertModel"),
        (["BertForSequenceClassification"], Tagger),
    ],
)
def test_what_else_architectures_may_say(named, asked, tmp_path):
    copy_of("bert", "ForTokenClassification", tmp_path, architectures=named)
    cls: Any = getattr(pellucid, asked) if isinstance(asked, str) else asked
    theirs = reference("bert", "ForTokenClassification").state_dict()
    for name, tensor in cls.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(tensor, theirs[name if name in theirs else f"bert.{name}"])


@pytest.mark.parametrize("name", ["RobertaForTokenClassification", "CamembertForTokenClassification"])
def test_kin_names_its_heads_alike(name, tmp_path):
    copy_of("camembert", "ForTokenClassification", tmp_path, architectures=[name])
    model = pellucid.AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert_same_weights(model, reference("camembert", "ForTokenClassification"))
    with pytest.raises(WeightsError, match="Load it with CamembertForTokenClassification"):
        pellucid.AutoModelForMultipleChoice.from_pretrained(tmp_path)


def test_tensors_of_two_heads(tmp_path):
    """As bert-base-uncased has them: config.json names one of the heads that learned together."""
    copy_of("bert", "ForPreTraining", tmp_path, architectures=["BertForMaskedLM"])
    for head in ("ForPreTraining", *PARTS):
        model, theirs = (
            our_class("bert", head).from_pretrained(tmp_path),
            reference("bert", "ForPreTraining").state_dict(),
        )
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


# --- what a load writes -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_parameter_is_written_exactly_once(data, tmp_path_factory):
    """Whatever the shards and dtypes: each parameter takes one read of its own, and no memory is left as it came."""
    architecture, head = data.draw(st.sampled_from(CLASSES))
    source, folder = checkpoint(architecture, head), tmp_path_factory.mktemp("model")
    tensors = load_file(source / FILE)
    doubled = data.draw(st.sets(st.sampled_from(sorted(tensors))))
    names = data.draw(st.permutations(sorted(tensors)))
    tensors = {name: tensors[name].double() if name in doubled else tensors[name] for name in names}
    weights.write(folder, tensors, max_shard_size=data.draw(st.integers(1000, 100_000)))
    shutil.copy(source / "config.json", folder)
    targets = []
    steps = weights.Checkpoint._steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights.Checkpoint, "_steps", lambda c, n, t: (targets.append(t.data_ptr()), steps(c, n, t))[1])
        patch.setattr(weights, "PIECE", data.draw(st.sampled_from([64, 1000, weights.PIECE])))
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN
        try:
            model, report = our_class(architecture, head).from_pretrained(folder, output_loading_info=True)
        finally:
            torch.use_deterministic_algorithms(False)
    assert sorted(targets) == sorted(p.data_ptr() for p in model.parameters())
    assert not any(p.isnan().any() or p.is_meta or not p.requires_grad for p in model.parameters())
    assert_same_weights(model, reference(architecture, head))
    assert (report.new, report.ignored, report.dtype) == ((), (), torch.float32)
    assert set(report.loaded) == {name for name, _ in model.named_parameters()}
    assert not model.training and model.load_report is report


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@pytest.mark.parametrize("stored", [*DTYPES.values(), torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("asked", DTYPES)
def test_dtypes(stored, asked, tmp_path):
    change(copy_of("bert", "Model", tmp_path, dtype=None), lambda t: {n: x.to(stored) for n, x in t.items()})
    with torch.inference_mode():  # which is of this thread alone
        model = AutoModel.from_pretrained(tmp_path, dtype=asked)
    assert not any(p.is_inference() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {DTYPES[asked]}
    for name, tensor in load_file(tmp_path / FILE).items():
        assert same_bits(model.state_dict()[name], tensor.to(DTYPES[asked])), name


@pytest.mark.parametrize(
    ("key", "stored", "options", "expected"),
    [
        ({"dtype": "float32"}, torch.float16, {}, torch.float32),  # config.json first
        ({"dtype": None, "torch_dtype": "bfloat16"}, torch.float32, {}, torch.bfloat16),
        ({"dtype": None}, torch.float16, {}, torch.float16),  # then the files
        ({"dtype": ...}, torch.bfloat16, {"dtype": "auto"}, torch.bfloat16),
        ({"dtype": None}, torch.float8_e5m2, {}, torch.float32),  # in which nothing can be computed
        ({"dtype": "float8_e5m2"}, torch.float16, {}, torch.float16),
        ({"dtype": "float16"}, torch.float16, {"dtype": torch.float64}, torch.float64),
        ({"dtype": "float16"}, torch.float16, {"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16, {"torch_dtype": torch.float32}, torch.float32),
        ({"dtype": "float16"}, torch.float16, {"dtype": "torch.float32"}, torch.float32),
        ({"dtype": "float16"}, torch.float16, {"dtype": None}, torch.float16),
    ],
)
def test_which_dtype(key, stored, options, expected, tmp_path):
    change(copy_of("bert", "Model", tmp_path, **key), lambda t: {n: x.to(stored) for n, x in t.items()})
    assert AutoModel.from_pretrained(tmp_path, **options).dtype == expected


BAD_ARGUMENTS = {
    "dtype": ({"dtype": "float23"}, InputError, "dtype is 'float23'; expected 'auto', 'float32'"),
    "dtype of whole numbers": ({"dtype": torch.int8}, InputError, "dtype is torch.int8"),
    "dtype of 8 bits": ({"dtype": torch.float8_e4m3fn}, InputError, "dtype is torch.float8_e4m3fn"),
    "device": ({"device": "gpu"}, InputError, "device is 'gpu'; expected a name such as 'cpu'"),
    "device list": ({"device": ["cpu"]}, InputError, "device is "),
    "device True": ({"device": True}, InputError, "device is True"),
    "device map": ({"device_map": {"bert": 0, "cls": 1}}, InputError, "device is "),
    "keyword": ({"num_label": 3}, ArgumentError, "no field 'num_label'; did you mean 'num_labels'"),
    "variant": ({"variant": "fp16"}, ArgumentError, "no field 'variant'"),
    "code": ({"trust_remote_code": True}, ArgumentError, "trust_remote_code"),
    "quantised": ({"quantization_config": {"load_in_8bit": True}}, ConfigError, "quantization_config is"),
    "field": ({"hidden_act": "gleu"}, ConfigError, "hidden_act is 'gleu'"),
    "config": ({"config": "bert"}, InputError, "config is a str"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(options, error, message):
    for cls in (AutoModel, pellucid.BertModel):
        with pytest.raises(error, match=message):
            cls.from_pretrained(checkpoint("bert", "Model"), **options)


def test_arguments_that_ask_for_nothing():
    options = {
        "low_cpu_mem_usage": True,
        "attn_implementation": "eager",
        "trust_remote_code": False,
        "resume_download": None,
    }
    for device in ({}, {"device": "cpu"}, {"device_map": "cpu"}, {"device_map": {"": "cpu"}}, {"device": -1}):
        model = AutoModel.from_pretrained(checkpoint("bert", "Model"), **options, **device)
        assert model.device.type == "cpu"
    if not torch.cuda.is_available():
        assert AutoModel.from_pretrained(checkpoint("bert", "Model"), device_map="auto").device.type == "cpu"
        with pytest.raises(InputError, match="no usable CUDA device; use 'cpu'"):
            AutoModel.from_pretrained(checkpoint("bert", "Model"), device=0)


def test_overrides_reach_the_model():
    model = AutoModel.from_pretrained(checkpoint("bert", "Model"), hidden_dropout_prob=0.5, output_hidden_states=True)
    assert model.embeddings.dropout.p == 0.5
    assert len(model(torch.ones(1, 3, dtype=torch.long)).hidden_states) == 3
    config = model.config
    again = AutoModel.from_pretrained(checkpoint("bert", "Model"), config=config, hidden_dropout_prob=0.25)
    assert (again.embeddings.dropout.p, config.hidden_dropout_prob) == (0.25, 0.5)


def test_safetensors_come_first(tmp_path):
    copy_of("bert", "Model", tmp_path)
    torch.save({"x": 1}, tmp_path / BIN)
    assert_same_weights(AutoModel.from_pretrained(tmp_path), reference("bert", "Model"))
    (tmp_path / FILE).unlink()
    with pytest.raises(MissingFileError, match=r"expected model\.safetensors, as use_safetensors=True asks"):
        AutoModel.from_pretrained(tmp_path, use_safetensors=True)


@pytest.mark.parametrize(
    ("architecture", "head"), [("bert", "ForMaskedLM"), ("bert", "ForPreTraining"), ("distilbert", "ForMaskedLM")]
)
def test_untied_weights(architecture, head, tmp_path):
    source = checkpoint(architecture, head)
    with pytest.raises(WeightsError, match="stores what is tied once: leave tie_word_embeddings at true"):
        our_class(architecture, head).from_pretrained(source, tie_word_embeddings=False)
    original = type(reference(architecture, head))
    untied = original(original.config_class(**CASES[architecture], tie_word_embeddings=False)).eval()
    untied.save_pretrained(tmp_path)
    model = our_class(architecture, head).from_pretrained(tmp_path)
    assert_same_weights(model, untied)
    assert len(list(model.parameters())) == len(list(untied.parameters()))
    ids = torch.randint(5, 99, (2, 7))
    assert torch.allclose(model(ids)[0], untied(ids)[0], atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    assert_same_weights(original.from_pretrained(tmp_path / "again"), untied)


def test_nan_weights_load_as_they_are(tmp_path):
    change(
        copy_of("bert", "ForMaskedLM", tmp_path), lambda t: {n: torch.full_like(x, float("nan")) for n, x in t.items()}
    )
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert all(p.isnan().all() for p in model.parameters())


# --- random weights ---------------------------------------------------------------------------------------------------


@every_class
def test_random_weights(architecture, head):
    config = config_class(architecture)(**CASES[architecture])
    torch.manual_seed(3)
    model = our_class(architecture, head).from_config(config)
    assert model.training and model.load_report is None
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name.lower():
            assert (parameter == 1).all(), name
        else:
            assert parameter.numel() < 500 or abs(parameter.std() - 0.02) < 0.004, name
            assert abs(parameter.mean()) < 0.01, name
    words = getattr(model, model.prefix, model).embeddings.word_embeddings.weight
    assert not words[0].any() and words[1:].any(dim=1).all()  # padding
    for tied, source in model.tied.items():
        assert model.get_parameter(tied) is model.get_parameter(source)
    torch.manual_seed(3)
    assert_same_weights(our_class(architecture, head)(config), model)
    torch.manual_seed(4)
    other = our_class(architecture, head)(config)
    assert not torch.equal(getattr(other, other.prefix, other).embeddings.word_embeddings.weight, words)
    assert our_class(architecture, head).from_config(config, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("size", [10**5, 10**6, 10**8])
def test_random_weights_beyond_the_memory_are_refused_before_they_are_made(size):
    config = config_class("bert")(hidden_size=size, num_attention_heads=10, vocab_size=10**8)
    with pytest.raises(ConfigError, match=r"BertConfig: the parameters would take .* GB, this machine has .* GB"):
        AutoModel.from_config(config)


def test_bad_random_weights():
    with pytest.raises(InputError, match="dtype is 'int8'"):
        AutoModel.from_config(config_class("bert")(**CASES["bert"]), dtype="int8")
    with pytest.raises(InputError, match="BertModel takes a BertConfig; got DistilBertConfig"):
        pellucid.BertModel(config_class("distilbert")())


# --- memory, files and threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["overwrite", "truncate", "delete"])
def test_a_live_model_does_not_depend_on_its_file(harm, tmp_path):
    model = AutoModel.from_pretrained(copy_of("bert", "Model", tmp_path))
    file = tmp_path / FILE
    if harm == "overwrite":
        size = file.stat().st_size
        with file.open("r+b") as stream:
            stream.write(b"\xff" * size)
    elif harm == "truncate":
        os.truncate(file, 0)
    else:
        file.unlink()
    assert_same_weights(model, reference("bert", "Model"))
    assert model(torch.ones(1, 3, dtype=torch.long))[0].isfinite().all()


def test_no_file_stays_open(tmp_path):
    copy_of("bert", "Model", tmp_path)

    def held() -> list[str]:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if os.path.exists(link)]

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("this system has no /proc to look into")
    model = AutoModel.from_pretrained(tmp_path)
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(WeightsError):
        AutoModel.from_pretrained(tmp_path)
    assert not [path for path in held() if str(tmp_path) in path]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert model.num_parameters()


PEAK = """
import os, resource, sys, torch
from pellucid import AutoModel
AutoModel.from_pretrained(sys.argv[1])  # imports everything
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for folder in sys.argv[2:]:
    if os.fork() == 0:
        before = peak()
        model = AutoModel.from_pretrained(folder)
        print(folder, before, peak(), sum(p.nbytes for p in model.parameters()) // 2**20)
        sys.exit()
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and peaks in kB")
def test_peak_memory_is_the_model(tmp_path):
    sizes = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048, "vocab_size": 4_000}
    model = AutoModel.from_config(config_class("bert")(**sizes, num_hidden_layers=8))
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20MB")
    (tmp_path / "bin").mkdir()
    shutil.copy(tmp_path / "single/config.json", tmp_path / "bin")
    torch.save(model.state_dict(), tmp_path / "bin" / BIN)
    model.half().save_pretrained(tmp_path / "half")  # stored in half of the bytes
    shutil.copy(tmp_path / "single/config.json", tmp_path / "half")
    folders = [str(tmp_path / form) for form in ("single", "shards", "bin", "half")]
    arguments = [sys.executable, "-c", PEAK, str(checkpoint("bert", "Model")), *folders]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 4)
    for line in done.stdout.splitlines():
        folder, before, after, size = line.split()
        assert int(size) > 100 and int(after) - int(before) < 1.2 * int(size) + 24, line  # and a tensor a reader
        assert folder in folders


def test_eight_threads_load_at_once(tmp_path):
    expected = {a: reference(a, "ForMaskedLM").state_dict() for a in ("bert", "distilbert")}

    def work(i: int) -> None:
        architecture = ("bert", "distilbert")[i % 2]
        for _ in range(3):
            model = ours(architecture, "ForMaskedLM")
            assert all(same_bits(t, expected[architecture][n]) for n, t in model.state_dict().items())

    in_threads(work, range(8))
