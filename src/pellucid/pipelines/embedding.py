"""Embedding: one vector a text, so that texts of like meaning have vectors of like direction."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, InputError, did_you_mean
from ..hub import HubOptions
from ..outputs import ModelOutput
from .base import Pipeline, check_count, token_rows
from .sentence_folder import SentenceFolder, read_sentence_folder
from .windows import Piece, cut, tokenize

# From the hidden states of a text, (T, E), and the places of its tokens counted from 1, (T, 1), to a vector, (E,).
POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda x, place: x.mean(0),
    "cls": lambda x, place: x[0],
    "max": lambda x, place: x.amax(0),
    "mean_sqrt_len_tokens": lambda x, place: x.sum(0) / len(x) ** 0.5,
    "weightedmean": lambda x, place: (x * place).sum(0) / place.sum(),
    "lasttoken": lambda x, place: x[-1],
}
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
# From vectors, (N, E) and (M, E), to similarities, (N, M): greater is more alike.
SIMILARITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b),
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1.0),
}


class EmbeddingPipeline(Pipeline):
    """Gives one vector a text: a tensor, (E,), for a text, (N, E) for a list, and an iterator of (E,) for a stream.

    Folders of the sentence-transformers library are read whole: their pooling, dense layers, normalisation, prompts and
    limit. Any other encoder gives the mean of its hidden states.

    A text longer than the limit is read in overlapping windows, each pooled as a text is; the mean of their vectors,
    weighted by their tokens, is the text's. `trace` says so. `truncation=True` reads only the beginning instead, as
    the sentence-transformers library does.

    Options:
        pooling: "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", or several in a list, whose
            vectors are joined; by default what the folder says.
        prompt: text to put before each text.
        prompt_name: the name of one of the folder's prompts, such as "query".
        normalize: whether to bring the vectors to length 1.
        truncate_dim: how many of a vector's first numbers to keep.
        precision: "float32"; "int8" or "uint8", scaled by the smallest and largest values in the list; "binary" or
            "ubinary", the signs as bits, eight in each int8 or uint8.
        truncation: whether to read only the beginning of a long text.
    """

    task = "embedding"
    options = {
        "pooling": None,
        "prompt": None,
        "prompt_name": None,
        "normalize": False,
        "truncate_dim": None,
        "precision": "float32",
        "truncation": False,
    }

    def __init__(self, model: Any, tokenizer: Any, *, sentence: SentenceFolder | None = None, **options: Any):
        self.sentence = sentence
        self.after = sentence.after if sentence else None
        super().__init__(model, tokenizer, **options)

    @classmethod
    def read_beside(cls, name: str | os.PathLike, hub: HubOptions) -> tuple[dict[str, Any], HubOptions]:
        """Read modules.json and what it names."""
        sentence, hub = read_sentence_folder(name, hub)
        if sentence and sentence.pooling.kind != "Pooling":
            raise ConfigError(f"{name} gives sparse vectors; run it with pipeline('sparse-embedding', ...).")
        return {"sentence": sentence}, hub

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the values."""
        settings = super().read_options(defaults, given)
        check_count("truncate_dim", settings["truncate_dim"])
        modes = settings["pooling"] or (self.sentence.modes if self.sentence else "mean")
        modes = (modes,) if isinstance(modes, str) else tuple(modes)
        for mode in modes:
            if mode not in POOLING:
                raise InputError(
                    f"pooling is {mode!r}{did_you_mean(str(mode), POOLING) or '.'} There is {', '.join(POOLING)}."
                )
        if settings["precision"] not in PRECISIONS:
            raise InputError(f"precision is {settings['precision']!r}; expected one of {', '.join(PRECISIONS)}.")
        settings["pooling"] = modes
        return settings

    def prompt(self, options: dict[str, Any]) -> str:
        """Return what to put before texts.

        Raises:
            InputError: if the folder has no prompt of that name.
        """
        if options.get("prompt") is not None:
            return options["prompt"]
        about = self.sentence.settings if self.sentence else {}
        name, prompts = options.get("prompt_name") or about.get("default_prompt_name"), about.get("prompts") or {}
        if name is not None and name not in prompts:
            raise InputError(
                f"There is no prompt {name!r}{did_you_mean(str(name), prompts) or '.'} This model has: "
                f"{', '.join(prompts) or 'none'}."
            )
        return prompts.get(name, "")

    @property
    def limit(self) -> int | None:
        """The most tokens of a window: the folder's, else the model's."""
        own = self.sentence.reading.get("max_seq_length") if self.sentence else None
        return min((n for n in (own, super().limit) if n is not None), default=None)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Embed one text, a list, or any iterable of texts; see the class."""
        precision = self.read_options(self.defaults, options)["precision"]
        if precision in ("int8", "uint8") and not (isinstance(inputs, list | tuple) and len(inputs) > 1):
            raise InputError(f"precision={precision!r} takes its ranges from a list of texts; give at least two.")
        return super().__call__(inputs, **options)

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize with the prompt; cut what is too long into windows, or truncate it."""
        self.check(item, "the input", options)
        prompt, text, limit, skip = self.prompt(options), item, self.limit, 0
        if self.sentence and self.sentence.reading.get("do_lower_case"):
            text = text.lower()
        if prompt and self.sentence and not self.sentence.pooling.config.get("include_prompt", True):
            pieces = tokenize(self.tokenizer, prompt)["part"]
            skip = len(pieces) - (pieces[-1] is None)  # without what closes a text
        short = {"truncation": True, "max_length": limit} if options.get("truncation") and limit else {}
        piece = tokenize(self.tokenizer, prompt + text, **short)
        piece |= {"pooling": options.get("pooling") or self.defaults["pooling"], "skip": skip}
        first, *others = cut(piece, 0, limit=limit, overlap=(limit or 0) // 8)
        return [first, *({**window, "skip": 0} for window in others)]

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[Tensor]:
        """The pooled vector of each piece, (E,)."""
        vectors = []
        for piece, hidden in zip(pieces, token_rows(self.finite(output["last_hidden_state"]), pieces), strict=True):
            x = hidden[piece["skip"] :]  # (T, E)
            place = torch.arange(piece["skip"] + 1, piece["skip"] + 1 + len(x))[:, None]
            vectors.append(torch.cat([POOLING[mode](x, place) for mode in piece["pooling"]]))
        return vectors

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> Tensor:
        """Average the windows, and run what comes after pooling."""
        weights = torch.tensor([float(len(piece["input_ids"])) for piece in pieces])
        vector = rows[0] if len(rows) == 1 else (torch.stack(rows) * weights[:, None]).sum(0) / weights.sum()
        return self.finish(vector, options)

    @torch.inference_mode()
    def finish(self, vector: Tensor, options: dict[str, Any]) -> Tensor:
        """Run what comes after pooling on a vector, (E,)."""
        if self.after is not None:
            vector = self.after(vector)
        vector = vector[: options.get("truncate_dim")]
        if options.get("normalize"):
            vector = F.normalize(vector, dim=-1)
        return to_bits(vector, options["precision"]) if "binary" in options.get("precision", "") else vector

    def many(self, answers: list[Tensor], settings: dict[str, Any]) -> Tensor:
        """Stack the vectors."""
        if not answers:
            size = self.model.config.hidden_size * len(settings["pooling"])
            return self.finish(torch.zeros(size), settings)[None][:0]
        vectors = torch.stack(answers)
        return to_bytes(vectors, settings["precision"]) if "int8" in settings["precision"] else vectors

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare vectors, (N, E) and (M, E), as the folder asks, else by their cosine: (N, M), greater is more alike.

        Raises:
            ConfigError: if the folder asks for a comparison that is not implemented.
        """
        name = (self.sentence.settings.get("similarity_fn_name") if self.sentence else None) or "cosine"
        if name not in SIMILARITY:
            raise ConfigError(f"similarity_fn_name is {name!r}; expected one of {', '.join(SIMILARITY)}.")
        return SIMILARITY[name](*(x[None].float() if x.dim() == 1 else x.float() for x in (a, b)))

    def note(self, groups: list[list[Piece]]) -> str:
        """Say what was done about long texts."""
        note = super().note(groups)
        return f"{note}; their vectors are averaged" if note else ""

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write model, tokenizer and modules into a folder."""
        super().save_pretrained(path)
        if self.sentence is not None:
            self.sentence.save(path)


def to_bytes(vectors: Tensor, precision: str) -> Tensor:
    """Scale vectors, (N, E), to whole numbers, each dimension by its smallest and largest value."""
    low, high = vectors.amin(0), vectors.amax(0)
    step = (high - low) / 255
    steps = ((vectors - low) / torch.where(step == 0, 1.0, step)).floor().clamp(0, 255)
    return steps.to(torch.uint8) if precision == "uint8" else (steps - 128).to(torch.int8)


def to_bits(vector: Tensor, precision: str) -> Tensor:
    """Keep the signs of a vector, (E,), eight in each number, (E / 8 rounded up,); the first is the highest bit."""
    bits = F.pad((vector > 0).int(), (0, -len(vector) % 8)).view(-1, 8)
    numbers = (bits << torch.arange(7, -1, -1)).sum(-1)
    return numbers.to(torch.uint8) if precision == "ubinary" else (numbers - 128).to(torch.int8)
