"""Llama in Keras: a causal decoder with pre-norm, rotary positions, gated feed-forwards; see models/llama.py.

Mistral, Qwen2 and Qwen3 are served by the same code; where they differ, their configs say, and the few lines that ask
for the kind of config.

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels.
"""

from functools import partial
from typing import TypeAlias

import keras
from keras import ops
from tensorflow import Tensor

from ..errors import InputError
from ..models.llama import LlamaConfig
from ..models.mistral import MistralConfig
from ..models.qwen2 import Qwen2Config
from ..models.qwen3 import Qwen3Config
from ..outputs import Hidden, Logits, Spans
from ..rope import Rope
from ..tf_attention import TFCache, TFLayout, attend, join_heads, split_heads
from ..tf_layers import Embedding, Layer, Linear, RMSNorm, binary_cross_entropy, cross_entropy, token_loss
from ..tf_model import TFModel

AnyConfig: TypeAlias = LlamaConfig | MistralConfig | Qwen2Config | Qwen3Config

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


# twin: gpt2.causal_loss
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


def windows(config: AnyConfig) -> list[int | None]:
    """How many tokens back each layer looks at most, or to each side; None for all."""
    if isinstance(config, Qwen2Config | Qwen3Config):
        return config.windows
    return [config.window if isinstance(config, MistralConfig) else None] * config.num_hidden_layers


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (ops.cast(part, x.dtype) for part in turn)
    a, b = ops.split(x, 2, axis=-1)
    return ops.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class TFLlamaAttention(Layer):
    """Attention with rotated queries and keys, over the text so far or to both sides."""

    def __init__(self, config: AnyConfig, index: int):
        super().__init__()
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
        self.dropout = keras.layers.Dropout(config.attention_dropout)

    def call(self, x: Tensor, layout: TFLayout, turn: tuple[Tensor, Tensor], cache: TFCache | None) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=self.causal, window=self.window, dropout=self.dropout)
        return self.o_proj(join_heads(x))  # (B, T, E)


class TFLlamaMLP(Layer):
    """The position-wise half of a layer."""

    def __init__(self, config: AnyConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def call(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class TFLlamaLayer(Layer):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: AnyConfig, index: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = TFLlamaAttention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = TFLlamaMLP(config)

    def call(self, x: Tensor, layout: TFLayout, turn: tuple[Tensor, Tensor], cache: TFCache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout=layout, turn=turn, cache=cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class TFLlamaModel(TFModel):
    """The decoder without a head."""

    checkpoint_names = {"blocks": "layers"}  # Keras has layers of its own

    def __init__(self, config: AnyConfig):
        super().__init__(config)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.blocks = [TFLlamaLayer(config, i) for i in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        speeds, self.stretch = Rope.of(config, config.head_size).fixed()
        self.speeds = tuple(speeds)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
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
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        positions = layout.positions if position_ids is None else position_ids
        angles = ops.cast(positions, "float32")[:, None, :, None] * ops.array(self.speeds)  # (B, 1, T, D / 2)
        turn = (ops.cos(angles) * self.stretch, ops.sin(angles) * self.stretch)
        for layer in self.blocks:
            x = layer(x, layout=layout, turn=turn, cache=cache)
        return Hidden(last_hidden_state=self.norm(x))


class TFLlamaForCausalLM(TFModel):
    """Scores over the vocabulary for the next token."""

    def __init__(self, config: AnyConfig):
        super().__init__(config)
        self.model = TFLlamaModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
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
        x = self.model.forward(input_ids, layout, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> TFCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config = self.config
        return TFCache.of(config.num_hidden_layers, batch, config.key_heads, size, config.head_size, self.compute_dtype)


class TFLlamaForSequenceClassification(TFModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: AnyConfig):
        super().__init__(config)
        self.model = TFLlamaModel(config)
        self.score = Linear(config.hidden_size, config.num_labels, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.model.forward(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class TFLlamaForTokenClassification(TFModel):
    """Labels every token, from those before it."""

    def __init__(self, config: AnyConfig):
        super().__init__(config)
        self.model = TFLlamaModel(config)
        self.dropout = keras.layers.Dropout(0.1)
        self.score = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.model.forward(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFLlamaForQuestionAnswering(TFModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: AnyConfig):
        super().__init__(config)
        self.transformer = TFLlamaModel(config)
        self.qa_outputs = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.transformer.forward(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = ops.unstack(self.qa_outputs(x), axis=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- Mistral: Llama with a window; see models/mistral.py ----------------------------------------


class TFMistralModel(TFLlamaModel):
    """The decoder without a head."""


class TFMistralForCausalLM(TFLlamaForCausalLM):
    """Scores over the vocabulary for the next token."""


class TFMistralForSequenceClassification(TFLlamaForSequenceClassification):
    """Labels a whole text, from its last token."""


class TFMistralForTokenClassification(TFLlamaForTokenClassification):
    """Labels every token, from those before it."""


class TFMistralForQuestionAnswering(TFLlamaForQuestionAnswering):
    """Scores where the answer begins and ends in a text."""

    checkpoint_names = {"transformer": "model"}


# --- Qwen2: Llama with biases, and with windows in later layers; see models/qwen2.py ------------


class TFQwen2Model(TFLlamaModel):
    """The decoder without a head."""


class TFQwen2ForCausalLM(TFLlamaForCausalLM):
    """Scores over the vocabulary for the next token."""


class TFQwen2ForSequenceClassification(TFLlamaForSequenceClassification):
    """Labels a whole text, from its last token."""


class TFQwen2ForTokenClassification(TFLlamaForTokenClassification):
    """Labels every token, from those before it."""


class TFQwen2ForQuestionAnswering(TFLlamaForQuestionAnswering):
    """Scores where the answer begins and ends in a text."""


# --- Qwen3: Llama with norms on queries and keys; see models/qwen3.py ---------------------------


class TFQwen3Model(TFLlamaModel):
    """The decoder without a head."""


class TFQwen3ForCausalLM(TFLlamaForCausalLM):
    """Scores over the vocabulary for the next token."""


class TFQwen3ForSequenceClassification(TFLlamaForSequenceClassification):
    """Labels a whole text, from its last token."""


class TFQwen3ForTokenClassification(TFLlamaForTokenClassification):
    """Labels every token, from those before it."""


class TFQwen3ForQuestionAnswering(TFLlamaForQuestionAnswering):
    """Scores where the answer begins and ends in a text."""
