"""What is given beside the prompt, above all a cache, changes how much is read and not what is written."""

import pytest
import torch

from oracle import ours, reference
from pellucid.cache import Cache
from pellucid.errors import InputError

LLAMA, MAMBA, GPT2 = ("llama", "ForCausalLM"), ("mamba", "ForCausalLM"), ("gpt2", "LMHeadModel")
OPTIONS = {"max_new_tokens": 6, "eos_token_id": []}


def prompt(length=7, batch=1, seed=0):
    return torch.randint(5, 99, (batch, length), generator=torch.Generator().manual_seed(seed))


class Interrupt:
    """Presses Ctrl-C when it is called for the n-th time."""

    def __init__(self, count):
        self.count = count

    def __call__(self, *args):
        self.count -= 1
        if self.count == 0:
            raise KeyboardInterrupt


# --- caches that are given --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [LLAMA, MAMBA])
@pytest.mark.parametrize("make", [Cache, lambda: Cache(capacity=40), lambda: Cache(sliding=True)])
def test_what_a_cache_holds_of_another_text_is_not_used(which, make):
    model, ids = ours(*which), prompt(12)
    cache = make()
    model.generate(ids, past_key_values=cache, **OPTIONS)
    other = torch.cat([ids[:, :5], prompt(9, seed=1)], dim=1)  # begins alike
    for text in (other, ids, ids[:, :4], ids):
        wanted = model.generate(text, **OPTIONS)
        assert torch.equal(model.generate(text, past_key_values=cache, **OPTIONS), wanted)
    with pytest.raises(InputError, match="The cache holds 17 tokens, with which this prompt of 3 does not begin"):
        model.generate(prompt(3, seed=2), past_key_values=cache, **OPTIONS)


def test_texts_that_ended_early_go_on():
    model = ours(*LLAMA)
    ids, mask = prompt(6, batch=3), torch.ones(3, 6, dtype=torch.long)
    ends = model.generate(ids, **OPTIONS)[:, 7].tolist()  # the second token of each
    said = model.generate(ids, max_new_tokens=6, eos_token_id=ends[:1], pad_token_id=3, return_dict_in_generate=True)
    assert min(said.written) < max(said.written)
    written = torch.arange(said.sequences.shape[1] - 6) < torch.tensor(said.written)[:, None]
    longer = torch.cat([said.sequences, prompt(4, batch=3, seed=1)], dim=1)
    for counts in (torch.ones_like(written), written):  # the padding in the middle is a part of the text, or is not
        grown = torch.cat([mask, counts.long(), torch.ones(3, 4, dtype=torch.long)], dim=1)
        wanted = model.generate(longer, attention_mask=grown, **OPTIONS)
        cache = said.past_key_values.copy()
        assert torch.equal(model.generate(longer, attention_mask=grown, past_key_values=cache, **OPTIONS), wanted)


@pytest.mark.parametrize("which", [LLAMA, MAMBA])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_cache_after_an_interruption(which, place):
    model, ids, cache = ours(*which), prompt(), Cache()
    wanted = model.generate(ids, **OPTIONS)
    press = Interrupt(place)
    with pytest.raises(KeyboardInterrupt):  # between two tokens
        model.generate(ids, past_key_values=cache, stopping_criteria=[lambda *given: bool(press(*given))], **OPTIONS)
    assert torch.equal(model.generate(ids, past_key_values=cache, **OPTIONS), wanted)
    layer = next(iter(model.base_model.recorded_layers()))
    cache.crop(0)
    handle = layer.register_forward_hook(Interrupt(place))
    with pytest.raises(KeyboardInterrupt):  # between two layers
        model.generate(ids, past_key_values=cache, **OPTIONS)
    handle.remove()
    with pytest.raises(InputError, match="stopped in the middle of a forward"):
        model(input_ids=ids, cache=cache)
    cache.crop(0)
    assert torch.equal(model.generate(ids, past_key_values=cache, **OPTIONS), wanted)


def test_what_is_no_cache_or_too_small():
    model, ids = ours(*LLAMA), prompt()
    with pytest.raises(InputError, match=r"past_key_values is a tuple; expected one pellucid\.Cache"):
        model.generate(ids, past_key_values=((ids, ids),))
    with pytest.raises(InputError, match="is a Cache and a Cache; expected one"):
        model.generate(ids, past_key_values=Cache(), cache=Cache())
    with pytest.raises(InputError, match="holds 1 texts, the input 2"):
        model.generate(ids.repeat(2, 1), past_key_values=model(ids).past_key_values)
    with pytest.raises(InputError, match="no room for 1 more"):
        model.generate(ids, past_key_values=Cache(capacity=8), **OPTIONS)


# --- positions that depend on the length ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_all_is_read_again_where_a_longer_text_is_turned_otherwise(seed):
    model, original = ours("phi3:longrope", "ForCausalLM"), reference("phi3:longrope", "ForCausalLM")
    ids, options = prompt(seed=seed), {"max_new_tokens": 10, "eos_token_id": []}  # from 10 tokens on
    wanted = original.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=3, **options)
    for how in ({}, {"use_cache": False}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 4}):
        assert torch.equal(model.generate(ids, **options, **how), wanted)
    assert torch.equal(model.generate(ids, assistant_model=model, **options), wanted)
    rows, mask = torch.cat([ids, prompt(seed=seed + 1)]), torch.ones(2, 7, dtype=torch.long)
    mask[1, :4] = 0
    assert torch.equal(model.generate(rows, attention_mask=mask, **options)[:1], wanted)
    for how in ({"num_beams": 3}, {"penalty_alpha": 0.5, "top_k": 3}):
        anew = model.generate(rows, attention_mask=mask, use_cache=False, **options, **how)
        assert torch.equal(model.generate(rows, attention_mask=mask, **options, **how), anew)
    first = model.generate(ids, max_new_tokens=3, eos_token_id=[], return_dict_in_generate=True)
    longer = torch.cat([first.sequences, prompt(4, seed=9)], dim=1)
    found = model.generate(longer, past_key_values=first.past_key_values, **options)
    assert torch.equal(found, model.generate(longer, **options))


# --- other inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_types_of_tokens_go_on_with_the_text(how):
    model, original = ours(*GPT2), reference(*GPT2)
    ids = prompt(6, batch=2)
    types = torch.tensor([[4, 4, 5, 5, 5, 6], [6, 7, 7, 7, 7, 9]])
    options = {"max_new_tokens": 6, "pad_token_id": 3, "token_type_ids": types, **how}
    wanted = original.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(model.generate(ids, **options), wanted)
    mask, right = torch.ones_like(ids), torch.ones_like(ids)
    mask[0, :2], right[0, -2:] = 0, 0
    padded = model.generate(ids, attention_mask=mask, **options)[:, 6:]
    order = torch.tensor([[2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5]])
    options["token_type_ids"] = types.gather(1, order)
    assert torch.equal(model.generate(ids.gather(1, order), attention_mask=right, **options)[:, 6:], padded)


def test_positions_are_counted_here():
    model, ids = ours(*LLAMA), prompt()
    wanted = model.generate(ids, **OPTIONS)
    assert torch.equal(model.generate(ids, position_ids=torch.arange(7)[None], **OPTIONS), wanted)
    with pytest.raises(InputError, match="position_ids do not count from each prompt's first real token"):
        model.generate(ids, position_ids=torch.arange(7)[None] + 1, **OPTIONS)


def test_padded_embeddings():
    model, ids = ours(*LLAMA), prompt(batch=2)
    for side in (slice(0, 3), slice(4, 7)):
        mask = torch.ones_like(ids)
        mask[0, side] = 0
        words = model.model.embed_tokens(ids)
        for how in ({}, {"num_beams": 3}, {"max_new_tokens": None, "max_length": 10}):
            options = OPTIONS | how
            wanted = model.generate(ids, attention_mask=mask, **options)
            found = model.generate(inputs_embeds=words, attention_mask=mask, **options)
            assert torch.equal(found, wanted[:, 7:])
            both = model.generate(ids, inputs_embeds=words, attention_mask=mask, **options)
            assert torch.equal(both, wanted)
    with pytest.raises(InputError, match="leave use_cache=False out"):
        model.generate(inputs_embeds=words, use_cache=False, **OPTIONS)
    with pytest.raises(InputError, match="needs negative_prompt_ids"):
        model.generate(inputs_embeds=words, guidance_scale=2.0, **OPTIONS)


@pytest.mark.parametrize("pad", [2, 98, 99, 50_000])
def test_any_number_may_stand_for_padding(pad):
    model, ids = ours(*LLAMA), prompt(batch=3)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    end = model.generate(ids, attention_mask=mask, **OPTIONS)[0, 8].item()
    options = {"max_new_tokens": 6, "eos_token_id": end, "attention_mask": mask}
    wanted = model.generate(ids, pad_token_id=3, **options)
    hidden = ids.masked_fill(mask == 0, pad)
    found = model.generate(hidden, pad_token_id=pad, **options)
    assert (found[0, -4:] == pad).all()
    assert torch.equal(found[:, 7:].masked_fill(wanted[:, 7:] == 3, 3), wanted[:, 7:])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_ids_of_any_whole_numbers(dtype):
    model, ids = ours(*LLAMA), prompt()
    for how in ({}, {"num_beams": 2}, {"use_cache": False}):
        assert torch.equal(model.generate(ids.to(dtype), **OPTIONS, **how), model.generate(ids, **OPTIONS, **how))


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"do_sample": True}, {"penalty_alpha": 0.5, "top_k": 3}])
def test_a_batch_of_none(how):
    model = ours(*LLAMA)
    assert len(model.generate(torch.zeros(0, 5, dtype=torch.long), **OPTIONS, **how)) == 0
    assert len(model.generate(torch.zeros(0, 0, dtype=torch.long), **OPTIONS, **how)) == 0
