"""XLM-RoBERTa-XL: XLM-RoBERTa at three and ten billion parameters, with its norms before each sub-layer.

Paper: Goyal et al., 2021, "Larger-Scale Transformers for Multilingual Masked Language Modeling",
https://arxiv.org/abs/2105.00572

What sets it apart from RoBERTa:
  - LayerNorm before each sub-layer, and once more after the last layer; none on the embeddings
As there,
  - the first token sits at position pad_token_id + 1, so a table of 514 rows reads 512 tokens
  - classifiers read the first token, <s>, through two layers of their own; the pooler is for multiple choice alone
  - the vocabulary scores' non-linear step is always GELU
  - the same layers serve as a decoder; see the end of the file

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


class XLMRobertaXLConfig(Config):
    """The configuration of XLM-RoBERTa-XL; the defaults are those of facebook/xlm-roberta-xl."""

    model_type = "xlm-roberta-xl"
    inert = {
        "position_embedding_type": "absolute",
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 250880
    hidden_size: int = 2560
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    intermediate_size: int = 10240
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    classifier_dropout: float | None = None
    is_decoder: bool = False  # whether tokens look back only
    add_cross_attention: bool = False  # whether a decoder's layers can look at what an encoder has read

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
        if self.add_cross_attention and not self.is_decoder:
            yield "add_cross_attention is True, but is_decoder is False; only a decoder can look at a source"


def classifier_dropout(config: XLMRobertaXLConfig) -> float:
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


class XLMRobertaXLEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        rows, size, pad = config.max_position_embeddings, config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(rows, size, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(x)


class XLMRobertaXLSelfAttention(nn.Module):
    """Multi-head attention, without its output projection."""

    def __init__(self, config: XLMRobertaXLConfig):
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


class XLMRobertaXLResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum."""

    def __init__(self, config: XLMRobertaXLConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self.dropout(self.dense(x))


class XLMRobertaXLAttention(nn.Module):
    """The first half of a layer, with its norm."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self = XLMRobertaXLSelfAttention(config)
        self.output = XLMRobertaXLResidual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(self.self_attn_layer_norm(x), layout), residual=x)


class XLMRobertaXLIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class XLMRobertaXLLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward, each after a norm."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.attention = XLMRobertaXLAttention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = XLMRobertaXLIntermediate(config)
        self.output = XLMRobertaXLResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(self.LayerNorm(x)), residual=x)


class XLMRobertaXLEncoder(nn.Module):
    """The stack of layers, and a last norm."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.layer = nn.ModuleList(XLMRobertaXLLayer(config) for _ in range(config.num_hidden_layers))
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return self.LayerNorm(x)


class XLMRobertaXLPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class XLMRobertaXLPreTrainedModel(Model):
    """What all classes of this file share."""

    config: XLMRobertaXLConfig
    config_class = XLMRobertaXLConfig
    prefix = "roberta"
    stack = "encoder.layer"
    optional = ("pooler",)  # only multiple choice needs it


class XLMRobertaXLModel(XLMRobertaXLPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: XLMRobertaXLConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.is_decoder:
            raise ConfigError(
                "is_decoder is True, but XLMRobertaXLModel looks to both sides; load the decoder with "
                "AutoModelForCausalLM, or pass is_decoder=False, add_cross_attention=False to make an encoder of it."
            )
        self.embeddings = XLMRobertaXLEmbeddings(config)
        self.encoder = XLMRobertaXLEncoder(config)
        self.pooler = XLMRobertaXLPooler(config) if add_pooling_layer else None
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
            input_ids: token ids, (B, T), T at most `config.max_tokens`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T); None for all 0. Most checkpoints know no other.
            position_ids: (B, T), rows of the position table; None to count from each text's first real token, which
                has `config.first_position`.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions + self.config.first_position if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class XLMRobertaXLLMHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: roberta.RobertaLMHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


TIED = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}


class XLMRobertaXLForMaskedLM(XLMRobertaXLPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = TIED

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.lm_head = XLMRobertaXLLMHead(config)
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
        hidden = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        x = hidden.last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class XLMRobertaXLClassificationHead(nn.Module):
    """Scores of labels from a text's first token, by way of a non-linear step."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    # twin: roberta.RobertaClassificationHead.forward
    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.dense(self.dropout(x)))  # (B, E)
        return self.out_proj(self.dropout(x))


class XLMRobertaXLForSequenceClassification(XLMRobertaXLPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.classifier = XLMRobertaXLClassificationHead(config)
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
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        hidden = self.roberta(input_ids, layout, token_type_ids, position_ids, inputs_embeds)
        x = hidden.last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class XLMRobertaXLForMultipleChoice(XLMRobertaXLPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
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
        hidden = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        scores = self.classifier(self.dropout(hidden.pooler_output))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class XLMRobertaXLForTokenClassification(XLMRobertaXLPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
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
        hidden = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        x = hidden.last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class XLMRobertaXLForQuestionAnswering(XLMRobertaXLPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
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
        hidden = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
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


class XLMRobertaXLDecoderSelfAttention(XLMRobertaXLSelfAttention):
    """Attention to the tokens so far, or to what an encoder has read."""

    def __init__(self, config: XLMRobertaXLConfig, index: int):
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


class XLMRobertaXLDecoderAttention(nn.Module):
    """Such attention, its norm before and what ends it."""

    def __init__(self, config: XLMRobertaXLConfig, index: int):
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self = XLMRobertaXLDecoderSelfAttention(config, index)
        self.output = XLMRobertaXLResidual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None = None) -> Tensor:
        return self.output(self.self(self.self_attn_layer_norm(x), layout, cache, source), residual=x)


class XLMRobertaXLDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: XLMRobertaXLConfig, index: int):
        super().__init__()
        self.attention = XLMRobertaXLDecoderAttention(config, index)
        if config.add_cross_attention:
            self.crossattention = XLMRobertaXLDecoderAttention(config, index)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = XLMRobertaXLIntermediate(config)
        self.output = XLMRobertaXLResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.attention(x, layout, cache)
        if source is not None:
            x = self.crossattention(x, layout, cache, source)
        return self.output(self.intermediate(self.LayerNorm(x)), residual=x)


class XLMRobertaXLDecoderStack(nn.Module):
    """The stack of layers and a last norm, which checkpoints call an encoder all the same."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__()
        self.layer = nn.ModuleList(XLMRobertaXLDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, cache, source)
        return self.LayerNorm(x)


class XLMRobertaXLDecoderModel(XLMRobertaXLPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        if not config.is_decoder:
            raise ConfigError(
                "is_decoder is False, but a decoder only looks back; pass is_decoder=True to make one of an encoder, "
                "which is to be trained before use, or load a model that looks to both sides: AutoModelForMaskedLM."
            )
        self.embeddings = XLMRobertaXLEmbeddings(config)
        self.encoder = XLMRobertaXLDecoderStack(config)
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
        """Read a batch, (B, T), behind what is in `cache`; the arguments are those of the encoder and these two.

        `source` is what an encoder has read, for a model with `add_cross_attention`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions + self.config.first_position if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout, cache, source)  # (B, T, E)
        return Hidden(last_hidden_state=x)


class XLMRobertaXLForCausalLM(XLMRobertaXLPreTrainedModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    tied = TIED

    def __init__(self, config: XLMRobertaXLConfig):
        super().__init__(config)
        self.roberta = XLMRobertaXLDecoderModel(config)
        self.lm_head = XLMRobertaXLLMHead(config)
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
        out = self.roberta(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache, source)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
