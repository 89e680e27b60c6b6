"""Zero-shot classification: labels that the model was never trained on, by asking whether they follow from the text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, InputError
from .base import Pipeline
from .windows import Piece, tokenize


class ZeroShotClassificationPipeline(Pipeline):
    """Scores any labels with a model of natural language inference: `{"sequence", "labels", "scores"}`, best first.

    Options:
        candidate_labels: a list of labels, or one text with commas; required.
        hypothesis_template: the sentence that is tested, with {} for the label.
        multi_label: whether labels are independent of each other; otherwise their scores sum to 1.
        multi_class: the older spelling of `multi_label`.

    Of a text longer than the model reads, only the beginning counts, which `trace` says.
    """

    task = "zero-shot-classification"
    options = {
        "candidate_labels": None,
        "hypothesis_template": "This example is {}.",
        "multi_label": False,
        "multi_class": None,
    }

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        _ = self.entailment  # a model without such a label is refused at once

    def __call__(self, inputs: Any = None, candidate_labels: Any = None, **options: Any) -> Any:
        """Score the labels for one text, a list, or any iterable of texts."""
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        return super().__call__(options.pop("sequences", inputs), **options)

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the template, and translate older spellings."""
        settings = super().read_options(defaults, given)
        if settings["multi_class"] is not None:
            settings["multi_label"] = settings["multi_class"]
        labels = settings["candidate_labels"]
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(",") if label.strip()]
        if labels is not None and (
            not isinstance(labels, Sequence) or not labels or not all(isinstance(label, str) for label in labels)
        ):
            raise InputError(f"candidate_labels is {labels!r:.80}; expected a list of texts with at least one.")
        template = settings["hypothesis_template"]
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError(f"hypothesis_template is {template!r}; expected a sentence with one {{}} for the label.")
        return settings | {"candidate_labels": labels and list(dict.fromkeys(labels))}

    @property
    def entailment(self) -> int:
        """The id of the label that says that the hypothesis follows.

        Raises:
            ConfigError: if the model has no such label.
        """
        for i, label in self.model.config.id2label.items():
            if label.lower().startswith("entail"):
                return i
        names = ", ".join(self.model.config.id2label.values())
        raise ConfigError(
            "Zero-shot classification needs a model of natural language inference, with a label 'entailment'; "
            f"this one's labels are {names}. The task text-classification runs it."
        )

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Pair the text with one hypothesis a label."""
        self.check(item, "the input", options)
        labels = options.get("candidate_labels")
        if not labels:
            raise InputError("zero-shot-classification needs candidate_labels=[...], the labels to score.")
        template, limit = options.get("hypothesis_template", "This example is {}."), self.limit
        pieces = []
        for label in labels:
            piece = tokenize(self.tokenizer, item, hypothesis := template.replace("{}", label))
            if too_long := limit is not None and len(piece["input_ids"]) > limit:
                piece = tokenize(self.tokenizer, item, hypothesis, truncation="only_first", max_length=limit)
            pieces.append(piece | {"text": item, "candidates": tuple(labels), "truncated": too_long})
        return pieces

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> dict[str, Any]:
        """Turn entailment into scores: against contradiction, or among the labels."""
        logits, yes, labels = torch.stack(rows), self.entailment, pieces[0]["candidates"]  # (labels, 2 or 3)
        if options.get("multi_label") or len(labels) == 1:
            no = 0 if yes else logits.shape[1] - 1
            scores = logits[:, [no, yes]].softmax(-1)[:, 1]
        else:
            scores = logits[:, yes].softmax(0)
        order = scores.argsort(descending=True, stable=True).tolist()
        return {"sequence": pieces[0]["text"], "labels": [labels[i] for i in order], "scores": scores[order].tolist()}

    def note(self, groups: list[list[Piece]]) -> str:
        """Say which texts were truncated."""
        truncated = sum(any(piece["truncated"] for piece in group) for group in groups)
        return f"of {truncated} long text(s) only the beginning is read" if truncated else ""
