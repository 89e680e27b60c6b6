"""Llama in Flax: a causal decoder with pre-norm, rotary positions, gated feed-forwards; see models/llama.py.

Mistral, Qwen2 and Qwen3 are served by the same code; where they differ, their configs say, and the few lines that ask
for the kind of config.

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels.
"""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..errors import InputError
from ..flax_attention import FlaxCache, FlaxLayout, attend, join_heads, split_heads
from ..flax_layers import Embedding, Linear, RMSNorm, binary_cross_entropy, cross_entropy, token_loss
from ..flax_model import FlaxModel
from ..models.llama import LlamaConfig
from ..models.mistral import MistralConfig
from ..models.qwen2 import Qwen2Config
from ..models.qwen3 import Qwen3Config
from ..outputs import Hidden, Logits, Spans
from ..rope import Rope

AnyConfig: TypeAlias = LlamaConfig | MistralConfig | Qwen2Config | Qwen3Config

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


# twin: gpt2.causal_loss
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


def windows(config: AnyConfig) -> list[int | None]:
    """How many tokens back each layer looks at most, or to each side; None for all."""
    if isinstance(config, Qwen2Config | Qwen3Config):
        return config.windows
    return [config.window if isinstance(config, MistralConfig) else None] * config.num_hidden_layers


def rotate(x: Array, turn: tuple[Array, Array]) -> Array:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (part.astype(x.dtype) for part in turn)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class FlaxLlamaAttention(nnx.Module):
    """Attention with rotated queries and keys, over the text so far or to both sides."""

    def __init__(self, config: AnyConfig, index: int, rngs: nnx.Rngs):
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size = index, config.head_size
        self.causal, self.window = config.is_causal, windows(config)[index]
        self.q_proj = Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = Linear(size, config.key_heads * self.head_size, bias=bias)
        out_bias = bias and not isinstance(config, Qwen2Config)
        self.o_proj = Linear(config.num_attention_heads * self.head_size, size, bias=out_bias)
        normed = isinstance(config, Qwen3Config)
        self.q_norm = RMSNorm(self.head_size, eps=config.rms_norm_eps) if normed else None
        self.k_norm = RMSNorm(self.head_size, eps=config.rms_norm_eps) if normed else None
        self.dropout = nnx.Dropout(config.attention_dropout, rngs=rngs)

    def __call__(self, x: Array, layout: FlaxLayout, turn: tuple[Array, Array], cache: FlaxCache | None) -> Array:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=self.causal, window=self.window, dropout=self.dropout)
        return self.o_proj(join_heads(x))  # (B, T, E)


class FlaxLlamaMLP(nnx.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: AnyConfig):
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Array) -> Array:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class FlaxLlamaLayer(nnx.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: AnyConfig, index: int, rngs: nnx.Rngs):
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = FlaxLlamaAttention(config, index, rngs)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FlaxLlamaMLP(config)

    def __call__(self, x: Array, layout: FlaxLayout, turn: tuple[Array, Array], cache: FlaxCache | None) -> Array:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class FlaxLlamaModel(FlaxModel):
    """The decoder without a head."""

    def __init__(self, config: AnyConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nnx.List(FlaxLlamaLayer(config, i, rngs) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        speeds, self.stretch = Rope.of(config, config.head_size).fixed()
        self.speeds = nnx.static(tuple(speeds))

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        if cache is not None and not self.config.is_causal:
            raise InputError("is_causal=False lets tokens see later ones, too: read a whole text at once.")
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(tokens) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        positions = layout.positions if position_ids is None else position_ids
        angles = positions[:, None, :, None] * jnp.array(self.speeds)  # (B, 1, T, D / 2)
        turn = (jnp.cos(angles) * self.stretch, jnp.sin(angles) * self.stretch)
        for layer in self.layers:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.norm(x))


class FlaxLlamaForCausalLM(FlaxModel):
    """Scores over the vocabulary for the next token."""

    def __init__(self, config: AnyConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.model = FlaxLlamaModel(config, rngs=rngs)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
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
        x = self.model(input_ids, layout, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> FlaxCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config = self.config
        return FlaxCache.of(config.num_hidden_layers, batch, config.key_heads, size, config.head_size, self.dtype)


class FlaxLlamaForSequenceClassification(FlaxModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: AnyConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.model = FlaxLlamaModel(config, rngs=rngs)
        self.score = Linear(config.hidden_size, config.num_labels, bias=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = FlaxLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.model(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FlaxLlamaForTokenClassification(FlaxModel):
    """Labels every token, from those before it."""

    def __init__(self, config: AnyConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.model = FlaxLlamaModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.score = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxLlamaForQuestionAnswering(FlaxModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: AnyConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.transformer = FlaxLlamaModel(config, rngs=rngs)
        self.qa_outputs = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.transformer(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = jnp.moveaxis(self.qa_outputs(x), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- Mistral: Llama with a window; see models/mistral.py ----------------------------------------


class FlaxMistralModel(FlaxLlamaModel):
    """The decoder without a head."""


class FlaxMistralForCausalLM(FlaxLlamaForCausalLM):
    """Scores over the vocabulary for the next token."""


class FlaxMistralForSequenceClassification(FlaxLlamaForSequenceClassification):
    """Labels a whole text, from its last token."""


class FlaxMistralForTokenClassification(FlaxLlamaForTokenClassification):
    """Labels every token, from those before it."""


class FlaxMistralForQuestionAnswering(FlaxModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: AnyConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.model = FlaxLlamaModel(config, rngs=rngs)
        self.qa_outputs = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = jnp.moveaxis(self.qa_outputs(x), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- Qwen2: Llama with biases, and with windows in later layers; see models/qwen2.py ------------


class FlaxQwen2Model(FlaxLlamaModel):
    """The decoder without a head."""


class FlaxQwen2ForCausalLM(FlaxLlamaForCausalLM):
    """Scores over the vocabulary for the next token."""


class FlaxQwen2ForSequenceClassification(FlaxLlamaForSequenceClassification):
    """Labels a whole text, from its last token."""


class FlaxQwen2ForTokenClassification(FlaxLlamaForTokenClassification):
    """Labels every token, from those before it."""


class FlaxQwen2ForQuestionAnswering(FlaxLlamaForQuestionAnswering):
    """Scores where the answer begins and ends in a text."""


# --- Qwen3: Llama with norms on queries and keys; see models/qwen3.py ---------------------------


class FlaxQwen3Model(FlaxLlamaModel):
    """The decoder without a head."""


class FlaxQwen3ForCausalLM(FlaxLlamaForCausalLM):
    """Scores over the vocabulary for the next token."""


class FlaxQwen3ForSequenceClassification(FlaxLlamaForSequenceClassification):
    """Labels a whole text, from its last token."""


class FlaxQwen3ForTokenClassification(FlaxLlamaForTokenClassification):
    """Labels every token, from those before it."""


class FlaxQwen3ForQuestionAnswering(FlaxLlamaForQuestionAnswering):
    """Scores where the answer begins and ends in a text."""
