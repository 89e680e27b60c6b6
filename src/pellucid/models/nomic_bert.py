"""NomicBERT: BERT with rotary positions, gated feed-forwards and hardly any biases, for long texts.

Paper: Nussbaum et al., 2024, "Nomic Embed: Training a Reproducible Long Context Text Embedder",
https://arxiv.org/abs/2402.01613

What sets it apart from BERT:
  - no learned positions: queries and keys are rotated by their place; if the configuration says so, more slowly in
    texts longer than those of the training
  - queries, keys and values come out of one projection; neither it nor the feed-forward has biases
  - feed-forwards multiply two projections, one of them through SiLU
  - the norms of a layer are numbered, and the one of the embeddings stands beside them
  - GPT-2's names of sizes in config.json

Shapes: B batch, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N) tokens with
a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits

GATES = {
    "silu": F.silu,
    "swiglu": F.silu,  # the name in config.json of 2024
    "gelu": F.gelu,
    "geglu": F.gelu,
}


class NomicBertConfig(Config):
    """The configuration of NomicBERT; the defaults are those of nomic-embed-text-v1.5.

    How queries and keys are rotated stands in `rope_theta` and `rotary_scaling_factor`, or, in newer files, in
    `rope_parameters`, which win. Ask `theta` and `stretch`.
    """

    model_type = "nomic_bert"
    inert = {
        "position_embedding_type": "rope",
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "causal": False,
        "prenorm": False,
        "use_rms_norm": False,
        "parallel_block": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "num_experts": 0,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    }
    aliases = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
        "layer_norm_epsilon": "layer_norm_eps",
        "max_trained_positions": "max_position_embeddings",
        "rotary_emb_base": "rope_theta",
    }

    vocab_size: int = 30528
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int | None = None
    intermediate_size: int = 3072
    hidden_act: str = "silu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 2048  # of the texts in training
    n_positions: int | None = None  # of those that may be read; None for as many as in training
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    rope_theta: float = 1000.0
    rotary_scaling_factor: float | None = None
    rope_parameters: dict[str, Any] | None = None

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model reads at once."""
        return self.n_positions or self.max_position_embeddings

    @property
    def theta(self) -> float:
        """The base of the rotations."""
        return (self.rope_parameters or {}).get("rope_theta") or self.rope_theta

    @property
    def stretch(self) -> float | None:
        """How much longer than in training texts are that the rotations are slowed down for; None for no slowing."""
        return (self.rope_parameters or {}).get("factor") or self.rotary_scaling_factor

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        size, heads = self.hidden_size, self.num_attention_heads
        if size % (2 * heads):
            yield f"hidden_size ({size}) is not a multiple of twice num_attention_heads ({heads})"
        if self.head_dim not in (None, size // heads):
            yield f"head_dim is {self.head_dim}; expected {size // heads}, hidden_size / num_attention_heads"
        if self.hidden_act not in GATES:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(GATES)}"
        if self.type_vocab_size < 1:
            yield f"type_vocab_size is {self.type_vocab_size}; expected at least 1"
        rope = self.rope_parameters or {}
        kind, known = rope.get("rope_type", "default"), {"rope_type", "rope_theta", "factor"}
        if kind not in ("default", "dynamic") or ("factor" in rope) != (kind == "dynamic") or set(rope) - known:
            yield f"rope_parameters is {shorten(rope)}; only the types 'default' and 'dynamic' are implemented"
        if self.theta <= 0 or (self.stretch is not None and self.stretch < 1):
            yield f"rope_theta is {self.theta}, the factor {self.stretch}; expected more than 0, and at least 1"


def classifier_dropout(config: NomicBertConfig) -> float:
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


def rotations(layout: Layout, positions: Tensor, config: NomicBertConfig) -> Tensor:
    """The angles by which the pairs of a head's dimensions are turned at each position, (B, T) to (B, 1, T, D / 2)."""
    size, trained, stretch = (
        config.hidden_size // config.num_attention_heads,
        config.max_position_embeddings,
        config.stretch,
    )
    theta = torch.full_like(positions, config.theta, dtype=torch.float32)  # of each token's text, (B, T)
    if stretch is not None:
        lengths = layout.spread(layout.sum(torch.ones_like(theta)))
        beyond = (stretch * lengths / trained - (stretch - 1)).clamp(min=1.0)
        theta = theta * beyond ** (size / (size - 2))
    speeds = theta[..., None] ** -(torch.arange(0, size, 2, device=positions.device) / size)  # (B, T, D / 2)
    return (positions[..., None] * speeds)[:, None]


# twin: modernbert.rotate
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class NomicBertEmbeddings(nn.Module):
    """Word and token-type embeddings, summed."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, words: Tensor, token_types: Tensor) -> Tensor:
        return words + self.token_type_embeddings(token_types)  # (B, T, E)


class NomicBertAttention(nn.Module):
    """Multi-head attention with rotated queries and keys, and its output projection."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        x = attend(rotate(q, angles), rotate(k, angles), v, layout, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class NomicBertGatedMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.fc11 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc12 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = GATES[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc11(x) * self.activation(self.fc12(x)))


class NomicBertLayer(nn.Module):
    """One layer: attention, then feed-forward, each with its residual sum and norm."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.attn = NomicBertAttention(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = NomicBertGatedMLP(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attn(x, layout, angles)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class NomicBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.layers = nn.ModuleList(NomicBertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, layout, angles)
        return x


class NomicBertPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class NomicBertPreTrainedModel(Model):
    """What all classes of this file share."""

    config: NomicBertConfig
    config_class = NomicBertConfig
    prefix = "nomic_bert"
    stack = "encoder.layers"
    optional = ("pooler",)  # only classifiers of texts have one


class NomicBertModel(NomicBertPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: NomicBertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = NomicBertEmbeddings(config)
        self.emb_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.emb_drop = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = NomicBertEncoder(config)
        self.pooler = NomicBertPooler(config) if add_pooling_layer else None
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
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.emb_drop(self.emb_ln(self.embeddings(words, token_types)))  # (B, T, E)
        x = self.encoder(x, layout, rotations(layout, positions, self.config))
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class NomicBertPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = GATES[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(self.activation(self.dense(x)))


class NomicBertLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.transform = NomicBertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class NomicBertOnlyMLMHead(nn.Module):
    """The head of the masked words."""

    def __init__(self, config: NomicBertConfig):
        super().__init__()
        self.predictions = NomicBertLMPredictionHead(config)


class NomicBertForMaskedLM(NomicBertPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {
        "cls.predictions.decoder.weight": "nomic_bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: NomicBertConfig):
        super().__init__(config)
        self.nomic_bert = NomicBertModel(config, add_pooling_layer=False)
        self.cls = NomicBertOnlyMLMHead(config)
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
        x = self.nomic_bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class NomicBertForSequenceClassification(NomicBertPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: NomicBertConfig):
        super().__init__(config)
        self.nomic_bert = NomicBertModel(config)
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
        pooled = self.nomic_bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class NomicBertForTokenClassification(NomicBertPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: NomicBertConfig):
        super().__init__(config)
        self.nomic_bert = NomicBertModel(config, add_pooling_layer=False)
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
        x = self.nomic_bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(
            loss=None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits
        )
