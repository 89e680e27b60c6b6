"""LayoutLM: BERT for scanned documents, which also reads where on the page each token stands.

Paper: Xu et al., 2019, "LayoutLM: Pre-training of Text and Layout", https://arxiv.org/abs/1912.13318

What sets it apart from BERT:
  - each token has a box on a page of 1000 by 1000: left, top, right, bottom
  - both corners, the width and the height of the box are embedded and added to the token's embedding

Shapes: B batch, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N) tokens with
a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Spans

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


class LayoutLMConfig(Config):
    """The configuration of LayoutLM; the defaults are those of layoutlm-base-uncased."""

    model_type = "layoutlm"
    inert = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
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
    max_2d_position_embeddings: int = 1024
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"


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


class LayoutLMEmbeddings(nn.Module):
    """Word, position, box and token-type embeddings, summed and normalised."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        size, places = config.hidden_size, config.max_2d_position_embeddings
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.x_position_embeddings = nn.Embedding(places, size)
        self.y_position_embeddings = nn.Embedding(places, size)
        self.h_position_embeddings = nn.Embedding(places, size)
        self.w_position_embeddings = nn.Embedding(places, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, boxes: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        left, top, right, bottom = boxes.unbind(-1)  # (B, T) each
        x = words + self.position_embeddings(positions) + self.token_type_embeddings(token_types)  # (B, T, E)
        x = x + self.x_position_embeddings(left) + self.x_position_embeddings(right)
        x = x + self.y_position_embeddings(top) + self.y_position_embeddings(bottom)
        x = x + self.w_position_embeddings(right - left) + self.h_position_embeddings(bottom - top)
        return self.dropout(self.LayerNorm(x))


class LayoutLMSelfAttention(nn.Module):
    """Multi-head attention, without its output projection."""

    def __init__(self, config: LayoutLMConfig):
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


class LayoutLMResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: LayoutLMConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class LayoutLMAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.self = LayoutLMSelfAttention(config)
        self.output = LayoutLMResidual(config, config.hidden_size)

    # twin: bert.BertAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(x, layout), residual=x)


class LayoutLMIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class LayoutLMLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.attention = LayoutLMAttention(config)
        self.intermediate = LayoutLMIntermediate(config)
        self.output = LayoutLMResidual(config, config.intermediate_size)

    # twin: bert.BertLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(x), residual=x)


class LayoutLMEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.layer = nn.ModuleList(LayoutLMLayer(config) for _ in range(config.num_hidden_layers))

    # twin: bert.BertEncoder.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class LayoutLMPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class LayoutLMPreTrainedModel(Model):
    """What all classes of this file share."""

    config: LayoutLMConfig
    config_class = LayoutLMConfig
    prefix = "layoutlm"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none
    legacy_names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's, of 2018

    def explain_index(self, error: IndexError, inputs: dict[str, Any]) -> Exception:
        """Turn a kernel's "index out of range" into the input, its value and the limit."""
        boxes, limit = inputs.get("bbox"), self.config.max_2d_position_embeddings
        if isinstance(boxes, Tensor):
            sides = torch.cat([boxes, boxes[..., 2:] - boxes[..., :2]], dim=-1)  # with width and height
            wrong = boxes[((sides < 0) | (sides >= limit)).any(-1)]
            if len(wrong):
                return InputError(
                    f"bbox holds {wrong[0].tolist()}; expected left, top, right, bottom, with right not left of left "
                    f"and bottom not above top, as parts of 1000 of the page, all less than {limit}."
                )
        return super().explain_index(error, inputs)


class LayoutLMModel(LayoutLMPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__(config)
        self.embeddings = LayoutLMEmbeddings(config)
        self.encoder = LayoutLMEncoder(config)
        self.pooler = LayoutLMPooler(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            bbox: (B, T, 4), the box of each token in 0..1000 of the page: left, top, right, bottom; None for all 0.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second; None for all 0.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        boxes = layout.positions.new_zeros(4).expand(*layout.positions.shape, 4) if bbox is None else bbox
        x = self.encoder(self.embeddings(words, boxes, token_types, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class LayoutLMPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class LayoutLMLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.transform = LayoutLMPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class LayoutLMOnlyMLMHead(nn.Module):
    """The head of the masked words."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__()
        self.predictions = LayoutLMLMPredictionHead(config)


class LayoutLMForMaskedLM(LayoutLMPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {
        "cls.predictions.decoder.weight": "layoutlm.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: LayoutLMConfig):
        super().__init__(config)
        self.layoutlm = LayoutLMModel(config)
        self.cls = LayoutLMOnlyMLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.layoutlm(
            input_ids, bbox, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class LayoutLMForSequenceClassification(LayoutLMPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__(config)
        self.layoutlm = LayoutLMModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        pooled = self.layoutlm(
            input_ids, bbox, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class LayoutLMForTokenClassification(LayoutLMPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__(config)
        self.layoutlm = LayoutLMModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.layoutlm(
            input_ids, bbox, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class LayoutLMForQuestionAnswering(LayoutLMPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: LayoutLMConfig):
        super().__init__(config)
        self.layoutlm = LayoutLMModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; both positions are (B,), beyond T where there is no answer."""
        x = self.layoutlm(
            input_ids, bbox, attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
