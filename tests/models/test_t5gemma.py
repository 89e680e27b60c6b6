"""T5Gemma's nested config.json, its halves alone, and how it generates."""

import copy

import pytest
import torch

import pellucid
from cases import CASES
from oracle import checkpoint, ours, reference
from pellucid import AutoConfig
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.models.t5gemma import GLOBAL, LOCAL, T5GemmaConfig, T5GemmaModuleConfig

HALF = {  # of t5gemma-2b-2b-prefixlm-it
    "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
    "classifier_dropout_rate": 0.0, "cross_attention_hidden_size": 2304, "dropout_rate": 0.0, "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
    "initializer_range": 0.02, "intermediate_size": 9216, "is_decoder": True, "layer_types": [LOCAL, GLOBAL] * 13,
    "max_position_embeddings": 8192, "model_type": "t5_gemma_module", "num_attention_heads": 8,
    "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
WHOLE = {
    "architectures": ["T5GemmaForConditionalGeneration"], "attention_dropout": 0.0, "classifier_dropout_rate": 0.0,
    "decoder": HALF, "dropout_rate": 0.0, "encoder": {**HALF, "is_decoder": False, "cross_attention_hidden_size": None},
    "eos_token_id": [1, 107], "initializer_range": 0.02, "is_encoder_decoder": True, "model_type": "t5gemma",
    "pad_token_id": 0, "torch_dtype": "bfloat16", "transformers_version": "4.53.0.dev0", "use_cache": True,
}  # fmt: skip


def test_nested_config():
    config = T5GemmaConfig.from_dict(WHOLE)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (2304, 26, 256000)
    assert (config.bos_token_id, config.eos_token_id) == (2, [1, 107])
    assert config.decoder.window(0) == 4096 and config.decoder.window(1) is None
    assert config.to_dict() == WHOLE


def test_changes_of_a_half_are_written(tmp_path):
    config = T5GemmaConfig.from_dict(WHOLE)
    config.decoder.hidden_size = 128
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again == config and again.to_dict() == {**WHOLE, "decoder": {**HALF, "hidden_size": 128}}
    built = T5GemmaConfig(encoder=T5GemmaModuleConfig(hidden_size=16), decoder={"hidden_size": 24, "bos_token_id": 7})
    built.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again == built and (again.encoder.hidden_size, again.decoder.hidden_size, again.bos_token_id) == (16, 24, 7)
    assert built.replace(dropout_rate=0.5).decoder == built.decoder


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"encoder": {"hidden_size": 0}}, "encoder: hidden_size is 0"),
        ({"decoder": {"sliding_window": 0}}, "decoder: sliding_window is 0; expected more than 0"),
        ({"decoder": {"layer_types": [LOCAL]}}, "expected 26 times"),
        ({"decoder": {"hidden_act": "mish"}}, "hidden_activation is 'mish'"),
        ({"decoder": {"model_type": "gemma2"}}, "reads 't5_gemma_module'"),
        ({"decoder": 3}, "decoder is 3; expected T5GemmaModuleConfig"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        T5GemmaConfig.from_dict(values)


def test_too_many_layers_for_the_file():
    decoder = {**CASES["t5gemma"]["decoder"], "num_hidden_layers": 9999}
    with pytest.raises(ConfigError, match="num_hidden_layers is 9999, but the checkpoint holds"):
        pellucid.T5GemmaModel.from_pretrained(checkpoint("t5gemma", "Model"), decoder=decoder)


def test_the_encoder_of_a_whole_file():
    whole = ours("t5gemma", "ForConditionalGeneration")
    encoder, report = pellucid.T5GemmaEncoderModel.from_pretrained(
        checkpoint("t5gemma", "ForConditionalGeneration"), output_loading_info=True
    )
    assert not report.new and not encoder.config.is_encoder_decoder and whole.config.is_encoder_decoder
    ids = torch.arange(5, 14)[None]
    assert torch.equal(encoder(ids)[0], whole.model.encoder(ids)[0])
    with pytest.raises(WeightsError, match=r"missing in the checkpoint: decoder\."):
        pellucid.T5GemmaModel.from_pretrained(checkpoint("t5gemma:encoder", "EncoderModel"))


def test_what_a_text_is_labelled_from():
    model, ids = ours("t5gemma", "ForTokenClassification"), torch.arange(5, 14)[None]
    read = model.model(ids, decoder_input_ids=torch.cat([torch.tensor([[1]]), ids[:, :-1]], dim=1))
    assert torch.equal(model(ids).logits, model.score(read.last_hidden_state))
    with pytest.raises(InputError, match="pass input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32))
    config = copy.deepcopy(model.config)
    config.decoder.bos_token_id = None
    with pytest.raises(InputError, match="no bos_token_id"):
        type(model)(config)(ids)


def test_windows_of_both_halves():
    """The encoder's window is what lies to each side; the decoder's counts the token itself."""
    model, ids = ours("t5gemma", "ForConditionalGeneration"), torch.arange(5, 20)[None]
    out = model(ids, decoder_input_ids=ids, output_attentions=True)
    around, back = out.encoder_attentions[0][0, 0], out.decoder_attentions[0][0, 0]
    assert around[7].nonzero().flatten().tolist() == list(range(3, 12))
    assert back[7].nonzero().flatten().tolist() == [4, 5, 6, 7]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generates_as_the_original(options):
    model, original = ours("t5gemma", "ForConditionalGeneration"), reference("t5gemma", "ForConditionalGeneration")
    ids = torch.randint(5, 99, (3, 9), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3, **options}
    assert torch.equal(model.generate(ids, **options), original.generate(ids, **options))
