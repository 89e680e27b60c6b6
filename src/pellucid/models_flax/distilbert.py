"""DistilBERT in Flax: BERT of half the layers, without token types and pooler; see models/distilbert.py.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..flax_attention import FlaxLayout, attend, join_heads, split_heads
from ..flax_layers import Embedding, LayerNorm, Linear, binary_cross_entropy, cross_entropy, token_loss
from ..flax_model import FlaxModel
from ..models.distilbert import EPS, DistilBertConfig
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


class FlaxDistilBertEmbeddings(nnx.Module):
    """Word and position embeddings, summed and normalised."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.word_embeddings = Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.dim)
        self.LayerNorm = LayerNorm(config.dim, eps=EPS)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, words: Array, positions: Array) -> Array:
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class FlaxDistilBertAttention(nnx.Module):
    """Multi-head attention with its output projection."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.head_size = config.dim // config.n_heads
        self.dropout = nnx.Dropout(config.attention_dropout, rngs=rngs)
        self.q_lin = Linear(config.dim, config.dim)
        self.k_lin = Linear(config.dim, config.dim)
        self.v_lin = Linear(config.dim, config.dim)
        self.out_lin = Linear(config.dim, config.dim)

    def __call__(self, x: Array, layout: FlaxLayout) -> Array:
        q, k, v = (split_heads(project(x), self.head_size) for project in (self.q_lin, self.k_lin, self.v_lin))
        return self.out_lin(join_heads(attend(q, k, v, layout, dropout=self.dropout)))  # (B, T, E)


class FlaxDistilBertFeedForward(nnx.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.lin1 = Linear(config.dim, config.hidden_dim)
        self.lin2 = Linear(config.hidden_dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class FlaxDistilBertLayer(nnx.Module):
    """One layer: attention, then feed-forward, each with its residual sum and norm."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.attention = FlaxDistilBertAttention(config, rngs)
        self.sa_layer_norm = LayerNorm(config.dim, eps=EPS)
        self.ffn = FlaxDistilBertFeedForward(config, rngs)
        self.output_layer_norm = LayerNorm(config.dim, eps=EPS)

    def __call__(self, x: Array, layout: FlaxLayout) -> Array:
        x = self.sa_layer_norm(self.attention(x, layout) + x)
        return self.output_layer_norm(self.ffn(x) + x)


class FlaxDistilBertTransformer(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: DistilBertConfig, rngs: nnx.Rngs):
        self.layer = nnx.List(FlaxDistilBertLayer(config, rngs) for _ in range(config.n_layers))

    def __call__(self, x: Array, layout: FlaxLayout) -> Array:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class FlaxDistilBertModel(FlaxModel):
    """The encoder without a task head."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.embeddings = FlaxDistilBertEmbeddings(config, rngs)
        self.transformer = FlaxDistilBertTransformer(config, rngs)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(tokens) if inputs_embeds is None else inputs_embeds
        positions = layout.positions if position_ids is None else position_ids
        return Hidden(last_hidden_state=self.transformer(self.embeddings(words, positions), layout))  # (B, T, E)


class FlaxDistilBertForMaskedLM(FlaxModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.distilbert = FlaxDistilBertModel(config, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]
        self.vocab_transform = Linear(config.dim, config.dim)
        self.vocab_layer_norm = LayerNorm(config.dim, eps=EPS)
        self.vocab_projector = Linear(config.dim, config.vocab_size)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.distilbert(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        x = self.vocab_layer_norm(self.activation(self.vocab_transform(x)))
        logits = self.vocab_projector(x)  # (B, T, V)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxDistilBertForSequenceClassification(FlaxModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.distilbert = FlaxDistilBertModel(config, rngs=rngs)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, config.num_labels)
        self.dropout = nnx.Dropout(config.seq_classif_dropout, rngs=rngs)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = FlaxLayout.of(tokens, attention_mask)
        x = self.distilbert(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        x = self.dropout(jax.nn.relu(self.pre_classifier(layout.first(x))))  # (B, E)
        logits = self.classifier(x)  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FlaxDistilBertForMultipleChoice(FlaxModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.distilbert = FlaxDistilBertModel(config, rngs=rngs)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, 1)
        self.dropout = nnx.Dropout(config.seq_classif_dropout, rngs=rngs)

    def forward(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the choices, (B, C, T) to (B, C); `labels`: (B,), the right ones."""
        given = (input_ids, attention_mask, position_ids)
        ids, mask, positions = (None if part is None else part.reshape(-1, part.shape[-1]) for part in given)
        layout = FlaxLayout.of(self.one_of(input_ids=ids), mask)  # (B * C, T)
        x = self.distilbert(ids, layout, positions).last_hidden_state
        x = self.dropout(jax.nn.relu(self.pre_classifier(layout.first(x))))
        logits = self.classifier(x).reshape(-1, input_ids.shape[-2])  # (B, C)
        return Logits(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


class FlaxDistilBertForTokenClassification(FlaxModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.distilbert = FlaxDistilBertModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.classifier = Linear(config.dim, config.num_labels)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        labels: Array | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.distilbert(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        return Logits(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class FlaxDistilBertForQuestionAnswering(FlaxModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config)
        self.distilbert = FlaxDistilBertModel(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.qa_dropout, rngs=rngs)
        self.qa_outputs = Linear(config.dim, 2)

    def forward(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | FlaxLayout | None = None,
        position_ids: Array | None = None,
        inputs_embeds: Array | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.distilbert(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = jnp.moveaxis(self.qa_outputs(self.dropout(x)), -1, 0)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
