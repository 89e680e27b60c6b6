"""Text ranking: how well documents answer a query, by a model that reads both together (a cross-encoder)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import ConfigError, InputError
from .base import Pipeline, check_count
from .windows import Piece, cut, tokenize

# The activation that a config.json names by its class, as a function of a score.
ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "none"}


class TextRankingPipeline(Pipeline):
    """Ranks documents by how well they answer a query: `[{"index", "score"}]`, best first.

    An input is `{"query": ..., "documents": [...]}`; or a query, with `documents=` beside it; or one pair,
    `{"text": query, "text_pair": document}`, whose answer is `{"score"}`. `index` is the document's place in the list.

    A document longer than the model reads is read in overlapping windows, of which the best counts; `truncation=True`
    reads only the beginning instead, as the sentence-transformers library does.

    Options:
        documents: for inputs that are queries alone.
        top_k: how many documents; by default all.
        return_documents: whether to add the document as "text".
        function_to_apply: "sigmoid" or "none"; by default what the model's config asks for, else "sigmoid".
        truncation: whether to read only the beginning of a long document.
    """

    task = "text-ranking"
    options = {
        "documents": None,
        "top_k": None,
        "return_documents": False,
        "function_to_apply": None,
        "truncation": False,
    }

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        if model.config.num_labels != 1:
            raise ConfigError(
                f"text-ranking needs a model with one score; this one has the labels "
                f"{', '.join(model.config.id2label.values())}. The task text-classification runs it."
            )
        config = getattr(model.config, "sentence_transformers", None) or {}
        name = config.get("activation_fn") or getattr(model.config, "sbert_ce_default_activation_function", None)
        kind = str(name or "Sigmoid").rpartition(".")[2]
        if kind not in ACTIVATIONS:
            raise ConfigError(f"config.json asks for the activation {kind!r}; expected {' or '.join(ACTIVATIONS)}.")
        self.function = ACTIVATIONS[kind]

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the values."""
        settings = super().read_options(defaults, given)
        check_count("top_k", settings["top_k"])
        if settings["function_to_apply"] not in (None, "sigmoid", "none"):
            raise InputError(f"function_to_apply is {settings['function_to_apply']!r}; expected 'sigmoid' or 'none'.")
        return settings

    def __call__(self, inputs: Any = None, documents: Any = None, *, query: Any = None, **options: Any) -> Any:
        """Rank for one query, a list, or any iterable of them; see the class for the forms."""
        if documents is not None:
            options["documents"] = documents
        return super().__call__(query if inputs is None else inputs, **options)

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """A query, alone or in a mapping."""
        return isinstance(inputs, Mapping | str)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept a pair, or a query with documents."""
        where = where[0].upper() + where[1:]
        item = {"query": item, "documents": settings.get("documents")} if isinstance(item, str) else item
        names = set(item) if isinstance(item, Mapping) else set()
        if names == {"text", "text_pair"} and all(isinstance(text, str) for text in item.values()):
            return
        if names != {"query", "documents"} or not isinstance(item["query"], str):
            raise InputError(
                f"{where} is {item!r:.80}; expected {{'query': a text, 'documents': [texts]}}, or a pair as "
                "{'text': the query, 'text_pair': the document}."
            )
        documents = item["documents"]
        if not isinstance(documents, list | tuple) or not documents or not all(isinstance(d, str) for d in documents):
            raise InputError(f"{where} has the documents {documents!r:.60}; expected a list of at least one text.")

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Pair the query with each document; cut long documents into windows, or truncate them."""
        self.check(item, "the input", options)
        if isinstance(item, Mapping) and "text" in item:
            query, documents = item["text"], (item["text_pair"],)
        elif isinstance(item, Mapping):
            query, documents = item["query"], tuple(item["documents"])
        else:
            query, documents = item, tuple(options["documents"])
        pieces = []
        for i, document in enumerate(documents):
            about = {"index": i, "documents": documents, "pair": isinstance(item, Mapping) and "text" in item}
            pieces += [piece | about for piece in self._windows(query, document, options)]
        return pieces

    def _windows(self, query: str, document: str, options: dict[str, Any]) -> list[Piece]:
        limit, piece = self.limit, tokenize(self.tokenizer, query, document)
        if limit is None or len(piece["input_ids"]) <= limit:
            return [piece]
        beside = sum(part != 1 for part in piece["part"])
        if options.get("truncation") or beside > limit // 2:  # a query that leaves no room for windows
            return [tokenize(self.tokenizer, query, document, truncation=True, max_length=limit)]
        return cut(piece, 1, limit=limit, overlap=limit // 8)

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> Any:
        """Take each document's best window, and sort."""
        best: dict[int, Tensor] = {}
        for piece, row in zip(pieces, rows, strict=True):
            i = piece["index"]
            best[i] = row.amax() if i not in best else max(best[i], row.amax())
        sigmoid = (options.get("function_to_apply") or self.function) == "sigmoid"
        scores = {i: float(score.sigmoid() if sigmoid else score) for i, score in best.items()}
        if pieces[0]["pair"]:
            return {"score": scores[0]}
        order = sorted(best, key=lambda i: -float(best[i]))[: options.get("top_k")]
        text = pieces[0]["documents"] if options.get("return_documents") else None
        return [{"index": i, "score": scores[i]} | ({"text": text[i]} if text else {}) for i in order]

    def note(self, groups: list[list[Piece]]) -> str:
        """Say how many documents were read in windows."""
        counts: dict[tuple[int, int], int] = {}
        for g, group in enumerate(groups):
            for piece in group:
                counts[g, piece["index"]] = counts.get((g, piece["index"]), 0) + 1
        windows = [count for count in counts.values() if count > 1]
        if not windows:
            return ""
        return f"{len(windows)} long document(s) read in {sum(windows)} overlapping windows, of which the best counts"
