"""EXAONE 4.0: a causal decoder with norms behind attention and feed-forward, and windows in three of four layers.

Paper: LG AI Research, 2025, "EXAONE 4.0", https://arxiv.org/abs/2507.11407

What sets it apart from Qwen3:
  - norms stand behind attention and feed-forward, not before them
  - of a model with windows, the layers without one do not turn queries and keys: they know no positions
  - no biases

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


class Exaone4Config(Config):
    """The configuration of EXAONE 4.0; the defaults are the format's, and no released model's."""

    model_type = "exaone4"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "attention_bias": False,
        "is_causal": True,
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }

    vocab_size: int = 102400
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    sliding_window: int | None = 4096  # tokens that a token looks at, itself among them; None for all in all layers
    sliding_window_pattern: int | str | None = 4  # every how many layers one has no window; or "LLLG", G for global
    layer_types: list[str] | None = None  # one of LAYERS a layer; it wins
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 0
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
    def windows(self) -> list[int | None]:
        """How many tokens back each layer looks at most."""
        if self.sliding_window is None:
            return [None] * self.num_hidden_layers
        pattern = self.sliding_window_pattern or 1
        every = len(pattern) if isinstance(pattern, str) else pattern
        kinds = self.layer_types or [LAYERS[i % every != 0] for i in range(1, self.num_hidden_layers + 1)]
        return [self.sliding_window - 1 if kind == "sliding_attention" else None for kind in kinds]

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
        if self.sliding_window is not None and self.sliding_window < 1:
            yield f"sliding_window is {self.sliding_window}; expected at least 1 token, or null"
        pattern = self.sliding_window_pattern
        if pattern and isinstance(pattern, str) and pattern != "L" * (len(pattern) - 1) + "G":
            yield f"sliding_window_pattern is {shorten(pattern)}; expected a number, or a word such as 'LLLG'"
        kinds = self.layer_types or []
        if self.layer_types is not None and (len(kinds) != self.num_hidden_layers or {*kinds} - {*LAYERS}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} of {' and '.join(LAYERS)}"
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


class Exaone4Attention(nn.Module):
    """Causal attention: over a window with rotated queries and keys, or over all with plain ones."""

    def __init__(self, config: Exaone4Config, index: int):
        super().__init__()
        size = config.hidden_size
        self.index, self.head_size, self.dropout = index, config.head_size, config.attention_dropout
        self.window = config.windows[index]
        self.turned = config.sliding_window is None or self.window is not None
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=False)
        self.k_proj = nn.Linear(size, config.key_heads * self.head_size, bias=False)
        self.v_proj = nn.Linear(size, config.key_heads * self.head_size, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=False)
        self.q_norm = nn.RMSNorm(self.head_size, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if self.turned:
            q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v, window=self.window)  # (B, H or fewer, S, D)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, window=self.window, dropout=dropout)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class Exaone4MLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: Exaone4Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Exaone4Layer(nn.Module):
    """One layer: attention, then feed-forward, each before its norm and with its residual sum."""

    def __init__(self, config: Exaone4Config, index: int):
        super().__init__()
        self.self_attn = Exaone4Attention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = Exaone4MLP(config)
        self.post_feedforward_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, layout, turn, cache))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Exaone4PreTrainedModel(Model):
    """What all classes of this file share."""

    config: Exaone4Config
    config_class = Exaone4Config
    prefix = "model"
    stack = "layers"
    legacy_names = {"transformer.": "model."}  # what the head for question answering calls it
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it


class Exaone4Model(Exaone4PreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: Exaone4Config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(Exaone4Layer(config, i) for i in range(config.num_hidden_layers))
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


class Exaone4ForCausalLM(Exaone4PreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Exaone4Config):
        super().__init__(config)
        self.model = Exaone4Model(config)
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


class Exaone4ForSequenceClassification(Exaone4PreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: Exaone4Config):
        super().__init__(config)
        self.model = Exaone4Model(config)
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


class Exaone4ForTokenClassification(Exaone4PreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: Exaone4Config):
        super().__init__(config)
        self.model = Exaone4Model(config)
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


class Exaone4ForQuestionAnswering(Exaone4PreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    prefix = "transformer"
    legacy_names = {"model.": "transformer."}

    def __init__(self, config: Exaone4Config):
        super().__init__(config)
        self.transformer = Exaone4Model(config)
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
