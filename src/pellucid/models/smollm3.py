"""SmolLM3: a causal decoder of which every fourth layer does not know where tokens sit.

Announcement: Bakouch et al., 2025, "SmolLM3: smol, multilingual, long-context reasoner",
https://huggingface.co/blog/smollm3; layers without positions: Yang et al., 2025, "RoPE to NoPE and Back Again",
https://arxiv.org/abs/2501.18795

What sets it apart from Llama:
  - some layers do not turn queries and keys; that only earlier tokens are seen is all they know of the order
  - layers may be limited to a window

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
from ..config import Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Spans
from ..rope import Rope

LAYERS = ("full_attention", "sliding_attention")

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


class SmolLM3Config(Config):
    """The configuration of SmolLM3; the defaults are those of SmolLM3-3B-Base before it learned longer texts."""

    model_type = "smollm3"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }

    vocab_size: int = 128256
    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 2000000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    no_rope_layers: list[int] | None = None  # 1 for a layer that knows positions, 0 for one that does not
    no_rope_layer_interval: int = 4  # without that list, every how many layers one does not
    use_sliding_window: bool = False
    sliding_window: int | None = None  # tokens that a token looks at, itself among them, where windows are used
    max_window_layers: int | None = None  # files have it from Qwen, and it says nothing here
    layer_types: list[str] | None = None  # one of LAYERS a layer; None for windows where no positions are known
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    pad_token_id: int | None = 128004
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def turned(self) -> list[bool]:
        """Whether each layer turns queries and keys by their place."""
        if self.no_rope_layers is not None:
            return [bool(turned) for turned in self.no_rope_layers]
        return [i % self.no_rope_layer_interval != 0 for i in range(1, self.num_hidden_layers + 1)]

    @property
    def windows(self) -> list[int | None]:
        """How many tokens back each layer looks at most."""
        window = self.sliding_window - 1 if self.use_sliding_window and self.sliding_window is not None else None
        kinds = self.layer_types or ["full_attention" if turned else "sliding_attention" for turned in self.turned]
        return [window if kind == "sliding_attention" else None for kind in kinds]

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
        if self.use_sliding_window and self.sliding_window is not None and self.sliding_window < 1:
            yield f"sliding_window is {self.sliding_window}; expected at least 1 token, or null"
        kinds = self.layer_types or []
        if self.layer_types is not None and (len(kinds) != self.num_hidden_layers or {*kinds} - {*LAYERS}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} of {' and '.join(LAYERS)}"
        if self.no_rope_layers is not None and len(self.no_rope_layers) != self.num_hidden_layers:
            yield f"no_rope_layers is {shorten(self.no_rope_layers)}; expected {self.num_hidden_layers} of 0 and 1"
        if self.no_rope_layer_interval < 1:
            yield f"no_rope_layer_interval is {self.no_rope_layer_interval}; expected at least 1"
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


class SmolLM3Attention(nn.Module):
    """Causal attention with queries and keys that are rotated in most layers."""

    def __init__(self, config: SmolLM3Config, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window, self.turned = config.windows[index], config.turned[index]
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.turned:
            q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v, window=self.window)  # (B, H or fewer, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, window=self.window, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class SmolLM3MLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: SmolLM3Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class SmolLM3Layer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: SmolLM3Config, index: int):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = SmolLM3Attention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SmolLM3MLP(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class SmolLM3PreTrainedModel(Model):
    """What all classes of this file share."""

    config: SmolLM3Config
    config_class = SmolLM3Config
    prefix = "model"
    stack = "layers"
    legacy_names = {"transformer.": "model."}  # what the head for question answering calls it
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it


class SmolLM3Model(SmolLM3PreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: SmolLM3Config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(SmolLM3Layer(config, i) for i in range(config.num_hidden_layers))
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


class SmolLM3ForCausalLM(SmolLM3PreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SmolLM3Config):
        super().__init__(config)
        self.model = SmolLM3Model(config)
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


class SmolLM3ForSequenceClassification(SmolLM3PreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: SmolLM3Config):
        super().__init__(config)
        self.model = SmolLM3Model(config)
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


class SmolLM3ForTokenClassification(SmolLM3PreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: SmolLM3Config):
        super().__init__(config)
        self.model = SmolLM3Model(config)
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


class SmolLM3ForQuestionAnswering(SmolLM3PreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    prefix = "transformer"
    legacy_names = {"model.": "transformer."}

    def __init__(self, config: SmolLM3Config):
        super().__init__(config)
        self.transformer = SmolLM3Model(config)
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
