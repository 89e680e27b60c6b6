"""Writing with Keras models: one compiled loop over memory of a fixed size, that takes or draws each token.

What is asked for, `foreign_writing` reads.
"""

from typing import Any

import tensorflow as tf
from keras import ops

from .foreign_writing import Sampling, check_finite, prepare
from .generation_config import GenerationConfig
from .tf_attention import TFCache


def write(
    model: Any,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    generation_config: GenerationConfig | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Continue prompts.

    Args:
        model: a Keras model with a head that scores the next token.
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
    begin = tf.constant(asked.begin, tf.int32)
    if not len(asked.begin):
        return begin, tf.zeros(0, tf.int32)
    given = ((), asked.prompt) if asked.source is None else (asked.source, asked.prompt)
    source, prompt = (tuple(tf.constant(part, tf.int32) for part in parts) for parts in given)
    room, eos = tf.constant(asked.room, tf.int32), tf.constant(asked.eos, tf.int32)
    told = (model, source, prompt, room, eos, tf.constant(asked.pad), tf.constant(seed), asked.how, asked.size)
    program = _write.get_concrete_function(*told)  # `_write` itself would warn of sizes that are many
    step, written, count, bad = program(*told)
    check_finite(model, int(bad))
    return tf.concat([begin, written[:, : int(step)]], axis=1), count


@tf.function(autograph=False)
def _write(
    model: Any,
    source: tuple[tf.Tensor, ...],
    prompt: tuple[tf.Tensor, tf.Tensor],
    room: tf.Tensor,
    eos: tf.Tensor,
    pad: tf.Tensor,
    seed: tf.Tensor,
    how: Sampling | None,
    size: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Read the prompts, and write until all rows have ended."""
    ids, keep = prompt
    batch, length = ids.shape
    read = model.read_source(*source) if source else {}
    names = ("decoder_input_ids", "decoder_attention_mask") if source else ("input_ids", "attention_mask")

    def score(tokens: tf.Tensor, mask: tf.Tensor | None, cache: TFCache) -> tf.Tensor:
        given = dict(zip(names, (tokens, mask), strict=True))
        inputs = {**read, **given, "cache": cache, "logits_to_keep": 1}
        parts = model.compute(inputs, training=False)
        return ops.cast(parts["logits"][:, -1], "float32")

    def choose(logits: tf.Tensor, old: tuple[Any, ...], cache: TFCache) -> tuple[Any, ...]:
        step, _, written, done, count, bad, _ = old
        token = ops.argmax(logits, axis=-1)
        if how is not None:
            token = tf.random.stateless_categorical(_likely(logits, how), 1, tf.stack([seed, step]))[:, 0]
        token = tf.where(done, pad, tf.cast(token, tf.int32))
        finite = tf.reduce_all(tf.math.is_finite(logits), -1) | done
        bad = tf.where((bad < 0) & ~tf.reduce_all(finite), step, bad)
        written = tf.where(tf.range(size) == step, token[:, None], written)
        count = count + tf.cast(~done, tf.int32)
        done = done | tf.reduce_any(token[:, None] == eos, -1) | (step + 1 >= room)
        return step + 1, token, written, done, count, bad, cache.parts()

    def go_on(*old: Any) -> tuple[Any, ...]:
        cache = TFCache(*old[-1])
        return choose(score(old[1][:, None], None, cache), old, cache)

    cache = model.empty_cache(batch, length + size)
    scores = score(ids, keep, cache)
    zero, none = tf.constant(0), tf.zeros(batch, tf.int32)
    first = (zero, none, tf.fill((batch, size), pad), none > 0, none, zero - 1, ())
    state = tf.while_loop(
        lambda step, token, written, done, count, bad, cache: ~tf.reduce_all(done) & (bad < 0),
        go_on,
        choose(scores, first, cache),
    )
    return state[0], state[2], state[4], state[5]


def _likely(logits: tf.Tensor, how: Sampling) -> tf.Tensor:
    """Leave the scores of tokens that may be drawn, (B, V), and make the others infinitely low."""
    logits, low = logits / how.temperature, float("-inf")
    if 0 < how.top_k < logits.shape[-1]:
        least = tf.math.top_k(logits, how.top_k).values[:, -1:]
        logits = tf.where(logits < least, low, logits)
    if how.top_p < 1:
        order = tf.sort(logits, axis=-1, direction="DESCENDING")
        before = tf.cumsum(tf.nn.softmax(order), axis=-1, exclusive=True)  # of those likelier
        least = tf.reduce_min(tf.where(before < how.top_p, order, float("inf")), -1, keepdims=True)
        logits = tf.where(logits < least, low, logits)
    return logits
