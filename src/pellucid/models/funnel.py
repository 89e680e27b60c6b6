"""Funnel Transformer: an encoder that halves its tokens from block to block, and a decoder that spreads them again.

Paper: Dai et al., 2020, "Funnel-Transformer: Filtering out Sequential Redundancy for Efficient Language Processing",
https://arxiv.org/abs/2006.03236

What sets it apart from BERT:
  - between blocks of layers, pairs of tokens are pooled into one; [CLS] stays by itself
  - positions are relative: a score has a term for the sinusoid of the distance between the tokens' original places
  - segments are relative too; [CLS] belongs to all, and has neither distance nor segment to others
  - heads of tokens read a decoder: the last states, repeated to full length, plus those of the first block, through a
    few more layers. Heads of texts read the encoder alone

Which tokens make a pair depends on where their text begins, and the last ones on its length. So all is computed on rows
that begin with their text, packed or not, each pooled at its own length; hidden states and attentions are of such rows.

Shapes: B batch, C choices, T tokens, P pooled tokens, E hidden, H heads, D head size, Q queries, K keys, V vocabulary,
L labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed one.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import MAX_LAYERS, Config, shorten
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
CLS_TYPE = 2  # the token type of [CLS]


class FunnelConfig(Config):
    """The configuration of Funnel Transformer; the defaults are those of funnel-transformer/small."""

    model_type = "funnel"
    inert = {"is_decoder": False, "add_cross_attention": False, "is_encoder_decoder": False, "pruned_heads": {}}
    aliases = {"hidden_size": "d_model", "num_attention_heads": "n_head"}

    vocab_size: int = 30522
    type_vocab_size: int = 3  # types are compared, not looked up
    block_sizes: list[int] = field(default_factory=lambda: [4, 4, 4])  # layers of each block of the encoder
    block_repeats: list[int] | None = None  # how often a block's layers run; None for once
    num_decoder_layers: int = 2
    d_model: int = 768
    n_head: int = 12
    d_head: int = 64
    d_inner: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    initializer_range: float = 0.1
    initializer_std: float | None = None
    layer_norm_eps: float = 1e-9
    pooling_type: str = "mean"
    attention_type: str = "relative_shift"  # or "factorized", another way to the same numbers
    separate_cls: bool = True  # whether the first token is not pooled
    truncate_seq: bool = True  # whether then the last one is left out, so that there are half as many
    pool_q_only: bool = True  # whether the first layer of a block looks at the tokens before they are pooled

    @property
    def repeats(self) -> list[int]:
        """How often the layers of each block run."""
        return self.block_repeats or [1] * len(self.block_sizes)

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for name in ("block_sizes", "block_repeats"):
            counts = getattr(self, name)
            if counts is not None and not (counts and min(counts) > 0 and sum(counts) <= MAX_LAYERS):
                yield f"{name} is {shorten(counts)}; expected counts of at least 1, {MAX_LAYERS} together at most"
        if len(self.repeats) != len(self.block_sizes):
            yield f"block_repeats has {len(self.repeats)} entries, there are {len(self.block_sizes)} block_sizes"
        if self.d_model % 2:
            yield f"d_model is {self.d_model}; expected an even number, half of it sines and half cosines"
        kinds = {"pooling_type": ("mean", "max"), "attention_type": ("relative_shift", "factorized")}
        for name, known in {"hidden_act": ACTIVATIONS, **kinds}.items():
            if getattr(self, name) not in known:
                yield f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}"


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
class Rows:
    """The tokens of one text a row: how many, (B,), which places hold one, and of which segment they are, (B, T)."""

    lengths: Tensor
    keep: Tensor
    types: Tensor


@dataclass(frozen=True)
class View:
    """What the queries of an attention have before them."""

    layout: Layout  # where the keys are
    waves: Tensor  # (2K + 1, E), sinusoids of all distances there are
    distances: Tensor  # (Q, K), the row of `waves` for each query and key
    same: Tensor  # (B, Q, K), true where both are of one segment


# twin: xlnet.sinusoids
def sinusoids(distances: Tensor, size: int) -> Tensor:
    """Encode distances as sines, then cosines, of ever slower waves: (P,) to (P, E)."""
    slowness = 10000 ** (torch.arange(0, size, 2, device=distances.device) / size)
    angles = distances[:, None] / slowness
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def look(config: FunnelConfig, queries: Rows, keys: Rows, step: int) -> View:
    """Look from `queries` to `keys`, which are `step` places apart; queries twice as far where they are pooled keys."""
    of_query, of_key = (torch.arange(rows.keep.shape[1], device=rows.keep.device) for rows in (queries, keys))
    if queries is not keys:
        of_query = 2 * of_query - int(config.separate_cls)  # a pooled token is where the first was of which it is made
    distances = torch.arange(-len(of_key), len(of_key) + 1, device=of_key.device) * step
    same = queries.types[:, :, None] == keys.types[:, None]
    same = same | (queries.types == CLS_TYPE)[:, :, None] | (keys.types == CLS_TYPE)[:, None]
    layout = Layout(of_key.expand(keys.keep.shape), keys.keep)
    return View(layout, sinusoids(distances, config.d_model), of_query[:, None] - of_key + len(of_key), same)


class FunnelEmbeddings(nn.Module):
    """Word embeddings, normalised."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, words: Tensor) -> Tensor:
        return self.dropout(self.layer_norm(words))


class FunnelPooling(nn.Module):
    """Makes one token of two."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.kind, self.first = config.pooling_type, int(config.separate_cls)
        self.dropped = int(config.separate_cls and config.truncate_seq)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """Pool (B, T, E) to (B, P, E); texts of no more than [CLS] and one token stay as they are."""
        lengths = rows.lengths - self.dropped * (rows.lengths > 2)
        inside = self.pairs(torch.arange(x.shape[1], device=x.device) < lengths[:, None])  # (B, pairs, 2)
        if self.kind == "mean":
            pooled = (self.pairs(x) * inside[..., None]).sum(dim=2) / inside.sum(dim=2, keepdim=True).clamp(min=1)
        else:
            lowest = torch.finfo(x.dtype).min
            pooled = self.pairs(x).masked_fill(~inside[..., None], lowest).amax(dim=2) * inside.any(dim=2, keepdim=True)
        keep = (self.pairs(rows.keep) | ~inside).all(dim=2) & inside.any(dim=2)
        halves = zip((x, rows.keep, rows.types), (pooled, keep, self.pairs(rows.types)[:, :, 0]), strict=True)
        x, keep, types = (torch.cat([whole[:, : self.first], half], dim=1) for whole, half in halves)
        return x, Rows(self.first + (lengths - self.first + 1) // 2, keep, types)

    def pairs(self, x: Tensor) -> Tensor:
        """Put the tokens that are pooled together side by side: (B, T, ...) to (B, pairs, 2, ...)."""
        x = x[:, self.first : x.shape[1] - self.dropped * (x.shape[1] > 2)]
        if x.shape[1] % 2:
            x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
        return x.unflatten(1, (x.shape[1] // 2, 2))


class FunnelAttention(nn.Module):
    """The first half of a layer: attention over content, distance and segment."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.heads, self.head_size, self.separate_cls = config.n_head, config.d_head, config.separate_cls
        self.scale, self.attention_dropout = 1 / math.sqrt(config.d_head), config.attention_dropout
        shape, width = (config.n_head, config.d_head), config.n_head * config.d_head
        self.q_head = nn.Linear(config.d_model, width, bias=False)
        self.k_head, self.v_head = (nn.Linear(config.d_model, width) for _ in range(2))
        self.r_w_bias, self.r_r_bias, self.r_s_bias = (nn.Parameter(torch.empty(shape)) for _ in range(3))
        self.r_kernel = nn.Parameter(torch.empty(config.d_model, *shape))
        self.seg_embed = nn.Parameter(torch.empty(2, *shape))  # of another segment, of the same
        self.post_proj = nn.Linear(width, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, context: Tensor, view: View) -> Tensor:
        q, k, v = (
            project(y).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project, y in ((self.q_head, x), (self.k_head, context), (self.v_head, context))
        )
        waves = torch.einsum("pe,ehd->hdp", self.hidden_dropout(view.waves.to(q.dtype)), self.r_kernel)
        by_distance = (q + self.r_r_bias[:, None]) @ waves  # (B, H, Q, 2K + 1)
        scores = by_distance.gather(-1, view.distances.expand(*q.shape[:2], -1, -1))  # (B, H, Q, K)
        other, same = ((q + self.r_s_bias[:, None]) @ self.seg_embed.permute(1, 2, 0)).split(1, dim=-1)
        scores = (scores + torch.where(view.same[:, None], same, other)) * self.scale
        if self.separate_cls:
            scores = F.pad(scores[:, :, 1:, 1:], (1, 0, 1, 0))
        q, dropout = q + self.r_w_bias[:, None], self.attention_dropout if self.training else 0.0
        seen = attend(q, k, v, view.layout, scale=self.scale, bias=lambda q, k, apart: scores, dropout=dropout)
        return self.layer_norm(x + self.hidden_dropout(self.post_proj(seen.transpose(1, 2).flatten(2))))


class FunnelFeedForward(nn.Module):
    """The second half of a layer: a wide, non-linear step."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.d_model, config.d_inner)
        self.linear_2 = nn.Linear(config.d_inner, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.activation_dropout(self.activation(self.linear_1(x)))
        return self.layer_norm(x + self.dropout(self.linear_2(wide)))


class FunnelLayer(nn.Module):
    """One layer: attention of the tokens `x` to a context, then a position-wise feed-forward."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.attention = FunnelAttention(config)
        self.ffn = FunnelFeedForward(config)

    def forward(self, x: Tensor, context: Tensor, view: View) -> Tensor:
        return self.ffn(self.attention(x, context, view))


class FunnelEncoder(nn.Module):
    """The blocks of layers."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        blocks = (nn.ModuleList(FunnelLayer(config) for _ in range(size)) for size in config.block_sizes)
        self.config, self.blocks, self.pooling = config, nn.ModuleList(blocks), FunnelPooling(config)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Rows, Tensor]:
        """Encode (B, T, E): the last states, (B, P, E), what they are of, and the states of full length, (B, T, E)."""
        early, runs = x, 0
        for number, (block, repeats) in enumerate(zip(self.blocks, self.config.repeats, strict=True)):
            unpooled, before = x, rows
            if number:
                x, rows = self.pooling(x, rows)
            own = look(self.config, rows, rows, 2**number)
            context, view = x, own
            if number and self.config.pool_q_only:
                context, view = unpooled, look(self.config, rows, before, 2 ** (number - 1))
            for layer in (layer for layer in block.children() for _ in range(repeats)):
                x = layer(x, context, view)
                context, view, runs = x, own, runs + 1
                if runs == self.config.block_sizes[0]:  # so checkpoints were trained, also where the layers repeat
                    early = x
        return x, rows, early


class FunnelJoin(nn.Module):
    """Adds the last states, repeated for all tokens that they were made of, to those of full length."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.first, self.step = int(config.separate_cls), 2 ** (len(config.block_sizes) - 1)

    def forward(self, x: Tensor, lengths: Tensor, early: Tensor) -> Tensor:
        places = torch.arange(early.shape[1], device=x.device)
        source = (places - self.first).div(self.step, rounding_mode="floor") + self.first  # [CLS] is its own
        made = source < lengths[:, None]  # not what was left out as the last one
        return early + x[:, source.clamp(max=x.shape[1] - 1)] * made[..., None]


class FunnelDecoder(nn.Module):
    """A few layers of full length."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.layers = nn.ModuleList(FunnelLayer(config) for _ in range(config.num_decoder_layers))
        self.join = FunnelJoin(config)

    def forward(self, x: Tensor, view: View) -> Tensor:
        for layer in self.layers:
            x = layer(x, x, view)
        return x


class FunnelPreTrainedModel(Model):
    """What all classes of this file share."""

    config: FunnelConfig
    config_class = FunnelConfig
    prefix = "funnel"
    optional = ("decoder",)  # heads of texts have none

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; those of linear maps by their size."""
        super().init_module(module, only)
        if isinstance(module, nn.Linear) and (only is None or "weight" in only):
            by_size = 1 / math.sqrt(module.in_features + module.out_features)
            module.weight.normal_(0.0, self.config.initializer_std or by_size)


class FunnelBaseModel(FunnelPreTrainedModel):
    """The encoder alone: fewer states than tokens."""

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.embeddings = FunnelEmbeddings(config)
        self.encoder = FunnelEncoder(config)
        self.init_weights()

    def recorded_layers(self) -> Iterator[nn.Module]:
        """Return the modules whose outputs are the hidden states."""
        return (layer for block in self.encoder.blocks for layer in block.children())

    def encode(
        self, ids: Tensor | None, layout: Layout, types: Tensor | None, words: Tensor | None
    ) -> tuple[Tensor, Rows, Tensor, Rows]:
        """Run the encoder: what it returns, and what the tokens are."""
        x = self.embeddings(self.embeddings.word_embeddings(ids) if words is None else words)
        types, aligned = layout.align(torch.zeros_like(layout.positions) if types is None else types)
        keep = torch.ones_like(types, dtype=torch.bool) if aligned.keep is None else aligned.keep
        rows = Rows(layout.spans, keep, types)
        return *self.encoder(layout.align(x)[0], rows), rows

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch, given as to FunnelModel, to rows that begin with the state of [CLS], (B, P, E)."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        return Hidden(last_hidden_state=self.encode(input_ids, layout, token_type_ids, inputs_embeds)[0])


class FunnelModel(FunnelBaseModel):
    """The encoder and the decoder without a task head."""

    optional = ()

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.decoder = FunnelDecoder(config)
        self.init_weights()

    def recorded_layers(self) -> Iterator[nn.Module]:
        """Return the modules whose outputs are the hidden states."""
        yield from super().recorded_layers()
        yield from (self.decoder.join, *self.decoder.layers)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), of any length.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), 0 for the first text of a pair, 1 for the second and 2 for [CLS]; None for all 0.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x, pooled, early, rows = self.encode(input_ids, layout, token_type_ids, inputs_embeds)
        x = self.decoder(self.decoder.join(x, pooled.lengths, early), look(self.config, rows, rows, 1))
        return Hidden(last_hidden_state=layout.unalign(x))  # (B, T, E)


class FunnelDiscriminatorPredictions(nn.Module):
    """One score a token, higher where it has been replaced."""

    def __init__(self, config: FunnelConfig):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense_prediction = nn.Linear(config.d_model, 1)

    # twin: electra.ElectraDiscriminatorPredictions.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.dense_prediction(self.activation(self.dense(x))).squeeze(-1)  # (B, T)


class FunnelForPreTraining(FunnelPreTrainedModel):
    """The discriminator: tells which tokens are not the original ones."""

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.discriminator_predictions = FunnelDiscriminatorPredictions(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score each token, positive where it looks replaced; `labels`: (B, T), 1 where it is and 0 elsewhere."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.funnel(input_ids, layout, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.discriminator_predictions(x)  # (B, T)
        loss = None
        if labels is not None:
            keep = torch.ones_like(logits, dtype=torch.bool) if layout.keep is None else layout.keep
            loss = F.binary_cross_entropy_with_logits(logits[keep], labels[keep].to(logits.dtype))
        return Logits(loss=loss, logits=logits)


class FunnelForMaskedLM(FunnelPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"lm_head.weight": "funnel.embeddings.word_embeddings.weight"}

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)
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
        x = self.funnel(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.lm_head(x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class FunnelClassificationHead(nn.Module):
    """Scores of a text, from its first state."""

    def __init__(self, config: FunnelConfig, labels: int):
        super().__init__()
        self.linear_hidden = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.linear_out = nn.Linear(config.d_model, labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_out(self.dropout(torch.tanh(self.linear_hidden(x))))


class FunnelForSequenceClassification(FunnelPreTrainedModel):
    """Labels a whole text, from its first state, which is never pooled."""

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.funnel = FunnelBaseModel(config)
        self.classifier = FunnelClassificationHead(config, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        x = self.funnel(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(x[:, 0])  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FunnelForMultipleChoice(FunnelPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.funnel = FunnelBaseModel(config)
        self.classifier = FunnelClassificationHead(config, 1)
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
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
        x = self.funnel(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(x[:, 0]).view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class FunnelForTokenClassification(FunnelPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
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
        x = self.funnel(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class FunnelForQuestionAnswering(FunnelPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: FunnelConfig):
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
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
        x = self.funnel(input_ids, attention_mask, token_type_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
