"""Question answering on documents, of which the words and their places on the page are known."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, InputError
from .question_answering import QuestionAnsweringPipeline
from .windows import Piece, tokenize


class DocumentQuestionAnsweringPipeline(QuestionAnsweringPipeline):
    """Finds the words of a document that answer a question: `[{"score", "answer", "start", "end"}]`, best first.

    An input is `{"question": ..., "word_boxes": [(word, (left, top, right, bottom)), ...]}`, or the two as keywords.
    The boxes are in thousandths of the page's width and height; the words stand in reading order. `start` and `end`
    are the first and last word of the answer, counted from 0. A document of any length is read in overlapping windows.

    The words come from a text recogniser or a PDF; an `image` beside them is not looked at.

    Options:
        word_boxes: the document, for inputs that are questions alone.
        top_k: how many answers.
        doc_stride: tokens that neighbouring windows share.
        max_seq_len: tokens of a window, question included; by default what the model reads.
        max_answer_len: tokens of an answer at most.
        handle_impossible_answer: whether "no answer" (an empty one) competes.
    """

    task = "document-question-answering"
    options = {
        "word_boxes": None,
        "top_k": 1,
        "doc_stride": 256,
        "max_seq_len": None,
        "max_answer_len": 15,
        "handle_impossible_answer": False,
    }
    empty = {"score": 0.0, "answer": "", "start": 0, "end": 0}

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        if "bbox" not in model.accepts:
            raise ConfigError(
                f"{type(model).__name__} does not read where words stand; {self.task} needs a model such as LayoutLM, "
                "question-answering runs this one."
            )

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Any = None, question: Any = None, word_boxes: Any = None, *, image: Any = None, **options: Any
    ) -> Any:
        """Answer one question, a list, or any iterable of them; with `question=`, `inputs` may be the image."""
        if word_boxes is not None:
            options["word_boxes"] = word_boxes
        return super().__call__(inputs if question is None else question, **options)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept a question with words and boxes."""
        item, where = self._whole(item, settings), where[0].upper() + where[1:]
        if not isinstance(item, Mapping) or not isinstance(item.get("question"), str):
            raise InputError(f"{where} is {item!r:.80}; expected {{'question': a text, 'word_boxes': [(word, box)]}}.")
        if not item["question"].strip():
            raise InputError(f"{where} has an empty question; expected a text.")
        words = item.get("word_boxes")
        if not isinstance(words, Sequence) or isinstance(words, str) or not words:
            raise InputError(
                f"{where} has no word_boxes ({words!r:.40}); expected [(word, (left, top, right, bottom)), ...]. "
                "Pellucid recognises no text in images: use a text recogniser."
            )
        for i, pair in enumerate(words):
            if not _is_word_box(pair):
                raise InputError(
                    f"{where}: word_boxes[{i}] is {pair!r:.80}; expected (word, (left, top, right, bottom)), "
                    "in thousandths of the page: 0 to 1000, left <= right, top <= bottom."
                )

    @staticmethod
    def _whole(item: Any, options: dict[str, Any]) -> Any:
        return {"question": item, "word_boxes": options.get("word_boxes")} if isinstance(item, str) else item

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize question and words as a pair, give each token its box, and cut a long document into windows."""
        options = self.defaults | options
        self.check(item, "the input", options)
        item = self._whole(item, options)
        words = [word for word, _ in item["word_boxes"]]
        boxes = [[round(side) for side in box] for _, box in item["word_boxes"]]
        piece = tokenize(self.tokenizer, item["question"].split(), words, is_split_into_words=True)
        end = self.tokenizer.sep_token_id
        box_of = [
            boxes[word] if part == 1 and word is not None else [1000 if token == end and part is None else 0] * 4
            for token, part, word in zip(piece["input_ids"], piece["part"], piece["word"], strict=True)
        ]
        piece |= {"bbox": box_of, "words": tuple(words), "context": 1}
        return self.windows(piece, options)

    def answer(self, piece: Piece, score: float, first: int, last: int, options: dict[str, Any]) -> dict[str, Any]:
        """Say which words tokens `first` to `last` of a piece are."""
        start, end = piece["word"][first], piece["word"][last]
        return {"score": score, "answer": " ".join(piece["words"][start : end + 1]), "start": start, "end": end}

    def choose(self, answers: list[dict[str, Any]], top_k: int) -> Any:
        """Give a list, as the task always has."""
        return answers


def _is_word_box(pair: Any) -> bool:
    if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
        return False
    box = pair[1]
    if not isinstance(box, Sequence) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        return False
    left, top, right, bottom = box
    return 0 <= left <= right <= 1000 and 0 <= top <= bottom <= 1000
