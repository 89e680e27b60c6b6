"""FNet: an encoder whose tokens are mixed by a Fourier transform instead of by attention.

Paper: Lee-Thorp et al., 2021, "FNet: Mixing Tokens with Fourier Transforms", https://arxiv.org/abs/2105.03824

What sets it apart from BERT:
  - where attention was, the real part of a Fourier transform over tokens and hidden units; nothing in it is learned
  - the summed and normalised embeddings are projected once
  - there is no mask by nature: released models were trained on texts padded to 512 tokens, padding included, and read
    best what looks the same. Whoever wants that gives such texts without a mask. What a mask marks as padding does not
    take part here: each text is transformed by itself, at its own length

Shapes: B batch, C choices, T tokens, E hidden, V vocabulary, L labels. A packed batch is (1, N) tokens with a layout;
what is one row a text, (B, ...), is then one row a packed text.
"""

import math
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, PreTraining, Spans

Given = TypeVar("Given", Tensor, Tensor | None, Tensor | Layout | None)
Waves = tuple[Tensor, Tensor]

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


class FNetConfig(Config):
    """The configuration of FNet; the defaults are those of fnet-base."""

    model_type = "fnet"
    inert = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 4
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 3
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    use_tpu_fourier_optimizations: bool = False  # how the original computes it on TPUs, as the next: same numbers
    tpu_short_seq_length: int = 512

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
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


# twin: bert.flatten_choices
def flatten_choices(x: Given) -> Given:
    """(B, C, T, ...) to (B * C, T, ...): each choice a text of its own. What is no tensor stays."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else x


def mix(x: Tensor) -> Tensor:
    """Return the real part of the Fourier transform over tokens and hidden units, (B, T, E)."""
    if not len(x):
        return x  # which kernels refuse, as they do half precision
    return torch.fft.fft2(x.float()).real.to(x.dtype)


def mix_padded(x: Tensor, waves: Waves) -> Tensor:
    """Do as `mix` does, with each row's own transform over its real tokens, from `fourier_waves`."""
    cos, sin = waves
    units = torch.fft.fft(x.float())  # (B, T, E), complex
    return (cos @ units.real + sin @ units.imag).to(x.dtype)


def fourier_waves(keep: Tensor) -> Waves:
    """Return the transform over the real tokens of each row, as its real and negated imaginary part, (B, T, T)."""
    places = (keep.cumsum(-1) - 1).clamp(min=0)  # (B, T)
    length = keep.sum(-1).clamp(min=1)[:, None, None]
    angles = 2 * math.pi * (places[:, :, None] * places[:, None, :] % length / length)  # (B, T, T)
    return torch.cos(angles) * keep[:, None, :], torch.sin(angles) * keep[:, None, :]


class FNetEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed, normalised and projected."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.projection(self.LayerNorm(x)))


class FNetFourierOutput(nn.Module):
    """What ends the first half of a layer: residual sum and norm."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + x)


class FNetFourier(nn.Module):
    """The first half of a layer; packed texts are mixed one by one, as the transform knows no mask."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.output = FNetFourierOutput(config)

    def forward(self, x: Tensor, layout: Layout, waves: Waves | None) -> Tensor:
        if layout.lengths is not None:
            mixed = torch.cat([mix(text) for text in x.split(layout.lengths, dim=1)], dim=1)  # (1, N, E)
        else:
            mixed = mix(x) if waves is None else mix_padded(x, waves)  # (B, T, E)
        return self.output(mixed, residual=x)


class FNetIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class FNetOutput(nn.Module):
    """What ends a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class FNetLayer(nn.Module):
    """One layer: mixing, then a position-wise feed-forward."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.fourier = FNetFourier(config)
        self.intermediate = FNetIntermediate(config)
        self.output = FNetOutput(config)

    def forward(self, x: Tensor, layout: Layout, waves: Waves | None) -> Tensor:
        x = self.fourier(x, layout, waves)
        return self.output(self.intermediate(x), residual=x)


class FNetEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.layer = nn.ModuleList(FNetLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        waves = None if layout.keep is None else fourier_waves(layout.keep)  # shared by the layers
        for layer in self.layer:
            x = layer(x, layout, waves)
        return x


class FNetPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class FNetPreTrainedModel(Model):
    """What all classes of this file share."""

    config: FNetConfig
    config_class = FNetConfig
    prefix = "fnet"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none


class FNetModel(FNetPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.embeddings = FNetEmbeddings(config)
        self.encoder = FNetEncoder(config)
        self.pooler: FNetPooler | None = FNetPooler(config)
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
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class FNetPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class FNetLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: FNetConfig):
        super().__init__()
        self.transform = FNetPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class FNetPreTrainingHeads(nn.Module):
    """The heads of the pre-training tasks; which of them, the class decides."""

    def __init__(self, config: FNetConfig, *, words: bool, order: bool):
        super().__init__()
        if words:
            self.predictions = FNetLMPredictionHead(config)
        if order:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)


TIED = {
    "cls.predictions.decoder.weight": "fnet.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class FNetForPreTraining(FNetPreTrainedModel):
    """Both pre-training tasks: the masked words, and whether the second text follows the first."""

    tied = TIED

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
        self.cls = FNetPreTrainingHeads(config, words=True, order=True)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
    ) -> PreTraining:
        """Score words, `labels` as in FNetForMaskedLM, and order, `next_sentence_label`: (B,), 0 or 1 for random."""
        hidden = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        words = self.cls.predictions(hidden.last_hidden_state)  # (B, T, V)
        order = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = F.cross_entropy(words.flatten(0, 1), labels.flatten())
            loss = loss + F.cross_entropy(order, next_sentence_label.flatten())
        return PreTraining(loss=loss, prediction_logits=words, seq_relationship_logits=order)


class FNetForMaskedLM(FNetPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = TIED

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
        self.cls = FNetPreTrainingHeads(config, words=True, order=False)
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
        x = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class FNetForNextSentencePrediction(FNetPreTrainedModel):
    """Tells whether the second text follows the first (0) or is a random one (1)."""

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
        self.cls = FNetPreTrainingHeads(config, words=False, order=True)
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
        """Score sentence order; `labels`: (B,), 0 or 1."""
        hidden = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        loss = None if labels is None else F.cross_entropy(logits, labels.flatten())
        return Logits(loss=loss, logits=logits)


class FNetForSequenceClassification(FNetPreTrainedModel):
    """Labels a whole text, from its pooled vector."""

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
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
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        pooled = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FNetForMultipleChoice(FNetPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
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
        """Score the choices: (B, C, T) gives (B, C), (C, T) or packed texts (1, C); `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
            position_ids = flatten_choices(position_ids)
        pooled = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled)).view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class FNetForTokenClassification(FNetPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
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
        x = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class FNetForQuestionAnswering(FNetPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: FNetConfig):
        super().__init__(config)
        self.fnet = FNetModel(config)
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
        x = self.fnet(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
