"""EuroBERT: a multilingual encoder built as Llama is, but looking to both sides.

Paper: Boizard et al., 2025, "EuroBERT: Scaling Multilingual Encoders for European Languages",
https://arxiv.org/abs/2503.05500

What sets it apart from BERT:
  - norms before each sub-layer, and once more at the end; they divide by the root mean square and subtract nothing
  - no learned positions: queries and keys are rotated by their place
  - several query heads may share a key and a value head; feed-forwards multiply two projections; no biases
  - no token types, no pooler; a text is classified from its first token, the mean of its tokens, or the mean of its
    tokens' scores

Shapes: B batch, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N) tokens with
a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config, shorten
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits

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


class EuroBertConfig(Config):
    """The configuration of EuroBERT; the defaults are those of EuroBERT-210m.

    The base of the rotations stands in `rope_theta`, or, in newer files, in `rope_parameters`, which wins. Ask `theta`.
    """

    model_type = "eurobert"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "pretraining_tp": 1,
        "rope_scaling": None,
    }
    aliases = {"clf_pooling": "classifier_pooling"}  # the name in config.json of early 2025

    vocab_size: int = 128256
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None  # None for num_attention_heads
    head_dim: int | None = None  # None for hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    classifier_pooling: str = "late"
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 128001
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001

    @property
    def theta(self) -> float:
        """The base of the rotations."""
        return (self.rope_parameters or {}).get("rope_theta") or self.rope_theta

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        size, heads, shared = self.hidden_size, self.num_attention_heads, self.num_key_value_heads or 1
        if self.head_dim is None and size % heads:
            yield f"hidden_size ({size}) is not a multiple of num_attention_heads ({heads})"
        if (self.head_dim or size // heads) % 2:
            yield f"head_dim is {self.head_dim or size // heads}; expected an even number"
        if heads % shared:
            yield f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({shared})"
        if self.hidden_act not in ACTIVATIONS:
            yield f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.classifier_pooling not in ("bos", "mean", "late"):
            yield f"classifier_pooling is {self.classifier_pooling!r}; expected 'bos', 'mean' or 'late'"
        rope = self.rope_parameters or {}
        if rope.get("rope_type", "default") != "default" or set(rope) - {"rope_type", "rope_theta"}:
            yield f"rope_parameters is {shorten(rope)}; only the type 'default' is implemented"
        if self.theta <= 0:
            yield f"rope_theta is {self.theta}; expected more than 0"


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


# twin: modernbert.rotations
def rotations(positions: Tensor, size: int, theta: float) -> Tensor:
    """The angles by which the pairs of a head's dimensions are turned at each position, (B, T) to (B, 1, T, D / 2)."""
    speeds = theta ** -(torch.arange(0, size, 2, device=positions.device) / size)  # (D / 2,)
    return positions[:, None, :, None] * speeds


# twin: modernbert.rotate
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class EuroBertAttention(nn.Module):
    """Multi-head attention with rotated queries and keys, and its output projection."""

    def __init__(self, config: EuroBertConfig):
        super().__init__()
        self.heads, size, bias = config.num_attention_heads, config.hidden_size, config.attention_bias
        self.head_size = config.head_dim or size // self.heads
        shared = config.num_key_value_heads or self.heads
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(size, self.heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(size, shared * self.head_size, bias=bias)
        self.v_proj = nn.Linear(size, shared * self.head_size, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_size, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H or fewer, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (y.repeat_interleave(self.heads // y.shape[1], dim=1) for y in (k, v))  # (B, H, T, D)
        x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class EuroBertMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: EuroBertConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class EuroBertLayer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: EuroBertConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = EuroBertAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = EuroBertMLP(config)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class EuroBertPreTrainedModel(Model):
    """What all classes of this file share."""

    config: EuroBertConfig
    config_class = EuroBertConfig
    prefix = "model"
    stack = "layers"


class EuroBertModel(EuroBertPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: EuroBertConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(EuroBertLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        size = self.config.head_dim or self.config.hidden_size // self.config.num_attention_heads
        angles = rotations(layout.positions if position_ids is None else position_ids, size, self.config.theta)
        for layer in self.layers:
            x = layer(x, layout, angles)
        return Hidden(last_hidden_state=self.norm(x))


class EuroBertForMaskedLM(EuroBertPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: EuroBertConfig):
        super().__init__(config)
        self.model = EuroBertModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.mlp_bias)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        logits = self.lm_head(self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)  # (B, T, V)


class EuroBertForSequenceClassification(EuroBertPreTrainedModel):
    """Labels a whole text, as `config.classifier_pooling` says: "bos" its first token, "mean" or "late" all of them."""

    def __init__(self, config: EuroBertConfig):
        super().__init__(config)
        self.model = EuroBertModel(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
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
        if self.config.classifier_pooling == "bos":
            x = layout.first(x)  # (B, E)
        elif self.config.classifier_pooling == "mean":
            x = layout.mean(x)
        logits = self.classifier(F.gelu(self.dense(x)))
        logits = layout.mean(logits) if self.config.classifier_pooling == "late" else logits  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class EuroBertForTokenClassification(EuroBertPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: EuroBertConfig):
        super().__init__(config)
        self.model = EuroBertModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
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
        logits = self.classifier(self.model(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)  # (B, T, L)
