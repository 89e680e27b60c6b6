"""ConvBERT: BERT in which half of the attention is replaced by convolutions over what stands near.

Paper: Jiang et al., 2020, "ConvBERT: Improving BERT with Span-based Dynamic Convolution",
https://arxiv.org/abs/2008.02496

What sets it apart from BERT:
  - a token weighs its neighbours by a kernel that is made, by softmax, from its query and a convolution of the keys
    around it; that goes beside an attention of fewer and smaller heads
  - the embeddings may be narrower than the layers, and the feed-forward's two matrices may be block-diagonal
  - no pooler; the heads are ELECTRA's

Shapes: B batch, C choices, T tokens, M embedding, E hidden, A attention, H heads, D head size, K kernel, G groups,
V vocabulary, L labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row
a packed text. Convolutions unpack it, since texts must not run into each other.
"""

from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
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


class ConvBertConfig(Config):
    """The configuration of ConvBERT; the defaults are those of conv-bert-base."""

    model_type = "convbert"
    inert = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
        "summary_proj_to_labels": False,
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
    embedding_size: int = 768
    head_ratio: int = 2  # how many times fewer heads there are than num_attention_heads says
    conv_kernel_size: int = 9
    num_groups: int = 1
    summary_type: str = "last"  # for multiple choice: which token stands for the text
    summary_use_proj: bool = False
    summary_activation: str | None = None
    summary_first_dropout: float = 0.0
    summary_last_dropout: float = 0.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    classifier_dropout: float | None = None

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return max(1, self.num_attention_heads // self.head_ratio)

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.head_ratio < 1 or self.num_groups < 1:
            yield f"head_ratio is {self.head_ratio}, num_groups {self.num_groups}; expected at least 1 of each"
            return
        if self.hidden_size % (2 * self.heads):
            yield f"hidden_size ({self.hidden_size}) is not a multiple of twice the heads ({self.heads})"
        if not self.conv_kernel_size % 2:
            yield f"conv_kernel_size is {self.conv_kernel_size}; expected an odd number"
        for name in ("hidden_size", "intermediate_size"):
            if getattr(self, name) % self.num_groups:
                yield f"{name} ({getattr(self, name)}) is not a multiple of num_groups ({self.num_groups})"
        for name in ("hidden_act", *["summary_activation"] * bool(self.summary_activation)):
            if getattr(self, name) not in ACTIVATIONS:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.summary_type not in ("last", "first", "mean"):
            yield f"summary_type is {self.summary_type!r}; expected 'last', 'first' or 'mean'"


def classifier_dropout(config: ConvBertConfig) -> float:
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


class ConvBertEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        size = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, M)
        return self.dropout(self.LayerNorm(x))


class SeparableConv1D(nn.Module):
    """A convolution along the text, and then one along the features."""

    def __init__(self, config: ConvBertConfig, size: int):
        super().__init__()
        inside, kernel = config.hidden_size, config.conv_kernel_size
        self.depthwise = nn.Conv1d(inside, inside, kernel, padding=kernel // 2, groups=inside, bias=False)
        self.pointwise = nn.Conv1d(inside, size, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(size, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.pointwise(self.depthwise(x.mT)) + self.bias).mT  # (B, T, A)


class ConvBertSelfAttention(nn.Module):
    """Multi-head attention and convolutions side by side, without their output projection."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.heads, self.head_size = config.heads, config.hidden_size // config.heads // 2
        self.kernel, self.dropout = config.conv_kernel_size, config.attention_probs_dropout_prob
        size = self.heads * self.head_size  # A
        self.query = nn.Linear(config.hidden_size, size)
        self.key = nn.Linear(config.hidden_size, size)
        self.value = nn.Linear(config.hidden_size, size)
        self.key_conv_attn_layer = SeparableConv1D(config, size)
        self.conv_kernel_layer = nn.Linear(size, self.heads * self.kernel)
        self.conv_out_layer = nn.Linear(config.hidden_size, size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        near = self.convolve(x, q.transpose(1, 2).flatten(2), layout)  # (B, T, A)
        x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return torch.cat([x.transpose(1, 2).flatten(2), near], dim=-1)  # (B, T, E)

    def convolve(self, x: Tensor, q: Tensor, layout: Layout) -> Tensor:
        """Average what stands near each token, by a kernel of its own."""
        (x, unpacked), (q, _) = layout.unpack(x), layout.unpack(q)
        keep = torch.ones_like(x[..., :1]) if unpacked.keep is None else unpacked.keep[..., None].to(x.dtype)
        kernels = self.conv_kernel_layer(self.key_conv_attn_layer(x * keep) * q)
        kernels = kernels.unflatten(-1, (self.heads, 1, self.kernel)).softmax(-1)  # (B, T, H, 1, K)
        half = self.kernel // 2
        near = F.pad(self.conv_out_layer(x) * keep, (0, 0, half, half)).unfold(1, self.kernel, 1)  # (B, T, A, K)
        near = near.unflatten(2, (self.heads, self.head_size))
        return layout.pack((near * kernels).sum(-1).flatten(2))


class GroupedLinearLayer(nn.Module):
    """A block-diagonal matrix: each group of features is mapped by itself."""

    def __init__(self, inside: int, outside: int, groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(groups, inside // groups, outside // groups))
        self.bias = nn.Parameter(torch.zeros(outside))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(-1, (len(self.weight), 1, -1))  # (B, T, G, 1, features / G)
        return (groups @ self.weight).flatten(-3) + self.bias


def dense(config: ConvBertConfig, inside: int, outside: int) -> nn.Module:
    """Build one of the feed-forward's two matrices."""
    if config.num_groups == 1:
        return nn.Linear(inside, outside)
    return GroupedLinearLayer(inside, outside, config.num_groups)


class ConvBertResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: ConvBertConfig, dense: nn.Module):
        super().__init__()
        self.dense = dense
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class ConvBertAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.self = ConvBertSelfAttention(config)
        self.output = ConvBertResidual(config, nn.Linear(config.hidden_size, config.hidden_size))

    # twin: bert.BertAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(x, layout), residual=x)


class ConvBertIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.dense = dense(config, config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class ConvBertLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.attention = ConvBertAttention(config)
        self.intermediate = ConvBertIntermediate(config)
        self.output = ConvBertResidual(config, dense(config, config.intermediate_size, config.hidden_size))

    # twin: bert.BertLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(x), residual=x)


class ConvBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.layer = nn.ModuleList(ConvBertLayer(config) for _ in range(config.num_hidden_layers))

    # twin: bert.BertEncoder.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class ConvBertPreTrainedModel(Model):
    """What all classes of this file share."""

    config: ConvBertConfig
    config_class = ConvBertConfig
    prefix = "convbert"
    stack = "encoder.layer"
    legacy_names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's, of 2018


class ConvBertModel(ConvBertPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: ConvBertConfig):
        super().__init__(config)
        self.embeddings = ConvBertEmbeddings(config)
        narrow, wide = config.embedding_size, config.hidden_size
        self.embeddings_project = nn.Linear(narrow, wide) if narrow != wide else None
        self.encoder = ConvBertEncoder(config)
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
        x = self.embeddings(words, token_types, positions)
        x = x if self.embeddings_project is None else self.embeddings_project(x)  # (B, T, E)
        return Hidden(last_hidden_state=self.encoder(x, layout))


class ConvBertGeneratorPredictions(nn.Module):
    """The non-linear step before the vocabulary scores, to the size of the word embeddings."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))  # (B, T, M)


class ConvBertForMaskedLM(ConvBertPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"generator_lm_head.weight": "convbert.embeddings.word_embeddings.weight"}

    def __init__(self, config: ConvBertConfig):
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.generator_predictions = ConvBertGeneratorPredictions(config)
        self.generator_lm_head = nn.Linear(config.embedding_size, config.vocab_size)
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
        x = self.convbert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.generator_lm_head(self.generator_predictions(x))  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class ConvBertClassificationHead(nn.Module):
    """Scores of labels, from the first token of a text."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.activation(self.dense(self.dropout(layout.first(x))))  # (B, E)
        return self.out_proj(self.dropout(x))


class ConvBertForSequenceClassification(ConvBertPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: ConvBertConfig):
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.classifier = ConvBertClassificationHead(config)
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
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.convbert(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(x, layout)  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class ConvBertSequenceSummary(nn.Module):
    """One vector a text, from its last token, its first or all."""

    def __init__(self, config: ConvBertConfig):
        super().__init__()
        self.kind = config.summary_type
        self.summary = nn.Linear(config.hidden_size, config.hidden_size) if config.summary_use_proj else nn.Identity()
        self.activation = ACTIVATIONS[config.summary_activation] if config.summary_activation else nn.Identity()
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.last_dropout = nn.Dropout(config.summary_last_dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        pick = {"last": layout.last, "first": layout.first, "mean": layout.mean}[self.kind]
        return self.last_dropout(self.activation(self.summary(self.first_dropout(pick(x)))))  # (B, E)


class ConvBertForMultipleChoice(ConvBertPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: ConvBertConfig):
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.sequence_summary = ConvBertSequenceSummary(config)
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
        questions = tokens.shape[0] if nested else 1
        if nested:
            tokens, attention_mask = flatten_choices(tokens), flatten_choices(attention_mask)
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            token_type_ids, position_ids = flatten_choices(token_type_ids), flatten_choices(position_ids)
        layout = Layout.of(tokens, attention_mask)
        x = self.convbert(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.sequence_summary(x, layout)).view(questions, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class ConvBertForTokenClassification(ConvBertPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: ConvBertConfig):
        super().__init__(config)
        self.convbert = ConvBertModel(config)
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
        x = self.convbert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class ConvBertForQuestionAnswering(ConvBertPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: ConvBertConfig):
        super().__init__(config)
        self.convbert = ConvBertModel(config)
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
        x = self.convbert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
