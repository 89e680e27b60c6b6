"""Where each token of a padded batch sits, what may look at what, and what was read before, for the Keras models.

What `layout`, `cache` and `attention` are to PyTorch, in one file: batches are not packed here, and all of it can be
traced, with shapes that are known or not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from .errors import InputError, ShapeError


@dataclass(frozen=True)
class TFLayout:
    """Where each token of a batch sits. Build it with `TFLayout.of`.

    Attributes:
        positions: (B, T), counted from each text's own first real token; 0 on padding before it.
        keep: (B, T), true on real tokens; None when nothing is padded.
        key_positions: positions of all S tokens that may be looked at, (B, S), where a cache holds earlier ones; None
            when they are these T tokens.
        key_keep: (B, S), true on real ones among them; None when all are.
    """

    positions: tf.Tensor
    keep: tf.Tensor | None = None
    key_positions: tf.Tensor | None = None
    key_keep: tf.Tensor | None = None

    @staticmethod
    def of(
        tokens: tf.Tensor, attention_mask: "tf.Tensor | TFLayout | None" = None, cache: "TFCache | None" = None
    ) -> "TFLayout":
        """Read the layout off a batch and its mask.

        Args:
            tokens: ids, (B, T), or embeddings, (B, T, E).
            attention_mask: (B, T), 1 on real tokens and 0 on padding, which may be on either side; None when nothing is
                padded; or a layout, which is returned as it is.
            cache: the tokens that were read before; it is told about these.

        Raises:
            ShapeError: if `tokens` is not a batch.
            InputError: if the mask is not of the tokens' shape.
        """
        if isinstance(attention_mask, TFLayout):
            return attention_mask
        if len(tokens.shape) < 2:
            raise ShapeError(f"input_ids has the shape {tuple(tokens.shape)}; expected a batch, (batch, length).")
        batch, length = ops.shape(tokens)[:2]
        positions, keep = ops.broadcast_to(ops.arange(length, dtype="int32"), (batch, length)), None
        if attention_mask is not None:
            if not attention_mask.shape.is_compatible_with(tokens.shape[:2]):
                raise InputError(
                    f"attention_mask has the shape {tuple(attention_mask.shape)}, the input "
                    f"{tuple(tokens.shape[:2])}; expected the same."
                )
            keep = ops.cast(attention_mask, "bool")
            positions = ops.maximum(positions - _first(keep)[:, None], 0)
        layout = TFLayout(positions, keep)
        return layout if cache is None else cache.place(layout)

    def first(self, x: tf.Tensor) -> tf.Tensor:
        """Pick the first real token of each text: (B, T, E) to (B, E)."""
        return x[:, 0] if self.keep is None else tf.gather(x, _first(self.keep), axis=1, batch_dims=1)

    def last(self, x: tf.Tensor, marked: tf.Tensor | None = None) -> tf.Tensor:
        """Pick the last real token of each text: (B, T, E) to (B, E).

        Or the last of those `marked`, (B, T), true on the tokens that count; a text without any gives its first.
        """
        if marked is None and self.keep is None:
            return x[:, -1]
        places = ops.arange(1, ops.shape(x)[1] + 1, dtype="int32")
        places = places if marked is None else ops.cast(marked, "int32") * places
        places = places if self.keep is None else ops.where(self.keep, places, -1)
        return tf.gather(x, ops.argmax(places, axis=-1), axis=1, batch_dims=1)


def _first(keep: tf.Tensor) -> tf.Tensor:
    """Return the place of each text's first real token, (B,)."""
    return ops.argmax(ops.cast(keep, "int32"), axis=-1)


class TFCache:
    """What was read before, in memory of a fixed size. Build it with `TFCache.of`.

    Attributes:
        keys: of each layer, (B, K, S, D), of which the first `used` are filled.
        values: likewise.
        positions: of each of the S tokens, (B, S).
        keep: which of them are there and real, (B, S).
        count: how many real tokens each text has, (B,).
        used: how many of the S places are filled.
        source: a layer's keys and values of what an encoder has read, (B, H, N, D) each, by its number.
    """

    def __init__(
        self,
        keys: Any,
        values: Any,
        positions: tf.Tensor,
        keep: tf.Tensor,
        count: tf.Tensor,
        used: tf.Tensor,
        source: dict[int, tuple[tf.Tensor, tf.Tensor]],
    ):
        self.keys, self.values, self.source = list(keys), list(values), dict(source)
        self.positions, self.keep, self.count, self.used = positions, keep, count, used
        self._begin = used

    @classmethod
    def of(cls, layers: int, batch: Any, heads: int, size: Any, head_size: int, dtype: str) -> "TFCache":
        """Make an empty one with room for `size` tokens a text."""
        shape = (batch, heads, size, head_size)
        return cls(
            [ops.zeros(shape, dtype) for _ in range(layers)],
            [ops.zeros(shape, dtype) for _ in range(layers)],
            ops.zeros((batch, size), "int32"),
            ops.zeros((batch, size), "bool"),
            ops.zeros((batch,), "int32"),
            ops.zeros((), "int32"),
            {},
        )

    def parts(self) -> tuple[Any, ...]:
        """Return what it holds, as a loop carries it from step to step; `TFCache(*parts)` is the cache again."""
        return self.keys, self.values, self.positions, self.keep, self.count, self.used, self.source

    def place(self, layout: TFLayout) -> TFLayout:
        """Put tokens behind those that are here, and return where they then sit."""
        keep = ops.ones_like(layout.positions, "bool") if layout.keep is None else layout.keep
        positions = layout.positions + self.count[:, None]
        self._begin, self.used = self.used, self.used + ops.shape(positions)[1]
        self.positions, self.keep = self._put(self.positions, positions, 1), self._put(self.keep, keep, 1)
        self.count = self.count + ops.sum(ops.cast(keep, "int32"), axis=-1)
        return TFLayout(positions, layout.keep, self.positions, self.keep)

    def update(self, layer: int, k: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Add a layer's keys and values, (B, K, T, D), and return all of them, (B, K, S, D)."""
        self.keys[layer] = self._put(self.keys[layer], k, 2)
        self.values[layer] = self._put(self.values[layer], v, 2)
        return self.keys[layer], self.values[layer]

    def _put(self, old: tf.Tensor, new: tf.Tensor, axis: int) -> tf.Tensor:
        """Write new parts along an axis, behind the old; by a choice for each place, which XLA compiles, too."""
        count = ops.shape(new)[axis]
        places = ops.arange(ops.shape(old)[axis], dtype="int32") - self._begin
        inside = ops.reshape((places >= 0) & (places < count), (-1, *[1] * (len(old.shape) - axis - 1)))
        return ops.where(inside, ops.take(new, ops.clip(places, 0, count - 1), axis=axis), old)


def attend(
    q: tf.Tensor,
    k: tf.Tensor,
    v: tf.Tensor,
    layout: TFLayout,
    *,
    source: TFLayout | None = None,
    causal: bool = False,
    scale: float | None = None,
    bias: tf.Tensor | None = None,
    window: int | None = None,
    dropout: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Let every token look at the real tokens of its own text: softmax(scale q k' + bias) v.

    Args:
        q: (B, H, T, D).
        k: (B, K, S, D); each of its heads serves H / K neighbouring heads of q. S is T, or more with a cache.
        v: (B, K, S, D).
        layout: where the T tokens sit; padding is not looked at.
        source: where the S tokens of another text sit, of which k and v are, as the encoder's beside a decoder.
        causal: whether a token looks at itself and those before it only.
        scale: of the scores; 1 / sqrt(D) by default.
        bias: what is added to the scores, (1 or B, H, T, S).
        window: how many tokens to each side a token looks at most; None for all.
        dropout: of the weights.

    Returns:
        (B, H, T, D). Rows of padding hold finite numbers without meaning.
    """
    batch, _, length, _ = ops.shape(q)
    heads, size, groups = q.shape[1], q.shape[-1], k.shape[1]
    q = ops.reshape(q, (batch, groups, heads // groups, length, size))
    scores = ops.cast(ops.einsum("bkgtd,bksd->bkgts", q, k), "float32")
    scores = scores * (1 / math.sqrt(size) if scale is None else scale)
    if bias is not None:
        scores = scores + ops.reshape(ops.cast(bias, "float32"), (-1, groups, heads // groups, *ops.shape(bias)[2:]))
    mask = _mask(layout if source is None else source, causal, window)
    if mask is not None:  # not infinite: a row of scores that are all masked would become NaN
        scores = ops.where(mask[:, None, None], scores, float(np.finfo(np.float32).min))
    weights = ops.cast(tf.nn.softmax(scores), v.dtype)  # that of Keras warns of a text of one token
    weights = weights if dropout is None else dropout(weights)
    return ops.reshape(ops.einsum("bkgts,bksd->bkgtd", weights, v), (batch, heads, length, size))


def _mask(layout: TFLayout, causal: bool, window: int | None) -> tf.Tensor | None:
    """True where a token may look, (B, 1 or T, S); None when everywhere. Padding may look anywhere, as in PyTorch."""
    keep = layout.keep if layout.key_positions is None else layout.key_keep
    mask = None if keep is None else keep[:, None, :]
    if not causal and window is None:
        return mask
    keys = layout.positions if layout.key_positions is None else layout.key_positions
    apart = layout.positions[:, :, None] - keys[:, None, :]  # (B, T, S)
    near = apart >= (0 if causal else -(window or 0))
    near = near if window is None else near & (apart <= window)
    mask = near if mask is None else near & mask
    return mask if layout.keep is None else mask | ~layout.keep[:, :, None]


def split_heads(x: tf.Tensor, size: int) -> tf.Tensor:
    """Give each head its part: (B, T, E) to (B, H, T, D)."""
    batch, length = ops.shape(x)[:2]
    return ops.transpose(ops.reshape(x, (batch, length, x.shape[-1] // size, size)), (0, 2, 1, 3))


def join_heads(x: tf.Tensor) -> tf.Tensor:
    """Lay what heads have seen side by side: (B, H, T, D) to (B, T, E)."""
    batch, heads, length, size = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, heads * size))
