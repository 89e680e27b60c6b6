"""ModernBERT: a pre-norm encoder with rotary positions, gated feed-forwards, and windows in two layers of three.

Paper: Warner et al., 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient,
and Long Context Finetuning and Inference", https://arxiv.org/abs/2412.13663

What sets it apart from BERT:
  - norms before each sub-layer, and once more at the end; the first layer's attention has none
  - no learned positions: queries and keys are rotated by their place
  - every third layer looks at the whole text, the others 64 tokens to each side and with faster rotations
  - feed-forwards multiply two halves, one of them through GELU; hardly any biases
  - no token types, no pooler; every head begins with the same non-linear step

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, F feed-forward, V vocabulary, L labels. A packed
batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Spans

Given = TypeVar("Given", Tensor, Tensor | None, Tensor | Layout | None)

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


class ModernBertConfig(Config):
    """The configuration of ModernBERT; the defaults are those of ModernBERT-base.

    Which layers are global, and how fast the two kinds rotate, stands in `global_attn_every_n_layers` and
    `*_rope_theta`, or, in newer files, in `layer_types` and `rope_parameters`, which win. Ask `is_global` and `theta`.
    """

    model_type = "modernbert"
    inert = {
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
        "sparse_prediction": False,
    }
    aliases = {"hidden_act": "hidden_activation"}

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
    local_rope_theta: float | None = 10000.0  # None: the global one
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None
    local_attention: int = 128  # tokens that a local layer looks at, half of them to each side
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    layer_norm_eps: float = 1e-5  # in every file but without effect, as the next: norm_eps counts
    position_embedding_type: str | None = "absolute"
    pad_token_id: int | None = 50283
    bos_token_id: int | None = 50281
    eos_token_id: int | list[int] | None = 50282

    def is_global(self, layer: int) -> bool:
        """Tell whether a layer looks at the whole text."""
        if self.layer_types is not None:
            return self.layer_types[layer] == GLOBAL
        return layer % self.global_attn_every_n_layers == 0

    def theta(self, *, is_global: bool) -> float:
        """The base of the rotations of one kind of layers."""
        given = (self.rope_parameters or {}).get(GLOBAL if is_global else LOCAL) or {}
        default = self.global_rope_theta if is_global or self.local_rope_theta is None else self.local_rope_theta
        return given.get("rope_theta") or default

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % (2 * self.num_attention_heads):
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of twice num_attention_heads ({heads})"
        for name in ("hidden_activation", "classifier_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.classifier_pooling not in ("cls", "mean"):
            yield f"classifier_pooling is {self.classifier_pooling!r}; expected 'cls' or 'mean'"
        for name in ("global_attn_every_n_layers", "local_attention"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; expected at least 1"
        kinds = self.layer_types
        if kinds is not None and (len(kinds) != self.num_hidden_layers or set(kinds) - {GLOBAL, LOCAL}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} times {GLOBAL!r} or {LOCAL!r}"
        for kind, rope in (self.rope_parameters or {}).items():
            if kind not in (GLOBAL, LOCAL) or not isinstance(rope, dict):
                entry = f"{shorten(kind)}: {shorten(rope)}"
                yield f"rope_parameters has the entry {entry}; expected objects for {GLOBAL!r} and {LOCAL!r}"
            elif rope.get("rope_type", "default") != "default":
                yield f"rope_parameters asks for {shorten(rope['rope_type'])}; only 'default' is implemented"
            elif not isinstance(rope.get("rope_theta", 1.0), int | float | None):
                yield f"rope_theta is {shorten(rope['rope_theta'])}; expected a number"


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


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


# twin: bert.flatten_choices
def flatten_choices(x: Given) -> Given:
    """(B, C, T, ...) to (B * C, T, ...): each choice a text of its own. What is no tensor stays."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else x


def rotations(positions: Tensor, size: int, theta: float) -> Tensor:
    """The angles by which the pairs of a head's dimensions are turned at each position, (B, T) to (B, 1, T, D / 2)."""
    speeds = theta ** -(torch.arange(0, size, 2, device=positions.device) / size)  # (D / 2,)
    return positions[:, None, :, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class ModernBertEmbeddings(nn.Module):
    """Word embeddings, normalised."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.drop = nn.Dropout(config.embedding_dropout)

    def forward(self, words: Tensor) -> Tensor:
        return self.drop(self.norm(words))


class ModernBertAttention(nn.Module):
    """Multi-head attention over the whole text, or over a window of it."""

    def __init__(self, config: ModernBertConfig, layer: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.head_size = size // config.num_attention_heads
        self.window = None if config.is_global(layer) else config.local_attention // 2
        self.dropout = config.attention_dropout
        self.Wqkv = nn.Linear(size, 3 * size, bias=bias)
        self.Wo = nn.Linear(size, size, bias=bias)
        self.out_drop = nn.Dropout(config.attention_dropout)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        q, k, v = self.Wqkv(x).unflatten(-1, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        dropout = self.dropout if self.training else 0.0
        x = attend(rotate(q, angles), rotate(k, angles), v, layout, window=self.window, dropout=dropout)
        return self.out_drop(self.Wo(x.transpose(1, 2).flatten(2)))  # (B, T, E)


class ModernBertMLP(nn.Module):
    """The gated, position-wise half of a layer."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.drop = nn.Dropout(config.mlp_dropout)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.Wi(x).chunk(2, dim=-1)  # (B, T, F) each
        return self.Wo(self.drop(self.activation(x) * gate))


class ModernBertEncoderLayer(nn.Module):
    """One layer: attention, then a gated feed-forward, each after a norm."""

    def __init__(self, config: ModernBertConfig, layer: int):
        super().__init__()
        size, eps, bias = config.hidden_size, config.norm_eps, config.norm_bias
        self.attn_norm = nn.Identity() if layer == 0 else nn.LayerNorm(size, eps=eps, bias=bias)
        self.attn = ModernBertAttention(config, layer)
        self.mlp_norm = nn.LayerNorm(size, eps=eps, bias=bias)
        self.mlp = ModernBertMLP(config)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), layout, angles)
        return x + self.mlp(self.mlp_norm(x))


class ModernBertPreTrainedModel(Model):
    """What all classes of this file share."""

    config: ModernBertConfig
    config_class = ModernBertConfig
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


class ModernBertModel(ModernBertPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertEncoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T). Texts of more than `config.max_position_embeddings` tokens are computed too,
                but none was seen in training.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        config = self.config
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        positions = layout.positions if position_ids is None else position_ids
        size = config.hidden_size // config.num_attention_heads
        angles = {kind: rotations(positions, size, config.theta(is_global=kind)) for kind in (True, False)}
        x = self.embeddings(words)  # (B, T, E)
        for i, layer in enumerate(self.layers):
            x = layer(x, layout, angles[config.is_global(i)])
        return Hidden(last_hidden_state=self.final_norm(x))


class ModernBertPredictionHead(nn.Module):
    """The non-linear step with which every head begins."""

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.activation = ACTIVATIONS[config.classifier_activation]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))


def pool(x: Tensor, layout: Layout, how: str) -> Tensor:
    """One vector a text, (B, E): its first token's ("cls") or the mean of all its real tokens'."""
    return layout.first(x) if how == "cls" else layout.mean(x)


class ModernBertForMaskedLM(ModernBertPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.model = ModernBertModel(config)
        self.head = ModernBertPredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.decoder(self.head(x))  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class ModernBertForSequenceClassification(ModernBertPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.model = ModernBertModel(config)
        self.head = ModernBertPredictionHead(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels.

        `labels`: (B,) ids, (B, L) of 0 and 1 for several at once, or (B,) or (B, L) targets to regress.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.model(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        pooled = self.head(pool(x, layout, self.config.classifier_pooling))  # (B, E)
        logits = self.classifier(self.drop(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class ModernBertForMultipleChoice(ModernBertPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.model = ModernBertModel(config)
        self.head = ModernBertPredictionHead(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices: (B, C, T) inputs give (B, C) logits, (C, T) or packed ones (1, C).

        `labels`: (B,), the right choices.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        questions = tokens.shape[0] if nested else 1
        if nested:
            tokens, attention_mask = flatten_choices(tokens), flatten_choices(attention_mask)
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            position_ids = flatten_choices(position_ids)
        layout = Layout.of(tokens, attention_mask)
        x = self.model(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        pooled = self.head(pool(x, layout, self.config.classifier_pooling))
        logits = self.classifier(self.drop(pooled)).view(questions, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class ModernBertForTokenClassification(ModernBertPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.model = ModernBertModel(config)
        self.head = ModernBertPredictionHead(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.drop(self.head(x)))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class ModernBertForQuestionAnswering(ModernBertPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.model = ModernBertModel(config)
        self.head = ModernBertPredictionHead(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end.

        `start_positions`, `end_positions`: (B,), beyond T where there is no answer.
        """
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = self.classifier(self.drop(self.head(x))).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
