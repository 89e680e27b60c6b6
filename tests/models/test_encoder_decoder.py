"""Any encoder with any decoder: nested configs, halves put together from two files, and how they write."""

import json
import logging

import pytest
import torch

import pellucid
from cases import BERT, CASES, GPT2, LLAMA, PROPHETNET
from oracle import checkpoint, ours, reference
from pellucid import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, auto
from pellucid.errors import ConfigError, InputError
from pellucid.models.encoder_decoder import DECODERS, EncoderDecoderConfig, EncoderDecoderModel
from test_models import padded, texts

READER = {**BERT, "model_type": "bert"}
WRITER = {**GPT2, "model_type": "gpt2", "is_decoder": True, "add_cross_attention": True}
WHOLE = {
    "architectures": ["EncoderDecoderModel"], "decoder": WRITER, "decoder_start_token_id": 1, "encoder": READER,
    "eos_token_id": 2, "is_encoder_decoder": True, "model_type": "encoder-decoder", "pad_token_id": 3,
    "tie_encoder_decoder": False, "vocab_size": 99,
}  # fmt: skip
every_case = pytest.mark.parametrize("case", [case for case in CASES if case.startswith("encoder_decoder")])


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
        (
            {"decoder": {**LLAMA, "model_type": "llama"}},
            "the decoder, a LlamaConfig, can not look at .* take one of bert",
        ),
        ({"decoder": {**PROPHETNET, "model_type": "prophetnet"}}, "a ProphetNetConfig, can not look at"),
        ({"decoder": {**BERT, "model_type": "bert"}}, "add_cross_attention of the decoder, a BertConfig, is not True"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        EncoderDecoderConfig.from_dict({**WHOLE, **values})


def test_every_decoder_that_looks_at_a_source_is_known():
    looks = {name for name in auto.architectures() for cls in auto.heads_of(name).values() if "source" in cls.accepts}
    assert looks == {*DECODERS}


@pytest.mark.parametrize(
    ("decoder", "head", "dropout", "new"),
    [
        ("gpt2", "LMHeadModel", "resid_pdrop", "transformer.h.1.crossattention.q_attn.weight"),
        ("bert", "ForMaskedLM", "hidden_dropout_prob", "bert.encoder.layer.1.crossattention.self.query.weight"),
        ("roberta", "ForMaskedLM", "hidden_dropout_prob", "roberta.encoder.layer.1.crossattention.output.dense.bias"),
    ],
)
def test_put_together_from_two_files(decoder, head, dropout, new, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="pellucid")
    reader, writer = checkpoint("bert", "Model"), checkpoint(decoder, head)
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        reader, writer, **{f"decoder_{dropout}": 0.3}, decoder_start_token_id=1, pad_token_id=3
    )
    assert not model.training and getattr(model.config.decoder, dropout) == 0.3
    assert model.config.decoder.is_decoder and model.config.decoder.add_cross_attention
    assert (model.config.decoder_start_token_id, model.config.pad_token_id) == (1, 3)
    for half, source in ((model.encoder, ours("bert", "Model")), (model.decoder, ours(decoder, head))):
        held = half.state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in source.state_dict().items())
    (message,) = (record.getMessage() for record in caplog.records)
    assert "new and untrained" in message and f"decoder.{new}" in message
    assert all("cross" in name for name in message.rpartition(": ")[2].split(", "))
    assert all(model.get_parameter(name) is model.get_parameter(source) for name, source in model.ties.items())
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    given = {"input_ids": torch.arange(5, 12)[None], "decoder_input_ids": torch.tensor([[1, 7]])}
    assert type(again) is type(AutoModel.from_pretrained(tmp_path)) is pellucid.EncoderDecoderModel
    assert torch.equal(again(**given).logits, model(**given).logits)


def test_decoders_that_look_at_no_source():
    reader, writer = checkpoint("bert", "Model"), ours("llama", "ForCausalLM").config
    with pytest.raises(ConfigError, match=r"The decoder, a llama, can not look at .* take one of bert, .*roberta"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(reader, checkpoint("llama", "ForCausalLM"))
    with pytest.raises(ConfigError, match="The decoder, a LlamaConfig, can not look at what an encoder has read"):
        EncoderDecoderConfig.from_encoder_decoder_configs(ours("bert", "Model").config, writer)


def test_halves_that_shared_their_weights(tmp_path):
    """Their file holds both when it is of PyTorch; to train them on is another matter."""
    model = ours("encoder_decoder:bert", "Model")
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "tie_encoder_decoder": True}))
    with pytest.raises(ConfigError, match="pass tie_encoder_decoder=False"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, tie_encoder_decoder=False)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@every_case
def test_loss_and_gradients_equal(case):
    model, original = ours(case, "Model"), reference(case, "Model")
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


@every_case
@torch.no_grad()
def test_a_decoder_without_a_source(case):
    """It reads on as if there were no such layers."""
    decoder = ours(case, "Model").decoder
    ids = torch.arange(5, 12)[None]
    plain = type(decoder).from_config(decoder.config.replace(add_cross_attention=False)).eval()
    plain.load_state_dict({n: t for n, t in decoder.state_dict().items() if n in plain.state_dict()})
    assert torch.equal(plain(ids).logits, decoder(ids).logits)


@every_case
@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generates_as_the_original(case, options):
    model, original = ours(case, "Model"), reference(case, "Model")
    ids, mask = padded(texts(model, [9, 12, 5]), "right")
    options = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3, **options}
    wanted = original.generate(ids, attention_mask=mask, decoder_start_token_id=2, **options)
    assert torch.equal(model.generate(ids, attention_mask=mask, decoder_start_token_id=2, **options), wanted)
