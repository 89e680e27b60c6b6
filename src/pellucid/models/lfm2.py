"""LFM2: a causal decoder of short gated convolutions, with a layer of attention among every few of them.

Paper: Liquid AI, 2025, "LFM2 Technical Report", https://arxiv.org/abs/2511.23404

What sets it apart from Llama:
  - most layers mix a token with the two before it only: a convolution, with a gate before it and one after it
  - the others attend; each head of queries and keys is divided by its root mean square before it is turned
  - the size of feed-forwards is two thirds of what the config says, rounded up, if it asks for that

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary. A packed
batch is (1, N) tokens with a layout.
"""

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
from ..recurrence import causal_conv
from ..rope import Rope

LAYERS = ("conv", "full_attention")


class Lfm2Config(Config):
    """The configuration of LFM2; the defaults are the format's, and no released model's."""

    model_type = "lfm2"
    aliases = {"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"}
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "attention_bias": False,
        "block_use_swiglu": True,
        "hidden_act": "silu",
        "is_causal": True,
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "use_pos_enc": True,
    }

    vocab_size: int = 65536
    hidden_size: int = 2560
    intermediate_size: int = 12288  # before it is adjusted; see feed_forward_size
    block_auto_adjust_ff_dim: bool = True
    block_ffn_dim_multiplier: float | None = 1.0  # None for no multiplying, nor rounding up
    block_multiple_of: int = 256
    num_hidden_layers: int = 32
    layer_types: list[str] | None = None  # one of LAYERS a layer; None for what full_attn_idxs says
    full_attn_idxs: list[int] | None = None  # the layers that attend; None for all
    conv_L_cache: int = 3  # tokens that a convolution mixes, the present one among them
    conv_bias: bool = False  # of the convolution and of the projections around it
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    max_position_embeddings: int = 128000
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    rope_theta: float = 1000000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def feed_forward_size(self) -> int:
        """The inner size of feed-forwards: of three projections, as many parameters as two of the size given have."""
        if not self.block_auto_adjust_ff_dim:
            return self.intermediate_size
        size = 2 * self.intermediate_size // 3
        if self.block_ffn_dim_multiplier is None:
            return size
        size = int(self.block_ffn_dim_multiplier * size)
        return -(-size // self.block_multiple_of) * self.block_multiple_of

    @property
    def kinds(self) -> list[str]:
        """What each layer is, one of LAYERS."""
        if self.layer_types is not None:
            return self.layer_types
        places = range(self.num_hidden_layers)
        return [LAYERS[self.full_attn_idxs is None or i in self.full_attn_idxs] for i in places]

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def modernize(self, values: dict[str, Any]) -> list[str]:
        """Bring other spellings to ours, inside `values`."""
        for old, new in self.aliases.items():
            if None not in (values.get(old), values.get(new)):
                del values[new]  # some files hold both, and the first spelling counts
        values.pop("num_heads", None)  # of the framework of training; files have it beside num_attention_heads
        return super().modernize(values)

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) is not a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.conv_L_cache < 1:
            yield f"conv_L_cache is {self.conv_L_cache}; expected at least 1 token"
        if self.block_multiple_of < 1 or not 0 < (self.block_ffn_dim_multiplier or 1.0) <= MAX_SIZE:
            yield f"block_multiple_of or block_ffn_dim_multiplier is not more than 0, or more than {MAX_SIZE}"
        elif not 0 < self.feed_forward_size <= MAX_SIZE:
            yield f"feed-forwards would have a size of {self.feed_forward_size}; expected 1 to {MAX_SIZE}"
        if self.layer_types is None and {*(self.full_attn_idxs or [])} - {*range(self.num_hidden_layers)}:
            yield f"full_attn_idxs is {shorten(self.full_attn_idxs)}; expected some of {self.num_hidden_layers} layers"
        if len(self.kinds) != self.num_hidden_layers or {*self.kinds} - {*LAYERS}:
            yield f"layer_types is {shorten(self.kinds)}; expected {self.num_hidden_layers} of {' and '.join(LAYERS)}"
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


class Lfm2Attention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: Lfm2Config, index: int):
        super().__init__()
        size = config.hidden_size
        self.index, self.head_size = index, config.head_size
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=False)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=False)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=False)
        self.out_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=False)
        self.q_layernorm = nn.RMSNorm(self.head_size, eps=config.norm_eps)
        self.k_layernorm = nn.RMSNorm(self.head_size, eps=config.norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(self.q_layernorm(q), turn), rotate(self.k_layernorm(k), turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=True)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class Lfm2ShortConv(nn.Module):
    """A convolution over the last few tokens, channel by channel, gated before and after, (B, T, E) to (B, T, E)."""

    def __init__(self, config: Lfm2Config, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.conv_bias
        self.index = index
        self.conv = nn.Conv1d(size, size, config.conv_L_cache, groups=size, bias=bias)
        self.in_proj = nn.Linear(size, 3 * size, bias=bias)
        self.out_proj = nn.Linear(size, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x, aligned = layout.align(x)  # a text a row, from its first token on
        gate, late_gate, x = self.in_proj(x).chunk(3, dim=-1)
        (before,) = (None,) if cache is None else cache.state(self.index) or (None,)
        x, before = causal_conv(gate * x, self.conv.weight, self.conv.bias, aligned, before)
        if cache is not None:
            cache.set_state(self.index, before)
        return layout.unalign(self.out_proj(late_gate * x))


class Lfm2MLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: Lfm2Config):
        super().__init__()
        size, inner = config.hidden_size, config.feed_forward_size
        self.w1 = nn.Linear(size, inner, bias=False)
        self.w3 = nn.Linear(size, inner, bias=False)
        self.w2 = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Lfm2Layer(nn.Module):
    """One layer: convolution or attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: Lfm2Config, index: int):
        super().__init__()
        self.attends = config.kinds[index] == "full_attention"
        if self.attends:
            self.self_attn = Lfm2Attention(config, index)
        else:
            self.conv = Lfm2ShortConv(config, index)
        self.feed_forward = Lfm2MLP(config)
        self.operator_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        y = self.operator_norm(x)
        x = x + (self.self_attn(y, layout, turn, cache) if self.attends else self.conv(y, layout, cache))
        return x + self.feed_forward(self.ffn_norm(x))


class Lfm2PreTrainedModel(Model):
    """What all classes of this file share."""

    config: Lfm2Config
    config_class = Lfm2Config
    prefix = "model"
    stack = "layers"


class Lfm2Model(Lfm2PreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: Lfm2Config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(Lfm2Layer(config, i) for i in range(config.num_hidden_layers))
        self.embedding_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)  # of the output, for all its name
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
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        turn = self.rope.turn_halves(layout, position_ids, x.dtype)
        for layer in self.layers:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.embedding_norm(x))


class Lfm2ForCausalLM(Lfm2PreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Lfm2Config):
        super().__init__(config)
        self.model = Lfm2Model(config)
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
