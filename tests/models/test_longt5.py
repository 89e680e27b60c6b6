"""LongT5's config.json, its two ways to look at a source, and what becomes of a block's weights."""

import pytest
import torch

import pellucid
from oracle import checkpoint, ours, reference
from pellucid import AutoModelForSeq2SeqLM, Layout
from pellucid.errors import ConfigError
from pellucid.models.longt5 import LongT5Config, find_blocks
from test_models import padded, texts

TGLOBAL = {  # of long-t5-tglobal-base
    "architectures": ["LongT5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 768,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "encoder_attention_type": "transient-global", "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu", "global_block_size": 16, "initializer_factor": 1.0, "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06, "local_radius": 127, "model_type": "longt5", "n_positions": 4096,
    "num_decoder_layers": 12, "num_heads": 12, "num_layers": 12, "output_past": True, "pad_token_id": 0,
    "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
    "torch_dtype": "float32", "transformers_version": "4.20.0.dev0", "use_cache": True, "vocab_size": 32128,
}  # fmt: skip
KINDS = ["longt5", "longt5:local"]


def test_config():
    config = LongT5Config.from_dict(TGLOBAL)
    assert (config.activation, config.gated, config.scales_head, config.decoder_depth) == ("gelu_new", True, False, 12)
    assert config.max_tokens is None and config.hidden_size == 768
    assert config.to_dict() == TGLOBAL


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"encoder_attention_type": "global"}, "expected one of local, transient-global"),
        ({"local_radius": 0}, "local_radius is 0; expected at least 1"),
        ({"global_block_size": 0}, "global_block_size is 0"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets is 2; expected at least 4"),
        ({"relative_attention_max_distance": 16}, "less than twice relative_attention_max_distance"),
        ({"feed_forward_proj": "gated-mish"}, "'mish'"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        LongT5Config(**values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 3, 4, 5, 6, 7, 8, 9, 23, 40])
@torch.no_grad()
def test_every_length(kind, length):
    model, original = ours(kind, "Model"), reference(kind, "Model")
    (row,) = texts(model, [length])
    target = torch.tensor([[3, 7]])
    mine, theirs = model(row[None], decoder_input_ids=target), original(row[None], decoder_input_ids=target)
    assert torch.allclose(mine.encoder_last_hidden_state, theirs.encoder_last_hidden_state, atol=1e-5)


@torch.no_grad()
def test_lengths_beside_each_other():
    model = ours("longt5", "EncoderModel")
    rows = texts(model, [3, 17, 4, 9])
    packed = model(torch.cat(rows)[None], Layout.packed([3, 17, 4, 9]), output_attentions=True)
    start = 0
    for row in rows:
        alone, part = model(row[None], output_attentions=True), slice(start, start + len(row))
        assert torch.allclose(packed[0][:, part], alone[0], atol=1e-5)
        for together, one in zip(packed.attentions, alone.attentions, strict=True):
            assert torch.allclose(together[:, :, part, part], one, atol=1e-5)
        start += len(row)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_are_those_of_the_blocks(kind):
    """The original shows them piece by piece: those around, then those of the summaries."""
    model, original = ours(kind, "Model"), reference(kind, "Model")
    (row,) = texts(model, [11])
    given = {"input_ids": row[None], "decoder_input_ids": row[None, :2], "output_attentions": True}
    (mine, *_), (theirs, *_) = model(**given).encoder_attentions, original(**given).encoder_attentions
    size, summaries = model.config.local_radius + 1, 11 // 4 if kind == "longt5" else 0
    shares = theirs[..., 3 * size :].transpose(1, 2).flatten(2, 3)[:, :, :11]  # (1, H, S, M)
    wanted = torch.zeros(1, 4, 11, 11)
    for token in range(11):
        piece, place = divmod(token, size)
        for key in range(11):
            if 0 <= (at := key - (piece - 1) * size) < 3 * size:
                wanted[..., token, key] = theirs[:, piece, :, place, at]
    for block in range(summaries):
        end = 11 if block == summaries - 1 else 4 * block + 4  # the last takes what is left over
        wanted[..., 4 * block : end] += shares[..., block, None] / (end - 4 * block)
    assert torch.allclose(mine, wanted, atol=1e-6)


def test_blocks():
    part, apart, own = find_blocks(Layout.packed([9, 3, 5]), 4)
    assert part.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 3, 3, 3, 2, 2, 2, 2, 2]]  # of 3; 3 is of none
    assert own[0, [0, 9, 12]].tolist() == [[True, True, False], [False] * 3, [False, False, True]]
    assert apart[0, 5, :2].tolist() == [1, 0]


def test_encoder_alone_and_head_of_its_own():
    whole = AutoModelForSeq2SeqLM.from_pretrained(checkpoint("longt5", "ForConditionalGeneration"))
    encoder = pellucid.LongT5EncoderModel.from_pretrained(checkpoint("longt5", "ForConditionalGeneration"))
    ids = torch.arange(5, 20)[None]
    assert torch.equal(encoder(ids)[0], whole.encoder(ids)[0])


def test_a_head_of_its_own(tmp_path):
    """As in the first files, where the config does not tie the head and the file holds it."""
    config = LongT5Config.from_dict({**ours("longt5", "Model").config.to_dict(), "tie_word_embeddings": False})
    model = pellucid.LongT5ForConditionalGeneration.from_config(config.replace(scale_decoder_outputs=False)).eval()
    model.save_pretrained(tmp_path)
    again = pellucid.LongT5ForConditionalGeneration.from_pretrained(tmp_path)
    assert again.lm_head.weight is not again.shared.weight
    given = {"input_ids": torch.arange(5, 20)[None], "decoder_input_ids": torch.tensor([[3, 7]])}
    assert torch.equal(again(**given).logits, model(**given).logits)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generates_as_the_original(kind, options):
    model, original = ours(kind, "ForConditionalGeneration"), reference(kind, "ForConditionalGeneration")
    ids, mask = padded(texts(model, [17, 9, 12]), "right")
    options = {"max_new_tokens": 7, "do_sample": False, **options}
    assert torch.equal(
        model.generate(ids, attention_mask=mask, **options), original.generate(ids, attention_mask=mask, **options)
    )
