"""DeBERTa: an encoder whose attention weighs content and relative position apart.

Paper: He et al., 2020, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", https://arxiv.org/abs/2006.03654

What sets it apart from BERT:
  - a score is the sum of content to content, content to position and position to content; positions are relative
  - one table of relative positions serves all layers, each through projections of its own
  - queries, keys and values come out of one projection, head by head, and keys have no bias
  - absolute positions, token types and a narrower embedding are optional
  - the pooled vector belongs to the classifiers, not to the encoder

Shapes: B batch, T tokens, E hidden, H heads, D head size, P relative positions, V vocabulary, L labels. A packed batch
is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Spans

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


class DebertaConfig(Config):
    """The configuration of DeBERTa; the defaults are those of the format, mostly of deberta-base."""

    model_type = "deberta"
    optional = ("type_vocab_size",)
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "talking_head": False,
    }

    vocab_size: int = 50265
    hidden_size: int = 768
    embedding_size: int | None = None  # of words and positions before they are projected; None for hidden_size
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
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
    pos_att_type: list[str] | str | None = None  # which of "c2p" and "p2c" scores have; a text separates them by |
    position_biased_input: bool = True
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
        if self.pooler_hidden_size not in (None, size):
            yield f"pooler_hidden_size is {self.pooler_hidden_size}; expected hidden_size, {size}"
        for name in ("hidden_act", "pooler_hidden_act"):
            if getattr(self, name) not in ACTIVATIONS:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(ACTIVATIONS)}"
        if unknown := position_terms(self) - {"c2p", "p2c"}:
            yield f"pos_att_type has {', '.join(sorted(unknown))}; only c2p and p2c are implemented"


def position_terms(config: DebertaConfig) -> set[str]:
    """Return which terms with positions the scores have: "c2p" content to position, "p2c" position to content."""
    kinds = config.pos_att_type or []
    return {kind.strip() for kind in (kinds.lower().split("|") if isinstance(kinds, str) else kinds)}


def position_span(config: DebertaConfig) -> int:
    """Return the distance to each side from which on all are alike."""
    return config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings


def classifier_dropout(config: DebertaConfig) -> float:
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


# twin: deberta_v2.table_rows
def table_rows(distances: Tensor, scores: Tensor) -> Tensor:
    """Find signed distances in a table of P rows, of which the middle one is 0: (T, T) to (B, H, T, T)."""
    size = scores.shape[-1]
    return (distances + size // 2).clamp(0, size - 1).expand(*scores.shape[:2], -1, -1)


class DebertaEmbeddings(nn.Module):
    """Word embeddings, with positions and token types where the configuration has them, projected and normalised."""

    def __init__(self, config: DebertaConfig):
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


class DebertaSelfAttention(nn.Module):
    """Multi-head attention over content and relative positions, without its output projection."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.terms = position_terms(config)
        self.scale = 1 / math.sqrt(self.head_size * (1 + len(self.terms)))
        self.dropout = config.attention_probs_dropout_prob
        size, relative = config.hidden_size, config.relative_attention
        self.in_proj = nn.Linear(size, 3 * size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(size))
        self.v_bias = nn.Parameter(torch.zeros(size))
        self.pos_proj = nn.Linear(size, size, bias=False) if relative and "c2p" in self.terms else None
        self.pos_q_proj = nn.Linear(size, size) if relative and "p2c" in self.terms else None
        self.pos_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout, positions: Tensor | None) -> Tensor:
        q, k, v = self.split(self.in_proj(x)).chunk(3, dim=-1)  # (B, H, T, D) each
        q, v = q + self.split(self.q_bias[None, None]), v + self.split(self.v_bias[None, None])
        bias = None
        if positions is not None and self.terms:
            rows = self.pos_dropout(positions)[None]  # (1, P, E)
            pos_q = None if self.pos_q_proj is None else self.split(self.pos_q_proj(rows))
            pos_k = None if self.pos_proj is None else self.split(self.pos_proj(rows))
            bias = partial(self.position_scores, pos_q=pos_q, pos_k=pos_k)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, scale=self.scale, bias=bias, dropout=dropout)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D)

    def position_scores(self, q: Tensor, k: Tensor, _: Tensor, *, pos_q: Tensor | None, pos_k: Tensor | None) -> Tensor:
        """Score content to position, by `pos_k`, and position to content, by `pos_q`, (1, H, P, D): (B, H, T, T)."""
        places = torch.arange(q.shape[2], device=q.device)
        apart = places[:, None] - places[None, :]  # (T, T)
        scores = []
        if pos_k is not None:
            by_query = q * self.scale @ pos_k.transpose(-1, -2)  # (B, H, T, P)
            scores.append(by_query.gather(-1, table_rows(apart, by_query)))
        if pos_q is not None:
            by_key = k * self.scale @ pos_q.transpose(-1, -2)
            scores.append(by_key.gather(-1, table_rows(apart.T, by_key)).transpose(-1, -2))
        return sum(scores[1:], scores[0])


class DebertaResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: DebertaConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class DebertaAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.self = DebertaSelfAttention(config)
        self.output = DebertaResidual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, positions: Tensor | None) -> Tensor:
        return self.output(self.self(x, layout, positions), residual=x)


class DebertaIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class DebertaLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.attention = DebertaAttention(config)
        self.intermediate = DebertaIntermediate(config)
        self.output = DebertaResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, positions: Tensor | None) -> Tensor:
        x = self.attention(x, layout, positions)
        return self.output(self.intermediate(x), residual=x)


class DebertaEncoder(nn.Module):
    """The stack of layers, with the table of relative positions that they share."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.layer = nn.ModuleList(DebertaLayer(config) for _ in range(config.num_hidden_layers))
        relative = config.relative_attention
        self.rel_embeddings = nn.Embedding(2 * position_span(config), config.hidden_size) if relative else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        positions = None
        if self.rel_embeddings is not None:
            span = self.rel_embeddings.num_embeddings // 2
            reach = min(span, max(layout.lengths or x.shape[1:2]))  # texts this short look no further
            positions = self.rel_embeddings.weight[span - reach : span + reach]  # (P, E)
        for layer in self.layer:
            x = layer(x, layout, positions)
        return x


class DebertaPreTrainedModel(Model):
    """What all classes of this file share."""

    config: DebertaConfig
    config_class = DebertaConfig
    prefix = "deberta"
    stack = "encoder.layer"
    unread = ("position_ids", "embeddings.position_embeddings.weight")  # of a pre-training step that ends in no head


class DebertaModel(DebertaPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: DebertaConfig):
        super().__init__(config)
        self.embeddings = DebertaEmbeddings(config)
        self.encoder = DebertaEncoder(config)
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


class DebertaPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores, to the size of the word embeddings."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.dense = nn.Linear(config.hidden_size, size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class DebertaLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.transform = DebertaPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.embedding_size or config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class DebertaOwnLMHead(nn.Module):
    """Scores over the vocabulary as in DeBERTa's own checkpoints, where the word embeddings have no second name."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.LayerNorm(self.activation(self.dense(x))), words, self.bias)


class DebertaForMaskedLM(DebertaPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones.

    The checkpoints of the paper's authors hold the head of `config.legacy` false, without saying so in config.json.
    """

    tied = {
        "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: DebertaConfig):
        super().__init__(config)
        self.deberta = DebertaModel(config)
        if config.legacy:
            self.cls = nn.ModuleDict({"predictions": DebertaLMPredictionHead(config)})
        else:
            self.lm_predictions = nn.ModuleDict({"lm_head": DebertaOwnLMHead(config)})
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


class DebertaPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: DebertaConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.pooler_dropout)
        self.activation = ACTIVATIONS[config.pooler_hidden_act]

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.activation(self.dense(self.dropout(layout.first(x))))  # (B, E)


class DebertaForSequenceClassification(DebertaPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: DebertaConfig):
        super().__init__(config)
        self.deberta = DebertaModel(config)
        self.pooler = DebertaPooler(config)
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


class DebertaForTokenClassification(DebertaPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: DebertaConfig):
        super().__init__(config)
        self.deberta = DebertaModel(config)
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


class DebertaForQuestionAnswering(DebertaPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: DebertaConfig):
        super().__init__(config)
        self.deberta = DebertaModel(config)
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
