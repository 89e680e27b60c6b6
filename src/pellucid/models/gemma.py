"""Gemma: a decoder like Llama with large heads, scaled word embeddings and norms that multiply with 1 + weight.

Paper: Gemma Team, 2024, "Gemma: Open Models Based on Gemini Research and Technology", https://arxiv.org/abs/2403.08295

What sets it apart from Llama:
  - word embeddings are multiplied with the root of their size, as large as the model's dtype can say it
  - norms multiply with 1 + weight, in float32
  - feed-forwards gate with GELU; the size of a head does not follow from the others
  - scores over the vocabulary come from the word embeddings

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

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


class GemmaConfig(Config):
    """The configuration of Gemma; the defaults are those of Gemma-7B."""

    model_type = "gemma"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "use_bidirectional_attention": False,
    }

    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"  # "gelu" means the same: the first files say so
    hidden_activation: str | None = None  # the same once more; it wins
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    @property
    def activation(self) -> str:
        """The name of what gates the feed-forwards."""
        return self.hidden_activation or ("gelu_pytorch_tanh" if self.hidden_act == "gelu" else self.hidden_act)

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads % self.num_key_value_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.activation not in ACTIVATIONS:
            yield f"the activation is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        yield from Rope.faults(self, self.head_dim)


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


class GemmaRMSNorm(nn.RMSNorm):
    """Divides by the root mean square and multiplies with 1 + weight, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps).to(x.dtype)


class GemmaEmbedding(nn.Embedding):
    """Word embeddings, multiplied with the root of their size, rounded to their dtype."""

    def forward(self, input: Tensor) -> Tensor:
        x = super().forward(input)
        return x * x.new_full((), self.embedding_dim**0.5)


class GemmaAttention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, config: GemmaConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.index, self.head_size, self.dropout = index, config.head_dim, config.attention_dropout
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_size, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or fewer, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class GemmaMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class GemmaLayer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: GemmaConfig, index: int):
        super().__init__()
        self.input_layernorm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = GemmaAttention(config, index)
        self.post_attention_layernorm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = GemmaMLP(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class GemmaPreTrainedModel(Model):
    """What all classes of this file share."""

    config: GemmaConfig
    config_class = GemmaConfig
    prefix = "model"
    stack = "layers"
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; a norm's 0 changes nothing."""
        super().init_module(module, only)
        if isinstance(module, GemmaRMSNorm):
            module.weight.zero_()


class GemmaModel(GemmaPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: GemmaConfig):
        super().__init__(config)
        self.embed_tokens = GemmaEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(GemmaLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = Rope.of(config, config.head_dim)
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


class GemmaForCausalLM(GemmaPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: GemmaConfig):
        super().__init__(config)
        self.model = GemmaModel(config)
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


class GemmaForSequenceClassification(GemmaPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: GemmaConfig):
        super().__init__(config)
        self.model = GemmaModel(config)
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


class GemmaForTokenClassification(GemmaPreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: GemmaConfig):
        super().__init__(config)
        self.model = GemmaModel(config)
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
