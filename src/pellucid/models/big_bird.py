"""BigBird: BERT for long texts, in which blocks of tokens look at their neighbours, at the ends, and at some at random.

Paper: Zaheer et al., 2020, "Big Bird: Transformers for Longer Sequences", https://arxiv.org/abs/2007.14062

What sets it apart from BERT:
  - texts of more than 5 + 2 `num_random_blocks` blocks are read sparsely: a block of `block_size` tokens looks at the
    block before it, itself, the one after it, the first, the last, and `num_random_blocks` others; the first and the
    last look everywhere. Time and memory grow with the length, not with its square
  - at inference the random blocks all are the first, which thereby counts more than once, as in the original library
  - embeddings are dropped out before they are normalised; with `rescale_embeddings`, words are scaled by sqrt(E)
  - the tokens of a question, up to the first [SEP], can not be the answer
  - the same layers serve as a decoder, which looks back only, and at all; see the end of the file

Whether it is read sparsely, and which block is its last, each text decides by its own length, not by the batch's.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels, N blocks of S tokens, K
blocks seen by a block. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row
a packed text.
"""

import math
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Blocks, attend, attend_blocks
from ..cache import Cache
from ..config import Config
from ..errors import ConfigError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, PreTraining, Spans

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


class BigBirdConfig(Config):
    """The configuration of BigBird; the defaults are those of bigbird-roberta-base."""

    model_type = "big_bird"
    inert = {
        "position_embedding_type": "absolute",
        "add_cross_attention": False,  # in the original, both attentions of such layers look at the source alone
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "cross_attention_hidden_size": None,
    }

    vocab_size: int = 50358
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 4096
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    attention_type: str = "block_sparse"
    block_size: int = 64
    num_random_blocks: int = 3
    use_bias: bool = True  # of queries, keys and values
    rescale_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    sep_token_id: int | None = 66
    classifier_dropout: float | None = None
    is_decoder: bool = False  # whether tokens look back only

    @property
    def longest_full(self) -> float:
        """The most tokens of a text whose attention is not sparse."""
        sparse = self.attention_type == "block_sparse"
        return (5 + 2 * self.num_random_blocks) * self.block_size if sparse else math.inf

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            yield f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.attention_type not in ("block_sparse", "original_full"):
            yield f"attention_type is {self.attention_type!r}; expected 'block_sparse' or 'original_full'"
        if self.num_random_blocks < 0:
            yield f"num_random_blocks is {self.num_random_blocks}; expected a count"


def classifier_dropout(config: BigBirdConfig) -> float:
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


def find_blocks(layout: Layout, size: int, random: int, heads: int, seed: int | None) -> Blocks:
    """Find which blocks of a text see which; without a seed, the random ones all are the first."""
    lengths = layout.spans  # (B,)
    last = ((lengths - 1) // size).clamp(min=0)[:, None]  # (B, 1)
    longest = max(layout.lengths or layout.positions.shape[1:])
    numbers = torch.arange(-(-longest // size), device=last.device)  # (N,)
    own = numbers.expand(len(last), -1)  # (B, N)
    first, always = torch.zeros_like(own), torch.ones_like(own, dtype=torch.bool)
    seen = torch.stack([first, own - 1, own, own + 1, last.expand_as(own)], dim=-1).clamp(0, len(numbers) - 1)
    counts = torch.stack([always, own > 1, always, own + 1 < last, always], dim=-1)  # the ends once
    if seed is None:
        others = seen.new_zeros(len(last), heads, len(numbers), random)
    else:
        chances = torch.rand(heads, len(numbers), len(numbers), generator=torch.Generator().manual_seed(seed))
        taken = (numbers > last)[:, None].expand(-1, len(numbers), -1).scatter(-1, seen, True)  # (B, N, N)
        others = chances.to(last.device).masked_fill(taken[:, None], -1).topk(random).indices
    seen = torch.cat([seen[:, None].expand(-1, heads, -1, -1), others], dim=-1)
    counts = torch.cat([counts[:, None].expand(-1, heads, -1, -1), torch.ones_like(others, dtype=torch.bool)], dim=-1)
    most = 5 + 2 * random
    short = (lengths <= most * size)[:, None, None, None]
    if torch.compiler.is_compiling() or bool(short.any()):  # they see all blocks that they can have
        seen = torch.where(short, numbers[:most], F.pad(seen, (0, random)))
        counts = short | F.pad(counts, (0, random))
    return Blocks(size, seen, counts, torch.cat([torch.zeros_like(last), last], dim=1))


def count_question(input_ids: Tensor | None, sep: int | None, layout: Layout) -> Tensor:
    """Count the tokens of each text up to its first separator, (B,); 1 where there is none, or without ids."""
    rows, aligned = layout.align(torch.full_like(layout.positions, -1) if input_ids is None else input_ids)
    found = rows == sep
    return (found if aligned.keep is None else found & aligned.keep).int().argmax(dim=-1) + 1


class BigBirdEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.scale = math.sqrt(config.hidden_size) if config.rescale_embeddings else 1.0

    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = self.scale * words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)
        return self.LayerNorm(self.dropout(x))  # (B, T, E)


class BigBirdSelfAttention(nn.Module):
    """Multi-head attention, full or sparse, without its output projection."""

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout, self.layer = config.attention_probs_dropout_prob, layer
        self.block, self.random = config.block_size, config.num_random_blocks
        self.longest_full = config.longest_full
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        if max(layout.lengths or x.shape[1:2]) > self.longest_full:
            blocks = find_blocks(layout, self.block, self.random, self.heads, self.layer if self.training else None)
            x = attend_blocks(q, k, v, layout, blocks)  # in training, too, no weight is dropped
        else:
            x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)


class BigBirdResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: BigBirdConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class BigBirdAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        self.self = BigBirdSelfAttention(config, layer)
        self.output = BigBirdResidual(config, config.hidden_size)

    # twin: bert.BertAttention.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(self.self(x, layout), residual=x)


class BigBirdIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class BigBirdLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        self.attention = BigBirdAttention(config, layer)
        self.intermediate = BigBirdIntermediate(config)
        self.output = BigBirdResidual(config, config.intermediate_size)

    # twin: bert.BertLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.attention(x, layout)
        return self.output(self.intermediate(x), residual=x)


class BigBirdEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.layer = nn.ModuleList(BigBirdLayer(config, layer) for layer in range(config.num_hidden_layers))

    # twin: bert.BertEncoder.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout)
        return x


class BigBirdPreTrainedModel(Model):
    """What all classes of this file share."""

    config: BigBirdConfig
    config_class = BigBirdConfig
    prefix = "bert"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none


class BigBirdModel(BigBirdPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: BigBirdConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        if config.is_decoder:
            raise ConfigError(
                "is_decoder is True, but BigBirdModel looks to both sides; load the decoder with AutoModelForCausalLM, "
                "or pass is_decoder=False to make an encoder of it."
            )
        self.embeddings = BigBirdEmbeddings(config)
        self.encoder = BigBirdEncoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
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
        pooled = None if self.pooler is None else torch.tanh(self.pooler(layout.first(x)))  # (B, E)
        return Hidden(last_hidden_state=x, pooler_output=pooled)


class BigBirdPredictionHeadTransform(nn.Module):
    """The non-linear step before the vocabulary scores."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # twin: bert.BertPredictionHeadTransform.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class BigBirdLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.transform = BigBirdPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    # twin: bert.BertLMPredictionHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class BigBirdPreTrainingHeads(nn.Module):
    """The heads of the pre-training tasks."""

    def __init__(self, config: BigBirdConfig, *, order: bool):
        super().__init__()
        self.predictions = BigBirdLMPredictionHead(config)
        if order:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)


TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class BigBirdForPreTraining(BigBirdPreTrainedModel):
    """Both pre-training tasks: the masked words, and whether the second text follows the first."""

    tied = TIED

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.cls = BigBirdPreTrainingHeads(config, order=True)
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
        """Score words, `labels` as in BigBirdForMaskedLM, and order, `next_sentence_label`: (B,), 0 or 1 for random."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        words = self.cls.predictions(hidden.last_hidden_state)  # (B, T, V)
        order = self.cls.seq_relationship(hidden.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = F.cross_entropy(words.flatten(0, 1), labels.flatten())
            loss = loss + F.cross_entropy(order, next_sentence_label.flatten())
        return PreTraining(loss=loss, prediction_logits=words, seq_relationship_logits=order)


class BigBirdForMaskedLM(BigBirdPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = TIED

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.cls = BigBirdPreTrainingHeads(config, order=False)
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
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls.predictions(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class BigBirdClassificationHead(nn.Module):
    """Scores of a text, from its first token."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.activation(self.dense(self.dropout(x)))))


class BigBirdForSequenceClassification(BigBirdPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.classifier = BigBirdClassificationHead(config)
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
        x = self.bert(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class BigBirdForMultipleChoice(BigBirdPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
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
        pooled = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled)).view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class BigBirdForTokenClassification(BigBirdPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdModel(config)
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
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class BigBirdForQuestionAnsweringHead(nn.Module):
    """Scores of each token as beginning and end of an answer."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intermediate = BigBirdIntermediate(config)
        self.output = BigBirdResidual(config, config.intermediate_size)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.qa_outputs(self.output(self.intermediate(self.dropout(x)), residual=x))  # (B, T, 2)


class BigBirdForQuestionAnswering(BigBirdPreTrainedModel):
    """Finds the answer to a question in the text after it: where it begins and where it ends."""

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdModel(config, add_pooling_layer=False)
        self.qa_classifier = BigBirdForQuestionAnsweringHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        question_lengths: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; the question, but for its first token, is neither.

        `question_lengths`: (B,), up to and with [SEP], None to look for it in `input_ids`. `token_type_ids`: None for 0
        in the question and 1 after it. `start_positions`, `end_positions`: (B,), beyond T for no answer.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        if question_lengths is None:
            question_lengths = count_question(input_ids, self.config.sep_token_id, layout)
        question = layout.positions < layout.spread(question_lengths.flatten())  # (B, T)
        token_types = (~question).long() if token_type_ids is None else token_type_ids
        x = self.bert(input_ids, layout, token_types, position_ids, inputs_embeds).last_hidden_state
        never = min(1e6, torch.finfo(x.dtype).max / 2) * (question & (layout.positions > 0))
        start, end = (self.qa_classifier(x) - never.to(x.dtype)[..., None]).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# --- as a decoder -----------------------------------------------------------------------------------------------------


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


class BigBirdDecoderSelfAttention(BigBirdSelfAttention):
    """Attention to all tokens so far; in long texts, the original lets those of sparse blocks see later ones."""

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:  # type: ignore[override]
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)


class BigBirdDecoderAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        self.self = BigBirdDecoderSelfAttention(config, layer)
        self.output = BigBirdResidual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        return self.output(self.self(x, layout, cache), residual=x)


class BigBirdDecoderLayer(nn.Module):
    """One layer: attention to what was written, feed-forward."""

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        self.attention = BigBirdDecoderAttention(config, layer)
        self.intermediate = BigBirdIntermediate(config)
        self.output = BigBirdResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x = self.attention(x, layout, cache)
        return self.output(self.intermediate(x), residual=x)


class BigBirdDecoderStack(nn.Module):
    """The stack of layers, which checkpoints call an encoder all the same."""

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        self.layer = nn.ModuleList(BigBirdDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, cache)
        return x


class BigBirdDecoderModel(BigBirdPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        if not config.is_decoder:
            raise ConfigError(
                "is_decoder is False, but a decoder only looks back; pass is_decoder=True to make one of an encoder, "
                "which is to be trained before use, or load a model that looks to both sides: AutoModelForMaskedLM."
            )
        self.embeddings = BigBirdEmbeddings(config)
        self.encoder = BigBirdDecoderStack(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)  # which nothing reads, but checkpoints hold
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Hidden:
        """Read a batch, (B, T), behind what is in `cache`; the other arguments are those of `BigBirdModel`."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        token_types = torch.zeros_like(layout.positions) if token_type_ids is None else token_type_ids
        positions = layout.positions if position_ids is None else position_ids
        x = self.encoder(self.embeddings(words, token_types, positions), layout, cache)  # (B, T, E)
        return Hidden(last_hidden_state=x)


class BigBirdForCausalLM(BigBirdPreTrainedModel):
    """Scores over the vocabulary for the next token; for a config with `is_decoder`."""

    tied = TIED

    def __init__(self, config: BigBirdConfig):
        super().__init__(config)
        self.bert = BigBirdDecoderModel(config)
        self.cls = BigBirdPreTrainingHeads(config, order=False)
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
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.bert(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.cls.predictions(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
