"""Constrained output has the form that was asked for, or there is none."""

import json
import re
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from pellucid import GPT2Config, GPT2LMHeadModel, Tokenizer
from pellucid.errors import InputError
from pellucid.generation.structured import read_schema


@dataclass
class City:
    name: str
    kind: Literal["town", "village"]
    people: int


@pytest.fixture(scope="module")
def writer():
    """A random model of every byte and some words, and its tokenizer."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "he", "ll", "to", '{"', '":', "<end>", "<pad>"]
    rust = RustTokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, [("h", "e"), ("l", "l"), ("t", "o"), ("{", '"'), ('"', ":")])
    )
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    rust.add_special_tokens(["<end>", "<pad>"])
    tokenizer = Tokenizer(tokenizer_object=rust, eos_token="<end>", pad_token="<pad>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokens) + 5,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=400,
        eos_token_id=len(tokens) - 2,
        pad_token_id=len(tokens) - 1,
    )
    return GPT2LMHeadModel.from_config(config).eval(), tokenizer


def write(writer, texts="hello", **options):
    model, tokenizer = writer
    rows = [texts] if isinstance(texts, str) else texts
    inputs = tokenizer(rows, return_tensors="pt", padding=True, padding_side="left")
    options = {"max_new_tokens": 300, "do_sample": True, "top_k": 0, **options}
    written = model.generate(**inputs, tokenizer=tokenizer, **options)
    return [tokenizer.decode(row[inputs["input_ids"].shape[1] :], skip_special_tokens=True) for row in written]


SCHEMAS = st.deferred(
    lambda: (
        st.sampled_from(
            [
                {"type": "integer", "minimum": 3, "maximum": 99},
                {"type": "boolean"},
                {"enum": ["a", "é", None]},
                {"type": "string", "maxLength": 3},
            ]
        )
        | st.lists(SCHEMAS, min_size=1, max_size=2).map(
            lambda parts: {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
        )
        | st.dictionaries(st.sampled_from(["x", "name", "ü"]), SCHEMAS, min_size=1, max_size=2).map(
            lambda parts: {
                "type": "object",
                "properties": parts,
                "required": list(parts),
                "additionalProperties": False,
            }
        )
    )
)


def fits(value, schema):
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind == "integer":
        return type(value) is int and 3 <= value <= 99
    if kind == "array":
        return len(value) == len(schema["prefixItems"]) and all(map(fits, value, schema["prefixItems"]))
    if kind == "object":
        return value.keys() == schema["properties"].keys() and all(
            fits(value[k], s) for k, s in schema["properties"].items()
        )
    return isinstance(value, bool) if kind == "boolean" else isinstance(value, str) and len(value) <= 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(schema=SCHEMAS, seed=st.integers(0, 99))
def test_any_schema(writer, schema, seed):
    compact = {**schema, "x-guidance": {"whitespace_flexible": False}}
    for text in write(writer, ["hello", "to"], schema=compact, seed=seed):
        assert fits(json.loads(text), schema), text


def test_types_texts_and_tables(writer):
    schema = read_schema(City)
    for form in (City, json.dumps(schema), schema):
        (text,) = write(writer, schema=form, seed=1, max_new_tokens=390)
        value = json.loads(text)
        assert City(**value).kind in ("town", "village") and type(value["people"]) is int


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3, "do_sample": False, "top_k": None},
        {"num_return_sequences": 3},
        {"prompt_lookup_num_tokens": 3},
    ],
)
def test_choices_patterns_and_grammars(writer, how):
    assert set(write(writer, choices=["hello", "hell", 'a "b"\n'], seed=1, **how)) <= {"hello", "hell", 'a "b"\n'}
    assert all(re.fullmatch("[a-c]{3,5}(é|ü)", text) for text in write(writer, regex="[a-c]{3,5}(é|ü)", seed=1, **how))
    grammar = 'start: "(" start ")" | "x"'
    texts = write(writer, grammar=grammar, seed=3, repetition_penalty=1.1, **how)
    assert all(re.fullmatch(r"\(*x\)*", text) and text.count("(") == text.count(")") for text in texts)


def test_batches_are_constrained_row_by_row(writer):
    alone = [write(writer, text, regex="[a-z]{2,9}", do_sample=False, top_k=None)[0] for text in ("hello", "to", "he")]
    assert write(writer, ["hello", "to", "he"], regex="[a-z]{2,9}", do_sample=False, top_k=None) == alone


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (
            {"schema": {"type": "string", "maxLenght": 3}},
            "keyword 'maxLenght', which can not be kept; did you mean 'maxLength'",
        ),
        ({"schema": {"properties": {"a": {"not": {}}}}}, "schema.properties.a has the keyword 'not'"),
        ({"schema": {"type": "array", "uniqueItems": True}}, "'uniqueItems', which can not be kept"),
        ({"schema": {"type": "integr"}}, "Invalid type: integr"),
        ({"schema": {"type": "string", "format": "color"}}, "Unknown format: color"),
        ({"schema": "{"}, "schema is no JSON"),
        ({"schema": 5}, "schema is 5; expected a JSON schema"),
        ({"regex": "("}, "regex can not be kept"),
        ({"regex": ""}, "regex is ''; expected a text"),
        ({"choices": []}, r"choices is \[\]"),
        ({"choices": "yes"}, "choices is 'yes'; expected a list"),
        ({"grammar": "start: foo"}, 'unknown name: "foo"'),
        ({"schema": {}, "regex": "a"}, "schema and regex exclude each other"),
        ({"regex": "a{50}", "max_new_tokens": 5}, "ended after 5 tokens, before the regex was complete"),
    ],
)
def test_forms_that_can_not_be_kept(writer, form, says):
    with pytest.raises(InputError, match=says):
        write(writer, **form)


def test_what_a_constraint_needs(writer):
    model, _ = writer
    with pytest.raises(InputError, match="regex= restricts text; pass tokenizer="):
        model.generate(torch.tensor([[1]]), regex="a")
    with pytest.raises(InputError, match="needs an eos_token_id"):
        model.generate(torch.tensor([[1]]), regex="a", tokenizer=writer[1], eos_token_id=999)
