"""Fill-mask: the likeliest words in the place of a mask."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, did_you_mean
from ..outputs import ModelOutput
from .base import Pipeline, check_count, token_rows
from .windows import Piece, cut, join, tokenize


class FillMaskPipeline(Pipeline):
    """Fills in masked words: `[{"score", "token", "token_str", "sequence"}]`, likeliest first.

    A text with several masks gives one such list for each; every mask is filled on its own, beside the others. Of a
    text longer than the model reads, the windows around its masks are read.

    Options:
        top_k: how many words a mask.
        targets: the words to choose among, as a text or a list; by default the whole vocabulary.
        tokenizer_kwargs: accepted for `truncation`, which long texts do not need.
    """

    task = "fill-mask"
    options = {"top_k": 5, "targets": None}
    ignored = Pipeline.ignored | {"tokenizer_kwargs"}

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the values."""
        settings = super().read_options(defaults, given)
        check_count("top_k", settings["top_k"])
        if settings["targets"] is not None:
            self._target_ids(settings["targets"])
        return settings

    def _target_ids(self, targets: str | list[str]) -> list[int]:
        """Return the ids of the target words.

        Raises:
            InputError: if a word is not one token of the vocabulary, with the nearest that is.
        """
        words = [targets] if isinstance(targets, str) else list(targets)
        vocabulary, ids = self.tokenizer.get_vocab(), []
        for word in words:
            if not isinstance(word, str):
                raise InputError(f"targets holds {word!r}; expected words (str).")
            own = vocabulary.get(word)
            pieces = self.tokenizer(word, add_special_tokens=False)["input_ids"] if own is None else [own]
            if len(pieces) != 1 or pieces[0] == self.tokenizer.unk_token_id:
                raise InputError(
                    f"The target {word!r} is not one token of this vocabulary{did_you_mean(word, vocabulary) or '.'}"
                )
            ids += pieces
        if not ids:
            raise InputError("targets is empty; expected words, or None for the whole vocabulary.")
        return list(dict.fromkeys(ids))

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize, and keep the windows that hold masks."""
        self.check(item, "the input", options)
        mask = self.tokenizer.mask_token_id
        if mask is None:
            raise InputError("This tokenizer has no mask token; fill-mask needs a masked language model.")
        piece = tokenize(self.tokenizer, item)
        if mask not in piece["input_ids"]:
            raise InputError(
                f"There is no {self.tokenizer.mask_token} in the text {item!r:.80}; write it where a word is missing."
            )
        windows = cut(piece | {"whole": tuple(piece["input_ids"])}, 0, limit=self.limit, overlap=(self.limit or 0) // 2)
        return [window for window in windows if mask in window["input_ids"]]

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[list[Tensor | None]]:
        """Scores of the vocabulary, (V,), for each mask of each piece; None for other tokens."""
        mask, rows = self.tokenizer.mask_token_id, token_rows(output["logits"], pieces)
        return [
            [
                self.finite(scores) if token == mask else None
                for token, scores in zip(piece["input_ids"], row, strict=True)
            ]
            for piece, row in zip(pieces, rows, strict=True)
        ]

    def postprocess(self, pieces: list[Piece], rows: list[Any], **options: Any) -> list[Any]:
        """Name the likeliest words of each mask, and show the text with them."""
        targets, ids = options.get("targets"), list(pieces[0]["whole"])
        allowed = None if targets is None else torch.tensor(self._target_ids(targets))
        several = ids.count(self.tokenizer.mask_token_id) > 1
        answers = []
        for piece, place, logits in join(pieces, rows):
            if logits is None:
                continue
            scores = logits.softmax(-1)  # (V,)
            candidates = torch.arange(min(len(scores), len(self.tokenizer))) if allowed is None else allowed
            best = scores[candidates].topk(min(options.get("top_k") or 5, len(candidates)))
            position = piece["first"] + place
            answers.append(
                [
                    {
                        "score": score,
                        "token": token,
                        "token_str": self.tokenizer.decode([token]),
                        "sequence": self.tokenizer.decode(
                            [*ids[:position], token, *ids[position + 1 :]], skip_special_tokens=not several
                        ),
                    }
                    for score, token in zip(best.values.tolist(), candidates[best.indices].tolist(), strict=True)
                ]
            )
        return answers if several else answers[0]

    def note(self, groups: list[list[Piece]]) -> str:
        """Say of how many texts not all is read."""
        long = sum(len(group[0]["whole"]) > len(group[0]["input_ids"]) for group in groups)
        return f"of {long} long text(s) only the windows around masks are read" if long else ""
