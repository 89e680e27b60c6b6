"""Where each token of a padded batch sits, what may look at what, and what was read before, for the Flax models.

What `layout`, `cache` and `attention` are to PyTorch, in one file: batches are not packed here, shapes are fixed, and
all of it is traced, so that it compiles.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from .errors import InputError, ShapeError


@dataclass(frozen=True)
class FlaxLayout:
    """Where each token of a batch sits. Build it with `FlaxLayout.of`.

    Attributes:
        positions: (B, T), counted from each text's own first real token; 0 on padding before it.
        keep: (B, T), true on real tokens; None when nothing is padded.
        key_positions: positions of all S tokens that may be looked at, (B, S), where a cache holds earlier ones; None
            when they are these T tokens.
        key_keep: (B, S), true on real ones among them; None when all are.
    """

    positions: Array
    keep: Array | None = None
    key_positions: Array | None = None
    key_keep: Array | None = None

    @staticmethod
    def of(
        tokens: Array, attention_mask: "Array | FlaxLayout | None" = None, cache: "FlaxCache | None" = None
    ) -> "FlaxLayout":
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
        if isinstance(attention_mask, FlaxLayout):
            return attention_mask
        if tokens.ndim < 2:
            raise ShapeError(f"input_ids has the shape {tokens.shape}; expected a batch, (batch, length).")
        batch, length = tokens.shape[:2]
        positions, keep = jnp.broadcast_to(jnp.arange(length), (batch, length)), None
        if attention_mask is not None:
            if attention_mask.shape != (batch, length):
                raise InputError(
                    f"attention_mask has the shape {attention_mask.shape}, the input {(batch, length)}; "
                    "expected the same."
                )
            keep = attention_mask.astype(bool)
            positions = jnp.maximum(positions - keep.argmax(-1, keepdims=True), 0)
        layout = FlaxLayout(positions, keep)
        return layout if cache is None else cache.place(layout)

    def first(self, x: Array) -> Array:
        """Pick the first real token of each text: (B, T, E) to (B, E)."""
        if self.keep is None:
            return x[:, 0]
        return jnp.take_along_axis(x, self.keep.argmax(-1)[:, None, None], axis=1)[:, 0]

    def last(self, x: Array, marked: Array | None = None) -> Array:
        """Pick the last real token of each text: (B, T, E) to (B, E).

        Or the last of those `marked`, (B, T), true on the tokens that count; a text without any gives its first.
        """
        if marked is None and self.keep is None:
            return x[:, -1]
        places = jnp.arange(1, x.shape[1] + 1)
        places = places if marked is None else marked * places
        places = places if self.keep is None else jnp.where(self.keep, places, -1)
        return jnp.take_along_axis(x, places.argmax(-1)[:, None, None], axis=1)[:, 0]


class FlaxCache:
    """What was read before, in memory of a fixed size. Build it with `FlaxCache.of`.

    A model adds the tokens it reads while it is traced; what is then in the cache is the traced function's result.

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
        keys: list[Array],
        values: list[Array],
        positions: Array,
        keep: Array,
        count: Array,
        used: Array,
        source: dict[int, tuple[Array, Array]],
    ):
        self.keys, self.values, self.source = list(keys), list(values), dict(source)
        self.positions, self.keep, self.count, self.used = positions, keep, count, used
        self._begin = used

    @classmethod
    def of(cls, layers: int, batch: int, heads: int, size: int, head_size: int, dtype: jnp.dtype) -> "FlaxCache":
        """Make an empty one with room for `size` tokens a text."""
        shape = (batch, heads, size, head_size)
        return cls(
            [jnp.zeros(shape, dtype) for _ in range(layers)],
            [jnp.zeros(shape, dtype) for _ in range(layers)],
            jnp.zeros((batch, size), jnp.int32),
            jnp.zeros((batch, size), bool),
            jnp.zeros(batch, jnp.int32),
            jnp.zeros((), jnp.int32),
            {},
        )

    def place(self, layout: FlaxLayout) -> FlaxLayout:
        """Put tokens behind those that are here, and return where they then sit."""
        length = layout.positions.shape[1]
        keep = jnp.ones(layout.positions.shape, bool) if layout.keep is None else layout.keep
        positions = (layout.positions + self.count[:, None]).astype(self.positions.dtype)
        self._begin, self.used = self.used, self.used + length
        self.positions = jax.lax.dynamic_update_slice(self.positions, positions, (0, self._begin))
        self.keep = jax.lax.dynamic_update_slice(self.keep, keep, (0, self._begin))
        self.count = self.count + keep.sum(-1, dtype=self.count.dtype)
        return FlaxLayout(positions, layout.keep, self.positions, self.keep)

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Add a layer's keys and values, (B, K, T, D), and return all of them, (B, K, S, D)."""
        place = (0, 0, self._begin, 0)
        self.keys[layer] = jax.lax.dynamic_update_slice(self.keys[layer], k.astype(self.keys[layer].dtype), place)
        self.values[layer] = jax.lax.dynamic_update_slice(self.values[layer], v.astype(self.values[layer].dtype), place)
        return self.keys[layer], self.values[layer]


jax.tree_util.register_pytree_node(
    FlaxCache,
    lambda c: ((c.keys, c.values, c.positions, c.keep, c.count, c.used, c.source), None),
    lambda _, parts: FlaxCache(*parts),
)


def attend(
    q: Array,
    k: Array,
    v: Array,
    layout: FlaxLayout,
    *,
    source: FlaxLayout | None = None,
    causal: bool = False,
    scale: float | None = None,
    bias: Array | None = None,
    window: int | None = None,
    dropout: Callable[[Array], Array] | None = None,
) -> Array:
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
    batch, heads, length, size = q.shape
    q = q.reshape(batch, k.shape[1], -1, length, size)  # (B, K, H / K, T, D)
    scores = jnp.einsum("bkgtd,bksd->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, length, -1) * (1 / math.sqrt(size) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    mask = _mask(layout, source, causal, window)
    if mask is not None:  # not infinite: a row of scores that are all masked would become NaN
        scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    weights = weights if dropout is None else dropout(weights)
    weights = weights.reshape(batch, k.shape[1], -1, length, k.shape[2])
    return jnp.einsum("bkgts,bksd->bkgtd", weights, v).reshape(batch, heads, length, -1)


def _mask(layout: FlaxLayout, source: FlaxLayout | None, causal: bool, window: int | None) -> Array | None:
    """True where a token may look, (B, 1 or T, S); None when everywhere."""
    if source is not None:
        return None if source.keep is None else source.keep[:, None, :]
    keys, keep = layout.positions, layout.keep
    if layout.key_positions is not None:
        keys, keep = layout.key_positions, layout.key_keep
    mask = None if keep is None else keep[:, None, :]
    if not causal and window is None:
        return mask
    apart = layout.positions[:, :, None] - keys[:, None, :]  # (B, T, S)
    near = apart >= (0 if causal or window is None else -window)
    near = near if window is None else near & (apart <= window)
    mask = near if mask is None else near & mask
    return mask if layout.keep is None else mask | ~layout.keep[:, :, None]  # padding looks anywhere


def split_heads(x: Array, size: int) -> Array:
    """Give each head its part: (B, T, E) to (B, H, T, D)."""
    return x.reshape(*x.shape[:2], -1, size).transpose(0, 2, 1, 3)


def join_heads(x: Array) -> Array:
    """Lay what heads have seen side by side: (B, H, T, D) to (B, T, E)."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)
