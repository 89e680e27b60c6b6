"""T5's published configurations, what its files say of tied words, and what float16 can not hold."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import checkpoint, ours, reference_class
from pellucid.errors import ConfigError, WeightsError
from pellucid.models.t5 import (
    MT5Config,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Model,
)

SMALL = {  # t5-small's
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 8,
    "num_layers": 6, "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}, "vocab_size": 32128,
}  # fmt: skip
PUBLISHED = {
    "t5-small": SMALL,
    "flan-t5-base": SMALL | {
        "d_model": 768, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 12, "num_heads": 12, "num_layers": 12,
        "tie_word_embeddings": False, "transformers_version": "4.23.1", "use_cache": True},
    "byt5-small": SMALL | {
        "d_ff": 3584, "d_model": 1472, "feed_forward_proj": "gated-gelu", "gradient_checkpointing": False,
        "num_decoder_layers": 4, "num_heads": 6, "num_layers": 12, "tie_word_embeddings": False,
        "tokenizer_class": "ByT5Tokenizer", "vocab_size": 384},
    "flan-t5-xl of version 5": SMALL | {
        "d_ff": 5120, "dense_act_fn": "gelu_new", "dtype": "float32", "feed_forward_proj": "gated-gelu",
        "is_gated_act": True, "scale_decoder_outputs": False, "tie_word_embeddings": True, "head_dim": 64},
    "the text part of blip2-flan-t5-xl": SMALL | {
        "bos_token_id": 1, "classifier_dropout": 0.0, "dense_act_fn": "gelu", "feed_forward_proj": "gated-gelu",
        "is_gated_act": True, "relative_attention_max_distance": 128, "tie_word_embeddings": False},
}  # fmt: skip


@pytest.mark.parametrize("values", PUBLISHED.values(), ids=PUBLISHED)
def test_published_configs(values):
    config = T5Config.from_dict(values)
    original = reference_class("t5", "Model").config_class.from_dict(values)
    assert config.to_dict() == values
    assert (config.hidden_size, config.num_hidden_layers) == (original.hidden_size, original.num_hidden_layers)
    assert (config.activation, config.gated) == (original.dense_act_fn, original.is_gated_act)
    assert (config.scales_head, config.decoder_depth) == (original.scale_decoder_outputs, original.num_decoder_layers)
    assert config.max_tokens is None


def test_the_published_config_of_mt5():
    values = SMALL | {
        "architectures": ["MT5ForConditionalGeneration"], "d_ff": 1024, "feed_forward_proj": "gated-gelu",
        "model_type": "mt5", "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer", "vocab_size": 250112}  # fmt: skip
    for flag in (False, True):  # as published, and as version 5 writes it
        config = MT5Config.from_dict(values | {"tie_word_embeddings": flag})
        assert config.to_dict() == values | {"tie_word_embeddings": flag} and not config.scales_head
    assert MT5Config() == MT5Config.from_dict({name: values[name] for name in ("d_ff", "num_layers", "vocab_size")})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj or dense_act_fn is 'mish'; expected one of gelu"),
        ({"relative_attention_num_buckets": 3}, "relative_attention_num_buckets is 3; expected at least 4"),
        ({"relative_attention_max_distance": 16}, r"is 16; expected more than half of the buckets \(32\)"),
        ({"num_layers": 0}, "num_layers or num_decoder_layers is 0; expected at least 1"),
        ({"add_cross_attention": True}, "add_cross_attention is True; only False is implemented"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        T5Config(**values)


# --- what is tied -----------------------------------------------------------------------------------------------------


def rewritten(folder, change, **fields):
    """Write a checkpoint of the original anew, with other tensors and other fields."""
    source = checkpoint("t5", "ForConditionalGeneration")
    save_file(change(load_file(source / "model.safetensors")), folder / "model.safetensors")
    config = T5Config.from_pretrained(source).to_dict() | fields
    T5Config.from_dict({name: value for name, value in config.items() if value is not None}).save_pretrained(folder)
    return folder


def logits(model):
    return model(torch.arange(5, 14)[None], decoder_input_ids=torch.tensor([[3, 8, 7]]))[0]


def with_head(tensors):
    torch.manual_seed(7)
    return tensors | {"lm_head.weight": torch.randn_like(tensors["shared.weight"])}


@pytest.mark.parametrize(
    "fields",
    [
        {"tie_word_embeddings": False, "scale_decoder_outputs": None},  # as published
        {"tie_word_embeddings": True, "scale_decoder_outputs": False},  # as version 5 writes it
    ],
    ids=["version 4", "version 5"],
)
def test_a_head_of_its_own(fields, tmp_path):
    model = T5ForConditionalGeneration.from_pretrained(rewritten(tmp_path, with_head, **fields))
    assert not torch.equal(model.lm_head.weight, model.shared.weight) and not model.config.scales_head
    original = reference_class("t5", "ForConditionalGeneration").from_pretrained(tmp_path)
    assert torch.allclose(logits(model), logits(original), atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "again")
    original = type(original).from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(model)) and torch.allclose(logits(original), logits(again), atol=1e-5)


def test_one_table_for_all_though_the_config_denies_it(tmp_path):
    """As in the files of LongT5: the flag was only ever to say that the head does not scale."""
    rewritten(tmp_path, dict, tie_word_embeddings=False, scale_decoder_outputs=None)
    model = T5ForConditionalGeneration.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.shared.weight and not model.config.scales_head
    original = reference_class("t5", "ForConditionalGeneration").from_pretrained(tmp_path)
    assert torch.allclose(logits(model), logits(original), atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(model))


def test_old_files_hold_words_thrice_and_a_table_that_nothing_reads(tmp_path):
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    rewritten(
        tmp_path, lambda t: t | {name: t["shared.weight"].clone() for name in names} | {unread: torch.zeros(8, 4)}
    )
    wanted = ours("t5", "ForConditionalGeneration")
    assert torch.equal(logits(T5ForConditionalGeneration.from_pretrained(tmp_path)), logits(wanted))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {names[0]: tensors[names[0]] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"encoder\.embed_tokens\.weight and shared\.weight differ"):
        T5Model.from_pretrained(tmp_path)


def test_words_under_the_decoders_name_alone(tmp_path):
    """As in the files of MADLAD-400."""

    def moved(tensors):
        tensors = with_head(tensors)
        return tensors | {"decoder.embed_tokens.weight": tensors.pop("shared.weight")}

    model = T5ForConditionalGeneration.from_pretrained(rewritten(tmp_path, moved, tie_word_embeddings=False))
    whole = ours("t5", "ForConditionalGeneration")
    assert torch.equal(model.shared.weight, whole.shared.weight)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight
    assert not torch.equal(model.lm_head.weight, model.shared.weight)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_parts_of_a_whole_model(tmp_path):
    source, ids = checkpoint("t5", "ForConditionalGeneration"), torch.arange(5, 14)[None]
    states = ours("t5", "ForConditionalGeneration")(ids, decoder_input_ids=ids).encoder_last_hidden_state
    assert torch.equal(T5EncoderModel.from_pretrained(source)(ids)[0], states)
    for kind in (T5ForTokenClassification, T5ForSequenceClassification, T5ForQuestionAnswering):
        model = kind.from_pretrained(source, num_labels=2)
        assert model.load_report and model.load_report.new and not set(model.load_report.new) & set(model.tied)
    model.save_pretrained(tmp_path)
    assert torch.equal(T5EncoderModel.from_pretrained(tmp_path)(ids)[0], states)
    assert T5ForSequenceClassification.from_pretrained(tmp_path, num_labels=2).load_report.ignored


def test_random_weights_are_drawn_by_their_size():
    torch.manual_seed(0)
    config = T5Config(d_model=64, d_kv=16, num_heads=8, d_ff=256, num_layers=1, tie_word_embeddings=False)
    layer = (model := T5ForConditionalGeneration(config)).decoder.block[0].layer
    sizes = {
        layer[0].SelfAttention.q: 1 / 32, layer[0].SelfAttention.v: 1 / 8, layer[1].EncDecAttention.o: 128**-0.5,
        layer[2].DenseReluDense.wi: 1 / 8, layer[2].DenseReluDense.wo: 1 / 16, model.shared: 1, model.lm_head: 1,
        layer[0].SelfAttention.relative_attention_bias: 1 / 8,
    }  # fmt: skip
    for module, size in sizes.items():
        assert module.weight.std().item() == pytest.approx(size, rel=0.15)
    assert (layer[0].layer_norm.weight == 1).all()


# --- float16 ----------------------------------------------------------------------------------------------------------


def test_large_sums_survive_float16(tmp_path):
    names = [name for name in ours("t5", "Model").state_dict() if name.endswith("wo.weight")]
    rewritten(tmp_path, lambda t: t | {name: t[name] * 1e5 for name in names})
    ids = torch.arange(5, 14)[None]
    exact = T5EncoderModel.from_pretrained(tmp_path)(ids)[0]
    model = T5EncoderModel.from_pretrained(tmp_path, dtype="float16")
    assert {p.dtype for n, p in model.named_parameters() if n.endswith("wo.weight")} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if not n.endswith("wo.weight")} == {torch.float16}
    assert model(ids)[0].dtype == torch.float16 and torch.allclose(model(ids)[0].float(), exact, atol=2e-2)
    model = T5EncoderModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
