"""Models of an encoder and a decoder write, token for token, what the original writes."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_generate import BEAMS, PROCESSORS, of_original, prompts, some

from cases import EVERY_CLASS, PADDING_COUNTS
from oracle import is_pair, ours
from pellucid.errors import InputError

WRITERS = [case for case in EVERY_CLASS if is_pair(*case) and case[1] in ("ForConditionalGeneration", "MTModel")]
DEEP = [("bart", "ForConditionalGeneration"), ("t5", "ForConditionalGeneration")]
AT_FAULT = {"prophetnet"}  # of which the original's generate raises
SETTINGS = {**PROCESSORS, "forced_bos_token_id": [17], "begin_suppress_tokens": [list(range(40, 99))]}


def sources(seed, batch, length):
    ids = prompts(seed, batch, length)
    ids[:, -1] = 2
    return ids


def right_padded(ids):
    """Hide the end of the first source: (ids, mask)."""
    mask = torch.ones_like(ids)
    mask[0, ids.shape[1] // 2 + 1 :] = 0
    ids = torch.where(mask.bool(), ids, 3)
    ids[0, ids.shape[1] // 2] = 2
    return ids, mask


@pytest.mark.parametrize(("architecture", "head"), DEEP)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 7)),
    length=st.integers(1, 10),
    end=st.sampled_from([2, [2, 7, 9], list(range(20, 60))]),
    beams=st.integers(1, 3),
    given=some(SETTINGS, most=2),
    how=some(BEAMS, most=2),
)
def test_as_the_original(architecture, head, seed, shape, length, end, beams, given, how):
    assume(given.get("min_new_tokens", 0) <= length and given.get("forced_bos_token_id") != end)
    ids = sources(seed, *shape)
    options = {"max_new_tokens": length, "eos_token_id": end, "pad_token_id": 3, "num_beams": beams, **given}
    options |= how if beams > 1 else {}
    wanted = of_original(architecture, head, ids, **options)
    assert torch.equal(ours(architecture, head).generate(ids, **options), wanted)


@pytest.mark.parametrize(("architecture", "head"), WRITERS)
def test_every_architecture_writes(architecture, head):
    model, options = (
        ours(architecture, head),
        {"max_new_tokens": 7, "pad_token_id": 3, "eos_token_id": 2, "num_beams": 1},
    )
    ids, mask = right_padded(sources(1, 3, 7))
    for how in ({}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}):
        found = model.generate(ids, attention_mask=mask, **options | how)
        if (architecture, head) not in PADDING_COUNTS and architecture not in AT_FAULT:
            assert torch.equal(found, of_original(architecture, head, ids, mask, **options | how)), how
        rows = len(found) // len(ids)
        for i in range(len(ids)):
            alone = model.generate(ids[i][mask[i].bool()][None], **options | how)
            assert torch.equal(found[i * rows : (i + 1) * rows, : alone.shape[1]], alone), how
    greedy = model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(model.generate(ids, attention_mask=mask, use_cache=False, **options), greedy)
    assert torch.equal(model.generate(ids, attention_mask=mask, cache_implementation="static", **options), greedy)
    one = model.generate(ids[1:2], **options)
    assert torch.equal(model.generate(ids[1:2], prompt_lookup_num_tokens=2, **options), one)


def test_what_is_recorded_is_the_originals():
    architecture, head = DEEP[0]
    ids, mask = right_padded(sources(0, 2, 6))
    asked = {f"output_{name}": True for name in ("scores", "hidden_states", "attentions")}
    for how in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        options = {"max_new_tokens": 5, "return_dict_in_generate": True, **asked, **how}
        found = ours(architecture, head).generate(ids, attention_mask=mask, **options)
        wanted = of_original(architecture, head, ids, mask, **options)
        assert torch.equal(found.sequences, wanted.sequences)
        assert set(wanted.keys()) <= set(found.keys())
        for name in ("decoder_hidden_states", "decoder_attentions", "cross_attentions"):
            for mine, theirs in zip(found[name], wanted[name] or [], strict=True):
                assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(mine, theirs or mine, strict=True)), name


def test_targets_that_have_begun():
    architecture, head = DEEP[0]
    ids, begun = sources(2, 2, 6), prompts(3, 2, 3)
    options = {"max_new_tokens": 5, "pad_token_id": 3}
    wanted = of_original(architecture, head, ids, decoder_input_ids=begun, **options)
    model = ours(architecture, head)
    assert torch.equal(model.generate(ids, decoder_input_ids=begun, **options), wanted)
    states = model.model.encoder(ids)
    assert torch.equal(model.generate(encoder_outputs=states, decoder_input_ids=begun, **options), wanted)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"guidance_scale": 1.5}, "for models without an encoder"),
        ({"decoder_input_ids": torch.ones(3, 2, dtype=torch.long)}, "one row a source"),
        ({"input_ids": torch.ones(1, 4, dtype=torch.long)}, "given twice"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(InputError, match=says):
        ours(*DEEP[0]).generate(sources(0, 1, 4), **options)


def test_bad_sources():
    model = ours(*DEEP[0])
    with pytest.raises(InputError, match="The source is missing"):
        model.generate(max_new_tokens=3)
    with pytest.raises(InputError, match="The source is a list"):
        model.generate([[1, 2]])
    with pytest.raises(InputError, match="The source has 41 tokens, this model reads 40"):
        model.generate(prompts(0, 1, 41))
    with pytest.raises(InputError, match=r"The source has the shape \(1, 0\)"):
        model.generate(torch.zeros(1, 0, dtype=torch.long))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    with pytest.raises(InputError, match="no decoder_start_token_id"):
        model.generate(prompts(0, 1, 4))
