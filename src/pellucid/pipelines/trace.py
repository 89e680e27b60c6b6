"""`Trace`: what a pipeline did with a text, step by step, to print or to look at in a notebook."""

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from ..outputs import ModelOutput

# What the last step does, where it is something else than usual.
_WRITTEN = "One token after the other is chosen by its logits and read, and all become text"
LAST: dict[str, str] = dict.fromkeys(
    ("text-generation", "text2text-generation", "summarization", "translation"), _WRITTEN
)


@dataclass(frozen=True, repr=False)
class Trace:
    """The three steps of one call: tokens and ids, hidden states and logits, answers.

    Attributes:
        task: the pipeline's task.
        items: the inputs.
        pieces: pieces of each input; more than one where a long text was read in windows.
        tokens: the tokens of each piece, padding included.
        inputs: what went into the model, (pieces, T) each.
        output: what the model returned, with all hidden states.
        answers: one an input.
        note: what was done about long texts; empty when nothing was.
    """

    task: str
    items: list[Any]
    pieces: list[int]
    tokens: list[list[str]]
    inputs: dict[str, Tensor]
    output: ModelOutput
    answers: list[Any]
    note: str = ""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the last hidden state and of every part of the result."""
        hidden = self.output.hidden_states or ()
        shapes = {"hidden states": tuple(hidden[-1].shape)} if hidden else {}
        return shapes | {
            name.replace("_", " "): tuple(part.shape) for name, part in self.output.items() if isinstance(part, Tensor)
        }

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self._lines())

    __repr__ = __str__

    def _lines(self) -> list[str]:
        lines = ["1. The tokenizer turns text into tokens and ids"]
        piece = 0
        for item, count in zip(self.items, self.pieces, strict=True):
            lines.append(f"   {_shown(item)}")
            for window in range(count):
                if window == 3:
                    lines.append(f"      ... and {count - 3} more windows")
                    break
                lines += self._table(piece + window)
            piece += count
        if self.note:
            lines.append(f"   {self.note}")
        lines.append("2. The model turns ids into hidden states and logits")
        lines += [f"   {name:14} {shape}" for name, shape in self.shapes.items()]
        logits = self.output.get("logits")
        if isinstance(logits, Tensor) and logits.dim() == 2:
            lines += [f"   {'':14} {[round(x, 4) for x in row]}" for row in logits.tolist()[:8]]
        lines.append(f"3. {LAST.get(self.task, 'Post-processing turns logits into probabilities and labels')}")
        for item, answer in zip(self.items, self.answers, strict=True):
            lines += [f"   {_shown(item)}", f"      {_answer(answer)}"]
        return lines

    def _table(self, piece: int, width: int = 100) -> list[str]:
        """Lay tokens, ids and mask of one piece under each other, wrapped."""
        names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in self.inputs]
        columns = [self.tokens[piece]] + [[str(x) for x in self.inputs[name][piece].tolist()] for name in names]
        heads = [
            "tokens",
            *(name.removeprefix("input_").removeprefix("attention_").replace("_", " ") for name in names),
        ]
        wide = [max(len(cell) for cell in column) for column in zip(*columns, strict=True)]
        lines: list[str] = []
        start = 0
        while start < len(wide) and len(lines) < 4 * len(heads):
            stop, used = start, 0
            while stop < len(wide) and (stop == start or used + wide[stop] + 1 <= width):
                used += wide[stop] + 1
                stop += 1
            for head, row in zip(heads, columns, strict=True):
                lines.append(f"      {head:14} " + " ".join(row[i].rjust(wide[i]) for i in range(start, stop)))
            start = stop
        return lines + ([f"      ... {len(wide) - start} more tokens"] if start < len(wide) else [])

    def _repr_html_(self) -> str:
        return f"<pre style='line-height:1.3'>{escape(str(self))}</pre>"


def _shown(item: Any) -> str:
    text = json.dumps(item, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


def _answer(answer: Any) -> str:
    if isinstance(answer, dict) and answer.keys() == {"label", "score"}:
        return f"{answer['label']}  {answer['score']:.4f}"
    if isinstance(answer, list) and all(isinstance(part, dict) for part in answer):
        return "  ".join(_answer(part) for part in answer)
    if isinstance(answer, Tensor):
        numbers = ", ".join(f"{number:.4g}" for number in answer.flatten()[:6].tolist())
        return f"{tuple(answer.shape)} [{numbers}{', ...' if answer.numel() > 6 else ''}]"
    text = str(answer)
    return text if len(text) <= 400 else f"{text[:400]}..."
