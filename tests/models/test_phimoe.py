"""PhiMoE: stretched positions in long texts, and the draw of experts in training."""

import pytest
import torch

from cases import CASES
from oracle import ours
from pellucid import Layout
from pellucid.errors import ConfigError
from pellucid.models.phimoe import PhimoeConfig, PhimoeMoE


def test_long_texts_are_turned_by_the_long_factors():
    model = ours("phimoe:longrope", "ForCausalLM").model
    given = CASES["phimoe:longrope"]["rope_parameters"]
    speeds = 100.0 ** -(torch.arange(4) / 4)
    for length, kind in ((20, "short"), (21, "long")):
        cos, sin = model.rope.turn(Layout.of(torch.zeros(1, length)))
        angles = torch.arange(length)[:, None] * speeds / torch.tensor(given[f"{kind}_factor"])
        assert torch.allclose(cos[0, 0], angles.cos() * given[f"{kind}_mscale"], atol=1e-5)
        assert torch.allclose(sin[0, 0], angles.sin() * given[f"{kind}_mscale"], atol=1e-5)


def test_experts_are_drawn_by_their_shares_in_training():
    torch.manual_seed(0)
    config = PhimoeConfig(**CASES["phimoe"])
    moe = PhimoeMoE(config).train()
    scores = torch.tensor([[1.0, 0.9, 0.5, 0.1, -3.0]]).expand(20_000, 5).clone().requires_grad_()
    drawn, share = moe.pick(scores)
    near = torch.tensor([1.0, 0.9, 0.5, -torch.inf, -torch.inf]).softmax(0)  # 0.1 is more than 2 * 0.4 away
    assert torch.allclose(torch.bincount(drawn[:, 0], minlength=5) / len(drawn), near, atol=0.02)
    parts = share / near[drawn]  # of the best all, of others all or a third
    assert torch.allclose(parts[drawn == 0], torch.ones(()))
    assert torch.allclose(parts[drawn == 1].mean(), torch.tensor(0.25 + 0.75 / 3), atol=0.02)
    share.sum().backward()
    row = int((drawn == 1).nonzero()[0, 0])
    chosen = torch.eye(5)[1]
    assert torch.allclose(scores.grad[row], near[1] * (chosen - near), atol=1e-6)  # as if its share were whole


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_experts_per_tok": 3}, "num_experts_per_tok is 3, num_local_experts 5; expected 2, of 2 or more"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "only 'default' and 'longrope' are implemented"),
        ({"input_jitter_noise": 1.0}, "input_jitter_noise is 1.0; expected 0 <= noise < 1"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        PhimoeConfig(**CASES["phimoe"] | values)
