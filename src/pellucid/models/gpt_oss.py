"""GPT-OSS: a causal decoder of mixtures of experts, with attention that may look at nothing.

Paper: OpenAI, 2025, "gpt-oss-120b & gpt-oss-20b Model Card", https://arxiv.org/abs/2508.10925

What sets it apart from Mixtral:
  - each head has a sink: a learned score that takes its share of the softmax and gives nothing
  - every other layer looks at a window only; rotary positions are stretched by YaRN
  - the softmax is over the scores of the experts that are picked
  - experts have biases, are stored as they are multiplied, (in, out), and their two projections in turns; the gate is
    x sigmoid(alpha x), the other half is moved by 1, and both are kept within a limit
  - released weights of experts are in MXFP4, and become plain ones when they are loaded

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels; N
tokens of all texts, K experts of a token. A packed batch is (1, N) tokens with a layout; what is one row a text,
(B, ...), is then one row a packed text.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache
from ..config import Config, shorten
from ..experts import Dispatch
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits
from ..rope import Rope

LAYERS = ("sliding_attention", "full_attention")
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


class GptOssConfig(Config):
    """The configuration of GPT-OSS; the defaults are those of gpt-oss-120b."""

    model_type = "gpt_oss"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "hidden_act": "silu",
        "output_router_logits": False,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }
    aliases = {"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}

    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_hidden_layers: int = 36
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 8  # None for num_attention_heads
    head_dim: int | None = 64  # None for hidden_size / num_attention_heads
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; without any of them YARN
    layer_types: list[str] | None = None  # one of LAYERS a layer; None for both in turns
    sliding_window: int | None = 128  # tokens that a token looks at, itself among them; None for all
    attention_bias: bool = True
    attention_dropout: float = 0.0
    router_aux_loss_coef: float = 0.001  # the weight of a loss that balances experts, which is not computed here
    quantization_config: dict[str, Any] | None = None  # how the file holds experts; loading makes it None
    tie_word_embeddings: bool = False

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def windows(self) -> list[int | None]:
        """How many tokens back each layer looks at most."""
        kinds = self.layer_types or [LAYERS[i % 2] for i in range(self.num_hidden_layers)]
        window = None if self.sliding_window is None else self.sliding_window - 1
        return [window if kind == "sliding_attention" else None for kind in kinds]

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def modernize(self, values: dict[str, Any]) -> list[str]:
        """Bring other spellings to ours, inside `values`, and stretch positions where they do not say how."""
        if not values.get("rope_parameters") and not values.get("rope_scaling"):
            values["rope_parameters"] = dict(YARN)
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
        if not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            yield f"num_experts_per_tok is {self.num_experts_per_tok}; expected 1 to {self.num_local_experts}"
        if self.sliding_window is not None and self.sliding_window < 1:
            yield f"sliding_window is {self.sliding_window}; expected at least 1 token, or null"
        if self.swiglu_limit <= 0:
            yield f"swiglu_limit is {self.swiglu_limit}; expected more than 0"
        kinds = self.layer_types or []
        if self.layer_types is not None and (len(kinds) != self.num_hidden_layers or {*kinds} - {*LAYERS}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} of {' and '.join(LAYERS)}"
        packed = (self.quantization_config or {"quant_method": "mxfp4"}).get("quant_method")
        if packed != "mxfp4":
            yield f"quantization_config has the quant_method {shorten(packed)}; only 'mxfp4' is implemented"
        yield from Rope.faults(self, self.head_size)


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


class GptOssAttention(nn.Module):
    """Causal attention with rotated queries and keys, and a sink for each head."""

    def __init__(self, config: GptOssConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window = config.windows[index]
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)
        self.sinks = nn.Parameter(torch.empty(config.num_attention_heads))

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v, window=self.window)  # (B, H or fewer, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, window=self.window, sinks=self.sinks, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class GptOssExperts(nn.Module):
    """The feed-forwards of a layer, in stacks."""

    def __init__(self, config: GptOssConfig):
        super().__init__()
        count, size, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit
        self.gate_up_proj = nn.Parameter(torch.empty(count, size, 2 * inner))
        self.gate_up_proj_bias = nn.Parameter(torch.empty(count, 2 * inner))
        self.down_proj = nn.Parameter(torch.empty(count, inner, size))
        self.down_proj_bias = nn.Parameter(torch.empty(count, size))

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts, (N, K), make of each token, (N, E), by their shares, (N, K)."""
        dispatch = Dispatch.to(chosen, len(self.down_proj))
        rows = dispatch.linear(dispatch.gather(x), self.gate_up_proj.transpose(1, 2), self.gate_up_proj_bias)
        gate, up = rows[..., ::2].clamp(max=self.limit), rows[..., 1::2].clamp(-self.limit, self.limit)
        rows = gate * torch.sigmoid(self.alpha * gate) * (up + 1)
        return dispatch.combine(dispatch.linear(rows, self.down_proj.transpose(1, 2), self.down_proj_bias), shares)


class GptOssMLP(nn.Module):
    """The position-wise half of a layer: a router, and experts of which each token goes through a few."""

    def __init__(self, config: GptOssConfig):
        super().__init__()
        self.choices = config.num_experts_per_tok
        self.router = nn.Linear(config.hidden_size, config.num_local_experts)
        self.experts = GptOssExperts(config)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        scores, chosen = self.router(tokens).topk(self.choices, dim=-1)  # (N, K) each
        return self.experts(tokens, chosen, scores.softmax(dim=-1)).view_as(x)


class GptOssLayer(nn.Module):
    """One layer: attention, then experts, each after its norm and with its residual sum."""

    def __init__(self, config: GptOssConfig, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = GptOssAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = GptOssMLP(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class GptOssPreTrainedModel(Model):
    """What all classes of this file share."""

    config: GptOssConfig
    config_class = GptOssConfig
    prefix = "model"
    stack = "layers"

    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; experts begin without biases."""
        super().init_module(module, only)
        if isinstance(module, GptOssExperts):
            nn.init.zeros_(module.gate_up_proj_bias)
            nn.init.zeros_(module.down_proj_bias)


class GptOssModel(GptOssPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: GptOssConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(GptOssLayer(config, i) for i in range(config.num_hidden_layers))
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


class GptOssForCausalLM(GptOssPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: GptOssConfig):
        super().__init__(config)
        self.model = GptOssModel(config)
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


class GptOssForSequenceClassification(GptOssPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: GptOssConfig):
        super().__init__(config)
        self.model = GptOssModel(config)
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


class GptOssForTokenClassification(GptOssPreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: GptOssConfig):
        super().__init__(config)
        self.model = GptOssModel(config)
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
