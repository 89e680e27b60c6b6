"""What a model of Flax or Keras is asked to write: read, checked and rounded here, for a compiled loop to do.

Prompts and memory are rounded up to powers of two, so that texts of many lengths share a few compiled programs; what is
padding changes nothing. Beams, penalties and what else `pellucid.generate` knows is PyTorch's alone, and refused here.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError, NonFiniteError, refuse_unknown
from .generation_config import DEFAULTS, GenerationConfig

SUPPORTED = (
    *("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "use_cache"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "cache_implementation"),
)
FALLBACK_CONTEXT = 2048  # tokens, for models that have no limit and for which nobody has said one
SMALLEST = 16  # tokens of a prompt, or of what is written, that programs are compiled for


class Sampling(NamedTuple):
    """How to draw; a part of the compiled program."""

    temperature: float
    top_k: int
    top_p: float


class Request(NamedTuple):
    """What is to be written, with every question answered.

    Attributes:
        begin: what stands before it in the result, (B, P).
        prompt: that, ids and mask, padded on the left.
        source: what an encoder is to read, likewise; None where there is none.
        room: by how many tokens each row may be continued, (B,).
        size: the most of these, rounded up.
        eos: the ids that end a row.
        pad: the id behind its end.
        how: how to draw; None to take the likeliest.
    """

    begin: np.ndarray
    prompt: tuple[np.ndarray, np.ndarray]
    source: tuple[np.ndarray, np.ndarray] | None
    room: np.ndarray
    size: int
    eos: list[int]
    pad: int
    how: Sampling | None


def prepare(
    model: Any,
    input_ids: Any,
    attention_mask: Any,
    generation_config: GenerationConfig | None,
    settings: dict[str, Any],
) -> Request:
    """Read a request; the arguments are those of each framework's `write`, which says what is raised."""
    if not hasattr(model, "empty_cache"):
        mark = type(model).__name__.removesuffix(model.twin().__name__)
        raise InputError(
            f"{type(model).__name__} can not write: it does not predict the next token; load the checkpoint with "
            f"{mark}AutoModelForCausalLM, or {mark}AutoModelForSeq2SeqLM."
        )
    refuse_unknown("generate", settings, GenerationConfig.names())
    explicit = GenerationConfig(**settings)
    taken_back: Any = dict.fromkeys(name for name, value in settings.items() if value is None)
    explicit = explicit if generation_config is None else explicit.over(replace(generation_config, **taken_back))
    config = explicit.over(replace(model.generation_config.beside(model.config), **taken_back))
    _refuse_foreign(model, config)
    idle = [name for name in ("temperature", "top_k", "top_p") if getattr(explicit, name) is not None]
    if idle and not config.do_sample and explicit.temperature != 0:
        raise InputError(f"{', '.join(idle)} would do nothing without do_sample=True.")
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.shape[1]:
        raise InputError(f"The prompt is {ids.dtype} of the shape {ids.shape}; expected ids, (batch, length).")
    eos = [id for id in config.eos_ids if 0 <= id < model.config.vocab_size]
    pad = next(id for id in (config.pad_token_id, *eos, 0) if id is not None and id >= 0)
    mask = _mask(ids, attention_mask, None if config.pad_token_id in eos else config.pad_token_id)
    begin, keep = ids, mask
    seq2seq = bool(model.twin().source_stack)
    if seq2seq:
        start = config.decoder_start_token_id
        if start is None:
            raise InputError("There is no decoder_start_token_id to begin a target with; pass it.")
        begin = np.full((len(ids), 1), start)
        keep = np.ones(begin.shape, bool)
    room = _room(model, explicit, config, keep.sum(-1), limited=not seq2seq)
    samples = bool(config.do_sample) and config.value("temperature") != 0
    return Request(
        begin=begin,
        prompt=_left(begin, keep),
        source=_left(ids, mask) if seq2seq else None,
        room=room,
        size=_rounded(int(room.max(initial=0))),
        eos=eos,
        pad=pad,
        how=Sampling(config.value("temperature"), config.value("top_k"), config.value("top_p")) if samples else None,
    )


def check_finite(model: Any, bad: int) -> None:
    """Raise for the first step whose scores are not finite; -1 for none.

    Raises:
        NonFiniteError: naming the step.
    """
    if bad >= 0:
        raise NonFiniteError(
            f"The scores of step {bad} hold NaN or infinite values; the weights may be damaged, or overflow in "
            f"{model.dtype}: load the model with dtype='float32'."
        )


def _refuse_foreign(model: Any, config: GenerationConfig) -> None:
    """Raise for settings that change what is written and are not implemented here."""
    said = {name: value for name, value in config.said().items() if name not in SUPPORTED}
    idle = {name: DEFAULTS.get(name) for name in said}
    if foreign := [f"{n}={value!r}" for n, value in said.items() if value is not False and value != idle[n]]:
        raise InputError(
            f"{', '.join(foreign)} is implemented in PyTorch alone; write with {model.twin().__name__}, or pass "
            "what does nothing, such as num_beams=1 or repetition_penalty=1.0."
        )
    if config.use_cache is False:
        raise InputError("use_cache is False; the compiled loop always keeps what was read. Leave it out.")


def _mask(ids: np.ndarray, attention_mask: Any, pad: int | None) -> np.ndarray:
    """Return which tokens are real; where nobody says, those that are not the padding token."""
    if attention_mask is None:
        return np.ones(ids.shape, bool) if pad is None else ids != pad
    mask = np.asarray(attention_mask)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"attention_mask has the shape {mask.shape}; expected {ids.shape}, with 1 on real tokens and 0 on padding."
        )
    if not mask.any(-1).all():
        raise InputError("attention_mask is 0 on every token of a prompt; leave the prompt out, or give it a token.")
    return mask.astype(bool)


def _room(
    model: Any, explicit: GenerationConfig, config: GenerationConfig, length: np.ndarray, *, limited: bool
) -> np.ndarray:
    """Return by how many tokens each prompt may be continued, (B,)."""
    hard = model.config.max_tokens if limited else None
    longest = int(length.max(initial=0))
    counts = explicit.max_new_tokens is None and explicit.max_length is not None  # max_length, before a file
    limit = config.max_length if counts or config.max_new_tokens is None else None
    if limit is not None:
        room = limit - length
    elif config.max_new_tokens is not None:
        room = np.full_like(length, config.max_new_tokens)
    else:
        room = (hard or getattr(model.config, "max_position_embeddings", None) or FALLBACK_CONTEXT) - length
    room = room if hard is None else np.minimum(room, hard - length)
    if len(room) and room.min() < 1:
        raise InputError(
            f"The prompt has {longest} tokens, max_length is {limit}, and this model reads {hard or 'any number'}: "
            "there is no room to go on. Pass max_new_tokens, or a shorter prompt."
        )
    return room


def _rounded(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


def _left(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move all padding to the left, and add as much as rounds up the length."""
    order = np.argsort(mask, axis=-1, kind="stable")
    ids, mask = np.take_along_axis(ids, order, -1), np.take_along_axis(mask, order, -1)
    more = ((0, 0), (_rounded(ids.shape[1]) - ids.shape[1] if ids.shape[1] > 1 else 0, 0))
    return np.pad(np.where(mask, ids, 0), more), np.pad(mask, more)
