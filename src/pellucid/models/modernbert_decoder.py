"""ModernBERT decoder: ModernBERT that writes, with windows that reach back in two layers of three.

Paper: Weller et al., 2025, "Seq vs Seq: An Open Suite of Paired Encoders and Decoders", https://arxiv.org/abs/2507.11412

What sets it apart from ModernBERT:
  - a token looks at itself and those before it only: at all of them, or at the last of them, half of `local_attention`
  - queries, keys and values are three projections
  - a text is classified from its last token

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, F feed-forward, V
vocabulary, L labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a
packed text.
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
GLOBAL, LOCAL = "full_attention", "sliding_attention"  # the format's names of the two kinds of layers


class ModernBertDecoderConfig(Config):
    """The configuration of the ModernBERT decoder; the defaults are those of the original library.

    Which layers are global, and how fast the two kinds rotate, stands in `global_attn_every_n_layers` and
    `*_rope_theta`, or, in newer files, in `layer_types` and `rope_parameters`, which win. Ask `kinds`.
    """

    model_type = "modernbert-decoder"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "pruned_heads": {},
    }
    aliases = {
        "hidden_act": "hidden_activation",
        "rope_theta": "global_rope_theta",
        "rope_local_base_freq": "local_rope_theta",
    }

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160000.0
    local_rope_theta: float = 10000.0
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None
    local_attention: int = 128  # twice the tokens that a local layer looks at, the token itself among them
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    sliding_window: int | None = None  # in files but without effect, as the next: local_attention counts
    classifier_pooling: str | None = None
    layer_norm_eps: float = 1e-5
    position_embedding_type: str | None = None
    pad_token_id: int | None = 50283
    bos_token_id: int | None = 50281
    eos_token_id: int | list[int] | None = 50282

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kinds(self) -> list[str]:
        """The kind of each layer: `"full_attention"` or `"sliding_attention"`."""
        every = self.global_attn_every_n_layers
        return self.layer_types or [LOCAL if i % every else GLOBAL for i in range(self.num_hidden_layers)]

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) is not a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        for name in ("hidden_activation", "classifier_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.global_attn_every_n_layers < 1:
            yield f"global_attn_every_n_layers is {self.global_attn_every_n_layers}; expected at least 1"
        if self.local_attention < 2:
            yield f"local_attention is {self.local_attention}; expected at least 2"
        types = self.layer_types
        if types is not None and (len(types) != self.num_hidden_layers or set(types) - {GLOBAL, LOCAL}):
            yield f"layer_types is {shorten(types)}; expected {self.num_hidden_layers} times {GLOBAL!r} or {LOCAL!r}"
        for kind in (GLOBAL, LOCAL):
            yield from Rope.faults(self, self.head_size, kind)


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


class ModernBertDecoderEmbeddings(nn.Module):
    """Word embeddings, normalised."""

    def __init__(self, config: ModernBertDecoderConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.drop = nn.Dropout(config.embedding_dropout)

    # twin: modernbert.ModernBertEmbeddings.forward
    def forward(self, words: Tensor) -> Tensor:
        return self.drop(self.norm(words))


class ModernBertDecoderAttention(nn.Module):
    """Causal attention with rotated queries and keys, over the text so far or a window of it."""

    def __init__(self, config: ModernBertDecoderConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window = config.local_attention // 2 - 1 if config.kinds[index] == LOCAL else None  # tokens back
        self.q_proj = nn.Linear(size, size, bias=bias)
        self.k_proj = nn.Linear(size, size, bias=bias)
        self.v_proj = nn.Linear(size, size, bias=bias)
        self.Wo = nn.Linear(size, size, bias=bias)
        self.out_drop = nn.Dropout(config.attention_dropout)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v, window=self.window)  # (B, H, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, window=self.window, dropout=dropout)
        return self.out_drop(self.Wo(x.transpose(1, 2).flatten(2)))  # (B, T, E)


class ModernBertDecoderMLP(nn.Module):
    """The gated, position-wise half of a layer."""

    def __init__(self, config: ModernBertDecoderConfig):
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.drop = nn.Dropout(config.mlp_dropout)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    # twin: modernbert.ModernBertMLP.forward
    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.Wi(x).chunk(2, dim=-1)  # (B, T, F) each
        return self.Wo(self.drop(self.activation(x) * gate))


class ModernBertDecoderLayer(nn.Module):
    """One layer: attention, then a gated feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: ModernBertDecoderConfig, index: int):
        super().__init__()
        size, eps, bias = config.hidden_size, config.norm_eps, config.norm_bias
        self.attn_norm = nn.Identity() if index == 0 else nn.LayerNorm(size, eps=eps, bias=bias)
        self.attn = ModernBertDecoderAttention(config, index)
        self.mlp_norm = nn.LayerNorm(size, eps=eps, bias=bias)
        self.mlp = ModernBertDecoderMLP(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.attn(self.attn_norm(x), layout, turn, cache)
        return x + self.mlp(self.mlp_norm(x))


class ModernBertDecoderPreTrainedModel(Model):
    """What all classes of this file share."""

    config: ModernBertDecoderConfig
    config_class = ModernBertDecoderConfig
    prefix = "model"
    stack = "layers"

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself, weights from a normal distribution without its tails."""
        super().init_module(module, only)
        deviation, cutoff = self.config.initializer_range, self.config.initializer_cutoff_factor
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 2 and (only is None or name in only):
                nn.init.trunc_normal_(parameter, std=deviation, a=-cutoff * deviation, b=cutoff * deviation)


class ModernBertDecoderModel(ModernBertDecoderPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: ModernBertDecoderConfig):
        super().__init__(config)
        self.embeddings = ModernBertDecoderEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.ropes = {kind: Rope.of(config, config.head_size, kind) for kind in (GLOBAL, LOCAL)}
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
        words = self.embeddings.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        x = self.embeddings(words)  # (B, T, E)
        turns = {kind: rope.turn_halves(layout, position_ids, x.dtype) for kind, rope in self.ropes.items()}
        for kind, layer in zip(self.config.kinds, self.layers, strict=True):
            x = layer(x, layout, turns[kind], cache)
        return Hidden(last_hidden_state=self.final_norm(x))


class ModernBertDecoderPredictionHead(nn.Module):
    """The non-linear step with which every head begins."""

    def __init__(self, config: ModernBertDecoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.activation = ACTIVATIONS[config.classifier_activation]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

    # twin: modernbert.ModernBertPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))


class ModernBertDecoderForCausalLM(ModernBertDecoderPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}

    def __init__(self, config: ModernBertDecoderConfig):
        super().__init__(config)
        self.model = ModernBertDecoderModel(config)
        self.lm_head = ModernBertDecoderPredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
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
        logits = self.decoder(self.lm_head(x[:, -logits_to_keep:]))  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)


class ModernBertDecoderForSequenceClassification(ModernBertDecoderPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: ModernBertDecoderConfig):
        super().__init__(config)
        self.model = ModernBertDecoderModel(config)
        self.head = ModernBertDecoderPredictionHead(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, bias=config.classifier_bias)
        self.drop = nn.Dropout(config.classifier_dropout)
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
        logits = self.classifier(self.drop(self.head(layout.last(x))))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)
