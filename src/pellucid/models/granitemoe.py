"""GraniteMoE: a causal decoder of mixtures of experts whose parts are scaled by four numbers of the config.

Paper: IBM Granite Team, 2024, "Granite 3.0 Language Models",
https://github.com/ibm-granite/granite-3.0-language-models/blob/main/paper.pdf

What sets it apart from Mixtral:
  - embeddings, attention scores, what each half of a layer adds, and the scores of words are scaled
  - the softmax is over the scores of the experts that are picked
  - the experts of a layer are stored as two stacks

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
from ..experts import Dispatch
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


class GraniteMoeConfig(Config):
    """The configuration of GraniteMoE; by default nothing is scaled."""

    model_type = "granitemoe"
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
    aliases = {"num_experts": "num_local_experts"}

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0  # of the scores, instead of 1 / sqrt(D)
    residual_multiplier: float = 1.0  # of what each half of a layer adds
    logits_scaling: float = 1.0  # by what the scores of words are divided
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0
    router_aux_loss_coef: float = 0.001  # the weight of a loss that balances experts, which is not computed here
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

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
        if not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            yield f"num_experts_per_tok is {self.num_experts_per_tok}; expected 1 to {self.num_local_experts}"
        if self.logits_scaling == 0:
            yield "logits_scaling is 0; expected another number, since scores are divided by it"
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


class GraniteMoeAttention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: GraniteMoeConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.scale = config.attention_multiplier
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
        x = attend(q, k, v, layout, causal=True, scale=self.scale, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class GraniteMoeStack(nn.Module):
    """A weight of every expert."""

    def __init__(self, experts: int, inner: int, outer: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outer, inner))


class GraniteMoeRouter(nn.Module):
    """Picks experts for each token."""

    def __init__(self, config: GraniteMoeConfig):
        super().__init__()
        self.choices = config.num_experts_per_tok
        self.layer = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the experts of each token and their shares, (N, K) each."""
        scores, chosen = self.layer(tokens).float().topk(self.choices, dim=-1)
        return chosen, scores.softmax(dim=-1)


class GraniteMoeMoE(nn.Module):
    """The position-wise half of a layer: a router, and experts of which each token goes through a few."""

    def __init__(self, config: GraniteMoeConfig):
        super().__init__()
        count, size, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.count, self.activation = count, ACTIVATIONS[config.hidden_act]
        self.router = GraniteMoeRouter(config)
        self.input_linear = GraniteMoeStack(count, size, 2 * inner)
        self.output_linear = GraniteMoeStack(count, inner, size)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        chosen, shares = self.router(tokens)
        dispatch = Dispatch.to(chosen, self.count)
        gate, up = dispatch.linear(dispatch.gather(tokens), self.input_linear.weight).chunk(2, dim=-1)
        rows = dispatch.linear(self.activation(gate) * up, self.output_linear.weight)  # (N K, E)
        return dispatch.combine(rows, shares).view_as(x)


class GraniteMoeLayer(nn.Module):
    """One layer: attention, then experts, each after its norm and with its residual sum."""

    def __init__(self, config: GraniteMoeConfig, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = GraniteMoeAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.block_sparse_moe = GraniteMoeMoE(config)
        self.scale = config.residual_multiplier

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache) * self.scale
        return x + self.block_sparse_moe(self.post_attention_layernorm(x)) * self.scale


class GraniteMoePreTrainedModel(Model):
    """What all classes of this file share."""

    config: GraniteMoeConfig
    config_class = GraniteMoeConfig
    prefix = "model"
    stack = "layers"


class GraniteMoeModel(GraniteMoePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: GraniteMoeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(GraniteMoeLayer(config, i) for i in range(config.num_hidden_layers))
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
        x = x * self.config.embedding_multiplier
        turn = self.rope.turn_halves(layout, position_ids, x.dtype)
        for layer in self.layers:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.norm(x))


class GraniteMoeForCausalLM(GraniteMoePreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: GraniteMoeConfig):
        super().__init__(config)
        self.model = GraniteMoeModel(config)
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
        logits = self.lm_head(x[:, -logits_to_keep:]) / self.config.logits_scaling  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
