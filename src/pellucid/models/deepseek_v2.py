"""DeepSeek-V2: a causal decoder of mixtures of experts, whose keys and values are unpacked from a short vector.

Paper: DeepSeek-AI, 2024, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model",
https://arxiv.org/abs/2405.04434

What sets it apart from DeepSeek-V3:
  - an expert's score is its part of a softmax over all; there is no bias, and shares keep their sum
  - experts are picked from all of them, or from the groups that have the best expert

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, R latent size, V vocabulary, L labels;
N tokens of all texts, X experts, K of a token, G groups of them. A packed batch is (1, N) tokens with a layout; what is
one row a text, (B, ...), is then one row a packed text.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache
from ..config import Config
from ..experts import Dispatch, Experts
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
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


class DeepseekV2Config(Config):
    """The configuration of DeepSeek-V2; the defaults are near those of DeepSeek-V2-Lite."""

    model_type = "deepseek_v2"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "rope_interleave": True,
        "scoring_func": "softmax",
    }
    aliases = {
        "num_experts": "n_routed_experts",
        "num_local_experts": "n_routed_experts",
    }

    vocab_size: int = 102400
    hidden_size: int = 4096
    intermediate_size: int = 11008  # of layers without experts
    moe_intermediate_size: int = 1407  # of an expert
    num_hidden_layers: int = 32
    first_k_dense_replace: int = 0  # layers without experts, from below
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # as many, and files say so
    q_lora_rank: int | None = 1536  # of the latent vector of queries; None for none
    kv_lora_rank: int = 512  # of that of keys and values
    qk_nope_head_dim: int = 128  # of a head's queries and keys that are not turned
    qk_rope_head_dim: int = 64  # of those that are
    qk_head_dim: int | None = None  # both together, and
    head_dim: int | None = None  # the second: newer files say them again
    v_head_dim: int = 128
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    num_experts_per_tok: int = 6
    topk_method: str = "greedy"  # or "group_limited_greedy", and only then groups count
    n_group: int | None = None
    topk_group: int | None = None  # groups from which a token's experts are picked
    routed_scaling_factor: float = 1.0  # of their shares
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    attention_bias: bool = False
    mlp_bias: bool = False  # of plain feed-forwards and shared experts
    attention_dropout: float = 0.0
    pretraining_tp: int = 1  # in how many parts it was trained; changes only rounding
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def groups(self) -> tuple[int, int]:
        """How many groups there are, and from how many a token's experts are picked."""
        return (self.n_group or 1, self.topk_group or 1) if self.topk_method == "group_limited_greedy" else (1, 1)

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for name, value in (
            ("num_key_value_heads", self.num_attention_heads),
            ("qk_head_dim", self.qk_nope_head_dim + self.qk_rope_head_dim),
            ("head_dim", self.qk_rope_head_dim),
        ):
            if getattr(self, name) not in (None, value):
                yield f"{name} is {getattr(self, name)}; the other sizes make it {value}"
        counts = ("kv_lora_rank", "q_lora_rank", "n_routed_experts", "n_shared_experts", "n_group", "topk_group")
        if wrong := [name for name in counts if (value := getattr(self, name)) is not None and value < 1]:
            yield f"{wrong[0]} is {getattr(self, wrong[0])}; expected at least 1"
            return
        if self.topk_method not in ("greedy", "group_limited_greedy"):
            yield f"topk_method is {self.topk_method!r}; expected 'greedy' or 'group_limited_greedy'"
        groups, best = self.groups
        if self.n_routed_experts % groups:
            yield f"n_routed_experts ({self.n_routed_experts}) is not a multiple of n_group ({groups})"
        if best > groups:
            yield f"topk_group ({best}) is more than n_group ({groups})"
        if not 1 <= self.num_experts_per_tok <= (most := self.n_routed_experts // groups * best):
            yield f"num_experts_per_tok is {self.num_experts_per_tok}; expected 1 to {most}"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        yield from Rope.faults(self, self.qk_rope_head_dim)


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


# twin: cohere.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension 2 i with dimension 2 i + 1 in float32, (B, H, T, D)."""
    cos, sin = turn
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)


def score_scale(config: DeepseekV2Config) -> float:
    """Return the scale of attention scores; YaRN makes them larger in a model for longer texts."""
    rope = Rope.of(config, config.qk_rope_head_dim)
    factor, stretch = rope.numbers.get("factor") or 1.0, rope.numbers.get("mscale_all_dim") or 0.0
    growth = 0.1 * stretch * math.log(factor) + 1 if rope.kind == "yarn" and factor > 1 else 1.0
    return growth**2 / math.sqrt(config.qk_nope_head_dim + config.qk_rope_head_dim)


class DeepseekV2Attention(nn.Module):
    """Causal attention to latent vectors of tokens."""

    def __init__(self, config: DeepseekV2Config, index: int):
        super().__init__()
        size, heads, bias, self.index = config.hidden_size, config.num_attention_heads, config.attention_bias, index
        self.heads, self.scale, self.dropout = heads, score_scale(config), config.attention_dropout
        self.plain, self.turned, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.latent = config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(size, heads * (self.plain + self.turned), bias=False)
        else:
            self.q_a_proj = nn.Linear(size, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = nn.RMSNorm(config.q_lora_rank, eps=1e-6)  # whatever rms_norm_eps is
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * (self.plain + self.turned), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(size, self.latent + self.turned, bias=bias)
        self.kv_a_layernorm = nn.RMSNorm(self.latent, eps=1e-6)
        self.kv_b_proj = nn.Linear(self.latent, heads * (self.plain + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q = self.q_proj(x) if hasattr(self, "q_proj") else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, q_turned = q.split([self.plain, self.turned], dim=-1)  # (B, H, T, ...)
        q_turned = rotate(q_turned, turn)
        latent, k_turned = self.kv_a_proj_with_mqa(x)[:, None].split([self.latent, self.turned], dim=-1)
        latent, k_turned = self.kv_a_layernorm(latent), rotate(k_turned, turn)  # (B, 1, T, ...)
        if cache is not None:
            latent, k_turned = cache.update(self.index, latent, k_turned)  # (B, 1, S, ...)
        dropout = self.dropout if self.training else 0.0
        if q.shape[2] == 1 and type(self.kv_b_proj) is nn.Linear:  # one token: do not unpack all that was read before
            weight = self.kv_b_proj.weight.unflatten(0, (self.heads, -1))  # (H, ..., R)
            of_keys, of_values = weight.split([self.plain, self.value], dim=1)
            q, k = torch.cat([q @ of_keys, q_turned], dim=-1), torch.cat([latent, k_turned], dim=-1)
            x = attend(q, k, latent, layout, causal=True, scale=self.scale, dropout=dropout)  # (B, H, 1, R)
            x = x @ of_values.transpose(1, 2)
        else:
            unpacked = self.kv_b_proj(latent[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            k, v = unpacked.split([self.plain, self.value], dim=-1)  # (B, H, S, ...)
            q = torch.cat([q, q_turned], dim=-1)
            k = torch.cat([k, k_turned.expand(-1, self.heads, -1, -1)], dim=-1)
            x = attend(q, k, v, layout, causal=True, scale=self.scale, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class DeepseekV2MLP(nn.Module):
    """A plain feed-forward: the shared experts, or the position-wise half of a layer without experts."""

    def __init__(self, config: DeepseekV2Config, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=config.mlp_bias)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class DeepseekV2Gate(nn.Module):
    """Picks experts for each token."""

    def __init__(self, config: DeepseekV2Config):
        super().__init__()
        self.groups, self.best_groups = config.groups
        self.choices, self.scale = config.num_experts_per_tok, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the experts of each token and their shares, (N, K) each."""
        scores = F.linear(tokens.float(), self.weight.float()).softmax(dim=-1)  # (N, X)
        scores = scores.unflatten(-1, (self.groups, -1))  # (N, G, X / G)
        best = scores.amax(dim=-1).topk(self.best_groups, dim=-1).indices
        others = torch.ones_like(scores[..., 0], dtype=torch.bool).scatter(-1, best, False)  # (N, G)
        shares, chosen = scores.masked_fill(others[..., None], 0.0).flatten(1).topk(self.choices, dim=-1)
        return chosen, shares * self.scale


class DeepseekV2Experts(Experts):
    """The experts of a layer that are picked, in stacks."""

    stored = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}

    def __init__(self, config: DeepseekV2Config):
        super().__init__()
        count, size, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, size))
        self.down_proj = nn.Parameter(torch.empty(count, size, inner))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts, (N, K), make of each token, (N, E), by their shares, (N, K)."""
        dispatch = Dispatch.to(chosen, len(self.down_proj))
        gate, up = dispatch.linear(dispatch.gather(x), self.gate_up_proj).chunk(2, dim=-1)
        return dispatch.combine(dispatch.linear(self.activation(gate) * up, self.down_proj), shares)


class DeepseekV2MoE(nn.Module):
    """The position-wise half of a layer: experts of which each token goes through a few, and some for all."""

    def __init__(self, config: DeepseekV2Config):
        super().__init__()
        self.gate = DeepseekV2Gate(config)
        self.experts = DeepseekV2Experts(config)
        self.shared_experts = DeepseekV2MLP(config, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        return self.experts(tokens, *self.gate(tokens)).view_as(x) + self.shared_experts(x)


class DeepseekV2Layer(nn.Module):
    """One layer: attention, then experts or a feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: DeepseekV2Config, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = DeepseekV2Attention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if index < config.first_k_dense_replace:
            self.mlp = DeepseekV2MLP(config, config.intermediate_size)
        else:
            self.mlp = DeepseekV2MoE(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class DeepseekV2PreTrainedModel(Model):
    """What all classes of this file share."""

    config: DeepseekV2Config
    config_class = DeepseekV2Config
    prefix = "model"
    stack = "layers"


class DeepseekV2Model(DeepseekV2PreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: DeepseekV2Config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(DeepseekV2Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = Rope.of(config, config.qk_rope_head_dim)
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


class DeepseekV2ForCausalLM(DeepseekV2PreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DeepseekV2Config):
        super().__init__(config)
        self.model = DeepseekV2Model(config)
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


class DeepseekV2ForSequenceClassification(DeepseekV2PreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: DeepseekV2Config):
        super().__init__(config)
        self.model = DeepseekV2Model(config)
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
