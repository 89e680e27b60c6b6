"""Collators: from a list of rows to the batch that a model takes.

A row is a dictionary such as a tokenizer returns, with "label", "label_ids" or "labels" beside it. Arguments and
results are those of the original's collators of the same names.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..errors import InputError, did_you_mean
from ..layout import Layout
from ..tokenizer import BatchEncoding, Tokenizer

IGNORED = -100  # the label of what there is nothing to learn from

Row = Mapping[str, Any]


def default_data_collator(features: Sequence[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack rows whose values have one shape already.

    Args:
        features: dictionaries, or objects with such attributes. "label" and "label_ids" become "labels"; texts and
            None are left out.
        return_tensors: "pt" or "np".

    Raises:
        InputError: if there are no rows, or one lacks what another has, or differs from it in shape.
    """
    rows = [dict(row) if isinstance(row, Mapping) else vars(row) for row in features]
    _check_alike(rows)
    names = [name for name, value in rows[0].items() if value is not None and not isinstance(value, str)]
    batch = {_labels_name(name): _stack(name, [row[name] for row in rows]) for name in names}
    return _returned(batch, return_tensors).data


@dataclass
class DefaultDataCollator:
    """`default_data_collator` as an object.

    Attributes:
        return_tensors: "pt" or "np".
    """

    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Return the batch; see `default_data_collator`."""
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pads the inputs of a batch to its longest row, and stacks everything else.

    Attributes:
        tokenizer: which knows how to pad.
        padding: True for the longest row, "max_length" for `max_length`, False for none.
        max_length: in tokens; by default the tokenizer's limit.
        pad_to_multiple_of: round lengths up to a multiple of this, which some devices are faster with.
        return_tensors: "pt" or "np".
    """

    tokenizer: Tokenizer
    padding: bool | str = True
    _: KW_ONLY
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Row]) -> BatchEncoding:
        """Return the batch, of input_ids, attention_mask, ..., labels."""
        rows = [{_labels_name(name): value for name, value in row.items()} for row in features]
        return _returned(self.pad(rows), self.return_tensors)

    def pad(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Pad what has one value a token; everything else must have one shape."""
        _check_alike(rows)
        padded = self.tokenizer.pad(
            rows, self.padding, max_length=self.max_length, pad_to_multiple_of=self.pad_to_multiple_of
        )
        return {name: _stack(name, values) for name, values in padded.items()}


@dataclass
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Pads inputs, and the labels of their tokens on the same side.

    Attributes:
        label_pad_token_id: the label of padding, which does not count.
    """

    _: KW_ONLY
    label_pad_token_id: int = IGNORED

    def __call__(self, features: Sequence[Row]) -> BatchEncoding:
        """Return the batch; `labels` are (B, T)."""
        rows, labels = _split_labels(features)
        batch = self.pad(rows)
        if labels:
            length = batch["input_ids"].shape[1]
            batch["labels"] = _fill_up(labels, length, self.label_pad_token_id, self.tokenizer.padding_side)
        return _returned(batch, self.return_tensors)


@dataclass
class DataCollatorForSeq2Seq:
    """Pads sources, and their targets to a length of their own.

    Attributes:
        tokenizer: which knows how to pad.
        model: to give the decoder its inputs too, the target shifted by one as this model does it; models do that
            themselves where they are given labels.
        padding: True for the longest row, "max_length" for `max_length`, False for none.
        max_length: of sources, and of targets, in tokens.
        pad_to_multiple_of: round both lengths up to a multiple of this.
        label_pad_token_id: the label of padding, which does not count.
        return_tensors: "pt" or "np".
    """

    tokenizer: Tokenizer
    model: Any = None
    _: KW_ONLY
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Row]) -> BatchEncoding:
        """Return the batch, of input_ids, attention_mask, labels, and with a model decoder_input_ids."""
        rows, labels = _split_labels(features)
        pad = DataCollatorWithPadding(
            self.tokenizer, self.padding, max_length=self.max_length, pad_to_multiple_of=self.pad_to_multiple_of
        )
        batch = pad.pad(rows)
        if labels:
            length = max(len(row) for row in labels)
            if self.padding == "max_length" and self.max_length is not None:
                length = max(length, self.max_length)
            if self.padding not in (False, "do_not_pad"):
                multiple = self.pad_to_multiple_of or 1
                length = -(-length // multiple) * multiple
            batch["labels"] = _fill_up(labels, length, self.label_pad_token_id, self.tokenizer.padding_side)
            if self.model is not None:
                batch["decoder_input_ids"] = _decoder_inputs(self.model, batch["labels"])
        return _returned(batch, self.return_tensors)


@dataclass
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Pads questions with several choices each to one length, (B, choices, T)."""

    def __call__(self, features: Sequence[Row]) -> BatchEncoding:
        """Return the batch; `labels` are (B,)."""
        rows, labels = _split_labels(features)
        _check_alike(rows)
        choices = len(rows[0]["input_ids"]) if rows[0].get("input_ids") is not None else 0
        if not choices or any(len(row["input_ids"]) != choices for row in rows):
            raise InputError(
                "Rows of multiple choice need 'input_ids' of as many lists as there are choices, the same in all."
            )
        flat = [{name: values[i] for name, values in row.items()} for row in rows for i in range(choices)]
        batch = {name: values.unflatten(0, (len(rows), choices)) for name, values in self.pad(flat).items()}
        if labels:
            batch["labels"] = torch.tensor(labels)
        return _returned(batch, self.return_tensors)


@dataclass
class DataCollatorForLanguageModeling:
    """Makes of texts what there is to guess: every next token, or (`mlm`) some that are hidden.

    Of the tokens that are chosen, 80 % become the mask token, 10 % any token, 10 % stay: Devlin et al., 2018,
    https://arxiv.org/abs/1810.04805. Padding is never a label; a padding token within a text, as the end of one is for
    GPT-2, is.

    Attributes:
        tokenizer: which knows how to pad, and the mask token.
        mlm: True to hide tokens, False to guess the next one.
        whole_word_mask: whether the tokens of a word are chosen together. Words are told by the rows' "word_ids" or
            "offset_mapping", else by the "##" of WordPiece.
        mlm_probability: of a token, or a word, to be chosen.
        mask_replace_prob: of a chosen one to become the mask token.
        random_replace_prob: of a chosen one to become any token; what is left of 1 stays as it is.
        pad_to_multiple_of: round lengths up to a multiple of this.
        return_tensors: "pt" or "np".
        seed: of draws of this collator's own; by default they are torch's.
    """

    tokenizer: Tokenizer
    mlm: bool = True
    _: KW_ONLY
    whole_word_mask: bool = False
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None
    _generator: torch.Generator | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.mlm and self.tokenizer.mask_token_id is None:
            raise InputError("This tokenizer has no mask token; pass mlm=False to guess the next token instead.")
        rates = (self.mlm_probability, self.mask_replace_prob, self.random_replace_prob)
        if self.mlm and not (all(0 <= rate <= 1 for rate in rates) and rates[0] > 0 and rates[1] + rates[2] <= 1):
            raise InputError(
                f"mlm_probability, mask_replace_prob and random_replace_prob are {rates}; expected numbers from 0 to "
                "1, the first above 0 and the sum of the others at most 1."
            )

    def __call__(self, features: Sequence[Any]) -> BatchEncoding:
        """Return the batch; rows may be dictionaries, or only ids. `labels`: (B, T), -100 where nothing is to guess."""
        rows = [dict(row) if isinstance(row, Mapping) else {"input_ids": row} for row in features]
        aside = {
            name: [row.pop(name) for row in rows if name in row] for name in ("word_ids", "offset_mapping", "labels")
        }
        pad = DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of)
        batch = pad.pad(rows)
        special = batch.pop("special_tokens_mask", None)
        ids = batch["input_ids"]
        real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(ids, dtype=torch.bool)
        if not self.mlm:
            batch["labels"] = ids.masked_fill(~real, IGNORED)
            return _returned(batch, self.return_tensors)
        if special is None:
            special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        free = real & ~special.bool()
        words = self._words(ids, free, aside) if self.whole_word_mask else None
        batch["input_ids"], batch["labels"] = self.mask(ids, free, words)
        return _returned(batch, self.return_tensors)

    def mask(self, ids: Tensor, free: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hide some tokens.

        Args:
            ids: (B, T).
            free: (B, T), true on those that may be hidden.
            words: (B, T), the number of each token's word in its row; None for tokens one by one.

        Returns:
            The ids with some hidden, and the labels.
        """
        generator = self._draws()
        drawn = torch.rand(ids.shape, generator=generator)
        chosen = (drawn if words is None else drawn.gather(1, words)) < self.mlm_probability
        chosen &= free
        what = torch.rand(ids.shape, generator=generator)
        any_token = torch.randint(len(self.tokenizer), ids.shape, generator=generator)
        hidden = torch.where(what < self.mask_replace_prob, self.tokenizer.mask_token_id, ids)  # type: ignore[arg-type]
        swapped = (what >= self.mask_replace_prob) & (what < self.mask_replace_prob + self.random_replace_prob)
        hidden = torch.where(swapped, any_token, hidden)
        return torch.where(chosen, hidden, ids), ids.masked_fill(~chosen, IGNORED)

    def _draws(self) -> torch.Generator | None:
        """Return the generator to draw from; each process that loads data has one."""
        if self.seed is not None and self._generator is None:
            worker = get_worker_info()
            self._generator = torch.Generator().manual_seed(self.seed + (worker.id if worker else 0))
        return self._generator

    @cached_property
    def _continuations(self) -> set[int]:
        """The ids of tokens that go on with a word, in WordPiece."""
        found = {i for token, i in self.tokenizer.get_vocab().items() if token.startswith("##")}
        if not found:
            raise InputError(
                "whole_word_mask needs to know words: give each row 'word_ids' (BatchEncoding.word_ids), or tokenize "
                "with return_offsets_mapping=True."
            )
        return found

    def _words(self, ids: Tensor, free: Tensor, aside: dict[str, list[Any]]) -> Tensor:
        """Give each token the place of its word's first token, (B, T)."""
        begins = torch.ones_like(ids, dtype=torch.bool)
        left = self.tokenizer.padding_side == "left"
        for row in range(len(ids)):
            if aside["word_ids"]:
                words = list(aside["word_ids"][row])
                inside = [a is not None and a == b for a, b in zip(words, [None, *words], strict=False)]
            elif aside["offset_mapping"]:
                spans = [tuple(map(int, span)) for span in aside["offset_mapping"][row]]
                ends = [None, *(end for _, end in spans)]
                inside = [start < end and start == before for (start, end), before in zip(spans, ends, strict=False)]
            else:
                inside = [i in self._continuations for i in ids[row].tolist()]
            start = len(ids[row]) - len(inside) if left else 0
            begins[row, start : start + len(inside)] = ~torch.tensor(inside, dtype=torch.bool)
        begins |= ~free
        begins[:, 0] = True
        places = torch.arange(ids.shape[1]).expand(ids.shape)
        return torch.where(begins, places, 0).cummax(dim=1).values


@dataclass
class DataCollatorForWholeWordMask(DataCollatorForLanguageModeling):
    """`DataCollatorForLanguageModeling` that hides whole words."""

    whole_word_mask: bool = True


class DataCollatorWithFlattening:
    """Lays the rows of a batch one after the other, (1, N), without padding.

    The batch has a `Layout` as its attention mask, by which models see texts apart, and count positions in each. The
    first token of a text is nobody's next one: its label is -100. Labels of whole texts are (texts,).

    Args:
        separator_id: the label of each text's first token.
    """

    def __init__(self, *, separator_id: int = IGNORED):
        self.separator_id = separator_id

    def __call__(self, features: Sequence[Row]) -> BatchEncoding:
        """Return the batch, of input_ids and attention_mask; labels are the ids where the rows have none."""
        rows, labels = _split_labels(features)
        _check_alike(rows)
        if "input_ids" not in rows[0]:
            raise InputError(f"Rows to lay in one need 'input_ids'; these have {', '.join(map(repr, rows[0]))}.")
        batch: dict[str, Any] = {
            name: torch.cat([torch.as_tensor(row[name]) for row in rows])[None]
            for name in rows[0]
            if name in ("input_ids", "token_type_ids")
        }
        batch["attention_mask"] = Layout.packed([len(row["input_ids"]) for row in rows])
        of_texts = bool(labels) and not hasattr(labels[0], "__len__")
        if of_texts:
            batch["labels"] = torch.tensor(labels)
        else:
            flat = torch.cat([torch.as_tensor(row) for row in labels])[None] if labels else batch["input_ids"]
            batch["labels"] = flat.masked_fill(batch["attention_mask"].positions == 0, self.separator_id)
        return BatchEncoding(batch)


def _labels_name(name: str) -> str:
    return "labels" if name in ("label", "label_ids") else name


def _split_labels(features: Sequence[Row]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Take the labels out of rows; there are none if the first row has none."""
    rows = [{_labels_name(name): value for name, value in row.items()} for row in features]
    _check_alike(rows)
    labels = [row.pop("labels", None) for row in rows]
    labels = [label.tolist() if hasattr(label, "tolist") else label for label in labels]
    return rows, labels if labels[0] is not None else []


def _check_alike(rows: Sequence[Row]) -> None:
    if not rows:
        raise InputError("There are no rows to make a batch of.")
    for i, row in enumerate(rows):
        if missing := [name for name in rows[0] if name not in row]:
            raise InputError(
                f"Row {i} of the batch has no {missing[0]!r}, as row 0 has{did_you_mean(missing[0], row) or '.'}"
            )


def _stack(name: str, values: Any) -> Tensor:
    """Make one tensor of a column."""
    try:
        if isinstance(values, Tensor):
            return values
        if isinstance(values[0], Tensor):
            return torch.stack(list(values))
        if isinstance(values[0], np.ndarray):
            return torch.from_numpy(np.stack(values))
        tensor = torch.from_numpy(np.array(values))  # far faster than torch.tensor on nested lists
        return tensor.float() if tensor.is_floating_point() else tensor.long()
    except (ValueError, TypeError, RuntimeError):
        sizes = sorted({len(value) for value in values if hasattr(value, "__len__") and not isinstance(value, str)})
        found = f"of {sizes[0]} to {sizes[-1]} items" if len(sizes) > 1 else f"such as {values[0]!r:.60}"
        raise InputError(
            f"{name!r} can not become a tensor: its values are {found}; expected numbers, as many in each row. Leave "
            "the column out, or choose the collator that pads it."
        ) from None


def _fill_up(rows: Sequence[Any], length: int, filler: int, side: str) -> Tensor:
    """Bring lists of labels to one length."""
    wrong = next((row for row in rows if not isinstance(row, list) or len(row) > length), None)
    if wrong is not None:
        found = f"{len(wrong)} labels for {length} tokens" if isinstance(wrong, list) else repr(wrong)
        raise InputError(f"The labels of a row are {found}; expected a list of one label a token.")
    missing = [[filler] * (length - len(row)) for row in rows]
    return torch.tensor([m + row if side == "left" else row + m for row, m in zip(rows, missing, strict=True)])


def _decoder_inputs(model: Any, labels: Tensor) -> Tensor:
    """Shift targets to the right as a model's own file does it."""
    shift = vars(sys.modules[type(model).__module__]).get("shift_right")
    if shift is None:
        raise InputError(f"{type(model).__name__} has no decoder beside an encoder; leave model= out.")
    return shift(labels, Layout.of(labels), model.config)


def _returned(batch: dict[str, Any], return_tensors: str) -> BatchEncoding:
    if return_tensors not in ("pt", "np"):
        raise InputError(f"return_tensors is {return_tensors!r}; expected 'pt' or 'np'.")
    return BatchEncoding(batch if return_tensors == "pt" else {name: value.numpy() for name, value in batch.items()})
