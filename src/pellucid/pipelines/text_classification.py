"""Text classification: labels with probabilities for a text or a pair of texts; sentiment analysis is one use."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .base import Pipeline, check_count
from .windows import Piece, cut, tokenize

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
        if top_k is not UNSET:
            check_count("top_k", top_k)
        if function is not None and (not isinstance(function, str) or function.lower() not in FUNCTIONS):
            raise InputError(f"function_to_apply is {function!r}; expected one of {', '.join(FUNCTIONS)}, or None.")
        return settings

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """A text, or a pair as a mapping."""
        return isinstance(inputs, str) or (isinstance(inputs, Mapping) and "text" in inputs)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept a text or a mapping of `text` and `text_pair`."""
        parts = item if isinstance(item, Mapping) else {"text": item}
        wrong = [name for name in parts if name not in ("text", "text_pair")]
        if wrong or not all(isinstance(part, str) for part in parts.values()) or "text" not in parts:
            raise InputError(
                f"{where[0].upper()}{where[1:]} is {item!r:.80} ({type(item).__name__}); expected a text (str), "
                "or a pair of texts as {'text': ..., 'text_pair': ...}."
            )

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize; cut what is too long into windows, or truncate it."""
        self.check(item, "the input", options)
        parts = dict(item) if isinstance(item, Mapping) else {"text": item}
        limit = options.get("max_length") or self.limit
        piece = tokenize(self.tokenizer, parts["text"], parts.get("text_pair"))
        if limit is None or len(piece["input_ids"]) <= limit:
            return [piece]
        if options.get("truncation") or "text_pair" in parts:
            return [tokenize(self.tokenizer, parts["text"], parts.get("text_pair"), truncation=True, max_length=limit)]
        return cut(piece, 0, limit=limit, overlap=limit // 8)

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> Any:
        """Average the windows, turn logits into scores, and name the labels."""
        config, top_k = self.model.config, options.get("top_k", UNSET)
        weights = torch.tensor([float(len(piece["input_ids"])) for piece in pieces])
        logits = (torch.stack(rows) * weights[:, None]).sum(0) / weights.sum()  # (L,)
        function = options.get("function_to_apply") or default_function(config.problem_type, config.num_labels)
        scores = FUNCTIONS[function.lower()](logits).tolist()
        answers = [{"label": config.id2label[i], "score": score} for i, score in enumerate(scores)]
        if options.get("return_all_scores") and top_k is UNSET:
            return answers
        answers.sort(key=lambda answer: -answer["score"])
        return answers[0] if top_k is UNSET else answers[:top_k]

    def one(self, answer: Any, item: Any) -> Any:
        """A single text gives a list of one answer, as it always has; a pair given as a mapping gives the answer."""
        return [answer] if isinstance(item, str) and isinstance(answer, dict) else answer

    def note(self, groups: list[list[Piece]]) -> str:
        """Say what was done about long texts."""
        note = super().note(groups)
        return f"{note}; their logits are averaged" if note else ""


def default_function(problem_type: str | None, labels: int) -> str:
    """Return what turns logits into scores when nothing is asked for: by the config, else by the number of labels."""
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or labels == 1 else "softmax"
