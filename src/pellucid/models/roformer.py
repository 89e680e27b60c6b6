"""RoFormer: BERT with rotary positions, which it introduced.

Paper: Su et al., 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", https://arxiv.org/abs/2104.09864

What sets it apart from BERT:
  - no learned positions: neighbouring dimensions of queries and keys, and optionally of values, are turned as pairs by
    an angle that grows with the position
  - the embeddings may be narrower than the layers
  - no pooler; the heads are ELECTRA's

Shapes: B batch, C choices, T tokens, M embedding, E hidden, H heads, D head size, V vocabulary, L labels. A packed
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


class RoFormerConfig(Config):
    """The configuration of RoFormer; the defaults are those of roformer_chinese_base."""

    model_type = "roformer"
    inert = {
        "position_embedding_type": "absolute",
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
        "summary_proj_to_labels": False,
    }

    vocab_size: int = 50000
    embedding_size: int | None = None  # None for hidden_size
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1536
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    rotary_value: bool = False
    summary_type: str = "last"  # for multiple choice: which token stands for the text
    summary_use_proj: bool = False
    summary_activation: str | None = None
    summary_first_dropout: float = 0.0
    summary_last_dropout: float = 0.0
    pad_token_id: int | None = 0
    is_decoder: bool = False  # whether tokens look back only
    add_cross_attention: bool = False  # whether a decoder's layers can look at what an encoder has read

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        size, heads = self.hidden_size, self.num_attention_heads
        if size % (2 * heads):
            yield f"hidden_size ({size}) is not a multiple of twice num_attention_heads ({heads})"
        for name in ("hidden_act", *["summary_activation"] * bool(self.summary_activation)):
            if getattr(self, name) not in ACTIVATIONS:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.summary_type not in ("last", "first", "mean"):
            yield f"summary_type is {self.summary_type!r}; expected 'last', 'first' or 'mean'"
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


# twin: modernbert.rotations
def rotations(positions: Tensor, size: int, theta: float) -> Tensor:
    """The angles by which the pairs of a head's dimensions are turned at each position, (B, T) to (B, 1, T, D / 2)."""
    speeds = theta ** -(torch.arange(0, size, 2, device=positions.device) / size)  # (D / 2,)
    return positions[:, None, :, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn dimension 2 i with dimension 2 i + 1, (B, H, T, D)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


class RoFormerEmbeddings(nn.Module):
    """Word and token-type embeddings, summed and normalised."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, token_types: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(words + self.token_type_embeddings(token_types)))  # (B, T, M)


class RoFormerSelfAttention(nn.Module):
    """Multi-head attention with rotated queries and keys, without its output projection."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout, self.rotary_value = config.attention_probs_dropout_prob, config.rotary_value
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        v = rotate(v, angles) if self.rotary_value else v
        x = attend(rotate(q, angles), rotate(k, angles), v, layout, dropout=self.dropout if self.training else 0.0)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)


class RoFormerResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: RoFormerConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class RoFormerAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.self = RoFormerSelfAttention(config)
        self.output = RoFormerResidual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        return self.output(self.self(x, layout, angles), residual=x)


class RoFormerIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class RoFormerLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.attention = RoFormerAttention(config)
        self.intermediate = RoFormerIntermediate(config)
        self.output = RoFormerResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        x = self.attention(x, layout, angles)
        return self.output(self.intermediate(x), residual=x)


class RoFormerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.layer = nn.ModuleList(RoFormerLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, angles)
        return x


class RoFormerPreTrainedModel(Model):
    """What all classes of this file share."""

    config: RoFormerConfig
    config_class = RoFormerConfig
    prefix = "roformer"
    stack = "encoder.layer"
    unread = ("position_ids", "encoder.embed_positions.weight")  # the sines and cosines of the rotations
    legacy_names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's, of 2018


class RoFormerModel(RoFormerPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        if config.is_decoder:
            raise ConfigError(
                "is_decoder is True, but RoFormerModel looks to both sides; load the decoder with "
                "AutoModelForCausalLM, or pass is_decoder=False, add_cross_attention=False to make an encoder of it."
            )
        self.embeddings = RoFormerEmbeddings(config)
        narrow, wide = config.embedding_size or config.hidden_size, config.hidden_size
        self.embeddings_project = nn.Linear(narrow, wide) if narrow != wide else None
        self.encoder = RoFormerEncoder(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0.
            inputs_embeds: word embeddings, (B, T, M), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        x = self.embeddings(words, token_types)
        x = x if self.embeddings_project is None else self.embeddings_project(x)  # (B, T, E)
        angles = rotations(layout.positions, self.config.hidden_size // self.config.num_attention_heads, 10000.0)
        return Hidden(last_hidden_state=self.encoder(x, layout, angles))


class RoFormerPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores, to the size of the word embeddings."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.dense = nn.Linear(config.hidden_size, size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class RoFormerLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.transform = RoFormerPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.embedding_size or config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class RoFormerOnlyMLMHead(nn.Module):
    """The head of the masked words."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.predictions = RoFormerLMPredictionHead(config)


TIED = {
    "cls.predictions.decoder.weight": "roformer.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class RoFormerForMaskedLM(RoFormerPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = TIED

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        self.roformer = RoFormerModel(config)
        self.cls = RoFormerOnlyMLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.roformer(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class RoFormerClassificationHead(nn.Module):
    """Scores of labels, from the first token of a text."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: convbert.ConvBertClassificationHead.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.activation(self.dense(self.dropout(layout.first(x))))  # (B, E)
        return self.out_proj(self.dropout(x))


class RoFormerForSequenceClassification(RoFormerPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        self.roformer = RoFormerModel(config)
        self.classifier = RoFormerClassificationHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.roformer(input_ids, layout, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(x, layout)  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class RoFormerSequenceSummary(nn.Module):
    """One vector a text, from its last token, its first or all."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.kind = config.summary_type
        self.summary = nn.Linear(config.hidden_size, config.hidden_size) if config.summary_use_proj else nn.Identity()
        self.activation = ACTIVATIONS[config.summary_activation] if config.summary_activation else nn.Identity()
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.last_dropout = nn.Dropout(config.summary_last_dropout)

    # twin: convbert.ConvBertSequenceSummary.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        pick = {"last": layout.last, "first": layout.first, "mean": layout.mean}[self.kind]
        return self.last_dropout(self.activation(self.summary(self.first_dropout(pick(x)))))  # (B, E)


class RoFormerForMultipleChoice(RoFormerPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        self.roformer = RoFormerModel(config)
        self.sequence_summary = RoFormerSequenceSummary(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices: (B, C, T) gives (B, C), (C, T) or packed texts (1, C); `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        questions = tokens.shape[0] if nested else 1
        if nested:
            tokens, attention_mask = flatten_choices(tokens), flatten_choices(attention_mask)
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            token_type_ids = flatten_choices(token_type_ids)
        layout = Layout.of(tokens, attention_mask)
        x = self.roformer(input_ids, layout, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.sequence_summary(x, layout)).view(questions, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class RoFormerForTokenClassification(RoFormerPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        self.roformer = RoFormerModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.roformer(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class RoFormerForQuestionAnswering(RoFormerPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        self.roformer = RoFormerModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.roformer(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
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


class RoFormerDecoderSelfAttention(RoFormerSelfAttention):
    """Attention to the tokens so far; or to what an encoder has read, where nothing is turned."""

    def __init__(self, config: RoFormerConfig, index: int):
        super().__init__(config)
        self.index = index

    def forward(  # type: ignore[override]
        self, x: Tensor, layout: Layout, angles: Tensor, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        q, dropout = self.split(self.query(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = rotate(self.split(self.key(x)), angles), self.split(self.value(x))  # (B, H, T, D)
            v = rotate(v, angles) if self.rotary_value else v
            if cache is not None:
                k, v = cache.update(self.index, k, v)
            x = attend(rotate(q, angles), k, v, layout, causal=True, dropout=dropout)
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


class RoFormerDecoderAttention(nn.Module):
    """Such attention, and what ends it."""

    def __init__(self, config: RoFormerConfig, index: int):
        super().__init__()
        self.self = RoFormerDecoderSelfAttention(config, index)
        self.output = RoFormerResidual(config, config.hidden_size)

    def forward(
        self, x: Tensor, layout: Layout, angles: Tensor, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        return self.output(self.self(x, layout, angles, cache, source), residual=x)


class RoFormerDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: RoFormerConfig, index: int):
        super().__init__()
        self.attention = RoFormerDecoderAttention(config, index)
        if config.add_cross_attention:
            self.crossattention = RoFormerDecoderAttention(config, index)
        self.intermediate = RoFormerIntermediate(config)
        self.output = RoFormerResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.attention(x, layout, angles, cache)
        if source is not None:
            x = self.crossattention(x, layout, angles, cache, source)
        return self.output(self.intermediate(x), residual=x)


class RoFormerDecoderStack(nn.Module):
    """The stack of layers, which checkpoints call an encoder all the same."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.layer = nn.ModuleList(RoFormerDecoderLayer(config, i) for i in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout, angles: Tensor, cache: Cache | None, source: Source | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, angles, cache, source)
        return x


class RoFormerDecoderModel(RoFormerPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        if not config.is_decoder:
            raise ConfigError(
                "is_decoder is False, but a decoder only looks back; pass is_decoder=True to make one of an encoder, "
                "which is to be trained before use, or load a model that looks to both sides: AutoModelForMaskedLM."
            )
        self.embeddings = RoFormerEmbeddings(config)
        narrow, wide = config.embedding_size or config.hidden_size, config.hidden_size
        self.embeddings_project = nn.Linear(narrow, wide) if narrow != wide else None
        self.encoder = RoFormerDecoderStack(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        """Read a batch, (B, T), behind what is in `cache`; the arguments are those of `RoFormerModel` and these two.

        `source` is what an encoder has read, for a model with `add_cross_attention`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        x = self.embeddings(words, token_types)
        x = x if self.embeddings_project is None else self.embeddings_project(x)  # (B, T, E)
        angles = rotations(layout.positions, self.config.hidden_size // self.config.num_attention_heads, 10000.0)
        return Hidden(last_hidden_state=self.encoder(x, layout, angles, cache, source))


class RoFormerForCausalLM(RoFormerPreTrainedModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    tied = TIED

    def __init__(self, config: RoFormerConfig):
        super().__init__(config)
        self.roformer = RoFormerDecoderModel(config)
        self.cls = RoFormerOnlyMLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
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
        out = self.roformer(input_ids, layout, token_type_ids, inputs_embeds, cache, source)
        logits = self.cls.predictions(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
