"""Any encoder with any decoder: nested configs, halves put together from two files, and how they write."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import pellucid
from cases import BERT, CASES, GPT2, LLAMA, PROPHETNET, READS_BACK, ROBERTA
from oracle import checkpoint, ours, perturbed, reference
from pellucid import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, auto
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderModel, can_look
from test_models import padded, texts

READER = {**BERT, "model_type": "bert"}
WRITER = {**GPT2, "model_type": "gpt2", "is_decoder": True, "add_cross_attention": True}
WHOLE = {
    "architectures": ["EncoderDecoderModel"], "decoder": WRITER, "decoder_start_token_id": 1, "encoder": READER,
    "eos_token_id": 2, "is_encoder_decoder": True, "model_type": "encoder-decoder", "pad_token_id": 3,
    "tie_encoder_decoder": False, "vocab_size": 99,
}  # fmt: skip
EVERY_CASE = [case for case in CASES if case.startswith("encoder_decoder")]
every_case = pytest.mark.parametrize("case", EVERY_CASE)


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
            "the decoder, a LlamaConfig, can not look at .* take one of bart, .*xglm",
        ),
        (
            {"decoder": {**PROPHETNET, "model_type": "prophetnet", "add_cross_attention": False}},
            "add_cross_attention of the decoder, a ProphetNetConfig, is not True",
        ),
        ({"tie_encoder_decoder": True}, "a BertConfig and a GPT2Config have no weights to share; expected one"),
        ({"decoder": {**BERT, "model_type": "bert"}}, "add_cross_attention of the decoder, a BertConfig, is not True"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        EncoderDecoderConfig.from_dict({**WHOLE, **values})


def test_every_decoder_that_looks_at_a_source_is_tested():
    """No architecture has another class that takes a source, and each file has a case below."""
    looks = {name for name in auto.architectures() for cls in auto.heads_of(name).values() if "source" in cls.accepts}
    assert looks == {name for name in auto.architectures() if can_look(name)}
    tested = {CASES[case]["decoder"]["model_type"].replace("-", "_") for case in EVERY_CASE}
    assert {auto.KIN.get(name, name) for name in looks} == tested


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


@torch.no_grad()
@pytest.mark.parametrize("case", ["bart", "marian:apart", "mvp", "prophetnet"])
def test_a_whole_model_lends_its_decoder(case, caplog):
    """It writes as in that model; the original draws new embeddings if the file holds them as shared."""
    caplog.set_level(logging.WARNING, logger="pellucid")
    head = "MTModel" if case == "marian:apart" else "ForConditionalGeneration"
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(checkpoint("bert", "Model"), checkpoint(case, head))
    assert model.config.decoder.is_decoder and model.config.decoder.add_cross_attention
    assert not caplog.records  # nothing is new
    ids, written = torch.arange(5, 12)[None], torch.arange(20, 26)[None]
    logits, whole = model(ids, decoder_input_ids=written).logits, ours(case, head)
    wanted = whole(encoder_outputs=model.encoder(ids), decoder_input_ids=written).logits
    assert torch.allclose(logits, wanted, atol=1e-6) and logits.shape[-1] == model.config.vocab_size


def test_an_encoder_that_has_a_decoder_of_its_own():
    """The half that reads of T5 is taken; BART's has no class of its own."""
    decoder = ours("gpt2", "LMHeadModel").config
    joint = EncoderDecoderConfig.from_encoder_decoder_configs(ours("t5", "EncoderModel").config, decoder)
    model = EncoderDecoderModel(joint.replace(decoder_start_token_id=1, pad_token_id=3)).eval()
    assert type(model.encoder) is pellucid.T5EncoderModel
    assert model.generate(torch.arange(5, 12)[None], max_new_tokens=3, eos_token_id=None).shape == (1, 4)
    with pytest.raises(ConfigError, match="bart has no encoder of its own"):
        EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(ours("bart", "Model").config, decoder))


def test_decoders_that_look_at_no_source():
    reader, writer = checkpoint("bert", "Model"), ours("llama", "ForCausalLM").config
    with pytest.raises(ConfigError, match=r"the decoder, a llama, can not look at .* take one of bart, .*roberta"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(reader, checkpoint("llama", "ForCausalLM"))
    with pytest.raises(ConfigError, match="the decoder, a LlamaConfig, can not look at what an encoder has read"):
        EncoderDecoderConfig.from_encoder_decoder_configs(ours("bert", "Model").config, writer)


def sharing(kind, values):
    """Build a model whose halves share their weights, and one with the same weights, each of its own."""
    halves = {half: {**values, "model_type": kind} for half in ("encoder", "decoder")}
    halves["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
    config = EncoderDecoderConfig.from_dict({**WHOLE, **halves, "tie_encoder_decoder": True})
    model, apart = (
        EncoderDecoderModel.from_config(either).eval() for either in (config, config.replace(tie_encoder_decoder=False))
    )
    apart.load_state_dict(perturbed(model).state_dict())
    return model, apart


TEXTS = {"input_ids": torch.arange(5, 12)[None], "labels": torch.tensor([[7, 8, 9, 2]])}
every_sharing = pytest.mark.parametrize(("kind", "values"), [("bert", BERT), ("roberta", ROBERTA), ("gpt2", GPT2)])


@every_sharing
@torch.no_grad()
def test_halves_share_their_weights(kind, values, tmp_path):
    """As version 4 of the original had it: all that both backbones have, and files hold it as the decoder's."""
    model, apart = sharing(kind, values)
    assert all(model.get_parameter(name) is model.get_parameter(source) for name, source in model.ties.items())
    backbone = {name.removeprefix(f"decoder.{model.decoder.prefix}.") for name in model.shared.values()}
    assert backbone == {name for name in model.decoder.base_model.state_dict() if "cross" not in name}
    assert model.num_parameters() < 0.7 * apart.num_parameters()
    wanted = apart(**TEXTS).logits
    assert torch.equal(model(**TEXTS).logits, wanted)
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert all("pooler" in name for name in held if name.startswith("encoder."))
    other = {source: name for name, source in model.shared.items()}
    for tensors in (
        held,
        {other.get(name, name): tensor for name, tensor in held.items()},
        held | {name: held[source].clone() for name, source in model.shared.items()},
    ):
        save_file(tensors, tmp_path / "model.safetensors")
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        assert all(again.get_parameter(name) is again.get_parameter(source) for name, source in model.ties.items())
        assert torch.equal(again(**TEXTS).logits, wanted)
    name, source = next(iter(model.shared.items()))
    save_file(tensors | {name: tensors[source] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="differ, but the config ties them; pass tie_encoder_decoder=False"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path, tie_encoder_decoder=False)


@every_sharing
def test_training_keeps_shared_weights_one(kind, values):
    model, apart = sharing(kind, values)
    for each in (model, apart):
        each(**TEXTS).loss.backward()
    for name, source in model.shared.items():
        parts = [apart.get_parameter(either).grad for either in (name, source)]
        assert torch.allclose(model.get_parameter(name).grad, sum(parts), atol=1e-6), name
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(model.get_parameter(name) is model.get_parameter(source) for name, source in model.shared.items())


def test_halves_put_together_share_what_is_the_same():
    files = checkpoint("bert", "ForMaskedLM"), checkpoint("bert", "Model")
    join = EncoderDecoderModel.from_encoder_decoder_pretrained
    model, apart = (join(files[0], files[0], tie_encoder_decoder=tied) for tied in (True, False))
    assert len(model.shared) == 37 and not apart.shared
    new = {name: tensor for name, tensor in apart.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(new)  # the cross-attention and the pooler of each are drawn at random
    given = {"input_ids": TEXTS["input_ids"], "decoder_input_ids": TEXTS["labels"]}
    assert torch.equal(model(**given).logits, apart(**given).logits)
    with pytest.raises(WeightsError, match=r"37 weights of .* differ, such as encoder\.embeddings\.LayerNorm\.bias"):
        join(files[1], files[0], tie_encoder_decoder=True)


def test_halves_that_can_not_share_their_weights():
    halves = {"encoder": {**BERT, "model_type": "bert"}, "decoder": {**BERT, **READS_BACK, "model_type": "bert"}}
    halves["decoder"]["max_position_embeddings"] = 44
    config = EncoderDecoderConfig.from_dict({**WHOLE, **halves, "tie_encoder_decoder": True})
    with pytest.raises(ConfigError, match=r"position_embeddings\.weight is \[40, 32\] and .* is \[44, 32\]; expected"):
        EncoderDecoderModel.from_config(config)


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
