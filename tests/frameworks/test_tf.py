"""Keras models are the PyTorch models: the same files, the same numbers, the same steps of training."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import keras  # isort: skip
import tensorflow as tf
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

import pellucid
import tiny
from cases import CASES
from pellucid import auto
from pellucid.errors import ArgumentError, ConfigError, InputError, NonFiniteError, PellucidError, WeightsError
from pellucid.pipelines import pipeline
from pellucid.tf_attention import TFLayout
from pellucid.tf_model import named_parameters

LLAMA = CASES["llama"]
LLAMA3 = {
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
}
BIASED = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
VARIANTS = {  # the architecture, and the fields of a small config
    "bert": ("bert", CASES["bert"] | LABELS),
    "bert decoder": ("bert", CASES["bert:decoder"] | {"add_cross_attention": False}),
    "roberta decoder": ("roberta", CASES["roberta:decoder"]),
    "camembert decoder": ("camembert", CASES["roberta:decoder"]),
    "roberta": ("roberta", CASES["roberta"] | LABELS),
    "xlm_roberta": ("xlm_roberta", CASES["roberta"] | LABELS),
    "distilbert": ("distilbert", CASES["distilbert"] | LABELS),
    "gpt2": ("gpt2", CASES["gpt2"] | LABELS | {"scale_attn_by_inverse_layer_idx": True}),
    "llama": ("llama", LLAMA | LABELS),
    "llama tied": ("llama", LLAMA | BIASED | LLAMA3),
    "llama both sides": ("llama", LLAMA | LABELS | {"is_causal": False}),
    "mistral": ("mistral", LLAMA | LABELS | {"sliding_window": 4}),
    "qwen2": ("qwen2", CASES["qwen2"] | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", LLAMA),
    "t5": ("t5", CASES["t5"]),
    "mt5": ("mt5", CASES["mt5"]),
}


def fits(name: str, suffix: str) -> bool:
    """Tell whether a head reads in the directions that a variant is made for; only those of BERT's family mind."""
    architecture, fields = VARIANTS[name]
    minds = architecture in ("bert", "roberta", "xlm_roberta", "camembert")
    return not minds or (suffix in CAUSAL) == fields.get("is_decoder", False)


HEADS = [
    (name, suffix) for name, (kind, _) in VARIANTS.items() for suffix in heads_in("tf", kind) if fits(name, suffix)
]
WRITERS = [(name, s) for name, s in HEADS if s in (*CAUSAL, "ForConditionalGeneration")]
WRITERS.remove(("llama both sides", "ForCausalLM"))
each_head = pytest.mark.parametrize(("name", "suffix"), HEADS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return `saved(name, suffix)`: a PyTorch model whose every parameter is perturbed, and the folder it is in."""

    @functools.cache
    def made(name: str, suffix: str):
        (architecture, fields), folder = VARIANTS[name], tmp_path_factory.mktemp("model")
        return save_perturbed(auto.heads_of(architecture)[suffix], fields, folder), folder

    return made


def load(model, folder, **options):
    return auto.counterpart(type(model), "tf").from_pretrained(folder, **options)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", auto.architectures_in("tf"))
def test_every_head_of_pytorch_has_its_keras_class(architecture):
    assert heads_in("tf", architecture) == list(auto.heads_of(architecture))


def test_the_last_token_that_is_marked():
    layout = TFLayout.of(tf.zeros((3, 4)), tf.constant([[0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1]]))
    x = tf.reshape(tf.range(12.0), (3, 4, 1))
    marked = tf.constant([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    picked = layout.last(x, marked)[:, 0]
    assert np.asarray(picked).tolist() == [1, 4, 10]  # a text without any gives its first, and padding is none
    assert np.asarray(layout.last(x)[:, 0]).tolist() == [3, 6, 11]


@each_head
def test_numbers_are_those_of_pytorch(name, suffix, saved):
    model, folder = saved(name, suffix)
    keras_model = load(model, folder)
    assert isinstance(keras_model, keras.Model)
    for padding in ("", "left", "right"):
        inputs, mask = batch(model, padding)
        given = inputs | labels_of(model, inputs, mask)
        with torch.no_grad():
            expected = model(**to_torch(given), use_cache=False)
        assert_same(keras_model(**given), expected, mask)


@pytest.mark.parametrize(("name", "suffix"), [("bert", "ForPreTraining"), ("gpt2", "LMHeadModel"), ("llama", "Model")])
def test_compiled_calls_are_the_same_with_and_without_xla(name, suffix, saved):
    model, folder = saved(name, suffix)
    keras_model, (inputs, mask) = load(model, folder), batch(model, "left")
    eager = keras_model(**inputs)
    shapeless = {name: tf.TensorSpec((None, None), tf.int64) for name in inputs}
    for told in ({"input_signature": [shapeless]}, {"jit_compile": True}):
        compiled = tf.function(lambda inputs: keras_model(inputs), autograph=False, **told)
        output = compiled({name: tf.constant(value) for name, value in inputs.items()})
        assert type(output) is dict
        for part, value in output.items():
            real = mask == 1 if value.shape[:2] == mask.shape else slice(None)
            np.testing.assert_allclose(value.numpy()[real], eager[part].numpy()[real], atol=1e-5)


@each_loss
def test_losses_of_several_labels_and_of_numbers(kind, labels, saved):
    model, folder = saved("bert", "ForSequenceClassification")
    count = {"num_labels": 1, "ignore_mismatched_sizes": True} if labels.ndim == 1 else {}
    keras_model = load(model, folder, problem_type=kind, **count)
    again = folder.parent / f"loss-{kind}-{labels.ndim}"
    keras_model.save_pretrained(again)
    model = type(model).from_pretrained(again)
    inputs, _ = batch(model)
    loss = float(model(**to_torch(inputs | {"labels": labels})).loss.detach())
    assert float(keras_model(**inputs, labels=labels).loss) == pytest.approx(loss, abs=1e-5)


def test_embeddings_and_positions_can_be_given(saved):
    model, folder = saved("bert", "Model")
    keras_model, (inputs, _) = load(model, folder), batch(model)
    words = keras_model.embeddings.word_embeddings(tf.constant(inputs["input_ids"]))
    places = np.broadcast_to(np.arange(7), (3, 7))
    given = keras_model(inputs_embeds=words, position_ids=places, token_type_ids=inputs["token_type_ids"])
    np.testing.assert_allclose(given.last_hidden_state, keras_model(**inputs).last_hidden_state, atol=1e-6)
    with pytest.raises(InputError, match="exactly one"):
        keras_model(inputs_embeds=words, input_ids=inputs["input_ids"])


def test_ragged_texts_are_padded_and_masked(saved):
    ids = tf.ragged.constant([[5, 6, 7, 8], [9, 10], [11, 12, 13]])
    mask = tf.ones_like(ids).to_tensor(0)

    def compare(given, padded, model):
        graph = tf.function(lambda inputs: model(inputs))
        wanted, outputs = model(padded), (model(given), graph(given), dict(model(**given).items()))
        for output in outputs:
            for name, part in wanted.items():
                real = mask.numpy() == 1 if name == "logits" and part.shape[:2] == mask.shape else ...
                np.testing.assert_allclose(output[name][real], part[real], atol=1e-5)

    bert = load(*saved("bert", "ForTokenClassification"))
    labels = tf.ragged.constant([[0, 1, 2, 1], [2, 0], [1, -100, 0]])
    compare(
        {"input_ids": ids, "labels": labels},
        {"input_ids": ids.to_tensor(0), "attention_mask": mask, "labels": labels.to_tensor(-100)},
        bert,
    )
    np.testing.assert_allclose(bert(ids).logits, bert(ids.to_tensor(0), mask).logits)
    words = bert.bert.embeddings.word_embeddings(ids.to_tensor(0))
    given = {"inputs_embeds": tf.RaggedTensor.from_tensor(words, ids.row_lengths())}
    compare(given, {"inputs_embeds": words, "attention_mask": mask}, bert)
    t5 = load(*saved("t5", "ForConditionalGeneration"))
    target = tf.ragged.constant([[15, 16], [17], [18, 19]])
    compare(
        {"input_ids": ids, "decoder_input_ids": target},
        {
            "input_ids": ids.to_tensor(3),
            "attention_mask": mask,
            "decoder_input_ids": target.to_tensor(3),
            "decoder_attention_mask": tf.ones_like(target).to_tensor(0),
        },
        t5,
    )
    written = t5.generate(ids.to_tensor(3), mask, max_new_tokens=4)
    assert (t5.generate(ids, max_new_tokens=4) == written).numpy().all()


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *(("bert", "ForPreTraining"), ("roberta", "ForSequenceClassification"), ("distilbert", "ForMaskedLM")),
        *(("gpt2", "LMHeadModel"), ("qwen3", "ForCausalLM"), ("t5", "ForConditionalGeneration")),
        *(("bert decoder", "LMHeadModel"), ("mistral", "ForQuestionAnswering"), ("t5", "ForSequenceClassification")),
    ],
)
def test_one_step_of_sgd_gives_the_weights_of_pytorch(name, suffix, saved, tmp_path):
    model, folder = saved(name, suffix)
    model, keras_model = type(model).from_pretrained(folder), load(model, folder)  # both without dropout
    inputs, mask = batch(model, "right")
    given = inputs | labels_of(model, inputs, mask)
    model(**to_torch(given)).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with tf.GradientTape() as tape:
        loss = keras_model(**given).loss
    variables = keras_model.trainable_variables
    assert len(variables) == len({id(v) for v in variables}) == len(list(model.parameters()))
    optimizer = keras.optimizers.SGD(0.1)
    # A table that is not looked up has no gradient in TensorFlow; the original's is zero.
    pairs = [(g, v) for g, v in zip(tape.gradient(loss, variables), variables, strict=True) if g is not None]
    optimizer.apply(*zip(*pairs, strict=True))
    keras_model.save_pretrained(tmp_path)
    assert_same_step(model, folder, tmp_path)


def test_dropout_is_on_in_training_alone(saved):
    model, folder = saved("bert", "ForSequenceClassification")
    keras_model, (inputs, _) = load(model, folder), batch(model)
    first = keras_model(**inputs).logits.numpy()
    assert (first == keras_model(**inputs, training=False).logits).numpy().all()
    drawn = [keras_model(**inputs, training=True).logits.numpy() for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0] != first).any()
    np.testing.assert_allclose(keras_model.run(**inputs)["logits"], first, atol=1e-6)


def ragged(count: int = 6):
    """Give rows of changing lengths, with labels that the first token tells."""
    random = np.random.default_rng(5)
    for length in random.integers(3, 9, count):
        ids = random.integers(4, 99, length).astype(np.int32)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}, np.int32(ids[0] % 2)


def dataset():
    shape = tf.TensorSpec((None,), tf.int32)
    rows = tf.data.Dataset.from_generator(
        ragged,
        output_signature=({"input_ids": shape, "attention_mask": shape}, tf.TensorSpec((), tf.int32)),
    )
    return rows.padded_batch(2).apply(tf.data.experimental.assert_cardinality(3))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fit_learns_from_batches_of_changing_lengths(policy, saved, tmp_path):
    model, folder = saved("bert", "ForSequenceClassification")
    keras.config.set_dtype_policy(policy)
    try:
        keras_model = load(model, folder)
    finally:
        keras.config.set_dtype_policy("float32")
    kinds = {keras.backend.standardize_dtype(variable.dtype) for _, variable in named_parameters(keras_model)}
    assert kinds == {"float32"}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras_model.compile(keras.optimizers.Adam(3e-3), loss={"logits": loss}, jit_compile=False)
    batches = dataset().map(lambda inputs, label: (inputs, {"logits": label}))
    history = keras_model.fit(batches, epochs=6, verbose=0, shuffle=False).history["loss"]
    assert history[-1] < 0.7 * history[0]
    predicted = keras_model.predict(batches, verbose=0)["logits"]
    assert predicted.shape == (6, 3)
    keras_model.save_pretrained(tmp_path)
    twin = type(model).from_pretrained(tmp_path)
    rows = [twin(torch.from_numpy(row["input_ids"][None]).long()).logits[0].detach().numpy() for row, _ in ragged()]
    np.testing.assert_allclose(predicted, rows, atol=1e-5 if policy == "float32" else 0.2)


def test_fit_needs_no_loss_when_labels_are_among_the_inputs(saved):
    model, folder = saved("distilbert", "ForSequenceClassification")
    keras_model = load(model, folder)
    keras_model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
    batches = dataset().map(lambda inputs, label: inputs | {"labels": label})
    history = keras_model.fit(batches, epochs=6, verbose=0, shuffle=False).history["loss"]
    assert history[-1] < 0.8 * history[0]


def ragged_dataset():
    shape = tf.TensorSpec((None,), tf.int32)
    rows = tf.data.Dataset.from_generator(
        lambda: ((row["input_ids"], label) for row, label in ragged()),
        output_signature=(shape, tf.TensorSpec((), tf.int32)),
    )
    batches = rows.ragged_batch(2).apply(tf.data.experimental.assert_cardinality(3))
    return batches.map(lambda ids, label: ({"input_ids": ids}, {"logits": label}))


def test_fit_learns_from_ragged_batches_as_from_padded_ones(saved):
    model, folder = saved("distilbert", "ForSequenceClassification")
    padded = dataset().map(lambda inputs, label: (inputs, {"logits": label}))
    found = []
    for batches in (padded, ragged_dataset()):
        keras_model = load(model, folder, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        keras_model.compile(keras.optimizers.Adam(3e-3), loss={"logits": loss}, jit_compile=False)
        told = {"epochs": 2, "verbose": 0, "shuffle": False, "validation_data": batches}
        history = keras_model.fit(batches, **told).history
        scores = keras_model.predict(batches, verbose=0)["logits"]
        found.append([*history["loss"], *history["val_loss"], keras_model.evaluate(batches, verbose=0), *scores.flat])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert found[1][1] < found[1][0]


def test_xla_compiles_a_step_on_a_ragged_batch(saved):
    model, folder = saved("distilbert", "ForSequenceClassification")
    losses = []
    for xla in (False, True):
        keras_model = load(model, folder, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        keras_model.compile(keras.optimizers.SGD(0.1), loss={"logits": loss}, jit_compile=xla)
        losses += keras_model.fit(ragged_dataset().take(1), verbose=0, shuffle=False).history["loss"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_mirrored_strategy_gives_the_same_step(saved):
    model, folder = saved("distilbert", "ForSequenceClassification")
    batches = dataset().take(1).map(lambda inputs, label: (inputs, {"logits": label}))
    weights = []
    for scope in (tf.distribute.MirroredStrategy(["CPU:0"]), tf.distribute.get_strategy()):
        with scope.scope():
            keras_model = load(model, folder, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            keras_model.compile(keras.optimizers.SGD(0.1), loss={"logits": loss}, jit_compile=False)
        keras_model.fit(batches, verbose=0, shuffle=False)
        weights.append({name: variable.numpy() for name, variable in named_parameters(keras_model)})
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("bert", "ForSequenceClassification"), ("bert", "ForMultipleChoice"), ("t5", "ForConditionalGeneration")],
)
def test_a_saved_model_gives_the_same_numbers(name, suffix, saved, tmp_path):
    model, folder = saved(name, suffix)
    keras_model = load(model, folder)
    keras_model.export(str(tmp_path / "serving"))
    again = tf.saved_model.load(str(tmp_path / "serving"))
    for length in (7, 4):
        inputs, _ = batch(model, length=length)
        inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
        if "decoder_input_ids" in inputs:
            inputs["decoder_attention_mask"] = np.ones_like(inputs["decoder_input_ids"])
        given = {name: tf.constant(value, tf.int32) for name, value in inputs.items()}
        np.testing.assert_allclose(again.serve(given)["logits"], keras_model(**inputs).logits, atol=1e-5)


# --- loading and saving -----------------------------------------------------------------------------------------------


@each_head
def test_what_is_saved_is_what_was_loaded_bit_for_bit(name, suffix, saved, tmp_path):
    model, folder = saved(name, suffix)
    load(model, folder).save_pretrained(tmp_path / "out")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()


def test_shards_and_bfloat16(saved, tmp_path):
    model, folder = saved("gpt2", "LMHeadModel")
    type(model).from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path / "in", max_shard_size="20KB")
    keras_model = load(model, tmp_path / "in")
    assert keras_model.dtype == "bfloat16"
    assert keras_model.config.dtype == "bfloat16"
    keras_model.save_pretrained(tmp_path / "out", max_shard_size="20KB")
    files = sorted(file.name for file in (tmp_path / "in").iterdir())
    assert len(files) > 3
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == files
    for file in files:
        assert (tmp_path / "in" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()
    inputs, _ = batch(model)
    with torch.no_grad():
        expected = type(model).from_pretrained(tmp_path / "in")(**to_torch(inputs), use_cache=False).logits
    apart = np.abs(tf.cast(keras_model(**inputs).logits, "float32").numpy() - expected.float().numpy())
    assert apart.max() < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", ["bfloat16", tf.bfloat16, np.dtype("float16"), torch.float16])
def test_dtype_by_any_name(dtype, saved):
    model, folder = saved("bert", "Model")
    keras_model = load(model, folder, dtype=dtype)
    kind = "float16" if "bfloat16" not in str(dtype) else "bfloat16"
    kinds = {keras.backend.standardize_dtype(variable.dtype) for _, variable in named_parameters(keras_model)}
    assert kinds == {kind}
    inputs, _ = batch(model)
    assert keras_model(**inputs).last_hidden_state.dtype.name == kind
    assert keras.config.dtype_policy().name == "float32"


def test_parameters_have_the_names_of_the_checkpoint_and_ties_are_one(saved):
    for name, suffix in (("bert", "ForMaskedLM"), ("gpt2", "LMHeadModel"), ("llama tied", "ForCausalLM")):
        model, folder = saved(name, suffix)
        keras_model = load(model, folder)
        own = dict(named_parameters(keras_model))
        assert {n: tuple(v.shape) for n, v in own.items()} == {
            n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)
        }
        assert model.ties
        for tied, source in model.ties.items():
            assert own[tied] is own[source]
        assert keras_model.num_parameters() == model.num_parameters()
        assert sum(int(np.prod(v.shape)) for v in keras_model.trainable_variables) == model.num_parameters()


def test_a_headed_file_gives_its_backbone_and_a_backbone_a_new_head(saved, tmp_path):
    _, folder = saved("bert", "ForSequenceClassification")
    base = pellucid.TFAutoModel.from_pretrained(folder)
    base.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"classifier\.weight"):
        pellucid.TFBertForSequenceClassification.from_pretrained(tmp_path)
    made, report = pellucid.TFBertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True
    )
    assert report.new == ("classifier.weight", "classifier.bias")
    assert tuple(made.classifier.weight.shape) == (5, 32)
    again = pellucid.TFBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert (again.classifier.weight.numpy() == made.classifier.weight.numpy()).all()  # of the same seed
    other = pellucid.TFBertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, seed=1)
    assert (other.classifier.weight.numpy() != made.classifier.weight.numpy()).any()


def test_a_pooler_that_is_not_stored_is_absent(saved, tmp_path):
    model, folder = saved("bert", "ForMaskedLM")
    keras_model = pellucid.TFBertModel.from_pretrained(folder)
    inputs, _ = batch(model)
    assert "pooler_output" not in keras_model(**inputs)
    keras_model.save_pretrained(tmp_path)
    assert "pooler_output" not in pellucid.BertModel.from_pretrained(tmp_path)(**to_torch(inputs))


def test_faults_of_a_file_are_named(saved, tmp_path):
    model, folder = saved("bert", "ForMaskedLM")
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = model.state_dict()
    kept = {n: t.clone() for n, t in state.items() if "decoder" not in n and "layer.1.output.dense.bias" not in n}
    kept["bert.encoder.layer.0.output.dense.bias"] = torch.zeros(3)
    kept["bert.encoder.layer.0.surplus"] = torch.zeros(3)
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        pellucid.TFBertForMaskedLM.from_pretrained(tmp_path)
    for part in ("layer.1.output.dense.bias", "layer.0.output.dense.bias (file [3], model [32])", "layer.0.surplus"):
        assert part in str(caught.value)


def test_a_model_that_was_only_built_says_that_it_has_no_weights():
    model = pellucid.TFBertModel(pellucid.BertConfig(**CASES["bert"]))
    with pytest.raises(InputError, match=r"no weights yet.*from_pretrained"):
        model(np.ones((1, 3), np.int32))


def test_a_subclass_of_a_user_loads_and_saves(saved, tmp_path):
    model, folder = saved("bert", "ForSequenceClassification")

    class Mine(pellucid.TFBertForSequenceClassification):
        pass

    Mine.from_pretrained(folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_names_that_do_not_exist(saved):
    with pytest.raises(AttributeError, match=r"TFPhiModel.*'tf' has classes of bert.*PhiModel"):
        _ = pellucid.TFPhiModel
    with pytest.raises(AttributeError, match="TFBertDecoderModel; of bert"):
        _ = pellucid.TFBertDecoderModel
    assert not hasattr(pellucid, "TFNothing")
    config = pellucid.AutoConfig.for_model("phi")
    with pytest.raises(ConfigError, match="There is no TFPhiForCausalLM"):
        pellucid.TFAutoModelForCausalLM.from_config(config)


def test_arguments_and_inputs_that_are_wrong(saved):
    model, folder = saved("bert", "ForSequenceClassification")
    keras_model, ids = load(model, folder), np.ones((2, 5), np.int32)
    for error, match, call in (
        (
            ArgumentError,
            "'attention_maks'; did you mean 'attention_mask'",
            lambda: keras_model(ids, attention_maks=ids),
        ),
        (ArgumentError, "no argument 'labelz'", lambda: keras_model({"input_ids": ids, "labelz": ids})),
        (InputError, "list.*return_tensors='tf'", lambda: keras_model([[1, 2]])),
        (InputError, "ragged in 2 dimensions", lambda: keras_model(tf.ragged.constant([[[1, 2], [3]]]))),
        (InputError, r"save_pretrained\(folder\)", lambda: keras_model.save(folder / "model.keras")),
        (InputError, "float32; expected whole numbers", lambda: keras_model(ids.astype(np.float32))),
        (InputError, "input_ids holds 99; expected 0 to 98", lambda: keras_model(ids + 98)),
        (InputError, "input_ids holds -1", lambda: keras_model(ids - 2)),
        (InputError, "token_type_ids holds 2", lambda: keras_model(ids, token_type_ids=ids + 1)),
        (InputError, "41 tokens.*at most 40", lambda: keras_model(np.ones((1, 41), np.int32))),
        (InputError, r"attention_mask has the shape \(2, 4\)", lambda: keras_model(ids, ids[:, :4])),
        (InputError, "attention_mask holds something else", lambda: keras_model(ids, ids * 2)),
        (PellucidError, "expected a batch", lambda: keras_model(ids[0])),
        (InputError, "dtype is 'int8'", lambda: load(model, folder, dtype="int8")),
        (InputError, "dtype is 'floot16'", lambda: load(model, folder, dtype="floot16")),
        (ArgumentError, r"tf\.device", lambda: load(model, folder, device="cuda")),
        (ArgumentError, "nam_labels", lambda: load(model, folder, nam_labels=3)),
    ):
        with pytest.raises(error, match=match):
            call()


def test_another_backend_of_keras_is_refused(monkeypatch, saved):
    model, folder = saved("bert", "Model")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match=r"'jax'.*KERAS_BACKEND to tensorflow"):
        load(model, folder)


def test_ids_outside_the_vocabulary_give_nan_where_they_can_not_be_checked(saved):
    model, folder = saved("gpt2", "Model")
    keras_model = load(model, folder)
    assert np.isnan(keras_model.run(input_ids=np.full((1, 2), 99)).last_hidden_state).all()


def test_a_config_that_only_pytorch_implements(saved):
    model, folder = saved("t5", "ForConditionalGeneration")
    with pytest.raises(InputError, match="float16 is too narrow"):
        load(model, folder, dtype="float16")
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    config = pellucid.AutoConfig.for_model("llama", **LLAMA | dynamic)
    with pytest.raises(ConfigError, match="rope_type is 'dynamic'"):
        pellucid.TFAutoModelForCausalLM.from_config(config)
    for architecture in ("bert", "roberta"):
        told = CASES[f"{architecture}:decoder"] | {"add_cross_attention": True}
        with pytest.raises(ConfigError, match="add_cross_attention is True, which only PyTorch"):
            pellucid.TFAutoModelForCausalLM.from_config(pellucid.AutoConfig.for_model(architecture, **told))


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "suffix"), WRITERS)
def test_greedy_writing_is_that_of_pytorch(name, suffix, saved):
    model, folder = saved(name, suffix)
    keras_model = load(model, folder)
    for padding in ("left", "right"):
        inputs, mask = batch(model, padding)
        ids = inputs["input_ids"]
        expected = model.generate(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), max_new_tokens=12)
        np.testing.assert_array_equal(keras_model.generate(ids, mask, max_new_tokens=12), expected.numpy())


def test_prompts_of_many_lengths_end_where_pytorch_ends(saved):
    model, folder = saved("gpt2", "LMHeadModel")
    keras_model, random = load(model, folder), np.random.default_rng(3)
    for length in (1, 17):
        ids = random.integers(4, 99, (2, length))
        for told in ({"max_length": length + 3}, {"max_new_tokens": 7, "eos_token_id": [5, 60, 61, 62, 63]}):
            expected = model.generate(torch.from_numpy(ids), **told)
            np.testing.assert_array_equal(keras_model.generate(ids, **told), expected.numpy())


def test_drawing_goes_by_seed_and_by_what_is_likely(saved):
    model, folder = saved("llama", "ForCausalLM")
    keras_model, (inputs, _) = load(model, folder), batch(model)
    ids = np.repeat(inputs["input_ids"][:1], 256, 0)
    one = {"max_new_tokens": 1, "do_sample": True, "eos_token_id": None}
    with torch.no_grad():
        chances = (model(torch.from_numpy(ids[:1])).logits[0, -1] / 0.8).softmax(-1).numpy()
    order = chances.argsort()[::-1]
    drawn = keras_model.generate(ids, **one, temperature=0.8, top_k=3).numpy()[:, -1]
    assert {*drawn.tolist()} == {*order[:3].tolist()}
    needed = int((chances[order].cumsum() < 0.4).sum()) + 1
    drawn = keras_model.generate(ids, **one, temperature=0.8, top_k=0, top_p=0.4).numpy()[:, -1]
    assert {*drawn.tolist()} <= {*order[:needed].tolist()}
    assert len({*drawn.tolist()}) > 1
    free = [keras_model.generate(ids, **one, top_k=0, seed=seed).numpy() for seed in (1, 1, 2)]
    assert (free[0] == free[1]).all()
    assert (free[0] != free[2]).any()


def test_settings_of_the_file_count_and_what_is_not_implemented_is_refused(saved):
    model, folder = saved("gpt2", "LMHeadModel")
    keras_model, ids = load(model, folder), np.ones((1, 4), np.int32)
    keras_model.generation_config = pellucid.GenerationConfig(max_new_tokens=3, num_beams=4)
    with pytest.raises(InputError, match=r"num_beams=4.*GPT2LMHeadModel"):
        keras_model.generate(ids)
    assert keras_model.generate(ids, num_beams=1).shape == (1, 7)
    with pytest.raises(ArgumentError, match="'max_new_token'; did you mean"):
        keras_model.generate(ids, max_new_token=3)
    bert, folder = saved("bert", "ForMaskedLM")
    with pytest.raises(InputError, match=r"can not write.*TFAutoModelForCausalLM"):
        load(bert, folder).generate(ids)


def test_scores_that_are_not_finite_raise(saved):
    model, folder = saved("gpt2", "LMHeadModel")
    keras_model = load(model, folder)
    keras_model.transformer.ln_f.bias.assign(np.full(32, np.nan))
    with pytest.raises(NonFiniteError, match="step 0"):
        keras_model.generate(np.ones((1, 3), np.int32), max_new_tokens=3)


def test_a_cache_in_pieces_is_one_pass(saved):
    model, folder = saved("mistral", "ForCausalLM")
    keras_model, (inputs, mask) = load(model, folder), batch(model, "left", length=9)
    ids = inputs["input_ids"]
    whole = keras_model(ids, mask).logits.numpy()
    cache = keras_model.empty_cache(3, 16)
    for begin, end in ((0, 4), (4, 5), (5, 9)):
        part = keras_model(ids[:, begin:end], mask[:, begin:end], cache=cache).logits.numpy()
        real = mask[:, begin:end] == 1
        np.testing.assert_allclose(part[real], whole[:, begin:end][real], atol=1e-5)


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_pipelines_answer_as_in_pytorch(task, tmp_path):
    model = tiny.model(task, "bert")
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    keras_pipe = pipeline(task, str(tmp_path), framework="tf")
    assert type(keras_pipe.model.model).__name__ == f"TF{type(model).__name__}"
    given, told = TASKS[task], ASKED.get(task, {})
    assert close(keras_pipe(given, **told), pipeline(task, model, tokenizer=tiny.tokenizer())(given, **told))


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
    keras_pipe = pipeline(task, tmp_path, framework="tf")
    given, told = ["anna smith", "the good film of berlin is", "who"], {"max_new_tokens": 8, "do_sample": False}
    assert keras_pipe(given, **told) == pipeline(task, model, tokenizer=tiny.tokenizer())(given, **told)


def test_tokenizers_give_tensors_of_tensorflow(saved):
    encoded = tiny.tokenizer()(["good film", "anna"], padding=True, return_tensors="tf")
    assert isinstance(encoded["input_ids"], tf.Tensor)
    model = tiny.model("text-classification")
    keras_model = pellucid.TFBertForSequenceClassification.from_config(model.config)
    assert keras_model(**encoded).logits.shape == keras_model(encoded).logits.shape == (2, 2)


# --- imports ----------------------------------------------------------------------------------------------------------


def run(code: str) -> tuple[str, str]:
    """Run code in a process of its own, which takes a warning for an error, and return what it writes."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


def test_tensorflow_is_not_imported_until_it_is_asked_for():
    work = "import pellucid; from pellucid import AutoModel, BertModel, pipeline, generate, AutoTokenizer"
    code = f"{work}\nimport sys\nprint(*[name for name in ('tensorflow', 'keras') if name in sys.modules])"
    assert run(code) == ("", "")


def test_success_is_silent(saved):
    _, folder = saved("bert", "ForMaskedLM")
    _, writer = saved("gpt2", "LMHeadModel")
    code = (
        "from pellucid import TFAutoModelForCausalLM, TFAutoModelForMaskedLM\n"
        f"model = TFAutoModelForMaskedLM.from_pretrained({str(folder)!r})\n"
        "import numpy as np\nassert model(np.ones((1, 3), int)).logits.shape == (1, 3, 99)\n"
        "for length in range(1, 9): model.run(input_ids=np.ones((1, length), int))\n"
        f"model = TFAutoModelForCausalLM.from_pretrained({str(writer)!r})\n"
        "for rows in range(1, 7): model.generate(np.ones((rows, 3), int), max_new_tokens=2)\n"
    )
    assert run(code) == ("", "")
    assert Path(folder).is_dir()
