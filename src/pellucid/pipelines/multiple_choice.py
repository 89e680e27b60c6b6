"""Multiple choice: which of several continuations or answers fits a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..outputs import ModelOutput
from .base import Pipeline, check_count
from .windows import Piece, tokenize


class MultipleChoicePipeline(Pipeline):
    """Chooses among continuations of a text: `[{"index", "choice", "score"}]`, best first; scores sum to 1.

    An input is `{"prompt": ..., "choices": [...]}`; or a prompt, with `choices=` beside it. `index` is the choice's
    place in the list. Of a prompt longer than the model reads, only the beginning counts, which `trace` says.

    Options:
        choices: for inputs that are prompts alone.
        top_k: how many choices; by default all.
    """

    task = "multiple-choice"
    options = {"choices": None, "top_k": None}

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the number."""
        settings = super().read_options(defaults, given)
        check_count("top_k", settings["top_k"])
        return settings

    def __call__(self, inputs: Any = None, choices: Any = None, *, prompt: Any = None, **options: Any) -> Any:
        """Choose for one prompt, a list, or any iterable of them; see the class for the forms."""
        if choices is not None:
            options["choices"] = choices
        return super().__call__(prompt if inputs is None else inputs, **options)

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """A prompt, alone or in a mapping."""
        return isinstance(inputs, Mapping | str)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept a prompt with choices."""
        where, item = where[0].upper() + where[1:], self._whole(item, settings)
        if not isinstance(item, Mapping) or set(item) != {"prompt", "choices"} or not isinstance(item["prompt"], str):
            raise InputError(f"{where} is {item!r:.80}; expected {{'prompt': a text, 'choices': [texts]}}.")
        choices = item["choices"]
        if not isinstance(choices, list | tuple) or not choices or not all(isinstance(c, str) for c in choices):
            raise InputError(f"{where} has the choices {choices!r:.60}; expected a list of at least one text.")

    @staticmethod
    def _whole(item: Any, options: dict[str, Any]) -> Any:
        return {"prompt": item, "choices": options.get("choices")} if isinstance(item, str) else item

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Pair the prompt with each choice; truncate a long prompt."""
        self.check(item, "the input", options)
        item, limit, pieces = self._whole(item, options), self.limit, []
        for choice in item["choices"]:
            piece = tokenize(self.tokenizer, item["prompt"], choice)
            if too_long := limit is not None and len(piece["input_ids"]) > limit:
                piece = tokenize(self.tokenizer, item["prompt"], choice, truncation=True, max_length=limit)
            pieces.append(piece | {"choice": choice, "truncated": too_long})
        return pieces

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[Tensor]:
        """The score of each choice, a scalar; to the model, all choices of a batch are those of one question."""
        return list(self.finite(output["logits"]).flatten())

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> list[dict[str, Any]]:
        """Share 1 among the choices, and sort."""
        scores = torch.stack(rows).softmax(0)
        order = scores.argsort(descending=True, stable=True).tolist()[: options.get("top_k")]
        return [{"index": i, "choice": pieces[i]["choice"], "score": float(scores[i])} for i in order]

    def note(self, groups: list[list[Piece]]) -> str:
        """Say which texts were truncated."""
        truncated = sum(any(piece["truncated"] for piece in group) for group in groups)
        return f"of {truncated} long text(s) only the beginning is read" if truncated else ""
