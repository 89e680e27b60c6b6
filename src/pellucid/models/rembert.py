"""RemBERT: BERT's encoder with small embeddings at its entrance and large ones, used in pre-training alone, at its end.

Paper: Chung et al., 2020, "Rethinking embedding coupling in pre-trained language models",
https://arxiv.org/abs/2010.12821

What sets it apart from BERT:
  - embeddings of a size of their own, projected to the encoder's
  - the vocabulary scores share no weight with the embeddings, and have a size of their own as well

Shapes: B batch, C choices, T tokens, E hidden, M embedding size, H heads, D head size, V vocabulary, L labels. A packed
batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache, Source
from ..config import Config
from ..errors import ConfigError
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


class RemBertConfig(Config):
    """The configuration of RemBERT; the defaults are those of google/rembert."""

    model_type = "rembert"
    inert = {
        "position_embedding_type": "absolute",
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }
    aliases = {"embedding_size": "input_embedding_size"}

    vocab_size: int = 250300
    hidden_size: int = 1152
    num_hidden_layers: int = 32
    num_attention_heads: int = 18
    input_embedding_size: int = 256
    output_embedding_size: int = 1664
    intermediate_size: int = 4608
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 312
    eos_token_id: int | list[int] | None = 313
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


class RemBertEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.input_embedding_size, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.input_embedding_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.input_embedding_size)
        self.LayerNorm = nn.LayerNorm(config.input_embedding_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertEmbeddings.forward
    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, M)
        return self.dropout(self.LayerNorm(x))


class RemBertSelfAttention(nn.Module):
    """Multi-head attention, without its output projection."""

    def __init__(self, config: RemBertConfig):
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


class RemBertResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: RemBertConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class RemBertAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.self = RemBertSelfAttention(config)
        self.output = RemBertResidual(config, config.hidden_size)

    # twin: bert.BertAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(x, layout), residual=x)


class RemBertIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class RemBertLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.attention = RemBertAttention(config)
        self.intermediate = RemBertIntermediate(config)
        self.output = RemBertResidual(config, config.intermediate_size)

    # twin: bert.BertLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(x), residual=x)


class RemBertEncoder(nn.Module):
    """The projection of the embeddings, and the stack of layers."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(config.input_embedding_size, config.hidden_size)
        self.layer = nn.ModuleList(RemBertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.embedding_hidden_mapping_in(x)  # (B, T, E)
        for layer in self.layer:
            x = layer(x, layout)
        return x


class RemBertPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class RemBertPreTrainedModel(Model):
    """What all classes of this file share."""

    config: RemBertConfig
    config_class = RemBertConfig
    prefix = "rembert"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none


class RemBertModel(RemBertPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: RemBertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.is_decoder:
            raise ConfigError(
                "is_decoder is True, but RemBertModel looks to both sides; load the decoder with AutoModelForCausalLM, "
                "or pass is_decoder=False, add_cross_attention=False to make an encoder of it."
            )
        self.embeddings = RemBertEmbeddings(config)
        self.encoder = RemBertEncoder(config)
        self.pooler = RemBertPooler(config) if add_pooling_layer else None
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
        x = self.encoder(self.embeddings(words, token_types, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class RemBertLMPredictionHead(nn.Module):
    """Scores over the vocabulary, with weights of their own."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.output_embedding_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.output_embedding_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.output_embedding_size, config.vocab_size)

    # twin: albert.AlbertMLMHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.LayerNorm(self.activation(self.dense(x))))


class RemBertOnlyMLMHead(nn.Module):
    """What gives the vocabulary scores their name in the checkpoint."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.predictions = RemBertLMPredictionHead(config)


class RemBertForMaskedLM(RemBertPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        self.rembert = RemBertModel(config, add_pooling_layer=False)
        self.cls = RemBertOnlyMLMHead(config)
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
        x = self.rembert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class RemBertForSequenceClassification(RemBertPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        self.rembert = RemBertModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
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
        """Score the labels.

        `labels`: (B,) ids, (B, L) of 0 and 1 for several at once, or (B,) or (B, L) targets to regress.
        """
        hidden = self.rembert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.classifier(self.dropout(hidden.pooler_output))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class RemBertForMultipleChoice(RemBertPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        self.rembert = RemBertModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
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
        """Score the choices: (B, C, T) inputs give (B, C) logits, (C, T) or packed ones (1, C).

        `labels`: (B,), the right choices.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
            position_ids = flatten_choices(position_ids)
        hidden = self.rembert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        scores = self.classifier(self.dropout(hidden.pooler_output))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class RemBertForTokenClassification(RemBertPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        self.rembert = RemBertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
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
        x = self.rembert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class RemBertForQuestionAnswering(RemBertPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        self.rembert = RemBertModel(config, add_pooling_layer=False)
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
        """Score each token as beginning and end.

        `start_positions`, `end_positions`: (B,), beyond T where there is no answer.
        """
        x = self.rembert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
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


class RemBertDecoderSelfAttention(RemBertSelfAttention):
    """Attention to the tokens so far, or to what an encoder has read."""

    def __init__(self, config: RemBertConfig, index: int):
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


class RemBertDecoderAttention(nn.Module):
    """Such attention, and what ends it."""

    def __init__(self, config: RemBertConfig, index: int):
        super().__init__()
        self.self = RemBertDecoderSelfAttention(config, index)
        self.output = RemBertResidual(config, config.hidden_size)

    # twin: bert.BertDecoderAttention.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None = None) -> Tensor:
        return self.output(self.self(x, layout, cache, source), residual=x)


class RemBertDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: RemBertConfig, index: int):
        super().__init__()
        self.attention = RemBertDecoderAttention(config, index)
        if config.add_cross_attention:
            self.crossattention = RemBertDecoderAttention(config, index)
        self.intermediate = RemBertIntermediate(config)
        self.output = RemBertResidual(config, config.intermediate_size)

    # twin: bert.BertDecoderLayer.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.attention(x, layout, cache)
        if source is not None:
            x = self.crossattention(x, layout, cache, source)
        return self.output(self.intermediate(x), residual=x)


class RemBertDecoderStack(nn.Module):
    """The projection of the embeddings, and the stack of layers, which checkpoints call an encoder all the same."""

    def __init__(self, config: RemBertConfig):
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(config.input_embedding_size, config.hidden_size)
        self.layer = nn.ModuleList(RemBertDecoderLayer(config, i) for i in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.embedding_hidden_mapping_in(x)  # (B, T, E)
        for layer in self.layer:
            x = layer(x, layout, cache, source)
        return x


class RemBertDecoderModel(RemBertPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        if not config.is_decoder:
            raise ConfigError(
                "is_decoder is False, but a decoder only looks back; pass is_decoder=True to make one of an encoder, "
                "which is to be trained before use, or load a model that looks to both sides: AutoModelForMaskedLM."
            )
        self.embeddings = RemBertEmbeddings(config)
        self.encoder = RemBertDecoderStack(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        """Read a batch, (B, T), behind what is in `cache`; the arguments are those of `RemBertModel` and these two.

        `source` is what an encoder has read, for a model with `add_cross_attention`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout, cache, source)  # (B, T, E)
        return Hidden(last_hidden_state=x)


class RemBertForCausalLM(RemBertPreTrainedModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    def __init__(self, config: RemBertConfig):
        super().__init__(config)
        self.rembert = RemBertDecoderModel(config)
        self.cls = RemBertOnlyMLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
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
        out = self.rembert(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache, source)
        logits = self.cls.predictions(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
