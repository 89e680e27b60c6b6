"""GPT-2 in Flax: a causal decoder with pre-norm and learned positions; see models/gpt2.py.

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..errors import ConfigError
from ..flax_attention import FlaxCache, FlaxLayout, attend, join_heads, split_heads
from ..flax_layers import Embedding, LayerNorm, Linear, binary_cross_entropy, cross_entropy, parameter, token_loss
from ..flax_model import FlaxModel
from ..models.gpt2 import GPT2Config
from ..outputs import Hidden, Logits, Spans

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


def causal_loss(logits: Array, labels: Array, layout: FlaxLayout) -> Array:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    return token_loss(logits[:, :-1], jnp.where(layout.positions[:, 1:] == 0, -100, labels[:, 1:]))


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


class Conv1D(nnx.Module):
    """A linear map whose weight is stored as it is multiplied, (in, out)."""

    def __init__(self, inner: int, outer: int):
        self.weight, self.bias = parameter(inner, outer), parameter(outer)

    def __call__(self, x: Array) -> Array:
        return jnp.matmul(x, self.weight.get_value()) + self.bias.get_value()


class FlaxGPT2Attention(nnx.Module):
    """Causal attention and its output projection."""

    def __init__(self, config: GPT2Config, index: int, rngs: nnx.Rngs):
        self.index, self.head_size = index, config.n_embd // config.n_head
        self.scale = 1 / math.sqrt(self.head_size) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= index + 1
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = nnx.Dropout(config.attn_pdrop, rngs=rngs)
        self.resid_dropout = nnx.Dropout(config.resid_pdrop, rngs=rngs)

    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        q, k, v = (split_heads(part, self.head_size) for part in jnp.split(self.c_attn(x), 3, axis=-1))
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        x = attend(q, k, v, layout, causal=True, scale=self.scale, dropout=self.attn_dropout)
        return self.resid_dropout(self.c_proj(join_heads(x)))  # (B, T, E)


class FlaxGPT2MLP(nnx.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs):
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(config.n_embd, inner)
        self.c_proj = Conv1D(inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nnx.Dropout(config.resid_pdrop, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class FlaxGPT2Block(nnx.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: GPT2Config, index: int, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = FlaxGPT2Attention(config, index, rngs)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = FlaxGPT2MLP(config, rngs)

    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        x = x + self.attn(self.ln_1(x), layout, cache)
        return x + self.mlp(self.ln_2(x))


class FlaxGPT2Model(FlaxModel):
    """The decoder without a head."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        if config.add_cross_attention:
            raise ConfigError("add_cross_attention is True, which only the PyTorch class implements; use GPT2Model.")
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = nnx.Dropout(config.embd_pdrop, rngs=rngs)
        self.h = nnx.List(FlaxGPT2Block(config, i, rngs) for i in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
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
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask, cache)
        x = self.wte(tokens) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        x = x + self.wpe(layout.positions if position_ids is None else position_ids)
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)
        x = self.drop(x)
        for block in self.h:
            x = block(x, layout, cache)
        return Hidden(last_hidden_state=self.ln_f(x))


class FlaxGPT2LMHeadModel(FlaxModel):
    """Scores over the vocabulary for the next token."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxGPT2Model(config, rngs=rngs)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
        labels: Array | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = FlaxLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        out = self.transformer(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> FlaxCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config = self.config
        return FlaxCache.of(config.n_layer, batch, config.n_head, size, config.n_embd // config.n_head, self.dtype)


class FlaxGPT2ForSequenceClassification(FlaxModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxGPT2Model(config, rngs=rngs)
        self.score = Linear(config.n_embd, config.num_labels, bias=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = FlaxLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.transformer(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FlaxGPT2ForTokenClassification(FlaxModel):
    """Labels every token, from those before it."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxGPT2Model(config, rngs=rngs)
        rates = (config.classifier_dropout, config.hidden_dropout, 0.1)
        self.dropout = nnx.Dropout(next(rate for rate in rates if rate is not None), rngs=rngs)
        self.classifier = Linear(config.n_embd, config.num_labels)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.transformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxGPT2ForQuestionAnswering(FlaxModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxGPT2Model(config, rngs=rngs)
        self.qa_outputs = Linear(config.n_embd, 2)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.transformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = jnp.moveaxis(self.qa_outputs(x), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
