"""OLMoE: a causal decoder of mixtures of many small experts, with norms over all queries and all keys.

Paper: Muennighoff et al., 2024, "OLMoE: Open Mixture-of-Experts Language Models", https://arxiv.org/abs/2409.02060

What sets it apart from Mixtral:
  - all heads' queries together are divided by their root mean square before they are turned, and so are the keys
  - queries, keys and values may be kept within a limit
  - the shares of the experts that are picked keep their sum unless the config says otherwise

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary; N tokens of
all texts, K experts of a token. A packed batch is (1, N) tokens with a layout.
"""

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


class OlmoeConfig(Config):
    """The configuration of OLMoE; the defaults are those of OLMoE-1B-7B, but for the size of its experts."""

    model_type = "olmoe"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "mlp_bias": False,
        "output_router_logits": False,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }
    aliases = {"num_local_experts": "num_experts"}

    vocab_size: int = 50304
    hidden_size: int = 2048
    intermediate_size: int = 2048  # of an expert
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16  # None for num_attention_heads
    num_experts: int = 64
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False  # whether the shares of the experts that are picked are scaled to a sum of 1
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    clip_qkv: float | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    router_aux_loss_coef: float = 0.01  # the weight of a loss that balances experts, which is not computed here
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 50279

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) is not a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.num_attention_heads % self.key_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.key_heads})"
            )
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            yield f"num_experts_per_tok is {self.num_experts_per_tok}; expected 1 to {self.num_experts}"
        if self.clip_qkv is not None and self.clip_qkv <= 0:
            yield f"clip_qkv is {self.clip_qkv}; expected more than 0, or null"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        yield from Rope.faults(self, self.head_size)


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


# twin: llama.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (part.to(x.dtype) for part in turn)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class OlmoeAttention(nn.Module):
    """Causal attention with normed and rotated queries and keys."""

    def __init__(self, config: OlmoeConfig, index: int):
        super().__init__()
        size, bias, key_size = config.hidden_size, config.attention_bias, config.key_heads * config.head_size
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.limit = config.clip_qkv
        self.q_proj = nn.Linear(size, size, bias=bias)
        self.k_proj = nn.Linear(size, key_size, bias=bias)
        self.v_proj = nn.Linear(size, key_size, bias=bias)
        self.o_proj = nn.Linear(size, size, bias=bias)
        self.q_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(key_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        parts = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)
        q, k, v = (
            (part if self.limit is None else part.clamp(-self.limit, self.limit))
            .unflatten(-1, (-1, self.head_size))
            .transpose(1, 2)  # (B, H or fewer, T, D)
            for part in parts
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class OlmoeExperts(Experts):
    """The feed-forwards of a layer, in stacks."""

    stored = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}

    def __init__(self, config: OlmoeConfig):
        super().__init__()
        count, size, inner = config.num_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, size))
        self.down_proj = nn.Parameter(torch.empty(count, size, inner))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts, (N, K), make of each token, (N, E), by their shares, (N, K)."""
        dispatch = Dispatch.to(chosen, len(self.down_proj))
        gate, up = dispatch.linear(dispatch.gather(x), self.gate_up_proj).chunk(2, dim=-1)
        return dispatch.combine(dispatch.linear(self.activation(gate) * up, self.down_proj), shares)


class OlmoeSparseMoeBlock(nn.Module):
    """The position-wise half of a layer: a router, and experts of which each token goes through a few."""

    def __init__(self, config: OlmoeConfig):
        super().__init__()
        self.choices, self.sum_to_one = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = OlmoeExperts(config)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        shares, chosen = self.gate(tokens).float().softmax(dim=-1).topk(self.choices, dim=-1)  # (N, K) each
        if self.sum_to_one:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return self.experts(tokens, chosen, shares).view_as(x)


class OlmoeLayer(nn.Module):
    """One layer: attention, then experts, each after its norm and with its residual sum."""

    def __init__(self, config: OlmoeConfig, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = OlmoeAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = OlmoeSparseMoeBlock(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class OlmoePreTrainedModel(Model):
    """What all classes of this file share."""

    config: OlmoeConfig
    config_class = OlmoeConfig
    prefix = "model"
    stack = "layers"


class OlmoeModel(OlmoePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: OlmoeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(OlmoeLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        turn = self.rope.turn_halves(layout, position_ids, x.dtype)
        for layer in self.layers:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.norm(x))


class OlmoeForCausalLM(OlmoePreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OlmoeConfig):
        super().__init__(config)
        self.model = OlmoeModel(config)
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
