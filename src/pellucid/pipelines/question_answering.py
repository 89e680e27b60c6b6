"""Extractive question answering: the place in a text that answers a question."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..outputs import ModelOutput
from .base import Pipeline, check_count, token_rows
from .windows import Piece, cut, tokenize


class QuestionAnsweringPipeline(Pipeline):
    """Finds the answer to a question in a context.

    An input is `{"question": ..., "context": ...}`; or a question, with `context=` beside it; or both as keywords, each
    a text or a list of texts. An answer is `{"score", "start", "end", "answer"}`, where `answer` is
    `context[start:end]`. A context of any length is read in overlapping windows.

    Options:
        context: the text to look in, for inputs that are questions alone.
        top_k: how many answers; more than one gives a list.
        topk: the older spelling of `top_k`.
        doc_stride: tokens that neighbouring windows share.
        max_seq_len: tokens of a window, question included.
        max_question_len: tokens of the question that are read.
        max_answer_len: tokens of an answer at most.
        handle_impossible_answer: whether "no answer" (an empty one) competes.
        align_to_words: whether an answer begins and ends with whole words.
    """

    task = "question-answering"
    options = {
        "context": None,
        "top_k": 1,
        "topk": None,
        "doc_stride": 128,
        "max_seq_len": 384,
        "max_question_len": 64,
        "max_answer_len": 15,
        "handle_impossible_answer": False,
        "align_to_words": True,
    }

    empty = {"score": 0.0, "start": 0, "end": 0, "answer": ""}  # no answer, as an answer

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the numbers."""
        settings = super().read_options(defaults, given)
        if given.get("topk") is not None:
            settings["top_k"] = given["topk"]
        for name in ("top_k", "max_answer_len", "max_seq_len", "max_question_len", "doc_stride"):
            check_count(name, settings.get(name), least=0 if name == "doc_stride" else 1)
        return settings

    def __call__(self, inputs: Any = None, context: Any = None, *, question: Any = None, **options: Any) -> Any:
        """Answer one question, a list, or any iterable of them; see the class for the forms."""
        if question is not None and inputs is not None:
            raise InputError("There is an input and question= beside it; give one of them.")
        inputs = question if inputs is None else inputs
        if isinstance(context, list | tuple):
            inputs = [inputs] * len(context) if isinstance(inputs, str) else inputs
            if not isinstance(inputs, list | tuple) or len(inputs) != len(context):
                raise InputError(f"There are {len(context)} contexts; expected one question, or as many in a list.")
            inputs = [{"question": q, "context": c} for q, c in zip(inputs, context, strict=True)]
        elif context is not None:
            options["context"] = context
        return super().__call__(inputs, **options)

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """A question, alone or in a mapping."""
        return isinstance(inputs, Mapping | str)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept a mapping with the two texts, or a question where there is a context."""
        item, where = self._whole(item, settings), where[0].upper() + where[1:]
        for name in ("question", "context"):
            if not isinstance(item, Mapping) or not isinstance(item.get(name), str):
                raise InputError(f"{where} is {item!r:.80}; expected {{'question': a text, 'context': a text}}.")
        for name in ("question", "context"):
            if not item[name].strip():
                raise InputError(f"{where} has an empty {name}; expected a text.")

    @staticmethod
    def _whole(item: Any, options: dict[str, Any]) -> Any:
        return {"question": item, "context": options.get("context")} if isinstance(item, str) else item

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize question and context as a pair; cut a long context into windows."""
        options = self.defaults | options
        self.check(item, "the input", options)
        item = self._whole(item, options)
        question, context = item["question"], item["context"]
        longest = options["max_question_len"]
        words = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if longest is not None and len(words) > longest:
            question = question[: words[longest - 1][1]]
        # Tokenizers that pad on the left (XLNet's) belong to models that were trained with the context first.
        part = 0 if self.tokenizer.padding_side == "left" else 1
        piece = tokenize(self.tokenizer, *((question, context) if part else (context, question)))
        return self.windows(piece | {"text": context, "context": part}, options)

    def windows(self, piece: Piece, options: dict[str, Any]) -> list[Piece]:
        """Cut the context of a piece into windows."""
        limits = [n for n in (self.limit, options["max_seq_len"]) if n is not None]
        return cut(piece, piece["context"], limit=min(limits, default=None), overlap=options["doc_stride"] or 0)

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[tuple[Tensor, Tensor]]:
        """Start and end logits, (T,) each, for each piece."""
        start, end = self.finite(output["start_logits"]), self.finite(output["end_logits"])
        return list(zip(token_rows(start, pieces), token_rows(end, pieces), strict=True))

    def postprocess(self, pieces: list[Piece], rows: list[tuple[Tensor, Tensor]], **options: Any) -> Any:
        """Choose the spans whose two ends are likeliest."""
        options = self.defaults | options
        impossible, top_k = options["handle_impossible_answer"], options["top_k"] or 1
        no_answer, found = 1.0, []
        for piece, (start, end) in zip(pieces, rows, strict=True):
            inside = torch.tensor([part == piece["context"] for part in piece["part"]])
            first = [i for i, token in enumerate(piece["input_ids"]) if token == self.tokenizer.cls_token_id]
            longest = options["max_answer_len"] or len(start)
            spans, nothing = likeliest_spans(start, end, inside, first, longest=longest)
            no_answer = min(no_answer, nothing)
            found += distinct((self.answer(piece, *span, options) for span in spans), top_k)
        if impossible or not found:
            found.append(self.empty | {"score": no_answer if impossible else 0.0})
        found.sort(key=lambda answer: -answer["score"])
        return self.choose(distinct(found, top_k), top_k)  # windows overlap, and may have found the same

    def choose(self, answers: list[dict[str, Any]], top_k: int) -> Any:
        """Give one answer alone, several as a list."""
        return answers[0] if top_k == 1 else answers

    def answer(self, piece: Piece, score: float, first: int, last: int, options: dict[str, Any]) -> dict[str, Any]:
        """Say which part of the context tokens `first` to `last` of a piece are."""
        spans, words, parts = piece["span"], piece["word"], piece["part"]
        if options["align_to_words"]:
            while first > 0 and parts[first - 1] == parts[first] and words[first - 1] == words[first]:
                first -= 1
            while last + 1 < len(words) and parts[last + 1] == parts[last] and words[last + 1] == words[last]:
                last += 1
        start, end = spans[first][0], spans[last][1]
        while start < end and piece["text"][start].isspace():  # byte-level tokens carry the space before them
            start += 1
        return {"score": score, "start": start, "end": end, "answer": piece["text"][start:end]}


def distinct(answers: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Take the first `count` answers that are different places."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for answer in answers:
        found.setdefault((answer["start"], answer["end"]), answer)
        if len(found) == count:
            break
    return list(found.values())


def likeliest_spans(
    start: Tensor, end: Tensor, inside: Tensor, nowhere: list[int], *, longest: int
) -> tuple[Iterator[tuple[float, int, int]], float]:
    """Order spans by the probability of both their ends.

    Args:
        start: logits of the first token of an answer, (T,).
        end: logits of its last token, (T,).
        inside: which tokens an answer may consist of, (T,).
        nowhere: tokens that stand for "no answer", by which probabilities are shared too.
        longest: tokens of an answer at most.

    Returns:
        The spans, likeliest first, as (probability, first token, last token), and the probability of no answer.
    """
    shared = inside.clone()
    shared[nowhere] = True
    begins, ends = (x.double().masked_fill(~shared, float("-inf")).log_softmax(0) for x in (start, end))
    nothing = float((begins[nowhere[0]] + ends[nowhere[0]]).exp()) if nowhere else 0.0
    begins, ends = begins.masked_fill(~inside, float("-inf")), ends.masked_fill(~inside, float("-inf"))
    longest = min(longest, len(start))
    # (T, longest): row i holds the spans that begin with token i, by their length
    scores = begins[:, None] + F.pad(ends, (0, longest - 1), value=float("-inf")).unfold(0, longest, 1)
    best = scores.flatten().sort(descending=True, stable=True)
    count = int(best.values.isfinite().sum())
    places = (divmod(i, longest) for i in best.indices[:count].tolist())
    found = zip(best.values[:count].exp().tolist(), places, strict=True)
    return ((score, i, i + more) for score, (i, more) in found), nothing
