"""RoBERTa in Flax: BERT's encoder with positions that begin after the padding id; see models/roberta.py.

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
from ..models.roberta import RobertaConfig, classifier_dropout
from ..outputs import Hidden, Logits, Spans

# twin: bert.ACTIVATIONS
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


# twin: bert.classification_loss
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


# twin: bert.span_loss
def span_loss(logits: Array, positions: Array) -> Array:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return cross_entropy(logits, jnp.clip(positions.reshape(-1), 0, length), ignore=length)


# twin: gpt2.causal_loss
def causal_loss(logits: Array, labels: Array, layout: FlaxLayout) -> Array:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    return token_loss(logits[:, :-1], jnp.where(layout.positions[:, 1:] == 0, -100, labels[:, 1:]))


class FlaxRobertaEmbeddings(nnx.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: RobertaConfig, rngs: nnx.Rngs):
        rows, size, pad = config.max_position_embeddings, config.hidden_size, config.pad_token_id
        self.word_embeddings = Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = Embedding(rows, size, padding_idx=pad)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    # twin: bert.FlaxBertEmbeddings.__call__
    def __call__(self, words: Array, token_types: Array, positions: Array) -> Array:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class FlaxRobertaSelfAttention(nnx.Module):
    """Multi-head attention, of a decoder to the tokens so far, without its output projection."""

    def __init__(self, config: RobertaConfig, index: int, rngs: nnx.Rngs):
        self.index, self.causal = index, config.is_decoder
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)

    # twin: bert.FlaxBertSelfAttention.__call__
    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.query, self.key, self.value))
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        return join_heads(attend(q, k, v, layout, causal=self.causal, dropout=self.dropout))


class FlaxRobertaResidual(nnx.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: RobertaConfig, size: int, rngs: nnx.Rngs):
        self.dense = Linear(size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    # twin: bert.FlaxBertResidual.__call__
    def __call__(self, x: Array, residual: Array) -> Array:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class FlaxRobertaAttention(nnx.Module):
    """The first half of a layer."""

    def __init__(self, config: RobertaConfig, index: int, rngs: nnx.Rngs):
        self.self = FlaxRobertaSelfAttention(config, index, rngs)
        self.output = FlaxRobertaResidual(config, config.hidden_size, rngs)

    # twin: bert.FlaxBertAttention.__call__
    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        return self.output(self.self(x, layout, cache), residual=x)


class FlaxRobertaIntermediate(nnx.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: RobertaConfig):
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.FlaxBertIntermediate.__call__
    def __call__(self, x: Array) -> Array:
        return self.activation(self.dense(x))


class FlaxRobertaLayer(nnx.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: RobertaConfig, index: int, rngs: nnx.Rngs):
        self.attention = FlaxRobertaAttention(config, index, rngs)
        self.intermediate = FlaxRobertaIntermediate(config)
        self.output = FlaxRobertaResidual(config, config.intermediate_size, rngs)

    # twin: bert.FlaxBertLayer.__call__
    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        x = self.attention(x, layout, cache)
        return self.output(self.intermediate(x), residual=x)


class FlaxRobertaEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: RobertaConfig, rngs: nnx.Rngs):
        self.layer = nnx.List(FlaxRobertaLayer(config, i, rngs) for i in range(config.num_hidden_layers))

    # twin: bert.FlaxBertEncoder.__call__
    def __call__(self, x: Array, layout: FlaxLayout, cache: FlaxCache | None) -> Array:
        for layer in self.layer:
            x = layer(x, layout, cache)
        return x


class FlaxRobertaPooler(nnx.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: RobertaConfig):
        self.dense = Linear(config.hidden_size, config.hidden_size)

    # twin: bert.FlaxBertPooler.__call__
    def __call__(self, x: Array, layout: FlaxLayout) -> Array:
        return jnp.tanh(self.dense(layout.first(x)))  # (B, E)


class FlaxRobertaModel(FlaxModel):
    """The encoder without a task head; or, where the config says so, a decoder."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.add_cross_attention:
            raise ConfigError("add_cross_attention is True, which only PyTorch implements; use RobertaForCausalLM.")
        self.embeddings = FlaxRobertaEmbeddings(config, rngs)
        self.encoder = FlaxRobertaEncoder(config, rngs)
        self.pooler = FlaxRobertaPooler(config) if add_pooling_layer else None

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
            input_ids: token ids, (B, T), T at most `config.max_tokens`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.
            token_type_ids: (B, T); None for all 0. Most checkpoints know no other.
            position_ids: (B, T), rows of the position table; None to count from each text's first real token, which
                has `config.first_position`.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what a decoder has read before; these tokens are added to it.
        """
        if cache is not None and not self.config.is_decoder:
            raise InputError("is_decoder=False lets tokens see later ones, too: read a whole text at once.")
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(tokens) if inputs_embeds is None else inputs_embeds
        token_types = jnp.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions + self.config.first_position if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout, cache)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class FlaxRobertaLMHead(nnx.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: RobertaConfig):
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.bias = parameter(config.vocab_size)  # the checkpoint's second name of the decoder's bias

    def __call__(self, x: Array) -> Array:
        return self.decoder(self.layer_norm(jax.nn.gelu(self.dense(x), approximate=False)))


class FlaxRobertaForMaskedLM(FlaxModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.roberta = FlaxRobertaModel(config, rngs=rngs, add_pooling_layer=False)
        self.lm_head = FlaxRobertaLMHead(config)

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
        x = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxRobertaForCausalLM(FlaxModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.roberta = FlaxRobertaModel(config, rngs=rngs, add_pooling_layer=False)
        self.lm_head = FlaxRobertaLMHead(config)

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
        out = self.roberta(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> FlaxCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config, heads = self.config, self.config.num_attention_heads
        return FlaxCache.of(config.num_hidden_layers, batch, heads, size, config.hidden_size // heads, self.dtype)


class FlaxRobertaClassificationHead(nnx.Module):
    """Scores of labels from a text's first token, by way of a non-linear step."""

    def __init__(self, config: RobertaConfig, rngs: nnx.Rngs):
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dropout = nnx.Dropout(classifier_dropout(config), rngs=rngs)
        self.out_proj = Linear(config.hidden_size, config.num_labels)

    def __call__(self, x: Array) -> Array:
        x = jnp.tanh(self.dense(self.dropout(x)))  # (B, E)
        return self.out_proj(self.dropout(x))


class FlaxRobertaForSequenceClassification(FlaxModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.roberta = FlaxRobertaModel(config, rngs=rngs, add_pooling_layer=False)
        self.classifier = FlaxRobertaClassificationHead(config, rngs)

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
        layout = FlaxLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.roberta(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FlaxRobertaForMultipleChoice(FlaxModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.roberta = FlaxRobertaModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)
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
        pooled = self.roberta(*texts).pooler_output
        logits = self.classifier(self.dropout(pooled)).reshape(-1, input_ids.shape[-2])  # (B, C)
        return Logits(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


class FlaxRobertaForTokenClassification(FlaxModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.roberta = FlaxRobertaModel(config, rngs=rngs, add_pooling_layer=False)
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
        x = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxRobertaForQuestionAnswering(FlaxModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.roberta = FlaxRobertaModel(config, rngs=rngs, add_pooling_layer=False)
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
        x = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = jnp.moveaxis(self.qa_outputs(x), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- XLM-RoBERTa: the same network, trained on a hundred languages ----------------------------------------------------


class FlaxXLMRobertaModel(FlaxRobertaModel):
    """See FlaxRobertaModel."""


class FlaxXLMRobertaForMaskedLM(FlaxRobertaForMaskedLM):
    """See FlaxRobertaForMaskedLM."""


class FlaxXLMRobertaForCausalLM(FlaxRobertaForCausalLM):
    """See FlaxRobertaForCausalLM."""


class FlaxXLMRobertaForSequenceClassification(FlaxRobertaForSequenceClassification):
    """See FlaxRobertaForSequenceClassification."""


class FlaxXLMRobertaForMultipleChoice(FlaxRobertaForMultipleChoice):
    """See FlaxRobertaForMultipleChoice."""


class FlaxXLMRobertaForTokenClassification(FlaxRobertaForTokenClassification):
    """See FlaxRobertaForTokenClassification."""


class FlaxXLMRobertaForQuestionAnswering(FlaxRobertaForQuestionAnswering):
    """See FlaxRobertaForQuestionAnswering."""


# --- CamemBERT: the same network, trained on French -------------------------------------------------------------------


class FlaxCamembertModel(FlaxRobertaModel):
    """See FlaxRobertaModel."""


class FlaxCamembertForMaskedLM(FlaxRobertaForMaskedLM):
    """See FlaxRobertaForMaskedLM."""


class FlaxCamembertForCausalLM(FlaxRobertaForCausalLM):
    """See FlaxRobertaForCausalLM."""


class FlaxCamembertForSequenceClassification(FlaxRobertaForSequenceClassification):
    """See FlaxRobertaForSequenceClassification."""


class FlaxCamembertForMultipleChoice(FlaxRobertaForMultipleChoice):
    """See FlaxRobertaForMultipleChoice."""


class FlaxCamembertForTokenClassification(FlaxRobertaForTokenClassification):
    """See FlaxRobertaForTokenClassification."""


class FlaxCamembertForQuestionAnswering(FlaxRobertaForQuestionAnswering):
    """See FlaxRobertaForQuestionAnswering."""
