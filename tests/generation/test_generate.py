"""`generate` writes, token for token, what the original writes, and padding, batch and cache change nothing."""

import random
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracle import ours, reference
from pellucid import GenerationConfig, generate
from pellucid.cache import Cache
from pellucid.errors import ArgumentError, ConfigError, InputError, NonFiniteError
from perturbing import perturb

WRITERS = [("gpt2", "LMHeadModel"), ("llama", "ForCausalLM")]
every_writer = pytest.mark.parametrize(("architecture", "head"), WRITERS)
ENDS = st.sampled_from([2, [2, 7, 9], [11, 12, 13, 14, 15, 16, 17, 18], list(range(20, 60))])

# One value that does nothing, and some that do, of every setting that changes scores.
PROCESSORS = {
    "repetition_penalty": [1.3, 0.7],
    "encoder_repetition_penalty": [1.5, 0.8],
    "no_repeat_ngram_size": [1, 2, 3],
    "encoder_no_repeat_ngram_size": [1, 2],
    "min_new_tokens": [1, 3],
    "min_length": [9],
    "bad_words_ids": [[[5], [6, 7], [90, 5, 6]]],
    "suppress_tokens": [list(range(8, 60))],
    "begin_suppress_tokens": [list(range(40, 99))],
    "forced_eos_token_id": [2],
    "sequence_bias": [{(5,): 3.0, (6, 7): -2.0, (40,): 2.0}],
    "exponential_decay_length_penalty": [(2, 1.5)],
    "renormalize_logits": [True],
}
SAMPLING = {
    "temperature": [0.5, 1.5],
    "top_k": [1, 5, 20, 0],
    "top_p": [0.3, 0.9],
    "min_p": [0.1, 0.5],
    "typical_p": [0.3, 0.9],
    "epsilon_cutoff": [0.02, 0.1],
    "eta_cutoff": [0.02, 0.1],
}
BEAMS = {"length_penalty": [0.0, 0.5, 2.0, -1.0], "early_stopping": [True, False, "never"]}


def some(table, least=0, most=3):
    """Draw values for some of the settings of a table."""
    names = st.lists(st.sampled_from(sorted(table)), unique=True, min_size=least, max_size=most)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: st.sampled_from(table[name]) for name in chosen}))


def prompts(seed, batch, length):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 99, (batch, length), generator=generator)


def left_padded(ids, seed):
    """Hide the beginning of some prompts: (ids, mask)."""
    mask = torch.ones_like(ids)
    for row, draw in enumerate(random.Random(seed).choices(range(ids.shape[1]), k=len(ids))):
        mask[row, :draw] = 0
    return torch.where(mask.bool(), ids, 3), mask


def of_original(architecture, head, ids, mask=None, **options):
    """Let the original write, silenced."""
    mask = torch.ones_like(ids) if mask is None else mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reference(architecture, head).generate(ids, attention_mask=mask, **options)


@every_writer
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 7)),
    length=st.integers(1, 12),
    end=ENDS,
    given=some(PROCESSORS),
)
def test_greedy_as_the_original(architecture, head, seed, shape, length, end, given):
    assume(given.get("min_new_tokens", 0) <= length)
    ids = prompts(seed, *shape)
    options = {"max_new_tokens": length, "eos_token_id": end, "pad_token_id": 3, **given}
    wanted = of_original(architecture, head, ids, **options)
    assert torch.equal(ours(architecture, head).generate(ids, **options), wanted)


@every_writer
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 7)),
    length=st.integers(1, 12),
    end=ENDS,
    beams=st.integers(2, 4),
    given=some(PROCESSORS, most=2),
    how=some(BEAMS, most=2),
    returned=st.integers(1, 4),
)
def test_beams_as_the_original(architecture, head, seed, shape, length, end, beams, given, how, returned):
    assume(given.get("min_new_tokens", 0) <= length)
    ids = prompts(seed, *shape)
    options = {"max_new_tokens": length, "eos_token_id": end, "pad_token_id": 3, "num_beams": beams, **given, **how}
    options |= {"num_return_sequences": min(beams, returned), "return_dict_in_generate": True, "output_scores": True}
    wanted = of_original(architecture, head, ids, **options)
    found = ours(architecture, head).generate(ids, **options)
    assert torch.equal(found.sequences, wanted.sequences)
    assert torch.allclose(found.sequences_scores, wanted.sequences_scores, atol=1e-4)
    assert torch.equal(found.beam_indices, wanted.beam_indices.long())


@every_writer
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 7)),
    length=st.integers(1, 12),
    end=ENDS,
    given=some(SAMPLING),
    rows=st.integers(1, 3),
)
def test_the_same_seed_draws_what_the_original_draws(architecture, head, seed, shape, length, end, given, rows):
    ids = prompts(seed, *shape)
    options = {"do_sample": True, "max_new_tokens": length, "eos_token_id": end, "pad_token_id": 3, **given}
    torch.manual_seed(seed)
    wanted = of_original(architecture, head, ids, num_return_sequences=rows, **options)
    torch.manual_seed(seed)
    assert torch.equal(ours(architecture, head).generate(ids, num_return_sequences=rows, **options), wanted)


@every_writer
@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), length=st.integers(1, 12), end=ENDS, beams=st.integers(1, 3))
def test_padded_batches_as_the_original(architecture, head, seed, length, end, beams):
    ids, mask = left_padded(prompts(seed, 3, 7), seed)
    options = {"max_new_tokens": length, "eos_token_id": end, "pad_token_id": 3, "num_beams": beams}
    wanted = of_original(architecture, head, ids, mask, **options)
    assert torch.equal(ours(architecture, head).generate(ids, attention_mask=mask, **options), wanted)


@every_writer
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"guidance_scale": 1.5}])
def test_what_is_recorded_is_the_originals(architecture, head, options):
    model, original = ours(architecture, head), reference(architecture, head)
    original.set_attn_implementation("eager")
    ids, mask = left_padded(prompts(0, 2, 6), 0) if "guidance_scale" not in options else (prompts(0, 2, 6), None)
    asked = {f"output_{name}": True for name in ("scores", "logits", "hidden_states", "attentions")}
    options = {"max_new_tokens": 5, "pad_token_id": 3, "return_dict_in_generate": True, **asked, **options}
    found, wanted = (m.generate(ids, attention_mask=mask, **options) for m in (model, original))
    assert torch.equal(found.sequences, wanted.sequences)
    keep = torch.ones_like(ids) if mask is None else mask
    keep = keep.bool().repeat_interleave(options.get("num_beams", 1), dim=0)
    for name in ("scores", "logits"):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found[name], wanted[name], strict=True))
    for mine, theirs in zip(found.hidden_states, wanted.hidden_states, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            where = keep if a.shape[1] == keep.shape[1] else torch.ones(a.shape[:2], dtype=torch.bool)
            assert torch.allclose(a[where], b[where], atol=1e-4)
    assert all(
        torch.allclose(a[..., -1, :], b[..., -1, :], atol=1e-4)
        for mine, theirs in zip(found.attentions, wanted.attentions, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )
    assert isinstance(found.past_key_values, Cache) and found["sequences"] is found[0]
    assert set(found.finish_reason) <= {"stop", "length"}


@every_writer
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    given=some({k: v for k, v in PROCESSORS.items() if k != "encoder_no_repeat_ngram_size"}, most=2),
    how=st.sampled_from(
        [{}, {"num_beams": 3}, {"penalty_alpha": 0.5, "top_k": 3}, {"num_beams": 4, "num_beam_groups": 2}]
    ),
)
def test_a_prompt_alone_in_a_batch_and_padded_on_either_side(architecture, head, seed, given, how):
    model, ids = ours(architecture, head), prompts(seed, 3, 7)
    ids, mask = left_padded(ids, seed)
    options = {"max_new_tokens": 6, "eos_token_id": [2, *range(20, 40)], "pad_token_id": 3, **given, **how}
    alone = [
        model.generate(row[keep.bool()][None], **options)[0, int(keep.sum()) :]
        for row, keep in zip(ids, mask, strict=True)
    ]
    right = torch.stack([torch.cat([row[keep.bool()], row[~keep.bool()]]) for row, keep in zip(ids, mask, strict=True)])
    for batch, padding in ((ids, mask), (right, mask.flip(1).sort(dim=1, descending=True).values)):
        together = model.generate(batch, attention_mask=padding, **options)
        assert torch.equal(together[:, :7], batch)
        for row, wanted in zip(together[:, 7:], alone, strict=True):
            assert row[: len(wanted)].tolist() == wanted.tolist()
            assert (row[len(wanted) :] == 3).all()


@every_writer
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), given=some(PROCESSORS, most=2), sample=st.booleans())
def test_guesses_change_nothing(architecture, head, seed, given, sample):
    model, ids = ours(architecture, head), prompts(seed, 1, 6).repeat(1, 2)
    smaller = ours(architecture, head)
    perturb(smaller, 0.02)
    options = {"max_new_tokens": 14, "do_sample": sample, "seed": seed, "pad_token_id": 3, **given}
    plain = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **options), plain)
    assert torch.equal(model.generate(ids, assistant_model=model, **options), plain)
    assert torch.equal(model.generate(ids, assistant_model=smaller, num_assistant_tokens=4, **options), plain)


@every_writer
def test_caches_change_nothing(architecture, head):
    model = ours(architecture, head)
    ids, mask = left_padded(prompts(1, 2, 6), 1)
    options = {"max_new_tokens": 8, "pad_token_id": 3}
    for how in ({}, {"num_beams": 3}):
        wanted = model.generate(ids, attention_mask=mask, **options, **how)
        for cache in ("static", "sliding_window", "dynamic"):
            found = model.generate(ids, attention_mask=mask, cache_implementation=cache, **options, **how)
            assert torch.equal(found, wanted), cache
        assert torch.equal(model.generate(ids, attention_mask=mask, use_cache=False, **options, **how), wanted)
    first = model.generate(ids[:1], attention_mask=mask[:1], return_dict_in_generate=True, **options)
    longer = torch.cat([first.sequences, ids[1:]], dim=1)
    grown = torch.cat([mask[:1], torch.ones(1, 14, dtype=torch.long)], dim=1)
    wanted = model.generate(longer, attention_mask=grown, **options)
    found = model.generate(longer, attention_mask=grown, past_key_values=first.past_key_values, **options)
    assert torch.equal(found, wanted)


@every_writer
def test_embeddings_instead_of_ids(architecture, head):
    model, ids = ours(architecture, head), prompts(2, 2, 6)
    words = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))(ids)
    written = model.generate(inputs_embeds=words, max_new_tokens=5)
    assert torch.equal(written, model.generate(ids, max_new_tokens=5)[:, 6:])


# --- settings ---------------------------------------------------------------------------------------------------------


def test_what_is_said_last_counts(tmp_path):
    model, ids = ours(*WRITERS[0]), prompts(0, 1, 4)
    GenerationConfig(max_new_tokens=3, temperature=0.5).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).said()["eos_token_id"] == 2  # which the model's own says
    model.generation_config = GenerationConfig(max_new_tokens=3, temperature=0.5)
    assert model.generate(ids).shape == (1, 7)  # a setting of a file that does nothing is no fault
    assert model.generate(ids, max_new_tokens=5).shape == (1, 9)
    assert model.generate(ids, max_length=6).shape == (1, 6)
    assert model.generate(ids, generation_config=GenerationConfig(max_new_tokens=2)).shape == (1, 6)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.generation_config.to_dict() == {"max_new_tokens": 3, "temperature": 0.5}
    assert generate(again, ids).shape == (1, 7)


def test_until_the_context_is_full():
    model = ours(*WRITERS[0])
    found = model.generate(prompts(0, 1, 4), eos_token_id=None, suppress_tokens=[2], return_dict_in_generate=True)
    assert found.sequences.shape == (1, 40) and found.finish_reason == ("length",)
    long = model.generate(prompts(0, 1, 38), max_new_tokens=10, suppress_tokens=[2])
    assert long.shape == (1, 40)


def test_seeds_make_samples_reproducible():
    model, ids = ours(*WRITERS[0]), prompts(0, 2, 4)
    options = {"do_sample": True, "max_new_tokens": 12, "suppress_tokens": [2]}
    assert torch.equal(model.generate(ids, seed=1, **options), model.generate(ids, seed=1, **options))
    assert not torch.equal(model.generate(ids, seed=1, **options), model.generate(ids, seed=2, **options))
    greedy = model.generate(ids, max_new_tokens=12, suppress_tokens=[2])
    assert torch.equal(model.generate(ids, temperature=0, **options), greedy)
    assert torch.equal(model.generate(ids, max_new_tokens=12, suppress_tokens=[2], temperature=0), greedy)


def test_users_own_processors_and_criteria():
    model, ids = ours(*WRITERS[0]), prompts(0, 1, 4)

    def only_fifty(ids, scores):
        return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([50]), 0.0)

    found = model.generate(ids, max_new_tokens=9, logits_processor=[only_fifty])
    assert found[0, 4:].tolist() == [50] * 9
    found = model.generate(
        ids, logits_processor=[only_fifty], stopping_criteria=[lambda ids, scores: ids.shape[1] >= 7], max_new_tokens=9
    )
    assert found.shape == (1, 7)
    allowed = model.generate(ids, max_new_tokens=4, prefix_allowed_tokens_fn=lambda row, ids: [60 + row, 70])
    assert set(allowed[0, 4:].tolist()) <= {60, 70}
    assert model.generate(ids, max_time=0.0, max_new_tokens=9).shape == (1, 5)


@every_writer
def test_training_goes_on_in_training_mode(architecture, head):
    model = ours(architecture, head).train()
    assert torch.equal(
        model.generate(prompts(0, 1, 4), max_new_tokens=5),
        ours(architecture, head).generate(prompts(0, 1, 4), max_new_tokens=5),
    )
    assert model.training


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number, 1 or more"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5; expected at most 1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 0.7}, "temperature would do nothing without do_sample=True"),
        ({"do_sample": False, "top_p": 0.9, "top_k": 5}, "top_k, top_p would do nothing without do_sample=True"),
        ({"length_penalty": 2.0}, "length_penalty would do nothing without num_beams above 1"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2 with num_beams 1"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"num_beams": 3, "num_beam_groups": 2}, "not a multiple of num_beam_groups"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens is 9, max_new_tokens 5"),
        ({"max_length": 4}, "The prompt has 4 tokens and max_length is 4, which counts them; pass max_new_tokens"),
        ({"stop_strings": "x"}, "pass tokenizer="),
        ({"early_stopping": "maybe", "num_beams": 2}, "early_stopping is 'maybe'"),
        ({"cache_implementation": "magic"}, "cache_implementation is 'magic'"),
        ({"negative_prompt_ids": torch.ones(1, 2, dtype=torch.long)}, "without a guidance_scale above 1"),
        ({"penalty_alpha": 0.5, "num_beams": 2}, "can not be combined"),
        ({"attention_mask": torch.zeros(1, 4)}, "0 on every token of a prompt"),
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask has the shape \(1, 3\), the prompt \(1, 4\)"),
        ({"sequence_bias": {5: 1.0}}, "sequence_bias is"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: []}, "prefix_allowed_tokens_fn allows nothing after 4 tokens"),
    ],
)
def test_impossible_settings(options, says):
    with pytest.raises(InputError, match=says):
        ours(*WRITERS[0]).generate(prompts(0, 1, 4), **options)


def test_impossible_prompts(tmp_path):
    model, ids = ours(*WRITERS[0]), prompts(0, 1, 4)
    with pytest.raises(ArgumentError, match="no argument 'max_tokens'; did you mean"):
        model.generate(ids, max_tokens=3)
    with pytest.raises(InputError, match="The prompt has 41 tokens, this model reads 40"):
        model.generate(prompts(0, 1, 41))
    with pytest.raises(InputError, match="The prompt has 40 tokens, all that this model reads"):
        model.generate(prompts(0, 1, 40))
    with pytest.raises(InputError, match="is a list; expected ids"):
        model.generate([[1, 2]])
    with pytest.raises(InputError, match=r"torch.float32 of shape \(1, 4\)"):
        model.generate(ids.float())
    with pytest.raises(InputError, match="given twice"):
        model.generate(ids, input_ids=ids)
    assert model.generate(max_new_tokens=3)[0, 0] == 1  # the model's bos_token_id
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    with pytest.raises(InputError, match="The prompt is empty and there is no bos_token_id"):
        model.generate(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(InputError, match="BertForMaskedLM can not write"):
        ours("bert", "ForMaskedLM").generate(ids)
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": -1}')
    with pytest.raises(ConfigError, match=r"generation_config.json: max_new_tokens is -1"):
        GenerationConfig.from_pretrained(tmp_path)


def test_scores_that_are_no_numbers():
    model = ours(*WRITERS[0])
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="scores at step 0 are not finite"):
        model.generate(prompts(0, 1, 4), max_new_tokens=3)
    assert model.generate(prompts(0, 1, 4), max_new_tokens=3, remove_invalid_values=True).shape == (1, 7)


def test_assistants_that_do_not_fit():
    model, ids = ours(*WRITERS[0]), prompts(0, 1, 4)
    other = type(model).from_config(model.config.replace(vocab_size=120))
    with pytest.raises(InputError, match="The assistant has a vocabulary of 120 tokens, the model one of 99"):
        model.generate(ids, assistant_model=other)
    with pytest.raises(InputError, match="Guessing ahead is for one text; there are 2"):
        model.generate(ids.repeat(2, 1), assistant_model=model)
    with pytest.raises(InputError, match="use_cache=True"):
        model.generate(ids, prompt_lookup_num_tokens=2, use_cache=False)
