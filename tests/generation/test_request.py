"""What can not be asked for, and says so before the first step."""

import pytest
import torch

from oracle import ours, reference
from pellucid import generate
from pellucid.errors import ArgumentError, InputError

GPT2 = ("gpt2", "LMHeadModel")


def prompt(length=4, batch=1):
    return torch.randint(5, 99, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention_mask": [[1, 1, 1, 1]]}, "attention_mask is a list; expected a tensor"),
        ({"attention_mask": torch.tensor([[1, 2, 1, 1]])}, "attention_mask holds 2; expected 1 on real tokens"),
        ({"attention_mask": torch.ones(1, 9)}, r"attention_mask has the shape \(1, 9\), the prompt \(1, 4\)"),
        ({"suppress_tokens": [99]}, "suppress_tokens holds 99; expected ids of the vocabulary, 0 to 98"),
        ({"suppress_tokens": [-1]}, "suppress_tokens holds -1"),
        ({"bad_words_ids": [[5, 1000]]}, "bad_words_ids holds 1000"),
        ({"forced_eos_token_id": 1000}, "forced_eos_token_id holds 1000"),
        ({"sequence_bias": {(1000,): 1.0}}, "sequence_bias holds 1000"),
        ({"sequence_bias": {(): 1.0}}, "sequence_bias is"),
        ({"pad_token_id": -1}, "pad_token_id is -1; expected an id, 0 or more"),
        ({"penalty_alpha": 0.5, "do_sample": True}, "penalty_alpha would do nothing with do_sample=True"),
        ({"logits_processor": lambda ids, scores: scores}, "logits_processor is a function; expected a list of them"),
        ({"stopping_criteria": lambda ids, scores: True}, "stopping_criteria is a function; expected a list"),
        ({"logits_processor": [lambda ids, scores: None]}, r"returned NoneType; expected \(1, 99\)"),
        ({"logits_processor": [lambda ids, scores: scores[:, :5]]}, r"returned scores of \(1, 5\); expected \(1, 99\)"),
        ({"seed": "x"}, "seed is 'x'; expected a whole number"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"assistant_model": "gpt2"}, "assistant_model is a str; expected a model"),
        ({"streamer": object(), "num_beams": 2}, "A streamer shows one text; there are 2 beams"),
        ({"suppress_tokens": list(range(99))}, "No token may follow"),
        ({"suppress_tokens": list(range(99)), "do_sample": True}, "No token may follow"),
        ({"suppress_tokens": list(range(99)), "num_beams": 2}, "No token may follow"),
        ({"temperature": 1e-45, "do_sample": True}, "No token may follow"),
    ],
)
def test_impossible_requests(options, says):
    with pytest.raises(InputError, match=says):
        ours(*GPT2).generate(prompt(), max_new_tokens=3, **options)


def test_inputs_that_are_not_given_here():
    for name in ("labels", "logits_to_keep"):
        with pytest.raises(
            ArgumentError, match=f"generate has no argument '{name}'. It is no setting, and no input of"
        ):
            ours(*GPT2).generate(prompt(), **{name: prompt()})
    for given in (prompt().bool(), prompt()[0]):
        with pytest.raises(InputError, match=r"expected ids, \(batch, length\)"):
            ours(*GPT2).generate(given)
    with pytest.raises(InputError, match="Linear can not write"):
        generate(torch.nn.Linear(3, 3), prompt())


def test_texts_longer_than_any_in_training():
    """Rotary positions have no limit: the original goes on, too."""
    model, original = ours("llama", "ForCausalLM"), reference("llama", "ForCausalLM")
    ids, options = prompt(50), {"max_new_tokens": 5, "eos_token_id": [], "pad_token_id": 3}
    wanted = original.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(model.generate(ids, **options), wanted)
    with pytest.raises(InputError, match="all that this model reads; pass max_new_tokens to go on regardless"):
        model.generate(ids)


def test_rows_that_have_ended_may_be_forbidden_all():
    model, ids = ours(*GPT2), prompt(batch=3)
    end = model.generate(ids, max_new_tokens=2)[0, 4].item()

    def nothing_after_the_end(ids, scores):
        return scores.masked_fill((ids[:, 4:] == end).any(dim=1, keepdim=True), float("-inf"))

    options = {"max_new_tokens": 6, "eos_token_id": end, "pad_token_id": 3}
    for how in ({}, {"do_sample": True, "seed": 1}):
        wanted = model.generate(ids, **options, **how)
        assert torch.equal(model.generate(ids, logits_processor=[nothing_after_the_end], **options, **how), wanted)


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 4, "early_stopping": True}]
)
@pytest.mark.parametrize("normalize", [False, True])
def test_scores_of_what_was_written(how, normalize):
    model, original = ours(*GPT2), reference(*GPT2)
    ids = prompt(batch=3)
    options = {
        "max_new_tokens": 7,
        "eos_token_id": [2, *range(20, 60)],
        "pad_token_id": 3,
        "output_scores": True,
        **how,
    }
    found = model.generate(ids, return_dict_in_generate=True, **options)
    theirs = original.generate(ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, **options)
    wanted = original.compute_transition_scores(
        theirs.sequences, theirs.scores, theirs.get("beam_indices"), normalize_logits=normalize
    )
    mine = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices, normalize)
    assert torch.allclose(mine, wanted, atol=1e-4)
