"""Granite: a causal decoder with four multipliers, of embeddings, scores, residual sums and logits.

Paper: IBM Granite Team, 2024, "Granite 3.0 Language Models",
https://github.com/ibm-granite/granite-3.0-language-models/blob/main/paper.pdf; why there are multipliers: Shen et al.,
2024, "Power Scheduler", https://arxiv.org/abs/2408.13359

What sets it apart from Llama:
  - word embeddings are multiplied by a number, and what attention and feed-forward add by another
  - scores are multiplied by a number of the config, not by 1 / sqrt(D)
  - logits are divided by a number

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

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


class GraniteConfig(Config):
    """The configuration of Granite; by default nothing is scaled."""

    model_type = "granite"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    embedding_multiplier: float = 1.0  # of word embeddings
    attention_multiplier: float = 1.0  # of the scores, instead of 1 / sqrt(D)
    residual_multiplier: float = 1.0  # of what each half of a layer adds
    logits_scaling: float = 1.0  # by what the scores of words are divided
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
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


class GraniteAttention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: GraniteConfig, index: int):
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
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, scale=self.scale, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class GraniteMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: GraniteConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class GraniteLayer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and a part of the residual sum."""

    def __init__(self, config: GraniteConfig, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = GraniteAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = GraniteMLP(config)
        self.multiplier = config.residual_multiplier

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.multiplier * self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.multiplier * self.mlp(self.post_attention_layernorm(x))


class GranitePreTrainedModel(Model):
    """What all classes of this file share."""

    config: GraniteConfig
    config_class = GraniteConfig
    prefix = "model"
    stack = "layers"
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it


class GraniteModel(GranitePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: GraniteConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(GraniteLayer(config, i) for i in range(config.num_hidden_layers))
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


class GraniteForCausalLM(GranitePreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: GraniteConfig):
        super().__init__(config)
        self.model = GraniteModel(config)
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
