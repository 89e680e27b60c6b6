"""Falcon Mamba: Mamba with norms on what decides how its state changes.

Paper: Zuo et al., 2024, "Falcon Mamba: The First Competitive Attention-free 7B Language Model",
https://arxiv.org/abs/2410.05355

What sets it apart from Mamba:
  - steps, and what is written and read, are divided by their root mean square; nothing is learned in these norms

Shapes: B batch, T tokens, E hidden, I inner channels, N numbers of a channel's state, R rank of the steps, V
vocabulary. A packed batch is (1, N) tokens with a layout.
"""

import math
from collections.abc import Collection
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache import Cache
from ..config import MAX_SIZE, Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
from ..recurrence import CHUNK, causal_conv, quiet, scan

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


class FalconMambaConfig(Config):
    """The configuration of Falcon Mamba; the defaults are those of the original library."""

    model_type = "falcon_mamba"
    inert = {"is_encoder_decoder": False}

    vocab_size: int = 50280
    hidden_size: int = 768
    state_size: int = 16
    num_hidden_layers: int = 32
    layer_norm_epsilon: float = 1e-5
    mixer_rms_eps: float = 1e-6
    expand: int = 2
    intermediate_size: int | None = None  # None for expand * hidden_size; expand means nothing beside it
    conv_kernel: int = 4
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    residual_in_fp32: bool = True
    time_step_rank: int | str = "auto"  # for hidden_size / 16, rounded up
    initializer_range: float = 0.1
    time_step_min: float = 0.001  # between these the steps of a new model are drawn
    time_step_max: float = 0.1
    time_step_floor: float = 1e-4
    time_step_init_scheme: str = "random"
    time_step_scale: float = 1.0
    rescale_prenorm_residual: bool = False  # whether a new model's output projections are drawn smaller
    use_mambapy: bool = False  # these two choose a kernel
    use_associative_scan: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0

    @property
    def inner_size(self) -> int:
        """The number of channels inside a layer."""
        return self.intermediate_size or self.expand * self.hidden_size

    @property
    def step_rank(self) -> int:
        """Of how many numbers a token's steps are made."""
        rank = self.time_step_rank
        return rank if isinstance(rank, int) else math.ceil(self.hidden_size / 16)

    @property
    def max_tokens(self) -> None:
        """There is no limit: the state can always go on."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for name in ("expand", "conv_kernel"):
            if not 1 <= getattr(self, name) <= MAX_SIZE:
                yield f"{name} is {shorten(getattr(self, name))}; expected 1 to {MAX_SIZE}"
        if self.inner_size > MAX_SIZE:
            yield f"expand * hidden_size is {shorten(self.inner_size)}; expected 1 to {MAX_SIZE}"
        rank = self.time_step_rank
        if rank != "auto" and (isinstance(rank, str) or not 1 <= rank <= MAX_SIZE):
            yield f"time_step_rank is {shorten(rank)}; expected 'auto' or 1 to {MAX_SIZE}"
        if not 0 < self.time_step_min <= self.time_step_max:
            yield (
                f"time_step_min is {self.time_step_min}, time_step_max {self.time_step_max}; expected more than 0, the "
                "smaller one first"
            )
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


# twin: mamba.selective_scan
def selective_scan(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Carry a state along a text: state = exp(step rate) state + step write' x, out = read' state.

    Args:
        x: (B, T, I).
        step: how much time passes at a token, for each channel, (B, T, I).
        rate: of the decay, negative, (I, N).
        write: (B, T, N).
        read: (B, T, N).
        state: (B, I, N); None at the beginning of a text.

    Returns:
        (B, T, I), and the state after the last token.
    """
    outs = []
    for some in zip(*(part.float().split(CHUNK, dim=1) for part in (x, step, write, read)), strict=True):
        now, time, added, seen = some
        update = (time * now)[..., None] * added[:, :, None]  # (B, T, I, N)
        states, state = scan(torch.exp(time[..., None] * rate), update, state)
        outs.append((states @ seen[..., None])[..., 0])
    return torch.cat(outs, dim=1).to(x.dtype), state  # type: ignore[return-value]


class FalconMambaStep(nn.Linear):
    """How much time passes at a token, for each channel: always more than 0."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(super().forward(input).float())

    @torch.no_grad()
    def draw(self, config: FalconMambaConfig) -> None:
        """Draw steps that are spread evenly between the orders of magnitude of `time_step_min` and `time_step_max`."""
        bound = config.time_step_scale / math.sqrt(self.in_features)
        if config.time_step_init_scheme == "constant":
            self.weight.fill_(bound)
        else:
            self.weight.uniform_(-bound, bound)
        low, high = math.log(config.time_step_min), math.log(config.time_step_max)
        step = torch.empty_like(self.bias).uniform_(low, high).exp().clamp(min=config.time_step_floor)
        self.bias.copy_(step.expm1().log())  # of which softplus makes the step again


class FalconMambaMixer(nn.Module):
    """A convolution and a state that each token fades, adds to and reads, (B, T, E) to (B, T, E)."""

    def __init__(self, config: FalconMambaConfig, index: int):
        super().__init__()
        size, inner, bias = config.hidden_size, config.inner_size, config.use_bias
        self.index, self.sizes = index, (config.step_rank, config.state_size, config.state_size)
        self.eps = config.mixer_rms_eps
        self.conv1d = nn.Conv1d(inner, inner, config.conv_kernel, groups=inner, bias=config.use_conv_bias)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.in_proj = nn.Linear(size, 2 * inner, bias=bias)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = FalconMambaStep(config.step_rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, config.state_size))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x, aligned = layout.align(x)  # a text a row, from its first token on
        before, state = (None, None) if cache is None else cache.state(self.index) or (None, None)
        x, gate = self.in_proj(x).chunk(2, dim=-1)  # (B, T, I)
        x, before = causal_conv(x, self.conv1d.weight, self.conv1d.bias, aligned, before)
        x = self.activation(x)
        step, write, read = (
            F.rms_norm(part, part.shape[-1:], eps=self.eps) for part in self.x_proj(x).split(self.sizes, dim=-1)
        )
        step = quiet(self.dt_proj(step), aligned)
        out, state = selective_scan(x, step, -torch.exp(self.A_log.float()), write, read, state)
        if cache is not None:
            cache.set_state(self.index, before, state)
        out = (out + self.D * x) * self.activation(gate)
        return layout.unalign(self.out_proj(out))


class FalconMambaBlock(nn.Module):
    """One layer: the mixer after its norm, with its residual sum."""

    def __init__(self, config: FalconMambaConfig, index: int):
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = FalconMambaMixer(config, index)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        change = self.mixer(self.norm(x.to(self.norm.weight.dtype)), layout, cache)
        return (x.float() if self.residual_in_fp32 else x) + change


class FalconMambaPreTrainedModel(Model):
    """What all classes of this file share."""

    config: FalconMambaConfig
    config_class = FalconMambaConfig
    prefix = "backbone"
    stack = "layers"
    legacy_names = {"embedding.": "embeddings."}

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw as `Model` does, and the steps and the states' rates as the paper does."""
        super().init_module(module, only)
        if isinstance(module, FalconMambaStep):
            module.draw(self.config)
        elif isinstance(module, nn.Conv1d):
            module.reset_parameters()
        elif isinstance(module, FalconMambaMixer):
            module.A_log.copy_(torch.arange(1, self.config.state_size + 1).log())
            module.D.fill_(1.0)


class FalconMambaModel(FalconMambaPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: FalconMambaConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(FalconMambaBlock(config, i) for i in range(config.num_hidden_layers))
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


class FalconMambaForCausalLM(FalconMambaPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "backbone.embeddings.weight"}

    def __init__(self, config: FalconMambaConfig):
        super().__init__(config)
        self.backbone = FalconMambaModel(config)
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
