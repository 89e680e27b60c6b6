"""Gemma 3, the text part: a decoder like Gemma 2 with normed queries and keys, and rotary positions of two speeds.

Paper: Gemma Team, 2025, "Gemma 3 Technical Report", https://arxiv.org/abs/2503.19786; with attention to both sides, as
an encoder: Schechter Vera et al., 2025, "EmbeddingGemma", https://arxiv.org/abs/2509.20354

What sets it apart from Gemma 2:
  - each head's queries and keys are normed before they are turned
  - five layers with a window, then one that looks at all; pairs of dimensions turn faster in the former
  - scores of attention are not bounded, those of the vocabulary only if the config says so
  - attention may go to both sides; then the window has half of its tokens on each

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache
from ..config import Config, shorten
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
from ..rope import Rope

# twin: bert.ACTIVATIONS
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

LOCAL, GLOBAL = "sliding_attention", "full_attention"


class Gemma3TextConfig(Config):
    """The configuration of the text part of Gemma 3; no checkpoint that was released has all of its defaults."""

    model_type = "gemma3_text"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "attn_logit_softcapping": None,
    }
    aliases = {"hidden_act": "hidden_activation", "_sliding_window_pattern": "sliding_window_pattern"}

    vocab_size: int = 262208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0
    rope_local_base_freq: float = 10000.0  # the same of local layers
    rope_scaling: dict[str, Any] | None = None  # of global layers
    rope_parameters: dict[str, Any] | None = None  # all of these by kind of layer, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0
    query_pre_attn_scalar: float = 256  # what scores of attention are divided by the root of
    final_logit_softcapping: float | None = None
    sliding_window: int | None = 4096  # tokens that a local layer looks at, itself among them
    sliding_window_pattern: int = 6  # each how-many-th layer is global
    layer_types: list[str] | None = None  # the same, layer by layer; it wins
    use_bidirectional_attention: bool | None = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def kind(self, layer: int) -> str:
        """Return whether a layer is local or global."""
        if self.layer_types is not None:
            return self.layer_types[layer]
        return LOCAL if (layer + 1) % self.sliding_window_pattern else GLOBAL

    def window(self, layer: int) -> int | None:
        """Return how many tokens back a layer looks, or to each side; None for all."""
        if self.kind(layer) == GLOBAL or self.sliding_window is None:
            return None
        return self.sliding_window // 2 if self.use_bidirectional_attention else self.sliding_window - 1

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads % self.num_key_value_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.hidden_activation not in ACTIVATIONS:
            yield f"hidden_activation is {self.hidden_activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        for name in ("query_pre_attn_scalar", "final_logit_softcapping", "sliding_window", "sliding_window_pattern"):
            if (value := getattr(self, name)) is not None and value <= 0:
                yield f"{name} is {value}; expected more than 0"
        kinds = self.layer_types
        if kinds is not None and (len(kinds) != self.num_hidden_layers or set(kinds) - {LOCAL, GLOBAL}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} times {LOCAL!r} or {GLOBAL!r}"
        for kind in (LOCAL, GLOBAL):
            yield from Rope.faults(self, self.head_dim, kind)


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


# twin: bert.classification_loss
def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of one label a text, of several, or of numbers; without `problem_type` the labels' form decides."""
    if problem_type is None:
        single = not labels.is_floating_point()
        problem_type = "regression" if logits.shape[-1] == 1 else "single_label" if single else "multi_label"
    if problem_type == "regression":
        return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
    if problem_type.startswith("multi_label"):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels.flatten())


# twin: llama.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (part.to(x.dtype) for part in turn)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


# twin: gemma.GemmaRMSNorm
class GemmaRMSNorm(nn.RMSNorm):
    """Divides by the root mean square and multiplies with 1 + weight, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps).to(x.dtype)


# twin: gemma.GemmaEmbedding
class GemmaEmbedding(nn.Embedding):
    """Word embeddings, multiplied with the root of their size, rounded to their dtype."""

    def forward(self, input: Tensor) -> Tensor:
        x = super().forward(input)
        return x * x.new_full((), self.embedding_dim**0.5)


class Gemma3TextAttention(nn.Module):
    """Attention with normed and rotated queries and keys, over the text so far, a window of it, or both sides."""

    def __init__(self, config: Gemma3TextConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_dim, config.attention_dropout
        self.window, self.causal = config.window(index), not config.use_bidirectional_attention
        self.scale = config.query_pre_attn_scalar**-0.5
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)
        self.q_norm = GemmaRMSNorm(self.head_size, eps=config.rms_norm_eps)
        self.k_norm = GemmaRMSNorm(self.head_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(self.q_norm(q), turn), rotate(self.k_norm(k), turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v, window=self.window)  # (B, H or fewer, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=self.causal, window=self.window, scale=self.scale, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class Gemma3TextMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: Gemma3TextConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Gemma3TextLayer(nn.Module):
    """One layer: attention, then feed-forward, each between two norms and with its residual sum."""

    def __init__(self, config: Gemma3TextConfig, index: int):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = GemmaRMSNorm(size, eps=eps)
        self.self_attn = Gemma3TextAttention(config, index)
        self.post_attention_layernorm = GemmaRMSNorm(size, eps=eps)
        self.pre_feedforward_layernorm = GemmaRMSNorm(size, eps=eps)
        self.mlp = Gemma3TextMLP(config)
        self.post_feedforward_layernorm = GemmaRMSNorm(size, eps=eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), layout, turn, cache))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Gemma3TextPreTrainedModel(Model):
    """What all classes of this file share."""

    config: Gemma3TextConfig
    config_class = Gemma3TextConfig
    prefix = "model"
    stack = "layers"
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; a norm's 0 changes nothing."""
        super().init_module(module, only)
        if isinstance(module, GemmaRMSNorm):
            module.weight.zero_()


class Gemma3TextModel(Gemma3TextPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: Gemma3TextConfig):
        super().__init__(config)
        self.embed_tokens = GemmaEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(Gemma3TextLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ropes = {kind: Rope.of(config, config.head_dim, kind) for kind in (LOCAL, GLOBAL)}
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        if self.config.use_bidirectional_attention and cache is not None and len(cache) > tokens.shape[1]:
            raise InputError("use_bidirectional_attention lets tokens see later ones, too: read a whole text at once.")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        turns = {kind: rope.turn_halves(layout, position_ids, x.dtype) for kind, rope in self.ropes.items()}
        for i, layer in enumerate(self.layers):
            x = layer(x, layout, turns[self.config.kind(i)], cache)
        return Hidden(last_hidden_state=self.norm(x))


class Gemma3ForCausalLM(Gemma3TextPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Gemma3TextConfig):
        super().__init__(config)
        self.model = Gemma3TextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.model(input_ids, layout, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        if (bound := self.config.final_logit_softcapping) is not None:
            logits = bound * torch.tanh(logits / bound)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)


class Gemma3TextForSequenceClassification(Gemma3TextPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: Gemma3TextConfig):
        super().__init__(config)
        self.model = Gemma3TextModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.model(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)
