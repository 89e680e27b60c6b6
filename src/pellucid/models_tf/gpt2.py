"""GPT-2 in Keras: a causal decoder with pre-norm and learned positions; see models/gpt2.py.

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels.
"""

import math
from functools import partial

import keras
from keras import ops
from tensorflow import Tensor

from ..errors import ConfigError
from ..models.gpt2 import GPT2Config
from ..outputs import Hidden, Logits, Spans
from ..tf_attention import TFCache, TFLayout, attend, join_heads, split_heads
from ..tf_layers import Embedding, Layer, LayerNorm, Linear, binary_cross_entropy, cross_entropy, token_loss
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


def causal_loss(logits: Tensor, labels: Tensor, layout: TFLayout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    return token_loss(logits[:, :-1], ops.where(layout.positions[:, 1:] == 0, -100, labels[:, 1:]))


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


class Conv1D(Layer):
    """A linear map whose weight is stored as it is multiplied, (in, out)."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.weight, self.bias = self.parameter("weight", inner, outer), self.parameter("bias", outer)

    def call(self, x: Tensor) -> Tensor:
        return ops.matmul(x, self.weight) + ops.cast(self.bias, x.dtype)


class TFGPT2Attention(Layer):
    """Causal attention and its output projection."""

    def __init__(self, config: GPT2Config, index: int):
        super().__init__()
        self.index, self.head_size = index, config.n_embd // config.n_head
        self.scale = 1 / math.sqrt(self.head_size) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= index + 1
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = keras.layers.Dropout(config.attn_pdrop)
        self.resid_dropout = keras.layers.Dropout(config.resid_pdrop)

    def call(self, x: Tensor, layout: TFLayout, cache: TFCache | None) -> Tensor:
        q, k, v = (split_heads(part, self.head_size) for part in ops.split(self.c_attn(x), 3, axis=-1))
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        x = attend(q, k, v, layout, causal=True, scale=self.scale, dropout=self.attn_dropout)
        return self.resid_dropout(self.c_proj(join_heads(x)))  # (B, T, E)


class TFGPT2MLP(Layer):
    """The position-wise half of a layer."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(config.n_embd, inner)
        self.c_proj = Conv1D(inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = keras.layers.Dropout(config.resid_pdrop)

    def call(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class TFGPT2Block(Layer):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: GPT2Config, index: int):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = TFGPT2Attention(config, index)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = TFGPT2MLP(config)

    def call(self, x: Tensor, layout: TFLayout, cache: TFCache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), layout=layout, cache=cache)
        return x + self.mlp(self.ln_2(x))


class TFGPT2Model(TFModel):
    """The decoder without a head."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        if config.add_cross_attention:
            raise ConfigError("add_cross_attention is True, which only the PyTorch class implements; use GPT2Model.")
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = keras.layers.Dropout(config.embd_pdrop)
        self.h = [TFGPT2Block(config, i) for i in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.
            token_type_ids: (B, T), ids of words that are added to the tokens, for models trained with that.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        x = x + self.wpe(layout.positions if position_ids is None else position_ids)
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)
        x = self.drop(x)
        for block in self.h:
            x = block(x, layout=layout, cache=cache)
        return Hidden(last_hidden_state=self.ln_f(x))


class TFGPT2LMHeadModel(TFModel):
    """Scores over the vocabulary for the next token."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = TFGPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        out = self.transformer.forward(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> TFCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config = self.config
        return TFCache.of(
            config.n_layer, batch, config.n_head, size, config.n_embd // config.n_head, self.compute_dtype
        )


class TFGPT2ForSequenceClassification(TFModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = TFGPT2Model(config)
        self.score = Linear(config.n_embd, config.num_labels, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.transformer.forward(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class TFGPT2ForTokenClassification(TFModel):
    """Labels every token, from those before it."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = TFGPT2Model(config)
        rates = (config.classifier_dropout, config.hidden_dropout, 0.1)
        self.dropout = keras.layers.Dropout(next(rate for rate in rates if rate is not None))
        self.classifier = Linear(config.n_embd, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.transformer.forward(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFGPT2ForQuestionAnswering(TFModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = TFGPT2Model(config)
        self.qa_outputs = Linear(config.n_embd, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.transformer.forward(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        start, end = ops.unstack(self.qa_outputs(x), axis=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
