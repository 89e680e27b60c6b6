"""DistilBERT in Keras: BERT of half the layers, without token types and pooler; see models/distilbert.py.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels.
"""

from functools import partial

import keras
from keras import ops
from tensorflow import Tensor

from ..models.distilbert import EPS, DistilBertConfig
from ..outputs import Hidden, Logits, Spans
from ..tf_attention import TFLayout, attend, join_heads, split_heads
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


class TFDistilBertEmbeddings(Layer):
    """Word and position embeddings, summed and normalised."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.dim)
        self.LayerNorm = LayerNorm(config.dim, eps=EPS)
        self.dropout = keras.layers.Dropout(config.dropout)

    def call(self, words: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class TFDistilBertAttention(Layer):
    """Multi-head attention with its output projection."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.head_size = config.dim // config.n_heads
        self.dropout = keras.layers.Dropout(config.attention_dropout)
        self.q_lin = Linear(config.dim, config.dim)
        self.k_lin = Linear(config.dim, config.dim)
        self.v_lin = Linear(config.dim, config.dim)
        self.out_lin = Linear(config.dim, config.dim)

    def call(self, x: Tensor, layout: TFLayout) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.q_lin, self.k_lin, self.v_lin))
        return self.out_lin(join_heads(attend(q, k, v, layout, dropout=self.dropout)))  # (B, T, E)


class TFDistilBertFeedForward(Layer):
    """The position-wise half of a layer."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.lin1 = Linear(config.dim, config.hidden_dim)
        self.lin2 = Linear(config.hidden_dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = keras.layers.Dropout(config.dropout)

    def call(self, x: Tensor) -> Tensor:
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class TFDistilBertLayer(Layer):
    """One layer: attention, then feed-forward, each with its residual sum and norm."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.attention = TFDistilBertAttention(config)
        self.sa_layer_norm = LayerNorm(config.dim, eps=EPS)
        self.ffn = TFDistilBertFeedForward(config)
        self.output_layer_norm = LayerNorm(config.dim, eps=EPS)

    def call(self, x: Tensor, layout: TFLayout) -> Tensor:
        x = self.sa_layer_norm(self.attention(x, layout=layout) + x)
        return self.output_layer_norm(self.ffn(x) + x)


class TFDistilBertTransformer(Layer):
    """The stack of layers."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.layer = [TFDistilBertLayer(config) for _ in range(config.n_layers)]

    def call(self, x: Tensor, layout: TFLayout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout=layout)
        return x


class TFDistilBertModel(TFModel):
    """The encoder without a task head."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.embeddings = TFDistilBertEmbeddings(config)
        self.transformer = TFDistilBertTransformer(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = TFLayout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        positions = layout.positions if position_ids is None else position_ids
        return Hidden(last_hidden_state=self.transformer(self.embeddings(words, positions), layout=layout))  # (B, T, E)


class TFDistilBertForMaskedLM(TFModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = TFDistilBertModel(config)
        self.activation = ACTIVATIONS[config.activation]
        self.vocab_transform = Linear(config.dim, config.dim)
        self.vocab_layer_norm = LayerNorm(config.dim, eps=EPS)
        self.vocab_projector = Linear(config.dim, config.vocab_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.distilbert.forward(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        x = self.vocab_layer_norm(self.activation(self.vocab_transform(x)))
        logits = self.vocab_projector(x)  # (B, T, V)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFDistilBertForSequenceClassification(TFModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = TFDistilBertModel(config)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, config.num_labels)
        self.dropout = keras.layers.Dropout(config.seq_classif_dropout)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = TFLayout.of(tokens, attention_mask)
        x = self.distilbert.forward(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        x = self.dropout(ops.relu(self.pre_classifier(layout.first(x))))  # (B, E)
        logits = self.classifier(x)  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class TFDistilBertForMultipleChoice(TFModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = TFDistilBertModel(config)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, 1)
        self.dropout = keras.layers.Dropout(config.seq_classif_dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices, (B, C, T) to (B, C); `labels`: (B,), the right ones."""
        given = (input_ids, attention_mask, position_ids)
        ids, mask, positions = (
            None if part is None else ops.reshape(part, (-1, ops.shape(part)[-1])) for part in given
        )
        layout = TFLayout.of(self.one_of(input_ids=ids), mask)  # (B * C, T)
        x = self.distilbert.forward(ids, layout, positions).last_hidden_state
        x = self.dropout(ops.relu(self.pre_classifier(layout.first(x))))
        logits = ops.reshape(self.classifier(x), (-1, ops.shape(input_ids)[-2]))  # (B, C)
        return Logits(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


class TFDistilBertForTokenClassification(TFModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = TFDistilBertModel(config)
        self.dropout = keras.layers.Dropout(config.dropout)
        self.classifier = Linear(config.dim, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.distilbert.forward(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class TFDistilBertForQuestionAnswering(TFModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = TFDistilBertModel(config)
        self.dropout = keras.layers.Dropout(config.qa_dropout)
        self.qa_outputs = Linear(config.dim, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | TFLayout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.distilbert.forward(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = ops.unstack(self.qa_outputs(self.dropout(x)), axis=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
