"""`prepare`: the same numbers from outside, for every architecture, and everything as it was after `restore`."""

import copy
import pickle
import threading
import weakref

import pytest
import torch

from cases import EVERY_CLASS
from oracle import ours
from pellucid import inference, pipeline
from pellucid.errors import InputError
from pellucid.inference import Int8, Int8Weight, OneDNN, Prepared, prepare, restore
from test_models import padded, texts
from test_seq2seq import given, inputs_of

pytestmark = pytest.mark.skipif(not inference.has_kernels(torch.float32), reason="this CPU has no kernels of oneDNN")
# The first class of each architecture is its backbone, and the last one of its heads.
FIRST = [
    case for case, before in zip(EVERY_CLASS, [None, *EVERY_CLASS], strict=False) if not before or case[0] != before[0]
]
LAST = [
    case for case, after in zip(EVERY_CLASS, [*EVERY_CLASS[1:], None], strict=True) if not after or case[0] != after[0]
]
some_classes = pytest.mark.parametrize(("architecture", "head"), sorted({*FIRST, *LAST}))
WRITERS = [("gpt2", "LMHeadModel"), ("llama", "ForCausalLM"), ("t5", "ForConditionalGeneration")]


def answer(model, head):
    """Run a model on a batch of padded texts; every tensor of what it says."""
    if model.source_stack and type(model).accepts.count("attention_mask") and model.config.is_encoder_decoder:
        inputs, _ = inputs_of(model)
    else:
        ids, mask = padded(texts(model), "right")
        inputs = {"input_ids": ids, "attention_mask": mask}
    if head == "ForMultipleChoice":
        inputs = {name: x[None] for name, x in inputs.items()}
    with torch.inference_mode():
        return [x for x in model(**given(model, inputs)).to_tuple() if isinstance(x, torch.Tensor)]


@some_classes
def test_prepared_models_say_the_same(architecture, head, monkeypatch):
    model = ours(architecture, head)
    before, stored = answer(model, head), {name: x.clone() for name, x in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    prepare(model)
    groups = {layer.kernel for layer in model.modules() if isinstance(layer, Prepared) and len(layer.sizes) > 1}
    made, wanted = [], []
    multiply, forward = OneDNN.forward, Prepared.forward
    monkeypatch.setattr(OneDNN, "forward", lambda self, x: made.append(self in groups) or multiply(self, x))
    monkeypatch.setattr(
        Prepared, "forward", lambda self, x: wanted.append(self.kernel in groups and self.part == 0) or forward(self, x)
    )
    for a, b in zip(before, answer(model, head), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    assert sum(made) == sum(wanted), "layers that read different tensors are multiplied together"
    prepared = model.state_dict()
    assert list(prepared) == list(stored)
    assert all(torch.equal(prepared[name], x) for name, x in stored.items())
    restore(model)
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    for a, b in zip(before, answer(model, head), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("architecture", "head"), WRITERS)
def test_prepared_models_write_the_same(architecture, head):
    model = ours(architecture, head)
    ids, mask = padded(texts(model), "left")
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=8, eos_token_id=None)
    assert torch.equal(prepare(model).generate(ids, attention_mask=mask, max_new_tokens=8, eos_token_id=None), plain)


@pytest.mark.parametrize(("architecture", "head"), [("bert", "Model"), *WRITERS])
def test_rounded_models_say_nearly_the_same(architecture, head, monkeypatch):
    monkeypatch.setattr(inference, "_pays", lambda *shape: True)
    model = ours(architecture, head)
    before, stored = answer(model, head), {name: x.clone() for name, x in model.state_dict().items()}
    prepare(model, quantize="int8")
    after = answer(model, head)
    for a, b in zip(before, after, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999
    assert not torch.equal(after[0], before[0])
    assert all(torch.equal(model.state_dict()[name], x) for name, x in stored.items())
    assert torch.equal(answer(copy.deepcopy(model), head)[0], after[0])
    assert torch.equal(answer(model.to("cpu"), head)[0], after[0])
    restore(model)
    assert torch.equal(answer(model, head)[0], before[0])


@pytest.mark.parametrize("kind", [Int8, Int8Weight])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 64), (48, 64), (33, 17), (5, 8)])
@pytest.mark.parametrize("rows", [1, 2, 3, 40])
def test_products_of_whole_numbers(kind, dtype, shape, rows):
    generator = torch.Generator().manual_seed(rows)
    weight, bias = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)
    x = (torch.randn(1, rows, shape[1], generator=generator) + 0.5).to(dtype)
    out = kind(weight, bias)(x)
    assert out.shape == (1, rows, shape[0])
    assert out.dtype == dtype
    wanted = torch.nn.functional.linear(x.float(), weight, bias)
    assert (out.float() - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("kind", [Int8, Int8Weight])
def test_a_token_is_rounded_by_itself(kind):
    kernel, x = kind(torch.randn(24, 64), None), torch.randn(6, 64) * torch.logspace(-3, 3, 6)[:, None]
    together = kernel(x)
    for i, row in enumerate(x):
        torch.testing.assert_close(kernel(row[None])[0], together[i], rtol=1e-5, atol=0)
    assert torch.equal(kernel(torch.zeros(2, 64)), torch.zeros(2, 24))
    with pytest.raises(InputError, match="runs on the CPU"):
        kernel.to("meta")


def test_copies_and_threads():
    model = prepare(ours("bert", "Model"))
    plain, (ids, mask) = answer(model, "Model")[0], padded(texts(model), "right")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(other, "Model")[0], plain)
    found = [[] for _ in range(8)]

    def run(place):
        with torch.inference_mode():
            for _ in range(5):
                rows = slice(place % len(ids), place % len(ids) + 1)
                found[place].append((rows, model(ids[rows], mask[rows]).last_hidden_state))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for rows, x in (pair for pairs in found for pair in pairs):
        real = mask[rows].bool()
        torch.testing.assert_close(x[real], plain[rows][real], rtol=1e-5, atol=1e-5)


def test_prepared_models_can_be_handled(tmp_path):
    model = ours("bert", "Model")
    plain, count, stored = answer(model, "Model")[0], model.num_parameters(), model.state_dict()
    prepare(model)
    assert model.num_parameters() == count
    assert torch.equal(
        model.encoder.layer[0].attention.self.key.weight, stored["encoder.layer.0.attention.self.key.weight"]
    )
    model.save_pretrained(tmp_path)
    assert torch.equal(answer(type(model).from_pretrained(tmp_path), "Model")[0], plain)
    words = torch.randn(1, 5, model.config.hidden_size, requires_grad=True)
    model(inputs_embeds=words).last_hidden_state.sum().backward()
    assert words.grad is not None
    assert model.to(torch.bfloat16)(torch.tensor([[5, 6]])).last_hidden_state.dtype == torch.bfloat16
    with pytest.raises(InputError, match="restore"):
        model.load_state_dict(stored)
    with pytest.raises(InputError, match="restore"):
        model.train()
    assert not model.eval().encoder.layer[0].attention.self.key.training
    restore(model).train()
    model(torch.tensor([[5, 6]])).last_hidden_state.sum().backward()


def test_no_weight_is_there_twice(monkeypatch):
    model, made, build = ours("bert", "Model"), [], OneDNN.__init__
    weight = weakref.ref(model.encoder.layer[0].output.dense.weight)
    monkeypatch.setattr(OneDNN, "__init__", lambda self, *args: made.append(weight() is None) or build(self, *args))
    prepare(model)
    assert made[-1] and not made[0]


def test_what_can_not_be_prepared():
    model = ours("bert", "Model")
    with pytest.raises(InputError, match="training mode"):
        prepare(model.train())
    with pytest.raises(InputError, match="'int7'; expected 'int8'"):
        prepare(model.eval(), quantize="int7")
    with pytest.raises(InputError, match="dtype"):
        prepare(model, dtype="float7")
    assert prepare(model, dtype="bfloat16").dtype == torch.bfloat16
    assert prepare(restore(model), dtype="float64").dtype == torch.float64  # which has no such kernels
    assert not any(isinstance(module, Prepared) for module in model.modules())


def test_pipelines_are_prepared(tmp_path):
    tokenizer = pipeline("sentiment-analysis", "pellucid/sentiment").tokenizer
    pipe = pipeline("sentiment-analysis", "pellucid/sentiment")
    assert any(isinstance(module, Prepared) for module in pipe.model.modules())
    (plain,) = pipe(["We are very happy."])
    for options in (
        {"dtype": "auto"},
        {"dtype": "bfloat16"},
        {"quantize": "int8"},
        {"dtype": "auto", "quantize": "int8"},
    ):
        (found,) = pipeline("sentiment-analysis", "pellucid/sentiment", **options)(["We are very happy."])
        assert found["label"] == plain["label"]
        assert found["score"] == pytest.approx(plain["score"], abs=0.02)
    model = restore(pipe.model)
    own = pipeline("sentiment-analysis", model=model, tokenizer=tokenizer)
    assert not any(isinstance(module, Prepared) for module in own.model.modules())  # it is the caller's
    with pytest.raises(InputError, match="prepare"):
        pipeline("sentiment-analysis", model=model, tokenizer=tokenizer, quantize="int8")


@pytest.mark.parametrize("kind", [OneDNN, Int8, Int8Weight])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [1, 300])
def test_kernels_do_not_hide_what_is_not_finite(kind, value, rows):
    kernel, x = kind(torch.randn(32, 64), None), torch.randn(rows, 64)
    x[0, 9] = value
    out = kernel(x)
    assert not out[0].isfinite().any() and out[1:].isfinite().all()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("part", [slice(0, 16), slice(16, 40)])
def test_what_a_compiler_sees_of_whole_numbers(rows, part):
    kernel, x = Int8Weight(torch.randn(48, 64), torch.randn(48)), torch.randn(2, rows, 64)
    found, wanted = kernel.traced(x, part), kernel(x)[..., part]
    assert found.shape == wanted.shape and found.dtype == x.dtype
    assert (found - wanted).norm() < 0.01 * wanted.norm()
