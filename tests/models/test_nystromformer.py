"""Nyströmformer's landmarks, which the original has for texts of one length only."""

import pytest
import torch
import transformers

from cases import CASES
from pellucid import AutoConfig, Layout
from pellucid.errors import ConfigError
from pellucid.models.nystromformer import NystromformerConfig, NystromformerModel, invert, segments
from perturbing import perturb

BASE = {  # nystromformer-512's
    "add_cross_attention": False, "architectures": ["NystromformerForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0, "conv_kernel_size": 65, "eos_token_id": 2, "hidden_act": "gelu_new", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "inv_coeff_init_option": False,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 510, "model_type": "nystromformer", "num_attention_heads": 12,
    "num_hidden_layers": 12, "num_landmarks": 64, "pad_token_id": 1, "segment_means_seq_len": 64, "type_vocab_size": 2,
    "vocab_size": 30000,
}  # fmt: skip
LANDMARKS = CASES["nystromformer"] | {"num_landmarks": 4, "segment_means_seq_len": 12}
LENGTHS = [12, 7, 7, 3, 1]


def models():
    """Return the original's model with landmarks and ours with the same parameters."""
    torch.manual_seed(0)
    original = transformers.NystromformerModel(transformers.NystromformerConfig(**LANDMARKS)).eval()
    perturb(original, 0.1)
    model = NystromformerModel(NystromformerConfig(**LANDMARKS)).eval()
    model.load_state_dict(original.state_dict())
    return model, original


def test_a_published_config():
    assert NystromformerConfig.from_dict(BASE).to_dict() == BASE


@pytest.mark.parametrize(
    ("name", "value"), [("inv_coeff_init_option", "original"), ("conv_kernel_size", 4), ("num_landmarks", 0)]
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("nystromformer", **{name: value})


def test_landmarks():
    model, original = models()
    ids = torch.randint(5, 99, (2, 12))
    mine = model(ids, output_hidden_states=True)
    theirs = [original(row[None], output_hidden_states=True) for row in ids]  # alone: it scales by the batch
    for layer, states in enumerate(mine.hidden_states):
        wanted = torch.cat([output.hidden_states[layer] for output in theirs])
        assert torch.allclose(states, wanted, atol=1e-5), layer
    torch.cat([output[0] for output in theirs]).square().sum().backward()
    mine[0].square().sum().backward()
    for name, parameter in original.named_parameters():
        assert torch.allclose(model.get_parameter(name).grad, parameter.grad, atol=1e-3, rtol=1e-4), name


@pytest.mark.parametrize("side", ["right", "left", "packed", "compiled"])
def test_landmarks_in_any_batch(side):
    model, _ = models()
    rows = [torch.randint(5, 99, (length,)) for length in LENGTHS]
    alone = torch.cat([model(row[None]).last_hidden_state[0] for row in rows])
    if side == "packed":
        together = model(torch.cat(rows)[None], Layout.packed(LENGTHS)).last_hidden_state[0]
    else:
        ids, mask = torch.full((5, 12), 3), torch.zeros(5, 12, dtype=torch.long)
        for i, row in enumerate(rows):
            where = slice(12 - len(row), 12) if side == "left" else slice(len(row))
            ids[i, where], mask[i, where] = row, 1
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if side == "compiled" else model
        together = run(ids, mask).last_hidden_state[mask.bool()]
    assert torch.allclose(together, alone, atol=1e-5)


def test_half_precision():
    model, _ = models()
    ids = torch.randint(5, 99, (2, 12))
    exact = model(ids).last_hidden_state
    for dtype in (torch.bfloat16, torch.float16):
        half = model.to(dtype)(ids).last_hidden_state
        assert half.dtype == dtype
        assert torch.nn.functional.cosine_similarity(half.float().flatten(), exact.flatten(), dim=0) > 0.99


def test_attention_weights_are_of_all_pairs():
    model, _ = models()
    out = model(torch.randint(5, 99, (2, 9)), torch.ones(2, 9), output_attentions=True)
    assert [weights.shape for weights in out.attentions] == [(2, 4, 9, 9)] * 2
    assert torch.allclose(out.attentions[0].sum(-1), torch.ones(()), atol=1e-2)


def test_segments_are_even_and_of_real_tokens():
    shares = segments(Layout.of(torch.zeros(3, 6), torch.tensor([[1] * 6, [0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])), 3)
    assert shares[0].tolist() == [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]
    assert shares[1].tolist() == [[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 0, 1]]
    assert shares[2].tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]


def test_the_inverse():
    matrix = (torch.eye(5) * 3 + torch.rand(5, 5, generator=torch.Generator().manual_seed(0))).softmax(-1)
    assert torch.allclose(invert(matrix[None, None]) @ matrix, torch.eye(5), atol=1e-4)
