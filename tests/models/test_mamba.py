"""Mamba and its kin: published configurations, the weights of new models, and what a long text leaves behind."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from oracle import ours, reference
from pellucid import AutoConfig, Cache, MambaConfig, MambaModel
from pellucid.errors import ConfigError
from pellucid.models.falcon_mamba import FalconMambaConfig
from pellucid.models.mamba2 import Mamba2Config, Mamba2Model

FIRST = {  # Mamba-130M's, as converted
    "architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "d_inner": 1536, "d_model": 768,
    "eos_token_id": 0, "expand": 2, "fused_add_norm": True, "hidden_act": "silu", "hidden_size": 768,
    "initializer_range": 0.1, "intermediate_size": 1536, "layer_norm_epsilon": 1e-05, "model_type": "mamba",
    "n_layer": 24, "num_hidden_layers": 24, "pad_token_id": 0, "pad_vocab_size_multiple": 8,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "rms_norm": True, "ssm_cfg": {}, "state_size": 16,
    "time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_max": 0.1, "time_step_min": 0.001,
    "time_step_rank": 48, "time_step_scale": 1.0, "torch_dtype": "float32", "transformers_version": "4.39.0.dev0",
    "use_bias": False, "use_cache": True, "use_conv_bias": True, "vocab_size": 50280,
}  # fmt: skip
CODE = {  # Codestral's
    "architectures": ["Mamba2ForCausalLM"], "bos_token_id": 0, "chunk_size": 256, "conv_kernel": 4, "eos_token_id": 0,
    "expand": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.1,
    "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": 8,
    "norm_before_gate": True, "num_heads": 128, "num_hidden_layers": 64, "pad_token_id": 0,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "rms_norm": True, "state_size": 128,
    "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
    "time_step_limit": [0.0, math.inf], "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256,
    "time_step_scale": 1.0, "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True, "use_conv_bias": True,
    "vocab_size": 32768,
}  # fmt: skip
FALCON = {  # Falcon-Mamba-7B's, whose expand means nothing
    "architectures": ["FalconMambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "eos_token_id": 11, "expand": 16,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.1, "intermediate_size": 8192,
    "layer_norm_epsilon": 1e-05, "model_type": "falcon_mamba", "num_hidden_layers": 64, "pad_token_id": 11,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "state_size": 16, "tie_word_embeddings": False,
    "time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_max": 0.1, "time_step_min": 0.001,
    "time_step_rank": 256, "time_step_scale": 1.0, "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True,
    "use_conv_bias": True, "vocab_size": 65024,
}  # fmt: skip


def write(folder, values):
    (folder / "config.json").write_text(json.dumps(values))  # which writes Infinity
    return folder


@pytest.mark.parametrize(("values", "inner"), [(FIRST, 1536), (CODE, 8192), (FALCON, 8192)])
def test_published_configs(tmp_path, values, inner):
    config = AutoConfig.from_pretrained(write(tmp_path, values))
    assert config.inner_size == inner and config.max_tokens is None
    assert config.to_dict() == values
    config.save_pretrained(tmp_path / "again")
    assert AutoConfig.from_pretrained(tmp_path / "again") == config


@pytest.mark.parametrize("greatest", [math.inf, "Infinity", {"__float__": "Infinity"}, 0.1])
def test_infinity_is_written_in_many_ways(tmp_path, greatest):
    config = AutoConfig.from_pretrained(write(tmp_path, CODE | {"time_step_limit": [0.0, greatest]}))
    assert config.to_dict()["time_step_limit"] == [0.0, greatest]
    small = config.replace(hidden_size=8, num_heads=2, head_dim=8, n_groups=1, num_hidden_layers=1, vocab_size=9,
                           intermediate_size=16)  # fmt: skip
    limit = Mamba2Model(small).layers[0].mixer.limits[1]
    assert limit == (0.1 if greatest == 0.1 else math.inf)


@pytest.mark.parametrize("limits", [[0.0], [1.0, 0.5], [-1.0, 1.0], [0.0, True], ["a", "b"], [0.0, {"x": 1}]])
def test_limits_of_steps_that_are_none(limits):
    with pytest.raises(ConfigError, match=r"time_step_limit is .*; expected two numbers"):
        Mamba2Config(time_step_limit=limits)


@pytest.mark.parametrize(
    ("cls", "values", "says"),
    [
        (MambaConfig, {"time_step_rank": "many"}, "time_step_rank is 'many'; expected 'auto' or 1 to 100000000"),
        (MambaConfig, {"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg is .*; only {} is implemented"),
        (MambaConfig, {"rms_norm": False}, "rms_norm is False; only True is implemented"),
        (MambaConfig, {"layer_norm_epsilon": math.inf}, "layer_norm_epsilon is inf; expected float"),
        (FalconMambaConfig, {"expand": 0}, "expand is 0; expected 1 to 100000000"),
        (MambaConfig, {"expand": 10**8}, "expand \\* hidden_size is 76800000000; expected 1 to 100000000"),
        (MambaConfig, {"time_step_min": 0.0}, "time_step_min is 0.0, time_step_max 0.1; expected more than 0"),
        (Mamba2Config, {"time_step_max": 1e-9}, "time_step_min is 0.001, time_step_max 1e-09"),
        (Mamba2Config, {"num_heads": 4}, r"num_heads \* head_dim is 256, but .* is 8192"),
        (Mamba2Config, {"n_groups": 3}, r"num_heads \(128\) is not a multiple of n_groups \(3\)"),
        (Mamba2Config, {"hidden_act": "swoosh"}, "hidden_act is 'swoosh'"),
    ],
)
def test_impossible_configs(cls, values, says):
    with pytest.raises(ConfigError, match=says):
        cls(**values)


@pytest.mark.parametrize("scheme", ["random", "constant"])
def test_new_steps_lie_between_their_bounds(scheme):
    config = MambaConfig(vocab_size=9, hidden_size=64, num_hidden_layers=1, time_step_init_scheme=scheme)
    mixer = MambaModel(config).layers[0].mixer
    steps = F.softplus(mixer.dt_proj.bias)
    assert 0.00099 < steps.min() < 0.01 < steps.max() < 0.101
    assert mixer.dt_proj.weight.abs().max() <= 0.5 and (mixer.dt_proj.weight.std() == 0) == (scheme == "constant")
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 17).expand(128, 16)) and bool((mixer.D == 1).all())
    new = Mamba2Model(Mamba2Config(vocab_size=9, hidden_size=64, num_heads=64, head_dim=2, num_hidden_layers=1))
    steps, rates = F.softplus(new.layers[0].mixer.dt_bias), new.layers[0].mixer.A_log.exp()
    assert 0.00099 < steps.min() < 0.01 < steps.max() < 0.101 and 1 <= rates.min() < rates.max() <= 16
    assert bool((new.layers[0].mixer.norm.weight == 1).all())


@pytest.mark.parametrize("architecture", ["mamba", "mamba2:half", "falcon_mamba", "recurrent_gemma", "bamba"])
@torch.no_grad()
def test_long_texts(architecture):
    head = "ForCausalLM"
    model, original = ours(architecture, head), reference(architecture, head)
    ids = torch.randint(5, 99, (2, 150), generator=torch.Generator().manual_seed(0))
    wanted = original(input_ids=ids).logits
    assert torch.allclose(model(ids).logits, wanted, atol=3e-5)
    cache = Cache()
    pieces = [model(ids[:, :70], cache=cache).logits, *(model(ids[:, i : i + 1], cache=cache).logits for i in (70, 71))]
    pieces.append(model(ids[:, 72:], cache=cache).logits)
    assert torch.allclose(torch.cat(pieces, dim=1), wanted, atol=3e-5)


def test_a_cache_keeps_the_state_only():
    model = ours("mamba", "Model")
    cache = Cache()
    model(torch.randint(5, 99, (1, 60)), cache=cache)
    for state in cache._states.values():
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in state)
