"""The two texts of a model of an encoder and a decoder: the source that is read, and the target that is written."""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..generation_config import GenerationConfig
from ..model import Model

SOURCE = ("input_ids", "attention_mask", "inputs_embeds", "encoder_outputs")


def begin_target(
    model: Model, inputs: Tensor | None, given: dict[str, Any], config: GenerationConfig
) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """Split the inputs of a call.

    Args:
        model: of an encoder and a decoder.
        inputs: the source's ids, (B, S); also as `input_ids`.
        given: further inputs of the model.
        config: with the token that a target begins with.

    Returns:
        The target so far, (B, P); further inputs about it, as of a model that only writes; and those about the source.

    Raises:
        InputError: if there is no source, it is too long, or nothing to begin the target with.
    """
    given = dict(given)
    if inputs is not None and given.get("input_ids") is not None:
        raise InputError("The source is given twice, as first argument and as input_ids; give one.")
    source = {name: given.pop(name) for name in SOURCE if name in given}
    if inputs is not None:
        source["input_ids"] = inputs
    read = next((source[name] for name in ("input_ids", "inputs_embeds") if name in source), None)
    if read is None and "encoder_outputs" in source:
        read = source["encoder_outputs"][0]
    if not isinstance(read, Tensor):
        found = "missing" if read is None else f"a {type(read).__name__}"
        raise InputError(f"The source is {found}; expected ids, (batch, length): tokenize with return_tensors='pt'.")
    if read.dim() < 2 or read.shape[1] == 0:
        raise InputError(
            f"The source has the shape {tuple(read.shape)}; expected (batch, length) of at least one token."
        )
    limit = model.config.max_tokens
    if limit is not None and read.shape[1] > limit:
        raise InputError(
            f"The source has {read.shape[1]} tokens, this model reads {limit}; shorten it, for example by tokenizing "
            f"with truncation=True, max_length={limit}."
        )
    pad, ids = config.pad_token_id, source.get("input_ids")
    masked = "attention_mask" in source or pad is None or pad in config.eos_ids
    if not masked and ids is not None and bool((ids == pad).any()):
        source["attention_mask"] = (ids != pad).long()
    return _target(read, given, config), _without_prefix(given), source


def source_history(source: dict[str, Any], rows: int) -> Tensor | None:
    """Return the source's ids for each row, (R, S), -1 on padding; None when only embeddings are known."""
    ids, mask = source.get("input_ids"), source.get("attention_mask")
    if ids is None:
        return None
    ids = ids if mask is None else torch.where(mask.bool(), ids, -1)
    return ids.repeat_interleave(rows, dim=0)


def _target(read: Tensor, given: dict[str, Any], config: GenerationConfig) -> Tensor:
    start, ids = config.decoder_start_token_id, given.pop("decoder_input_ids", None)
    start = config.bos_token_id if start is None else start
    if ids is None:
        if start is None:
            raise InputError("There is no decoder_start_token_id to begin the target with; pass it.")
        return torch.full((len(read), 1), start, dtype=torch.long, device=read.device)
    if not isinstance(ids, Tensor) or ids.dim() != 2 or len(ids) != len(read):
        shape = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"decoder_input_ids is {shape}; expected ids, ({len(read)}, length), one row a source.")
    if start is not None and bool((ids[:, 0] != start).all()) and given.get("decoder_attention_mask") is None:
        ids = torch.cat([torch.full_like(ids[:, :1], start), ids], dim=1)
    return ids


def _without_prefix(given: dict[str, Any]) -> dict[str, Any]:
    return {"attention_mask" if name == "decoder_attention_mask" else name: x for name, x in given.items()}
