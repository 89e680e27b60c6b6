"""ProphetNet's config.json, the streams that predict, and what is learned from them."""

import pytest
import torch

from oracle import checkpoint, ours, reference
from pellucid import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Layout
from pellucid.cache import Cache
from pellucid.errors import ConfigError, InputError
from pellucid.models.prophetnet import ProphetNetConfig, ProphetNetForConditionalGeneration
from test_models import padded, texts

LARGE = {  # of prophetnet-large-uncased
    "activation_dropout": 0.1, "activation_function": "gelu", "architectures": ["ProphetNetForConditionalGeneration"],
    "attention_dropout": 0.1, "bos_token_id": 102, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0,
    "decoder_max_position_embeddings": 514, "decoder_start_token_id": 102, "disable_ngram_loss": False, "dropout": 0.1,
    "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0, "encoder_max_position_embeddings": 513, "eos_token_id": 102,
    "eps": 0.1, "hidden_size": 1024, "init_std": 0.02, "is_encoder_decoder": True, "max_position_embeddings": 512,
    "model_type": "prophetnet", "ngram": 2, "num_buckets": 32, "num_decoder_attention_heads": 16,
    "num_decoder_layers": 12, "num_encoder_attention_heads": 16, "num_encoder_layers": 12, "output_past": False,
    "pad_token_id": 0, "prefix": " ", "relative_max_distance": 128, "vocab_size": 30522,
}  # fmt: skip


def test_config():
    config = ProphetNetConfig.from_dict(LARGE)
    assert (config.num_attention_heads, config.num_hidden_layers, config.max_tokens) == (16, 12, 512)
    assert config.to_dict() == LARGE


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"ngram": 0}, "ngram is 0; expected at least 1"),
        ({"eps": 1.0}, "eps is 1.0; expected 0 <= eps < 1"),
        ({"num_buckets": 1}, "num_buckets is 1; expected at least 2"),
        ({"num_buckets": 256}, "less than twice relative_max_distance"),
        ({"num_decoder_attention_heads": 3}, r"not a multiple of num_decoder_attention_heads \(3\)"),
        ({"activation_function": "mish"}, "activation_function is 'mish'"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        ProphetNetConfig(**values)


@torch.no_grad()
def test_streams_equal_those_of_the_original():
    model, original = (
        ours("prophetnet", "ForConditionalGeneration"),
        reference("prophetnet", "ForConditionalGeneration"),
    )
    given = {"input_ids": torch.stack(texts(model, [9] * 3)), "decoder_input_ids": torch.stack(texts(model, [7] * 3))}
    mine, theirs = model(**given), original(**given)
    assert torch.allclose(mine.logits_ngram, theirs.logits_ngram, atol=1e-5)
    mine, theirs = model.prophetnet(**given), original.prophetnet(**given)
    assert torch.allclose(mine.last_hidden_state_ngram, theirs.last_hidden_state_ngram, atol=1e-5)
    assert "logits_ngram" not in ours("prophetnet:one", "ForCausalLM")(given["input_ids"])


@torch.no_grad()
def test_streams_of_texts_beside_each_other():
    model = ours("prophetnet", "ForConditionalGeneration")
    rows, targets = texts(model, [9, 5, 7]), texts(model, [4, 8, 8], seed=1)
    ids, mask = padded(rows, "left")
    written, real = padded(targets, "right")
    together = model(ids, mask, written, real).logits_ngram  # (B, G - 1, T, V)
    packed = model(
        torch.cat(rows)[None], Layout.packed([9, 5, 7]), torch.cat(targets)[None], Layout.packed([4, 8, 8])
    ).logits_ngram
    start = 0
    for i, (row, target) in enumerate(zip(rows, targets, strict=True)):
        alone, end = model(row[None], decoder_input_ids=target[None]).logits_ngram[0], start + len(target)
        assert torch.allclose(together[i, :, : len(target)], alone, atol=1e-5)
        assert torch.allclose(packed[0, :, start:end], alone, atol=1e-5)
        start = end


@torch.no_grad()
def test_what_a_stream_sees():
    """The stream of the next token but one, and so on, sees one token less; all see the first."""
    model = ours("prophetnet", "ForCausalLM")
    (row,) = texts(model, [8])
    plain = model(row[None])
    for place in range(8):
        other = row.clone()
        other[place] = 5 if other[place] != 5 else 6
        moved = model(other[None])
        scores = torch.cat([moved.logits[:, None] - plain.logits[:, None], moved.logits_ngram - plain.logits_ngram], 1)
        changed = scores.abs().amax(-1)[0] > 1e-6  # (G, T)
        for stream in range(3):
            first = 0 if place == 0 else place + stream
            assert changed[stream].tolist() == [t >= first for t in range(8)], (place, stream)


@torch.no_grad()
def test_one_token_at_a_time():
    """So that the original, too, reads one, which it does without mixing up its heads."""
    model, original = (kind("prophetnet:next", "ForConditionalGeneration") for kind in (ours, reference))
    (ids,), (target,) = texts(model, [9]), texts(model, [7], seed=1)
    whole, cache, past = model(ids[None], decoder_input_ids=target[None]), Cache(), None
    for i, token in enumerate(target):
        mine = model(ids[None], decoder_input_ids=token[None, None], cache=cache)
        theirs = original(ids[None], decoder_input_ids=token[None, None], past_key_values=past, use_cache=True)
        past = theirs.past_key_values
        assert torch.allclose(mine.logits, theirs.logits, atol=1e-5)
        assert torch.allclose(mine.logits[:, 0], whole.logits[:, i], atol=1e-5)
        assert torch.allclose(mine.logits_ngram[:, :, 0], whole.logits_ngram[:, :, i], atol=1e-5)


def test_the_longest_text():
    """The last tokens share a position, as in the original; a longer text is refused."""
    model, original = ours("prophetnet", "Model"), reference("prophetnet", "Model")
    (row,) = texts(model, [40])
    mine, theirs = (kind(row[None], decoder_input_ids=row[None, :5]) for kind in (model, original))
    assert torch.allclose(mine.encoder_last_hidden_state, theirs.encoder_last_hidden_state, atol=1e-5)
    assert model(row[None], decoder_input_ids=row[None])[0].isfinite().all()
    for given in ({"input_ids": row.repeat(2)[None, :41]}, {"decoder_input_ids": row.repeat(2)[None, :41]}):
        with pytest.raises(InputError, match="The text has 41 tokens, this model reads 40"):
            model(**{"input_ids": row[None], "decoder_input_ids": row[None, :5], **given})


@torch.no_grad()
def test_only_the_last_logits():
    model = ours("prophetnet", "ForConditionalGeneration")
    given = {"input_ids": torch.stack(texts(model, [9] * 2)), "decoder_input_ids": torch.stack(texts(model, [7] * 2))}
    some, every = model(**given, logits_to_keep=2), model(**given)
    assert torch.equal(some.logits, every.logits[:, -2:])
    assert torch.equal(some.logits_ngram, every.logits_ngram[:, :, -2:])


def test_the_decoder_of_a_whole_file():
    folder = checkpoint("prophetnet", "ForConditionalGeneration")
    whole, decoder = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(5, 12)[None]
    assert isinstance(whole, ProphetNetForConditionalGeneration)
    assert torch.equal(decoder.prophetnet(ids)[0], whole.prophetnet.decoder(ids)[0])


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generates_as_the_original(options):
    model, original = (kind("prophetnet:next", "ForConditionalGeneration") for kind in (ours, reference))
    ids, mask = padded(texts(model, [9, 12, 5]), "right")
    options = {"max_new_tokens": 7, "do_sample": False, **options}
    wanted = original.generate(ids, attention_mask=mask, **options)
    assert torch.equal(model.generate(ids, attention_mask=mask, **options), wanted)
