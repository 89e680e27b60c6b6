"""Flax models are the PyTorch models: the same files, the same numbers, the same steps of training."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jax  # isort: skip
import jax.numpy as jnp
import optax
from counterparts import (
    ASKED,
    CAUSAL,
    LABELS,
    TASKS,
    assert_same,
    assert_same_step,
    batch,
    close,
    each_loss,
    heads_in,
    labels_of,
    save_perturbed,
    to_torch,
)
from flax import nnx

import pellucid
import tiny
from cases import CASES
from pellucid import auto
from pellucid.errors import ArgumentError, ConfigError, InputError, NonFiniteError, PellucidError, WeightsError
from pellucid.flax_attention import FlaxLayout
from pellucid.flax_model import named_parameters
from pellucid.outputs import Hidden
from pellucid.pipelines import pipeline

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time here

KIN = ("ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering")
TESTED = {  # the case of an architecture, and the heads to test on it; None for all
    "bert": None,
    "bert:decoder": CAUSAL,
    "roberta": None,
    "roberta:decoder": CAUSAL,
    "xlm_roberta": ("ForMaskedLM",),
    "distilbert": None,
    "gpt2": None,
    "gpt2:scaled": ("LMHeadModel",),
    "llama": None,
    "llama:biases": ("ForCausalLM",),
    "llama:linear": ("Model",),
    "llama:llama3": ("Model",),
    "llama:encoder": ("ForSequenceClassification",),
    "mistral": KIN,
    "qwen2": KIN,
    "qwen3": KIN,
    "t5": None,
    "t5:plain": ("ForConditionalGeneration",),
    "mt5": ("ForConditionalGeneration", "ForTokenClassification"),
}
ENCODERS = ("bert", "roberta", "xlm_roberta")  # whose decoders are cases of their own


HEADS = [
    (name, suffix)
    for name, heads in TESTED.items()
    for suffix in heads_in("flax", name.partition(":")[0])
    if (heads is None or suffix in heads) and not (name in ENCODERS and suffix in CAUSAL)
]
WRITERS = [(name, s) for name, s in HEADS if s in (*CAUSAL, "ForConditionalGeneration")]
each_head = pytest.mark.parametrize(("name", "suffix"), HEADS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return `saved(name, suffix)`: a PyTorch model whose every parameter is perturbed, and the folder it is in."""

    @functools.cache
    def made(name: str, suffix: str):
        kind, folder = auto.heads_of(name.partition(":")[0])[suffix], tmp_path_factory.mktemp("model")
        fields = CASES[name] | LABELS | ({"add_cross_attention": False} if name.endswith(":decoder") else {})
        return save_perturbed(kind, fields, folder), folder

    return made


def load(model, folder, **options):
    return auto.counterpart(type(model), "flax").from_pretrained(folder, **options)


@functools.cache
def compiled():
    return nnx.jit(lambda model, inputs: model(**inputs))


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", auto.architectures_in("flax"))
def test_every_head_of_pytorch_has_its_flax_class(architecture):
    assert heads_in("flax", architecture) == list(auto.heads_of(architecture))


def test_the_last_token_that_is_marked():
    layout = FlaxLayout.of(jnp.zeros((3, 4)), jnp.array([[0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1]]))
    x = jnp.arange(12).reshape(3, 4, 1)
    marked = jnp.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    picked = layout.last(x, marked)[:, 0]
    assert np.asarray(picked).tolist() == [1, 4, 10]  # a text without any gives its first, and padding is none
    assert np.asarray(layout.last(x)[:, 0]).tolist() == [3, 6, 11]


@each_head
def test_numbers_are_those_of_pytorch(name, suffix, saved):
    model, folder = saved(name, suffix)
    flax = load(model, folder)
    for padding in ("", "left", "right"):
        inputs, mask = batch(model, padding)
        given = inputs | labels_of(model, inputs, mask)
        with torch.no_grad():
            expected = model(**to_torch(given), use_cache=False)
        assert_same(compiled()(flax, given), expected, mask)


@each_loss
def test_losses_of_several_labels_and_of_numbers(kind, labels, saved):
    model, folder = saved("bert", "ForSequenceClassification")
    count = {"num_labels": 1, "ignore_mismatched_sizes": True} if labels.ndim == 1 else {}
    flax = load(model, folder, problem_type=kind, **count)
    again = folder.parent / f"loss-{kind}-{labels.ndim}"
    flax.save_pretrained(again)
    model = type(model).from_pretrained(again)
    inputs, _ = batch(model)
    loss = float(model(**to_torch(inputs | {"labels": labels})).loss.detach())
    assert float(flax(**inputs, labels=labels).loss) == pytest.approx(loss, abs=1e-5)


def test_eager_and_compiled_calls_are_the_same(saved):
    model, folder = saved("bert", "ForSequenceClassification")
    flax, (inputs, _) = load(model, folder), batch(model, "right")
    np.testing.assert_allclose(flax(**inputs).logits, compiled()(flax, inputs).logits, atol=1e-6)


def test_embeddings_and_positions_can_be_given(saved):
    model, folder = saved("bert", "Model")
    flax, (inputs, _) = load(model, folder), batch(model)
    words = flax.embeddings.word_embeddings(jnp.asarray(inputs["input_ids"]))
    places = np.broadcast_to(np.arange(7), (3, 7))
    given = flax(inputs_embeds=words, position_ids=places, token_type_ids=inputs["token_type_ids"])
    np.testing.assert_allclose(given.last_hidden_state, flax(**inputs).last_hidden_state, atol=1e-6)
    with pytest.raises(InputError, match="exactly one"):
        flax(inputs_embeds=words, input_ids=inputs["input_ids"])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *(("bert", "ForPreTraining"), ("roberta", "ForSequenceClassification"), ("distilbert", "ForMaskedLM")),
        *(("gpt2", "LMHeadModel"), ("qwen2", "ForCausalLM"), ("t5", "ForConditionalGeneration")),
        *(("bert:decoder", "LMHeadModel"), ("llama", "ForQuestionAnswering"), ("t5", "ForSequenceClassification")),
    ],
)
def test_one_step_of_sgd_gives_the_weights_of_pytorch(name, suffix, saved, tmp_path):
    model, folder = saved(name, suffix)
    model, flax = type(model).from_pretrained(folder), load(model, folder)  # both without dropout
    inputs, mask = batch(model, "right")
    given = inputs | labels_of(model, inputs, mask)
    model(**to_torch(given)).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    optimizer = nnx.Optimizer(flax, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(flax, optimizer, given):
        loss, gradients = nnx.value_and_grad(lambda flax: flax(**given).loss)(flax)
        optimizer.update(flax, gradients)
        return loss

    step(flax, optimizer, given)
    flax.save_pretrained(tmp_path)
    assert_same_step(model, folder, tmp_path)


def test_dropout_is_on_in_training_alone(saved):
    model, folder = saved("bert", "ForSequenceClassification")
    flax, (inputs, _) = load(model, folder), batch(model)
    first = np.asarray(compiled()(flax, inputs).logits)
    assert (first == compiled()(flax, inputs).logits).all()
    flax.train()
    drawn = [np.asarray(compiled()(flax, inputs).logits) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0] != first).any()
    again = load(model, folder, seed=0)
    again.train()
    assert (np.asarray(compiled()(again, inputs).logits) == drawn[0]).all()
    np.testing.assert_array_equal(flax.run(**inputs)["logits"], first)  # whatever the mode
    flax.eval()
    assert (np.asarray(compiled()(flax, inputs).logits) == first).all()


# --- loading and saving -----------------------------------------------------------------------------------------------


@each_head
def test_what_is_saved_is_what_was_loaded_bit_for_bit(name, suffix, saved, tmp_path):
    model, folder = saved(name, suffix)
    load(model, folder).save_pretrained(tmp_path / "out")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize(("name", "suffix"), [("gpt2", "LMHeadModel"), ("t5", "ForConditionalGeneration")])
def test_shards_and_bfloat16(name, suffix, saved, tmp_path):
    model, folder = saved(name, suffix)
    type(model).from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path / "in", max_shard_size="20KB")
    flax = load(model, tmp_path / "in")
    assert flax.dtype == jnp.bfloat16
    assert flax.config.dtype == "bfloat16"
    flax.save_pretrained(tmp_path / "out", max_shard_size="20KB")
    files = sorted(file.name for file in (tmp_path / "in").iterdir())
    assert len(files) > 3
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == files
    for file in files:
        assert (tmp_path / "in" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()
    inputs, _ = batch(model)
    with torch.no_grad():
        expected = type(model).from_pretrained(tmp_path / "in")(**to_torch(inputs), use_cache=False).logits
    apart = np.abs(np.asarray(compiled()(flax, inputs).logits.astype(jnp.float32)) - expected.float().numpy())
    assert apart.max() < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype("float16"), torch.float16])
def test_dtype_by_any_name(dtype, saved):
    model, folder = saved("bert", "Model")
    flax = load(model, folder, dtype=dtype)
    kind = "float16" if "bfloat16" not in str(dtype) else "bfloat16"
    assert {str(parameter.get_value().dtype) for _, parameter in named_parameters(flax)} == {kind}
    inputs, _ = batch(model)
    assert str(flax(**inputs).last_hidden_state.dtype) == kind


def test_wide_parameters_stay_float32_where_float16_would_overflow(saved):
    model, folder = saved("t5", "ForConditionalGeneration")
    flax = load(model, folder, dtype="float16")
    kinds = {name: str(p.get_value().dtype) for name, p in named_parameters(flax)}
    assert {kind for name, kind in kinds.items() if name.endswith("wo.weight")} == {"float32"}
    assert {kind for name, kind in kinds.items() if not name.endswith("wo.weight")} == {"float16"}
    inputs, _ = batch(model)
    expected = model(**to_torch(inputs)).logits.detach().numpy()
    assert np.abs(np.asarray(compiled()(flax, inputs).logits, np.float32) - expected).max() < 0.02


def test_parameters_have_the_names_of_the_checkpoint_and_ties_are_one(saved):
    for name, suffix in (("bert", "ForMaskedLM"), ("gpt2", "LMHeadModel"), ("t5", "ForConditionalGeneration")):
        model, folder = saved(name, suffix)
        flax = load(model, folder)
        own = dict(named_parameters(flax))
        assert {n: tuple(p.get_value().shape) for n, p in own.items()} == {
            n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)
        }
        assert model.ties
        for tied, source in model.ties.items():
            assert tied not in own or own[tied] is own[source]
        assert flax.num_parameters() == model.num_parameters()


def test_a_headed_file_gives_its_backbone_and_a_backbone_a_new_head(saved, tmp_path):
    _, folder = saved("bert", "ForSequenceClassification")
    base = pellucid.FlaxAutoModel.from_pretrained(folder)
    base.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"classifier\.weight"):
        pellucid.FlaxBertForSequenceClassification.from_pretrained(tmp_path)
    made, report = pellucid.FlaxBertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True
    )
    assert report.new == ("classifier.weight", "classifier.bias")
    assert made.classifier.weight.get_value().shape == (5, 32)
    again = pellucid.FlaxBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert (again.classifier.weight.get_value() == made.classifier.weight.get_value()).all()  # of the same seed
    other = pellucid.FlaxBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, seed=1)
    assert (other.classifier.weight.get_value() != made.classifier.weight.get_value()).any()


def test_a_pooler_that_is_not_stored_is_absent(saved, tmp_path):
    model, folder = saved("bert", "ForMaskedLM")
    flax = pellucid.FlaxBertModel.from_pretrained(folder)
    inputs, _ = batch(model)
    assert "pooler_output" not in flax(**inputs)
    flax.save_pretrained(tmp_path)
    assert "pooler_output" not in pellucid.BertModel.from_pretrained(tmp_path)(**to_torch(inputs))


def test_faults_of_a_file_are_named(saved, tmp_path):
    model, folder = saved("bert", "ForMaskedLM")
    state = model.state_dict()
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    kept = {n: t.clone() for n, t in state.items() if "decoder" not in n and "layer.1.output.dense.bias" not in n}
    kept["bert.encoder.layer.0.output.dense.bias"] = torch.zeros(3)
    kept["bert.encoder.layer.0.surplus"] = torch.zeros(3)
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        pellucid.FlaxBertForMaskedLM.from_pretrained(tmp_path)
    for part in ("layer.1.output.dense.bias", "layer.0.output.dense.bias (file [3], model [32])", "layer.0.surplus"):
        assert part in str(caught.value)


def test_random_weights_are_drawn_by_seed_as_in_pytorch():
    config = pellucid.T5Config(**CASES["t5"])
    flax = [pellucid.FlaxAutoModelForSeq2SeqLM.from_config(config, seed=seed) for seed in (3, 3, 4)]
    state = torch.random.get_rng_state()
    own = [
        dict(named_parameters(model))["encoder.block.0.layer.0.SelfAttention.q.weight"].get_value() for model in flax
    ]
    assert (own[0] == own[1]).all()
    assert (own[0] != own[2]).any()
    assert bool((torch.random.get_rng_state() == state).all())
    torch.manual_seed(3)
    model = pellucid.T5ForConditionalGeneration.from_config(config)
    assert (model.encoder.block[0].layer[0].SelfAttention.q.weight.detach().numpy() == np.asarray(own[0])).all()
    assert (
        pellucid.FlaxBertModel.from_config(pellucid.BertConfig(**CASES["bert"]), dtype="bfloat16").dtype == jnp.bfloat16
    )


def test_a_model_that_was_only_built_says_that_it_has_no_weights():
    model = pellucid.FlaxBertModel(pellucid.BertConfig(**CASES["bert"]), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"no weights yet.*from_pretrained"):
        model(np.ones((1, 3), np.int32))


def test_a_subclass_of_a_user_loads_and_saves(saved, tmp_path):
    model, folder = saved("bert", "ForSequenceClassification")

    class Mine(pellucid.FlaxBertForSequenceClassification):
        pass

    Mine.from_pretrained(folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]


def test_a_parameter_that_was_added_can_not_be_saved(saved, tmp_path):
    model, folder = saved("bert", "Model")
    flax = load(model, folder)
    flax.extra = nnx.Param(jnp.zeros(3))
    with pytest.raises(WeightsError, match="extra"):
        flax.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_names_that_do_not_exist(saved):
    with pytest.raises(AttributeError, match=r"FlaxPhiModel.*'flax' has classes of bert.*PhiModel"):
        _ = pellucid.FlaxPhiModel
    with pytest.raises(AttributeError, match="FlaxBertDecoderModel; of bert"):
        _ = pellucid.FlaxBertDecoderModel
    assert not hasattr(pellucid, "FlaxNothing")
    config = pellucid.AutoConfig.for_model("phi")
    with pytest.raises(ConfigError, match="There is no FlaxPhiForCausalLM"):
        pellucid.FlaxAutoModelForCausalLM.from_config(config)


def test_arguments_and_inputs_that_are_wrong(saved):
    model, folder = saved("bert", "ForSequenceClassification")
    flax, ids = load(model, folder), np.ones((2, 5), np.int32)
    for error, match, call in (
        (ArgumentError, "'attention_maks'; did you mean 'attention_mask'", lambda: flax(ids, attention_maks=ids)),
        (InputError, "list.*return_tensors='jax'", lambda: flax([[1, 2]])),
        (InputError, "float32; expected whole numbers", lambda: flax(ids.astype(np.float32))),
        (InputError, "input_ids holds 99; expected 0 to 98", lambda: flax(ids + 98)),
        (InputError, "input_ids holds -1", lambda: flax(ids - 2)),
        (InputError, "token_type_ids holds 2", lambda: flax(ids, token_type_ids=ids + 1)),
        (InputError, "41 tokens.*at most 40", lambda: flax(np.ones((1, 41), np.int32))),
        (InputError, r"attention_mask has the shape \(2, 4\)", lambda: flax(ids, ids[:, :4])),
        (InputError, "attention_mask holds something else", lambda: flax(ids, ids * 2)),
        (PellucidError, "expected a batch", lambda: flax(ids[0])),
        (InputError, "float64.*jax_enable_x64", lambda: load(model, folder, dtype="float64")),
        (InputError, "dtype is 'int8'", lambda: load(model, folder, dtype="int8")),
        (InputError, "dtype is 'floot16'", lambda: load(model, folder, dtype="floot16")),
        (ArgumentError, "jax.default_device", lambda: load(model, folder, device="cuda")),
        (ArgumentError, "nam_labels", lambda: load(model, folder, nam_labels=3)),
    ):
        with pytest.raises(error, match=match):
            call()


def test_ids_outside_the_vocabulary_give_nan_where_they_can_not_be_checked(saved):
    model, folder = saved("gpt2", "Model")
    flax = load(model, folder)
    assert bool(jnp.isnan(compiled()(flax, {"input_ids": np.full((1, 2), 99)}).last_hidden_state).all())


def test_a_config_that_only_pytorch_implements():
    config = pellucid.AutoConfig.for_model("llama", **CASES["llama:dynamic"])
    with pytest.raises(ConfigError, match="rope_type is 'dynamic'"):
        pellucid.FlaxAutoModelForCausalLM.from_config(config)
    for name in ("gpt2", "bert:decoder", "roberta:decoder"):
        told = CASES[name] | {"add_cross_attention": True}
        config = pellucid.AutoConfig.for_model(name.partition(":")[0], **told)
        with pytest.raises(ConfigError, match="add_cross_attention is True, which only"):
            pellucid.FlaxAutoModelForCausalLM.from_config(config)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "suffix"), WRITERS)
def test_greedy_writing_is_that_of_pytorch(name, suffix, saved):
    model, folder = saved(name, suffix)
    flax = load(model, folder)
    for padding in ("left", "right"):
        inputs, mask = batch(model, padding)
        ids, mask = inputs["input_ids"], np.asarray(mask)
        expected = model.generate(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), max_new_tokens=12)
        np.testing.assert_array_equal(flax.generate(ids, mask, max_new_tokens=12), expected.numpy())


def test_prompts_of_many_lengths_end_where_pytorch_ends(saved):
    model, folder = saved("gpt2", "LMHeadModel")
    flax, random = load(model, folder), np.random.default_rng(3)
    flax.train()  # which writing does not mind, nor change
    for length in (1, 2, 15, 16, 17, 33):
        ids = random.integers(4, 99, (2, length))
        for told in ({}, {"max_length": length + 3}, {"max_new_tokens": 7, "eos_token_id": [5, 60, 61, 62, 63]}):
            expected = model.generate(torch.from_numpy(ids), **told)
            np.testing.assert_array_equal(flax.generate(ids, **told), expected.numpy())
    assert flax.transformer.drop.deterministic is False


def test_padding_is_read_off_the_ids_where_nobody_says(saved):
    model, folder = saved("gpt2", "LMHeadModel")
    flax, (inputs, mask) = load(model, folder), batch(model, "left")
    told = flax.generate(inputs["input_ids"], mask, max_new_tokens=5)
    np.testing.assert_array_equal(flax.generate(inputs["input_ids"], max_new_tokens=5), told)


def test_drawing_goes_by_seed_and_by_what_is_likely(saved):
    model, folder = saved("llama", "ForCausalLM")
    flax, (inputs, _) = load(model, folder), batch(model)
    ids = np.repeat(inputs["input_ids"][:1], 256, 0)
    one = {"max_new_tokens": 1, "do_sample": True, "eos_token_id": None}
    with torch.no_grad():
        chances = (model(torch.from_numpy(ids[:1])).logits[0, -1] / 0.8).softmax(-1).numpy()
    order = chances.argsort()[::-1]
    drawn = np.asarray(flax.generate(ids, **one, temperature=0.8, top_k=3))[:, -1]
    assert {*drawn.tolist()} == {*order[:3].tolist()}
    needed = int((chances[order].cumsum() < 0.4).sum()) + 1
    drawn = np.asarray(flax.generate(ids, **one, temperature=0.8, top_k=0, top_p=0.4))[:, -1]
    assert {*drawn.tolist()} <= {*order[:needed].tolist()}
    assert len({*drawn.tolist()}) > 1
    free = [np.asarray(flax.generate(ids, **one, top_k=0, seed=seed)) for seed in (1, 1, 2)]
    assert (free[0] == free[1]).all()
    assert (free[0] != free[2]).any()
    assert (flax.generate(ids[:2], **(one | {"temperature": 0.0}))[:, -1] == order[0]).all()


def test_settings_of_the_file_count_and_what_is_not_implemented_is_refused(saved, tmp_path):
    model, folder = saved("gpt2", "LMHeadModel")
    flax, ids = load(model, folder), np.ones((1, 4), np.int32)
    flax.generation_config = pellucid.GenerationConfig(max_new_tokens=3, num_beams=4)
    with pytest.raises(InputError, match=r"num_beams=4.*GPT2LMHeadModel"):
        flax.generate(ids)
    assert flax.generate(ids, num_beams=1).shape == (1, 7)
    flax.save_pretrained(tmp_path)
    assert load(model, tmp_path).generation_config.num_beams == 4
    for error, match, told in (
        (ArgumentError, "'max_new_token'; did you mean", {"max_new_token": 3}),
        (InputError, "repetition_penalty=1.2", {"repetition_penalty": 1.2, "num_beams": 1}),
        (InputError, "top_p would do nothing", {"top_p": 0.5, "num_beams": 1}),
        (InputError, "no room to go on", {"max_length": 4, "num_beams": 1}),
        (InputError, "use_cache", {"use_cache": False, "num_beams": 1}),
    ):
        with pytest.raises(error, match=match):
            flax.generate(ids, **told)
    with pytest.raises(InputError, match="attention_mask is 0 on every token"):
        flax.generate(ids, ids * 0, num_beams=1)
    bert, folder = saved("bert", "ForMaskedLM")
    with pytest.raises(InputError, match="can not write"):
        load(bert, folder).generate(ids)


def test_scores_that_are_not_finite_raise(saved):
    model, folder = saved("gpt2", "LMHeadModel")
    flax = load(model, folder)
    flax.transformer.ln_f.bias.set_value(jnp.full(32, jnp.nan))
    with pytest.raises(NonFiniteError, match="step 0"):
        flax.generate(np.ones((1, 3), np.int32), max_new_tokens=3)


def test_a_cache_in_pieces_is_one_pass(saved):
    model, folder = saved("mistral", "ForCausalLM")
    flax, (inputs, mask) = load(model, folder), batch(model, "left", length=9)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    whole = np.asarray(flax(ids, mask).logits)
    cache = flax.empty_cache(3, 16)
    for begin, end in ((0, 4), (4, 5), (5, 9)):
        part = flax(ids[:, begin:end], mask[:, begin:end], cache=cache).logits
        real = mask[:, begin:end] == 1
        np.testing.assert_allclose(np.asarray(part)[real], whole[:, begin:end][real], atol=1e-5)


def test_an_encoder_can_read_once(saved):
    model, folder = saved("t5", "ForConditionalGeneration")
    flax, (inputs, mask) = load(model, folder), batch(model, "right")
    states = flax.encoder(jnp.asarray(inputs["input_ids"]), jnp.asarray(mask))
    again = flax(
        encoder_outputs=Hidden(last_hidden_state=states),
        attention_mask=mask,
        decoder_input_ids=inputs["decoder_input_ids"],
    )
    np.testing.assert_allclose(again.logits, compiled()(flax, inputs).logits, atol=1e-5)
    with pytest.raises(InputError, match="target is missing"):
        flax(inputs["input_ids"])


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_pipelines_answer_as_in_pytorch(task, architecture, tmp_path):
    model = tiny.model(task, architecture)
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    flax = pipeline(task, str(tmp_path), framework="flax")
    assert type(flax.model.model).__name__ == f"Flax{type(model).__name__}"
    given, told = TASKS[task], ASKED.get(task, {})
    assert close(flax(given, **told), pipeline(task, model, tokenizer=tiny.tokenizer())(given, **told))
    if task == "text-classification":
        assert "logits" in str(flax.trace(given[0]))
        flax.save_pretrained(tmp_path / "again")
        assert pipeline(task, tmp_path / "again")(given) == pipeline(task, tmp_path)(given)


@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        *(("text-generation", "llama"), ("text-generation", "roberta:decoder"), ("text2text-generation", "t5")),
        *(("summarization", "t5"), ("translation_en_to_fr", "mt5")),
    ],
)
def test_pipelines_write_as_in_pytorch(task, architecture, tmp_path):
    model = tiny.model(task, architecture)
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    flax, given = pipeline(task, tmp_path, framework="flax"), ["anna smith", "the good film of berlin is", "who"]
    told = {"max_new_tokens": 8, "do_sample": False}
    assert flax(given, **told) == pipeline(task, model, tokenizer=tiny.tokenizer())(given, **told)
    with pytest.raises(InputError, match="num_beams=2"):
        flax(given, **told, num_beams=2)


def test_a_loaded_model_runs_in_a_pipeline_and_wrong_ones_are_refused(tmp_path):
    model = tiny.model("text-classification")
    model.save_pretrained(tmp_path)
    flax, words = pellucid.FlaxAutoModelForSequenceClassification.from_pretrained(tmp_path), tiny.tokenizer()
    assert pipeline(model=flax, tokenizer=words)("good film") == pipeline(
        "text-classification", flax, tokenizer=words, framework="flax"
    )("good film")
    with pytest.raises(InputError, match="BertForSequenceClassification has not the head"):
        pipeline("fill-mask", flax, tokenizer=words)
    with pytest.raises(InputError, match="framework is 'jax'; expected 'pt', 'flax' or 'tf'"):
        pipeline("text-classification", tmp_path, tokenizer=words, framework="jax")
    with pytest.raises(InputError, match="device=0 is for PyTorch"):
        pipeline("text-classification", tmp_path, tokenizer=words, framework="flax", device=0)


def test_tokenizers_give_arrays_of_jax(saved):
    encoded = tiny.tokenizer()(["good film", "anna"], padding=True, return_tensors="jax")
    assert isinstance(encoded["input_ids"], jax.Array)
    model = tiny.model("text-classification")
    flax = pellucid.FlaxBertForSequenceClassification.from_config(model.config)
    flax.eval()
    assert flax(**encoded).logits.shape == (2, 2)


# --- imports ----------------------------------------------------------------------------------------------------------


def test_jax_is_not_imported_until_it_is_asked_for():
    work = "import pellucid; from pellucid import AutoModel, BertModel, pipeline, generate, AutoTokenizer"
    code = f"{work}\nimport sys\nprint(*[name for name in ('jax', 'flax', 'optax') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_success_is_silent(saved):
    _, folder = saved("bert", "ForMaskedLM")
    code = (
        "from pellucid import FlaxAutoModelForMaskedLM\n"
        f"model = FlaxAutoModelForMaskedLM.from_pretrained({str(folder)!r})\n"
        "import numpy as np\nassert model(np.ones((1, 3), int)).logits.shape == (1, 3, 99)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert Path(folder).is_dir()
