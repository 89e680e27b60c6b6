"""What is the same for every other framework, tested without one: parameters go over, and come back, bit for bit."""

import importlib.util

import numpy as np
import pytest
import torch

import pellucid
from cases import CASES
from pellucid import auto, foreign
from pellucid.errors import ConfigError, InputError, MissingPackageError, WeightsError
from pellucid.generation_config import GenerationConfig
from pellucid.pipelines import pipeline


def model_of(kind, case):
    torch.manual_seed(0)
    return kind.from_config(kind.config_class(**CASES[case]))


def slots_of(arrays: dict[str, np.ndarray]) -> dict[str, foreign.Slot]:
    """Return the places of a model that is a dictionary."""

    def slot(name: str) -> foreign.Slot:
        return foreign.Slot(arrays[name].shape, lambda: arrays[name], lambda value: arrays.update({name: value.copy()}))

    return {name: slot(name) for name in arrays}


def shapes_of(model, *, ties: bool) -> dict[str, np.ndarray]:
    named = model.named_parameters(remove_duplicate=False)
    return {n: np.zeros(tuple(p.shape), np.float32) for n, p in named if ties or n not in model.ties}


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (pellucid.BertForMaskedLM, "bert"),
        (pellucid.GPT2LMHeadModel, "gpt2"),
        (pellucid.T5ForConditionalGeneration, "t5"),
    ],
)
def test_parameters_go_over_and_come_back(kind, case, ties, tmp_path):
    model = model_of(kind, case)
    model.save_pretrained(tmp_path / "in")
    arrays, count = shapes_of(model, ties=ties), model.num_parameters()
    foreign.fill(slots_of(arrays), model)
    assert sum(p.numel() for p in model.parameters()) == 0, "each is let go once it is copied"
    assert sum(array.size for name, array in arrays.items() if name not in model.ties) == count
    foreign.save(tmp_path / "out", kind, model.config, slots_of(arrays), GenerationConfig.unsaid())
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "in" / file).read_bytes()


def test_a_part_that_is_absent_stays_so(tmp_path):
    model = model_of(pellucid.BertModel, "bert")
    model.pooler = None
    assert foreign.absent_parts(model) == ["pooler"]
    arrays = shapes_of(model, ties=True)
    foreign.fill(slots_of(arrays), model)
    foreign.save(tmp_path, pellucid.BertModel, model.config, slots_of(arrays), GenerationConfig.unsaid())
    assert pellucid.BertModel.from_pretrained(tmp_path).pooler is None


@pytest.mark.parametrize("change", ["missing", "foreign", "reshaped"])
def test_a_class_that_differs_from_its_twin_is_refused(change):
    model = model_of(pellucid.BertModel, "bert")
    arrays = shapes_of(model, ties=True)
    name = "embeddings.LayerNorm.bias"
    if change == "missing":
        del arrays[name]
    elif change == "foreign":
        name = "surplus"
        arrays[name] = np.zeros(3, np.float32)
    else:
        arrays[name] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError, match=name):
        foreign.fill(slots_of(arrays), model)


def test_seeds_leave_the_random_numbers_of_torch_alone():
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with foreign.drawing(seed):
            drawn.append(torch.rand(3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_framework_that_is_not_installed_says_how_to_install_it(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    missing = {"jax", "flax", "tensorflow", "keras"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    for name, extra in (("FlaxBertModel", "flax"), ("TFBertModel", "tensorflow")):
        with pytest.raises(MissingPackageError, match=rf"not installed.*pip install 'pellucid\[{extra}\]'"):
            getattr(pellucid, name)
    model_of(pellucid.BertModel, "bert").save_pretrained(tmp_path)
    with pytest.raises(MissingPackageError, match="flax and jax"):
        pellucid.FlaxAutoModel.from_pretrained(tmp_path)
    with pytest.raises(ImportError, match="flax and jax"):
        from pellucid import FlaxBertModel  # noqa: F401


def test_an_architecture_without_the_framework_says_which_have_it():
    assert {"bert", "distilbert", "roberta", "xlm_roberta", "gpt2", "llama", "mistral", "qwen2", "qwen3", "t5"} <= {
        *auto.architectures_in("flax")
    }
    config = pellucid.AutoConfig.for_model("phi", **CASES["phi"])
    with pytest.raises(ConfigError, match=r"no FlaxPhiForCausalLM: 'flax' has classes of bert, .*PhiForCausalLM"):
        pellucid.FlaxAutoModelForCausalLM.from_config(config)
    assert not hasattr(pellucid, "FlaxPhiModel")
    assert not hasattr(pellucid, "FlaxNothing")


def test_automatic_classes_bear_the_name_of_the_framework():
    assert pellucid.FlaxAutoModelForMaskedLM.__name__ == "FlaxAutoModelForMaskedLM"
    assert issubclass(pellucid.FlaxAutoModelForMaskedLM, pellucid.AutoModelForMaskedLM)
    assert pellucid.AutoModelForMaskedLM.framework == "pt"


def test_a_class_of_no_architecture_has_no_twin():
    with pytest.raises(InputError, match="dict is no class of an architecture"):
        foreign.twin_of(dict)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"framework": "jax"}, "framework is 'jax'; expected 'pt', 'flax' or 'tf'"),
        ({"framework": "flax", "device": "cpu"}, "device='cpu' is for PyTorch"),
        ({"framework": "flax", "quantize": "int8"}, "quantize='int8' is for PyTorch"),
    ],
)
def test_pipelines_refuse_what_a_framework_can_not_be_told(told, match):
    with pytest.raises(InputError, match=match):
        pipeline("text-classification", "pellucid/sentiment", **told)
