"""Threads share a model, and a model in training is left as it was."""

import pytest
import torch

from oracle import ours
from pellucid import stream
from threads import in_threads

LLAMA = ("llama", "ForCausalLM")
WAYS = (
    *({}, {"num_beams": 3}, {"do_sample": True, "seed": 5}, {"penalty_alpha": 0.5, "top_k": 3}),
    *({"cache_implementation": "static"}, {"use_cache": False}, {"prompt_lookup_num_tokens": 3}),
    {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True},
    *({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"guidance_scale": 1.5}),
    *({"repetition_penalty": 1.3}, {"do_sample": True, "seed": 6, "num_return_sequences": 3}),
    *({"do_sample": True, "seed": 7, "top_p": 0.8, "num_beams": 2}, {"cache_implementation": "sliding_window"}),
    *({"no_repeat_ngram_size": 2}, {"suppress_tokens": [5, 6, 7]}),
)


def prompt(length=7):
    return torch.randint(5, 99, (1, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("training", [False, True])
def test_threads_share_a_model(training):
    model = ours(*LLAMA).train(training)
    assert model.config.attention_dropout > 0

    def write(i):
        written = model.generate(prompt(3 + i), max_new_tokens=8, eos_token_id=[], **WAYS[i])
        return (written if isinstance(written, torch.Tensor) else written.sequences).tolist()

    ways = range(len(WAYS))
    alone = [write(i) for i in ways]
    assert in_threads(lambda i: [write(i) for _ in range(3)], ways) == [[written] * 3 for written in alone]
    assert all(part.training == training for part in model.modules())


def test_each_part_goes_back_to_its_mode():
    model = ours(*LLAMA).train()
    model.model.layers[0].eval()  # which somebody has frozen
    modes = [part.training for part in model.modules()]
    wanted = ours(*LLAMA).generate(prompt(), max_new_tokens=5)
    assert torch.equal(model.generate(prompt(), max_new_tokens=5), wanted)
    assert [part.training for part in model.modules()] == modes
    with pytest.raises(ZeroDivisionError):
        model.generate(prompt(), max_new_tokens=5, stopping_criteria=[lambda ids, scores: 1 / 0])
    assert [part.training for part in model.modules()] == modes
    for _ in stream(model, prompt(), max_new_tokens=5):
        assert torch.equal(model.generate(prompt(), max_new_tokens=5), wanted)  # in the middle of the other
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}, {"penalty_alpha": 0.5, "top_k": 3}]
)
def test_other_precisions(dtype, how):
    model = ours(*LLAMA, dtype=dtype)
    written = model.generate(prompt(), max_new_tokens=6, output_scores=True, return_dict_in_generate=True, **how)
    assert written.sequences.shape == (1, 13) and written.scores[0].dtype == torch.float32
    assert torch.equal(written.sequences, model.generate(prompt(), max_new_tokens=6, **how))


def test_a_compiled_model_writes_the_same():
    torch.compiler.reset()
    model, compiled = ours(*LLAMA), ours(*LLAMA)
    compiled.forward = torch.compile(compiled.forward, backend="eager")
    wanted = model.generate(prompt(), max_new_tokens=3)
    assert torch.equal(compiled.generate(prompt(), max_new_tokens=3), wanted)


def test_a_fixed_cache_needs_one_program_for_all_steps():
    torch.compiler.reset()
    model, compiled, made = ours(*LLAMA), ours(*LLAMA), []
    compiled.forward = torch.compile(
        compiled.forward, backend=lambda graph, _: made.append(graph) or graph, dynamic=False
    )
    options = {"max_new_tokens": 20, "eos_token_id": None, "cache_implementation": "static"}
    assert torch.equal(compiled.generate(prompt(), **options), model.generate(prompt(), **options))
    assert len(made) <= 3  # the prompt, in which everything is new, and steps
