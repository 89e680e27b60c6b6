"""MPNet: a post-norm encoder whose layers share one table of relative positions.

Paper: Song et al., 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding",
https://arxiv.org/abs/2004.09297

What sets it apart from BERT:
  - besides learned positions, a bias on the attention scores by how far two tokens are apart, in buckets as in T5;
    one table serves all layers
  - the first token sits at position 2, so a table of 514 rows reads 512 tokens
  - no token types; classifiers read the first token, <s>, through two layers of their own

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N)
tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import math
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Bias, attend
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
PADDING = 1  # the id of padding; positions begin after it, whatever pad_token_id says
MAX_DISTANCE = 128  # tokens further apart share the last bucket


class MPNetConfig(Config):
    """The configuration of MPNet; the defaults are what a missing key of config.json means."""

    model_type = "mpnet"
    inert = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
        "type_vocab_size": 1,
    }

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = 32
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model reads at once."""
        return self.max_position_embeddings - PADDING - 1

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.max_tokens < 1:
            yield f"max_position_embeddings is {self.max_position_embeddings}; expected more than {PADDING + 1}"
        if self.relative_attention_num_buckets < 4:
            yield f"relative_attention_num_buckets is {self.relative_attention_num_buckets}; expected at least 4"


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


def distance_buckets(length: int, buckets: int, device: torch.device) -> Tensor:
    """Sort pairs of tokens by their distance, (T, T): one half of the buckets looks back, the other ahead.

    In each half, short distances have a bucket each, longer ones share buckets that widen logarithmically.
    """
    places = torch.arange(length, device=device)
    ahead = places[None, :] - places[:, None]  # (T, T)
    half, exact = buckets // 2, buckets // 4
    distance = ahead.abs()
    log = torch.log(distance.clamp(min=1) / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)
    wide = (exact + log.long()).clamp(max=half - 1)
    return torch.where(ahead > 0, half, 0) + torch.where(distance < exact, distance, wide)


class MPNetEmbeddings(nn.Module):
    """Word and position embeddings, summed and normalised."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        rows, size = config.max_position_embeddings, config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(rows, size, padding_idx=PADDING)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class MPNetSelfAttention(nn.Module):
    """Multi-head attention with its output projection."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.q = nn.Linear(config.hidden_size, config.hidden_size)
        self.k = nn.Linear(config.hidden_size, config.hidden_size)
        self.v = nn.Linear(config.hidden_size, config.hidden_size)
        self.o = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, bias: Bias) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.q, self.k, self.v)
        )
        x = attend(q, k, v, layout, bias=bias, dropout=self.dropout if self.training else 0.0)
        return self.o(x.transpose(1, 2).flatten(2))  # (B, T, E)


class MPNetAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.attn = MPNetSelfAttention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, layout: Layout, bias: Bias) -> Tensor:
        return self.LayerNorm(x + self.dropout(self.attn(x, layout, bias)))


class MPNetIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class MPNetOutput(nn.Module):
    """What ends a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class MPNetLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.attention = MPNetAttention(config)
        self.intermediate = MPNetIntermediate(config)
        self.output = MPNetOutput(config)

    def forward(self, x: Tensor, layout: Layout, bias: Bias) -> Tensor:
        x = self.attention(x, layout, bias)
        return self.output(self.intermediate(x), residual=x)


class MPNetEncoder(nn.Module):
    """The stack of layers, and the bias by distance that they share."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.layer = nn.ModuleList(MPNetLayer(config) for _ in range(config.num_hidden_layers))
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        biases: dict[int, Tensor] = {}  # by length, so that layers share them

        def bias(q: Tensor, k: Tensor, apart: Tensor) -> Tensor:
            length = q.shape[2]
            if length not in biases:
                table = self.relative_attention_bias
                biases[length] = table(distance_buckets(length, table.num_embeddings, x.device)).permute(2, 0, 1)
            return biases[length]  # (H, T, T)

        for layer in self.layer:
            x = layer(x, layout, bias)
        return x


class MPNetPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class MPNetPreTrainedModel(Model):
    """What all classes of this file share."""

    config: MPNetConfig
    config_class = MPNetConfig
    prefix = "mpnet"
    stack = "encoder.layer"
    optional = ("pooler",)  # only multiple choice needs it


class MPNetModel(MPNetPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: MPNetConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = MPNetEmbeddings(config)
        self.encoder = MPNetEncoder(config)
        self.pooler = MPNetPooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_tokens`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T), rows of the position table; None to count from each text's first real token, which
                has 2.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        positions = layout.positions + PADDING + 1 if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class MPNetLMHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: roberta.RobertaLMHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


class MPNetForMaskedLM(MPNetPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {
        "lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: MPNetConfig):
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        self.lm_head = MPNetLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.mpnet(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class MPNetClassificationHead(nn.Module):
    """Scores of labels from a text's first token, by way of a non-linear step."""

    def __init__(self, config: MPNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    # twin: roberta.RobertaClassificationHead.forward
    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.dense(self.dropout(x)))  # (B, E)
        return self.out_proj(self.dropout(x))


class MPNetForSequenceClassification(MPNetPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: MPNetConfig):
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        self.classifier = MPNetClassificationHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels.

        `labels`: (B,) ids, (B, L) of 0 and 1 for several at once, or (B,) or (B, L) targets to regress.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.mpnet(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class MPNetForMultipleChoice(MPNetPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: MPNetConfig):
        super().__init__(config)
        self.mpnet = MPNetModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
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
            attention_mask, position_ids = flatten_choices(attention_mask), flatten_choices(position_ids)
        hidden = self.mpnet(input_ids, attention_mask, position_ids, inputs_embeds)
        scores = self.classifier(self.dropout(hidden.pooler_output))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class MPNetForTokenClassification(MPNetPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: MPNetConfig):
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.mpnet(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class MPNetForQuestionAnswering(MPNetPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: MPNetConfig):
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end.

        `start_positions`, `end_positions`: (B,), beyond T where there is no answer.
        """
        x = self.mpnet(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
