"""PhiMoE: a causal decoder of mixtures of experts, of which the two of a token are picked one after the other.

Papers: Abdin et al., 2024, "Phi-3 Technical Report", https://arxiv.org/abs/2404.14219; how experts are picked: Liu et
al., 2024, "GRIN: GRadient-INformed MoE", https://arxiv.org/abs/2409.12136

What sets it apart from Mixtral:
  - an expert's share is that of a softmax over those whose scores are near its own; the two need not sum to 1
  - in training, an expert is drawn among those that are near, and its share made smaller where it is not the best
  - norms subtract the mean, and have biases
  - positions may be stretched by a factor for each pair of dimensions, in long texts by another

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels; N
tokens of all texts, X experts. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then
one row a packed text.
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


class PhimoeConfig(Config):
    """The configuration of PhiMoE; the defaults are those of Phi-3.5-MoE, but for its positions and biases."""

    model_type = "phimoe"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "hidden_dropout": 0.0,
        "mlp_bias": False,
        "output_router_logits": False,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }
    aliases = {"num_experts": "num_local_experts"}

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 6400
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    num_local_experts: int = 16
    num_experts_per_tok: int = 2
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    original_max_position_embeddings: int | None = None  # of the texts that it learned before they became longer
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5  # though norms subtract the mean
    rope_theta: float = 1e6
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    sliding_window: int | None = None  # tokens that a token looks at, itself among them; None for all
    attention_bias: bool = False
    lm_head_bias: bool = False
    attention_dropout: float = 0.0
    router_jitter_noise: float = 0.01  # experts are near if their scores differ by less than twice this part
    input_jitter_noise: float = 0.0  # by how much tokens are scaled at random on their way to experts, in training
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
        if self.num_experts_per_tok != 2 or self.num_local_experts < 2:
            found = f"num_experts_per_tok is {self.num_experts_per_tok}, num_local_experts {self.num_local_experts}"
            yield f"{found}; expected 2, of 2 or more"
        if self.sliding_window is not None and self.sliding_window < 1:
            yield f"sliding_window is {self.sliding_window}; expected at least 1 token, or null"
        for name in ("router_jitter_noise", "input_jitter_noise"):
            if not 0 <= getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; expected 0 <= noise < 1"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        wrong = list(Rope.faults(self, self.head_size))
        if not wrong and (kind := Rope.of(self, self.head_size).kind) not in ("default", "longrope"):
            wrong = [f"rope_type is {kind!r}; only 'default' and 'longrope' are implemented"]
        yield from wrong


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


# twin: llama.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (part.to(x.dtype) for part in turn)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class PhimoeAttention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: PhimoeConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window = None if config.sliding_window is None else config.sliding_window - 1  # tokens back
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
            k, v = cache.update(self.index, k, v, window=self.window)  # (B, H or fewer, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, window=self.window, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class PhimoeExperts(Experts):
    """The feed-forwards of a layer, in stacks."""

    stored = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}

    def __init__(self, config: PhimoeConfig):
        super().__init__()
        count, size, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, size))
        self.down_proj = nn.Parameter(torch.empty(count, size, inner))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts, (N, K), make of each token, (N, E), by their shares, (N, K)."""
        dispatch = Dispatch.to(chosen, len(self.down_proj))
        gate, up = dispatch.linear(dispatch.gather(x), self.gate_up_proj).chunk(2, dim=-1)
        return dispatch.combine(dispatch.linear(self.activation(gate) * up, self.down_proj), shares)


class PhimoeMoE(nn.Module):
    """The position-wise half of a layer: a router, and experts of which each token goes through two."""

    def __init__(self, config: PhimoeConfig):
        super().__init__()
        self.near, self.noise = 2 * config.router_jitter_noise, config.input_jitter_noise
        self.gate = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = PhimoeExperts(config)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        if self.training and self.noise:
            tokens = tokens * torch.empty_like(tokens).uniform_(1 - self.noise, 1 + self.noise)
        scores = self.gate(tokens)  # (N, X)
        first, its_share = self.pick(scores)
        second, other_share = self.pick(scores.scatter(-1, first, float("-inf")))
        chosen, shares = torch.cat([first, second], dim=-1), torch.cat([its_share, other_share], dim=-1)
        return self.experts(tokens, chosen, shares).view_as(x)

    def pick(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Pick an expert for each token, (N, 1), and its share, (N, 1), from all scores, (N, X)."""
        best = scores.amax(dim=-1, keepdim=True)
        far = (best - scores) / scores.abs().maximum(best) > self.near
        scores = scores.masked_fill(far, float("-inf"))
        chosen = scores.argmax(dim=-1, keepdim=True)
        shares = scores.softmax(dim=-1)
        if not self.training:
            return chosen, shares.gather(-1, chosen)
        drawn = (scores - torch.empty_like(scores).exponential_().log()).argmax(dim=-1, keepdim=True)
        share = shares.gather(-1, drawn)
        whole = (drawn == chosen) | (torch.rand_like(share) > 0.75)  # Heun's third-order method
        return drawn, share - (share * (~whole * 2 / 3)).detach()  # with the gradient of the whole share


class PhimoeLayer(nn.Module):
    """One layer: attention, then experts, each after its norm and with its residual sum."""

    def __init__(self, config: PhimoeConfig, index: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = PhimoeAttention(config, index)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.block_sparse_moe = PhimoeMoE(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.block_sparse_moe(self.post_attention_layernorm(x))


class PhimoePreTrainedModel(Model):
    """What all classes of this file share."""

    config: PhimoeConfig
    config_class = PhimoeConfig
    prefix = "model"
    stack = "layers"


class PhimoeModel(PhimoePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: PhimoeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(PhimoeLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps)
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


class PhimoeForCausalLM(PhimoePreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: PhimoeConfig):
        super().__init__(config)
        self.model = PhimoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
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


class PhimoeForSequenceClassification(PhimoePreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: PhimoeConfig):
        super().__init__(config)
        self.model = PhimoeModel(config)
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
