"""Real config.json files of popular decoders: they load, are written back as they were, and mean what they say.

tests/data/decoder_configs.json holds them by the name of their repository: the keys of each, and the values on which
anything depends. Only the rotary factors of Phi-3.5-MoE are invented; there are 64 of each kind in its file, too.
"""

import copy
import json
from pathlib import Path

import pytest
import torch

from oracle import perturbed
from pellucid import AutoConfig, AutoModel, AutoModelForCausalLM, auto
from pellucid.cache import Cache
from pellucid.errors import ConfigError, InputError

CONFIGS = json.loads((Path(__file__).parent / "data/decoder_configs.json").read_text(encoding="utf-8"))

# What asks for something that is not implemented: the key, without which the rest is, and what the message says.
REFUSED = {
    "bigcode/santacoder": ("attention_head_type", "is 'multiquery'; only 'multihead' is implemented"),
    "deepseek-ai/DeepSeek-V3": ("quantization_config", "weights quantized by 'fp8' can not be read"),
    "TheBloke/Llama-2-7B-GPTQ": ("quantization_config", "weights quantized by 'gptq' can not be read"),
    "TheBloke/Mistral-7B-v0.1-AWQ": ("quantization_config", "weights quantized by 'awq' can not be read"),
}
LOADABLE = {
    name: {key: value for key, value in values.items() if name not in REFUSED or key != REFUSED[name][0]}
    for name, values in CONFIGS.items()
}

HEADS = ("num_attention_heads", "n_head", "n_heads", "attention_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "lru_width")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
LENGTH = 12  # tokens of a text: more than a window, and than a text of training before positions were stretched
SHORTER = {"microsoft/Phi-3.5-MoE-instruct": 9}  # of longer texts the original takes the factors of short ones
SMALL = {  # sizes that are free of each other
    "vocab_size": 99, "intermediate_size": 40, "n_inner": 40, "ffn_dim": 40, "ffn_hidden_size": 40,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 28, "block_ff_dim": 60, "block_multiple_of": 8,
    "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
    "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "first_k_dense_replace": 1,
    "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "rotary_dim": 8, "kv_channels": 16, "state_size": 6, "time_step_rank": 4, "chunk_size": 4, "local_attention": 6,
    "mamba_d_head": 16, "mamba_n_heads": 8, "mamba_d_state": 6, "mamba_chunk_size": 4, "attn_layer_indices": [1],
    "window_size": 5, "attention_window_size": 5, "attention_types": [[["global", "local"], 2]],
}  # fmt: skip


def shrunken(values):
    """Make all sizes small and keep what they say about each other: who has several heads a key, who has windows."""
    small = copy.deepcopy(values)
    layers = 6 if 6 in (values.get("sliding_window_pattern"), values.get("_sliding_window_pattern")) else 4
    heads = next((values[name] for name in HEADS if name in values), 0)
    hidden = next(values[name] for name in HIDDEN if name in values)
    longest = next((values[name] for name in POSITIONS if name in values), 0)
    for name, value in values.items():
        if value is None:
            continue
        if name == "eos_token_id" and isinstance(value, list):
            small[name] = [2, 4, 5][: len(value)]
        elif name in SMALL:
            small[name] = SMALL[name]
        elif name in HEADS:
            small[name] = 4
        elif name in KEY_HEADS:
            small[name] = {1: 1, heads: 4}.get(value, 2)
        elif name in (*HIDDEN, "word_embed_proj_dim"):
            small[name] = 64 if value == hidden else 32
        elif name == "head_dim":
            small[name] = 16 if not heads or value * heads == hidden else 32
        elif name in LAYERS:
            small[name] = layers
        elif name in ("layer_types", "no_rope_layers", "attention_layers"):
            small[name] = value[:layers]
        elif name == "full_attn_idxs":
            small[name] = [i for i in value if i < layers]
        elif name in POSITIONS:
            small[name] = 40
        elif name == "original_max_position_embeddings":
            small[name] = 10 if value < longest else 40
        elif name == "sliding_window":
            small[name] = 5 if value < longest or "use_sliding_window" in values else 50
        elif name in ("num_experts_per_tok", "experts_per_token"):
            small[name] = min(value, 3)
        elif name in ("n_group", "topk_group"):
            small[name] = -(-value // 2)  # groups of two experts, where there are groups
        elif name == "n_groups":
            small[name] = 2
    if "mamba" in values["model_type"]:
        small |= {name: 128 for name in ("intermediate_size", "d_inner") if name in small}
    if values["model_type"] == "mamba2":
        small["num_heads"] = 128 // small["head_dim"]
    if values["model_type"] == "xglm":
        small["pad_token_id"] = 1  # the original has no position where it has another padding
    stretched = small.get("rope_scaling") or {}
    for name, value in stretched.items():
        if name == "original_max_position_embeddings":
            stretched[name] = 10
        elif name in ("short_factor", "long_factor"):
            count = int(16 * values.get("partial_rotary_factor", 1.0)) // 2
            stretched[name] = value[:: len(value) // count]
    return small


def write(folder, values):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", LOADABLE)
def test_loads_and_is_written_back_as_it_was(name, tmp_path):
    config = AutoConfig.from_pretrained(write(tmp_path / "read", LOADABLE[name]))
    config.save_pretrained(tmp_path / "written")
    written = json.loads((tmp_path / "written/config.json").read_text(encoding="utf-8"))
    assert list(written.items()) == list(LOADABLE[name].items())  # the order too
    assert AutoConfig.from_pretrained(tmp_path / "written") == config


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(name, tmp_path):
    key, message = REFUSED[name]
    write(tmp_path, CONFIGS[name])
    for load in (AutoConfig.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ConfigError, match=rf"config\.json: {key} .*{message}"):
            load(tmp_path)


@pytest.mark.parametrize("name", LOADABLE)
def test_means_what_the_original_reads(name, tmp_path):
    """The original's model of the same keys, with smaller sizes, gives the same numbers."""
    import transformers

    values = shrunken({key: value for key, value in LOADABLE[name].items() if key != "quantization_config"})
    headless = values["architectures"][0] in ("Gemma3TextModel", "MistralModel")
    auto_class = AutoModel if headless else AutoModelForCausalLM
    if attention := values.get("attn_config"):  # the original takes 8 whatever the file says, and refuses an int
        attention |= {"alibi_bias_max": 8, "clip_qkv": attention["clip_qkv"] and float(attention["clip_qkv"])}
    config = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(copy.deepcopy(values))
    torch.manual_seed(0)
    model_class = auto_class.class_for(auto.architecture_of(values, name)).__name__
    original = perturbed(getattr(transformers, model_class)(config)).float().eval()
    original.save_pretrained(tmp_path)
    model = auto_class.from_pretrained(write(tmp_path, values), dtype="float32")
    ids = torch.randint(6, 99, (1, SHORTER.get(name, LENGTH)))
    with torch.no_grad():
        expected, found = original(input_ids=ids)[0], model(input_ids=ids)[0]
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4), (found - expected).abs().max()


ATTENDING = sorted({values["model_type"] for values in CONFIGS.values()} - {"mamba", "mamba2", "falcon_mamba"})


@pytest.mark.parametrize("kind", ATTENDING)
def test_no_decoder_overlooks_that_it_should_look_to_both_sides(kind):
    config_class = auto.config_class(kind.replace("-", "_"))
    if "is_causal" in config_class.fields():
        assert config_class(is_causal=False).is_causal is False
    else:
        with pytest.raises(ConfigError, match="is_causal is False; only True is implemented"):
            config_class(is_causal=False)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_an_encoder_reads_a_text_at_once(kind):
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 20}  # fmt: skip
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, is_causal=False)).eval()
    ids, cache = torch.arange(6, 12)[None], Cache()
    whole = model(ids, cache=cache).last_hidden_state
    changed = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)
    assert not torch.allclose(model(changed).last_hidden_state[:, 0], whole[:, 0])
    with pytest.raises(InputError, match="is_causal=False lets tokens see later ones, too: read a whole text at once"):
        model(ids, cache=cache)
