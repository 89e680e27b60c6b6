"""MobileBERT: a deep and thin BERT for phones, whose layers work in a bottleneck.

Paper: Sun et al., 2020, "MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices",
https://arxiv.org/abs/2004.02984

What sets it apart from BERT:
  - a layer is narrow inside: it maps its input down, works there, and maps back up before the outer residual sum
  - attention weights come from a narrow form of the input, attended values from the wide one
  - several feed-forwards stand in a row
  - norms only scale and shift, without measuring anything
  - word embeddings are narrow, and a token is embedded together with both of its neighbours

Shapes: B batch, C choices, T tokens, M embedding, S inside a layer, E hidden, H heads, D head size, V vocabulary, L
labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
Embeddings unpack it to find neighbours of the same text.
"""

from collections import OrderedDict
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, PreTraining, Spans

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
EPS = 1e-5  # of two norms that the configuration's key does not reach


class MobileBertConfig(Config):
    """The configuration of MobileBERT; the defaults are those of mobilebert-uncased."""

    model_type = "mobilebert"
    inert = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 30522
    hidden_size: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    embedding_size: int = 128
    trigram_input: bool = True
    use_bottleneck: bool = True
    intra_bottleneck_size: int = 128
    use_bottleneck_attention: bool = False  # whether values are read from the narrow form too
    key_query_shared_bottleneck: bool = True
    num_feedforward_networks: int = 4
    normalization_type: str = "no_norm"
    classifier_activation: bool = True
    classifier_dropout: float | None = None
    true_hidden_size: int | None = None  # of the layers inside: what `narrow` says

    @property
    def narrow(self) -> int:
        """The size of a layer inside."""
        return self.intra_bottleneck_size if self.use_bottleneck else self.hidden_size

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.narrow % self.num_attention_heads:
            yield f"the layers' size, {self.narrow}, is no multiple of num_attention_heads, {self.num_attention_heads}"
        if self.true_hidden_size not in (None, self.narrow):
            yield f"true_hidden_size is {self.true_hidden_size}; expected {self.narrow}"
        if self.embedding_size > self.hidden_size:
            yield f"embedding_size is {self.embedding_size}; expected at most hidden_size, {self.hidden_size}"
        if self.num_feedforward_networks < 1:
            yield f"num_feedforward_networks is {self.num_feedforward_networks}; expected at least 1"
        if self.normalization_type not in ("no_norm", "layer_norm"):
            yield f"normalization_type is {self.normalization_type!r}; expected 'no_norm' or 'layer_norm'"
        if self.use_bottleneck and not (self.use_bottleneck_attention or self.key_query_shared_bottleneck):
            yield "a bottleneck needs use_bottleneck_attention or key_query_shared_bottleneck"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"


def classifier_dropout(config: MobileBertConfig) -> float:
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


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


# twin: bert.flatten_choices
def flatten_choices(x: Given) -> Given:
    """(B, C, T, ...) to (B * C, T, ...): each choice a text of its own. What is no tensor stays."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else x


class NoNorm(nn.Module):
    """Scales and shifts each feature."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def norm(config: MobileBertConfig, size: int, eps: float | None = None) -> nn.Module:
    """Build what stands where BERT has a LayerNorm."""
    if config.normalization_type == "no_norm":
        return NoNorm(size)
    return nn.LayerNorm(size, eps=config.layer_norm_eps if eps is None else eps)


class MobileBertEmbeddings(nn.Module):
    """Embeddings of words and their neighbours, made as wide as the layers; positions and token types; a norm."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.trigrams, narrow, size = config.trigram_input, config.embedding_size, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, narrow, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        wide = narrow * (3 if self.trigrams else 1)
        self.embedding_transformation = nn.Linear(wide, size) if self.trigrams or narrow != size else None
        self.LayerNorm = norm(config, size, EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, token_types: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        if self.trigrams:
            x = self.with_neighbours(x, layout)
        x = x if self.embedding_transformation is None else self.embedding_transformation(x)  # (B, T, E)
        x = x + self.position_embeddings(positions) + self.token_type_embeddings(token_types)
        return self.dropout(self.LayerNorm(x))

    def with_neighbours(self, x: Tensor, layout: Layout) -> Tensor:
        """Lay the next word, the word and the one before it side by side, zeros beyond the ends: (B, T, 3 M)."""
        x, unpacked = layout.unpack(x)
        if unpacked.keep is not None:
            x = x * unpacked.keep[..., None]
        after, before = F.pad(x[:, 1:], (0, 0, 0, 1)), F.pad(x[:, :-1], (0, 0, 1, 0))
        return layout.pack(torch.cat([after, x, before], dim=-1))


class MobileBertSelfAttention(nn.Module):
    """Multi-head attention, without its output projection: weights from one input, values from another."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.heads, self.dropout, size = config.num_attention_heads, config.attention_probs_dropout_prob, config.narrow
        narrow_values = not config.use_bottleneck or config.use_bottleneck_attention
        self.query, self.key = (nn.Linear(size, size) for _ in range(2))
        self.value = nn.Linear(size if narrow_values else config.hidden_size, size)

    def forward(self, x: Tensor, values: Tensor, layout: Layout) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(values)  # (B, T, S) each
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B, H, T, D)
        x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return x.transpose(1, 2).flatten(2)  # (B, T, S)


class MobileBertResidual(nn.Module):
    """What ends each part of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: MobileBertConfig, size: int, out: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(size, out)
        self.LayerNorm = norm(config, out)
        self.dropout = nn.Dropout(dropout)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class MobileBertAttention(nn.Module):
    """The first part of a layer."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        dropout = 0.0 if config.use_bottleneck else config.hidden_dropout_prob
        self.self = MobileBertSelfAttention(config)
        self.output = MobileBertResidual(config, config.narrow, config.narrow, dropout)

    def forward(self, x: Tensor, values: Tensor, layout: Layout, residual: Tensor) -> Tensor:
        return self.output(self.self(x, values, layout), residual=residual)


class MobileBertIntermediate(nn.Module):
    """The wider, non-linear step of a feed-forward."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.narrow, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class MobileBertFeedForward(nn.Module):
    """One of the feed-forwards before the last."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.intermediate = MobileBertIntermediate(config)
        self.output = MobileBertResidual(config, config.intermediate_size, config.narrow, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.intermediate(x), residual=x)


class MobileBertOutput(MobileBertResidual):
    """What ends the last feed-forward, and the bottleneck's other end, where there is one."""

    def __init__(self, config: MobileBertConfig):
        wide, dropout = config.hidden_size, config.hidden_dropout_prob
        super().__init__(config, config.intermediate_size, config.narrow, 0.0 if config.use_bottleneck else dropout)
        self.LayerNorm = norm(config, config.narrow, EPS)
        self.bottleneck = MobileBertResidual(config, config.narrow, wide, dropout) if config.use_bottleneck else None


def narrowing(config: MobileBertConfig) -> nn.Module:
    """Build a map into the bottleneck."""
    parts = {"dense": nn.Linear(config.hidden_size, config.narrow), "LayerNorm": norm(config, config.narrow)}
    return nn.Sequential(OrderedDict(parts))


class MobileBertLayer(nn.Module):
    """One layer: attention, then feed-forwards, in a bottleneck."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.attention = MobileBertAttention(config)
        self.intermediate = MobileBertIntermediate(config)
        self.output = MobileBertOutput(config)
        self.ffn = nn.ModuleList(MobileBertFeedForward(config) for _ in range(config.num_feedforward_networks - 1))
        ways = ("input", "attention") if config.key_query_shared_bottleneck else ("input",)
        self.bottleneck = nn.ModuleDict({way: narrowing(config) for way in ways}) if config.use_bottleneck else None
        self.narrow_values = config.use_bottleneck_attention

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        narrow = compared = values = x
        if self.bottleneck is not None:
            narrow = self.bottleneck["input"](x)  # (B, T, S)
            compared, values = (narrow, narrow) if self.narrow_values else (self.bottleneck["attention"](x), x)
        y = self.attention(compared, values, layout, residual=narrow)  # (B, T, S)
        for feed_forward in self.ffn:
            y = feed_forward(y)
        y = self.output(self.intermediate(y), residual=y)
        return y if self.output.bottleneck is None else self.output.bottleneck(y, residual=x)  # (B, T, E)


class MobileBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.layer = nn.ModuleList(MobileBertLayer(config) for _ in range(config.num_hidden_layers))

    # twin: bert.BertEncoder.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class MobileBertPooler(nn.Module):
    """One vector a text: its first token, through a tanh of a linear layer where the configuration says so."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if config.classifier_activation else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = layout.first(x)
        return x if self.dense is None else torch.tanh(self.dense(x))  # (B, E)


class MobileBertPreTrainedModel(Model):
    """What all classes of this file share."""

    config: MobileBertConfig
    config_class = MobileBertConfig
    prefix = "mobilebert"
    stack, uncalled = "encoder.layer", ("predictions.dense", "predictions.decoder")
    optional = ("pooler",)  # checkpoints of token-level tasks have none
    legacy_names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's, of 2018


class MobileBertModel(MobileBertPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: MobileBertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = MobileBertEmbeddings(config)
        self.encoder = MobileBertEncoder(config)
        self.pooler = MobileBertPooler(config) if add_pooling_layer else None
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
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, M), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions, layout), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class MobileBertPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class MobileBertLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's, which `dense` makes wide."""

    def __init__(self, config: MobileBertConfig):
        super().__init__()
        self.transform = MobileBertPredictionHeadTransform(config)
        self.dense = nn.Linear(config.vocab_size, config.hidden_size - config.embedding_size, bias=False)  # (E - M, V)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    def forward(self, x: Tensor) -> Tensor:
        words = torch.cat([self.decoder.weight, self.dense.weight.T], dim=1)  # (V, E)
        return F.linear(self.transform(x), words, self.decoder.bias)


TIED = {
    "cls.predictions.decoder.weight": "mobilebert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class MobileBertForPreTraining(MobileBertPreTrainedModel):
    """Both pre-training tasks: the masked words, and whether the second text follows the first."""

    tied = TIED

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config)
        self.cls = nn.ModuleDict({"predictions": MobileBertLMPredictionHead(config)})
        self.cls["seq_relationship"] = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
    ) -> PreTraining:
        """Score words, `labels` as in MobileBertForMaskedLM, and order, `next_sentence_label`: (B,), 0 or 1."""
        hidden = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        words = self.cls["predictions"](hidden.last_hidden_state)  # (B, T, V)
        order = self.cls["seq_relationship"](hidden.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = F.cross_entropy(words.flatten(0, 1), labels.flatten())
            loss = loss + F.cross_entropy(order, next_sentence_label.flatten())
        return PreTraining(loss=loss, prediction_logits=words, seq_relationship_logits=order)


class MobileBertForMaskedLM(MobileBertPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = TIED

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config, add_pooling_layer=False)
        self.cls = nn.ModuleDict({"predictions": MobileBertLMPredictionHead(config)})
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
        x = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls["predictions"](x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class MobileBertForNextSentencePrediction(MobileBertPreTrainedModel):
    """Tells whether the second text follows the first (0) or is a random one (1)."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config)
        self.cls = nn.ModuleDict({"seq_relationship": nn.Linear(config.hidden_size, 2)})
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
        """Score sentence order; `labels`: (B,), 0 or 1."""
        hidden = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.cls["seq_relationship"](hidden.pooler_output)  # (B, 2)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels.flatten()), logits=logits)


class MobileBertForSequenceClassification(MobileBertPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config)
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
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        pooled = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class MobileBertForMultipleChoice(MobileBertPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config)
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
        """Score the choices: (B, C, T) gives (B, C), (C, T) or packed texts (1, C); `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
            position_ids = flatten_choices(position_ids)
        pooled = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled)).view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class MobileBertForTokenClassification(MobileBertPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config, add_pooling_layer=False)
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
        x = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class MobileBertForQuestionAnswering(MobileBertPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        self.mobilebert = MobileBertModel(config, add_pooling_layer=False)
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
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.mobilebert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
