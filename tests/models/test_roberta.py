"""RoBERTa's positions, and the architectures that are RoBERTa under another name."""

import pytest
import torch

from cases import ROBERTA
from oracle import ours, perturbed, reference_class
from pellucid import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from pellucid.errors import ConfigError, InputError
from pellucid.models.roberta import RobertaConfig

BASE = {  # roberta-base's
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "roberta",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
}  # fmt: skip
LATER = {  # what later files add
    "classifier_dropout": None, "gradient_checkpointing": False, "output_past": True, "use_cache": True,
    "position_embedding_type": "absolute", "torch_dtype": "float32", "language": "english", "name": "Roberta",
    "_num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "single_label_classification", "add_cross_attention": False, "is_decoder": False,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm"])
def test_published_configs(kind):
    for values in (BASE, BASE | LATER):
        config = AutoConfig.for_model(kind).from_dict(values | {"model_type": kind})
        assert config.max_tokens == 512 and config.to_dict() == values | {"model_type": kind}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["xlm_roberta", "camembert"])
def test_kin_are_decoders_too(kind, tmp_path):
    cls = reference_class(kind, "ForCausalLM")
    original = perturbed(cls(cls.config_class(**ROBERTA, is_decoder=True))).eval()
    original.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(5, 25)[None]
    assert type(model).__name__ == cls.__name__
    mine, theirs = model(ids, labels=ids), original(ids, labels=ids)
    assert torch.allclose(mine.logits, theirs.logits, atol=1e-5) and torch.allclose(mine.loss, theirs.loss, atol=1e-6)


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_kin_are_found_and_saved_under_their_own_name(kind, tmp_path):
    architecture = kind.replace("-", "_")
    ours(architecture, "ForMaskedLM").save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert model.config.model_type == kind and [type(model).__name__] == model.config.architectures
    with pytest.raises(ConfigError, match=f"model_type is '{kind}'"):
        RobertaConfig.from_pretrained(tmp_path)


def test_positions_are_rows_of_the_table():
    model, ids = ours("roberta", "Model"), torch.arange(5, 25)[None]
    assert torch.equal(model(ids)[0], model(ids, position_ids=torch.arange(2, 22)[None])[0])
    with pytest.raises(InputError, match="position_ids holds 42; expected 0 to 41"):
        model(ids, position_ids=torch.full_like(ids, 42))


@pytest.mark.parametrize(
    ("name", "value"),
    [("pad_token_id", None), ("max_position_embeddings", 2), ("add_cross_attention", True)],
)
def test_what_is_impossible_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        RobertaConfig(**{name: value})
