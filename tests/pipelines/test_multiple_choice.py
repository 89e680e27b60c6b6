import pytest
import torch

import tiny
from cases import HEADS
from pellucid.errors import InputError
from pellucid.pipelines import pipeline

TASK, PROMPT = "multiple-choice", "anna works in"
CHOICES = ["berlin", "the good film", "", "new york new york"]


@pytest.mark.parametrize("architecture", [name for name, heads in HEADS.items() if "ForMultipleChoice" in heads])
def test_same_as_by_hand(architecture):
    pipe = tiny.pipe(TASK, architecture)
    inputs = pipe.tokenizer([PROMPT] * 4, CHOICES, padding=True, return_tensors="pt")
    inputs = {name: tensor[None] for name, tensor in inputs.items() if name in pipe.model.accepts}  # (1, C, T)
    with torch.no_grad():
        scores = pipe.model(**inputs).logits[0].softmax(-1).tolist()
    found = pipe(PROMPT, CHOICES)
    assert [list(answer) for answer in found] == [["index", "choice", "score"]] * 4
    assert [answer["index"] for answer in found] == sorted(range(4), key=lambda i: -scores[i])
    assert [answer["score"] for answer in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    assert all(answer["choice"] == CHOICES[answer["index"]] for answer in found)


def test_forms():
    pipe = tiny.pipe(TASK)
    found = pipe(PROMPT, CHOICES)
    assert pipe({"prompt": PROMPT, "choices": CHOICES}) == pipe(prompt=PROMPT, choices=CHOICES) == found
    assert pipe(PROMPT, CHOICES, top_k=2) == found[:2]
    several = pipe([{"prompt": PROMPT, "choices": CHOICES}, {"prompt": "good", "choices": ["bad"]}])
    assert tiny.numbers(several) == pytest.approx([*tiny.numbers(found), 1.0], abs=1e-5)
    preset = pipeline(TASK, pipe.model, tokenizer=pipe.tokenizer, choices=CHOICES)
    assert preset(PROMPT) == found


def test_of_a_long_prompt_the_beginning_counts():
    pipe = tiny.pipe(TASK)
    assert sum(tiny.numbers(pipe("good film " * 100, CHOICES))) == pytest.approx(1)
    assert pipe.trace("good film " * 100, choices=CHOICES).note == "of 1 long text(s) only the beginning is read"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((PROMPT,), {}, "has the choices None"),
        ((PROMPT, []), {}, r"has the choices \[\]"),
        ((PROMPT, "berlin"), {}, "has the choices 'berlin'"),
        (({"prompt": PROMPT, "choice": CHOICES},), {}, "'choices': \\[texts\\]"),
        (({"prompt": 5, "choices": CHOICES},), {}, "The input is"),
        ((PROMPT, CHOICES), {"top_k": 0}, "top_k is 0"),
    ],
)
def test_bad_input_names_itself(arguments, options, words):
    with pytest.raises(InputError, match=words):
        tiny.pipe(TASK)(*arguments, **options)
