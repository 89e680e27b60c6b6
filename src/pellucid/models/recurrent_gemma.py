"""RecurrentGemma: a decoder of recurrent layers, with an attention layer of a short window after every few of them.

Papers: Botev et al., 2024, "RecurrentGemma", https://arxiv.org/abs/2404.07839; the architecture, Griffin: De et al.,
2024, https://arxiv.org/abs/2402.19427

What sets it apart from Gemma:
  - most layers are recurrent: a short convolution, then one number a channel that fades and is added to
  - how much it fades, and how much of the token is added, two gates say; what is added is scaled so that the number's
    size stays what it was
  - attention looks back a window only, and turns half of a head
  - logits are kept between -c and c

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, W recurrent channels, H heads, D head size, V
vocabulary. A packed batch is (1, N) tokens with a layout.
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
from ..recurrence import causal_conv, quiet, scan
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
C = 8.0  # how much faster than its parameter says a channel can fade, the c of the paper


class RecurrentGemmaConfig(Config):
    """The configuration of RecurrentGemma; the defaults are those of RecurrentGemma-2B."""

    model_type = "recurrent_gemma"
    aliases = {"sliding_window": "attention_window_size", "_block_types": "block_types"}
    inert = {"is_causal": True, "is_decoder": False, "is_encoder_decoder": False, "embeddings_scale_by_sqrt_dim": True}

    vocab_size: int = 256000
    hidden_size: int = 2560
    intermediate_size: int = 7680  # twice that of a feed-forward's two projections
    num_hidden_layers: int = 26
    block_types: list[str] | None = None  # of the layers, again and again; None for recurrent, recurrent, attention
    num_attention_heads: int = 10
    num_key_value_heads: int | None = None  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    lru_width: int | None = None  # None for hidden_size
    conv1d_width: int = 4
    attention_window_size: int = 2048
    logits_soft_cap: float = 30.0
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    partial_rotary_factor: float = 0.5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # all of these in one, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0
    w_init_variance_scale: float = 0.01  # of the gates of a new model
    final_w_init_variance_scale: float | None = None  # of a new model's output projections
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def kinds(self) -> list[str]:
        """What the layers are, again and again."""
        return ["recurrent", "recurrent", "attention"] if self.block_types is None else self.block_types

    @property
    def width(self) -> int:
        """The number of channels of a recurrent layer."""
        return self.lru_width or self.hidden_size

    @property
    def max_tokens(self) -> None:
        """There is no limit: the state can always go on."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if not self.kinds or not {*self.kinds} <= {"recurrent", "attention"}:
            yield f"block_types is {shorten(self.block_types)}; expected a list of 'recurrent' and 'attention'"
        sizes = {"lru_width": self.width} | ({} if self.head_dim else {"hidden_size": self.hidden_size})
        for name, size in sizes.items():
            if size % self.num_attention_heads:
                yield f"{name} ({size}) is not a multiple of num_attention_heads ({self.num_attention_heads})"
        if self.num_attention_heads % self.key_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.key_heads})"
            )
        if not 1 <= self.conv1d_width <= MAX_SIZE:
            yield f"conv1d_width is {shorten(self.conv1d_width)}; expected 1 to {MAX_SIZE}"
        for name in ("logits_soft_cap", "w_init_variance_scale"):
            if getattr(self, name) <= 0:
                yield f"{name} is {getattr(self, name)}; expected more than 0"
        if self.hidden_activation not in ACTIVATIONS:
            yield f"hidden_activation is {self.hidden_activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        yield from Rope.faults(self, self.head_size)


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


class RecurrentGemmaRMSNorm(nn.RMSNorm):
    """Divides by the root mean square and multiplies with 1 + weight, in float32."""

    # twin: gemma.GemmaRMSNorm.forward
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps).to(x.dtype)


class RecurrentGemmaAttention(nn.Module):
    """Causal attention within a window, with partly rotated queries and keys."""

    def __init__(self, config: RecurrentGemmaConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window = config.attention_window_size - 1  # tokens back
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v, self.window)  # (B, H or fewer, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, window=self.window, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class RecurrentGemmaRglru(nn.Module):
    """The real-gated linear recurrent unit: h = a h + sqrt(1 - a^2) i x, with gates a and i made from the token."""

    def __init__(self, config: RecurrentGemmaConfig):
        super().__init__()
        heads, size = config.num_attention_heads, config.width // config.num_attention_heads
        self.heads = heads
        self.recurrent_param = nn.Parameter(torch.empty(config.width))
        self.input_gate_weight = nn.Parameter(torch.empty(heads, size, size))
        self.input_gate_bias = nn.Parameter(torch.empty(heads, size))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(heads, size, size))
        self.recurrent_gate_bias = nn.Parameter(torch.empty(heads, size))

    def forward(self, x: Tensor, layout: Layout, starts: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return all states, (B, T, W), and the last, of tokens, (B, T, W); `starts`, (B, T), is true on first ones."""
        blocks = x.unflatten(-1, (self.heads, -1))
        keep, take = (
            torch.sigmoid(torch.einsum("bthi,hij->bthj", blocks, weight) + bias).flatten(2)  # (B, T, W)
            for weight, bias in (
                (self.recurrent_gate_weight, self.recurrent_gate_bias),
                (self.input_gate_weight, self.input_gate_bias),
            )
        )
        log_decay = quiet(-C * keep.float() * F.softplus(self.recurrent_param.float()), layout)
        size = (-torch.expm1(2 * log_decay)).clamp(min=1e-12).sqrt()  # at 0 the root has no gradient
        size = size.masked_fill(starts[..., None], 1.0)  # nothing was there before
        return scan(log_decay.exp(), quiet(size * (x * take).float(), layout), state)


class RecurrentGemmaRecurrentBlock(nn.Module):
    """A convolution and a recurrent unit, gated by a second branch, (B, T, E) to (B, T, E)."""

    def __init__(self, config: RecurrentGemmaConfig, index: int):
        super().__init__()
        size, width = config.hidden_size, config.width
        self.index = index
        self.linear_y = nn.Linear(size, width)
        self.linear_x = nn.Linear(size, width)
        self.linear_out = nn.Linear(width, size)
        self.conv_1d = nn.Conv1d(width, width, config.conv1d_width, groups=width)
        self.rg_lru = RecurrentGemmaRglru(config)
        self.activation = ACTIVATIONS[config.hidden_activation]

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x, aligned = layout.align(x)  # a text a row, from its first token on
        starts = layout.align(layout.positions)[0] == 0
        before, state = (None, None) if cache is None else cache.state(self.index) or (None, None)
        gate = self.activation(self.linear_y(x))
        x, before = causal_conv(self.linear_x(x), self.conv_1d.weight, self.conv_1d.bias, aligned, before)
        states, state = self.rg_lru(x, aligned, starts, state)
        if cache is not None:
            cache.set_state(self.index, before, state)
        return layout.unalign(self.linear_out(states.to(x.dtype) * gate))


class RecurrentGemmaMlp(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: RecurrentGemmaConfig):
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size // 2
        self.gate_proj = nn.Linear(size, inner)
        self.up_proj = nn.Linear(size, inner)
        self.down_proj = nn.Linear(inner, size)
        self.activation = ACTIVATIONS[config.hidden_activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class RecurrentGemmaLayer(nn.Module):
    """One layer: recurrence or attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: RecurrentGemmaConfig, index: int):
        super().__init__()
        kind = config.kinds[index % len(config.kinds)]
        mixer = RecurrentGemmaAttention if kind == "attention" else RecurrentGemmaRecurrentBlock
        self.temporal_pre_norm = RecurrentGemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.temporal_block = mixer(config, index)
        self.channel_pre_norm = RecurrentGemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp_block = RecurrentGemmaMlp(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.temporal_block(self.temporal_pre_norm(x), layout, turn, cache)
        return x + self.mlp_block(self.channel_pre_norm(x))


class RecurrentGemmaPreTrainedModel(Model):
    """What all classes of this file share."""

    config: RecurrentGemmaConfig
    config_class = RecurrentGemmaConfig
    prefix = "model"
    stack = "layers"

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw weights by the size of what they multiply, and decays between 0.9 and 0.999."""
        super().init_module(module, only)
        if isinstance(module, RecurrentGemmaRMSNorm):
            module.weight.zero_()
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, module.in_features**-0.5)
        elif isinstance(module, RecurrentGemmaRglru):
            for weight in (module.input_gate_weight, module.recurrent_gate_weight):
                weight.normal_(0.0, math.sqrt(self.config.w_init_variance_scale / weight.shape[1]))
            for bias in (module.input_gate_bias, module.recurrent_gate_bias):
                bias.zero_()
            decay = torch.empty_like(module.recurrent_param).uniform_(0.9**2, 0.999**2).sqrt()
            module.recurrent_param.copy_(torch.log(1 / decay - 1))  # softplus of it is -log(decay)


class RecurrentGemmaModel(RecurrentGemmaPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: RecurrentGemmaConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(RecurrentGemmaLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = RecurrentGemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
            position_ids: of the attention, (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings before they are scaled, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=torch.bfloat16)  # so rounded in every dtype
        x = x * scale.to(x)
        turn = self.rope.turn(layout, position_ids)
        for layer in self.layers:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.final_norm(x))


class RecurrentGemmaForCausalLM(RecurrentGemmaPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RecurrentGemmaConfig):
        super().__init__(config)
        self.model = RecurrentGemmaModel(config)
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
        cap = self.config.logits_soft_cap
        logits = cap * torch.tanh(self.lm_head(x[:, -logits_to_keep:]) / cap)  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
