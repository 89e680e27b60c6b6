"""Mixtures of experts: tokens go to their experts and back, and a checkpoint's names lie in stacks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cases import CASES
from pellucid import auto
from pellucid.errors import ConfigError
from pellucid.experts import Dispatch, Experts

COUNT, SIZE, INNER = 4, 6, 5


class Pair(Experts):
    """Experts as in a model's file."""

    stored = {"gate_up": ("gate", "up"), "down": ("down",)}

    def __init__(self):
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(COUNT, 2 * INNER, SIZE))
        self.down = nn.Parameter(torch.randn(COUNT, SIZE, INNER))
        self.bias = torch.randn(COUNT, SIZE)

    def forward(self, x, chosen, shares):
        dispatch = Dispatch.to(chosen, COUNT)
        gate, up = dispatch.linear(dispatch.gather(x), self.gate_up).chunk(2, dim=-1)
        return dispatch.combine(dispatch.linear(F.silu(gate) * up, self.down, self.bias), shares)

    def slowly(self, x, chosen, shares):
        """The same, a token and an expert at a time."""
        rows = []
        for token, experts, parts in zip(x, chosen.tolist(), shares, strict=True):
            row = torch.zeros(SIZE)
            for expert, share in zip(experts, parts, strict=True):
                gate, up = (self.gate_up[expert] @ token).chunk(2)
                row = row + share * (self.down[expert] @ (F.silu(gate) * up) + self.bias[expert])
            rows.append(row)
        return torch.stack(rows) if rows else x


def drawn(tokens, choices, experts=COUNT, seed=0):
    """Draw tokens, their experts, all different, and shares."""
    torch.manual_seed(seed)
    chosen = torch.stack([torch.randperm(experts)[:choices] for _ in range(tokens)] or [torch.empty(0, choices).long()])
    return torch.randn(tokens, SIZE, requires_grad=True), chosen.view(tokens, choices), torch.rand(tokens, choices)


# --- the way to experts and back --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, COUNT), st.integers(1, COUNT), st.integers(0, 99))
def test_tokens_go_through_their_experts(tokens, choices, used, seed):
    x, chosen, shares = drawn(tokens, min(choices, used), used, seed)  # experts above those used get nothing
    experts = Pair()
    assert torch.allclose(experts(x, chosen, shares), experts.slowly(x, chosen, shares), atol=1e-5)


def test_gradients_equal_those_of_a_loop():
    x, chosen, shares = drawn(7, 2, 3)
    experts, shares = Pair(), shares.requires_grad_()
    inputs = [x, shares, *experts.parameters()]
    fast = torch.autograd.grad(experts(x, chosen, shares).square().sum(), inputs)
    slow = torch.autograd.grad(experts.slowly(x, chosen, shares).square().sum(), inputs)
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)
    assert not fast[2][3].any()  # the expert without tokens


def test_compiled_experts_equal_the_loop():
    torch.compiler.reset()
    experts = Pair()
    compiled = torch.compile(experts, fullgraph=True, backend="eager")
    for tokens in (7, 1):
        x, chosen, shares = drawn(tokens, 2)
        assert torch.allclose(compiled(x, chosen, shares), experts.slowly(x, chosen, shares), atol=1e-5)


def test_shares_do_not_change_the_dtype():
    x, chosen, shares = drawn(5, 2)
    dispatch = Dispatch.to(chosen, COUNT)
    assert dispatch.combine(dispatch.gather(x).bfloat16(), shares.float()).dtype == torch.bfloat16


# --- names in a checkpoint --------------------------------------------------------------------------------------------


def test_each_expert_has_its_names():
    experts = Pair()
    state = nn.ModuleDict({"mlp": experts}).state_dict()
    assert {name: tuple(x.shape) for name, x in state.items()} == {
        f"mlp.{expert}.{part}.weight": (SIZE, INNER) if part == "down" else (INNER, SIZE)
        for expert in range(COUNT)
        for part in ("gate", "up", "down")
    }
    assert torch.equal(state["mlp.2.up.weight"], experts.gate_up[2, INNER:])
    assert state["mlp.2.up.weight"].data_ptr() == experts.gate_up[2, INNER:].data_ptr()  # nothing is copied


def test_state_dict_round_trip():
    one, other = Pair(), Pair()
    assert other.load_state_dict(one.state_dict()) == ([], [])
    assert torch.equal(one.gate_up, other.gate_up) and torch.equal(one.down, other.down)
    assert one.gate_up.data_ptr() != other.gate_up.data_ptr()


def test_what_does_not_fit_is_named():
    experts = Pair()
    state = dict(experts.state_dict())
    lost = {name: x for name, x in state.items() if name != "1.up.weight"}
    with pytest.raises(RuntimeError, match=r"Missing key.*1\.up\.weight"):
        experts.load_state_dict(lost)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*4\.up\.weight"):
        experts.load_state_dict(state | {"4.up.weight": state["1.up.weight"]})
    with pytest.raises(RuntimeError, match=r"1\.up\.weight is \(2, 3\); expected \(5, 6\)"):
        experts.load_state_dict(state | {"1.up.weight": torch.zeros(2, 3)})
    assert experts.load_state_dict(lost, strict=False).missing_keys == ["1.up.weight"]


# --- configurations ---------------------------------------------------------------------------------------------------

FAULTS = [
    *((name, {"num_experts_per_tok": 6}, "num_experts_per_tok is 6; expected 1 to 5")
      for name in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe")),
    ("deepseek_v2", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; expected 1 to 4"),
    ("deepseek_v2", {"topk_group": 5}, r"topk_group \(5\) is more than n_group \(4\)"),
    ("deepseek_v2", {"n_group": 3}, r"n_routed_experts \(8\) is not a multiple of n_group \(3\)"),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, "expected 'greedy' or 'group_limited_greedy'"),
    ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob is True; only False is implemented"),
    ("mixtral", {"output_router_logits": True}, "output_router_logits is True; only False is implemented"),
    ("mixtral", {"router_jitter_noise": 1.0}, "router_jitter_noise is 1.0; expected 0 <= noise < 1"),
    ("mixtral", {"sliding_window": 0}, "sliding_window is 0; expected at least 1 token"),
    ("qwen2_moe", {"layer_types": ["full_attention"]}, "layer_types is .*; expected 2 of"),
    ("qwen2_moe", {"layer_types": ["sliding_attention"] * 2}, "layer_types has windows, but use_sliding_window is"),
    ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step is 0; expected at least 1"),
    ("olmoe", {"clip_qkv": 0.0}, "clip_qkv is 0.0; expected more than 0"),
    ("granitemoe", {"logits_scaling": 0.0}, "logits_scaling is 0; expected another number"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "values", "says"), FAULTS)
def test_impossible_configs(architecture, values, says):
    with pytest.raises(ConfigError, match=says):
        auto.config_class(architecture)(**CASES[architecture] | values)
