"""Apertus: a causal decoder with norms on queries and keys and an activation of which two numbers are learned.

Paper: Apertus Team, 2025, "Apertus: Democratizing Open and Compliant LLMs for Global Language Environments",
https://arxiv.org/abs/2509.14233

What sets it apart from Llama:
  - each head of queries and keys is divided by its root mean square before it is turned
  - a feed-forward has one projection instead of two that are multiplied, and its activation is xIELU
  - norms have other names; positions are stretched as in Llama 3 unless the config says otherwise

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
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
from ..config import Config
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
from ..rope import Rope

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

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


class ApertusConfig(Config):
    """The configuration of Apertus; the defaults are nearly those of Apertus-8B."""

    model_type = "apertus"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "hidden_dropout": 0.0,
        "is_causal": True,
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "post_norm": False,
        "pruned_heads": {},
        "qk_norm": True,
    }

    vocab_size: int = 131072
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    hidden_act: str = "xielu"
    max_position_embeddings: int = 65536
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    rope_theta: float = 12000000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; without any of them LLAMA3
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 3
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

    def modernize(self, values: dict[str, Any]) -> list[str]:
        """Bring other spellings to ours, inside `values`, and stretch positions where they do not say how."""
        if not values.get("rope_parameters") and not values.get("rope_scaling"):
            values["rope_parameters"] = dict(LLAMA3)
        return super().modernize(values)

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
        if self.hidden_act not in (*ACTIVATIONS, "xielu"):
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join((*ACTIVATIONS, 'xielu'))}"
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


class ApertusAttention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: ApertusConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_size, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(self.q_norm(q), turn), rotate(self.k_norm(k), turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class ApertusXIELU(nn.Module):
    """Grows like a parabola above 0 and turns around below it; how steep, is learned for the layer.

    Paper: Huang and Schlag, 2024, "Deriving Activation Functions Using Integration", https://arxiv.org/abs/2411.13010
    """

    def __init__(self):
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))
        self.beta = nn.Parameter(torch.empty(()))
        self.eps = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        beta, eps = self.beta.detach(), self.eps.detach()  # which checkpoints hold, but nobody learns
        above = F.softplus(self.alpha_p) * x * x
        below = (beta + F.softplus(self.alpha_n)) * (torch.expm1(torch.minimum(x, eps)) - x)
        return torch.where(x > 0, above, below) + beta * x


class ApertusMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: ApertusConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ApertusXIELU() if config.hidden_act == "xielu" else ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)))


class ApertusLayer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: ApertusConfig, index: int):
        super().__init__()
        self.attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = ApertusAttention(config, index)
        self.feedforward_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = ApertusMLP(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.attention_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.feedforward_layernorm(x))


class ApertusPreTrainedModel(Model):
    """What all classes of this file share."""

    config: ApertusConfig
    config_class = ApertusConfig
    prefix = "model"
    stack = "layers"
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it

    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; the activation begins where its paper does."""
        super().init_module(module, only)
        if isinstance(module, ApertusXIELU):
            values = {
                "alpha_p": math.log(math.expm1(0.8)),
                "alpha_n": math.log(math.expm1(0.3)),
                "beta": 0.5,
                "eps": -1e-6,
            }
            for name, value in values.items():
                if only is None or name in only:
                    nn.init.constant_(module.get_parameter(name), value)


class ApertusModel(ApertusPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: ApertusConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(ApertusLayer(config, i) for i in range(config.num_hidden_layers))
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


class ApertusForCausalLM(ApertusPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ApertusConfig):
        super().__init__(config)
        self.model = ApertusModel(config)
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


class ApertusForTokenClassification(ApertusPreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: ApertusConfig):
        super().__init__(config)
        self.model = ApertusModel(config)
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
