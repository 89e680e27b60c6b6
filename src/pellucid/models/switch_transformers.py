"""Switch Transformers: an encoder and a decoder in which some layers send each token to one of several feed-forwards.

Paper: Fedus et al., 2021, "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient
Sparsity", https://arxiv.org/abs/2101.03961

What sets it apart from T5:
  - in every few layers a router picks an expert for each token, and what that makes of it counts by its probability
  - an expert takes a limited number of a source's tokens, the first ones; the others skip this part of the layer. The
    decoder has no such limit: whether its tokens come one by one or together must not change a number
  - feed-forwards are not gated

In float16 the last product of a feed-forward would overflow: its weights, and with them the sums, stay in float32. The
losses that balance experts in training are not computed.

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary, N tokens of all
texts, X experts. Packed batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import math
from collections.abc import Collection
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Bias, attend
from ..cache import Cache, Source
from ..config import Config
from ..errors import InputError
from ..experts import Dispatch, Experts
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


class SwitchTransformersConfig(Config):
    """The configuration of Switch Transformers; the defaults are those of the original library."""

    model_type = "switch_transformers"
    inert = {
        "add_cross_attention": False,
        "add_router_probs": False,
        "cross_attention_hidden_size": None,
        "feed_forward_proj": "relu",  # in old files, beside dense_act_fn
        "pruned_heads": {},
        "router_dtype": "float32",
    }
    aliases = {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}

    vocab_size: int = 32128
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 12
    num_decoder_layers: int | None = 12  # None for num_layers
    num_heads: int = 12
    num_experts: int = 8
    expert_capacity: int = 64  # tokens of a source that an expert takes
    num_sparse_encoder_layers: int = 3
    num_sparse_decoder_layers: int = 3
    encoder_sparse_step: int | None = None  # how far layers with experts are apart; None for as the two above say
    decoder_sparse_step: int | None = None
    router_bias: bool = False
    router_jitter_noise: float = 0.01  # by how much tokens are scaled at random on their way to experts, in training
    router_z_loss_coef: float = 0.001  # the weights of two losses, which are not computed here
    router_aux_loss_coef: float = 0.001
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dense_act_fn: str = "relu"
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
    def scales_head(self) -> bool:
        """Whether what the head reads is scaled."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    def is_sparse(self, index: int, *, decoder: bool) -> bool:
        """Tell whether a layer has experts: one in so many does, from the second on."""
        depth = self.decoder_depth if decoder else self.num_layers
        count = self.num_sparse_decoder_layers if decoder else self.num_sparse_encoder_layers
        step = self.decoder_sparse_step if decoder else self.encoder_sparse_step
        if step is None:
            step = depth // max(1, count)
        return step == 1 or (step > 1 and index % step == 1)

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.dense_act_fn not in ACTIVATIONS:
            yield f"dense_act_fn is {self.dense_act_fn!r}; expected one of {', '.join(ACTIVATIONS)}"
        for name in ("num_experts", "expert_capacity"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; expected at least 1"
        for name in ("num_sparse_encoder_layers", "num_sparse_decoder_layers", "router_jitter_noise"):
            if getattr(self, name) < 0:
                yield f"{name} is {getattr(self, name)}; expected at least 0"
        if 0 in (self.num_layers, self.decoder_depth):
            yield "num_layers or num_decoder_layers is 0; expected at least 1 layer, which holds the table of distances"
        buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4:
            yield f"relative_attention_num_buckets is {buckets}; expected at least 4"
        elif farthest <= buckets // 2:
            yield f"relative_attention_max_distance is {farthest}; expected more than half of the buckets ({buckets})"


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


class SwitchTransformersLayerNorm(nn.RMSNorm):
    """Divides by the root of the mean square; sums that are more exact than the weights are made so only after it."""

    # twin: t5.T5LayerNorm.forward
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(self.weight.dtype)


class SwitchTransformersQuery(nn.Linear):
    """Makes queries, which begin small: scores are not scaled."""


class SwitchTransformersAttention(nn.Module):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: SwitchTransformersConfig, index: int, *, causal: bool = False, biased: bool = False):
        super().__init__()
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.heads, self.index, self.causal, self.dropout = config.num_heads, index, causal, config.dropout_rate
        self.q = SwitchTransformersQuery(size, inner, bias=False)
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


class SwitchTransformersLayerSelfAttention(nn.Module):
    """The part of a layer in which a text looks at itself."""

    def __init__(self, config: SwitchTransformersConfig, index: int, *, causal: bool):
        super().__init__()
        self.SelfAttention = SwitchTransformersAttention(config, index, causal=causal, biased=index == 0)
        self.layer_norm = SwitchTransformersLayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    # twin: t5.T5LayerSelfAttention.forward
    def forward(self, x: Tensor, layout: Layout, bias: Bias, cache: Cache | None) -> Tensor:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), layout, bias, cache))


class SwitchTransformersLayerCrossAttention(nn.Module):
    """The part of a layer in which the target looks at the source."""

    def __init__(self, config: SwitchTransformersConfig, index: int):
        super().__init__()
        self.EncDecAttention = SwitchTransformersAttention(config, index)
        self.layer_norm = SwitchTransformersLayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    # twin: t5.T5LayerCrossAttention.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source) -> Tensor:
        return x + self.dropout(self.EncDecAttention(self.layer_norm(x), layout, None, cache, source))


class SwitchTransformersFeedForward(nn.Module):
    """Two products with an activation between."""

    def __init__(self, config: SwitchTransformersConfig):
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation = config.dense_act_fn

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.wo(self.dropout(ACTIVATIONS[self.activation](self.wi(x))).to(self.wo.weight.dtype))


class SwitchTransformersRouter(nn.Module):
    """Gives each token a probability for each expert."""

    def __init__(self, config: SwitchTransformersConfig):
        super().__init__()
        self.classifier = nn.Linear(config.d_model, config.num_experts, bias=config.router_bias)
        self.noise = config.router_jitter_noise

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if self.training and self.noise:
            x = x * torch.empty_like(x).uniform_(1 - self.noise, 1 + self.noise)
        weight, bias = self.classifier.weight.float(), self.classifier.bias
        return F.linear(x, weight, bias if bias is None else bias.float()).softmax(dim=-1)  # (B, T, X)


class SwitchTransformersExperts(Experts):
    """The feed-forwards of a layer, in stacks."""

    stem = "expert_"
    stored = {"wi": ("wi",), "wo": ("wo",)}

    def __init__(self, config: SwitchTransformersConfig):
        super().__init__()
        self.wi = nn.Parameter(torch.empty(config.num_experts, config.d_ff, config.d_model))
        self.wo = nn.Parameter(torch.empty(config.num_experts, config.d_model, config.d_ff))
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation = config.dense_act_fn

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Scale what the chosen experts, (N,), make of each token, (N, E), by their shares, (N,)."""
        dispatch = Dispatch.to(chosen[:, None], len(self.wo))
        inner = ACTIVATIONS[self.activation](dispatch.linear(dispatch.gather(x), self.wi))
        return dispatch.combine(dispatch.linear(self.dropout(inner).to(self.wo.dtype), self.wo), shares[:, None])


class SwitchTransformersSparseMLP(nn.Module):
    """A router, and experts of which each token goes through one."""

    def __init__(self, config: SwitchTransformersConfig, *, capacity: int | None):
        super().__init__()
        self.router = SwitchTransformersRouter(config)
        self.experts = SwitchTransformersExperts(config)
        self.capacity = capacity

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        probabilities = self.router(x)
        shares, chosen = probabilities.max(dim=-1)  # (B, T) each
        if self.capacity is not None:
            shares = shares * (self.turns(chosen, probabilities.shape[-1], layout) <= self.capacity)
        return self.experts(x.flatten(0, 1), chosen.flatten(), shares.flatten()).view_as(x)

    def turns(self, chosen: Tensor, experts: int, layout: Layout) -> Tensor:
        """Count, from 1, which of its text's real tokens each is for its expert, (B, T)."""
        ones = F.one_hot(chosen, experts)  # (B, T, X)
        ones = ones if layout.keep is None else ones * layout.keep[..., None]
        counts = layout.pack(layout.unpack(ones)[0].cumsum(dim=1))
        return counts.gather(-1, chosen[..., None])[..., 0]


class SwitchTransformersLayerFF(nn.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: SwitchTransformersConfig, *, sparse: bool, decoder: bool):
        super().__init__()
        capacity = None if decoder else config.expert_capacity
        self.mlp = (
            SwitchTransformersSparseMLP(config, capacity=capacity) if sparse else SwitchTransformersFeedForward(config)
        )
        self.layer_norm = SwitchTransformersLayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return x + self.dropout(self.mlp(self.layer_norm(x), layout))


class SwitchTransformersBlock(nn.Module):
    """One layer: attention to the text, in the decoder attention to the source, feed-forward."""

    def __init__(self, config: SwitchTransformersConfig, index: int, *, decoder: bool):
        super().__init__()
        self.layer = nn.ModuleList([SwitchTransformersLayerSelfAttention(config, index, causal=decoder)])
        if decoder:
            self.layer.append(SwitchTransformersLayerCrossAttention(config, index))
        sparse = config.is_sparse(index, decoder=decoder)
        self.layer.append(SwitchTransformersLayerFF(config, sparse=sparse, decoder=decoder))

    def forward(self, x: Tensor, layout: Layout, bias: Bias, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.layer[0](x, layout, bias, cache)
        if source is not None:
            x = self.layer[1](x, layout, cache, source)
        return self.layer[-1](x, layout)


class SwitchTransformersStack(nn.Module):
    """One half: the encoder, or the decoder."""

    def __init__(self, config: SwitchTransformersConfig, *, decoder: bool):
        super().__init__()
        depth = config.decoder_depth if decoder else config.num_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.block = nn.ModuleList(SwitchTransformersBlock(config, i, decoder=decoder) for i in range(depth))
        self.final_layer_norm = SwitchTransformersLayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.farthest, self.decoder = config.relative_attention_max_distance, decoder

    # twin: t5.T5Stack.forward
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
        table = self.get_parameter("block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        bias = distance_bias(table, self.farthest, causal=self.decoder)
        for layer in self.block:
            x = layer(x, layout, bias, cache, source)
        return Hidden(last_hidden_state=self.dropout(self.final_layer_norm(x)))


class SwitchTransformersPreTrainedModel(Model):
    """What all classes of this file share."""

    config: SwitchTransformersConfig
    config_class = SwitchTransformersConfig
    heads = ("lm_head",)
    stack = "decoder.block"
    source_stack = "encoder.block"
    uncalled = ("router.classifier",)
    tied = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    }
    unread = ("EncDecAttention.relative_attention_bias.weight",)  # of old versions, which nothing learned
    wide = ("wo.weight", "experts.wo")
    encoder: SwitchTransformersStack
    decoder: SwitchTransformersStack

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
        factor = self.config.initializer_factor
        if isinstance(module, SwitchTransformersExperts):
            module.wi.normal_(0.0, factor * self.config.d_model**-0.5)
            module.wo.normal_(0.0, factor * self.config.d_ff**-0.5)
        if not isinstance(module, nn.Linear | nn.Embedding) or (only is not None and "weight" not in only):
            return
        words = len(module.weight) == self.config.vocab_size  # a table of them, or a head
        fan_in = module.in_features if isinstance(module, nn.Linear) else self.config.d_model
        size = (
            1.0
            if words
            else (fan_in * (self.config.d_kv if isinstance(module, SwitchTransformersQuery) else 1)) ** -0.5
        )
        module.weight.normal_(0.0, factor * size)

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


class SwitchTransformersEncoderModel(SwitchTransformersPreTrainedModel):
    """The encoder alone."""

    stack, source_stack = "encoder.block", ""

    def __init__(self, config: SwitchTransformersConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = SwitchTransformersStack(config, decoder=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `SwitchTransformersModel`."""
        return self.encoder(input_ids, attention_mask, inputs_embeds)


class SwitchTransformersModel(SwitchTransformersPreTrainedModel):
    """Both halves without a task head."""

    def __init__(self, config: SwitchTransformersConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = SwitchTransformersStack(config, decoder=False)
        self.decoder = SwitchTransformersStack(config, decoder=True)
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


class SwitchTransformersForConditionalGeneration(SwitchTransformersPreTrainedModel):
    """Writes a target, such as a summary, a translation or an answer."""

    def __init__(self, config: SwitchTransformersConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = SwitchTransformersStack(config, decoder=False)
        self.decoder = SwitchTransformersStack(config, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    @classmethod
    def settle(cls, config: SwitchTransformersConfig, checkpoint: Checkpoint) -> SwitchTransformersConfig:
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
