"""BigBirdPegasus' sparse attention to sources, and published configurations."""

import pytest
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from cases import CASES
from oracle import checkpoint, ours, stay_sparse
from pellucid import Layout
from pellucid.errors import ConfigError
from pellucid.models.bigbird_pegasus import BigBirdPegasusConfig, BigBirdPegasusForCausalLM

ARXIV = {  # bigbird-pegasus-large-arxiv's
    "activation_dropout": 0.0, "activation_function": "gelu_new",
    "architectures": ["BigBirdPegasusForConditionalGeneration"], "attention_dropout": 0.0,
    "attention_type": "block_sparse", "block_size": 64, "bos_token_id": 2, "classifier_dropout": 0.0, "d_model": 1024,
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0, "decoder_layers": 16,
    "decoder_start_token_id": 2, "dropout": 0.1, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0, "encoder_layers": 16, "eos_token_id": 1, "gradient_checkpointing": False,
    "init_std": 0.02, "is_encoder_decoder": True, "length_penalty": 0.8, "max_length": 256,
    "max_position_embeddings": 4096, "model_type": "bigbird_pegasus", "num_beams": 5, "num_hidden_layers": 16,
    "num_random_blocks": 3, "pad_token_id": 0, "scale_embedding": True, "tokenizer_class": "PegasusTokenizer",
    "transformers_version": "4.7.0.dev0", "use_bias": False, "use_cache": True, "vocab_size": 96103,
}  # fmt: skip
SMALL = {"block_size": 4, "num_random_blocks": 2}  # sparse from 37 tokens on
LENGTHS = [37, 40, 12, 36, 39]


def test_a_published_config():
    config = BigBirdPegasusConfig.from_dict(ARXIV)
    assert (config.max_tokens, config.longest_full) == (4096, 704) and config.to_dict() == ARXIV


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_type", "sparse"),
        ("block_size", 0),
        ("num_random_blocks", -1),
        ("activation_function", "glu"),
        ("encoder_attention_heads", 7),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        BigBirdPegasusConfig(**ARXIV | {name: value})


def batch():
    """Draw sources of `LENGTHS` and their targets."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 99, (length,), generator=generator) for length in LENGTHS]
    return rows, torch.randint(5, 99, (len(rows), 6), generator=generator)


@torch.no_grad()
def alone(**settings):
    """Run the original on each text."""
    config = transformers.BigBirdPegasusConfig(**CASES["bigbird_pegasus"] | settings)
    folder = checkpoint("bigbird_pegasus", "Model")
    original = stay_sparse(transformers.BigBirdPegasusModel.from_pretrained(folder, config=config).eval())
    return [original(row[None], decoder_input_ids=target[None]) for row, target in zip(*batch(), strict=True)]


@pytest.mark.parametrize("settings", [SMALL, SMALL | {"attention_type": "original_full"}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_long_and_short_sources_in_a_batch(settings, side):
    rows, targets = batch()
    ids = pad_sequence(rows, batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    out = ours("bigbird_pegasus", "Model", **settings)(ids, mask, decoder_input_ids=targets, output_attentions=True)
    for i, wanted in enumerate(alone(**settings)):
        read = out.encoder_last_hidden_state[i][mask[i].bool()]
        assert torch.allclose(read, wanted.encoder_last_hidden_state[0], atol=1e-5)
        assert torch.allclose(out.last_hidden_state[i], wanted.last_hidden_state[0], atol=1e-5)
        for weights in out.encoder_attentions:
            kept = weights[i][:, mask[i].bool()][:, :, mask[i].bool()]
            assert torch.allclose(kept.sum(-1), torch.ones(()), atol=1e-5)


def test_packed_sources():
    rows, targets = batch()
    out = ours("bigbird_pegasus", "Model", **SMALL)(
        torch.cat(rows)[None],
        Layout.packed(LENGTHS),
        decoder_input_ids=targets.view(1, -1),
        decoder_attention_mask=Layout.packed([6] * len(LENGTHS)),
    )
    wanted = torch.cat([one.last_hidden_state for one in alone(**SMALL)], dim=1)
    assert torch.allclose(out.last_hidden_state, wanted, atol=1e-5)


def test_random_blocks_in_training():
    model = ours("bigbird_pegasus", "Model", **SMALL).train()
    ids = torch.full((1, 40), 7)
    model(ids, decoder_input_ids=ids[:, :3]).last_hidden_state.sum().backward()


def test_the_decoder_alone_has_the_head_of_the_whole():
    model = BigBirdPegasusForCausalLM.from_pretrained(checkpoint("bigbird_pegasus", "ForConditionalGeneration"))
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight
