"""Any encoder with any decoder: nested configs, halves put together from two files, and how they write."""

import logging

import pytest
import torch

import pellucid
from cases import BERT, GPT2, LLAMA
from oracle import checkpoint, ours, reference
from pellucid import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from pellucid.errors import ConfigError, InputError
from pellucid.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderModel
from test_models import padded, texts

READER = {**BERT, "model_type": "bert"}
WRITER = {**GPT2, "model_type": "gpt2", "is_decoder": True, "add_cross_attention": True}
WHOLE = {
    "architectures": ["EncoderDecoderModel"], "decoder": WRITER, "decoder_start_token_id": 1, "encoder": READER,
    "eos_token_id": 2, "is_encoder_decoder": True, "model_type": "encoder-decoder", "pad_token_id": 3,
    "tie_encoder_decoder": False, "vocab_size": 99,
}  # fmt: skip


def test_nested_config(tmp_path):
    config = EncoderDecoderConfig.from_dict(WHOLE)
    assert (type(config.encoder).__name__, type(config.decoder).__name__) == ("BertConfig", "GPT2Config")
    assert (config.vocab_size, config.hidden_size, config.max_tokens) == (99, 32, 40)
    assert config.to_dict() == WHOLE
    config.decoder.resid_pdrop = 0.3
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again == config and again.to_dict() == {**WHOLE, "decoder": {**WRITER, "resid_pdrop": 0.3}}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"decoder": None}, "decoder is None; expected Config"),
        ({"encoder": {**READER, "hidden_size": 0}}, "encoder: hidden_size is 0"),
        ({"encoder": {**READER, "model_type": "bertt"}}, "no architecture is called 'bertt'"),
        ({"decoder": {**WRITER, "add_cross_attention": False}}, "add_cross_attention of the decoder, a GPT2Config"),
        ({"decoder": {**LLAMA, "model_type": "llama"}}, "add_cross_attention of the decoder, a LlamaConfig"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        EncoderDecoderConfig.from_dict({**WHOLE, **values})


def test_put_together_from_two_files(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="pellucid")
    reader, writer = checkpoint("bert", "Model"), checkpoint("gpt2", "LMHeadModel")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        reader, writer, decoder_resid_pdrop=0.3, decoder_start_token_id=1, pad_token_id=3
    )
    assert not model.training and model.config.decoder.resid_pdrop == 0.3
    assert (model.config.decoder_start_token_id, model.config.pad_token_id) == (1, 3)
    for half, name, head in (("encoder", "bert", "Model"), ("decoder", "gpt2", "LMHeadModel")):
        held, own = getattr(model, half).state_dict(), ours(name, head).state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in own.items())
    (message,) = (record.getMessage() for record in caplog.records)
    assert "new and untrained" in message and "decoder.transformer.h.1.crossattention.q_attn.weight" in message
    assert "wte" not in message and "embeddings" not in message
    assert model.decoder.lm_head.weight is model.decoder.transformer.wte.weight
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    given = {"input_ids": torch.arange(5, 12)[None], "decoder_input_ids": torch.tensor([[1, 7]])}
    assert type(again) is type(AutoModel.from_pretrained(tmp_path)) is pellucid.EncoderDecoderModel
    assert torch.equal(again(**given).logits, model(**given).logits)
    with pytest.raises(ConfigError, match="A LlamaConfig can not look at what an encoder has read"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(reader, checkpoint("llama", "ForCausalLM"))


def test_loss_and_gradients_equal():
    model, original = ours("encoder_decoder", "Model"), reference("encoder_decoder", "Model")
    ids, mask = padded(texts(model, [9, 4, 7]), "right")
    labels, real = padded(texts(model, [5, 8, 3], seed=1), "right")
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(real == 0, -100)}
    original.zero_grad()
    with pytest.warns(FutureWarning):
        theirs = original(**given)
    theirs.loss.backward()
    mine = model(**given)
    mine.loss.backward()
    assert torch.allclose(mine.loss, theirs.loss, atol=1e-6)
    wanted = dict(original.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, wanted[name].grad, atol=1e-6), name
    with pytest.raises(InputError, match=r"labels= .*decoder_input_ids="):
        model(ids)


@torch.no_grad()
def test_a_decoder_without_a_source():
    """It reads on as if there were no such layers."""
    decoder = ours("encoder_decoder", "Model").decoder
    ids = torch.arange(5, 12)[None]
    plain = type(decoder).from_config(decoder.config.replace(add_cross_attention=False)).eval()
    plain.load_state_dict({n: t for n, t in decoder.state_dict().items() if n in plain.state_dict()})
    assert torch.equal(plain(ids).logits, decoder(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generates_as_the_original(options):
    model, original = ours("encoder_decoder", "Model"), reference("encoder_decoder", "Model")
    ids, mask = padded(texts(model, [9, 12, 5]), "right")
    options = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3, **options}
    wanted = original.generate(ids, attention_mask=mask, decoder_start_token_id=2, **options)
    assert torch.equal(model.generate(ids, attention_mask=mask, decoder_start_token_id=2, **options), wanted)
