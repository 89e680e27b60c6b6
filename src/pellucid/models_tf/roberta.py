"""RoBERTa in Keras: BERT's encoder with positions that begin after the padding id; see models/roberta.py.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels.
"""

from functools import partial

import keras
from keras import ops
from tensorflow import Tensor

from ..errors import ConfigError, InputError
from ..models.roberta import RobertaConfig, classifier_dropout
from ..outputs import Hidden, Logits, Spans
from ..tf_attention import TFCache, TFLayout, attend, join_heads, split_heads
from ..tf_layers import Embedding, Layer, LayerNorm, Linear, binary_cross_entropy, cross_entropy, token_loss
from ..tf_model import TFModel

# twin: bert.ACTIVATIONS
ACTIVATIONS = {
    "gelu": partial(ops.gelu, approximate=False),
    "gelu_fast": ops.gelu,
    "gelu_new": ops.gelu,
    "gelu_pytorch_tanh": ops.gelu,
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
}


# twin: bert.classification_loss
def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of one label a text, of several, or of numbers; without `problem_type` the labels' form decides."""
    if problem_type is None:
        single = labels.dtype.is_integer
        problem_type = "regression" if logits.shape[-1] == 1 else "single_label" if single else "multi_label"
    if problem_type == "regression":
        return ops.mean(ops.square(ops.reshape(logits, (-1,)) - ops.cast(ops.reshape(labels, (-1,)), logits.dtype)))
    if problem_type.startswith("multi_label"):
        return binary_cross_entropy(logits, labels)
    return cross_entropy(logits, ops.reshape(labels, (-1,)))


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = ops.shape(logits)[1]
    return cross_entropy(logits, ops.clip(ops.reshape(positions, (-1,)), 0, length), ignore=length)


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: TFLayout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    return token_loss(logits[:, :-1], ops.where(layout.positions[:, 1:] == 0, -100, labels[:, 1:]))


class TFRobertaEmbeddings(Layer):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        rows, size, pad = config.max_position_embeddings, config.hidden_size, config.pad_token_id
        self.word_embeddings = Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = Embedding(rows, size, padding_idx=pad)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob)

    # twin: bert.TFBertEmbeddings.call
    def call(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class TFRobertaSelfAttention(Layer):
    """Multi-head attention, of a decoder to the tokens so far, without its output projection."""

    def __init__(self, config: RobertaConfig, index: int):
        super().__init__()
        self.index, self.causal = index, config.is_decoder
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)
        self.dropout = keras.layers.Dropout(config.attention_probs_dropout_prob)

    # twin: bert.TFBertSelfAttention.call
    def call(self, x: Tensor, layout: TFLayout, cache: TFCache | None) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.query, self.key, self.value))
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        return join_heads(attend(q, k, v, layout, causal=self.causal, dropout=self.dropout))


class TFRobertaResidual(Layer):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: RobertaConfig, size: int):
        super().__init__()
        self.dense = Linear(size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob)

    # twin: bert.TFBertResidual.call
    def call(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class TFRobertaAttention(Layer):
    """The first half of a layer."""

    checkpoint_names = {"end": "output"}  # Keras has an output of its own

    def __init__(self, config: RobertaConfig, index: int):
        super().__init__()
        self.self = TFRobertaSelfAttention(config, index)
        self.end = TFRobertaResidual(config, config.hidden_size)

    # twin: bert.TFBertAttention.call
    def call(self, x: Tensor, layout: TFLayout, cache: TFCache | None) -> Tensor:
        return self.end(self.self(x, layout=layout, cache=cache), residual=x)


class TFRobertaIntermediate(Layer):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.TFBertIntermediate.call
    def call(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class TFRobertaLayer(Layer):
    """One layer: attention, then a position-wise feed-forward."""

    checkpoint_names = {"end": "output"}  # Keras has an output of its own

    def __init__(self, config: RobertaConfig, index: int):
        super().__init__()
        self.attention = TFRobertaAttention(config, index)
        self.intermediate = TFRobertaIntermediate(config)
        self.end = TFRobertaResidual(config, config.intermediate_size)

    # twin: bert.TFBertLayer.call
    def call(self, x: Tensor, layout: TFLayout, cache: TFCache | None) -> Tensor:
        x = self.attention(x, layout=layout, cache=cache)
        return self.end(self.intermediate(x), residual=x)


class TFRobertaEncoder(Layer):
    """The stack of layers."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.layer = [TFRobertaLayer(config, i) for i in range(config.num_hidden_layers)]

    # twin: bert.TFBertEncoder.call
    def call(self, x: Tensor, layout: TFLayout, cache: TFCache | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout=layout, cache=cache)
        return x


class TFRobertaPooler(Layer):
    """One vector a text, from its first token."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    # twin: bert.TFBertPooler.call
    def call(self, x: Tensor, layout: TFLayout) -> Tensor:
        return ops.tanh(self.dense(layout.first(x)))  # (B, E)


class TFRobertaModel(TFModel):
    """The encoder without a task head; or, where the config says so, a decoder."""

    def __init__(self, config: RobertaConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.add_cross_attention:
            raise ConfigError("add_cross_attention is True, which only PyTorch implements; use RobertaForCausalLM.")
        self.embeddings = TFRobertaEmbeddings(config)
        self.encoder = TFRobertaEncoder(config)
        self.pooler = TFRobertaPooler(config) if add_pooling_layer else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
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
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = ops.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions + self.config.first_position if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout=layout, cache=cache)  # (B, T, E)
        pooled = None if self.pooler is None else self.pooler(x, layout=layout)
        return Hidden(last_hidden_state=x, pooler_output=pooled)


class TFRobertaLMHead(Layer):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.bias = self.parameter("bias", config.vocab_size)  # the checkpoint's second name of the decoder's bias

    def call(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(ops.gelu(self.dense(x), approximate=False)))


class TFRobertaForMaskedLM(TFModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = TFRobertaModel(config, add_pooling_layer=False)
        self.lm_head = TFRobertaLMHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.roberta.forward(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFRobertaForCausalLM(TFModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = TFRobertaModel(config, add_pooling_layer=False)
        self.lm_head = TFRobertaLMHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: TFCache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        out = self.roberta.forward(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)

    def empty_cache(self, batch: int, size: int) -> TFCache:
        """Make a cache with room for `size` tokens of each of `batch` texts."""
        config, heads = self.config, self.config.num_attention_heads
        return TFCache.of(config.num_hidden_layers, batch, heads, size, config.hidden_size // heads, self.compute_dtype)


class TFRobertaClassificationHead(Layer):
    """Scores of labels from a text's first token, by way of a non-linear step."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dropout = keras.layers.Dropout(classifier_dropout(config))
        self.out_proj = Linear(config.hidden_size, config.num_labels)

    def call(self, x: Tensor) -> Tensor:
        x = ops.tanh(self.dense(self.dropout(x)))  # (B, E)
        return self.out_proj(self.dropout(x))


class TFRobertaForSequenceClassification(TFModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = TFRobertaModel(config, add_pooling_layer=False)
        self.classifier = TFRobertaClassificationHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        layout = TFLayout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.roberta.forward(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class TFRobertaForMultipleChoice(TFModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = TFRobertaModel(config)
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob)
        self.classifier = Linear(config.hidden_size, 1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices, (B, C, T) to (B, C); `labels`: (B,), the right ones."""
        given = (input_ids, attention_mask, token_type_ids, position_ids)
        texts = [None if part is None else ops.reshape(part, (-1, ops.shape(part)[-1])) for part in given]  # (B * C, T)
        pooled = self.roberta.forward(*texts).pooler_output
        logits = ops.reshape(self.classifier(self.dropout(pooled)), (-1, ops.shape(input_ids)[-2]))  # (B, C)
        return Logits(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


class TFRobertaForTokenClassification(TFModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = TFRobertaModel(config, add_pooling_layer=False)
        self.dropout = keras.layers.Dropout(classifier_dropout(config))
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.roberta.forward(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFRobertaForQuestionAnswering(TFModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = TFRobertaModel(config, add_pooling_layer=False)
        self.qa_outputs = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.roberta.forward(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        start, end = ops.unstack(self.qa_outputs(x), axis=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- XLM-RoBERTa: the same network, trained on a hundred languages ----------------------------------------------------


class TFXLMRobertaModel(TFRobertaModel):
    """See TFRobertaModel."""


class TFXLMRobertaForMaskedLM(TFRobertaForMaskedLM):
    """See TFRobertaForMaskedLM."""


class TFXLMRobertaForCausalLM(TFRobertaForCausalLM):
    """See TFRobertaForCausalLM."""


class TFXLMRobertaForSequenceClassification(TFRobertaForSequenceClassification):
    """See TFRobertaForSequenceClassification."""


class TFXLMRobertaForMultipleChoice(TFRobertaForMultipleChoice):
    """See TFRobertaForMultipleChoice."""


class TFXLMRobertaForTokenClassification(TFRobertaForTokenClassification):
    """See TFRobertaForTokenClassification."""


class TFXLMRobertaForQuestionAnswering(TFRobertaForQuestionAnswering):
    """See TFRobertaForQuestionAnswering."""


# --- CamemBERT: the same network, trained on French -------------------------------------------------------------------


class TFCamembertModel(TFRobertaModel):
    """See TFRobertaModel."""


class TFCamembertForMaskedLM(TFRobertaForMaskedLM):
    """See TFRobertaForMaskedLM."""


class TFCamembertForCausalLM(TFRobertaForCausalLM):
    """See TFRobertaForCausalLM."""


class TFCamembertForSequenceClassification(TFRobertaForSequenceClassification):
    """See TFRobertaForSequenceClassification."""


class TFCamembertForMultipleChoice(TFRobertaForMultipleChoice):
    """See TFRobertaForMultipleChoice."""


class TFCamembertForTokenClassification(TFRobertaForTokenClassification):
    """See TFRobertaForTokenClassification."""


class TFCamembertForQuestionAnswering(TFRobertaForQuestionAnswering):
    """See TFRobertaForQuestionAnswering."""
