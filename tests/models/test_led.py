"""LED's global tokens, its two tables of positions, and published configurations."""

import pytest
import torch

from oracle import ours, reference
from pellucid import AutoConfig, Layout
from pellucid.errors import ConfigError, InputError
from pellucid.models.led import LEDConfig, LEDModel

BASE = {  # led-base-16384's
    "_name_or_path": "./", "activation_dropout": 0.0, "activation_function": "gelu",
    "architectures": ["LEDForConditionalGeneration"], "attention_dropout": 0.0, "attention_window": [1024] * 6,
    "bos_token_id": 0, "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 768,
    "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, "decoder_layerdrop": 0.0, "decoder_layers": 6,
    "decoder_start_token_id": 2, "dropout": 0.1, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072,
    "encoder_layerdrop": 0.0, "encoder_layers": 6, "eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "max_decoder_position_embeddings": 1024,
    "max_encoder_position_embeddings": 16384, "model_type": "led", "num_hidden_layers": 6, "pad_token_id": 1,
    "transformers_version": "4.2.0.dev0", "use_cache": True, "vocab_size": 50265,
}  # fmt: skip
LENGTHS = [23, 30, 6, 2]


def batch():
    """Draw texts, padded on the right, and global tokens: none, some or all of a text: (ids, mask, chosen)."""
    torch.manual_seed(0)
    mask = (torch.arange(30) < torch.tensor(LENGTHS)[:, None]).long()
    chosen = (torch.rand(4, 30) < 0.2).long()
    chosen[2], chosen[3] = 1, 0
    return torch.randint(5, 99, (4, 30)).masked_fill(mask == 0, 3), mask, chosen


def test_a_published_config():
    config = LEDConfig.from_dict(BASE)
    assert config.to_dict() == BASE
    assert (config.max_tokens, config.windows, config.hidden_size) == (16384, [1024] * 6, 768)


@pytest.mark.parametrize("window", [3, 0, [4], [4, 5]])
def test_impossible_windows_are_refused(window):
    with pytest.raises(ConfigError, match="attention_window is"):
        AutoConfig.for_model("led", encoder_layers=2, attention_window=window)


def test_global_tokens():
    model, original = ours("led", "ForConditionalGeneration"), reference("led", "ForConditionalGeneration")
    ids, mask, chosen = batch()
    inputs = {"input_ids": ids, "attention_mask": mask, "global_attention_mask": chosen}
    theirs, mine = (half(**inputs, labels=torch.arange(5, 29).view(4, 6)) for half in (original, model))
    assert torch.allclose(mine.logits, theirs.logits, atol=1e-5)
    original.zero_grad()
    theirs.loss.backward()
    mine.loss.backward()
    for name, parameter in original.named_parameters():
        assert torch.allclose(model.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-4), name
    without = model(**{**inputs, "global_attention_mask": None}, labels=torch.arange(5, 29).view(4, 6))
    assert not torch.allclose(mine.logits, without.logits, atol=1e-3)


@torch.no_grad()
def test_global_tokens_in_any_batch():
    model = ours("led", "Model")
    ids, mask, chosen = batch()
    keep, target = mask.bool(), torch.arange(5, 29).view(4, 6)
    alone = [
        model(ids[i : i + 1, :n], decoder_input_ids=target[i : i + 1], global_attention_mask=chosen[i : i + 1, :n])[0]
        for i, n in enumerate(LENGTHS)
    ]
    packed = model(
        ids[keep][None],
        Layout.packed(LENGTHS),
        decoder_input_ids=target.view(1, -1),
        decoder_attention_mask=Layout.packed([6] * 4),
        global_attention_mask=chosen[keep][None],
    )
    assert torch.allclose(packed[0], torch.cat(alone, dim=1), atol=1e-5)
    ids, mask, chosen = (
        torch.stack([row.roll(30 - n) for row, n in zip(x, LENGTHS, strict=True)]) for x in (ids, mask, chosen)
    )
    left = model(ids, mask, decoder_input_ids=target, global_attention_mask=chosen)
    assert torch.allclose(left[0], torch.cat(alone), atol=1e-5)


def test_time_grows_with_the_length_only():
    """A long source never asks for a matrix of all pairs of tokens."""
    config = LEDConfig(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=8,
                       decoder_attention_heads=1, decoder_ffn_dim=8, attention_window=8, vocab_size=99,
                       max_encoder_position_embeddings=200_000)  # fmt: skip
    model, ids = LEDModel.from_config(config).eval(), torch.full((1, 200_000), 5)
    with torch.no_grad():
        out = model(ids, decoder_input_ids=ids[:, :3], global_attention_mask=torch.arange(200_000)[None] == 0)
    assert out.last_hidden_state.isfinite().all()


def test_a_target_has_positions_of_its_own():
    model = ours("led", "Model")
    source = torch.full((1, 40), 7)
    model(source, decoder_input_ids=source[:, :38])
    with pytest.raises(InputError, match="The target has 39 tokens, this model writes 38"):
        model(source, decoder_input_ids=source[:, :39])


def test_a_global_mask_of_another_shape():
    model = ours("led", "ForQuestionAnswering")
    with pytest.raises(InputError, match=r"global_attention_mask is \(1, 4\), the input \(1, 5\)"):
        model(torch.full((1, 5), 7), global_attention_mask=torch.ones(1, 4))


def test_targets_end_where_positions_do():
    model = ours("led", "ForConditionalGeneration")
    limit = model.config.max_decoder_position_embeddings
    assert limit < model.config.max_tokens
    found = model.generate(
        torch.tensor([[5, 6, 2]]),
        eos_token_id=None,
        num_beams=1,
        return_dict_in_generate=True,
        max_new_tokens=limit + 9,
    )
    assert found.sequences.shape[1] == limit and found.finish_reason == ("length",)
