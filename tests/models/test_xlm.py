"""XLM's languages and words as token types, and FlauBERT's norms before the sub-layers."""

import pytest
import torch
import transformers

from cases import CASES
from oracle import ours, reference
from pellucid import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForQuestionAnswering
from pellucid.errors import ConfigError, InputError
from pellucid.models.xlm import FlaubertConfig, FlaubertModel, XLMConfig, XLMModel

ENGLISH = {  # xlm-mlm-en-2048's
    "architectures": ["XLMWithLMHeadModel"], "asm": False, "attention_dropout": 0.1, "bos_index": 0, "causal": False,
    "dropout": 0.1, "emb_dim": 2048, "embed_init_std": 0.02209708691207961, "end_n_top": 5, "eos_index": 1,
    "gelu_activation": True, "id2lang": {"0": "en"}, "init_std": 0.02, "is_encoder": True, "lang2id": {"en": 0},
    "layer_norm_eps": 1e-12, "mask_index": 5, "max_position_embeddings": 512, "model_type": "xlm", "n_heads": 16,
    "n_langs": 1, "n_layers": 12, "pad_index": 2, "pad_token_id": 2, "sinusoidal_embeddings": False, "start_n_top": 5,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "first",
    "summary_use_proj": True, "unk_index": 3, "vocab_size": 30145,
}  # fmt: skip
FRENCH = {  # flaubert_large_cased's
    **ENGLISH, "architectures": ["FlaubertWithLMHeadModel"], "emb_dim": 1024, "id2lang": {"0": "fr"},
    "lang2id": {"fr": 0}, "layer_norm_eps": 1e-06, "layerdrop": 0.2, "model_type": "flaubert", "n_layers": 24,
    "pre_norm": True, "vocab_size": 68729,
}  # fmt: skip


def ids():
    return torch.randint(5, 99, (2, 7), generator=torch.Generator().manual_seed(0))


def test_published_configs():
    assert XLMConfig.from_dict(ENGLISH).to_dict() == ENGLISH
    config = FlaubertConfig.from_dict(FRENCH)
    assert config.to_dict() == FRENCH
    assert config.pre_norm and config.hidden_size == 1024


@pytest.mark.parametrize(
    ("name", "value"), [("causal", True), ("asm", True), ("pre_norm", True), ("summary_type", "attn"), ("n_langs", 0)]
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("xlm", **{name: value})


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_the_heads_have_names_of_their_own(kind):
    config = AutoConfig.for_model(kind, **CASES[kind])
    assert type(AutoModelForMaskedLM.from_config(config)).__name__.endswith("WithLMHeadModel")
    assert type(AutoModelForPreTraining.from_config(config)).__name__.endswith("WithLMHeadModel")
    assert type(AutoModelForQuestionAnswering.from_config(config)).__name__.endswith("ForQuestionAnsweringSimple")


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_languages_and_added_words(kind):
    inputs = {"input_ids": ids(), "langs": ids() % 3, "token_type_ids": ids().flip(1)}
    theirs, mine = reference(kind, "Model")(**inputs), ours(kind, "Model")(**inputs)
    assert torch.allclose(mine[0], theirs[0], atol=1e-5)
    assert not torch.allclose(mine[0], ours(kind, "Model")(ids())[0], atol=1e-2)


def test_an_unknown_language_is_explained():
    with pytest.raises(InputError, match="langs holds 3; expected 0 to 2"):
        ours("xlm", "Model")(ids(), langs=torch.full((2, 7), 3))


def test_norms_before_the_sub_layers(monkeypatch):
    """The original fails here, asking its cache for a layer; told that there is none, it gives the numbers."""
    monkeypatch.setattr(transformers.EncoderDecoderCache, "__getitem__", lambda cache, layer: None, raising=False)
    settings = CASES["flaubert"] | {"pre_norm": True}
    original = transformers.FlaubertModel(transformers.FlaubertConfig(**settings)).eval()
    model = FlaubertModel(FlaubertConfig(**settings)).eval()
    torch.manual_seed(0)
    for parameter in original.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.load_state_dict(original.state_dict())
    theirs, mine = original(ids(), output_hidden_states=True), model(ids(), output_hidden_states=True)
    for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_layers_are_dropped_in_training_only():
    config = FlaubertConfig(**CASES["flaubert"] | {"layerdrop": 0.999999, "dropout": 0.0, "attention_dropout": 0.0})
    model = FlaubertModel(config)
    embedded = model.eval()(ids(), output_hidden_states=True).hidden_states[0]
    assert torch.equal(model.train()(ids())[0], embedded)
    assert not torch.equal(model.eval()(ids())[0], embedded)


def test_new_embeddings():
    model = XLMModel(XLMConfig(**CASES["xlm"] | {"sinusoidal_embeddings": True, "embed_init_std": 3.0}))
    assert model.position_embeddings.weight[1, :2].tolist() == pytest.approx([0.8415, 0.5403], abs=1e-4)
    assert model.embeddings.weight.std().item() == pytest.approx(3, abs=0.3)
    assert model.get_parameter("ffns.0.lin1.weight").std().item() == pytest.approx(0.02, abs=0.003)
    assert not model.get_parameter("embeddings.weight")[2].any()
