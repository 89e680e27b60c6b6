"""Qwen3-Next: a causal decoder in which most layers write into a state instead of attending, with many small experts.

Papers: Yang et al., 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule", https://arxiv.org/abs/2412.06464;
Qwen Team, 2025, "Qwen3 Technical Report", https://arxiv.org/abs/2505.09388, whose successor it is

What sets it apart from Qwen3-MoE:
  - three of four layers have a state in place of attention: a token fades it, and corrects what it has under its key
  - what attention gives is gated by the token, and only a part of a head is turned
  - norms multiply with 1 + weight
  - besides the experts that are picked there is one that all tokens go through

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels; N
tokens of all texts, C experts of a token; in a state G heads of keys, of K numbers, and H of values, of P numbers. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache
from ..config import Config, shorten
from ..experts import Dispatch, Experts
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Spans
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
LAYERS = ("linear_attention", "full_attention")


class Qwen3NextConfig(Config):
    """The configuration of Qwen3-Next; the defaults are those of the original library, for a model of 80B."""

    model_type = "qwen3_next"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "mlp_bias": False,
        "output_router_logits": False,
        "pruned_heads": {},
        "qkv_bias": False,
        "use_qk_norm": True,
        "use_sliding_window": False,
        "sliding_window": None,
    }
    aliases = {"num_local_experts": "num_experts"}

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 5632  # of layers without experts
    moe_intermediate_size: int = 512  # of an expert
    shared_expert_intermediate_size: int = 512
    num_hidden_layers: int = 48
    layer_types: list[str] | None = None  # one of LAYERS a layer; None for what the next one says
    full_attention_interval: int = 4  # every how many layers one attends
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    head_dim: int = 256
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4
    num_experts: int = 512
    num_experts_per_tok: int = 10
    norm_topk_prob: bool = True  # whether the shares of the experts that are picked are scaled to a sum of 1
    decoder_sparse_step: int = 1  # every how many layers one has experts
    mlp_only_layers: list[int] | None = None  # layers that have none all the same
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    partial_rotary_factor: float = 0.25
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # all of these in one, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0
    router_aux_loss_coef: float = 0.001  # the weight of a loss that balances experts, which is not computed here
    tie_word_embeddings: bool = False

    @property
    def kinds(self) -> list[str]:
        """What each layer is, one of LAYERS."""
        layers, every = range(self.num_hidden_layers), self.full_attention_interval
        return [LAYERS[(i + 1) % every == 0] for i in layers] if self.layer_types is None else self.layer_types

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def has_experts(self, layer: int) -> bool:
        """Tell whether a layer has experts, or one plain feed-forward."""
        some = self.num_experts > 0 and layer not in (self.mlp_only_layers or [])
        return some and (layer + 1) % self.decoder_sparse_step == 0

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for some, all_of_them in (
            ("num_key_value_heads", "num_attention_heads"),
            ("linear_num_key_heads", "linear_num_value_heads"),
        ):
            if getattr(self, all_of_them) % getattr(self, some):
                yield (
                    f"{all_of_them} ({getattr(self, all_of_them)}) is not a multiple of {some} ({getattr(self, some)})"
                )
        if self.num_experts and not 1 <= self.num_experts_per_tok <= self.num_experts:
            yield f"num_experts_per_tok is {self.num_experts_per_tok}; expected 1 to {self.num_experts}"
        for name in ("decoder_sparse_step", "full_attention_interval"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; expected at least 1"
                return
        if len(self.kinds) != self.num_hidden_layers or {*self.kinds} - {*LAYERS}:
            yield f"layer_types is {shorten(self.kinds)}; expected {self.num_hidden_layers} of {' and '.join(LAYERS)}"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        yield from Rope.faults(self, self.head_dim)


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


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


# twin: gpt_neox.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + R / 2, (B, H, T, D), among the first R; the others stay."""
    cos, sin = (part.to(x.dtype) for part in turn)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def unit(x: Tensor) -> Tensor:
    """Scale vectors to the length 1, in float32, (..., K)."""
    x = x.float()
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)


class Qwen3NextRMSNorm(nn.RMSNorm):
    """Divides by the root mean square and multiplies with 1 + weight, in float32."""

    # twin: gemma.GemmaRMSNorm.forward
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps).to(x.dtype)


class Qwen3NextAttention(nn.Module):
    """Causal attention with normed and partly rotated queries and keys, and a gate for what it gives."""

    def __init__(self, config: Qwen3NextConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_dim, config.attention_dropout
        self.q_proj = nn.Linear(size, 2 * config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)
        self.q_norm = Qwen3NextRMSNorm(self.head_size, eps=config.rms_norm_eps)
        self.k_norm = Qwen3NextRMSNorm(self.head_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, gate = self.q_proj(x).unflatten(-1, (-1, 2 * self.head_size)).chunk(2, dim=-1)  # (B, T, H, D)
        k, v = (project(x).unflatten(-1, (-1, self.head_size)) for project in (self.k_proj, self.v_proj))
        q, k, v = (part.transpose(1, 2) for part in (self.q_norm(q), self.k_norm(k), v))  # (B, H or fewer, T, D)
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.o_proj((x.transpose(1, 2) * gate.sigmoid()).flatten(2))  # (B, T, E)


class Qwen3NextGatedDeltaNet(nn.Module):
    """A convolution and a state that each token fades, corrects under its key and reads, (B, T, E) to (B, T, E)."""

    def __init__(self, config: Qwen3NextConfig, index: int):
        super().__init__()
        self.index, self.groups, self.heads = index, config.linear_num_key_heads, config.linear_num_value_heads
        keys, values = config.linear_key_head_dim, self.heads // self.groups * config.linear_value_head_dim
        self.sizes = [keys, keys, values, values]  # of q, k, v and the gate that belong to a head of keys
        channels = self.groups * (2 * keys + values)
        width = config.linear_conv_kernel_dim
        self.conv1d = nn.Conv1d(channels, channels, width, groups=channels, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.in_proj_qkvz = nn.Linear(config.hidden_size, self.groups * sum(self.sizes), bias=False)
        self.in_proj_ba = nn.Linear(config.hidden_size, 2 * self.heads, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.norm = nn.RMSNorm(config.linear_value_head_dim, eps=config.rms_norm_eps)
        self.out_proj = nn.Linear(self.groups * values, config.hidden_size, bias=False)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x, aligned = layout.align(x)  # a text a row, from its first token on
        before, state = (None, None) if cache is None else cache.state(self.index) or (None, None)
        q, k, v, gate = (
            part.flatten(2) for part in self.in_proj_qkvz(x).unflatten(-1, (self.groups, -1)).split(self.sizes, dim=-1)
        )
        beta, step = (
            part.flatten(2).float() for part in self.in_proj_ba(x).unflatten(-1, (self.groups, -1)).chunk(2, dim=-1)
        )
        decay = -torch.exp(self.A_log.float()) * F.softplus(step + self.dt_bias.float())
        decay, beta = (quiet(part, aligned).transpose(1, 2) for part in (decay, beta.sigmoid()))  # (B, H, T)
        mixed = torch.cat([q, k, v], dim=-1)
        mixed, before = causal_conv(mixed, self.conv1d.weight, None, aligned, before)
        q, k, v = self.activation(mixed).split([q.shape[-1], k.shape[-1], v.shape[-1]], dim=-1)
        q, k = (unit(part.unflatten(-1, (self.groups, -1))).transpose(1, 2) for part in (q, k))  # (B, G, T, K)
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, P)
        out, state = linear_attend(q * q.shape[-1] ** -0.5, k, v, decay, state, beta=beta)
        if cache is not None:
            cache.set_state(self.index, before, state)
        gate = F.silu(gate.float()).unflatten(-1, (self.heads, -1))
        out = (self.norm(out.transpose(1, 2)) * gate).to(x.dtype)  # (B, T, H, P)
        return layout.unalign(self.out_proj(out.flatten(2)))


class Qwen3NextMLP(nn.Module):
    """A plain feed-forward: the shared expert, or the position-wise half of a layer without experts."""

    def __init__(self, config: Qwen3NextConfig, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Qwen3NextExperts(Experts):
    """The experts of a layer that are picked, in stacks."""

    stored = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}

    def __init__(self, config: Qwen3NextConfig):
        super().__init__()
        count, size, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, size))
        self.down_proj = nn.Parameter(torch.empty(count, size, inner))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts, (N, C), make of each token, (N, E), by their shares, (N, C)."""
        dispatch = Dispatch.to(chosen, len(self.down_proj))
        gate, up = dispatch.linear(dispatch.gather(x), self.gate_up_proj).chunk(2, dim=-1)
        return dispatch.combine(dispatch.linear(self.activation(gate) * up, self.down_proj), shares)


class Qwen3NextSparseMoeBlock(nn.Module):
    """The position-wise half of a layer: experts of which each token goes through a few, and one for all."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__()
        self.choices, self.sum_to_one = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Qwen3NextExperts(config)
        self.shared_expert = Qwen3NextMLP(config, config.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        shares, chosen = self.gate(tokens).float().softmax(dim=-1).topk(self.choices, dim=-1)  # (N, C) each
        if self.sum_to_one:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        shared = self.shared_expert_gate(x).sigmoid() * self.shared_expert(x)
        return self.experts(tokens, chosen, shares).view_as(x) + shared


class Qwen3NextLayer(nn.Module):
    """One layer: attention or a state, then experts or a feed-forward, each after its norm, with its residual sum."""

    def __init__(self, config: Qwen3NextConfig, index: int):
        super().__init__()
        self.attends = config.kinds[index] == "full_attention"
        if self.attends:
            self.self_attn = Qwen3NextAttention(config, index)
        else:
            self.linear_attn = Qwen3NextGatedDeltaNet(config, index)
        if config.has_experts(index):
            self.mlp = Qwen3NextSparseMoeBlock(config)
        else:
            self.mlp = Qwen3NextMLP(config, config.intermediate_size)
        self.input_layernorm = Qwen3NextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3NextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        y = self.input_layernorm(x)
        x = x + (self.self_attn(y, layout, turn, cache) if self.attends else self.linear_attn(y, layout, cache))
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3NextPreTrainedModel(Model):
    """What all classes of this file share."""

    config: Qwen3NextConfig
    config_class = Qwen3NextConfig
    prefix = "model"
    stack = "layers"
    legacy_names = {"transformer.": "model."}  # what the head for question answering calls it

    def is_unread(self, name: str) -> bool:
        """Tell whether no class reads a tensor, as those of the layers that predict more tokens at once."""
        return super().is_unread(name) or name.startswith("mtp.")

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw as `Model` does, a norm's 0 changing nothing, and the rates of states as the paper does."""
        super().init_module(module, only)
        if isinstance(module, Qwen3NextRMSNorm):
            module.weight.zero_()
        elif isinstance(module, Qwen3NextGatedDeltaNet):
            module.dt_bias.fill_(1.0)
            module.A_log.uniform_(0.01, 16.0).log_()


class Qwen3NextModel(Qwen3NextPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(Qwen3NextLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Qwen3NextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = Rope.of(config, config.head_dim)
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
        return Hidden(last_hidden_state=self.norm(x))


class Qwen3NextForCausalLM(Qwen3NextPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Qwen3NextConfig):
        super().__init__(config)
        self.model = Qwen3NextModel(config)
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
        return Logits(loss=loss, logits=logits)


class Qwen3NextForSequenceClassification(Qwen3NextPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__(config)
        self.model = Qwen3NextModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.model(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class Qwen3NextForTokenClassification(Qwen3NextPreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__(config)
        self.model = Qwen3NextModel(config)
        self.dropout = nn.Dropout(0.1)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class Qwen3NextForQuestionAnswering(Qwen3NextPreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    prefix = "transformer"
    legacy_names = {"model.": "transformer."}

    def __init__(self, config: Qwen3NextConfig):
        super().__init__(config)
        self.transformer = Qwen3NextModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.transformer(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
