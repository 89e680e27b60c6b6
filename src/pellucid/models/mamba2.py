"""Mamba-2: Mamba with one rate of decay a head, so that its state is what attention without a softmax sums up.

Paper: Dao and Gu, 2024, "Transformers are SSMs", https://arxiv.org/abs/2405.21060

What sets it apart from Mamba:
  - channels are heads of P; a head has one rate and one step, and a state of N x P numbers
  - what is written and read is one pair of vectors for a group of heads, and passes the convolution, too
  - steps come directly from the token, and can be limited
  - the output is gated before a norm, group by group

Shapes: B batch, T tokens, E hidden, H heads, P head size, I = H P inner channels, G groups, N numbers that are written,
V vocabulary. A packed batch is (1, N) tokens with a layout.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache import Cache
from ..config import MAX_SIZE, Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
from ..recurrence import causal_conv, linear_attend, quiet

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


class Mamba2Config(Config):
    """The configuration of Mamba-2; the defaults are those of Mamba-Codestral-7B."""

    model_type = "mamba2"
    inert = {"is_encoder_decoder": False, "rms_norm": True}

    vocab_size: int = 32768
    hidden_size: int = 4096
    num_heads: int = 128
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 8
    num_hidden_layers: int = 64
    layer_norm_epsilon: float = 1e-5
    expand: int = 2
    intermediate_size: int | None = None  # these two say once more what num_heads * head_dim is
    conv_kernel: int = 4
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    residual_in_fp32: bool = True
    time_step_limit: list[Any] | None = None  # the least and the greatest step; None for 0 and infinity
    chunk_size: int = 256  # of a kernel
    initializer_range: float = 0.1
    time_step_min: float = 0.001  # between these the steps of a new model are drawn
    time_step_max: float = 0.1
    time_step_floor: float = 1e-4
    time_step_rank: int | str = "auto"  # of the first Mamba
    rescale_prenorm_residual: bool = False  # whether a new model's output projections are drawn smaller
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    @property
    def inner_size(self) -> int:
        """The number of channels inside a layer."""
        return self.num_heads * self.head_dim

    @property
    def max_tokens(self) -> None:
        """There is no limit: the state can always go on."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for name in ("expand", "conv_kernel", "n_groups"):
            if not 1 <= getattr(self, name) <= MAX_SIZE:
                yield f"{name} is {shorten(getattr(self, name))}; expected 1 to {MAX_SIZE}"
                return
        if not 0 < self.time_step_min <= self.time_step_max:
            yield (
                f"time_step_min is {self.time_step_min}, time_step_max {self.time_step_max}; expected more than 0, the "
                "smaller one first"
            )
        inner = self.intermediate_size or self.expand * self.hidden_size
        if self.inner_size != inner or inner > MAX_SIZE:
            yield (
                f"num_heads * head_dim is {shorten(self.inner_size)}, but expand * hidden_size or intermediate_size is "
                f"{shorten(inner)}; expected the same, 1 to {MAX_SIZE}"
            )
        if self.num_heads % self.n_groups:
            yield f"num_heads ({self.num_heads}) is not a multiple of n_groups ({self.n_groups})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if read_limits(self.time_step_limit) is None:
            yield f"time_step_limit is {shorten(self.time_step_limit)}; expected two numbers, 0 or more, in order"


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


class Mamba2Norm(nn.Module):
    """Gate, then divide each group of channels by its root mean square."""

    def __init__(self, size: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        x = (x.float() * F.silu(gate.float())).unflatten(-1, (self.groups, -1))
        x = F.rms_norm(x, x.shape[-1:], eps=self.eps).flatten(-2)
        return self.weight * x.to(self.weight.dtype)


class Mamba2Mixer(nn.Module):
    """A convolution and a state that each token fades, adds to and reads, (B, T, E) to (B, T, E)."""

    def __init__(self, config: Mamba2Config, index: int):
        super().__init__()
        size, inner, heads, bias = config.hidden_size, config.inner_size, config.num_heads, config.use_bias
        pair = config.n_groups * config.state_size
        self.index, self.heads, self.groups, self.inner, self.pair = index, heads, config.n_groups, inner, pair
        self.limits = read_limits(config.time_step_limit) or (0.0, math.inf)
        self.activation = ACTIVATIONS[config.hidden_act]
        channels = inner + 2 * pair
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels, bias=config.use_conv_bias)
        self.in_proj = nn.Linear(size, inner + channels + heads, bias=bias)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm = Mamba2Norm(inner, config.n_groups, config.layer_norm_epsilon)
        self.out_proj = nn.Linear(inner, size, bias=bias)

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


class Mamba2Block(nn.Module):
    """One layer: the mixer after its norm, with its residual sum."""

    def __init__(self, config: Mamba2Config, index: int):
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = Mamba2Mixer(config, index)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        change = self.mixer(self.norm(x.to(self.norm.weight.dtype)), layout, cache)
        return (x.float() if self.residual_in_fp32 else x) + change


class Mamba2PreTrainedModel(Model):
    """What all classes of this file share."""

    config: Mamba2Config
    config_class = Mamba2Config
    prefix = "backbone"
    stack = "layers"
    legacy_names = {"embedding.": "embeddings."}

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw as `Model` does, and the steps and the states' rates as the paper does."""
        super().init_module(module, only)
        if isinstance(module, nn.Conv1d):
            module.reset_parameters()
        elif isinstance(module, Mamba2Norm):
            module.weight.fill_(1.0)
        elif isinstance(module, Mamba2Mixer):
            low, high = math.log(self.config.time_step_min), math.log(self.config.time_step_max)
            step = torch.empty_like(module.dt_bias).uniform_(low, high).exp().clamp(min=self.config.time_step_floor)
            module.dt_bias.copy_(step.expm1().log())  # of which softplus makes the step again
            module.A_log.uniform_(1.0, 16.0).log_()
            module.D.fill_(1.0)


class Mamba2Model(Mamba2PreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: Mamba2Config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Mamba2Block(config, i) for i in range(config.num_hidden_layers))
        self.norm_f = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        for layer in self.layers:
            x = layer(x, layout, cache)
        return Hidden(last_hidden_state=self.norm_f(x.to(self.norm_f.weight.dtype)))


class Mamba2ForCausalLM(Mamba2PreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "backbone.embeddings.weight"}

    def __init__(self, config: Mamba2Config):
        super().__init__(config)
        self.backbone = Mamba2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.backbone(input_ids, layout, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
