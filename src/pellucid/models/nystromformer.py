"""Nyströmformer: BERT's encoder with attention by way of landmarks, in time and memory that grow with the length only.

Paper: Xiong et al., 2021, "Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention",
https://arxiv.org/abs/2102.03902

What sets it apart from BERT:
  - where `segment_means_seq_len` differs from `num_landmarks`, attention is approximated: tokens look at the means of
    `num_landmarks` segments, those look at each other and at all tokens; where they are equal, attention is exact
  - a convolution over the values, along the text, beside attention
  - positions begin at 2; there is no pooled vector

A text's numbers depend on that text alone: its own tokens make its landmarks (one each, if they are fewer), and what
lies beyond its ends is zero to the convolution. The original lets padding take part in both, starts the inversion of a
matrix from the whole batch, and has landmarks for texts of `segment_means_seq_len` tokens only. Landmarks and
convolution unpack.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, M landmarks, V vocabulary, L labels. A packed
batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend, report_attention
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
FIRST_POSITION = 2  # the row of the position table for a text's first token
STEPS = 6  # of the iteration that inverts a matrix


class NystromformerConfig(Config):
    """The configuration of Nyströmformer; the defaults are what a missing key of config.json means."""

    model_type = "nystromformer"
    inert = {
        "inv_coeff_init_option": False,
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 30000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1  # without effect: attention drops no weights
    max_position_embeddings: int = 510
    type_vocab_size: int = 2
    segment_means_seq_len: int = 64
    num_landmarks: int = 64
    conv_kernel_size: int = 65
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if not self.conv_kernel_size % 2:
            yield f"conv_kernel_size is {self.conv_kernel_size}; expected an odd number"
        if self.num_landmarks < 1:
            yield f"num_landmarks is {self.num_landmarks}; expected 1 or more"


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


def segments(layout: Layout, count: int) -> Tensor:
    """Cut each text into `count` segments, as even as can be: each token's share in its segment's mean, (B, M, T)."""
    keep = torch.ones_like(layout.positions) if layout.keep is None else layout.keep
    lengths = keep.sum(-1, keepdim=True)  # (B, 1)
    places = torch.div(layout.positions * count, lengths.clamp(min=count), rounding_mode="floor")  # (B, T)
    member = (places[:, None] == torch.arange(count, device=keep.device)[:, None]) & keep.bool()[:, None]  # (B, M, T)
    return member / member.sum(-1, keepdim=True).clamp(min=1)


def invert(matrix: Tensor) -> Tensor:
    """Approximate the pseudo-inverses of a text's matrices, whose rows sum to 1, (B, H, M, M), by iteration.

    Each step about cubes the error; it is that of Razavi et al., 2014, whom the paper follows.
    """
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    inverse = matrix.mT / matrix.sum(-2).amax((1, 2))[:, None, None, None]  # small enough for the steps to converge
    for _ in range(STEPS):
        product = matrix @ inverse
        inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return inverse


class NystromformerEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings + FIRST_POSITION, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertEmbeddings.forward
    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class NystromformerSelfAttention(nn.Module):
    """Multi-head attention, exact or by landmarks, and a convolution over the values, without an output projection."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.landmarks = config.num_landmarks
        self.exact = config.num_landmarks == config.segment_means_seq_len
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        kernel = config.conv_kernel_size
        self.conv = nn.Conv2d(
            self.heads, self.heads, (kernel, 1), padding=(kernel // 2, 0), groups=self.heads, bias=False
        )

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        seen = attend(q, k, v, layout) if self.exact else self.approximate(q, k, v, layout)
        return (seen + self.along(v, layout)).transpose(1, 2).flatten(2)  # (B, T, E)

    def along(self, v: Tensor, layout: Layout) -> Tensor:
        """Convolve the values of each text, (B, H, T, D); padding is as what lies beyond the ends: zero."""
        v, rows = layout.unpack(v.transpose(1, 2))
        v = v if rows.keep is None else v * rows.keep[..., None, None]
        return layout.pack(self.conv(v.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)

    def approximate(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Attend by way of landmarks, the means of a text's segments."""
        q, k, v = (layout.unpack(x.transpose(1, 2))[0].transpose(1, 2) for x in (q, k, v))
        rows = layout.unpack(layout.positions)[1]
        shares = segments(rows, self.landmarks)[:, None].to(q.dtype)  # (B, 1, M, T)
        exists = shares.any(-1)[..., None, :]  # (B, 1, 1, M): a short text has fewer
        exists = exists | ~exists.any(-1, keepdim=True)  # a row of nothing but padding: no NaN
        q = q * self.head_size**-0.5
        few_q, few_k = shares @ q, shares @ k  # (B, H, M, D)
        to_few = (q @ few_k.mT).masked_fill(~exists, float("-inf")).softmax(-1)  # (B, H, T, M)
        among = (few_q @ few_k.mT).masked_fill(~exists, float("-inf")).softmax(-1) * exists.mT  # (B, H, M, M)
        from_few = few_q @ k.mT  # (B, H, M, T)
        if rows.keep is not None:
            empty = ~rows.keep.any(-1, keepdim=True)
            from_few = from_few.masked_fill(~(rows.keep | empty)[:, None, None], float("-inf"))
        from_few = from_few.softmax(-1)
        weights = to_few @ invert(among)  # (B, H, T, M)
        report_attention(lambda: weights @ from_few)
        return layout.pack((weights @ (from_few @ v)).transpose(1, 2)).transpose(1, 2)


class NystromformerResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: NystromformerConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class NystromformerAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.self = NystromformerSelfAttention(config)
        self.output = NystromformerResidual(config, config.hidden_size)

    # twin: bert.BertAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(x, layout), residual=x)


class NystromformerIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class NystromformerLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.attention = NystromformerAttention(config)
        self.intermediate = NystromformerIntermediate(config)
        self.output = NystromformerResidual(config, config.intermediate_size)

    # twin: bert.BertLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(x), residual=x)


class NystromformerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.layer = nn.ModuleList(NystromformerLayer(config) for _ in range(config.num_hidden_layers))

    # twin: bert.BertEncoder.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class NystromformerPreTrainedModel(Model):
    """What all classes of this file share."""

    config: NystromformerConfig
    config_class = NystromformerConfig
    prefix = "nystromformer"
    stack = "encoder.layer"


class NystromformerModel(NystromformerPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: NystromformerConfig):
        super().__init__(config)
        self.embeddings = NystromformerEmbeddings(config)
        self.encoder = NystromformerEncoder(config)
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
            position_ids: (B, T), rows of the position table; None to count from each text's first real token, which
                has row 2.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions + FIRST_POSITION if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x)


class NystromformerPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class NystromformerLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.transform = NystromformerPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class NystromformerOnlyMLMHead(nn.Module):
    """What holds the vocabulary scores, as in the checkpoint."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.predictions = NystromformerLMPredictionHead(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictions(x)


class NystromformerForMaskedLM(NystromformerPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {
        "cls.predictions.decoder.weight": "nystromformer.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: NystromformerConfig):
        super().__init__(config)
        self.nystromformer = NystromformerModel(config)
        self.cls = NystromformerOnlyMLMHead(config)
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
        x = self.nystromformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class NystromformerClassificationHead(nn.Module):
    """Scores of labels from a text's first token, by way of a non-linear step."""

    def __init__(self, config: NystromformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.dense(self.dropout(x)))  # (B, E)
        return self.out_proj(self.dropout(x))


class NystromformerForSequenceClassification(NystromformerPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: NystromformerConfig):
        super().__init__(config)
        self.nystromformer = NystromformerModel(config)
        self.classifier = NystromformerClassificationHead(config)
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
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.nystromformer(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class NystromformerForMultipleChoice(NystromformerPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: NystromformerConfig):
        super().__init__(config)
        self.nystromformer = NystromformerModel(config)
        self.pre_classifier = nn.Linear(config.hidden_size, config.hidden_size)
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
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
            position_ids = flatten_choices(position_ids)
        layout = Layout.of(flatten_choices(tokens) if nested else tokens, attention_mask)
        x = self.nystromformer(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        scores = self.classifier(F.relu(self.pre_classifier(layout.first(x))))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class NystromformerForTokenClassification(NystromformerPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: NystromformerConfig):
        super().__init__(config)
        self.nystromformer = NystromformerModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
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
        x = self.nystromformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class NystromformerForQuestionAnswering(NystromformerPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: NystromformerConfig):
        super().__init__(config)
        self.nystromformer = NystromformerModel(config)
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
        x = self.nystromformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
