"""ERNIE: BERT's encoder, with embeddings that tell the task in its second and third versions.

Paper: Sun et al., 2019, "ERNIE 2.0: A Continual Pre-training Framework for Language Understanding",
https://arxiv.org/abs/1907.12412

What sets it apart from BERT:
  - with `use_task_id`, an embedding of the pre-training task is added to each token's; 0 outside pre-training
  - the first version is BERT, trained to fill in whole words and names

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N)
tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache, Source
from ..config import Config
from ..errors import ConfigError, InputError
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


class ErnieConfig(Config):
    """The configuration of ERNIE; the defaults are what a missing key of config.json means."""

    model_type = "ernie"
    inert = {
        "position_embedding_type": "absolute",
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 30522
    hidden_size: int = 768
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
    pad_token_id: int | None = 0
    task_type_vocab_size: int = 3
    use_task_id: bool = False
    classifier_dropout: float | None = None
    is_decoder: bool = False  # whether tokens look back only
    add_cross_attention: bool = False  # whether a decoder's layers can look at what an encoder has read

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.add_cross_attention and not self.is_decoder:
            yield "add_cross_attention is True, but is_decoder is False; only a decoder can look at a source"


def classifier_dropout(config: ErnieConfig) -> float:
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


class ErnieEmbeddings(nn.Module):
    """Word, position, token-type and perhaps task embeddings, summed and normalised."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        if config.use_task_id:
            self.task_type_embeddings = nn.Embedding(config.task_type_vocab_size, config.hidden_size)
        self.use_task_id = config.use_task_id
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, token_types: Tensor, task_types: Tensor | None, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        if self.use_task_id:
            x = x + self.task_type_embeddings(torch.zeros_like(token_types) if task_types is None else task_types)
        elif task_types is not None:
            raise InputError("task_type_ids is given, but this model has no task embeddings (use_task_id is false).")
        return self.dropout(self.LayerNorm(x))


class ErnieSelfAttention(nn.Module):
    """Multi-head attention, without its output projection."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertSelfAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)


class ErnieResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: ErnieConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class ErnieAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.self = ErnieSelfAttention(config)
        self.output = ErnieResidual(config, config.hidden_size)

    # twin: bert.BertAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(x, layout), residual=x)


class ErnieIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class ErnieLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.attention = ErnieAttention(config)
        self.intermediate = ErnieIntermediate(config)
        self.output = ErnieResidual(config, config.intermediate_size)

    # twin: bert.BertLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(x), residual=x)


class ErnieEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.layer = nn.ModuleList(ErnieLayer(config) for _ in range(config.num_hidden_layers))

    # twin: bert.BertEncoder.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class ErniePooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class ErniePreTrainedModel(Model):
    """What all classes of this file share."""

    config: ErnieConfig
    config_class = ErnieConfig
    prefix = "ernie"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none
    legacy_names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class ErnieModel(ErniePreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: ErnieConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.is_decoder:
            raise ConfigError(
                "is_decoder is True, but ErnieModel looks to both sides; load the decoder with AutoModelForCausalLM, "
                "or pass is_decoder=False, add_cross_attention=False to make an encoder of it."
            )
        self.embeddings = ErnieEmbeddings(config)
        self.encoder = ErnieEncoder(config)
        self.pooler = ErniePooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0.
            task_type_ids: (B, T), of a model with `config.use_task_id`; None for all 0.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, task_type_ids, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class ErniePredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class ErnieLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.transform = ErniePredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class ErniePreTrainingHeads(nn.Module):
    """The heads of the pre-training tasks; which of them, the class decides."""

    def __init__(self, config: ErnieConfig, *, words: bool, order: bool):
        super().__init__()
        if words:
            self.predictions = ErnieLMPredictionHead(config)
        if order:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)


TIED = {
    "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class ErnieForPreTraining(ErniePreTrainedModel):
    """Both pre-training tasks: the masked words, and whether the second text follows the first."""

    tied = TIED

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config)
        self.cls = ErniePreTrainingHeads(config, words=True, order=True)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
    ) -> PreTraining:
        """Score words and sentence order; `labels` and `next_sentence_label` as `labels` in the class of each task."""
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        words = self.cls.predictions(hidden.last_hidden_state)  # (B, T, V)
        order = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = F.cross_entropy(words.flatten(0, 1), labels.flatten())
            loss = loss + F.cross_entropy(order, next_sentence_label.flatten())
        return PreTraining(loss=loss, prediction_logits=words, seq_relationship_logits=order)


class ErnieForMaskedLM(ErniePreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = TIED

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config, add_pooling_layer=False)
        self.cls = ErniePreTrainingHeads(config, words=True, order=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        x = hidden.last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class ErnieForNextSentencePrediction(ErniePreTrainedModel):
    """Tells whether the second text follows the first (0) or is a random one (1)."""

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config)
        self.cls = ErniePreTrainingHeads(config, words=False, order=True)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score sentence order; `labels`: (B,), 0 or 1."""
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        logits = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels.flatten()), logits=logits)


class ErnieForSequenceClassification(ErniePreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels.

        `labels`: (B,) ids, (B, L) of 0 and 1 for several at once, or (B,) or (B, L) targets to regress.
        """
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        logits = self.classifier(self.dropout(hidden.pooler_output))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class ErnieForMultipleChoice(ErniePreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices: (B, C, T) inputs give (B, C) logits, (C, T) or packed ones (1, C).

        `labels`: (B,), the right choices.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
            task_type_ids, position_ids = flatten_choices(task_type_ids), flatten_choices(position_ids)
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        scores = self.classifier(self.dropout(hidden.pooler_output))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class ErnieForTokenClassification(ErniePreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        x = hidden.last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class ErnieForQuestionAnswering(ErniePreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end.

        `start_positions`, `end_positions`: (B,), beyond T where there is no answer.
        """
        hidden = self.ernie(input_ids, attention_mask, token_type_ids, task_type_ids, position_ids, inputs_embeds)
        x = hidden.last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- as a decoder, alone or beside an encoder: Rothe et al., 2019, https://arxiv.org/abs/1907.12461 -------------------


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


class ErnieDecoderSelfAttention(ErnieSelfAttention):
    """Attention to the tokens so far, or to what an encoder has read."""

    def __init__(self, config: ErnieConfig, index: int):
        super().__init__(config)
        self.index = index

    # twin: bert.BertDecoderSelfAttention.forward
    def forward(  # type: ignore[override]
        self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        q, dropout = self.split(self.query(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.key(x)), self.split(self.value(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)
            x = attend(q, k, v, layout, causal=True, dropout=dropout)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.key(source.states)), self.split(self.value(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D), S tokens of the source
            x = attend(q, k, v, layout, source=source.layout, dropout=dropout)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)

    # twin: bert.BertDecoderSelfAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)


class ErnieDecoderAttention(nn.Module):
    """Such attention, and what ends it."""

    def __init__(self, config: ErnieConfig, index: int):
        super().__init__()
        self.self = ErnieDecoderSelfAttention(config, index)
        self.output = ErnieResidual(config, config.hidden_size)

    # twin: bert.BertDecoderAttention.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None = None) -> Tensor:
        return self.output(self.self(x, layout, cache, source), residual=x)


class ErnieDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: ErnieConfig, index: int):
        super().__init__()
        self.attention = ErnieDecoderAttention(config, index)
        if config.add_cross_attention:
            self.crossattention = ErnieDecoderAttention(config, index)
        self.intermediate = ErnieIntermediate(config)
        self.output = ErnieResidual(config, config.intermediate_size)

    # twin: bert.BertDecoderLayer.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.attention(x, layout, cache)
        if source is not None:
            x = self.crossattention(x, layout, cache, source)
        return self.output(self.intermediate(x), residual=x)


class ErnieDecoderStack(nn.Module):
    """The stack of layers, which checkpoints call an encoder all the same."""

    def __init__(self, config: ErnieConfig):
        super().__init__()
        self.layer = nn.ModuleList(ErnieDecoderLayer(config, i) for i in range(config.num_hidden_layers))

    # twin: bert.BertDecoderStack.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, cache, source)
        return x


class ErnieDecoderModel(ErniePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        if not config.is_decoder:
            raise ConfigError(
                "is_decoder is False, but a decoder only looks back; pass is_decoder=True to make one of an encoder, "
                "which is to be trained before use, or load a model that looks to both sides: AutoModelForMaskedLM."
            )
        self.embeddings = ErnieEmbeddings(config)
        self.encoder = ErnieDecoderStack(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        """Read a batch, (B, T), behind what is in `cache`; the arguments are those of `ErnieModel` and these two.

        `source` is what an encoder has read, for a model with `add_cross_attention`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.embeddings(words, token_types, task_type_ids, positions)
        x = self.encoder(x, layout, cache, source)  # (B, T, E)
        return Hidden(last_hidden_state=x)


class ErnieForCausalLM(ErniePreTrainedModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    tied = TIED

    def __init__(self, config: ErnieConfig):
        super().__init__(config)
        self.ernie = ErnieDecoderModel(config)
        self.cls = ErniePreTrainingHeads(config, words=True, order=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        source: Source | None = None,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all. `source` is what an
        encoder has read.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        out = self.ernie(input_ids, layout, token_type_ids, task_type_ids, position_ids, inputs_embeds, cache, source)
        logits = self.cls.predictions(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
