"""What the Keras models are built of: layers whose weights are named and laid out as in the checkpoint, and losses.

A weight is there, as zeros, as soon as its layer is, and is filled by a load or by `from_config`.
"""

from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops


class Layer(keras.layers.Layer):
    """A layer that needs no first call to have its weights."""

    # Attributes under another name than in the checkpoint, because Keras has that name for something else.
    checkpoint_names: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.built = True

    def parameter(self, name: str, *shape: int) -> keras.Variable:
        """Return a weight, of zeros until it is loaded."""
        return self.add_weight(shape=shape, initializer="zeros", name=name)


class Linear(Layer):
    """A linear map; the weight is (out, in)."""

    def __init__(self, inner: int, outer: int, *, bias: bool = True):
        super().__init__()
        self.weight = self.parameter("weight", outer, inner)
        self.bias = self.parameter("bias", outer) if bias else None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map (..., in) to (..., out)."""
        x = ops.matmul(x, ops.transpose(self.weight))
        return x if self.bias is None else x + ops.cast(self.bias, x.dtype)


class Embedding(Layer):
    """A table of vectors, (N, E); ids outside of it give NaN, and `padding_idx` one that is not trained."""

    def __init__(self, count: int, size: int, *, padding_idx: int | None = None):
        super().__init__()
        self.weight, self.count = self.parameter("weight", count, size), count
        self.padding_idx = None if padding_idx is None else padding_idx % count

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Look up (...) in the table: (..., E)."""
        inside = (ids >= 0) & (ids < self.count)
        x = ops.take(self.weight, ops.where(inside, ids, 0), axis=0)
        if self.padding_idx is not None:
            x = ops.where((ids == self.padding_idx)[..., None], ops.stop_gradient(x), x)
        return ops.where(inside[..., None], x, ops.cast(float("nan"), x.dtype))


class LayerNorm(Layer):
    """Takes the mean and divides by the standard deviation, in float32."""

    def __init__(self, size: int, *, eps: float):
        super().__init__()
        self.weight, self.bias, self.eps = self.parameter("weight", size), self.parameter("bias", size), eps

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalise the last dimension."""
        wide = ops.cast(x, "float32")
        apart = wide - ops.mean(wide, axis=-1, keepdims=True)
        wide = apart * ops.rsqrt(ops.mean(ops.square(apart), axis=-1, keepdims=True) + self.eps)
        wide = wide * ops.cast(self.weight, "float32") + ops.cast(self.bias, "float32")
        return ops.cast(wide, x.dtype)


class RMSNorm(Layer):
    """Divides by the root of the mean square, in float32."""

    def __init__(self, size: int, *, eps: float):
        super().__init__()
        self.weight, self.eps = self.parameter("weight", size), eps

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalise the last dimension."""
        wide = ops.cast(x, "float32")
        wide = wide * ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + self.eps)
        return ops.cast(wide * ops.cast(self.weight, "float32"), x.dtype)


def cross_entropy(logits: tf.Tensor, targets: Any, ignore: Any = -100) -> tf.Tensor:
    """Average the surprise, in nats, of targets (N,) over logits (N, V); those that are `ignore` do not count."""
    targets = ops.cast(targets, "int32")
    counts = targets != ignore
    chosen = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=ops.where(counts, targets, 0), logits=ops.cast(logits, "float32")
    )
    return ops.sum(ops.where(counts, chosen, 0.0)) / ops.sum(ops.cast(counts, "float32"))


def token_loss(logits: tf.Tensor, labels: Any) -> tf.Tensor:
    """Average over the tokens of texts, (B, T, V) and (B, T); -100 does not count."""
    return cross_entropy(ops.reshape(logits, (-1, logits.shape[-1])), ops.reshape(labels, (-1,)))


def binary_cross_entropy(logits: tf.Tensor, targets: Any) -> tf.Tensor:
    """Average the surprise, in nats, of each yes (1) or no (0), of one shape with the logits."""
    logits = ops.cast(logits, "float32")
    return ops.mean(ops.softplus(logits) - logits * ops.cast(targets, "float32"))
