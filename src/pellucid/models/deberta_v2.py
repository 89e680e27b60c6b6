"""DeBERTa-v2 and -v3: an encoder whose attention weighs content and relative position apart.

Papers: He et al., 2020, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", https://arxiv.org/abs/2006.03654
and He et al., 2021, "DeBERTaV3", https://arxiv.org/abs/2111.09543

What sets it apart from BERT:
  - a score is the sum of content to content, content to position and position to content; positions are relative, and
    far ones share logarithmic buckets
  - one table of relative positions serves all layers, optionally through the layers' own content projections
  - absolute positions, token types, a narrower embedding and a convolution beside the first layer are optional
  - the pooled vector belongs to the classifiers, not to the encoder

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, P relative positions, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import math
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
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


class DebertaV2Config(Config):
    """The configuration of DeBERTa-v2 and -v3; the defaults are those of the format, mostly of deberta-v2-xlarge."""

    model_type = "deberta-v2"
    optional = ("type_vocab_size", "conv_kernel_size")
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
    }

    vocab_size: int = 128100
    hidden_size: int = 1536
    embedding_size: int | None = None  # of words and positions before they are projected; None for hidden_size
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    attention_head_size: int | None = None
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-7
    pad_token_id: int | None = 0
    relative_attention: bool = False
    max_relative_positions: int = -1  # less than 1 for max_position_embeddings
    position_buckets: int = -1  # less than 1 for one a distance
    pos_att_type: list[str] | str | None = None  # which of "c2p" and "p2c" scores have; a text separates them by |
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_hidden_size: int | None = None
    pooler_hidden_act: str = "gelu"
    pooler_dropout: float = 0.0
    cls_dropout: float | None = None
    legacy: bool = True  # whether the masked words' head is BERT's; false for the one of DeBERTa's own checkpoints

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        size, heads = self.hidden_size, self.num_attention_heads
        if size % heads:
            yield f"hidden_size ({size}) is not a multiple of num_attention_heads ({heads})"
        for name, only in (("attention_head_size", size // heads), ("pooler_hidden_size", size)):
            if getattr(self, name) not in (None, only):
                yield f"{name} is {getattr(self, name)}; expected {only}, as hidden_size and num_attention_heads imply"
        for name in ("hidden_act", "pooler_hidden_act", "conv_act"):
            if getattr(self, name) not in ACTIVATIONS:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.conv_kernel_size and not self.conv_kernel_size % 2:
            yield f"conv_kernel_size is {self.conv_kernel_size}; expected an odd number, or 0 for none"
        if unknown := position_terms(self) - {"c2p", "p2c"}:
            yield f"pos_att_type has {', '.join(sorted(unknown))}; only c2p and p2c are implemented"
        if self.position_buckets == 1:
            yield "position_buckets is 1; expected at least 2, or -1 for none"


def position_terms(config: DebertaV2Config) -> set[str]:
    """Return which terms with positions the scores have: "c2p" content to position, "p2c" position to content."""
    kinds = config.pos_att_type or []
    return {kind.strip() for kind in (kinds.lower().split("|") if isinstance(kinds, str) else kinds)}


def position_span(config: DebertaV2Config) -> int:
    """Return how many relative positions, or buckets of them, there are to each side."""
    return config.position_buckets if config.position_buckets > 0 else furthest_position(config)


def furthest_position(config: DebertaV2Config) -> int:
    """Return the distance from which on all are alike."""
    return config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings


def classifier_dropout(config: DebertaV2Config) -> float:
    """The dropout before a classifier of texts, which falls back to the encoder's."""
    return config.hidden_dropout_prob if config.cls_dropout is None else config.cls_dropout


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


def log_buckets(distances: Tensor, buckets: int, furthest: int) -> Tensor:
    """Put signed distances into buckets: up to half of them one a distance, then ever wider ones."""
    half = buckets // 2
    far = distances.abs().clamp(min=half)
    end = torch.full_like(far, furthest - 1)  # a tensor, so that the quotient of logarithms is 1 there, not nearly 1
    steps = torch.log(far / half) / torch.log(end / half) * (half - 1)  # 0 at `half`, half - 1 at the end
    return torch.where(distances.abs() <= half, distances, distances.sign() * (half + steps.ceil().long()))


def table_rows(distances: Tensor, scores: Tensor) -> Tensor:
    """Find signed distances in a table of P rows, of which the middle one is 0: (T, T) to (B, H, T, T)."""
    size = scores.shape[-1]
    return (distances + size // 2).clamp(0, size - 1).expand(*scores.shape[:2], -1, -1)


class DebertaV2Embeddings(nn.Module):
    """Word embeddings, with positions and token types where the configuration has them, projected and normalised."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, size) if config.position_biased_input else None
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        self.embed_proj = nn.Linear(size, config.hidden_size, bias=False) if size != config.hidden_size else None
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(positions)
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings(token_types)
        x = x if self.embed_proj is None else self.embed_proj(x)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class DebertaV2SelfAttention(nn.Module):
    """Multi-head attention over content and relative positions, without its output projection."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.buckets, self.furthest = config.position_buckets, furthest_position(config)
        self.terms = position_terms(config)
        self.scale = 1 / math.sqrt(self.head_size * (1 + len(self.terms)))
        self.dropout = config.attention_probs_dropout_prob
        self.query_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.value_proj = nn.Linear(config.hidden_size, config.hidden_size)
        own = config.relative_attention and not config.share_att_key
        self.pos_key_proj = nn.Linear(config.hidden_size, config.hidden_size) if own and "c2p" in self.terms else None
        self.pos_query_proj = nn.Linear(config.hidden_size, config.hidden_size) if own and "p2c" in self.terms else None
        self.pos_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout, positions: Tensor | None) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query_proj, self.key_proj, self.value_proj))
        bias = None
        if positions is not None and self.terms:
            rows = self.pos_dropout(positions)[None]  # (1, P, E)
            pos_q = self.split((self.pos_query_proj or self.query_proj)(rows)) if "p2c" in self.terms else None
            pos_k = self.split((self.pos_key_proj or self.key_proj)(rows)) if "c2p" in self.terms else None
            bias = partial(self.position_scores, pos_q=pos_q, pos_k=pos_k)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, scale=self.scale, bias=bias, dropout=dropout)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)

    def position_scores(self, q: Tensor, k: Tensor, _: Tensor, *, pos_q: Tensor | None, pos_k: Tensor | None) -> Tensor:
        """Score content to position, by `pos_k`, and position to content, by `pos_q`, (1, H, P, D): (B, H, T, T)."""
        places = torch.arange(q.shape[2], device=q.device)
        apart = places[:, None] - places[None, :]  # (T, T)
        if self.buckets > 0:
            apart = log_buckets(apart, self.buckets, self.furthest)
        scores = []
        if pos_k is not None:
            by_query = q * self.scale @ pos_k.transpose(-1, -2)  # (B, H, T, P)
            scores.append(by_query.gather(-1, table_rows(apart, by_query)))
        if pos_q is not None:
            by_key = k * self.scale @ pos_q.transpose(-1, -2)
            scores.append(by_key.gather(-1, table_rows(apart.T, by_key)).transpose(-1, -2))
        return sum(scores[1:], scores[0])


class DebertaV2Residual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: DebertaV2Config, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class DebertaV2Attention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.self = DebertaV2SelfAttention(config)
        self.output = DebertaV2Residual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, positions: Tensor | None) -> Tensor:
        return self.output(self.self(x, layout, positions), residual=x)


class DebertaV2Intermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class DebertaV2Conv(nn.Module):
    """A convolution over the embeddings, beside the first layer; it unpacks, as texts must not run into each other."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        size, kernel, groups = config.hidden_size, config.conv_kernel_size, config.conv_groups
        self.conv = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=groups)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.activation = ACTIVATIONS[config.conv_act]

    def forward(self, x: Tensor, residual: Tensor, layout: Layout) -> Tensor:
        rows, unpacked = layout.unpack(x)
        if unpacked.keep is not None:
            rows = rows * unpacked.keep[..., None]  # padding is as what lies beyond the ends: zero
        x = layout.pack(self.conv(rows.transpose(1, 2)).transpose(1, 2))  # (B, T, E)
        return self.LayerNorm(residual + self.activation(self.dropout(x)))


class DebertaV2Layer(nn.Module):
    """One layer: attention, then a position-wise feed-forward; in the first, the convolution where there is one."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.attention = DebertaV2Attention(config)
        self.intermediate = DebertaV2Intermediate(config)
        self.output = DebertaV2Residual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, positions: Tensor | None, conv: DebertaV2Conv | None) -> Tensor:
        attended = self.attention(x, layout, positions)
        out = self.output(self.intermediate(attended), residual=attended)
        return out if conv is None else conv(x, out, layout)


class DebertaV2Encoder(nn.Module):
    """The stack of layers, with the table of relative positions that they share."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.layer = nn.ModuleList(DebertaV2Layer(config) for _ in range(config.num_hidden_layers))
        relative, normed = config.relative_attention, "layer_norm" in config.norm_rel_ebd.lower()
        self.rel_embeddings = nn.Embedding(2 * position_span(config), config.hidden_size) if relative else None
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if relative and normed else None
        self.conv = DebertaV2Conv(config) if config.conv_kernel_size else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        positions = None
        if self.rel_embeddings is not None:
            span = self.rel_embeddings.num_embeddings // 2
            reach = min(span, max(layout.lengths or x.shape[1:2]))  # texts this short look no further
            positions = self.rel_embeddings.weight[span - reach : span + reach]  # (P, E)
            positions = positions if self.LayerNorm is None else self.LayerNorm(positions)
        for i, layer in enumerate(self.layer):
            x = layer(x, layout, positions, self.conv if i == 0 else None)
        return x


class DebertaV2PreTrainedModel(Model):
    """What all classes of this file share."""

    config: DebertaV2Config
    config_class = DebertaV2Config
    prefix = "deberta"
    stack = "encoder.layer"
    unread = ("position_ids", "embeddings.position_embeddings.weight")  # of a pre-training step that ends in no head


class DebertaV2Model(DebertaV2PreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.embeddings = DebertaV2Embeddings(config)
        self.encoder = DebertaV2Encoder(config)
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
            input_ids: token ids, (B, T); with `config.position_biased_input` T is at most `max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), which text of a pair a token is of; None for all 0. Without effect where
                `config.type_vocab_size` is 0.
            position_ids: (B, T); None to count from each text's first real token. For absolute positions only.
            inputs_embeds: word embeddings, (B, T, E), or as narrow as `config.embedding_size`, instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        return Hidden(
            last_hidden_state=self.encoder(self.embeddings(words, token_types, positions), layout)
        )  # (B, T, E)


class DebertaV2PredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores, to the size of the word embeddings."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.dense = nn.Linear(config.hidden_size, size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class DebertaV2LMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.transform = DebertaV2PredictionHeadTransform(config)
        self.decoder = nn.Linear(config.embedding_size or config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class DebertaV2OwnLMHead(nn.Module):
    """Scores over the vocabulary as in DeBERTa's own checkpoints, where the word embeddings have no second name."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.LayerNorm(self.activation(self.dense(x))), words, self.bias)


class DebertaV2ForMaskedLM(DebertaV2PreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones.

    The checkpoints of the paper's authors hold the head of `config.legacy` false, without saying so in config.json.
    """

    tied = {
        "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        if config.legacy:
            self.cls = nn.ModuleDict({"predictions": DebertaV2LMPredictionHead(config)})
        else:
            self.lm_predictions = nn.ModuleDict({"lm_head": DebertaV2OwnLMHead(config)})
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
        x = self.deberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        if self.config.legacy:
            logits = self.cls["predictions"](x)  # (B, T, V)
        else:
            logits = self.lm_predictions["lm_head"](x, self.deberta.embeddings.word_embeddings.weight)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class DebertaV2Pooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: DebertaV2Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.pooler_dropout)
        self.activation = ACTIVATIONS[config.pooler_hidden_act]

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.activation(self.dense(self.dropout(layout.first(x))))  # (B, E)


class DebertaV2ForSequenceClassification(DebertaV2PreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.pooler = DebertaV2Pooler(config)
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
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.deberta(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(self.pooler(x, layout)))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class DebertaV2ForMultipleChoice(DebertaV2PreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.pooler = DebertaV2Pooler(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
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
        """Score choices: (B, C) for (B, C, T) ids, (1, C) for (C, T) or packed ones; `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        questions = tokens.shape[0] if nested else 1
        if nested:
            tokens, attention_mask = flatten_choices(tokens), flatten_choices(attention_mask)
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            token_type_ids, position_ids = flatten_choices(token_type_ids), flatten_choices(position_ids)
        layout = Layout.of(tokens, attention_mask)
        x = self.deberta(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(self.pooler(x, layout))).view(questions, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class DebertaV2ForTokenClassification(DebertaV2PreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
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
        x = self.deberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class DebertaV2ForQuestionAnswering(DebertaV2PreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; both positions are (B,), beyond T where there is no answer."""
        x = self.deberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
