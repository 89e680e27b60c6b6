"""ModernBERT's two spellings of config.json, and texts longer than a window."""

import pytest
import torch
import transformers

from cases import CASES
from oracle import checkpoint, ours
from pellucid import AutoConfig, Layout
from pellucid.errors import ConfigError
from pellucid.models.modernbert import ModernBertConfig

OLD = {  # ModernBERT-base's
    "architectures": ["ModernBertForMaskedLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 50281, "classifier_activation": "gelu", "classifier_bias": False, "classifier_dropout": 0.0,
    "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": True, "deterministic_flash_attn": False,
    "embedding_dropout": 0.0, "eos_token_id": 50282, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
    "gradient_checkpointing": False, "hidden_activation": "gelu", "hidden_size": 768, "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02, "intermediate_size": 1152, "layer_norm_eps": 1e-05, "local_attention": 128,
    "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False, "mlp_dropout": 0.0,
    "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 12,
    "num_hidden_layers": 22, "pad_token_id": 50283, "position_embedding_type": "absolute", "reference_compile": None,
    "repad_logits_with_grad": False, "sep_token_id": 50282, "sparse_pred_ignore_index": -100,
    "sparse_prediction": False, "tie_word_embeddings": True, "torch_dtype": "float32", "vocab_size": 50368,
}  # fmt: skip
KINDS = ["full_attention" if layer % 3 == 0 else "sliding_attention" for layer in range(22)]
ROPE = {
    "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}
NEW = {n: v for n, v in OLD.items() if not n.endswith("rope_theta")} | {"layer_types": KINDS, "rope_parameters": ROPE}


@pytest.mark.parametrize("values", [OLD, NEW])
def test_both_spellings(values):
    config = ModernBertConfig.from_dict(values)
    assert [config.is_global(layer) for layer in range(22)] == [kind == "full_attention" for kind in KINDS]
    assert (config.theta(is_global=True), config.theta(is_global=False)) == (160000.0, 10000.0)
    assert config.to_dict() == values


def test_one_base_for_both_kinds():
    config = ModernBertConfig.from_dict(OLD | {"local_rope_theta": None})
    assert config.theta(is_global=False) == 160000.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_types", KINDS[:-1]),
        ("layer_types", ["linear_attention"] * 22),
        ("rope_parameters", {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1.0}),
        ("classifier_pooling", "max"),
        ("sparse_prediction", True),
        ("local_attention", 0),
        ("hidden_activation", "glu"),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("modernbert", **{name: value})


def test_windows_of_long_texts():
    """At the released sizes of window and bases, for texts of several windows, padded and packed."""
    settings = {"local_attention": 128, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    config = transformers.ModernBertConfig(**CASES["modernbert"] | settings)
    original = transformers.ModernBertModel.from_pretrained(checkpoint("modernbert", "Model"), config=config).eval()
    own = ours("modernbert", "Model", **settings, layer_types=None, rope_parameters=None, global_attn_every_n_layers=2)
    rows = [torch.randint(5, 99, (length,)) for length in (300, 7, 200)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    padded = own(input_ids=ids, attention_mask=mask).last_hidden_state
    packed = own(input_ids=torch.cat(rows)[None], attention_mask=Layout.packed([300, 7, 200])).last_hidden_state[0]
    for i, part in enumerate(packed.split([300, 7, 200])):
        alone = original(input_ids=rows[i][None]).last_hidden_state[0]
        assert torch.allclose(padded[i, : len(part)], alone, atol=1e-5)
        assert torch.allclose(part, alone, atol=1e-5)
