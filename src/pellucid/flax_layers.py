"""What the Flax models are built of: layers whose parameters are named and laid out as in the checkpoint, and losses.

A parameter begins as a shape, and is filled by a load or by `from_config`: nothing is drawn to be overwritten.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def parameter(*shape: int) -> nnx.Param:
    """Return a parameter that is a shape until it is loaded."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))


class Linear(nnx.Module):
    """A linear map; the weight is (out, in)."""

    def __init__(self, inner: int, outer: int, *, bias: bool = True):
        self.weight = parameter(outer, inner)
        self.bias = parameter(outer) if bias else None

    def __call__(self, x: Array) -> Array:
        """Map (..., in) to (..., out)."""
        weight = self.weight.get_value()
        x = jnp.matmul(x.astype(weight.dtype), weight.T)
        return x if self.bias is None else x + self.bias.get_value()


class Embedding(nnx.Module):
    """A table of vectors, (N, E); ids outside of it give NaN, and `padding_idx` one that is not trained."""

    def __init__(self, count: int, size: int, *, padding_idx: int | None = None):
        self.weight = parameter(count, size)
        self.padding_idx = None if padding_idx is None else padding_idx % count

    def __call__(self, ids: Array) -> Array:
        """Look up (...) in the table: (..., E)."""
        x = jnp.take(self.weight.get_value(), ids, axis=0, mode="fill")
        return x if self.padding_idx is None else jnp.where((ids == self.padding_idx)[..., None], fixed(x), x)


class LayerNorm(nnx.Module):
    """Takes the mean and divides by the standard deviation, in float32."""

    def __init__(self, size: int, *, eps: float):
        self.weight, self.bias, self.eps = parameter(size), parameter(size), eps

    def __call__(self, x: Array) -> Array:
        """Normalise the last dimension."""
        wide = x.astype(jnp.float32)
        apart = wide - wide.mean(-1, keepdims=True)
        wide = apart * jax.lax.rsqrt(jnp.square(apart).mean(-1, keepdims=True) + self.eps)
        return (wide * self.weight.get_value() + self.bias.get_value()).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Divides by the root of the mean square, in float32."""

    def __init__(self, size: int, *, eps: float):
        self.weight, self.eps = parameter(size), eps

    def __call__(self, x: Array) -> Array:
        """Normalise the last dimension."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return (wide * self.weight.get_value()).astype(x.dtype)


def fixed(x: Array) -> Array:
    """Return what no gradient flows through."""
    return jax.lax.stop_gradient(x)


def cross_entropy(logits: Array, targets: Array, ignore: int = -100) -> Array:
    """Average the surprise, in nats, of targets (N,) over logits (N, V); those that are `ignore` do not count."""
    counts = targets != ignore
    chances = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(chances, jnp.where(counts, targets, 0)[:, None], axis=-1)[:, 0]
    return -jnp.where(counts, chosen, 0.0).sum() / counts.sum()


def token_loss(logits: Array, labels: Array) -> Array:
    """Average over the tokens of texts, (B, T, V) and (B, T); -100 does not count."""
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """Average the surprise, in nats, of each yes (1) or no (0), of one shape with the logits."""
    logits = logits.astype(jnp.float32)
    return (jax.nn.softplus(logits) - logits * targets).mean()
