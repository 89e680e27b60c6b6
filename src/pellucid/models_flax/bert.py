"""BERT in Flax: a bidirectional encoder with post-norm, learned positions and token types; see models/bert.py.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..errors import ConfigError, InputError
from ..flax_attention import FlaxCache, FlaxLayout, attend, join_heads, split_heads
from ..flax_layers import Embedding, LayerNorm, Linear, binary_cross_entropy, cross_entropy, parameter, token_loss
from ..flax_model import FlaxModel
from ..models.bert import BertConfig, classifier_dropout
from ..outputs import Hidden, Logits, PreTraining, Spans

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_fast": jax.nn.gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def classification_loss(logits: Array, labels: Array, problem_type: str | None) -> Array:
    """The loss of one label a text, of several, or of numbers; without `problem_type` the labels' form decides."""
    if problem_type is None:
        single = labels.dtype.kind in "iu"
        problem_type = "regression" if logits.shape[-1] == 1 else "single_label" if single else "multi_label"
    if problem_type == "regression":
        return jnp.square(logits.reshape(-1) - labels.reshape(-1)).mean()
    if problem_type.startswith("multi_label"):
        return binary_cross_entropy(logits, labels)
    return cross_entropy(logits, labels.reshape(-1))


def span_loss(logits: Array, positions: Array) -> Array:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return cross_entropy(logits, jnp.clip(positions.reshape(-1), 0, length), ignore=length)


# twin: gpt2.causal_loss
def causal_loss(logits: Array, labels: Array, layout: FlaxLayout) -> Array:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    return token_loss(logits[:, :-1], jnp.where(layout.positions[:, 1:] == 0, -100, labels[:, 1:]))


class FlaxBertEmbeddings(nnx.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, words: Array, token_types: Array, positions: Array) -> Array:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class FlaxBertSelfAttention(nnx.Module):
    """Multi-head attention, of a decoder to the tokens so far, without its output projection."""

    def __init__(self, config: BertConfig, index: int, rngs: nnx.Rngs):
        self.index, self.causal = index, config.is_decoder
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)

    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.query, self.key, self.value))
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        return join_heads(attend(q, k, v, layout, causal=self.causal, dropout=self.dropout))


class FlaxBertResidual(nnx.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: BertConfig, size: int, rngs: nnx.Rngs):
        self.dense = Linear(size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, x: Array, residual: Array) -> Array:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class FlaxBertAttention(nnx.Module):
    """The first half of a layer."""

    def __init__(self, config: BertConfig, index: int, rngs: nnx.Rngs):
        self.self = FlaxBertSelfAttention(config, index, rngs)
        self.output = FlaxBertResidual(config, config.hidden_size, rngs)

    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        return self.output(self.self(x, layout, cache), residual=x)


class FlaxBertIntermediate(nnx.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: BertConfig):
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Array) -> Array:
        return self.activation(self.dense(x))


class FlaxBertLayer(nnx.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: BertConfig, index: int, rngs: nnx.Rngs):
        self.attention = FlaxBertAttention(config, index, rngs)
        self.intermediate = FlaxBertIntermediate(config)
        self.output = FlaxBertResidual(config, config.intermediate_size, rngs)

    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        x = self.attention(x, layout, cache)
        return self.output(self.intermediate(x), residual=x)


class FlaxBertEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.layer = nnx.List(FlaxBertLayer(config, i, rngs) for i in range(config.num_hidden_layers))

    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        for layer in self.layer:
            x = layer(x, layout, cache)
        return x


class FlaxBertPooler(nnx.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: BertConfig):
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: Array, layout: FlaxLayout) -> Array:
        return jnp.tanh(self.dense(layout.first(x)))  # (B, E)


class FlaxBertModel(FlaxModel):
    """The encoder without a task head; or, where the config says so, a decoder."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.add_cross_attention:
            raise ConfigError("add_cross_attention is True, which only PyTorch implements; use BertLMHeadModel.")
        self.embeddings = FlaxBertEmbeddings(config, rngs)
        self.encoder = FlaxBertEncoder(config, rngs)
        self.pooler = FlaxBertPooler(config) if add_pooling_layer else None

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what a decoder has read before; these tokens are added to it.
        """
        if cache is not None and not self.config.is_decoder:
            raise InputError("is_decoder=False lets tokens see later ones, too: read a whole text at once.")
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(tokens) if inputs_embeds is None else inputs_embeds
        token_types = jnp.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout, cache)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class FlaxBertPredictionHeadTransform(nnx.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: BertConfig):
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, x: Array) -> Array:
        return self.LayerNorm(self.activation(self.dense(x)))


class FlaxBertLMPredictionHead(nnx.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: BertConfig):
        self.transform = FlaxBertPredictionHeadTransform(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.bias = parameter(config.vocab_size)  # the checkpoint's second name of the decoder's bias

    def __call__(self, x: Array) -> Array:
        return self.decoder(self.transform(x))


class FlaxBertPreTrainingHeads(nnx.Module):
    """The heads of the pre-training tasks; which of them, the class decides."""

    def __init__(self, config: BertConfig, *, words: bool, order: bool):
        if words:
            self.predictions = FlaxBertLMPredictionHead(config)
        if order:
            self.seq_relationship = Linear(config.hidden_size, 2)


class FlaxBertForPreTraining(FlaxModel):
    """Both pre-training tasks: the masked words, and whether the second text follows the first."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs)
        self.cls = FlaxBertPreTrainingHeads(config, words=True, order=True)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
        next_sentence_label: Array | None = None,
    ) -> PreTraining:
        """Score words, `labels` as in FlaxBertForMaskedLM, and order, `next_sentence_label`: (B,), 1 for random."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        words = self.cls.predictions(hidden.last_hidden_state)  # (B, T, V)
        order = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = token_loss(words, labels) + cross_entropy(order, next_sentence_label.reshape(-1))
        return PreTraining(loss=loss, prediction_logits=words, seq_relationship_logits=order)


class FlaxBertForMaskedLM(FlaxModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs, add_pooling_layer=False)
        self.cls = FlaxBertPreTrainingHeads(config, words=True, order=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxBertLMHeadModel(FlaxModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs, add_pooling_layer=False)
        self.cls = FlaxBertPreTrainingHeads(config, words=True, order=False)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        cache: FlaxCache | None = None,
        labels: Array | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = FlaxLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        out = self.bert(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache)
        logits = self.cls.predictions(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> FlaxCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config, heads = self.config, self.config.num_attention_heads
        return FlaxCache.of(config.num_hidden_layers, batch, heads, size, config.hidden_size // heads, self.dtype)


class FlaxBertForNextSentencePrediction(FlaxModel):
    """Tells whether the second text follows the first (0) or is a random one (1)."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs)
        self.cls = FlaxBertPreTrainingHeads(config, words=False, order=True)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score sentence order; `labels`: (B,), 0 or 1."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        return Logits(loss=None if labels is None else cross_entropy(logits, labels.reshape(-1)), logits=logits)


class FlaxBertForSequenceClassification(FlaxModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(classifier_dropout(config), rngs=rngs)
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        pooled = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FlaxBertForMultipleChoice(FlaxModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(classifier_dropout(config), rngs=rngs)
        self.classifier = Linear(config.hidden_size, 1)

    def forward(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the choices, (B, C, T) to (B, C); `labels`: (B,), the right ones."""
        given = (input_ids, attention_mask, token_type_ids, position_ids)
        texts = [None if part is None else part.reshape(-1, part.shape[-1]) for part in given]  # (B * C, T)
        pooled = self.bert(*texts).pooler_output
        logits = self.classifier(self.dropout(pooled)).reshape(-1, input_ids.shape[-2])  # (B, C)
        return Logits(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


class FlaxBertForTokenClassification(FlaxModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs, add_pooling_layer=False)
        self.dropout = nnx.Dropout(classifier_dropout(config), rngs=rngs)
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxBertForQuestionAnswering(FlaxModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.bert = FlaxBertModel(config, rngs=rngs, add_pooling_layer=False)
        self.qa_outputs = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = jnp.moveaxis(self.qa_outputs(x), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
