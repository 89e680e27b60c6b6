"""LUKE: RoBERTa's encoder that reads, beside the words of a text, the entities that it names.

Paper: Yamada et al., 2020, "LUKE: Deep Contextualized Entity Representations with Entity-aware Self-attention",
https://arxiv.org/abs/2010.01057

What sets it apart from RoBERTa:
  - an entity is a token of its own, from a vocabulary of entities, that stands at all the words that name it
  - words and entities look at each other, with queries of their own for each of the four pairs of kinds
  - whole texts are labelled from the pooled first token, and entities from their own vectors
  - the decoder of the vocabulary scores is not tied to the word embeddings; that of the entity scores is to theirs

Entities are optional. They need texts in rows: a packed batch has words alone.

Shapes: B batch, C choices, T tokens, N entities of a text, M words of an entity, E hidden, H heads, D head size,
V vocabulary, U vocabulary of entities, L labels. A packed batch is (1, T) tokens with a layout; what is one row a text,
(B, ...), is then one row a packed text.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, ModelOutput, Spans

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


class LukeConfig(Config):
    """The configuration of LUKE; the defaults are what a missing key of config.json means."""

    model_type = "luke"
    inert = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 50267
    entity_vocab_size: int = 500000
    hidden_size: int = 768
    entity_emb_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    use_entity_aware_attention: bool = True
    classifier_dropout: float | None = None
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    @property
    def first_position(self) -> int:
        """The row of the position table for a text's first token."""
        return (self.pad_token_id or 0) + 1

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model reads at once."""
        return self.max_position_embeddings - self.first_position

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.pad_token_id is None:
            yield "pad_token_id is null; expected an id, since positions begin after it"
        if self.max_tokens < 1:
            rows, pad = self.max_position_embeddings, self.pad_token_id
            yield f"max_position_embeddings ({rows}) leaves no position after pad_token_id ({pad})"


@dataclass(kw_only=True)
class LukeHidden(Hidden):
    """What the encoder returns.

    Attributes:
        entity_last_hidden_state: (B, N, E); absent when no entities were given.
    """

    entity_last_hidden_state: Tensor | None = None


@dataclass(kw_only=True)
class LukeMaskedLM(ModelOutput):
    """Scores of masked words and masked entities.

    Attributes:
        loss: the sum of the two losses below, a scalar.
        mlm_loss: of the words; present when `labels` were given.
        mep_loss: of the entities; present when `entity_labels` were given.
        logits: (B, T, V).
        entity_logits: (B, N, U); absent when no entities were given.
    """

    loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    mep_loss: Tensor | None = None
    logits: Tensor
    entity_logits: Tensor | None = None


def classifier_dropout(config: LukeConfig) -> float:
    """The dropout before a classifier of words, which falls back to the encoder's."""
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


def entity_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of one label for each row of (..., L) scores, (...), or of several, (..., L) of 0 and 1."""
    if labels.dim() == logits.dim():
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


# twin: bert.flatten_choices
def flatten_choices(x: Given) -> Given:
    """(B, C, T, ...) to (B * C, T, ...): each choice a text of its own. What is no tensor stays."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else x


def read_together(words: Layout, entities: Layout) -> Layout:
    """Say what is padding when the entities of each text follow its words, (B, T + N)."""
    parts = words.positions, entities.positions
    if words.lengths is not None or len(parts[0]) != len(parts[1]):
        found = "a packed batch" if words.lengths is not None else f"{len(parts[0])} texts"
        raise InputError(f"entity_ids has {len(parts[1])} rows, for {found}; expected texts in rows, and one for each.")
    mask = torch.cat([torch.ones_like(x.positions) if x.keep is None else x.keep.long() for x in (words, entities)], 1)
    return Layout.of(mask, mask)


def first_entities(x: Tensor, mask: Tensor | Layout | None, count: int) -> Tensor:
    """Join the first `count` real entities of each text, (B, N, E) to (B, count * E)."""
    layout = Layout.of(x, mask)
    if not torch.compiler.is_compiling() and bool((layout.spans < count).any()):
        raise InputError(f"A text has {int(layout.spans.min())} entities; expected {count} or more.")
    return layout.align(x)[0][:, :count].flatten(1)


def words_at(x: Tensor, places: Tensor, layout: Layout) -> Tensor:
    """Pick a word for each entity, counted from the first one of its text: (B, T, E) and (B, N) to (B, N, E)."""
    if not torch.compiler.is_compiling() and len(wrong := places[(places < 0) | (places >= layout.spans[:, None])]):
        raise InputError(f"An entity begins or ends at word {int(wrong[0])}; expected one of its text, from 0.")
    return x.gather(1, (places + layout.starts[:, None])[..., None].expand(-1, -1, x.shape[-1]))


class LukeEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        rows, size, pad = config.max_position_embeddings, config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(rows, size, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertEmbeddings.forward
    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class LukeEntityEmbeddings(nn.Module):
    """Entity and token-type embeddings and the mean of the positions of an entity's words, summed and normalised."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        size, own = config.hidden_size, config.entity_emb_size
        self.entity_embeddings = nn.Embedding(config.entity_vocab_size, own, padding_idx=0)
        self.entity_embedding_dense = nn.Linear(own, size, bias=False) if own != size else nn.Identity()
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        if positions.shape[:-1] != ids.shape:
            shape = tuple(positions.shape)
            raise InputError(
                f"entity_position_ids is {shape}; expected {(*ids.shape, 'M')}, M words for each of entity_ids."
            )
        named = (positions != -1)[..., None]  # (B, N, M, 1)
        places = self.position_embeddings(positions.masked_fill(~named[..., 0], 0)) * named  # (B, N, M, E)
        x = self.entity_embedding_dense(self.entity_embeddings(ids)) + self.token_type_embeddings(token_types)
        x = x + places.sum(2) / named.sum(2).clamp(min=1)  # (B, N, E)
        return self.dropout(self.LayerNorm(x))


class LukeSelfAttention(nn.Module):
    """Multi-head attention among words and entities, without its output projection."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.entity_aware, size = config.use_entity_aware_attention, config.hidden_size
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        if self.entity_aware:
            self.w2e_query, self.e2w_query, self.e2e_query = (nn.Linear(size, size) for _ in range(3))

    def forward(self, x: Tensor, words: int, layout: Layout) -> Tensor:
        """Attend in (B, T + N, E), of which the first T are words."""
        k, v = self.split(self.key(x)), self.split(self.value(x))
        if self.entity_aware and words < x.shape[1]:
            q, k = self.by_kind(x[:, :words], x[:, words:], k)
        else:
            q = self.split(self.query(x))
        dropout = self.dropout if self.training else 0.0
        return attend(q, k, v, layout, scale=self.head_size**-0.5, dropout=dropout).transpose(1, 2).flatten(2)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T + N, D)

    def by_kind(self, words: Tensor, entities: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Make queries of two halves, to words and to entities, and keys whose other half is 0: (B, H, T + N, 2 D)."""
        to_words = torch.cat([self.query(words), self.e2w_query(entities)], dim=1)
        to_entities = torch.cat([self.w2e_query(words), self.e2e_query(entities)], dim=1)
        q = torch.cat([self.split(to_words), self.split(to_entities)], dim=-1)
        of_words, of_entities = k.split([words.shape[1], entities.shape[1]], dim=2)
        size = self.head_size
        return q, torch.cat([F.pad(of_words, (0, size)), F.pad(of_entities, (size, 0))], dim=2)


class LukeResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: LukeConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class LukeAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.self = LukeSelfAttention(config)
        self.output = LukeResidual(config, config.hidden_size)

    def forward(self, x: Tensor, words: int, layout: Layout) -> Tensor:
        return self.output(self.self(x, words, layout), residual=x)


class LukeIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class LukeLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.attention = LukeAttention(config)
        self.intermediate = LukeIntermediate(config)
        self.output = LukeResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, entities: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        words = x.shape[1]
        x = self.attention(torch.cat([x, entities], dim=1), words, layout)  # (B, T + N, E)
        x = self.output(self.intermediate(x), residual=x)
        return x[:, :words], x[:, words:]


class LukeEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.layer = nn.ModuleList(LukeLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, entities: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        for layer in self.layer:
            x, entities = layer(x, entities, layout)
        return x, entities


class LukePooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class LukePreTrainedModel(Model):
    """What all classes of this file share."""

    config: LukeConfig
    config_class = LukeConfig
    prefix = "luke"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none

    def explain_index(self, error: IndexError, inputs: dict[str, Any]) -> Exception:
        """Turn a kernel's "index out of range" into the input, its value and the limit."""
        for name, least, limit in (
            ("entity_ids", 0, self.config.entity_vocab_size),
            ("entity_token_type_ids", 0, self.config.type_vocab_size),
            ("entity_position_ids", -1, self.config.max_position_embeddings),
        ):
            ids = inputs.get(name)
            if isinstance(ids, Tensor) and len(wrong := ids[(ids < least) | (ids >= limit)]):
                return InputError(f"{name} holds {int(wrong[0])}; expected {least} to {limit - 1}.")
        return super().explain_index(error, inputs)


class LukeModel(LukePreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: LukeConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = LukeEmbeddings(config)
        self.entity_embeddings = LukeEntityEmbeddings(config)
        self.encoder = LukeEncoder(config)
        self.pooler = LukePooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> LukeHidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_tokens`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T); None for all 0. Most checkpoints know no other.
            position_ids: (B, T), rows of the position table; None to count from each text's first real token, which
                has `config.first_position`.
            entity_ids: ids of the vocabulary of entities, (B, N).
            entity_attention_mask: (B, N), 1 for real entities and 0 for padding; None when nothing is padded.
            entity_token_type_ids: (B, N); None for all 0.
            entity_position_ids: which words name each entity, counted from the first of its text, which is 0:
                (B, N, M), -1 where there are fewer than M.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions + self.config.first_position if position_ids is None else position_ids
        x = self.embeddings(words, token_types, positions)  # (B, T, E)
        if entity_ids is None or entity_position_ids is None:
            if entity_ids is not entity_position_ids:
                raise InputError("Give entity_ids and entity_position_ids together, or neither of them.")
            entities, both = x[:, :0], layout
        else:
            both = read_together(layout, Layout.of(entity_ids, entity_attention_mask))
            types = torch.zeros_like(entity_ids) if entity_token_type_ids is None else entity_token_type_ids
            entities = self.entity_embeddings(entity_ids, types, entity_position_ids)  # (B, N, E)
        x, entities = self.encoder(x, entities, both)
        return LukeHidden(
            last_hidden_state=x,
            pooler_output=None if self.pooler is None else self.pooler(x, layout),
            entity_last_hidden_state=None if entity_ids is None else entities,
        )


class LukeLMHead(nn.Module):
    """Scores over the vocabulary."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: roberta.RobertaLMHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


class LukeEntityPredictionTransform(nn.Module):
    """The non-linear step before the scores of entities."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.entity_emb_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.entity_emb_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class LukeEntityPredictions(nn.Module):
    """Scores over the vocabulary of entities; the decoder's weight is the entity embedding's."""

    def __init__(self, config: LukeConfig):
        super().__init__()
        self.transform = LukeEntityPredictionTransform(config)
        self.decoder = nn.Linear(config.entity_emb_size, config.entity_vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.entity_vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x)) + self.bias


class LukeForMaskedLM(LukePreTrainedModel):
    """Scores over both vocabularies, to fill in masked words and masked entities."""

    tied = {
        "lm_head.bias": "lm_head.decoder.bias",
        "entity_predictions.decoder.weight": "luke.entity_embeddings.entity_embeddings.weight",
    }

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config)
        self.lm_head = LukeLMHead(config)
        self.entity_predictions = LukeEntityPredictions(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        entity_labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> LukeMaskedLM:
        """Score words and entities; `labels`, (B, T), and `entity_labels`, (B, N), are the true ids, else -100."""
        if entity_labels is not None:
            self.one_of(entity_ids=entity_ids)
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        hidden = self.luke(input_ids, attention_mask, token_type_ids, position_ids, *entities, inputs_embeds)
        logits = self.lm_head(hidden.last_hidden_state)  # (B, T, V)
        mlm = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        about = mep = None
        if entity_ids is not None:
            about = self.entity_predictions(hidden.entity_last_hidden_state)  # (B, N, U)
            mep = None if entity_labels is None else F.cross_entropy(about.flatten(0, 1), entity_labels.flatten())
        losses = [loss for loss in (mlm, mep) if loss is not None]
        loss = torch.stack(losses).sum() if losses else None
        return LukeMaskedLM(loss=loss, mlm_loss=mlm, mep_loss=mep, logits=logits, entity_logits=about)


class LukeForSequenceClassification(LukePreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        hidden = self.luke(input_ids, attention_mask, token_type_ids, position_ids, *entities, inputs_embeds)
        logits = self.classifier(self.dropout(hidden.pooler_output))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class LukeForMultipleChoice(LukePreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices: (B, C, T) gives (B, C), (C, T) or packed texts (1, C); `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        inputs = input_ids, attention_mask, token_type_ids, position_ids, *entities, inputs_embeds
        hidden = self.luke(*map(flatten_choices, inputs) if nested else inputs)
        scores = self.classifier(self.dropout(hidden.pooler_output))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class LukeForTokenClassification(LukePreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        hidden = self.luke(input_ids, attention_mask, token_type_ids, position_ids, *entities, inputs_embeds)
        logits = self.classifier(self.dropout(hidden.last_hidden_state))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class LukeForQuestionAnswering(LukePreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        hidden = self.luke(input_ids, attention_mask, token_type_ids, position_ids, *entities, inputs_embeds)
        start, end = self.qa_outputs(hidden.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


class LukeForEntityClassification(LukePreTrainedModel):
    """Labels the first entity of a text."""

    entities = 1  # of a text, which are labelled together

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.entities * config.hidden_size, config.num_labels, bias=self.entities == 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, or (B, L) of 0 and 1 for several."""
        self.one_of(entity_ids=entity_ids)
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        hidden = self.luke(input_ids, attention_mask, token_type_ids, position_ids, *entities, inputs_embeds)
        x = first_entities(hidden.entity_last_hidden_state, entity_attention_mask, self.entities)
        logits = self.classifier(self.dropout(x))  # (B, L)
        return Logits(loss=None if labels is None else entity_loss(logits, labels), logits=logits)


class LukeForEntityPairClassification(LukeForEntityClassification):
    """Labels how the first two entities of a text are related."""

    entities = 2


class LukeForEntitySpanClassification(LukePreTrainedModel):
    """Labels each entity of a text, from its own vector and those of its first and its last word."""

    def __init__(self, config: LukeConfig):
        super().__init__(config)
        self.luke = LukeModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(3 * config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        entity_ids: Tensor | None = None,
        entity_attention_mask: Tensor | Layout | None = None,
        entity_token_type_ids: Tensor | None = None,
        entity_position_ids: Tensor | None = None,
        entity_start_positions: Tensor | None = None,
        entity_end_positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each entity.

        `entity_start_positions`, `entity_end_positions`: (B, N), its first and its last word, counted as in
        `entity_position_ids`. `labels`: (B, N) ids, -100 where there is nothing to learn, or (B, N, L) of 0 and 1.
        """
        self.one_of(entity_ids=entity_ids)
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        entities = entity_ids, entity_attention_mask, entity_token_type_ids, entity_position_ids
        hidden = self.luke(input_ids, layout, token_type_ids, position_ids, *entities, inputs_embeds)
        first = words_at(hidden.last_hidden_state, self.one_of(entity_start_positions=entity_start_positions), layout)
        last = words_at(hidden.last_hidden_state, self.one_of(entity_end_positions=entity_end_positions), layout)
        x = torch.cat([first, last, hidden.entity_last_hidden_state], dim=-1)  # (B, N, 3 E)
        logits = self.classifier(self.dropout(x))  # (B, N, L)
        return Logits(loss=None if labels is None else entity_loss(logits, labels), logits=logits)
