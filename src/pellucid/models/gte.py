"""GTE: BERT with rotary positions and gated feed-forwards, for embeddings of long texts.

Paper: Zhang et al., 2024, "mGTE: Generalized Long-Context Text Representation and Reranking Models for Multilingual
Text Retrieval", https://arxiv.org/abs/2407.19669

What sets it apart from BERT:
  - no learned positions: queries and keys are rotated by their place, more slowly in models made for longer texts than
    most of their training had
  - queries, keys and values come out of one projection, and both factors of the gated feed-forward out of another
  - token types are optional

Its authors' checkpoints call it "new"; that is the same but for the prefix of names.

Shapes: B batch, T tokens, E hidden, F feed-forward, H heads, D head size, V vocabulary, L labels. A packed batch is
(1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits

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


class GteConfig(Config):
    """The configuration of GTE; the defaults are those of gte-multilingual-base.

    How queries and keys are rotated stands in `rope_theta` and `rope_scaling`, or, in newer files, in
    `rope_parameters`, which wins. Ask `theta` and `stretch`.
    """

    model_type = "gte"
    optional = ("type_vocab_size",)
    inert = {
        "position_embedding_type": "rope",
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
        "logn_attention_clip1": False,
        "pack_qkv": True,
    }

    vocab_size: int = 250048
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 8192
    type_vocab_size: int = 1  # 0 for no token types
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 1
    classifier_dropout: float | None = None
    rope_theta: float = 160000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None

    @property
    def theta(self) -> float:
        """The base of the rotations, before they are slowed down."""
        return (self.rope_parameters or {}).get("rope_theta") or self.rope_theta

    @property
    def stretch(self) -> float:
        """The factor, at least 1, by which texts are longer than those for which `theta` was chosen."""
        return (self.rope_parameters or self.rope_scaling or {}).get("factor") or 1.0

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        size, heads = self.hidden_size, self.num_attention_heads
        if size % (2 * heads):
            yield f"hidden_size ({size}) is not a multiple of twice num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        for name in ("rope_parameters", "rope_scaling"):
            rope = getattr(self, name) or {}
            kind = rope.get("rope_type", rope.get("type", "default"))
            known = {"rope_type", "type", "rope_theta", "factor"}
            if kind not in ("default", "ntk") or ("factor" in rope) != (kind == "ntk") or set(rope) - known:
                yield f"{name} is {shorten(rope)}; only the types 'default' and 'ntk', with a factor, are implemented"
        if self.theta <= 0 or self.stretch < 1:
            yield f"rope_theta is {self.theta}, the factor {self.stretch}; expected more than 0, and at least 1"


def classifier_dropout(config: GteConfig) -> float:
    """The dropout before a classifier, which falls back to the encoder's."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


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


def rotations(positions: Tensor, size: int, theta: float, stretch: float) -> Tensor:
    """The angles by which the pairs of a head's dimensions are turned at each position, (B, T) to (B, 1, T, D / 2)."""
    powers = torch.arange(0, size, 2, device=positions.device) / size  # (D / 2,)
    speeds = (theta * stretch) ** -powers / stretch ** (2 / size)  # "NTK-aware": the slowest are slowed down the most
    return positions[:, None, :, None] * speeds


# twin: modernbert.rotate
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class GteEmbeddings(nn.Module):
    """Word and token-type embeddings, summed and normalised."""

    def __init__(self, config: GteConfig):
        super().__init__()
        size, kinds = config.hidden_size, config.type_vocab_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(kinds, size) if kinds else None
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, token_types: Tensor) -> Tensor:
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings(token_types)
        return self.dropout(self.LayerNorm(x))  # (B, T, E)


class GteAttention(nn.Module):
    """Multi-head attention with rotated queries and keys, and its output projection."""

    def __init__(self, config: GteConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        x = attend(rotate(q, angles), rotate(k, angles), v, layout, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class GteGatedMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: GteConfig):
        super().__init__()
        self.up_gate_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.up_gate_proj(x).chunk(2, dim=-1)  # (B, T, F) each
        return self.down_proj(self.dropout(up * self.activation(gate)))


class GteLayer(nn.Module):
    """One layer: attention, then feed-forward, each with its residual sum and norm."""

    def __init__(self, config: GteConfig):
        super().__init__()
        self.attention = GteAttention(config)
        self.attn_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = GteGatedMLP(config)
        self.mlp_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        x = self.attn_ln(x + self.dropout(self.attention(x, layout, angles)))
        return self.mlp_ln(x + self.dropout(self.mlp(x)))


class GteEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: GteConfig):
        super().__init__()
        self.layer = nn.ModuleList(GteLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, angles)
        return x


class GtePooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: GteConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class GtePreTrainedModel(Model):
    """What all classes of this file share."""

    config: GteConfig
    config_class = GteConfig
    prefix = "gte"
    stack = "encoder.layer"
    optional = ("pooler",)  # only classifiers of texts have one


class GteModel(GtePreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: GteConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = GteEmbeddings(config)
        self.encoder = GteEncoder(config)
        self.pooler = GtePooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0. Without
                effect where `config.type_vocab_size` is 0.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        size = self.config.hidden_size // self.config.num_attention_heads
        angles = rotations(positions, size, self.config.theta, self.config.stretch)
        x = self.encoder(self.embeddings(words, token_types), layout, angles)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class GteLMHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: GteConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(self.activation(self.dense(x))))


class GteForMaskedLM(GtePreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"lm_head.decoder.weight": "gte.embeddings.word_embeddings.weight"}

    def __init__(self, config: GteConfig):
        super().__init__(config)
        self.add_module(self.prefix, GteModel(config, add_pooling_layer=False))
        self.lm_head = GteLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.base_model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class GteForSequenceClassification(GtePreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: GteConfig):
        super().__init__(config)
        self.add_module(self.prefix, GteModel(config))
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        pooled = self.base_model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class GteForTokenClassification(GtePreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: GteConfig):
        super().__init__(config)
        self.add_module(self.prefix, GteModel(config, add_pooling_layer=False))
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.base_model(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(
            loss=None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits
        )


class NewConfig(GteConfig):
    """The configuration of GTE under its authors' name."""

    model_type = "new"

    rope_theta: float = 10000.0


class NewModel(GteModel):
    """The encoder without a task head."""

    config_class = NewConfig
    prefix = "new"


class NewForMaskedLM(GteForMaskedLM):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    config_class = NewConfig
    prefix = "new"
    tied = {"lm_head.decoder.weight": "new.embeddings.word_embeddings.weight"}


class NewForSequenceClassification(GteForSequenceClassification):
    """Labels a whole text, from its pooled vector."""

    config_class = NewConfig
    prefix = "new"


class NewForTokenClassification(GteForTokenClassification):
    """Labels every token, for example as part of a name."""

    config_class = NewConfig
    prefix = "new"
