"""Funnel's pooling of texts of many lengths, its encoder alone, and published configurations."""

import pytest
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from cases import CASES
from oracle import checkpoint, ours, reference
from pellucid import AutoModelForSequenceClassification, Layout
from pellucid.errors import ConfigError
from pellucid.models.funnel import FunnelBaseModel, FunnelConfig, FunnelForSequenceClassification, FunnelModel

BASE = {  # funnel-transformer/small's
    "activation_dropout": 0.0, "architectures": ["FunnelForPreTraining"], "attention_dropout": 0.1,
    "attention_type": "relative_shift", "block_repeats": [1, 1, 1], "block_sizes": [4, 4, 4], "d_head": 64,
    "d_inner": 3072, "d_model": 768, "hidden_act": "gelu_new", "hidden_dropout": 0.1, "initializer_range": 0.1,
    "initializer_std": None, "layer_norm_eps": 1e-09, "max_position_embeddings": 512, "model_type": "funnel",
    "n_head": 12, "num_decoder_layers": 2, "pool_q_only": True, "pooling_type": "mean", "separate_cls": True,
    "truncate_seq": True, "type_vocab_size": 3, "vocab_size": 30522,
}  # fmt: skip
VARIANTS = ["funnel", "funnel:factorized", "funnel:together"]


def test_a_published_config():
    config = FunnelConfig.from_dict(BASE)
    assert (config.max_tokens, config.hidden_size) == (512, 768) and config.to_dict() == BASE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_sizes", []),
        ("block_sizes", [4, 0, 4]),
        ("block_sizes", [9999, 9999, 9999]),
        ("block_repeats", [1, 1]),
        ("pooling_type", "min"),
        ("attention_type", "absolute"),
        ("hidden_act", "glu"),
        ("d_model", 767),
        ("d_model", "767"),
    ],
)
def test_what_is_impossible_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        FunnelConfig.from_dict(BASE | {name: value})


@pytest.mark.parametrize("architecture", VARIANTS)
def test_texts_of_all_lengths_in_one_batch(architecture):
    """With token types as the tokenizer gives them, 2 for [CLS]."""
    model, original = ours(architecture, "Model"), reference(architecture, "Model")
    lengths = [1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 30]
    rows = [torch.randint(5, 99, (length,)) for length in lengths]
    types = [torch.tensor([2, *(i % 2 for i in range(length - 1))]) for length in lengths]
    packed = model(torch.cat(rows)[None], Layout.packed(lengths), torch.cat(types)[None]).last_hidden_state[0]
    mask = [torch.ones_like(row) for row in rows]
    ids, mask, kinds = (pad_sequence(x, batch_first=True, padding_side="left") for x in (rows, mask, types))
    left = model(ids, mask, kinds).last_hidden_state
    for i, (row, part) in enumerate(zip(rows, packed.split(lengths), strict=True)):
        assert torch.allclose(left[i, -len(row) :], part, atol=1e-5)
        assert torch.allclose(model(row[None], token_type_ids=types[i][None]).last_hidden_state[0], part, atol=1e-5)
        if len(row) > 4:  # the original can not read shorter ones with all settings
            alone = original(row[None], token_type_ids=types[i][None]).last_hidden_state[0]
            assert torch.allclose(part, alone, atol=1e-5)


def test_two_ways_to_the_same_numbers():
    settings = CASES["funnel"] | {"attention_type": "factorized"}
    original = transformers.FunnelModel.from_pretrained(
        checkpoint("funnel", "Model"), config=transformers.FunnelConfig(**settings)
    ).eval()
    ids = torch.randint(5, 99, (2, 30))
    assert torch.allclose(ours("funnel", "Model")(ids)[0], original(ids)[0], atol=1e-5)


@pytest.mark.parametrize("architecture", VARIANTS)
def test_the_encoder_alone(architecture):
    folder = checkpoint(architecture, "Model")
    model, original = FunnelBaseModel.from_pretrained(folder), transformers.FunnelBaseModel.from_pretrained(folder)
    assert all(name.startswith("decoder.") for name in model.load_report.ignored)
    ids = torch.randint(5, 99, (2, 13))
    mine, theirs = model(ids, output_hidden_states=True), original.eval()(ids, output_hidden_states=True)
    assert mine.last_hidden_state.shape == theirs.last_hidden_state.shape
    for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    lengths = [13, 6]
    rows = [ids[0], ids[1, :6]]
    packed = model(torch.cat(rows)[None], Layout.packed(lengths)).last_hidden_state
    for row, pooled in zip(rows, packed, strict=True):
        alone = model(row[None]).last_hidden_state[0]
        assert torch.allclose(pooled[: len(alone)], alone, atol=1e-5)


def test_a_head_of_texts_leaves_the_decoder_and_a_head_of_tokens_needs_it(tmp_path):
    folder = checkpoint("funnel", "ForMaskedLM")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5)
    assert type(model) is FunnelForSequenceClassification and model.load_report.new
    assert any("decoder" in name for name in model.load_report.ignored)
    model.save_pretrained(tmp_path)
    with pytest.raises(Exception, match=r"missing in the checkpoint: decoder"):
        FunnelModel.from_pretrained(tmp_path)


def test_long_texts_in_half_precision():
    ids = torch.randint(5, 99, (1, 400))
    exact = ours("funnel", "Model")(ids)[0]
    half = ours("funnel", "Model", dtype=torch.bfloat16)(ids)[0]
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), exact.flatten(), dim=0) > 0.99
