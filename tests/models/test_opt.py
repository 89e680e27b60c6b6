"""OPT's odd one out, of 350 million parameters."""

import torch
from safetensors.torch import load_file, save_file

from cases import CASES
from oracle import checkpoint, ours
from pellucid.models.opt import OPTConfig, OPTForCausalLM, OPTModel

MIDDLE = {  # opt-350m's
    "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": False, "dropout": 0.1, "eos_token_id": 2,
    "ffn_dim": 4096, "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
    "model_type": "opt", "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 1, "prefix": "</s>",
    "torch_dtype": "float16", "use_cache": True, "vocab_size": 50272, "word_embed_proj_dim": 512,
}  # fmt: skip


def test_published_configs():
    assert OPTConfig.from_dict(MIDDLE).to_dict() == MIDDLE
    assert OPTConfig.from_dict(MIDDLE).word_size == 512
    large = {**MIDDLE, "do_layer_norm_before": True, "_remove_final_layer_norm": False, "word_embed_proj_dim": 1024}
    assert OPTConfig.from_dict(large).to_dict() == large


def test_files_that_begin_with_the_decoder(tmp_path):
    """As those of facebook/opt-350m do, without `model.` before it."""
    source = checkpoint("opt:after", "ForCausalLM")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = load_file(source / "model.safetensors")
    save_file({n.removeprefix("model."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    ids = torch.arange(5, 12)[None]
    loaded = OPTForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, ours("opt:after", "ForCausalLM")(ids).logits)


def test_layers_left_out_in_training():
    model = OPTModel(OPTConfig(**{**CASES["opt"], "num_hidden_layers": 24, "layerdrop": 0.999}))
    ids = torch.arange(5, 12)[None]
    torch.manual_seed(0)
    assert len(model(ids, output_attentions=True).get("attentions", ())) < 5
    assert len(model.eval()(ids, output_attentions=True).attentions) == 24
