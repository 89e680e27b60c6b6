"""Constrained output: at each step only tokens that can still lead to a text of the wanted form are allowed."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import InputError, MissingPackageError, did_you_mean

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_built: "WeakKeyDictionary[Tokenizer, dict[tuple[int, tuple[int, ...]], Any]]" = WeakKeyDictionary()
KINDS = ("schema", "regex", "choices", "grammar")
SCHEMAS = {"additionalProperties", "items"}  # keywords whose value is a schema,
LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}  # a list of them,
TABLES = {"$defs", "definitions", "patternProperties", "properties"}  # or a table of them
PLAIN = {
    *("$ref", "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength"),
    *("maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern"),
    *("required", "type"),
}
NOTES = {  # that restrict nothing
    *("$comment", "$id", "$schema", "default", "deprecated", "description", "discriminator", "examples", "readOnly"),
    *("title", "writeOnly"),
}


class Constraint:
    """Allows the tokens that a grammar allows.

    Args:
        form: one of `schema`, `regex`, `choices` and `grammar`, and its value.
        tokenizer: of the model.
        vocabulary: how many tokens the model scores.
        eos: the ids that end a text.
        prompt: tokens of the prompt, padding included.

    Raises:
        InputError: if the form is malformed, or asks for what can not be kept.
    """

    def __init__(
        self, form: dict[str, Any], tokenizer: "Tokenizer | None", vocabulary: int, eos: Sequence[int], prompt: int
    ):
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError:
            raise MissingPackageError(
                f"{next(iter(form))}= needs the package llguidance: pip install 'pellucid[structured]'."
            ) from None
        if len(form) != 1:
            raise InputError(f"{' and '.join(form)} exclude each other; give one of them.")
        ((kind, value),) = form.items()
        if tokenizer is None:
            raise InputError(f"{kind}= restricts text; pass tokenizer=, too.")
        if not eos:
            raise InputError(f"{kind}= needs an eos_token_id, with which the text can end; pass it.")
        self.kind, self.prompt, self.vocabulary = kind, prompt, vocabulary
        self.eos = torch.tensor(eos)
        known = _built.setdefault(tokenizer, {})
        key = (vocabulary, tuple(eos))
        if key not in known:
            known[key] = LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=vocabulary, eos_token=list(eos))
        grammar = _grammar(LLMatcher, kind, value)
        faulty, words = LLMatcher.validate_grammar_with_warnings(grammar, known[key])
        if faulty or words:
            raise InputError(f"{kind} can not be kept: {'; '.join(words)}.")
        self.first = LLMatcher(known[key], grammar, log_level=0)
        self.states: dict[tuple[int, ...], Any] = {(): self.first.deep_copy()}

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        rows = [tuple(row) for row in ids[:, self.prompt :].tolist()]
        rows = [row if -1 not in row else None for row in rows]  # which have ended
        self._follow({row for row in rows if row is not None})
        allowed = torch.ones(scores.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            if row is not None:
                allowed[place] = self._allowed(row)
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))

    def _follow(self, rows: set[tuple[int, ...]]) -> None:
        """Bring the states to what rows have now; those of beams that are not followed are dropped."""
        before, self.states = self.states, {row: self.states[row] for row in rows if row in self.states}
        for row in rows - self.states.keys():
            state = before[row[:-1]].deep_copy()
            if not state.is_stopped() and not state.consume_token(row[-1]):
                raise InputError(f"The token {row[-1]} does not fit the {self.kind}; another processor forced it.")
            self.states[row] = state

    def _allowed(self, row: tuple[int, ...]) -> Tensor:
        state = self.states[row]
        if state.is_stopped():  # the text is whole
            return torch.zeros(self.vocabulary, dtype=torch.bool).index_fill_(0, self.eos, True)
        bits = torch.frombuffer(bytearray(state.compute_bitmask()), dtype=torch.uint8)
        return (bits[:, None] >> torch.arange(8) & 1).flatten()[: self.vocabulary].bool()

    def check(self, written: Sequence[Sequence[int]]) -> None:
        """Raise unless texts are whole.

        Raises:
            InputError: if one was cut by its length or the time.
        """
        for row in written:
            state = self.first.deep_copy()
            fits = all(state.is_stopped() or state.consume_token(id) for id in row)
            if not fits or not (state.is_stopped() or state.is_accepting()):
                raise InputError(
                    f"The text ended after {len(row)} tokens, before the {self.kind} was complete; "
                    "allow more with max_new_tokens (or max_time)."
                )


def _grammar(matcher: Any, kind: str, value: Any) -> str:
    if kind == "schema":
        return matcher.grammar_from_json_schema(json.dumps(read_schema(value)))
    if kind == "choices":
        if isinstance(value, str) or not value or not all(isinstance(choice, str) and choice for choice in value):
            raise InputError(f"choices is {value!r}; expected a list of texts that are not empty.")
        return matcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice) for choice in value))
    if not isinstance(value, str) or not value:
        raise InputError(f"{kind} is {value!r}; expected a text.")
    return matcher.grammar_from_regex(value) if kind == "regex" else matcher.grammar_from_lark(value)


def read_schema(value: Any) -> dict[str, Any]:
    """Return a JSON schema: one that is given, as a table or text, or that of a pydantic model, dataclass or type.

    Raises:
        InputError: if it is none, or has a keyword that can not be kept.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"schema is no JSON: {error}.") from None
    if not isinstance(value, dict):
        value = _schema_of_type(value)
    for place, key in _unknown(value, "schema"):
        known = sorted(SCHEMAS | LISTS | TABLES | PLAIN)
        raise InputError(f"{place} has the keyword {key!r}, which can not be kept{did_you_mean(key, known) or '.'}")
    return value


def _schema_of_type(value: Any) -> dict[str, Any]:
    try:
        from pydantic import TypeAdapter
    except ImportError:
        raise MissingPackageError("schema=<a type> needs pydantic: pip install 'pellucid[structured]'.") from None
    try:
        schema = TypeAdapter(value).json_schema()
    except Exception as error:
        raise InputError(
            f"schema is {value!r}; expected a JSON schema, a pydantic model or a dataclass ({error})."
        ) from None
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return schema


def _unknown(schema: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the keywords, and where they are, of which nobody would take notice."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in SCHEMAS:
            yield from _unknown(value, f"{place}.{key}")
        elif key in LISTS:
            for i, part in enumerate(value if isinstance(value, list) else []):
                yield from _unknown(part, f"{place}.{key}[{i}]")
        elif key in TABLES:
            for name, part in (value if isinstance(value, dict) else {}).items():
                yield from _unknown(part, f"{place}.{key}.{name}")
        elif key not in PLAIN and key not in NOTES and not key.startswith("x-"):
            yield place, key
