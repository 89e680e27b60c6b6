"""Many prompts are written together, each as it would be alone, whenever it begins and ends."""

import random

import pytest
import torch

from oracle import ours
from pellucid.cache import Cache
from pellucid.errors import InputError
from pellucid.generation import GenerationConfig
from pellucid.generation.batches import can_share, write_each

MODELS = {
    "llama": "ForCausalLM",
    "gpt2": "LMHeadModel",
    "bloom": "ForCausalLM",  # places count as distances
    "gemma2": "ForCausalLM",  # every other layer has a window
    "mamba": "ForCausalLM",  # nothing but a state
    "lfm2": "ForCausalLM",  # a state of the last few tokens
    "qwen3_next": "ForCausalLM",  # states and keys
}
LLAMA = ("llama", "ForCausalLM")


def prompts(count=14, seed=0, shared=18):
    """Prompts of very different lengths; some begin as the one before."""
    draw = random.Random(seed)
    begin = [draw.randrange(5, 99) for _ in range(shared)]
    texts = [[draw.randrange(5, 99) for _ in range(draw.randrange(1, 9))] for _ in range(count)]
    return [begin + text if i % 4 > 1 else text for i, text in enumerate(texts)]


def alone(model, texts, seed=None, **options):
    seeds = [{} if seed is None else {"seed": seed + i} for i in range(len(texts))]
    return [model.generate(torch.tensor([ids]), **options, **drawn) for ids, drawn in zip(texts, seeds, strict=True)]


def check(model, texts, rows, seed=None, **options):
    """Write together and alone; return how many tokens each text got."""
    found = list(write_each(model, iter(texts), rows=rows, seed=seed, **options))
    for one, wanted in zip(found, alone(model, texts, seed, **options), strict=True):
        assert torch.equal(one.sequences, wanted)
    return [one.written for one in found]


def ends(count=12):
    """End tokens, so many that texts end at different times."""
    return random.Random(1).sample(range(5, 99), count)


@pytest.mark.parametrize("rows", [1, 3, None])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_as_alone(name, rows):
    model = ours(name, MODELS[name])
    counts = check(model, prompts(), rows, max_new_tokens=12, eos_token_id=ends(), do_sample=True, seed=3)
    assert len(set(counts)) > 3
    check(model, prompts(6, seed=1), rows, max_new_tokens=6, do_sample=False)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "num_return_sequences": 3, "seed": 0},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
        {"guidance_scale": 1.5},
        {"max_length": 40},
        {"cache_implementation": "hybrid"},
        {"max_new_tokens": 1},
    ],
)
def test_settings(options):
    limit = {} if "max_length" in options else {"max_new_tokens": 9}
    check(ours("gemma2", "ForCausalLM"), prompts(9), 4, **limit | {"eos_token_id": ends(), **options})


def test_a_prompt_is_asked_for_when_there_is_room():
    model, texts, asked = ours(*LLAMA), prompts(9), []
    source = (asked.append(i) or ids for i, ids in enumerate(texts))
    answers = write_each(model, source, rows=2, max_new_tokens=4, eos_token_id=[])
    assert not asked
    next(answers)
    assert asked == [0, 1]
    assert len(list(answers)) == 8 and asked == [*range(9)]
    assert list(write_each(model, [], max_new_tokens=4)) == []


def test_steps_are_shared_and_what_begins_alike_is_read_once(monkeypatch):
    model, texts, seen, forward = ours(*LLAMA), prompts(12), [], type(ours(*LLAMA)).forward
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, input_ids, **o: seen.append(tuple(input_ids.shape)) or forward(self, input_ids, **o),
    )
    list(write_each(model, texts, max_new_tokens=5, eos_token_id=[]))
    assert seen[-4:] == [(12, 1)] * 4 and len(seen) == 12 + 4
    assert sum(length for _, length in seen[:12]) == sum(map(len, texts)) - 5 * 18


def test_where_memory_runs_out_fewer_are_written_together(monkeypatch):
    model, texts, forward = ours(*LLAMA), prompts(12), type(ours(*LLAMA)).forward
    wanted = alone(model, texts, max_new_tokens=5)

    def narrow(self, input_ids, **options):
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError
        return forward(self, input_ids, **options)

    monkeypatch.setattr(type(model), "forward", narrow)
    found = [one.sequences for one in write_each(model, texts, max_new_tokens=5)]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        list(write_each(model, texts, max_new_tokens=5))


def test_what_can_not_be_shared():
    model = ours(*LLAMA)
    assert can_share(model, GenerationConfig())
    for said in ({"num_beams": 2}, {"penalty_alpha": 0.5}, {"prompt_lookup_num_tokens": 2}, {"use_cache": False},
                 {"cache_implementation": "static"}, {"output_scores": True}):  # fmt: skip
        assert not can_share(model, GenerationConfig(**said))
    assert not can_share(ours("t5", "ForConditionalGeneration"), GenerationConfig())
    assert not can_share(object(), GenerationConfig())
    with pytest.raises(InputError, match="do_sample"):
        list(write_each(model, prompts(2), top_p=0.5, do_sample=False))


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("name", ["gemma2", "qwen3_next"])
def test_a_row_takes_the_place_of_another(name, sliding):
    model = ours(name, MODELS[name])
    lengths, last = (5, 11, 20, 3), torch.tensor([[7]])
    texts = [torch.randint(5, 99, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
    wanted = torch.cat([model(torch.cat([ids, last], dim=1), use_cache=False).logits[:, -1] for ids in texts])

    def read(ids):
        cache = Cache(sliding=sliding)
        model(ids, cache=cache)
        return cache

    with torch.no_grad():
        cache = read(texts[0])
        cache.reorder(torch.zeros(4, dtype=torch.long))
        for row, ids in enumerate(texts[1:], 1):
            cache.seat(torch.tensor([row]), read(ids))
        assert len(cache) == 20
        torch.testing.assert_close(model(last.expand(4, 1), cache=cache.copy()).logits[:, -1], wanted)
        cache.reorder(torch.tensor([0, 3]))
        cache.trim(5)
        assert len(cache) == 5
        torch.testing.assert_close(model(last.expand(2, 1), cache=cache).logits[:, -1], wanted[[0, 3]])
