"""Bamba: a decoder of Mamba-2 layers, with an attention layer between some of them.

Source: Goyal et al., 2024, "Bamba: Inference-Efficient Hybrid Mamba2 Model", https://huggingface.co/blog/bamba

What sets it apart from Mamba-2:
  - a few layers attend as in Llama, with one half of a head turned
  - every layer has a feed-forward of its own, as in Llama

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D or P head size, I = H P inner
channels, G groups, N numbers that are written, V vocabulary. A packed batch is (1, N) tokens with a layout.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache
from ..config import MAX_SIZE, Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
from ..recurrence import causal_conv, linear_attend, quiet
from ..rope import Rope

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


class BambaConfig(Config):
    """The configuration of Bamba; the defaults are those of the original library."""

    model_type = "bamba"
    inert = {"is_causal": True, "is_decoder": False, "is_encoder_decoder": False}

    vocab_size: int = 128000
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    attn_layer_indices: list[int] | None = None  # the layers that attend; None for none
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    mamba_n_heads: int = 128
    mamba_d_head: int | str = "auto"  # for mamba_expand * hidden_size / mamba_n_heads
    mamba_n_groups: int = 1
    mamba_d_state: int = 256
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_chunk_size: int = 256  # of a kernel
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: list[Any] | None = None  # the least and the greatest step; None for 0 and infinity
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 262144
    partial_rotary_factor: float = 0.5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # all of these in one, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    initializer_range: float = 0.02
    z_loss_coefficient: float = 0.0  # of a loss that keeps the logits small
    num_logits_to_keep: int | None = 1  # a habit of generation
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def head_size(self) -> int:
        """The size of a head of attention."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def inner_size(self) -> int:
        """The number of channels inside a Mamba layer."""
        return self.mamba_expand * self.hidden_size

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for name in ("mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_conv", "mamba_expand"):
            if not 1 <= getattr(self, name) <= MAX_SIZE:
                yield f"{name} is {shorten(getattr(self, name))}; expected 1 to {MAX_SIZE}"
                return
        size = self.mamba_d_head if isinstance(self.mamba_d_head, int) else self.inner_size // self.mamba_n_heads
        if self.inner_size > MAX_SIZE:
            yield f"mamba_expand * hidden_size is {self.inner_size}; expected 1 to {MAX_SIZE}"
        if size * self.mamba_n_heads != self.inner_size or self.mamba_d_head not in ("auto", size):
            yield (
                f"mamba_n_heads ({self.mamba_n_heads}) * mamba_d_head ({shorten(self.mamba_d_head)}) is not "
                f"mamba_expand * hidden_size ({self.inner_size})"
            )
        if self.mamba_n_heads % self.mamba_n_groups:
            yield f"mamba_n_heads ({self.mamba_n_heads}) is not a multiple of mamba_n_groups ({self.mamba_n_groups})"
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) is not a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.num_attention_heads % self.key_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.key_heads})"
            )
        if {*(self.attn_layer_indices or [])} - {*range(self.num_hidden_layers)}:
            places = shorten(self.attn_layer_indices)
            yield f"attn_layer_indices is {places}; expected some of {self.num_hidden_layers} layers"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if read_limits(self.time_step_limit) is None:
            yield f"time_step_limit is {shorten(self.time_step_limit)}; expected two numbers, 0 or more, in order"
        yield from Rope.faults(self, self.head_size)


# twin: mamba2.read_limits
def read_limits(limits: list[Any] | None) -> tuple[float, float] | None:
    """Return the least and the greatest step, or None where that is not what is given.

    Infinity may be written as a number, as a word, or as {"__float__": "Infinity"}, since JSON has none.
    """
    given = [x.get("__float__") if isinstance(x, dict) else x for x in limits or (0.0, "Infinity")]
    given = [math.inf if x == "Infinity" else x for x in given]
    if len(given) != 2 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in given):
        return None
    return (float(given[0]), float(given[1])) if 0 <= given[0] <= given[1] else None


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


# twin: gpt_neox.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + R / 2, (B, H, T, D), among the first R; the others stay."""
    cos, sin = (part.to(x.dtype) for part in turn)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class BambaAttention(nn.Module):
    """Causal attention with half-rotated queries and keys."""

    def __init__(self, config: BambaConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class BambaMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: BambaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class BambaNorm(nn.Module):
    """Gate, then divide each group of channels by its root mean square."""

    def __init__(self, size: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(size))

    # twin: mamba2.Mamba2Norm.forward
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        x = (x.float() * F.silu(gate.float())).unflatten(-1, (self.groups, -1))
        x = F.rms_norm(x, x.shape[-1:], eps=self.eps).flatten(-2)
        return self.weight * x.to(self.weight.dtype)


class BambaMixer(nn.Module):
    """A convolution and a state that each token fades, adds to and reads, (B, T, E) to (B, T, E)."""

    def __init__(self, config: BambaConfig, index: int):
        super().__init__()
        size, inner, bias = config.hidden_size, config.inner_size, config.mamba_proj_bias
        heads, pair = config.mamba_n_heads, config.mamba_n_groups * config.mamba_d_state
        self.index, self.heads, self.groups, self.inner, self.pair = index, heads, config.mamba_n_groups, inner, pair
        self.limits = read_limits(config.time_step_limit) or (0.0, math.inf)
        self.activation = ACTIVATIONS[config.hidden_act]
        channels = inner + 2 * pair
        self.conv1d = nn.Conv1d(channels, channels, config.mamba_d_conv, groups=channels, bias=config.mamba_conv_bias)
        self.in_proj = nn.Linear(size, inner + channels + heads, bias=bias)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm = BambaNorm(inner, config.mamba_n_groups, config.rms_norm_eps)
        self.out_proj = nn.Linear(inner, size, bias=bias)

    # twin: mamba2.Mamba2Mixer.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x, aligned = layout.align(x)  # a text a row, from its first token on
        before, state = (None, None) if cache is None else cache.state(self.index) or (None, None)
        gate, x, step = self.in_proj(x).split([self.inner, self.inner + 2 * self.pair, self.heads], dim=-1)
        x, before = causal_conv(x, self.conv1d.weight, self.conv1d.bias, aligned, before)
        x, write, read = self.activation(x).split([self.inner, self.pair, self.pair], dim=-1)
        step = F.softplus(step.float() + self.dt_bias.float()).clamp(*self.limits)
        step = quiet(step, aligned).transpose(1, 2)  # (B, H, T)
        x = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, P)
        write, read = (part.unflatten(-1, (self.groups, -1)).transpose(1, 2) for part in (write, read))  # (B, G, T, N)
        decay = -torch.exp(self.A_log.float())[:, None] * step
        out, state = linear_attend(read, write, step[..., None] * x, decay, state)
        if cache is not None:
            cache.set_state(self.index, before, state)
        out = (out + self.D[:, None, None] * x).transpose(1, 2).flatten(2)  # (B, T, I)
        return layout.unalign(self.out_proj(self.norm(out, gate)))


class BambaLayer(nn.Module):
    """One layer: Mamba or attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: BambaConfig, index: int):
        super().__init__()
        self.attends = index in (config.attn_layer_indices or ())
        if self.attends:
            self.self_attn = BambaAttention(config, index)
        else:
            self.mamba = BambaMixer(config, index)
        self.feed_forward = BambaMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_ff_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        normed = self.input_layernorm(x)
        mixed = self.self_attn(normed, layout, turn, cache) if self.attends else self.mamba(normed, layout, cache)
        x = x + mixed
        return x + self.feed_forward(self.pre_ff_layernorm(x))


class BambaPreTrainedModel(Model):
    """What all classes of this file share."""

    config: BambaConfig
    config_class = BambaConfig
    prefix = "model"
    stack = "layers"

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw as `Model` does, and the steps and the states' rates as the paper of Mamba-2 does."""
        super().init_module(module, only)
        if isinstance(module, nn.Conv1d):
            module.reset_parameters()
        elif isinstance(module, BambaNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, BambaMixer):
            step = torch.empty_like(module.dt_bias).uniform_(math.log(0.001), math.log(0.1)).exp()
            module.dt_bias.copy_(step.expm1().log())  # of which softplus makes the step again
            module.A_log.uniform_(1.0, 16.0).log_()
            module.D.fill_(1.0)


class BambaModel(BambaPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: BambaConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(BambaLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = Rope.of(config, config.head_size)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        turn = self.rope.turn(layout, position_ids)
        for layer in self.layers:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.final_layernorm(x))


class BambaForCausalLM(BambaPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: BambaConfig):
        super().__init__(config)
        self.model = BambaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
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
        x = self.model(input_ids, layout, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        if loss is not None and self.config.z_loss_coefficient:
            sizes = logits.logsumexp(-1) if layout.keep is None else logits[layout.keep].logsumexp(-1)
            loss = loss + self.config.z_loss_coefficient * sizes.square().mean()
        return Logits(loss=loss, logits=logits)
