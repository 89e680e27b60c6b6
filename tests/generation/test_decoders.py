"""Every decoder of `cases.py` writes what the original writes, and padding, batch and cache change nothing."""

import functools
import warnings

import pytest
import torch

from cases import EVERY_CLASS
from oracle import our_class, ours, reference
from pellucid.errors import InputError

WRITERS = [
    case for case in EVERY_CLASS if case[1] in ("ForCausalLM", "LMHeadModel") and "cache" in our_class(*case).accepts
]
every_writer = pytest.mark.parametrize(("architecture", "head"), WRITERS)
LENGTHS = (7, 3, 5)
OPTIONS = {"max_new_tokens": 8, "pad_token_id": 3, "eos_token_id": [2, *range(20, 26)]}
BEAMS = (
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "repetition_penalty": 1.3},
)
model_of = functools.lru_cache(maxsize=2)(ours)  # which nothing here changes


def texts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 99, (length,), generator=generator) for length in LENGTHS]


def batch(side="left"):
    """Return the texts as one padded batch: (ids, mask)."""
    ids, mask = torch.full((len(LENGTHS), max(LENGTHS)), 3), torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for i, row in enumerate(texts()):
        where = slice(-len(row), None) if side == "left" else slice(len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


def of_original(architecture, head, row, **options):
    """Let the original write after one text, silenced. It reads all anew in each step: some of its caches round."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = reference(architecture, head)
        return model.generate(row[None], attention_mask=torch.ones_like(row[None]), use_cache=False, **options)


@every_writer
@pytest.mark.parametrize("how", [{}, *BEAMS], ids=["greedy", "beams", "penalised-beams"])
def test_a_padded_batch_as_the_original_alone(architecture, head, how):
    model, (ids, mask) = model_of(architecture, head), batch()
    rows = how.get("num_return_sequences", 1)
    together = model.generate(ids, attention_mask=mask, **OPTIONS, **how)[:, ids.shape[1] :].unflatten(0, (-1, rows))
    for row, found in zip(texts(), together, strict=True):
        wanted = of_original(architecture, head, row, **OPTIONS, **how)[:, len(row) :]
        assert torch.equal(found[:, : wanted.shape[1]], wanted)
        assert (found[:, wanted.shape[1] :] == 3).all()


@every_writer
def test_padding_and_batch_change_nothing(architecture, head):
    model, (ids, mask) = model_of(architecture, head), batch()
    wanted = model.generate(ids, attention_mask=mask, **OPTIONS)[:, ids.shape[1] :]
    right, right_mask = batch("right")
    assert torch.equal(model.generate(right, attention_mask=right_mask, **OPTIONS)[:, ids.shape[1] :], wanted)
    for row, found in zip(texts(), wanted, strict=True):
        alone = model.generate(row[None], **OPTIONS)[0, len(row) :]
        assert torch.equal(found[: len(alone)], alone)


@every_writer
def test_caches_change_nothing(architecture, head):
    model, (ids, mask) = model_of(architecture, head), batch()
    wanted = model.generate(ids, attention_mask=mask, use_cache=False, **OPTIONS)
    for kind in ("dynamic", "static", "sliding_window"):
        assert torch.equal(model.generate(ids, attention_mask=mask, cache_implementation=kind, **OPTIONS), wanted), kind


@every_writer
def test_conversations_go_on_as_from_scratch(architecture, head):
    model, (ids, mask) = model_of(architecture, head), batch()
    said = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **OPTIONS | {"eos_token_id": []})
    longer = torch.cat([said.sequences, ids.flip(0).clamp(min=5)], dim=1)
    mask = torch.cat([mask, torch.ones_like(longer[:, ids.shape[1] :])], dim=1)
    wanted = model.generate(longer, attention_mask=mask, **OPTIONS)
    found = model.generate(longer, attention_mask=mask, past_key_values=said.past_key_values, **OPTIONS)
    assert torch.equal(found, wanted)


@every_writer
def test_guesses_change_nothing(architecture, head):
    model, ids = model_of(architecture, head), texts()[0][None].repeat(1, 2)
    wanted = model.generate(ids, return_dict_in_generate=True, **OPTIONS)
    if wanted.past_key_values.recurrent:
        with pytest.raises(InputError, match="keeps a recurrent state, from which guesses can not be cut"):
            model.generate(ids, prompt_lookup_num_tokens=3, **OPTIONS)
    else:
        assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **OPTIONS), wanted.sequences)
