"""Auto classes: config.json chooses the class, and what is unknown names what is near."""

import importlib.util
import json
import threading
from pathlib import Path

import pytest
import torch

import pellucid
from cases import CASES, HEADS
from oracle import checkpoint, ours, reference
from pellucid import AutoConfig, AutoModel, auto
from pellucid.errors import (
    ArgumentError,
    ConfigError,
    InputError,
    MissingFileError,
    MissingPackageError,
    NotFoundError,
    WeightsError,
)

CLASSES = [getattr(auto, name) for name in vars(auto) if name.startswith("AutoModel")]
FILE = "model.safetensors"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("architecture", ["mobilebert", "distilbert"])
def test_each_auto_class_finds_its_head_or_names_those_there_are(cls, architecture):
    config = auto.config_class(architecture)(**CASES[architecture])
    fitting = [suffix for suffix in cls.suffixes if suffix in HEADS[architecture]]
    if fitting:
        model = cls.from_config(config)
        assert type(model).__name__ == type(config).__name__.removesuffix("Config") + fitting[0]
        assert type(model) is getattr(pellucid, type(model).__name__)
    else:
        message = rf"{architecture} has no class for {cls.__name__}; it has: .*Model, .*ForMaskedLM"
        for call in (lambda: cls.from_config(config), lambda: cls.from_pretrained(checkpoint(architecture, "Model"))):
            with pytest.raises(ConfigError, match=message):
                call()


def test_text_encoders_are_those_of_the_original():
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    encoders = {kind.replace("-", "_"): name for kind, name in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.items()}
    shared = encoders.keys() & set(auto.architectures())
    found = {kind: auto.AutoModelForTextEncoding.class_for(kind).__name__ for kind in shared}
    assert len(shared) > 20 and found == {kind: encoders[kind] for kind in shared}
    model = auto.AutoModelForTextEncoding.from_pretrained(checkpoint("t5", "ForConditionalGeneration"))
    whole = ours("t5", "ForConditionalGeneration")
    ids = torch.arange(5, 12)[None]
    assert type(model) is pellucid.T5EncoderModel and torch.equal(model(ids)[0], whole.encoder(ids)[0])
    for kind in ("bart", "gpt2"):
        with pytest.raises(ConfigError, match=f"{kind} has no encoder of its own, a .*Model writes; use AutoModel"):
            auto.AutoModelForTextEncoding.class_for(kind)


@pytest.mark.parametrize("cls", [AutoConfig, *CLASSES], ids=lambda cls: cls.__name__)
def test_auto_classes_are_not_built(cls):
    with pytest.raises(InputError, match=rf"{cls.__name__} is not built but loaded: {cls.__name__}.from_pretrained"):
        cls()


def test_for_model():
    assert AutoConfig.for_model("distilbert", n_layers=2).n_layers == 2
    assert type(AutoConfig.for_model("bert")) is pellucid.BertConfig
    with pytest.raises(ConfigError, match="no architecture is called 'bertt'; did you mean 'bert'"):
        AutoConfig.for_model("bertt")
    with pytest.raises(ArgumentError, match="no field 'n_layer5'"):
        AutoConfig.for_model("distilbert", n_layer5=2)


def test_configs_without_model_type(tmp_path):
    values = {name: v for name, v in reference("bert", "Model").config.to_dict().items() if name != "model_type"}
    (tmp_path / FILE).write_bytes((checkpoint("bert", "Model") / FILE).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(values | {"architectures": ["Nobody", "BertModel"]}))
    assert type(AutoModel.from_pretrained(tmp_path)) is pellucid.BertModel  # by its class
    (tmp_path / "config.json").write_text(json.dumps(values | {"architectures": None}))
    with pytest.raises(ConfigError, match=r"has no model_type.*say so: model_type='bert'"):
        AutoModel.from_pretrained(tmp_path)
    assert pellucid.BertModel.from_pretrained(tmp_path).num_parameters()
    assert type(AutoModel.from_pretrained(tmp_path, model_type="bert")) is pellucid.BertModel
    assert type(AutoConfig.from_pretrained(tmp_path, model_type="bert")) is pellucid.BertConfig
    with pytest.raises(ConfigError, match="no architecture is called 'bertt'; did you mean 'bert'"):
        AutoModel.from_pretrained(tmp_path, model_type="bertt")


@pytest.mark.parametrize("model_type", ["roberta", "bertt"])
def test_a_model_type_that_contradicts_the_config(model_type):
    folder = checkpoint("bert", "Model")
    config = AutoConfig.from_pretrained(folder, model_type="bert")
    message = f"says model_type 'bert'; leave model_type='{model_type}' out"
    for call in (
        lambda: AutoConfig.from_pretrained(folder, model_type=model_type),
        lambda: AutoModel.from_pretrained(folder, model_type=model_type),
        lambda: AutoModel.from_pretrained(folder, config=config, model_type=model_type),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.mark.parametrize("name", ["nowhere/at all", "./missing", ""])
def test_no_such_folder(name):
    with pytest.raises(NotFoundError, match="no folder"):
        AutoModel.from_pretrained(name)


def test_folders_that_lack_something(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(MissingFileError, match=r"config\.json.*README\.md"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((checkpoint("bert", "Model") / "config.json").read_bytes())
    with pytest.raises(MissingFileError, match=rf"has no weights; expected {FILE}.*found: README\.md, config\.json"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", ["bert", {"model_type": "bert"}, 3])
def test_a_config_that_is_none(config):
    with pytest.raises(InputError, match=r"config is a (str|dict|int); expected a configuration"):
        AutoModel.from_config(config)
    with pytest.raises(InputError, match=r"config is a (str|dict|int); expected a configuration"):
        AutoModel.from_pretrained(checkpoint("bert", "Model"), config=config)
    with pytest.raises(ConfigError, match="Config: no architecture is called ''"):
        AutoModel.from_config(pellucid.Config())


def test_a_config_given_chooses_the_class():
    config = AutoConfig.from_pretrained(checkpoint("bert", "ForMaskedLM"))
    assert type(AutoModel.from_pretrained(checkpoint("bert", "ForMaskedLM"), config=config)) is pellucid.BertModel
    other = pellucid.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, max_position_embeddings=40)
    with pytest.raises(WeightsError, match="do not fit DistilBertModel"):
        AutoModel.from_pretrained(checkpoint("bert", "Model"), config=other)


def test_a_subclass_of_a_config_keeps_its_architecture():
    class MyConfig(pellucid.BertConfig):
        pass

    config = MyConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    assert type(AutoModel.from_config(config)) is pellucid.BertModel


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "DistilBertConfig", "DistilBertForQuestionAnswering"])
def test_classes_by_name(name):
    assert getattr(pellucid, name).__name__ == name
    assert name in vars(pellucid)  # found once


@pytest.mark.parametrize("name", ["BertForMaskdLM", "AutoModelForMaskedLm", "BertModell", "Bert", "os", "X"])
def test_names_that_do_not_exist(name):
    with pytest.raises(AttributeError, match=f"pellucid has no '{name}'") as caught:
        getattr(pellucid, name)
    nearest = {
        "BertForMaskdLM": "BertForMaskedLM",
        "AutoModelForMaskedLm": "AutoModelForMaskedLM",
        "BertModell": "BertModel",
    }
    if name in nearest:
        assert f"did you mean '{nearest[name]}'" in str(caught.value)


def test_a_load_beside_saves_of_two_architectures_meets_one_of_them(tmp_path):
    """The config that chooses the class and the weights that fill it are of one save."""
    folder, models = (
        tmp_path / "model",
        [AutoModel.from_pretrained(checkpoint(a, "Model")) for a in ("bert", "distilbert")],
    )
    models[0].save_pretrained(folder)
    stop, failures = threading.Event(), []

    def write():
        while not stop.is_set():
            for model in models:
                model.save_pretrained(folder)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            try:
                loaded = AutoModel.from_pretrained(folder)
                twin = next(model for model in models if type(model) is type(loaded))
                if not all(torch.equal(t, twin.state_dict()[n]) for n, t in loaded.state_dict().items()):
                    failures.append("a mixture")
            except Exception as error:
                failures.append(error)
    finally:
        stop.set()
        writer.join()
    assert not failures


def test_every_architecture_is_a_file_or_shares_one():
    files = {path.stem for path in (Path(auto.__file__).parent / "models").glob("*.py")} - {"__init__"}
    assert files | set(auto.KIN) == set(auto.architectures())


@pytest.mark.parametrize(("name", "extra"), [("FlaxBertModel", "flax"), ("TFBertModel", "tensorflow")])
def test_a_framework_that_is_not_installed_says_how_to_install_it(name, extra, monkeypatch):
    absent, find = ("flax", "jax", "tensorflow", "keras"), importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    with pytest.raises(MissingPackageError, match=rf"pip install 'pellucid\[{extra}\]'"):
        getattr(pellucid, name)
    auto_class = getattr(pellucid, f"{name.removesuffix('BertModel')}AutoModel")
    with pytest.raises(MissingPackageError, match=rf"pip install 'pellucid\[{extra}\]'"):
        auto_class.from_config(pellucid.BertConfig())


@pytest.mark.parametrize("mark", ["Flax", "TF"])
def test_a_framework_without_that_model_says_which_it_has(mark):
    with pytest.raises(AttributeError, match=rf"There is no {mark}PhiModel.*bert.*gpt2.*llama.*t5.*with PhiModel"):
        getattr(pellucid, f"{mark}PhiModel")
