"""`prepare(model, compile=True)`: one text is written by a program, and says what it said before."""

import copy

import pytest
import torch

import pellucid
from oracle import ours
from pellucid import inference
from pellucid.compiling import KEPT, Steps, room
from pellucid.errors import InputError
from pellucid.inference import prepare, restore

pytestmark = [
    pytest.mark.skipif(not inference.has_kernels(torch.float32), reason="this CPU has no kernels of oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # of torch's compiler, by itself
]


# The last one rounds what it adds to the scores.
@pytest.fixture(scope="module", params=["llama", "gpt2", "falcon:alibi"])
def compiled(request):
    model = ours(request.param, "LMHeadModel" if request.param == "gpt2" else "ForCausalLM")
    before = model.state_dict()
    prepare(model, compile=True)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    return model


def written(model, ids, **options):
    return model.generate(ids, do_sample=False, max_new_tokens=8, min_new_tokens=8, pad_token_id=0, **options)


def prompt(model, rows=1):
    return torch.randint(5, model.config.vocab_size, (rows, 5), generator=torch.Generator().manual_seed(rows))


def test_a_program_writes_the_same(compiled, capfd):
    plain, ids = restore(copy.deepcopy(compiled)), prompt(compiled)
    assert not isinstance(plain.forward, Steps)
    wanted = written(plain, ids)
    for _ in range(3):
        assert torch.equal(written(compiled, ids), wanted)
    assert len(compiled.forward.programs) == 1
    recorded = {"output_logits": True, "return_dict_in_generate": True}
    found, expected = (torch.stack(written(model, ids, **recorded).logits) for model in (compiled, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    longer = torch.cat([ids, ids], dim=1)
    assert torch.equal(written(compiled, longer), written(plain, longer))  # by the same program
    assert len(compiled.forward.programs) == 1
    assert capfd.readouterr() == ("", "")


def test_all_else_runs_as_it_did(compiled, monkeypatch):
    plain, ids = restore(copy.deepcopy(compiled)), prompt(compiled)
    monkeypatch.setattr("pellucid.compiling._program", None)  # which would raise
    with torch.inference_mode():
        torch.testing.assert_close(compiled(ids).logits, plain(ids).logits)
    for options in ({"num_beams": 2}, {"use_cache": False}):
        assert torch.equal(written(compiled, ids, **options), written(plain, ids, **options))
    options = {"output_hidden_states": True, "return_dict_in_generate": True}
    found, wanted = (written(model, ids, **options).hidden_states for model in (compiled, plain))
    torch.testing.assert_close(found, wanted)


def test_copies_have_programs_of_their_own(compiled):
    written(compiled, prompt(compiled))
    other = copy.deepcopy(compiled)
    assert other.forward.model is other and not other.forward.programs
    assert room(1) == room(256) == 256 and room(257) == 512 and room(1025) == 2048


def test_few_programs_are_kept(compiled, monkeypatch):
    model = copy.deepcopy(compiled)
    monkeypatch.setattr(
        "pellucid.compiling._program",
        lambda model: lambda ids, cache: type(model).forward(model, input_ids=ids, cache=cache, logits_to_keep=1),
    )
    for rows in (1, 2, 3, 4):
        written(model, prompt(model, rows))
    assert [size[0] for size in model.forward.programs] == [3, 4] and KEPT == 2


def test_whole_numbers_are_compiled():
    model = prepare(ours("llama", "ForCausalLM"), dtype="bfloat16", quantize="int8")
    ids = prompt(model)
    logits = {}
    for compile in (False, True):
        prepare(model, quantize="int8", compile=compile)
        logits[compile] = written(model, ids, output_logits=True, return_dict_in_generate=True).logits
    for found, wanted in zip(logits[True], logits[False], strict=True):
        assert torch.cosine_similarity(found.float(), wanted.float()).item() > 0.999


def test_what_can_not_be_compiled(monkeypatch):
    for architecture, head in (("bert", "Model"), ("t5", "ForConditionalGeneration")):
        with pytest.raises(InputError, match="gains nothing"):
            prepare(ours(architecture, head), compile=True)
    with pytest.raises(InputError, match="compile=True is for a model's name"):
        tokenizer = pellucid.pipeline("sentiment-analysis", "pellucid/sentiment").tokenizer
        pellucid.pipeline("text-generation", ours("llama", "ForCausalLM"), tokenizer=tokenizer, compile=True)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(InputError, match=r"needs a compiler of C\+\+"):
        prepare(ours("llama", "ForCausalLM"), compile=True)
