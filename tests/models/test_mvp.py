"""MVP's published configurations and its prompts."""

import pytest
import torch

from cases import CASES
from oracle import checkpoint, ours, reference
from pellucid import Layout
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.models.mvp import MvpConfig, MvpForCausalLM, MvpForConditionalGeneration

LARGE = {  # mvp's
    "_name_or_path": "mvp", "activation_dropout": 0.0, "activation_function": "gelu", "add_bias_logits": False,
    "add_final_layer_norm": False, "architectures": ["MvpForConditionalGeneration"], "attention_dropout": 0.1,
    "bos_token_id": 0, "classif_dropout": 0.1, "classifier_dropout": 0.0, "d_model": 1024,
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0, "decoder_layers": 12,
    "decoder_start_token_id": 0, "dropout": 0.1, "early_stopping": True, "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0, "encoder_layers": 12, "eos_token_id": 2,
    "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "length_penalty": 1.0, "max_length": 1024,
    "max_position_embeddings": 1024, "model_type": "mvp", "normalize_before": False, "normalize_embedding": True,
    "num_beams": 5, "num_hidden_layers": 12, "pad_token_id": 1, "prompt_length": 100, "prompt_mid_dim": 800,
    "scale_embedding": False, "torch_dtype": "float32", "transformers_version": "4.20.0.dev0", "use_cache": True,
    "use_prompt": False, "vocab_size": 50267,
}  # fmt: skip


@pytest.mark.parametrize("use_prompt", [False, True])
def test_a_published_config(use_prompt):
    values = LARGE | {"use_prompt": use_prompt}
    config = MvpConfig.from_dict(values)
    assert config.to_dict() == values and (config.max_tokens, config.use_prompt) == (1024, use_prompt)


@pytest.mark.parametrize(
    ("name", "value"), [("activation_function", "glu"), ("prompt_length", 0), ("decoder_attention_heads", 7)]
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        MvpConfig.from_dict(LARGE | {name: value})


def test_weights_on_prompts_are_recorded():
    model, original = ours("mvp:prompts", "Model"), reference("mvp:prompts", "Model")
    original.set_attn_implementation("eager")
    ids, count = torch.randint(5, 99, (2, 9)), CASES["mvp:prompts"]["prompt_length"]
    mine, theirs = (half(ids, decoder_input_ids=ids[:, :4], output_attentions=True) for half in (model, original))
    for name, shape in (("encoder", (9, 9)), ("decoder", (4, 4)), ("cross", (4, 9))):
        name += "_attentions"
        for a, b in zip(mine[name], theirs[name], strict=True):
            assert a.shape[2:] == (shape[0], count + shape[1]) and torch.allclose(a, b, atol=1e-5), name


def test_prompts_are_neither_lost_nor_invented():
    folder = checkpoint("mvp:prompts", "ForConditionalGeneration")
    with pytest.raises(WeightsError, match=r"not in the model: model\.decoder\.cross_attn_prompt"):
        MvpForConditionalGeneration.from_pretrained(folder, use_prompt=False)
    with pytest.raises(WeightsError, match=r"missing in the checkpoint: model\.encoder\.self_attn_prompt"):
        MvpForConditionalGeneration.from_pretrained(checkpoint("mvp", "ForConditionalGeneration"), use_prompt=True)


def test_the_decoder_alone_has_no_prompts():
    model = MvpForCausalLM.from_pretrained(checkpoint("mvp:prompts", "ForConditionalGeneration"))
    assert not [name for name in model.state_dict() if "prompt" in name]


@pytest.mark.parametrize("case", ["mvp", "mvp:prompts"])
def test_each_packed_target_has_its_source(case):
    ids = torch.full((1, 8), 7)
    with pytest.raises(InputError, match="have 4 and 2 texts; expected as many"):
        ours(case, "Model")(
            ids, Layout.packed([4, 4]), decoder_input_ids=ids, decoder_attention_mask=Layout.packed([2] * 4)
        )
