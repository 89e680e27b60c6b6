"""ProphetNet: an encoder and a decoder that predicts several next tokens at once.

Paper: Qi et al., 2020, "ProphetNet: Predicting Future N-gram for Sequence-to-Sequence Pre-training",
https://arxiv.org/abs/2001.04063

What sets it apart from BART:
  - beside the stream of what was written, the decoder carries streams that see none of its newest tokens: the first
    predicts the next token and is all that counts when a text is written, the others those after it, in training
  - each stream looks at the written tokens that it may know, and at itself
  - how much a token of the decoder looks at another also depends on how far that is before it, as the token says
  - positions count from 1 past the padding id

The decoder gives each text of a packed batch a row of its own; its hidden states are then those of rows.

Shapes: B batch, S tokens of the source or, with those in the cache, that may be looked at; T of the target, G streams,
E hidden, H heads, D head size, N buckets of distances, V vocabulary. Packed batches are (1, N) tokens with a layout, of
sources and targets alike.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache, Source
from ..config import Config
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Seq2SeqHidden, Seq2SeqLogits

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


class ProphetNetConfig(Config):
    """The configuration of ProphetNet; the defaults are those of prophetnet-large-uncased."""

    model_type = "prophetnet"
    inert = {"cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {"num_attention_heads": "num_encoder_attention_heads", "num_hidden_layers": "num_encoder_layers"}

    vocab_size: int = 30522
    hidden_size: int = 1024
    encoder_ffn_dim: int = 4096
    num_encoder_layers: int = 12
    num_encoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    num_decoder_layers: int = 12
    num_decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    dropout: float = 0.1
    max_position_embeddings: int = 512
    init_std: float = 0.02
    ngram: int = 2  # next tokens that are predicted, G
    num_buckets: int = 32
    relative_max_distance: int = 128
    disable_ngram_loss: bool = False  # whether only the next one is learned
    eps: float = 0.0  # of the label smoothing
    add_cross_attention: bool = True  # whether the decoder can look at a source
    is_encoder_decoder: bool = True  # what the class does says which it is
    is_decoder: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 0

    @property
    def initializer_range(self) -> float:
        """The deviation of new weights."""
        return self.init_std

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"num_{side}_attention_heads")
            if self.hidden_size % heads:
                yield f"hidden_size ({self.hidden_size}) is not a multiple of num_{side}_attention_heads ({heads})"
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.ngram < 1:
            yield f"ngram is {self.ngram}; expected at least 1"
        buckets, limit = self.num_buckets, self.relative_max_distance
        if not 2 <= buckets < 2 * limit:
            yield f"num_buckets is {buckets}; expected at least 2, and less than twice relative_max_distance ({limit})"
        if not 0 <= self.eps < 1:
            yield f"eps is {self.eps}; expected 0 <= eps < 1"


@dataclass(kw_only=True)
class ProphetNetHidden(Seq2SeqHidden):
    """What both halves without a head return.

    Attributes:
        last_hidden_state_ngram: of the streams that predict, one after the other, (B, G T, E).
    """

    last_hidden_state_ngram: Tensor


@dataclass(kw_only=True)
class ProphetNetLogits(Seq2SeqLogits):
    """Scores before normalisation.

    Attributes:
        logits_ngram: of the tokens after the next one, (B, G - 1, T, V); absent when none are predicted.
    """

    logits_ngram: Tensor | None = None


@dataclass(kw_only=True)
class ProphetNetDecoderHidden(Hidden):
    """What the decoder returns.

    Attributes:
        last_hidden_state_ngram: as in `ProphetNetHidden`.
    """

    last_hidden_state_ngram: Tensor


@dataclass(kw_only=True)
class ProphetNetDecoderLogits(Logits):
    """Scores before normalisation, of the decoder alone.

    Attributes:
        logits_ngram: as in `ProphetNetLogits`.
    """

    logits_ngram: Tensor | None = None


# twin: bart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


def ngram_loss(logits: Tensor, labels: Tensor, config: ProphetNetConfig) -> Tensor:
    """The loss of all streams, (B, G, T, V), each of which predicts the same labels, (B, T)."""
    learned = 1 if config.disable_ngram_loss else config.ngram
    targets = labels[:, None].expand(-1, learned, -1)
    return F.cross_entropy(logits[:, :learned].flatten(0, 2), targets.flatten(), label_smoothing=config.eps)


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


def position_rows(layout: Layout, config: ProphetNetConfig, after: int = 0) -> Tensor:
    """Return the rows of the table of positions, (B, T), for tokens or those `after` them; the last ones share one."""
    rows = layout.positions + 1 + (config.pad_token_id or 0) + after
    limit = config.max_position_embeddings
    return torch.where(layout.positions < limit, rows.clamp(max=limit - 1), rows)  # a longer text is refused


@dataclass(frozen=True)
class Streams:
    """What the streams of the decoder see of what was written; the same in all layers."""

    layout: Layout
    near: Tensor  # (B, 1, T, S), the buckets of the distances from a token to those before
    ahead: Tensor  # (B, 1, T, S), likewise, from what is predicted
    seen: Tensor  # (B, G, 1, T, S), true where a stream that predicts may look

    @staticmethod
    def of(layout: Layout, config: ProphetNetConfig) -> "Streams":
        positions = layout.positions if layout.key_positions is None else layout.key_positions
        keep = layout.keep if layout.key_positions is None else layout.key_keep
        apart = (layout.positions[:, :, None] - positions[:, None])[:, None]  # (B, 1, T, S)
        buckets = partial(
            distance_buckets, buckets=config.num_buckets, farthest=config.relative_max_distance, causal=True
        )
        hidden = torch.arange(config.ngram, device=apart.device)[:, None, None, None]  # newest tokens, by stream
        first = (positions == 0)[:, None, None, None]  # which all may know
        seen = (apart[:, None] >= hidden) | (first & (apart[:, None] >= 0))
        if keep is not None:
            seen = seen & keep[:, None, None, None]
        return Streams(layout, buckets(apart), buckets(apart + 1), seen)


class ProphetNetAttention(nn.Module):
    """Attention of the source to itself, or of the target to the source."""

    def __init__(self, config: ProphetNetConfig, heads: int, index: int):
        super().__init__()
        size = config.hidden_size
        self.heads, self.index, self.rate = heads, index, config.attention_dropout
        self.key_proj, self.value_proj, self.query_proj, self.out_proj = (nn.Linear(size, size) for _ in range(4))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None = None, source: Source | None = None) -> Tensor:
        q, dropout = self.split(self.query_proj(x)), self.rate if self.training else 0.0
        kept = None if cache is None else cache.source_keys(self.index)
        if source is None or kept is None:
            states = x if source is None else source.states
            k, v = self.split(self.key_proj(states)), self.split(self.value_proj(states))  # (B, H, S, D)
            if cache is not None:
                cache.set_source_keys(self.index, k, v)
        else:
            k, v = kept
        x = attend(q, k, v, layout, source=None if source is None else source.layout, dropout=dropout)
        return self.dropout(self.out_proj(x.transpose(1, 2).flatten(2)))

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ProphetNetNgramSelfAttention(nn.Module):
    """Attention of all streams to what was written, and of each that predicts to itself."""

    def __init__(self, config: ProphetNetConfig, index: int):
        super().__init__()
        size = config.hidden_size
        self.heads, self.index, self.rate = config.num_decoder_attention_heads, index, config.attention_dropout
        self.ngram, self.buckets, self.scale = config.ngram, config.num_buckets, (size // self.heads) ** -0.5
        self.key_proj, self.value_proj, self.query_proj, self.out_proj = (nn.Linear(size, size) for _ in range(4))
        self.relative_pos_embeddings = nn.Linear(size, config.num_buckets * self.heads)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, ahead: Tensor, streams: Streams, cache: Cache | None) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query_proj, self.key_proj, self.value_proj))
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        far = self.by_distance(x, streams.near)
        dropout = self.rate if self.training else 0.0
        out = attend(q, k, v, streams.layout, causal=True, bias=lambda q, k, apart: far, dropout=dropout)
        out = torch.cat([out[:, None], self.look_ahead(ahead.unflatten(1, (self.ngram, -1)), k, v, streams)], dim=1)
        return self.dropout(self.out_proj(out.transpose(2, 3).flatten(3).flatten(1, 2)))  # (B, (1 + G) T, E)

    def look_ahead(self, x: Tensor, k: Tensor, v: Tensor, streams: Streams) -> Tensor:
        """Let the streams that predict, (B, G, T, E), look at what they may know, and at themselves."""
        q, own_k, own_v = (self.split(project(x)) for project in (self.query_proj, self.key_proj, self.value_proj))
        scores = q @ k[:, None].mT * self.scale + self.by_distance(x, streams.ahead[:, None])  # (B, G, H, T, S)
        own = (q * own_k).sum(-1, keepdim=True) * self.scale
        own = own + self.by_distance(x, torch.zeros_like(streams.ahead[:, None, ..., :1]))
        scores = torch.cat([scores.masked_fill(~streams.seen, float("-inf")), own], dim=-1)
        weights = F.dropout(scores.softmax(dim=-1), self.rate, self.training)
        return weights[..., :-1] @ v[:, None] + weights[..., -1:] * own_v

    def by_distance(self, x: Tensor, buckets: Tensor) -> Tensor:
        """Return what tokens, (B, ..., T, E), add to their scores of buckets, (B, ..., 1, T, S), for each head."""
        told = self.relative_pos_embeddings(x).unflatten(-1, (self.buckets, self.heads))  # (B, ..., T, N, H)
        told = told.movedim(-1, -3)  # (B, ..., H, T, N)
        return told.gather(-1, buckets.expand(*told.shape[:-1], buckets.shape[-1]))

    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, ..., T, E) to (B, ..., H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class ProphetNetFeedForward(nn.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: ProphetNetConfig, size: int):
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, size)
        self.output = nn.Linear(size, config.hidden_size)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.output(self.inner_dropout(ACTIVATIONS[self.activation](self.intermediate(x)))))


class ProphetNetEncoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each followed by its residual sum and norm."""

    def __init__(self, config: ProphetNetConfig, index: int):
        super().__init__()
        self.self_attn = ProphetNetAttention(config, config.num_encoder_attention_heads, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = ProphetNetFeedForward(config, config.encoder_ffn_dim)
        self.feed_forward_layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, layout))
        return self.feed_forward_layer_norm(x + self.feed_forward(x))


class ProphetNetDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward; for all streams."""

    def __init__(self, config: ProphetNetConfig, index: int):
        super().__init__()
        self.self_attn = ProphetNetNgramSelfAttention(config, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        if config.add_cross_attention:
            self.cross_attn = ProphetNetAttention(config, config.num_decoder_attention_heads, index)
            self.cross_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = ProphetNetFeedForward(config, config.decoder_ffn_dim)
        self.feed_forward_layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self, x: Tensor, ahead: Tensor, streams: Streams, cache: Cache | None, source: Source | None
    ) -> tuple[Tensor, Tensor]:
        length = x.shape[1]
        x = self.self_attn_layer_norm(torch.cat([x, ahead], dim=1) + self.self_attn(x, ahead, streams, cache))
        if source is not None:
            x = self.cross_attn_layer_norm(x + self.cross_attn(x, streams.layout, cache, source))
        x = self.feed_forward_layer_norm(x + self.feed_forward(x))
        return x[:, :length], x[:, length:]


class ProphetNetPreTrainedModel(Model):
    """What all classes of this file share."""

    config: ProphetNetConfig
    config_class = ProphetNetConfig
    prefix = "prophetnet"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    tied = {
        "prophetnet.encoder.word_embeddings.weight": "prophetnet.word_embeddings.weight",
        "prophetnet.decoder.word_embeddings.weight": "prophetnet.word_embeddings.weight",
        "lm_head.weight": "prophetnet.word_embeddings.weight",
    }


class ProphetNetEncoder(ProphetNetPreTrainedModel):
    """The half that reads the source."""

    stack, source_stack = "layers", ""

    def __init__(self, config: ProphetNetConfig):
        super().__init__(config)
        size, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size, padding_idx=pad)
        self.embeddings_layer_norm = nn.LayerNorm(size)
        self.layers = nn.ModuleList(ProphetNetEncoderLayer(config, i) for i in range(config.num_encoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `ProphetNetModel`."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, E)
        x = x + self.position_embeddings(position_rows(layout, self.config))
        x = self.dropout(self.embeddings_layer_norm(x))
        for layer in self.layers:
            x = layer(x, layout)
        return Hidden(last_hidden_state=x)


class ProphetNetDecoder(ProphetNetPreTrainedModel):
    """The half that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: ProphetNetConfig):
        super().__init__(config)
        size, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size, padding_idx=pad)
        self.ngram_embeddings = nn.Embedding(config.ngram, size)
        self.layers = nn.ModuleList(ProphetNetDecoderLayer(config, i) for i in range(config.num_decoder_layers))
        self.embeddings_layer_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> ProphetNetDecoderHidden:
        """Read what was written, and look at the source, if there is one."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        packed = Layout.of(tokens, attention_mask, cache)
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        x, layout = packed.unpack(x)  # (B, T, E), in rows of one text
        if source is not None:
            source = Source(*source.layout.unpack(source.states))
        kinds = self.ngram_embeddings.weight.roll(1, dims=0)[:, None]  # the first stream's is the last
        ahead = self.position_embeddings(position_rows(layout, self.config, after=1))[:, None] + kinds  # (B, G, T, E)
        x = x + self.position_embeddings(position_rows(layout, self.config))
        x, ahead = (self.dropout(self.embeddings_layer_norm(part)) for part in (x, ahead.flatten(1, 2)))
        streams = Streams.of(layout, self.config)
        for layer in self.layers:
            x, ahead = layer(x, ahead, streams, cache, source)
        ahead = torch.cat([packed.pack(part) for part in ahead.unflatten(1, (self.config.ngram, -1)).unbind(1)], dim=1)
        return ProphetNetDecoderHidden(last_hidden_state=packed.pack(x), last_hidden_state_ngram=ahead)


class ProphetNetModel(ProphetNetPreTrainedModel):
    """Both halves without a task head."""

    tied = {
        "encoder.word_embeddings.weight": "word_embeddings.weight",
        "decoder.word_embeddings.weight": "word_embeddings.weight",
    }

    def __init__(self, config: ProphetNetConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.encoder = ProphetNetEncoder(config)
        self.decoder = ProphetNetDecoder(config)
        self.init_weights()

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
    ) -> ProphetNetHidden:
        """Read a source and what was written of its target.

        Args:
            input_ids: ids of the source, (B, S).
            attention_mask: (B, S), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            decoder_input_ids: ids of the target, (B, T).
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what was read before, the source included; these tokens are added to it.
        """
        source = None if cache is None else cache.source
        if source is None:
            read = encoder_outputs or self.encoder(input_ids, attention_mask, inputs_embeds)
            states = read[0]  # (B, S, E)
            source = Source(states, Layout.of(states, attention_mask))
            if cache is not None:
                cache.source = source
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return ProphetNetHidden(
            last_hidden_state=written.last_hidden_state,
            last_hidden_state_ngram=written.last_hidden_state_ngram,
            encoder_last_hidden_state=source.states,
        )


class ProphetNetForConditionalGeneration(ProphetNetPreTrainedModel):
    """Writes a target, such as a summary or a translation."""

    def __init__(self, config: ProphetNetConfig):
        super().__init__(config)
        self.prophetnet = ProphetNetModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.init_weights()

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
    ) -> ProphetNetLogits:
        """Score what comes next; `labels`: (B, T), the target, -100 where there is nothing to learn.

        Without `decoder_input_ids`, those are the labels, shifted by one. `logits_to_keep` says after how many last
        tokens to score; 0 for all.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            layout = Layout.of(labels, decoder_attention_mask)
            decoder_input_ids = shift_right(labels, layout, self.config)
        out = self.prophetnet(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            cache,
        )
        ahead = out.last_hidden_state_ngram.unflatten(1, (self.config.ngram, -1))  # (B, G, T, E)
        logits = self.lm_head(ahead[:, :, -logits_to_keep:])
        return ProphetNetLogits(
            loss=None if labels is None else ngram_loss(logits, labels, self.config),
            logits=logits[:, 0],
            logits_ngram=logits[:, 1:] if self.config.ngram > 1 else None,
            encoder_last_hidden_state=out.encoder_last_hidden_state,
        )


class ProphetNetDecoderWrapper(ProphetNetPreTrainedModel):
    """The decoder under the name that it has in a whole model."""

    stack, source_stack = "decoder.layers", ""
    tied = {"decoder.word_embeddings.weight": "word_embeddings.weight"}

    def __init__(self, config: ProphetNetConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.decoder = ProphetNetDecoder(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> ProphetNetDecoderHidden:
        """Read what was written; the arguments are those of `ProphetNetForCausalLM`."""
        return self.decoder(input_ids, attention_mask, inputs_embeds, cache, source)

    # twin: bart.BartForCausalLM.is_unread
    def is_unread(self, name: str) -> bool:
        """Leave the encoder of a whole model's file unread."""
        return "encoder." in name.split("decoder.")[0] or super().is_unread(name)


class ProphetNetForCausalLM(ProphetNetPreTrainedModel):
    """The decoder alone, as a language model, or beside another encoder."""

    stack, source_stack = "decoder.layers", ""

    def __init__(self, config: ProphetNetConfig):
        super().__init__(config)
        self.prophetnet = ProphetNetDecoderWrapper(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.init_weights()

    # twin: bart.BartForCausalLM.is_unread
    def is_unread(self, name: str) -> bool:
        """Leave the encoder of a whole model's file unread."""
        return "encoder." in name.split("decoder.")[0] or super().is_unread(name)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        source: Source | None = None,
    ) -> ProphetNetDecoderLogits:
        """Score what comes next; `labels`: (B, T), what follows each token, -100 where there is nothing to learn.

        `logits_to_keep` says after how many last tokens to score; 0 for all. `source` is what an encoder has read.
        """
        x = self.prophetnet(input_ids, attention_mask, inputs_embeds, cache, source).last_hidden_state_ngram
        logits = self.lm_head(x.unflatten(1, (self.config.ngram, -1))[:, :, -logits_to_keep:])  # (B, G, T, V)
        return ProphetNetDecoderLogits(
            loss=None if labels is None else ngram_loss(logits, labels, self.config),
            logits=logits[:, 0],
            logits_ngram=logits[:, 1:] if self.config.ngram > 1 else None,
        )
