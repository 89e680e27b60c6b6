"""Texts of changing lengths, `tf.RaggedTensor`, as the tensors and masks that the Keras models read."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from .errors import InputError

MASKS = {  # what tells which tokens are real
    "input_ids": "attention_mask",
    "inputs_embeds": "attention_mask",
    "decoder_input_ids": "decoder_attention_mask",
    "decoder_inputs_embeds": "decoder_attention_mask",
}


def pad(inputs: Mapping[str, Any], pad_token_id: int | None) -> dict[str, Any]:
    """Pad what is ragged on the right: ids with the padding token, `labels` with -100, all else with 0.

    The mask of texts that are ragged is added, unless it is given.

    Raises:
        InputError: if more than the length of the texts changes.
    """
    padded = dict(inputs)
    for name, value in inputs.items():
        if not isinstance(value, tf.RaggedTensor):
            continue
        if value.ragged_rank != 1:
            raise InputError(
                f"{name} is ragged in {value.ragged_rank} dimensions; expected texts, (batch, length), of which the "
                "length changes. Pad it with to_tensor(), and its attention_mask, too."
            )
        fill = -100 if name == "labels" else (pad_token_id or 0) if name.endswith("input_ids") else 0
        padded[name] = value.to_tensor(fill)
        if (mask := MASKS.get(name)) is not None and inputs.get(mask) is None:
            padded[mask] = tf.sequence_mask(value.row_lengths(), tf.shape(padded[name])[1], tf.int32)
    return padded


def pad_data(data: Any, pad_token_id: int | None) -> Any:
    """Pad what `fit`, `evaluate` or `predict` are given, since XLA compiles nothing ragged; else return it as it is."""
    if isinstance(data, tf.data.Dataset):
        kinds = tf.nest.flatten(data.element_spec)
        if not any(isinstance(kind, tf.RaggedTensorSpec) for kind in kinds):
            return data

        @tf.autograph.experimental.do_not_convert
        def padded(inputs: Any, *rest: Any) -> tuple[Any, ...]:
            return pad_data(inputs, pad_token_id), *rest

        return data.map(padded)
    if isinstance(data, tf.RaggedTensor):
        return pad({"input_ids": data}, pad_token_id)
    return pad(data, pad_token_id) if isinstance(data, Mapping) else data
