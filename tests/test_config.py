"""Configs: what is read is written back, what is impossible or not implemented is refused, and nothing else happens."""

import copy
import json
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pellucid
from pellucid import AutoConfig, AutoModel, AutoModelForSequenceClassification
from pellucid.auto import config_class
from pellucid.config import BOOKKEEPING, MEANINGFUL
from pellucid.errors import ArgumentError, ConfigError, MissingFileError

BertConfig, DistilBertConfig = config_class("bert"), config_class("distilbert")
TINY = {"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 20, "max_position_embeddings": 12}  # fmt: skip

BASE = {"attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
        "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 512, "num_attention_heads": 12,
        "num_hidden_layers": 12, "type_vocab_size": 2, "vocab_size": 30522}  # fmt: skip
DISTIL = {"activation": "gelu", "attention_dropout": 0.1, "dim": 768, "dropout": 0.1, "hidden_dim": 3072,
          "initializer_range": 0.02, "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12,
          "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2,
          "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522}  # fmt: skip
LABELS = {"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}

# The shapes that config.json has had over the years.
PUBLISHED = {
    "bert of 2018, without model_type": BASE,
    "bert-base-uncased": BASE | {
        "architectures": ["BertForMaskedLM"], "gradient_checkpointing": False, "layer_norm_eps": 1e-12,
        "model_type": "bert", "pad_token_id": 0, "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0", "use_cache": True},
    "bert-base-multilingual": BASE | {
        "architectures": ["BertForMaskedLM"], "directionality": "bidi", "model_type": "bert", "pad_token_id": 0,
        "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128, "pooler_type": "first_token_transform", "vocab_size": 119547},
    "bert fine-tuned on names in 2020": BASE | {
        "_num_labels": 9, "architectures": ["BertForTokenClassification"], "model_type": "bert", "output_past": True,
        "id2label": {str(i): f"B-{i}" for i in range(9)}, "label2id": {f"B-{i}": i for i in range(9)}},
    "bert with everything written out in 2019": BASE | {
        "finetuning_task": "sentiment-analysis", "is_decoder": False, "num_labels": 2, "output_attentions": False,
        "output_hidden_states": False, "pruned_heads": {}, "torchscript": False, "use_bfloat16": False,
        "layer_norm_eps": 1e-12} | LABELS,
    "toxic comments, several labels at once": BASE | {
        "_name_or_path": "bert-base-uncased", "model_type": "bert", "torch_dtype": "float32",
        "problem_type": "multi_label_classification", "id2label": {"0": "toxic", "1": "insult", "2": "threat"},
        "label2id": {"insult": 1, "threat": 2, "toxic": 0}, "classifier_dropout": None},
    "sentence-transformers encoder": BASE | {
        "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"], "hidden_size": 384,
        "intermediate_size": 1536, "num_hidden_layers": 6, "model_type": "bert", "gradient_checkpointing": False},
    "cross-encoder": BASE | {
        "model_type": "bert", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
        "sentence_transformers": {"activation_fn": "torch.nn.Identity"}},
    "distilbert-base-uncased": DISTIL | {"architectures": ["DistilBertForMaskedLM"], "transformers_version": "4.10.0"},
    "distilbert on sst2": DISTIL | LABELS | {
        "architectures": ["DistilBertForSequenceClassification"], "finetuning_task": "sst-2", "output_past": True},
    "distilbert on squad": DISTIL | {"architectures": ["DistilBertForQuestionAnswering"], "torchscript": False},
    "distilbert of version 5": DISTIL | {
        "dtype": "float32", "transformers_version": "5.0.0", "is_encoder_decoder": False},
}  # fmt: skip


def write(folder: Path, values: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = values if isinstance(values, str) else json.dumps(values, indent=2)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def read(values: dict):
    return config_class(values.get("model_type", "bert")).from_dict(values)


# --- round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", PUBLISHED.values(), ids=PUBLISHED)
def test_published_configs_load_and_are_written_back_as_they_were(values, tmp_path):
    source = write(tmp_path / "source", values)
    config = read(values).from_pretrained(source)
    config.save_pretrained(tmp_path / "copy")
    again = json.loads((tmp_path / "copy/config.json").read_text())
    expected = values if "model_type" in values else {"model_type": "bert"} | values
    assert list(again.items()) == list(expected.items())  # the order too
    assert type(config).from_pretrained(tmp_path / "copy") == config


@pytest.mark.parametrize("values", PUBLISHED.values(), ids=PUBLISHED)
def test_the_original_reads_published_configs_alike(values, tmp_path):
    import transformers

    original_class = getattr(transformers, type(read(values)).__name__)
    read(values).save_pretrained(tmp_path)
    original, ours = original_class.from_pretrained(tmp_path), read(values)
    for name in ours.fields():
        if name != "dtype":
            assert getattr(original, name, getattr(ours, name)) == getattr(ours, name), name
    assert original.num_labels == ours.num_labels
    assert str(original.dtype).removeprefix("torch.") == str(ours.dtype)


def test_unknown_keys_of_any_form_survive(tmp_path):
    extra = {"emb_size": 312, "cell": {"a": [1, None, {"b": 2.5}]}, "pre_trained": "", "x": None, "é": "ü\u2028"}
    config = BertConfig.from_pretrained(write(tmp_path, TINY | extra))
    assert config.emb_size == 312 and config.cell == {"a": [1, None, {"b": 2.5}]}
    assert config.replace(hidden_size=32).to_dict() == TINY | extra | {"hidden_size": 32}


def test_unknown_keys_are_mentioned_once(tmp_path, caplog):
    caplog.set_level("INFO", logger="pellucid")
    config = BertConfig.from_pretrained(write(tmp_path, TINY | {"emb_size": 312, "cell": 3}))
    assert [record.getMessage().partition("config.json: ")[2] for record in caplog.records] == [
        "unknown keys are kept and have no effect: 'emb_size', 'cell'."
    ]
    config.replace(hidden_size=32)
    assert len(caplog.records) == 1


def test_old_spellings_stay_until_they_change():
    config = BertConfig.from_dict(TINY | {"torch_dtype": "float16"})
    assert config.dtype == config.torch_dtype == "float16"
    assert config.to_dict()["torch_dtype"] == "float16" and "dtype" not in config.to_dict()
    changed = config.replace(dtype="bfloat16").to_dict()
    assert changed["dtype"] == "bfloat16" and "torch_dtype" not in changed
    assert BertConfig(dtype=torch.float16).dtype == "float16"
    aliased = DistilBertConfig.from_dict({"hidden_size": 24, "n_heads": 2})
    assert (aliased.dim, aliased.to_dict()["hidden_size"]) == (24, 24)
    assert "hidden_size" not in aliased.replace(dim=48).to_dict()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(min_size=1), json_values, max_size=5))
def test_whatever_is_read_is_written_back(extra):
    values = TINY | {name: value for name, value in extra.items() if name not in MEANINGFUL}
    try:
        config = BertConfig.from_dict(values)
    except ConfigError:
        return  # a known field with an impossible value
    assert list(json.loads(config.to_json_string()).items()) == list(values.items())
    assert BertConfig.from_dict(json.loads(config.to_json_string())) == config


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_defaults_are_the_originals(kind):
    import transformers

    ours = config_class(kind)()
    original = getattr(transformers, type(ours).__name__)()
    habits = {"transformers_version", "return_dict", "chunk_size_feed_forward", "_name_or_path"}
    for name in original.to_dict().keys() - habits:
        assert getattr(ours, name) == getattr(original, name), name
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "num_labels", "is_encoder_decoder"):
        assert getattr(ours, name) == getattr(original, name), name


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_original_and_we_read_each_other(kind, tmp_path):
    import transformers

    ours = config_class(kind)(num_labels=3, hidden_size=48, num_attention_heads=4, dtype="bfloat16")
    original_class = getattr(transformers, type(ours).__name__)
    ours.save_pretrained(tmp_path / "ours")
    original = original_class.from_pretrained(tmp_path / "ours")
    assert (original.num_labels, original.hidden_size, original.dtype) == (3, 48, torch.bfloat16)
    original.save_pretrained(tmp_path / "original")
    back = AutoConfig.from_pretrained(tmp_path / "original")
    assert all(getattr(back, name) == getattr(ours, name) for name in ours.fields())


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_equal_and_independent(twin):
    config = BertConfig.from_dict(TINY | LABELS | {"cell": {"a": 1}})
    other = twin(config)
    assert other == config and other.to_dict() == config.to_dict()
    other.hidden_size = 32
    assert config.hidden_size == 16 and other != config
    assert config != DistilBertConfig() and config != "bert"


def test_what_was_given_is_not_shared():
    values = copy.deepcopy(TINY | LABELS | {"cell": {"a": 1}})
    config = BertConfig.from_dict(values)
    config.label2id["x"] = 5
    config.cell["a"] = 2
    assert values == TINY | LABELS | {"cell": {"a": 1}}


# --- reading and setting attributes -----------------------------------------------------------------------------------


def test_names_of_other_architectures_are_readable_and_settable():
    config = DistilBertConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=2)
    assert (config.dim, config.n_heads, config.n_layers) == (24, 3, 2)
    config.hidden_size = 48
    assert config.dim == config.hidden_size == config.to_dict()["dim"] == 48
    assert (config.is_decoder, config.is_encoder_decoder) == (False, False)


def test_attributes_that_do_not_exist_are_refused():
    config = BertConfig()
    with pytest.raises(AttributeError, match="did you mean 'hidden_size'"):
        config.hiden_size  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean 'num_hidden_layers'"):
        config.num_hiden_layers = 3
    config.max_length = 20  # a habit of generation
    assert config.max_length == config.to_dict()["max_length"] == 20


def test_labels():
    config = BertConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"} and config.label2id["LABEL_2"] == 2
    assert BertConfig(id2label={"0": "a", "1": "b"}).label2id == {"a": 0, "b": 1}
    assert BertConfig(id2label=["a", "b", "c"]).num_labels == 3
    assert BertConfig(label2id={"a": 0, "b": 1}).id2label == {0: "a", 1: "b"}
    assert BertConfig.from_dict(TINY | {"id2label": None, "label2id": None}).num_labels == 2
    assert BertConfig.from_dict(TINY | {"id2label": {}}).num_labels == 2
    named = BertConfig.from_dict(TINY | LABELS)
    assert named.id2label == {0: "NEGATIVE", 1: "POSITIVE"}  # whole numbers as keys
    assert named.replace(num_labels=2).id2label == named.id2label  # the same number keeps the names
    assert named.replace(num_labels=3).id2label[2] == "LABEL_2"
    assert named.replace(id2label={0: "bad", 1: "good"}).label2id == {"bad": 0, "good": 1}
    named.num_labels = 2
    assert named.id2label[0] == "NEGATIVE"
    named.num_labels = 4
    assert named.label2id["LABEL_3"] == 3 and named.to_dict()["id2label"][3] == "LABEL_3"


def test_overrides_by_keyword(tmp_path):
    write(tmp_path, TINY | LABELS)
    config = AutoConfig.from_pretrained(
        tmp_path, hidden_dropout_prob=0.0, torch_dtype="bfloat16", output_attentions=True
    )
    assert (config.hidden_dropout_prob, config.dtype, config.output_attentions) == (0.0, "bfloat16", True)
    assert config.hidden_size == 16 and config.id2label[1] == "POSITIVE"
    distil = AutoConfig.for_model("distilbert", hidden_size=24, n_heads=2)
    assert distil.dim == 24 and distil.replace(hidden_size=48).dim == 48
    for misspelt, nearest in {"hidden_sizee": "hidden_size", "num_label": "num_labels", "lable2id": "label2id"}.items():
        for build in (
            lambda k: AutoConfig.from_pretrained(tmp_path, **k),
            lambda k: BertConfig.from_pretrained(tmp_path, **k),
            lambda k: BertConfig(**k),
            lambda k: BertConfig().replace(**k),
            lambda k: AutoConfig.for_model("bert", **k),
        ):
            with pytest.raises(ArgumentError, match=f"has no field '{misspelt}'; did you mean '{nearest}'"):
                build({misspelt: 3})
    with pytest.raises(ArgumentError, match=r"'hidden_sizee'.*'vocab_sise'"):  # all at once
        BertConfig(hidden_sizee=3, vocab_sise=4)


# --- refusals ---------------------------------------------------------------------------------------------------------

IMPOSSIBLE = {
    "hidden size 10^9": ({"hidden_size": 10**9, "num_attention_heads": 10}, "hidden_size is 1000000000; expected 1 to"),
    "vocabulary 10^12": ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    "vocabulary of 4,000 digits": ({"vocab_size": 10**4000}, "vocab_size is 1000"),
    "layers 10^7": ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000; expected 0 to 10000"),
    "layers -1": ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    "heads 0": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "heads that do not divide": ({"num_attention_heads": 3}, r"hidden_size \(16\) is not a multiple .*\(3\)"),
    "positions 0": ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    "text": ({"hidden_size": "16"}, "hidden_size is '16'; expected int"),
    "fraction": ({"hidden_size": 16.5}, "hidden_size is 16.5; expected int"),
    "boolean": ({"hidden_size": True}, "hidden_size is True; expected int"),
    "null": ({"hidden_size": None}, "hidden_size is None; expected int"),
    "list": ({"hidden_size": [16] * 10**5}, r"hidden_size is \[16, 16, 16, 16, 16, 16, \.\.\.\]; expected int"),
    "number for a switch": ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; expected bool"),
    "number for a name": ({"hidden_act": 3}, "hidden_act is 3; expected str"),
    "activation": ({"hidden_act": "gleu"}, "hidden_act is 'gleu'; expected one of gelu, "),
    "dropout 1": ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1; expected a probability"),
    "dropout -0.1": ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob is -0.1"),
    "epsilon": ({"layer_norm_eps": -1e-5}, "layer_norm_eps is -1e-05"),
    "initializer": ({"initializer_range": -0.02}, "initializer_range is -0.02"),
    "padding id": ({"pad_token_id": 40}, "pad_token_id is 40; expected an id of the vocabulary, less than 40"),
    "labels with a gap": ({"id2label": {"5": "a", "7": "b"}}, r"id2label has the ids \[5, 7\]; expected 0 to 1"),
    "labels by name": ({"id2label": {"a": "0"}}, r"id2label has the keys \['a'\]; expected whole numbers"),
    "label twice": ({"id2label": {"0": "a", "00": "b"}}, "id2label has the keys .* each once"),
    "labels not text": ({"id2label": {"0": 1}}, r"id2label is \{0: 1\}; expected dict\[int, str\]"),
    "labels a number": ({"id2label": 3}, "id2label is 3"),
    "label2id with one id twice": ({"label2id": {"a": 0, "b": 0}}, "label2id .* expected every id once"),
    "num_labels 0": ({"num_labels": 0}, "num_labels is 0"),
    "num_labels 10^12": ({"num_labels": 10**12}, "num_labels is 1000000000000"),
    "num_labels text": ({"num_labels": "2"}, "num_labels is '2'"),
    "num_labels and labels": ({"num_labels": 3} | LABELS, "num_labels is 3, but there are 2 labels"),
    "problem type": ({"problem_type": "binary"}, "problem_type is 'binary'; expected one of single_label"),
    "architectures": ({"architectures": "BertModel"}, r"architectures is 'BertModel'; expected list\[str\] | None"),
    "dtype": ({"dtype": 16}, "dtype is 16"),
    "both spellings": ({"dtype": "float16", "torch_dtype": "float32"}, "torch_dtype is 'float32', but dtype"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "'relative_key'; only 'absolute' is"),
    "cross-attention": ({"add_cross_attention": True}, "add_cross_attention is True, but is_decoder is False"),
    "rotary": ({"rope_theta": 10000.0}, "rope_theta is 10000.0, which BertConfig does not implement"),
    "quantised": ({"quantization_config": {"bits": 4}}, r"quantization_config is \{'bits': 4\}"),
    "quantised by": ({"quantization_config": {"quant_method": "awq"}}, "weights quantized by 'awq' can not be read"),
    "pruned heads": ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
    "another architecture": ({"model_type": "gpt2"}, "model_type is 'gpt2', BertConfig reads 'bert'; use AutoConfig"),
    "several": ({"hidden_size": "a", "vocab_size": -1, "rope_theta": 1, "hidden_dropout_prob": 2},
                "vocab_size is -1.*hidden_size is 'a'.*hidden_dropout_prob is 2.*rope_theta is 1"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_values_are_refused_at_once(values, message, tmp_path):
    write(tmp_path, TINY | values)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        BertConfig.from_pretrained(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value) and len(str(caught.value)) < 1500
    assert time.monotonic() - start < 1
    with pytest.raises(ConfigError, match=message):
        BertConfig(**TINY | values)


BROKEN = {
    "cut": ('{"model_type": "bert", "hid', ConfigError, "line 1"),
    "empty": ("", ConfigError, "line 1"),
    "not an object": ("[1, 2]", ConfigError, "Expected a JSON object"),
    "NaN": ('{"layer_norm_eps": NaN}', ConfigError, "NaN"),
    "key twice": ('{"hidden_size": 16, "hidden_size": 32}', ConfigError, "'hidden_size' is there twice"),
    "nested 10^6 deep": ("[" * 10**6, ConfigError, "nests too deep"),
    "nested 600 deep": ('{"model_type": "bert", "x": ' + "[" * 600 + "]" * 600 + "}", ConfigError, "nests too deep"),
    "no model_type": ("{}", ConfigError, "has no model_type"),
    "no model_type, odd architectures": ('{"architectures": 5}', ConfigError, "has no model_type"),
    "no model_type, foreign architectures": (
        '{"architectures": ["BertweetThing", 3]}',
        ConfigError,
        "has no model_type",
    ),
    "unknown": ('{"model_type": "brt"}', ConfigError, "no architecture is called 'brt'; did you mean 'bert'"),
    "a path": ('{"model_type": "../../etc/passwd"}', ConfigError, "no architecture is called '../../etc/passwd'"),
    "a list": ('{"model_type": ["bert"]}', ConfigError, "no architecture is called"),
    "long": (json.dumps({"model_type": "b" * 10**6}), ConfigError, "no architecture is called 'bbbb"),
}


@pytest.mark.parametrize(("text", "error", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(text, error, message, tmp_path):
    write(tmp_path, text)
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(error, match=message) as caught:
            load(tmp_path)
        assert str(tmp_path / "config.json") in str(caught.value) and len(str(caught.value)) < 1000


def test_missing_config(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(MissingFileError, match=r"config\.json.*README\.md"):
        AutoConfig.from_pretrained(tmp_path)


def test_absurd_sizes_cost_nothing():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for values, _ in IMPOSSIBLE.values():
        with pytest.raises(ConfigError):
            BertConfig.from_dict(TINY | values)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_fields_set_after_the_check_are_checked_by_the_model():
    config = BertConfig.from_dict(TINY)
    config.hidden_act, config.position_embedding_type = "gleu", "relative_key"
    with pytest.raises(ConfigError, match="position_embedding_type is 'relative_key'"):
        pellucid.BertModel(config)
    config.position_embedding_type = "absolute"
    with pytest.raises(ConfigError, match="hidden_act is 'gleu'"):
        pellucid.BertModel(config)


def test_saving_refuses_unknown_arguments(tmp_path):
    with pytest.raises(ArgumentError, match="push_to_hubb"):
        BertConfig().save_pretrained(tmp_path, push_to_hubb=True)


# --- a config is data -------------------------------------------------------------------------------------------------

AUDIT = """
import json, sys
from pathlib import Path
from pellucid import AutoConfig, AutoModel
from pellucid.errors import PellucidError

folder, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
files, seen, watching = {str(folder), *(p.name for p in folder.iterdir())}, [], False

def watch(event, args):
    if not watching:
        return
    if event == "open" and isinstance(args[0], (str, bytes)):
        if str(args[0]) not in files and Path(str(args[0])).suffix not in (".py", ".pyc"):
            seen.append(f"opens {args[0]}")
    elif event == "import" and args[0].split(".")[0] not in ("pellucid", "torch"):
        seen.append(f"imports {args[0]}")
    elif event.split(".")[0] in ("socket", "subprocess", "ctypes", "urllib", "shutil", "exec") or event == "os.system":
        seen.append(f"{event} {args}")

def run(values):
    (folder / "config.json").write_text(json.dumps(values))
    global watching
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained):
        watching = True
        try:
            load(folder)
        except PellucidError:
            pass
        finally:
            watching = False

good = json.loads((folder / "config.json").read_text())
run(good), run(good | {"hidden_sizee": 1, "model_type": "brt"}), run({})  # so that everything is imported
sys.addaudithook(watch)
for extra in cases:
    before = len(seen)
    run(good | extra)
    if len(seen) > before:
        print(extra, seen[before:])
run(good)
sys.exit(bool(seen))
"""


def test_nothing_in_a_config_selects_code_files_or_addresses(tmp_path):
    """Whatever a config says, loading opens no socket, imports nothing, and opens nothing outside the folder."""
    model = AutoModel.from_config(BertConfig.from_dict(TINY))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/evil.py").write_text("raise SystemExit('executed')")
    names = [*BOOKKEEPING, *MEANINGFUL, *BertConfig.fields(), "num_labels", "model_type", "attn_implementation",
             "_attn_implementation_internal", "auto_map", "custom_pipelines", "trust_remote_code", "_name_or_path",
             "tokenizer_class", "transformers_weights", "processor_class", "torch_dtype", "unknown"]  # fmt: skip
    strangers = [
        "evil", "evil.Model", "stranger/code", "../../../etc/passwd", "/etc/passwd", "https://127.0.0.1:9/x",
        {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, {"AutoModel": "stranger/code--evil.Model"},
        ["evil.Model"], True, {"": "evil"},
    ]  # fmt: skip
    cases = [{name: value} for name in names for value in strangers[:: 3 if name in MEANINGFUL else 1]]

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.dictionaries(st.sampled_from(names) | st.text(min_size=1), json_values, max_size=4))
    def collect(values):
        cases.append(values)

    collect()
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    arguments = [sys.executable, "-c", AUDIT, str(tmp_path / "model"), str(tmp_path / "cases.json")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_a_head_of_more_rows_than_labels_names_both(tmp_path):
    config = BertConfig(**TINY, num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path, values | LABELS)
    with pytest.raises(ValueError, match=r"classifier.weight \(file \[3, 16\], model \[2, 16\]\)[\s\S]*id2label"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
