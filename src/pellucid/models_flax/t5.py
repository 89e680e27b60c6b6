"""T5 in Flax: every task a text to write, by an encoder and a decoder whose positions are biases; see models/t5.py.

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array

from ..errors import InputError
from ..flax_attention import FlaxCache, FlaxLayout, attend, join_heads, split_heads
from ..flax_layers import Embedding, Linear, RMSNorm, binary_cross_entropy, cross_entropy, token_loss
from ..flax_model import FlaxModel
from ..models.t5 import T5Config, distance_buckets
from ..outputs import Hidden, Logits, Seq2SeqHidden, Seq2SeqLogits, Seq2SeqSpans

# twin: bert.ACTIVATIONS
ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_fast": jax.nn.gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


# twin: bert.classification_loss
def classification_loss(logits: Array, labels: Array, problem_type: str | None) -> Array:
    """The loss of one label a text, of several, or of numbers; without `problem_type` the labels' form decides."""
    if problem_type is None:
        single = labels.dtype.kind in "iu"
        problem_type = "regression" if logits.shape[-1] == 1 else "single_label" if single else "multi_label"
    if problem_type == "regression":
        return jnp.square(logits.reshape(-1) - labels.reshape(-1)).mean()
    if problem_type.startswith("multi_label"):
        return binary_cross_entropy(logits, labels)
    return cross_entropy(logits, labels.reshape(-1))


# twin: bert.span_loss
def span_loss(logits: Array, positions: Array) -> Array:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return cross_entropy(logits, jnp.clip(positions.reshape(-1), 0, length), ignore=length)


def shift_right(ids: Array, layout: FlaxLayout, config: T5Config) -> Array:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = jnp.concatenate([ids[:, :1], ids[:, :-1]], axis=1)
    return jnp.where(layout.positions == 0, start, jnp.where(shifted == -100, pad, shifted))


class FlaxT5LayerNorm(RMSNorm):
    """Divides by the root of the mean square; sums that are more exact than the weights are made so only after it."""

    def __call__(self, x: Array) -> Array:
        return super().__call__(x).astype(self.weight.get_value().dtype)


class FlaxT5Attention(nnx.Module):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: T5Config, index: int, rngs: nnx.Rngs, *, causal: bool = False, biased: bool = False):
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.index, self.head_size, self.causal = index, config.d_kv, causal
        self.q = Linear(size, inner, bias=False)
        self.k = Linear(size, inner, bias=False)
        self.v = Linear(size, inner, bias=False)
        self.o = Linear(inner, size, bias=False)
        self.dropout = nnx.Dropout(config.dropout_rate, rngs=rngs)
        if biased:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def __call__(self, x: Array, layout: FlaxLayout, bias: Array, cache: FlaxCache | None) -> Array:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.q, self.k, self.v))
        if cache is not None:
            k, v = cache.update(self.index, k, v)
        x = attend(q, k, v, layout, causal=self.causal, scale=1.0, bias=bias, dropout=self.dropout)
        return self.o(join_heads(x))

    def cross(self, x: Array, layout: FlaxLayout, states: Array, source: FlaxLayout, cache: FlaxCache | None) -> Array:
        """Look at what the encoder has read, (B, S, E)."""
        kept = None if cache is None else cache.source.get(self.index)
        k, v = kept or (split_heads(self.k(states), self.head_size), split_heads(self.v(states), self.head_size))
        if cache is not None:
            cache.source[self.index] = k, v
        q = split_heads(self.q(x), self.head_size)
        return self.o(join_heads(attend(q, k, v, layout, source=source, scale=1.0, dropout=self.dropout)))


class FlaxT5LayerSelfAttention(nnx.Module):
    """The part of a layer in which a text looks at itself."""

    def __init__(self, config: T5Config, index: int, rngs: nnx.Rngs, *, causal: bool):
        self.SelfAttention = FlaxT5Attention(config, index, rngs, causal=causal, biased=index == 0)
        self.layer_norm = FlaxT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nnx.Dropout(config.dropout_rate, rngs=rngs)

    def __call__(self, x: Array, layout: FlaxLayout, bias: Array, cache: FlaxCache | None) -> Array:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), layout, bias, cache))


class FlaxT5LayerCrossAttention(nnx.Module):
    """The part of a layer in which the target looks at the source."""

    def __init__(self, config: T5Config, index: int, rngs: nnx.Rngs):
        self.EncDecAttention = FlaxT5Attention(config, index, rngs)
        self.layer_norm = FlaxT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nnx.Dropout(config.dropout_rate, rngs=rngs)

    def __call__(
        self, x: Array, layout: FlaxLayout, states: Array, source: FlaxLayout, cache: FlaxCache | None
    ) -> Array:
        return x + self.dropout(self.EncDecAttention.cross(self.layer_norm(x), layout, states, source, cache))


class FlaxT5FeedForward(nnx.Module):
    """Two products with an activation between, of which a third may be the gate."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        if config.gated:
            self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nnx.Dropout(config.dropout_rate, rngs=rngs)
        self.activation, self.gated = ACTIVATIONS[config.activation], config.gated

    def __call__(self, x: Array) -> Array:
        inner = self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x))
        return self.wo(self.dropout(inner))


class FlaxT5LayerFF(nnx.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.DenseReluDense = FlaxT5FeedForward(config, rngs)
        self.layer_norm = FlaxT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nnx.Dropout(config.dropout_rate, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class FlaxT5Block(nnx.Module):
    """One layer: attention to the text, in the decoder attention to the source, feed-forward."""

    def __init__(self, config: T5Config, index: int, rngs: nnx.Rngs, *, decoder: bool):
        parts: list[Any] = [FlaxT5LayerSelfAttention(config, index, rngs, causal=decoder)]
        parts += [FlaxT5LayerCrossAttention(config, index, rngs)] if decoder else []
        self.layer: Any = nnx.List([*parts, FlaxT5LayerFF(config, rngs)])


class FlaxT5Stack(nnx.Module):
    """One half: the encoder, or the decoder."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs, *, decoder: bool):
        depth = config.decoder_depth if decoder else config.num_layers
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.block = nnx.List(FlaxT5Block(config, i, rngs, decoder=decoder) for i in range(depth))
        self.final_layer_norm = FlaxT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nnx.Dropout(config.dropout_rate, rngs=rngs)
        self.farthest = config.relative_attention_max_distance
        apart = torch.arange(-self.farthest, self.farthest + 1)
        buckets = distance_buckets(apart, config.relative_attention_num_buckets, self.farthest, causal=decoder)
        self.buckets = nnx.static(tuple(buckets.tolist()))  # of all distances: logarithms of others would be rounded

    def __call__(
        self,
        input_ids: Array | None,
        attention_mask: Array | FlaxLayout | None = None,
        inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
        source: tuple[Array, FlaxLayout] | None = None,
    ) -> Array:
        """Read a text, (B, T) or (B, T, E), beside what the encoder has read, (B, S, E): (B, T, E)."""
        tokens = FlaxModel.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask, cache)
        x = self.dropout(self.embed_tokens(tokens) if inputs_embeds is None else inputs_embeds)  # (B, T, E)
        keys = layout.positions if layout.key_positions is None else layout.key_positions
        apart = jnp.clip(layout.positions[:, :, None] - keys[:, None, :], -self.farthest, self.farthest)
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(jnp.array(self.buckets)[apart + self.farthest]).transpose(0, 3, 1, 2)  # (B, H, T, S)
        for block in self.block:
            x = block.layer[0](x, layout, bias, cache)
            if source is not None:
                x = block.layer[1](x, layout, *source, cache)
            x = block.layer[-1](x)
        return self.dropout(self.final_layer_norm(x))


class FlaxT5EncoderModel(FlaxModel):
    """The encoder alone."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = FlaxT5Stack(config, rngs, decoder=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        inputs_embeds: Array | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `FlaxT5Model`."""
        return Hidden(last_hidden_state=self.encoder(input_ids, attention_mask, inputs_embeds))


class FlaxT5Model(FlaxModel):
    """Both halves without a task head."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = FlaxT5Stack(config, rngs, decoder=False)
        self.decoder = FlaxT5Stack(config, rngs, decoder=True)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | FlaxLayout | None = None,
        encoder_outputs: Hidden | None = None,
        inputs_embeds: Array | None = None,
        decoder_inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
    ) -> Seq2SeqHidden:
        """Read a source and what was written of its target.

        Args:
            input_ids: ids of the source, (B, S).
            attention_mask: (B, S), 1 for real tokens and 0 for padding; None when nothing is padded.
            decoder_input_ids: ids of the target, (B, T), the start token first.
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what the decoder has read before; these tokens are added to it.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
        if encoder_outputs is None:
            states = self.encoder(input_ids, attention_mask, inputs_embeds)
        else:
            states = encoder_outputs.last_hidden_state
        source = (states, FlaxLayout.of(states, attention_mask))
        x = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=x, encoder_last_hidden_state=states)


class FlaxT5ForConditionalGeneration(FlaxT5Model):
    """Writes a target, such as a summary, a translation or an answer."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)

    def forward(  # type: ignore[override]
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | FlaxLayout | None = None,
        encoder_outputs: Hidden | None = None,
        inputs_embeds: Array | None = None,
        decoder_inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
        labels: Array | None = None,
        logits_to_keep: int = 0,
    ) -> Seq2SeqLogits:
        """Score what comes next; `labels`: (B, T), the target, -100 where there is nothing to learn.

        Without `decoder_input_ids`, those are the labels, shifted by one. `logits_to_keep` says after how many last
        tokens to score; 0 for all.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            decoder_input_ids = shift_right(labels, FlaxLayout.of(labels, decoder_attention_mask), self.config)
        out = super().forward(
            *(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs),
            *(inputs_embeds, decoder_inputs_embeds, cache),
        )
        x = out.last_hidden_state[:, -logits_to_keep:]
        logits = self.lm_head(x * self.config.d_model**-0.5 if self.config.scales_head else x)  # (B, T, V)
        loss = None if labels is None else token_loss(logits, labels)
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)

    def empty_cache(self, batch: int, size: int) -> FlaxCache:
        """Make a cache with room for `size` tokens of each of `batch` targets."""
        config = self.config
        return FlaxCache.of(config.decoder_depth, batch, config.num_heads, size, config.d_kv, self.dtype)

    def read_source(self, input_ids: Array, keep: Array) -> dict[str, Any]:
        """Read a source once, (B, S), for all steps of writing its target: the arguments that stand for it."""
        states = self.encoder(input_ids, keep)
        return {"encoder_outputs": Hidden(last_hidden_state=states), "attention_mask": keep}


class FlaxT5ClassificationHead(nnx.Module):
    """Two layers over the vector of a text."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.dense = Linear(config.d_model, config.d_model)
        self.dropout = nnx.Dropout(config.classifier_dropout, rngs=rngs)
        self.out_proj = Linear(config.d_model, config.num_labels)

    def __call__(self, x: Array) -> Array:
        return self.out_proj(self.dropout(jnp.tanh(self.dense(self.dropout(x)))))


class FlaxT5ForSequenceClassification(FlaxModel):
    """Labels a whole text, from its last end token, which both halves have read."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxT5Model(config, rngs=rngs)
        self.classification_head = FlaxT5ClassificationHead(config, rngs)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        labels: Array | None = None,
    ) -> Seq2SeqLogits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        tokens = self.one_of(input_ids=input_ids)
        layout = FlaxLayout.of(tokens, attention_mask)
        out = self.transformer(tokens, layout, shift_right(tokens, layout, self.config), layout)
        ends = jnp.isin(tokens, jnp.array(self.config.end_ids, jnp.int32))
        logits = self.classification_head(layout.last(out.last_hidden_state, ends))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class FlaxT5ForTokenClassification(FlaxModel):
    """Labels each token of a text, of which there is the encoder alone."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxT5EncoderModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.classifier_dropout, rngs=rngs)
        self.classifier = Linear(config.d_model, config.num_labels)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T) ids, -100 where there is nothing to learn."""
        x = self.transformer(input_ids, attention_mask, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxT5ForQuestionAnswering(FlaxT5Model):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.qa_outputs = Linear(config.d_model, 2)

    def forward(  # type: ignore[override]
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
    ) -> Seq2SeqSpans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        tokens = self.one_of(input_ids=input_ids)
        layout = FlaxLayout.of(tokens, attention_mask)
        out = super().forward(tokens, layout, shift_right(tokens, layout, self.config), layout)
        start, end = jnp.moveaxis(self.qa_outputs(out.last_hidden_state), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        states = out.encoder_last_hidden_state
        return Seq2SeqSpans(loss=loss, start_logits=start, end_logits=end, encoder_last_hidden_state=states)


# --- mT5: the same network, trained on 101 languages ------------------------------------------------------------------


class FlaxMT5EncoderModel(FlaxT5EncoderModel):
    """The encoder alone; see FlaxT5EncoderModel."""


class FlaxMT5Model(FlaxT5Model):
    """Both halves without a task head; see FlaxT5Model."""


class FlaxMT5ForConditionalGeneration(FlaxT5ForConditionalGeneration):
    """See FlaxT5ForConditionalGeneration."""


class FlaxMT5ForSequenceClassification(FlaxT5ForSequenceClassification):
    """See FlaxT5ForSequenceClassification."""


class FlaxMT5ForTokenClassification(FlaxT5ForTokenClassification):
    """See FlaxT5ForTokenClassification."""


class FlaxMT5ForQuestionAnswering(FlaxT5ForQuestionAnswering):
    """See FlaxT5ForQuestionAnswering."""
