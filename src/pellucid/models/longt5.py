"""LongT5: T5 for long sources, whose encoder looks near each token and, in one kind, at summaries of the whole.

Paper: Guo et al., 2021, "LongT5: Efficient Text-To-Text Transformer for Long Sequences",
https://arxiv.org/abs/2112.07916

What sets it apart from T5:
  - a token of the source looks at those within a radius only
  - "transient-global": also at summaries of the text's blocks, made anew in each layer: a block's tokens are summed and
    normalised, and become keys and values like a token's; tokens after the last whole block count as part of that, and
    a table of its own says how far away a block is
  - no heads but the one that writes

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary; N tokens of a
piece that is computed at a time, K tokens around it, M summaries. Packed batches are (1, N) tokens with a layout, of
sources and targets alike.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Bias, attend, report_attention
from ..cache import Cache, Source
from ..config import Config
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Seq2SeqHidden, Seq2SeqLogits
from ..weights import Checkpoint, same_bits

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
LOCAL, GLOBAL = "local", "transient-global"
NAMES = {LOCAL: "LocalSelfAttention", GLOBAL: "TransientGlobalSelfAttention"}  # in checkpoints


class LongT5Config(Config):
    """The configuration of LongT5; the defaults are those of t5-small."""

    model_type = "longt5"
    inert = {"add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None  # None for num_layers
    num_heads: int = 8
    encoder_attention_type: str = LOCAL
    local_radius: int = 127  # tokens to each side that a token of the source looks at
    global_block_size: int = 16  # tokens of a block that is summed up
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    feed_forward_proj: str = "relu"  # an activation, or "gated-" and one
    dense_act_fn: str | None = None  # both said by the line above, unless they are given
    is_gated_act: bool | None = None
    scale_decoder_outputs: bool | None = None  # None when the head shares the words' table
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    is_encoder_decoder: bool = True  # what the class does says which it is
    is_decoder: bool = False
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0

    @property
    def decoder_depth(self) -> int:
        """The number of the decoder's layers."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def activation(self) -> str:
        """The activation of feed-forwards; the gelu of gated ones is the approximate one."""
        named = "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")
        return named if self.dense_act_fn is None else self.dense_act_fn

    @property
    def gated(self) -> bool:
        """Whether feed-forwards multiply what is activated by what is not."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def scales_head(self) -> bool:
        """Whether what the head reads is scaled."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            yield f"the activation of feed_forward_proj or dense_act_fn is {self.activation!r}; expected one of {known}"
        if 0 in (self.num_layers, self.decoder_depth):
            yield "num_layers or num_decoder_layers is 0; expected at least 1 layer, which holds the table of distances"
        if self.encoder_attention_type not in NAMES:
            yield f"encoder_attention_type is {self.encoder_attention_type!r}; expected one of {', '.join(NAMES)}"
        for name in ("local_radius", "global_block_size"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; expected at least 1"
        buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if not 4 <= buckets < 2 * farthest:
            yield (
                f"relative_attention_num_buckets is {buckets}; expected at least 4, and less than twice "
                f"relative_attention_max_distance ({farthest})"
            )


# twin: bart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


# twin: t5.distance_buckets
def distance_buckets(apart: Tensor, buckets: int, farthest: int, *, causal: bool) -> Tensor:
    """Sort pairs of tokens by how far the one that looks is after the other, (B, T, S), into buckets of that shape.

    Short distances have a bucket each, longer ones share buckets that widen logarithmically; those from `farthest` on
    share the last. Where tokens look ahead, too, half of the buckets are for that.
    """
    count = buckets if causal else buckets // 2
    exact = count // 2
    distance = apart.clamp(min=0) if causal else apart.abs()
    log = torch.log(distance.clamp(min=1) / exact) / math.log(farthest / exact) * (count - exact)
    wide = (exact + log.long()).clamp(max=count - 1)
    bucket = torch.where(distance < exact, distance, wide)
    return bucket if causal else torch.where(apart < 0, count, 0) + bucket


# twin: t5.distance_bias
def distance_bias(table: Tensor, farthest: int, *, causal: bool) -> Bias:
    """Return what adds to the scores what a table, (buckets, H), says; layers that are given it share the work."""
    made: dict[torch.Size, Tensor] = {}  # by shape: all texts of one are alike in a forward

    def bias(q: Tensor, k: Tensor, apart: Tensor) -> Tensor:
        if apart.shape not in made:
            places = distance_buckets(apart, len(table), farthest, causal=causal)
            made[apart.shape] = F.embedding(places, table).permute(0, 3, 1, 2).contiguous()  # (B or 1, H, T, S)
        return made[apart.shape]

    return bias


# twin: longformer.texts_of
def texts_of(layout: Layout) -> Tensor:
    """Number the text that each token is of, (B, T); padding is of none, -1."""
    texts = torch.zeros_like(layout.positions) if layout.sequence is None else layout.sequence
    return texts if layout.keep is None else texts.masked_fill(~layout.keep, -1)


# twin: longformer.cut
def cut(x: Tensor, size: int, *, beyond: int = 0, fill: int = 0) -> Tensor:
    """Cut rows into blocks of `size` tokens and their neighbours: (B, H, T, D) to (blocks, H, size + 2 beyond, D)."""
    x = F.pad(x, (0, 0, beyond, beyond + -x.shape[2] % size), value=fill)  # also what lies beyond a row's ends
    return x.unfold(2, size + 2 * beyond, size).permute(0, 2, 1, 4, 3).flatten(0, 1)


def find_blocks(layout: Layout, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut texts into blocks; a packed row has those of all its texts.

    Returns:
        The number of the block that each token is part of, (B, S), M for none; how many blocks it is after each one,
        (B, S, M); and which of them are of its text, likewise.
    """
    texts, whole, device = texts_of(layout), layout.spans // size, layout.positions.device  # blocks of each text
    if layout.lengths is None:
        first = torch.zeros_like(whole)
        places = torch.arange(layout.positions.shape[1] // size, device=device).expand(len(whole), -1)  # (B, M)
        own = (texts[..., None] >= 0) & (places < whole[:, None])[:, None]
    else:
        first, owners = whole.cumsum(0) - whole, torch.arange(len(whole), device=device).repeat_interleave(whole)
        places = torch.arange(len(owners), device=device)[None] - first[owners]
        own = texts[..., None] == owners
    block = torch.minimum(layout.positions // size, layout.spread(whole) - 1)  # the last takes what is left over
    part = torch.where((block >= 0) & (texts >= 0), layout.spread(first) + block, places.shape[1])
    return part, block[..., None] - places[:, None], own


@dataclass(frozen=True)
class Sight:
    """What the tokens of a source look at, and the pieces in which that is computed."""

    length: int  # S
    size: int  # N, tokens of a piece
    beyond: int  # tokens to each side of it that its own may look at
    bias: Tensor  # (pieces, H, N, K + M), what is added to the scores; -inf where a token does not look
    part: Tensor | None  # (B, S), the block with which each token is summed up

    @staticmethod
    def of(layout: Layout, config: LongT5Config, near: Tensor, far: Tensor | None) -> "Sight":
        """Work it out; `near` and `far` are tables of distances in tokens and in blocks, (buckets, H) each."""
        length, reach, farthest = layout.positions.shape[1], config.local_radius, config.relative_attention_max_distance
        size, beyond = (max(1, length), 0) if length <= reach + 1 else (reach + 1, reach)
        places = torch.arange(size + 2 * beyond, device=near.device)
        apart = places[:size, None] + beyond - places  # (N, K)
        texts = texts_of(layout)[:, None, :, None]  # (B, 1, S, 1)
        seen = cut(texts, size, fill=-1) == cut(texts, size, beyond=beyond, fill=-1).mT  # (pieces, 1, N, K)
        seen = seen & (apart.abs() <= reach)
        bias = F.embedding(distance_buckets(apart, len(near), farthest, causal=False), near)  # (N, K, H)
        bias, part = bias.permute(2, 0, 1).expand(len(seen), -1, -1, -1), None
        if far is not None:
            part, apart, own = find_blocks(layout, config.global_block_size)
            blocks = F.embedding(distance_buckets(apart, len(far), farthest, causal=False), far)  # (B, S, M, H)
            bias = torch.cat([bias, cut(blocks.permute(0, 3, 1, 2), size)], dim=-1)
            seen = torch.cat([seen, cut(own[:, None].long(), size).bool()], dim=-1)
        seen = seen | ~seen.any(dim=-1, keepdim=True)  # a row of nothing would become NaN
        return Sight(length, size, beyond, bias.masked_fill(~seen, float("-inf")), part)

    def sum(self, x: Tensor, part: Tensor) -> Tensor:
        """Add up the tokens of each block: (B, S, E) to (B, M, E)."""
        count = self.bias.shape[-1] - self.size - 2 * self.beyond  # M
        return x.new_zeros(len(x), count + 1, x.shape[-1]).scatter_add(1, part[..., None].expand_as(x), x)[:, :-1]

    def around(self, x: Tensor, far: Tensor | None) -> Tensor:
        """Give each piece what it looks at: (B, H, S, D) and summaries, (B, H, M, D), to (pieces, H, K + M, D)."""
        near = cut(x, self.size, beyond=self.beyond)
        if far is None:
            return near
        return torch.cat([near, far.repeat_interleave(len(near) // max(1, len(far)), dim=0)], dim=2)

    def join(self, x: Tensor) -> Tensor:
        """Put pieces together again: (pieces, H, N, D) to (B, H, S, D)."""
        rows = x.unflatten(0, (-1, -(-self.length // self.size)))
        return rows.transpose(1, 2).flatten(2, 3)[:, :, : self.length]


# twin: t5.T5LayerNorm
class T5LayerNorm(nn.RMSNorm):
    """Divides by the root of the mean square; sums that are more exact than the weights are made so only after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(self.weight.dtype)


# twin: t5.T5Query
class T5Query(nn.Linear):
    """Makes queries, which begin small: scores are not scaled."""


class LongT5Attention(nn.Module):
    """Attention of the target to itself, or to what the encoder has read."""

    def __init__(self, config: LongT5Config, index: int, *, causal: bool = False, biased: bool = False):
        super().__init__()
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.heads, self.index, self.causal, self.dropout = config.num_heads, index, causal, config.dropout_rate
        self.q = T5Query(size, inner, bias=False)
        self.k = nn.Linear(size, inner, bias=False)
        self.v = nn.Linear(size, inner, bias=False)
        self.o = nn.Linear(inner, size, bias=False)
        if biased:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    # twin: t5.T5Attention.forward
    def forward(
        self, x: Tensor, layout: Layout, bias: Bias | None, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        q, dropout = self.split(self.q(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.k(x)), self.split(self.v(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)
            x = attend(q, k, v, layout, causal=self.causal, scale=1.0, bias=bias, dropout=dropout)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k(source.states)), self.split(self.v(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D)
            x = attend(q, k, v, layout, source=source.layout, scale=1.0, dropout=dropout)
        return self.o(x.transpose(1, 2).flatten(2))

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class LongT5SourceAttention(LongT5Attention):
    """Attention of the source to what is near, and to summaries of the rest."""

    def __init__(self, config: LongT5Config, index: int):
        super().__init__(config, index, biased=index == 0)
        if config.encoder_attention_type == GLOBAL:
            self.global_input_layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
            if index == 0:
                buckets = config.relative_attention_num_buckets
                self.global_relative_attention_bias = nn.Embedding(buckets, config.num_heads)

    def forward(  # type: ignore[override]
        self, x: Tensor, layout: Sight, bias: None = None, cache: None = None, source: None = None
    ) -> Tensor:
        told = None if layout.part is None else self.global_input_layer_norm(layout.sum(x, layout.part))  # (B, M, E)
        q = cut(self.split(self.q(x)), layout.size)  # (pieces, H, N, D)
        k, v = (
            layout.around(self.split(project(x)), None if told is None else self.split(project(told)))
            for project in (self.k, self.v)
        )
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.bias, dropout_p=dropout, scale=1.0)
        report_attention(lambda: self.weights(q, k, layout, len(x)))
        return self.o(layout.join(out).transpose(1, 2).flatten(2))

    def weights(self, q: Tensor, k: Tensor, sight: Sight, texts: int) -> Tensor:
        """Write the weights of all pieces as one matrix, (B, H, S, S); a block's is shared by its tokens."""
        tokens, far = torch.eye(sight.length, dtype=q.dtype, device=q.device).expand(texts, -1, -1), None
        if sight.part is not None:
            far = F.normalize(sight.sum(tokens, sight.part), p=1.0, dim=-1)[:, None]
        return sight.join((q @ k.mT + sight.bias).softmax(dim=-1) @ sight.around(tokens[:, None], far))


class LongT5LayerAttention(nn.Module):
    """The part of a layer in which a text looks at itself, or at another."""

    def __init__(self, config: LongT5Config, name: str, attention: nn.Module):
        super().__init__()
        self.name = name
        self.add_module(name, attention)
        self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, x: Tensor, layout: Layout | Sight, bias: Bias | None, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        return x + self.dropout(self.get_submodule(self.name)(self.layer_norm(x), layout, bias, cache, source))


class LongT5FeedForward(nn.Module):
    """Two products with an activation between, of which a third may be the gate."""

    def __init__(self, config: LongT5Config):
        super().__init__()
        if config.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation, self.gated = config.activation, config.gated

    # twin: t5.T5FeedForward.forward
    def forward(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.activation]
        inner = activate(self.wi_0(x)) * self.wi_1(x) if self.gated else activate(self.wi(x))
        return self.wo(self.dropout(inner).to(self.wo.weight.dtype))


class LongT5LayerFF(nn.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: LongT5Config):
        super().__init__()
        self.DenseReluDense = LongT5FeedForward(config)
        self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    # twin: t5.T5LayerFF.forward
    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class LongT5Block(nn.Module):
    """One layer: attention to the text, in the decoder attention to the source, feed-forward."""

    def __init__(self, config: LongT5Config, index: int, *, decoder: bool):
        super().__init__()
        if decoder:
            itself = LongT5Attention(config, index, causal=True, biased=index == 0)
            parts = {"SelfAttention": itself, "EncDecAttention": LongT5Attention(config, index)}
        else:
            parts = {NAMES[config.encoder_attention_type]: LongT5SourceAttention(config, index)}
        self.layer = nn.ModuleList(LongT5LayerAttention(config, name, part) for name, part in parts.items())
        self.layer.append(LongT5LayerFF(config))

    def forward(
        self, x: Tensor, layout: Layout | Sight, bias: Bias | None, cache: Cache | None, source: Source | None
    ) -> Tensor:
        x = self.layer[0](x, layout, bias, cache)
        if source is not None:
            x = self.layer[1](x, layout, None, cache, source)
        return self.layer[-1](x)


class LongT5Stack(nn.Module):
    """One half: the encoder, or the decoder."""

    def __init__(self, config: LongT5Config, *, decoder: bool):
        super().__init__()
        depth = config.decoder_depth if decoder else config.num_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.block = nn.ModuleList(LongT5Block(config, i, decoder=decoder) for i in range(depth))
        self.final_layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.config, self.decoder = config, decoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        tokens = Model.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.dropout(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)  # (B, T, E)
        first, end = dict(self.block[0].named_parameters()), "relative_attention_bias.weight"
        tables, bias = [table for name, table in first.items() if name.endswith(end)], None  # of distances
        if self.decoder:
            bias = distance_bias(tables[0], self.config.relative_attention_max_distance, causal=True)
        else:
            layout = Sight.of(layout, self.config, tables[0], tables[1] if len(tables) > 1 else None)
        for layer in self.block:
            x = layer(x, layout, bias, cache, source)
        return Hidden(last_hidden_state=self.dropout(self.final_layer_norm(x)))


class LongT5PreTrainedModel(Model):
    """What all classes of this file share."""

    config: LongT5Config
    config_class = LongT5Config
    prefix = "transformer"
    heads = ("lm_head",)
    stack = "decoder.block"
    source_stack = "encoder.block"
    tied = {
        **{f"{half}.embed_tokens.weight": "shared.weight" for half in ("encoder", "decoder")},
        **{f"transformer.{half}.embed_tokens.weight": "transformer.shared.weight" for half in ("encoder", "decoder")},
        "lm_head.weight": "shared.weight",
    }
    unread = ("EncDecAttention.relative_attention_bias.weight",)  # of old versions, which nothing learned
    wide = ("wo.weight",)
    encoder: LongT5Stack
    decoder: LongT5Stack

    @property
    def ties(self) -> dict[str, str]:
        """What is tied: the words of both halves always, the head's when the config says so."""
        return {n: other for n, other in self.tied.items() if n != "lm_head.weight" or self.config.tie_word_embeddings}

    # twin: t5.T5PreTrainedModel.is_unread
    def is_unread(self, name: str) -> bool:
        """Leave the decoder of a whole model's file unread where there is none."""
        return (not self.source_stack and "decoder." in name) or super().is_unread(name)

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw words of size 1, and what else there is so that sums, and scores that are not scaled, are of size 1."""
        super().init_module(module, only)
        if not isinstance(module, nn.Linear | nn.Embedding) or (only is not None and "weight" not in only):
            return
        words = len(module.weight) == self.config.vocab_size  # a table of them, or a head
        fan_in = module.in_features if isinstance(module, nn.Linear) else self.config.d_model
        size = 1.0 if words else fan_in**-0.5
        size = size * self.config.d_kv**-0.5 if isinstance(module, T5Query) else size
        module.weight.normal_(0.0, self.config.initializer_factor * size)

    # twin: t5.T5PreTrainedModel.read
    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | Layout | None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Source:
        """Return the source as the encoder has read it before, or does now."""
        if cache is not None and cache.source is not None:
            return cache.source
        states = (encoder_outputs or self.encoder(input_ids, attention_mask, inputs_embeds))[0]
        source = Source(states, Layout.of(states, attention_mask))
        if cache is not None:
            cache.source = source
        return source


class LongT5EncoderModel(LongT5PreTrainedModel):
    """The encoder alone."""

    stack, source_stack = "encoder.block", ""

    def __init__(self, config: LongT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = LongT5Stack(config, decoder=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `LongT5Model`."""
        return self.encoder(input_ids, attention_mask, inputs_embeds)


class LongT5Model(LongT5PreTrainedModel):
    """Both halves without a task head."""

    def __init__(self, config: LongT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = LongT5Stack(config, decoder=False)
        self.decoder = LongT5Stack(config, decoder=True)
        self.init_weights()

    # twin: t5.T5Model.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | Layout | None = None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Seq2SeqHidden:
        """Read a source and what was written of its target.

        Args:
            input_ids: ids of the source, (B, S).
            attention_mask: (B, S), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            decoder_input_ids: ids of the target, (B, T), the start token first.
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what was read before, the source included; these tokens are added to it.
        """
        source = self.read(input_ids, attention_mask, encoder_outputs, inputs_embeds, cache)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=written.last_hidden_state, encoder_last_hidden_state=source.states)


class LongT5ForConditionalGeneration(LongT5PreTrainedModel):
    """Writes a target, such as a summary, a translation or an answer."""

    def __init__(self, config: LongT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = LongT5Stack(config, decoder=False)
        self.decoder = LongT5Stack(config, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    @classmethod
    def settle(cls, config: LongT5Config, checkpoint: Checkpoint) -> LongT5Config:
        """Let the head have the words' table unless the checkpoint has another for it, whatever the config says.

        There, `tie_word_embeddings` came to mean whether the head scales what it reads. New files always say that it is
        tied, and files of some kin that it is not, though they hold one table.
        """
        stored = checkpoint.tensors
        shared = "lm_head.weight" not in stored
        if config.tie_word_embeddings and not shared and "shared.weight" in stored:
            shared = same_bits(checkpoint.load("lm_head.weight"), checkpoint.load("shared.weight"))
        if shared == config.tie_word_embeddings:
            return config
        return config.replace(tie_word_embeddings=shared, scale_decoder_outputs=bool(config.scale_decoder_outputs))

    # twin: t5.T5ForConditionalGeneration.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | Layout | None = None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Seq2SeqLogits:
        """Score what comes next; `labels`: (B, T), the target, -100 where there is nothing to learn.

        Without `decoder_input_ids`, those are the labels, shifted by one. `logits_to_keep` says after how many last
        tokens to score; 0 for all.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            layout = Layout.of(labels, decoder_attention_mask)
            decoder_input_ids = shift_right(labels, layout, self.config)
        source = self.read(input_ids, attention_mask, encoder_outputs, inputs_embeds, cache)
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        x = written.last_hidden_state[:, -logits_to_keep:]
        logits = self.lm_head(x * self.config.d_model**-0.5 if self.config.scales_head else x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=source.states)
