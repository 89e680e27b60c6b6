"""Qwen2-MoE: a causal decoder of mixtures of experts, one of which every token goes through.

Paper: Yang et al., 2024, "Qwen2 Technical Report", https://arxiv.org/abs/2407.10671

What sets it apart from Mixtral:
  - a shared expert of its own size is added for every token, with a share that the token decides
  - some layers may have one plain feed-forward instead of experts
  - the shares of the experts that are picked keep their sum unless the config says otherwise
  - queries, keys and values have biases; every other layer may look at a window only

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels; N
tokens of all texts, K experts of a token. A packed batch is (1, N) tokens with a layout; what is one row a text,
(B, ...), is then one row a packed text.
"""

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

LAYERS = ("sliding_attention", "full_attention")


class Qwen2MoeConfig(Config):
    """The configuration of Qwen2-MoE; the defaults are those of Qwen1.5-MoE-A2.7B."""

    model_type = "qwen2_moe"
    inert = {
        "attention_bias": False,
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

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 5632  # of layers without experts
    moe_intermediate_size: int = 1408  # of an expert
    shared_expert_intermediate_size: int = 5632
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    num_experts: int = 60
    num_experts_per_tok: int = 4
    norm_topk_prob: bool = False  # whether the shares of the experts that are picked are scaled to a sum of 1
    decoder_sparse_step: int = 1  # every how many layers one has experts
    mlp_only_layers: list[int] | None = None  # layers that have none all the same
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    layer_types: list[str] | None = None  # one of LAYERS a layer; None for the rule in `windows`
    use_sliding_window: bool = False
    sliding_window: int | None = 4096  # tokens that a token looks at, itself among them, if windows are used
    max_window_layers: int = 28  # layers above have no window
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    router_aux_loss_coef: float = 0.001  # the weight of a loss that balances experts, which is not computed here
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
        count, size = self.num_hidden_layers, self.sliding_window if self.use_sliding_window else None
        kinds = self.layer_types or [LAYERS[i % 2 if i < self.max_window_layers else 1] for i in range(count)]
        return [size - 1 if size and kind == "sliding_attention" else None for kind in kinds]

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def has_experts(self, layer: int) -> bool:
        """Tell whether a layer has experts, or one plain feed-forward."""
        return layer not in (self.mlp_only_layers or []) and (layer + 1) % self.decoder_sparse_step == 0

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
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            yield f"num_experts_per_tok is {self.num_experts_per_tok}; expected 1 to {self.num_experts}"
        if self.decoder_sparse_step < 1:
            yield f"decoder_sparse_step is {self.decoder_sparse_step}; expected at least 1"
        if self.use_sliding_window and (self.sliding_window or 1) < 1:
            yield f"sliding_window is {self.sliding_window}; expected at least 1 token, or null"
        kinds = self.layer_types or []
        if self.layer_types is not None and (len(kinds) != self.num_hidden_layers or {*kinds} - {*LAYERS}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} of {' and '.join(LAYERS)}"
        if "sliding_attention" in kinds and not self.use_sliding_window:
            yield "layer_types has windows, but use_sliding_window is false"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
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


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


# twin: llama.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (part.to(x.dtype) for part in turn)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class Qwen2MoeAttention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: Qwen2MoeConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.qkv_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window = config.windows[index]
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=False)

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


class Qwen2MoeMLP(nn.Module):
    """A plain feed-forward: the shared expert, or the position-wise half of a layer without experts."""

    def __init__(self, config: Qwen2MoeConfig, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Qwen2MoeExperts(Experts):
    """The experts of a layer that are picked, in stacks."""

    stored = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__()
        count, size, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, size))
        self.down_proj = nn.Parameter(torch.empty(count, size, inner))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts, (N, K), make of each token, (N, E), by their shares, (N, K)."""
        dispatch = Dispatch.to(chosen, len(self.down_proj))
        gate, up = dispatch.linear(dispatch.gather(x), self.gate_up_proj).chunk(2, dim=-1)
        return dispatch.combine(dispatch.linear(self.activation(gate) * up, self.down_proj), shares)


class Qwen2MoeSparseMoeBlock(nn.Module):
    """The position-wise half of a layer: experts of which each token goes through a few, and one for all."""

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__()
        self.choices, self.sum_to_one = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Qwen2MoeExperts(config)
        self.shared_expert = Qwen2MoeMLP(config, config.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, E)
        shares, chosen = self.gate(tokens).float().softmax(dim=-1).topk(self.choices, dim=-1)  # (N, K) each
        if self.sum_to_one:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        shared = self.shared_expert_gate(x).sigmoid() * self.shared_expert(x)
        return self.experts(tokens, chosen, shares).view_as(x) + shared


class Qwen2MoeLayer(nn.Module):
    """One layer: attention, then experts or a feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: Qwen2MoeConfig, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Qwen2MoeAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if config.has_experts(index):
            self.mlp = Qwen2MoeSparseMoeBlock(config)
        else:
            self.mlp = Qwen2MoeMLP(config, config.intermediate_size)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen2MoePreTrainedModel(Model):
    """What all classes of this file share."""

    config: Qwen2MoeConfig
    config_class = Qwen2MoeConfig
    prefix = "model"
    stack = "layers"


class Qwen2MoeModel(Qwen2MoePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(Qwen2MoeLayer(config, i) for i in range(config.num_hidden_layers))
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


class Qwen2MoeForCausalLM(Qwen2MoePreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__(config)
        self.model = Qwen2MoeModel(config)
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


class Qwen2MoeForSequenceClassification(Qwen2MoePreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__(config)
        self.model = Qwen2MoeModel(config)
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


class Qwen2MoeForTokenClassification(Qwen2MoePreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__(config)
        self.model = Qwen2MoeModel(config)
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


class Qwen2MoeForQuestionAnswering(Qwen2MoePreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: Qwen2MoeConfig):
        super().__init__(config)
        self.model = Qwen2MoeModel(config)
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
        x = self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
