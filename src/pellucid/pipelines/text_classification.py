"""Text classification: labels with probabilities for a text or a pair of texts; sentiment analysis is one use."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, NonFiniteError
from .base import Piece, Pipeline

FUNCTIONS = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
UNSET = object()  # tells "top_k was not given" from "top_k=None", which asks for all labels


class TextClassificationPipeline(Pipeline):
    """Labels texts.

    One text gives `[{"label": ..., "score": ...}]`, a list of texts a flat list of such answers. With `top_k`, each
    answer is a list of the best labels, best first; `top_k=None` asks for all. A pair of texts is
    `{"text": ..., "text_pair": ...}`.

    A text longer than the model reads is cut into overlapping windows, and their logits are averaged, each by its
    number of tokens. `truncation=True` reads only the beginning instead, as happens with pairs of texts. `trace` says
    which was done.

    Options:
        top_k: the number of labels to return.
        function_to_apply: "softmax", "sigmoid" or "none"; by default what the model's config asks for.
        truncation: whether to read only the beginning of a long text.
        max_length: tokens a piece has at most; by default what the model reads.
        return_all_scores: the older spelling of `top_k=None`, in the order of the labels.
    """

    task = "text-classification"
    options = {
        "top_k": UNSET,
        "function_to_apply": None,
        "truncation": False,
        "max_length": None,
        "return_all_scores": False,
    }

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the values as well as the names."""
        settings = super().read_options(defaults, given)
        top_k, function = settings["top_k"], settings["function_to_apply"]
        if (
            top_k is not UNSET
            and top_k is not None
            and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1)
        ):
            raise InputError(f"top_k is {top_k!r}; expected a whole number of at least 1, or None for all labels.")
        if function is not None and (not isinstance(function, str) or function.lower() not in FUNCTIONS):
            raise InputError(f"function_to_apply is {function!r}; expected one of {', '.join(FUNCTIONS)}, or None.")
        return settings

    def is_one(self, inputs: Any) -> bool:
        """A text, or a pair as a mapping."""
        return isinstance(inputs, str) or (isinstance(inputs, Mapping) and "text" in inputs)

    def check(self, item: Any, where: str) -> None:
        """Accept a text or a mapping of `text` and `text_pair`."""
        parts = item if isinstance(item, Mapping) else {"text": item}
        wrong = [name for name in parts if name not in ("text", "text_pair")]
        if wrong or not all(isinstance(part, str) for part in parts.values()) or "text" not in parts:
            raise InputError(
                f"{where[0].upper()}{where[1:]} is {item!r:.80} ({type(item).__name__}); expected a text (str), "
                "or a pair of texts as {'text': ..., 'text_pair': ...}."
            )

    def preprocess(
        self, item: Any, *, truncation: bool = False, max_length: int | None = None, **_: Any
    ) -> list[Piece]:
        """Tokenize; cut what is too long into windows, or truncate it."""
        parts = dict(item) if isinstance(item, Mapping) else {"text": item}
        self.check(parts, "the input")
        limit = max_length or self.limit
        encoded = self.tokenizer(**parts)
        if limit is None or len(encoded["input_ids"]) <= limit:
            return [dict(encoded)]
        if truncation or "text_pair" in parts:
            return [dict(self.tokenizer(**parts, truncation=True, max_length=limit))]
        overlap = (limit - self.tokenizer.num_special_tokens_to_add()) // 8
        windows = self.tokenizer(
            **parts, truncation=True, max_length=limit, stride=overlap, return_overflowing_tokens=True
        )
        names = [name for name in windows if name != "overflow_to_sample_mapping"]
        return [{name: windows[name][i] for name in names} for i in range(len(windows["input_ids"]))]

    def postprocess(
        self, pieces: list[Piece], rows: list[Tensor], *, top_k: Any = UNSET, function_to_apply: str | None = None,
        return_all_scores: bool = False, **_: Any
    ) -> Any:  # fmt: skip
        """Average the windows, turn logits into scores, and name the labels."""
        config = self.model.config
        weights = torch.tensor([float(len(piece["input_ids"])) for piece in pieces])
        logits = torch.stack([row.float().cpu() for row in rows])  # (windows, L)
        logits = (logits * weights[:, None]).sum(0) / weights.sum()  # (L,)
        if not bool(logits.isfinite().all()):
            raise NonFiniteError(
                f"The model's logits are {logits.tolist()}; expected finite numbers. Its weights may be damaged, "
                f"or overflow in {self.model.dtype}: load it with dtype='float32'."
            )
        scores = FUNCTIONS[(function_to_apply or default_function(config.problem_type, config.num_labels)).lower()](
            logits
        )
        answers = [{"label": config.id2label[i], "score": score} for i, score in enumerate(scores.tolist())]
        if return_all_scores and top_k is UNSET:
            return answers
        answers.sort(key=lambda answer: -answer["score"])
        return answers[0] if top_k is UNSET else answers[:top_k]

    def one(self, answer: Any, item: Any, options: dict[str, Any]) -> Any:
        """A single text gives a list of one answer, as it always has; a pair given as a mapping gives the answer."""
        return [answer] if isinstance(item, str) and isinstance(answer, dict) else answer

    def note(self, groups: list[list[Piece]]) -> str:
        """Say what was done about long texts."""
        windows = [len(group) for group in groups if len(group) > 1]
        return (
            f"{len(windows)} long text(s) read in {sum(windows)} overlapping windows; logits averaged"
            if windows
            else ""
        )


def default_function(problem_type: str | None, labels: int) -> str:
    """Return what turns logits into scores when nothing is asked for: by the config, else by the number of labels."""
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or labels == 1 else "softmax"
