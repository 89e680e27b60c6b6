"""T5 in Keras: every task a text to write, by an encoder and a decoder whose positions are biases; see models/t5.py.

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary.
"""

from functools import partial
from typing import Any

import keras
import torch
from keras import ops
from tensorflow import Tensor

from ..errors import InputError
from ..models.t5 import T5Config, distance_buckets
from ..outputs import Hidden, Logits, Seq2SeqHidden, Seq2SeqLogits, Seq2SeqSpans
from ..tf_attention import TFCache, TFLayout, attend, join_heads, split_heads
from ..tf_layers import Embedding, Layer, Linear, RMSNorm, binary_cross_entropy, cross_entropy, token_loss
from ..tf_model import TFModel

# twin: bert.ACTIVATIONS
ACTIVATIONS = {
    "gelu": partial(ops.gelu, approximate=False),
    "gelu_fast": ops.gelu,
    "gelu_new": ops.gelu,
    "gelu_pytorch_tanh": ops.gelu,
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
}


# twin: bert.classification_loss
def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of one label a text, of several, or of numbers; without `problem_type` the labels' form decides."""
    if problem_type is None:
        single = labels.dtype.is_integer
        problem_type = "regression" if logits.shape[-1] == 1 else "single_label" if single else "multi_label"
    if problem_type == "regression":
        return ops.mean(ops.square(ops.reshape(logits, (-1,)) - ops.cast(ops.reshape(labels, (-1,)), logits.dtype)))
    if problem_type.startswith("multi_label"):
        return binary_cross_entropy(logits, labels)
    return cross_entropy(logits, ops.reshape(labels, (-1,)))


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = ops.shape(logits)[1]
    return cross_entropy(logits, ops.clip(ops.reshape(positions, (-1,)), 0, length), ignore=length)


def shift_right(ids: Tensor, layout: TFLayout, config: T5Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = ops.concatenate([ids[:, :1], ids[:, :-1]], axis=1)
    return ops.where(layout.positions == 0, start, ops.where(shifted == -100, pad, shifted))


class TFT5Attention(Layer):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: T5Config, index: int, *, causal: bool = False, biased: bool = False):
        super().__init__()
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.index, self.head_size, self.causal = index, config.d_kv, causal
        self.q = Linear(size, inner, bias=False)
        self.k = Linear(size, inner, bias=False)
        self.v = Linear(size, inner, bias=False)
        self.o = Linear(inner, size, bias=False)
        self.dropout = keras.layers.Dropout(config.dropout_rate)
        if biased:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def call(self, x: Tensor, layout: TFLayout, bias: Tensor, cache: TFCache | None) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.q, self.k, self.v))
        if cache is not None:
            k, v = cache.update(self.index, k, v)
        x = attend(q, k, v, layout, causal=self.causal, scale=1.0, bias=bias, dropout=self.dropout)
        return self.o(join_heads(x))

    def cross(self, x: Tensor, layout: TFLayout, states: Tensor, source: TFLayout, cache: TFCache | None) -> Tensor:
        """Look at what the encoder has read, (B, S, E)."""
        kept = None if cache is None else cache.source.get(self.index)
        k, v = kept or (split_heads(self.k(states), self.head_size), split_heads(self.v(states), self.head_size))
        if cache is not None:
            cache.source[self.index] = k, v
        q = split_heads(self.q(x), self.head_size)
        return self.o(join_heads(attend(q, k, v, layout, source=source, scale=1.0, dropout=self.dropout)))


class TFT5LayerSelfAttention(Layer):
    """The part of a layer in which a text looks at itself."""

    def __init__(self, config: T5Config, index: int, *, causal: bool):
        super().__init__()
        self.SelfAttention = TFT5Attention(config, index, causal=causal, biased=index == 0)
        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = keras.layers.Dropout(config.dropout_rate)

    def call(self, x: Tensor, layout: TFLayout, bias: Tensor, cache: TFCache | None) -> Tensor:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), layout=layout, bias=bias, cache=cache))


class TFT5LayerCrossAttention(Layer):
    """The part of a layer in which the target looks at the source."""

    def __init__(self, config: T5Config, index: int):
        super().__init__()
        self.EncDecAttention = TFT5Attention(config, index)
        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = keras.layers.Dropout(config.dropout_rate)

    def call(self, x: Tensor, layout: TFLayout, states: Tensor, source: TFLayout, cache: TFCache | None) -> Tensor:
        return x + self.dropout(self.EncDecAttention.cross(self.layer_norm(x), layout, states, source, cache))


class TFT5FeedForward(Layer):
    """Two products with an activation between, of which a third may be the gate."""

    def __init__(self, config: T5Config):
        super().__init__()
        if config.gated:
            self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = keras.layers.Dropout(config.dropout_rate)
        self.activation, self.gated = ACTIVATIONS[config.activation], config.gated

    def call(self, x: Tensor) -> Tensor:
        inner = self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x))
        return self.wo(self.dropout(inner))


class TFT5LayerFF(Layer):
    """The position-wise part of a layer."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.DenseReluDense = TFT5FeedForward(config)
        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = keras.layers.Dropout(config.dropout_rate)

    def call(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class TFT5Block(Layer):
    """One layer: attention to the text, in the decoder attention to the source, feed-forward."""

    def __init__(self, config: T5Config, index: int, *, decoder: bool):
        super().__init__()
        parts: list[Any] = [TFT5LayerSelfAttention(config, index, causal=decoder)]
        parts += [TFT5LayerCrossAttention(config, index)] if decoder else []
        self.layer = [*parts, TFT5LayerFF(config)]


class TFT5Stack(Layer):
    """One half: the encoder, or the decoder."""

    def __init__(self, config: T5Config, *, decoder: bool):
        super().__init__()
        depth = config.decoder_depth if decoder else config.num_layers
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.block = [TFT5Block(config, i, decoder=decoder) for i in range(depth)]
        self.final_layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = keras.layers.Dropout(config.dropout_rate)
        self.farthest = config.relative_attention_max_distance
        apart = torch.arange(-self.farthest, self.farthest + 1)
        buckets = distance_buckets(apart, config.relative_attention_num_buckets, self.farthest, causal=decoder)
        self.buckets = tuple(buckets.tolist())  # of all distances: logarithms of others would be rounded

    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | TFLayout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
        source: tuple[Tensor, TFLayout] | None = None,
    ) -> Tensor:
        """Read a text, (B, T) or (B, T, E), beside what the encoder has read, (B, S, E): (B, T, E)."""
        tokens = TFModel.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = TFLayout.of(tokens, attention_mask, cache)
        x = self.dropout(self.embed_tokens(tokens) if inputs_embeds is None else inputs_embeds)  # (B, T, E)
        keys = layout.positions if layout.key_positions is None else layout.key_positions
        apart = ops.clip(layout.positions[:, :, None] - keys[:, None, :], -self.farthest, self.farthest)
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = ops.transpose(
            table(ops.take(ops.array(self.buckets, "int32"), apart + self.farthest)), (0, 3, 1, 2)
        )  # (B, H, T, S)
        for block in self.block:
            x = block.layer[0](x, layout=layout, bias=bias, cache=cache)
            if source is not None:
                x = block.layer[1](x, layout=layout, states=source[0], source=source[1], cache=cache)
            x = block.layer[-1](x)
        return self.dropout(self.final_layer_norm(x))


class TFT5EncoderModel(TFModel):
    """The encoder alone."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = TFT5Stack(config, decoder=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `TFT5Model`."""
        return Hidden(last_hidden_state=self.encoder.read(input_ids, attention_mask, inputs_embeds))


class TFT5Model(TFModel):
    """Both halves without a task head."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = TFT5Stack(config, decoder=False)
        self.decoder = TFT5Stack(config, decoder=True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | TFLayout | None = None,
        encoder_outputs: Hidden | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
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
            states = self.encoder.read(input_ids, attention_mask, inputs_embeds)
        else:
            states = encoder_outputs.last_hidden_state
        source = (states, TFLayout.of(states, attention_mask))
        x = self.decoder.read(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=x, encoder_last_hidden_state=states)


class TFT5ForConditionalGeneration(TFT5Model):
    """Writes a target, such as a summary, a translation or an answer."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | TFLayout | None = None,
        encoder_outputs: Hidden | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Seq2SeqLogits:
        """Score what comes next; `labels`: (B, T), the target, -100 where there is nothing to learn.

        Without `decoder_input_ids`, those are the labels, shifted by one. `logits_to_keep` says after how many last
        tokens to score; 0 for all.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            decoder_input_ids = shift_right(labels, TFLayout.of(labels, decoder_attention_mask), self.config)
        out = super().forward(
            *(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs),
            *(inputs_embeds, decoder_inputs_embeds, cache),
        )
        x = out.last_hidden_state[:, -logits_to_keep:]
        logits = self.lm_head(x * self.config.d_model**-0.5 if self.config.scales_head else x)  # (B, T, V)
        loss = None if labels is None else token_loss(logits, labels)
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)

    def empty_cache(self, batch: int, size: int) -> TFCache:
        """Make a cache with room for `size` tokens of each of `batch` targets."""
        config = self.config
        return TFCache.of(config.decoder_depth, batch, config.num_heads, size, config.d_kv, self.compute_dtype)

    def read_source(self, input_ids: Tensor, keep: Tensor) -> dict[str, Any]:
        """Read a source once, (B, S), for all steps of writing its target: the arguments that stand for it."""
        states = self.encoder.read(input_ids, keep)
        return {"encoder_outputs": Hidden(last_hidden_state=states), "attention_mask": keep}


class TFT5ClassificationHead(Layer):
    """Two layers over the vector of a text."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model)
        self.dropout = keras.layers.Dropout(config.classifier_dropout)
        self.out_proj = Linear(config.d_model, config.num_labels)

    def call(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(ops.tanh(self.dense(self.dropout(x)))))


class TFT5ForSequenceClassification(TFModel):
    """Labels a whole text, from its last end token, which both halves have read."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.transformer = TFT5Model(config)
        self.classification_head = TFT5ClassificationHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        labels: Tensor | None = None,
    ) -> Seq2SeqLogits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        tokens = self.one_of(input_ids=input_ids)
        layout = TFLayout.of(tokens, attention_mask)
        out = self.transformer.forward(tokens, layout, shift_right(tokens, layout, self.config), layout)
        ends = ops.any(tokens[..., None] == ops.array(self.config.end_ids, "int32"), axis=-1)
        logits = self.classification_head(layout.last(out.last_hidden_state, ends))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class TFT5ForTokenClassification(TFModel):
    """Labels each token of a text, of which there is the encoder alone."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.transformer = TFT5EncoderModel(config)
        self.dropout = keras.layers.Dropout(config.classifier_dropout)
        self.classifier = Linear(config.d_model, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T) ids, -100 where there is nothing to learn."""
        x = self.transformer.forward(input_ids, attention_mask, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFT5ForQuestionAnswering(TFT5Model):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.qa_outputs = Linear(config.d_model, 2)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Seq2SeqSpans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        tokens = self.one_of(input_ids=input_ids)
        layout = TFLayout.of(tokens, attention_mask)
        out = super().forward(tokens, layout, shift_right(tokens, layout, self.config), layout)
        start, end = ops.unstack(self.qa_outputs(out.last_hidden_state), axis=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        states = out.encoder_last_hidden_state
        return Seq2SeqSpans(loss=loss, start_logits=start, end_logits=end, encoder_last_hidden_state=states)


# --- mT5: the same network, trained on 101 languages ------------------------------------------------------------------


class TFMT5EncoderModel(TFT5EncoderModel):
    """The encoder alone; see TFT5EncoderModel."""


class TFMT5Model(TFT5Model):
    """Both halves without a task head; see TFT5Model."""


class TFMT5ForConditionalGeneration(TFT5ForConditionalGeneration):
    """See TFT5ForConditionalGeneration."""


class TFMT5ForSequenceClassification(TFT5ForSequenceClassification):
    """See TFT5ForSequenceClassification."""


class TFMT5ForTokenClassification(TFT5ForTokenClassification):
    """See TFT5ForTokenClassification."""


class TFMT5ForQuestionAnswering(TFT5ForQuestionAnswering):
    """See TFT5ForQuestionAnswering."""
