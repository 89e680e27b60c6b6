"""ELECTRA's two models, with and without a projection of the embeddings."""

import pytest
import torch

from cases import CASES
from oracle import checkpoint, ours
from pellucid import AutoConfig, AutoModelForPreTraining, AutoModelForSequenceClassification, Layout
from pellucid.errors import ConfigError
from pellucid.models.electra import ElectraConfig, ElectraModel

SMALL = {  # electra-small-discriminator's, with what later files add
    "architectures": ["ElectraForPreTraining"], "attention_probs_dropout_prob": 0.1, "classifier_dropout": None,
    "embedding_size": 128, "generator_size": "0.25", "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 1024, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "electra", "num_attention_heads": 4, "num_hidden_layers": 12,
    "pad_token_id": 0, "position_embedding_type": "absolute", "summary_activation": "gelu",
    "summary_last_dropout": 0.1, "summary_type": "first", "summary_use_proj": True, "type_vocab_size": 2,
    "vocab_size": 30522,
}  # fmt: skip


def test_a_published_config():
    assert ElectraConfig.from_dict(SMALL).to_dict() == SMALL


@pytest.mark.parametrize("name", ["summary_type", "summary_activation"])
def test_what_is_not_implemented_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("electra", **{name: "last"})


def test_no_projection_between_equal_sizes():
    model = ElectraModel(ElectraConfig.from_dict(CASES["electra"] | {"embedding_size": 32}))
    assert not [name for name in model.state_dict() if "project" in name]
    assert model(torch.ones(1, 3, dtype=torch.long)).last_hidden_state.shape == (1, 3, 32)


def test_the_discriminator_does_not_learn_from_padding():
    model = AutoModelForPreTraining.from_pretrained(checkpoint("electra", "ForPreTraining"))
    rows = [torch.arange(5, 12), torch.arange(20, 24)]
    replaced = [row % 2 for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(replaced, batch_first=True, padding_value=1)
    padded = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss
    packed = model(torch.cat(rows)[None], Layout.packed([7, 4]), labels=torch.cat(replaced)[None]).loss
    assert torch.allclose(padded, packed, atol=1e-6)


def test_a_classifier_on_the_discriminator():
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint("electra", "ForPreTraining"), num_labels=4)
    assert model.load_report and model.load_report.ignored == tuple(
        f"discriminator_predictions.{name}"
        for name in ("dense.bias", "dense.weight", "dense_prediction.bias", "dense_prediction.weight")
    )
    for name, tensor in ours("electra", "ForPreTraining").electra.state_dict().items():
        assert torch.equal(model.get_parameter(f"electra.{name}"), tensor)
