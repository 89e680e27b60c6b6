"""Writing with Flax models: one compiled loop over memory of a fixed size, that takes the likeliest token or draws one.

What is asked for, `foreign_writing` reads.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .flax_attention import FlaxCache
from .foreign_writing import Sampling, check_finite, prepare
from .generation_config import GenerationConfig


class _State(NamedTuple):
    """What the loop carries: the token before, all that was written, (B, S), which rows have ended, and so on."""

    step: Array
    token: Array
    written: Array
    done: Array
    counts: Array  # of tokens that were written in each row
    bad: Array  # the first step with a score that is not finite; -1 for none
    cache: FlaxCache
    key: Array


def write(
    model: Any,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    generation_config: GenerationConfig | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[Array, Array]:
    """Continue prompts.

    Args:
        model: a Flax model with a head that scores the next token.
        input_ids: prompts, (B, P); of a model of an encoder and a decoder, sources.
        attention_mask: (B, P), 1 on real tokens and 0 on padding, on either side.
        generation_config: settings, instead of the model's own.
        seed: of random numbers.
        settings: of these `max_new_tokens`, `max_length`, `do_sample`, `temperature`, `top_k`, `top_p` and the ids of
            `GenerationConfig`, where they are described.

    Returns:
        Prompts and what was written, (B, P + n), padded on the right; of an encoder and a decoder the start token and
        what was written. And how many tokens were written in each row, (B,).

    Raises:
        InputError: for prompts that do not fit, and settings that are impossible or known in PyTorch alone.
        ArgumentError: for what is no setting.
        NonFiniteError: if a score is NaN or infinite, naming the step.
    """
    asked = prepare(model, input_ids, attention_mask, generation_config, settings)
    begin = jnp.asarray(asked.begin)
    if not len(begin):
        return begin, jnp.zeros(0, jnp.int32)
    graph, state = nnx.split(model)
    key, ends = jax.random.key(seed), jnp.array(asked.eos, jnp.int32)
    done = _write(
        *(graph, state, asked.source, asked.prompt, asked.room, ends, asked.pad, key), how=asked.how, size=asked.size
    )
    check_finite(model, int(done.bad))
    return jnp.concatenate([begin, done.written[:, : int(done.step)]], axis=1), done.counts


@partial(jax.jit, static_argnames=("graph", "how", "size"))
def _write(
    graph: Any,
    state: Any,
    source: tuple[Array, Array] | None,
    begin: tuple[Array, Array],
    room: Array,
    eos: Array,
    pad: Array,
    key: Array,
    *,
    how: Sampling | None,
    size: int,
) -> _State:
    """Read the prompts, and write until all rows have ended."""
    model = nnx.merge(graph, state)
    model.eval()
    ids, keep = begin
    batch = len(ids)
    read = {} if source is None else model.read_source(*source)

    def choose(logits: Array, old: _State) -> _State:
        logits = logits.astype(jnp.float32)
        key, use = jax.random.split(old.key)
        token = logits.argmax(-1) if how is None else jax.random.categorical(use, _likely(logits, how))
        token = jnp.where(old.done, pad, token).astype(jnp.int32)
        done = old.done | jnp.isin(token, eos) | (old.step + 1 >= room)
        finite = jnp.isfinite(logits).all(-1) | old.done
        bad = jnp.where((old.bad < 0) & ~finite.all(), old.step, old.bad)
        written = jax.lax.dynamic_update_slice(old.written, token[:, None], (0, old.step))
        return _State(old.step + 1, token, written, done, old.counts + ~old.done, bad, old.cache, key)

    def step(tokens: Array, mask: Array | None, cache: FlaxCache) -> Array:
        names = ("input_ids", "attention_mask") if source is None else ("decoder_input_ids", "decoder_attention_mask")
        given = dict(zip(names, (tokens, mask), strict=True))
        return model.forward(**read, **given, cache=cache, logits_to_keep=1).logits[:, -1]

    def go_on(old: _State) -> _State:
        return choose(step(old.token[:, None], None, old.cache), old)

    cache = model.empty_cache(batch, ids.shape[1] + size)
    scores = step(ids, keep, cache)
    zero = jnp.zeros((), jnp.int32)
    empty = jnp.full((batch, size), pad, jnp.int32)
    none = jnp.zeros(batch, jnp.int32)
    first = _State(zero, none, empty, none > 0, none, zero - 1, cache, key)
    return jax.lax.while_loop(lambda old: ~old.done.all() & (old.bad < 0), go_on, choose(scores, first))


def _likely(logits: Array, how: Sampling) -> Array:
    """Leave the scores of tokens that may be drawn, (B, V), and make the others infinitely low."""
    logits = logits / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, how.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if how.top_p < 1:
        order = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(order), axis=-1) - jax.nn.softmax(order)  # of those likelier
        least = jnp.where(before < how.top_p, order, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
