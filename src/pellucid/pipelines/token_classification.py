"""Token classification: labels for the words of a text; finding names (NER) is its best known use."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ..errors import InputError
from ..outputs import ModelOutput
from .base import Pipeline, check_count, token_rows
from .windows import Piece, cut, join, tokenize

STRATEGIES = ("none", "simple", "first", "average", "max")


class TokenClassificationPipeline(Pipeline):
    """Labels tokens, or with an aggregation strategy whole names.

    Without aggregation each labelled token is an answer: `{"entity", "score", "index", "word", "start", "end"}`, where
    `word` is the token and `index` its place. With aggregation neighbouring tokens of one label are an answer:
    `{"entity_group", "score", "word", "start", "end"}`, and `word` is always `text[start:end]`.

    A text of any length is read in overlapping windows; a token counts where a window shows most around it.

    Options:
        aggregation_strategy: "none"; "simple": neighbouring tokens of one label; "first", "average", "max": a word
            has one label, that of its first token, of its tokens' mean scores, or of its surest token.
        ignore_labels: labels that are no answer.
        stride: tokens that neighbouring windows share; by default a quarter of what the model reads.
        is_split_into_words: whether an input is a list of words instead of a text.
        delimiter: what stands between such words in the text that `start` and `end` count in.
        grouped_entities: the older spelling of "simple"; with `ignore_subwords`, of "first".
        ignore_subwords: see `grouped_entities`.
    """

    task = "token-classification"
    options = {
        "aggregation_strategy": "none",
        "ignore_labels": ("O",),
        "stride": None,
        "is_split_into_words": False,
        "delimiter": " ",
        "grouped_entities": None,
        "ignore_subwords": None,
    }

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the strategy, and translate its older spellings."""
        settings = super().read_options(defaults, given)
        if settings["grouped_entities"] is not None and "aggregation_strategy" not in given:
            grouped = "first" if settings["ignore_subwords"] else "simple"
            settings["aggregation_strategy"] = grouped if settings["grouped_entities"] else "none"
        strategy = str(getattr(settings["aggregation_strategy"], "value", settings["aggregation_strategy"])).lower()
        if strategy not in STRATEGIES:
            raise InputError(f"aggregation_strategy is {strategy!r}; expected one of {', '.join(STRATEGIES)}.")
        check_count("stride", settings["stride"], least=0)
        return settings | {"aggregation_strategy": strategy}

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """A text, or a list of words where that was asked for."""
        if settings.get("is_split_into_words"):
            return isinstance(inputs, list) and all(isinstance(word, str) for word in inputs)
        return isinstance(inputs, str)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept a text, or a list of words where that was asked for."""
        if settings.get("is_split_into_words") and not self.is_one(item, settings):
            where = where[0].upper() + where[1:]
            raise InputError(f"{where} is {item!r:.60} ({type(item).__name__}); expected a list of words (str).")
        super().check(item, where, settings)

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize; cut what is too long into windows."""
        self.check(item, "the input", options)
        limit, stride = self.limit, options.get("stride")
        if isinstance(item, str):
            text, piece = item, tokenize(self.tokenizer, item)
        else:
            text, begins = options["delimiter"].join(item), [0]
            for word in item:
                begins.append(begins[-1] + len(word) + len(options["delimiter"]))
            piece = tokenize(self.tokenizer, item, is_split_into_words=True)
            spans = zip(piece["span"], piece["word"], strict=True)
            piece["span"] = [(a, b) if word is None else (a + begins[word], b + begins[word]) for (a, b), word in spans]
        overlap = (limit or 0) // 4 if stride is None else stride
        return cut(piece | {"text": text}, 0, limit=limit, overlap=overlap)

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[Any]:
        """Probabilities of the labels, T lists of L numbers, for each piece."""
        return [row.tolist() for row in token_rows(self.finite(output["logits"]).softmax(-1), pieces)]

    def postprocess(self, pieces: list[Piece], rows: list[Any], **options: Any) -> list[dict[str, Any]]:
        """Name the labels of the tokens, or of the words and names they make up."""
        text, labels = pieces[0]["text"], self.model.config.id2label
        before = next((i for i, part in enumerate(pieces[0]["part"]) if part == 0), 0)  # special tokens in front
        tokens = []
        for number, (piece, place, scores) in enumerate(join(pieces, rows)):
            start, end = piece["span"][place]
            while start < end and text[start].isspace():  # byte-level tokens carry the space before them
                start += 1
            token = {"scores": scores, "start": start, "end": end, "word": piece["word"][place]}
            tokens.append(token | {"index": before + number, "id": piece["input_ids"][place]})
        strategy = options.get("aggregation_strategy", "none")
        if strategy == "none":
            answers = [self._token(token) for token in tokens]
        else:
            answers = _groups(tokens if strategy == "simple" else _words(tokens, strategy), labels, text)
        ignored = options.get("ignore_labels", ("O",))
        return [answer for answer in answers if answer.get("entity", answer.get("entity_group")) not in ignored]

    def _token(self, token: dict[str, Any]) -> dict[str, Any]:
        score = max(token["scores"])
        return {
            "entity": self.model.config.id2label[token["scores"].index(score)],
            "score": score,
            "index": token["index"],
            "word": self.tokenizer.convert_ids_to_tokens(token["id"]),
            "start": token["start"],
            "end": token["end"],
        }


def _words(tokens: list[dict[str, Any]], strategy: str) -> list[dict[str, Any]]:
    """Make one entry of each word's tokens."""
    words = []
    for _, group in groupby(tokens, key=lambda token: token["word"]):
        parts = list(group)
        if strategy == "first":
            scores = parts[0]["scores"]
        elif strategy == "max":
            scores = max((part["scores"] for part in parts), key=max)
        else:
            scores = [sum(column) / len(parts) for column in zip(*(part["scores"] for part in parts), strict=True)]
        words.append({"scores": scores, "start": parts[0]["start"], "end": parts[-1]["end"]})
    return words


def _groups(words: list[dict[str, Any]], labels: dict[int, str], text: str) -> list[dict[str, Any]]:
    """Join neighbours of one label; a B- begins anew."""
    groups: list[dict[str, Any]] = []
    for word in words:
        score = max(word["scores"])
        begins, name = split_label(labels[word["scores"].index(score)])
        if groups and groups[-1]["entity_group"] == name and not begins:
            groups[-1]["scores"].append(score)
            groups[-1]["end"] = word["end"]
        else:
            groups.append({"entity_group": name, "scores": [score], "start": word["start"], "end": word["end"]})
    return [
        {
            "entity_group": group["entity_group"],
            "score": sum(group["scores"]) / len(group["scores"]),
            "word": text[group["start"] : group["end"]],
            "start": group["start"],
            "end": group["end"],
        }
        for group in groups
    ]


def split_label(label: str) -> tuple[bool, str]:
    """Split a label such as B-PER into (whether a name begins here, PER)."""
    if label[:2] in ("B-", "I-"):
        return label[0] == "B", label[2:]
    return False, label
