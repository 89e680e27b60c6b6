"""Longformer: RoBERTa's encoder for long texts, in which most tokens look at their neighbours alone.

Paper: Beltagy et al., 2020, "Longformer: The Long-Document Transformer", https://arxiv.org/abs/2004.05150

What sets it apart from RoBERTa:
  - a token looks `attention_window` / 2 tokens to each side: time and memory grow with the length, not with its square
  - a few tokens are global: they look at their whole text, through projections of their own, and all look at them
  - which tokens are global is an input; by default the first one where a text is labelled, the question where an answer
    is sought, the continuation where one of several is picked, and none elsewhere

Attention is computed in blocks of neighbouring tokens, without `attend`; tokens of other texts and padding are masked.

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels, G global tokens of a row,
N tokens of a block, K tokens of a block and its neighbours. A packed batch is (1, T) tokens with a layout; what is one
row a text, (B, ...), is then one row a packed text.
"""

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import report_attention
from ..config import Config, shorten
from ..errors import InputError
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


class LongformerConfig(Config):
    """The configuration of Longformer; the defaults are what a missing key of config.json means."""

    model_type = "longformer"
    inert = {
        "attention_mode": "longformer",
        "ignore_attention_mask": False,
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
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    attention_window: int | list[int] = 512  # to both sides together; a list has one a layer
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    sep_token_id: int | None = 2

    @property
    def windows(self) -> list[int]:
        """Over how many tokens to both sides together each layer looks."""
        one = self.attention_window
        return one if isinstance(one, list) else [one] * self.num_hidden_layers

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
            yield f"hidden_size ({self.hidden_size}) is no multiple of num_attention_heads ({self.num_attention_heads})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if len(self.windows) != self.num_hidden_layers or any(window < 2 or window % 2 for window in self.windows):
            yield f"attention_window is {shorten(self.attention_window)}; expected an even number, or one a layer"
        if self.pad_token_id is None:
            yield "pad_token_id is null; expected an id, since positions begin after it"
        if self.max_tokens < 1:
            yield f"max_position_embeddings is {self.max_position_embeddings}; expected over {self.first_position}"


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


@dataclass(frozen=True)
class GlobalTokens:
    """The tokens that look everywhere."""

    chosen: Tensor  # (B, T), true on them
    places: Tensor  # (B, G), where they are in their row; rows that have fewer than G are filled up
    filled: Tensor  # (B, G), true on what is only filled up

    def pick(self, x: Tensor) -> Tensor:
        """(B, T, ...) to (B, G, ...)."""
        return x[torch.arange(len(x), device=x.device)[:, None], self.places]


def find_global_tokens(mask: Tensor, layout: Layout) -> GlobalTokens | None:
    """Find the tokens that a mask, (B, T), marks; None when there are none."""
    if mask.shape != (shape := layout.positions.shape):
        raise InputError(f"global_attention_mask is {tuple(mask.shape)}, the input {tuple(shape)}; expected the same.")
    chosen = mask.bool() if layout.keep is None else mask.bool() & layout.keep
    counts = chosen.sum(-1)
    most = max(counts.tolist(), default=0) if not torch.compiler.is_compiling() else chosen.shape[1]  # graphs are fixed
    if not most:
        return None
    places = chosen.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return GlobalTokens(chosen, places, torch.arange(most, device=mask.device) >= counts[:, None])


def separators_before(input_ids: Tensor, sep: int | None, layout: Layout) -> Tensor:
    """Count the separators before each token in its text, (B, T); 1 where the text is no pair."""
    rows = layout.unpack(input_ids)[0] == sep
    return layout.pack(torch.where(rows.sum(-1, keepdim=True) > 1, rows.cumsum(-1) - rows.long(), 1))


def texts_of(layout: Layout) -> Tensor:
    """Number the text that each token is of, (B, T); padding is of none, -1."""
    texts = torch.zeros_like(layout.positions) if layout.sequence is None else layout.sequence
    return texts if layout.keep is None else texts.masked_fill(~layout.keep, -1)


def cut(x: Tensor, size: int, *, beyond: int = 0, fill: int = 0) -> Tensor:
    """Cut rows into blocks of `size` tokens and their neighbours: (B, H, T, D) to (blocks, H, size + 2 beyond, D)."""
    x = F.pad(x, (0, 0, beyond, beyond + -x.shape[2] % size), value=fill)  # also what lies beyond a row's ends
    return x.unfold(2, size + 2 * beyond, size).permute(0, 2, 1, 4, 3).flatten(0, 1)


def repeat(x: Tensor, blocks: int) -> Tensor:
    """Give each block what its row has: (B, ...) to (blocks, ...)."""
    return x.repeat_interleave(blocks // max(1, len(x)), dim=0)


@dataclass(frozen=True)
class Sight:
    """How far the tokens of a layer look, and the blocks in which that is computed."""

    reach: int  # tokens to each side
    size: int  # N, tokens of a block
    beyond: int  # tokens to each side of a block that its own ones may look at
    far: GlobalTokens | None
    mask: Tensor | None  # (blocks, 1, N, K + G), true where a block looks: at near tokens, at global ones; None: all

    @staticmethod
    def of(layout: Layout, far: GlobalTokens | None, reach: int) -> "Sight":
        length = layout.positions.shape[1]
        size, beyond = (length, 0) if length <= reach else (reach, reach)
        if not beyond and layout.keep is None and layout.sequence is None and far is None:
            return Sight(reach, size, beyond, far, None)
        texts = texts_of(layout)[:, None, :, None]  # (B, 1, T, 1)
        queries = cut(texts, size, fill=-1)  # (blocks, 1, N, 1)
        near = texts if far is None else texts.masked_fill(far.chosen[:, None, :, None], -2)  # they come by themselves
        places = torch.arange(size + 2 * beyond, device=texts.device)
        apart = places - beyond - places[:size, None]  # (N, K)
        mask = (queries == cut(near, size, beyond=beyond, fill=-1).transpose(-1, -2)) & (apart.abs() <= reach)
        if far is not None:
            keys = far.pick(texts_of(layout)).masked_fill(far.filled, -2)[:, None, None]  # (B, 1, 1, G)
            mask = torch.cat([mask, queries == repeat(keys, len(mask))], dim=-1)
        return Sight(reach, size, beyond, far, mask)

    def keys(self, x: Tensor) -> Tensor:
        """Cut keys or values, and add those of the global tokens: (B, H, T, D) to (blocks, H, K + G, D)."""
        blocks = cut(x, self.size, beyond=self.beyond)
        if self.far is None:
            return blocks
        far = self.far.pick(x.transpose(1, 2)).transpose(1, 2)  # (B, H, G, D)
        return torch.cat([blocks, repeat(far, len(blocks))], dim=2)


class LongformerEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        size, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertEmbeddings.forward
    def forward(self, words: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(token_types) + self.position_embeddings(positions)  # (B, T, E)
        return self.dropout(self.LayerNorm(x))


class LongformerSelfAttention(nn.Module):
    """Multi-head attention to near and to global tokens, without its output projection."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        size = config.hidden_size
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (nn.Linear(size, size) for _ in range(3))

    def forward(self, x: Tensor, layout: Layout, sight: Sight) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        queries, keys, values = cut(q, sight.size), sight.keys(k), sight.keys(v)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=sight.mask, dropout_p=dropout)
        whole = -(-x.shape[1] // sight.size) * sight.size
        out = out.transpose(1, 2).reshape(len(x), whole, x.shape[2])[:, : x.shape[1]]  # (B, T, E)
        report_attention(lambda: self.weights(x, q, k, layout, sight))
        return out if sight.far is None else self.look_everywhere(x, out, layout, sight.far, dropout)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)

    def look_everywhere(self, x: Tensor, out: Tensor, layout: Layout, far: GlobalTokens, dropout: float) -> Tensor:
        """Replace what global tokens saw near them by what they see in all of their text."""
        q, k, v = self.query_global(far.pick(x)), self.key_global(x), self.value_global(x)
        mask = (far.pick(texts_of(layout))[..., None] == texts_of(layout)[:, None])[:, None]  # (B, 1, G, T)
        seen = F.scaled_dot_product_attention(*map(self.split, (q, k, v)), attn_mask=mask, dropout_p=dropout)
        seen = torch.where(far.filled[..., None], far.pick(out), seen.transpose(1, 2).flatten(2))  # (B, G, E)
        return out.scatter(1, far.places[..., None].expand_as(seen), seen)

    def weights(self, x: Tensor, q: Tensor, k: Tensor, layout: Layout, sight: Sight) -> Tensor:
        """Write the weights of all blocks as one matrix, (B, H, T, T), for those who want to see them."""
        texts, places = texts_of(layout), torch.arange(x.shape[1], device=x.device)
        mask = (texts[:, :, None] == texts[:, None])[:, None]  # (B, 1, T, T)
        near, scores = (places[:, None] - places).abs() <= sight.reach, q @ k.mT
        if sight.far is not None:
            rows, columns = sight.far.chosen[:, None, :, None], sight.far.chosen[:, None, None]
            near = near | rows | columns
            q, k = self.split(self.query_global(x)), self.split(self.key_global(x))
            scores = torch.where(rows, q @ k.mT, scores)
        return (scores * self.head_size**-0.5).masked_fill(~(mask & near), float("-inf")).softmax(-1)


class LongformerResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum, norm."""

    def __init__(self, config: LongformerConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    # twin: bert.BertResidual.forward
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class LongformerAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.self = LongformerSelfAttention(config)
        self.output = LongformerResidual(config, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, sight: Sight) -> Tensor:
        return self.output(self.self(x, layout, sight), residual=x)


class LongformerIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    # twin: bert.BertIntermediate.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class LongformerLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.attention = LongformerAttention(config)
        self.intermediate = LongformerIntermediate(config)
        self.output = LongformerResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, sight: Sight) -> Tensor:
        x = self.attention(x, layout, sight)
        return self.output(self.intermediate(x), residual=x)


class LongformerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.reaches = [window // 2 for window in config.windows]
        self.layer = nn.ModuleList(LongformerLayer(config) for _ in self.reaches)

    def forward(self, x: Tensor, layout: Layout, far: GlobalTokens | None) -> Tensor:
        sights = {reach: Sight.of(layout, far, reach) for reach in set(self.reaches)}  # layers share them
        for layer, reach in zip(self.layer, self.reaches, strict=True):
            x = layer(x, layout, sights[reach])
        return x


class LongformerPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class LongformerPreTrainedModel(Model):
    """What all classes of this file share."""

    config: LongformerConfig
    config_class = LongformerConfig
    prefix = "longformer"
    stack = "encoder.layer"
    optional = ("pooler",)  # only multiple choice needs it


class LongformerModel(LongformerPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: LongformerConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = LongformerEmbeddings(config)
        self.encoder = LongformerEncoder(config)
        self.pooler = LongformerPooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_tokens`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            global_attention_mask: (B, T), 1 for tokens that look at their whole text; None for none.
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
        far = None if global_attention_mask is None else find_global_tokens(global_attention_mask, layout)
        x = self.encoder(self.embeddings(words, token_types, positions), layout, far)  # (B, T, E)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))


class LongformerLMHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # the checkpoint's second name of the decoder's bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(x))))


class LongformerForMaskedLM(LongformerPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {
        "lm_head.decoder.weight": "longformer.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: LongformerConfig):
        super().__init__(config)
        self.longformer = LongformerModel(config, add_pooling_layer=False)
        self.lm_head = LongformerLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        x = self.longformer(
            input_ids, attention_mask, global_attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class LongformerClassificationHead(nn.Module):
    """Scores of labels from a text's first token, by way of a non-linear step."""

    def __init__(self, config: LongformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class LongformerForSequenceClassification(LongformerPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: LongformerConfig):
        super().__init__(config)
        self.longformer = LongformerModel(config, add_pooling_layer=False)
        self.classifier = LongformerClassificationHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        far = layout.positions == 0 if global_attention_mask is None else global_attention_mask
        x = self.longformer(input_ids, layout, far, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(layout.first(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class LongformerForMultipleChoice(LongformerPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: LongformerConfig):
        super().__init__(config)
        self.longformer = LongformerModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
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
            position_ids, global_attention_mask = flatten_choices(position_ids), flatten_choices(global_attention_mask)
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        far = global_attention_mask
        if far is None and input_ids is not None:  # the continuation
            far = separators_before(input_ids, self.config.sep_token_id, layout) >= 2
        pooled = self.longformer(input_ids, layout, far, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled)).view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class LongformerForTokenClassification(LongformerPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: LongformerConfig):
        super().__init__(config)
        self.longformer = LongformerModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.longformer(
            input_ids, attention_mask, global_attention_mask, token_type_ids, position_ids, inputs_embeds
        ).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class LongformerForQuestionAnswering(LongformerPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: LongformerConfig):
        super().__init__(config)
        self.longformer = LongformerModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        far = global_attention_mask
        if far is None and input_ids is not None:  # the question
            before = separators_before(input_ids, self.config.sep_token_id, layout)
            far = (before == 0) & (input_ids != self.config.sep_token_id)
        x = self.longformer(input_ids, layout, far, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
