"""Falcon: a causal decoder with few key heads, whose attention and feed-forward run side by side.

Papers: Almazrouei et al., 2023, "The Falcon Series of Open Language Models", https://arxiv.org/abs/2311.16867; the
smallest models: Penedo et al., 2023, "The RefinedWeb Dataset for Falcon LLM", https://arxiv.org/abs/2306.01116

What sets it apart from Llama:
  - norms subtract the mean, feed-forwards are not gated
  - queries, keys and values are one projection, group by group: the queries of the group, its key, its value; in the
    first models there is one group of all heads, or one a head
  - both halves of a layer read its input, after one norm or one each, and their sum is added to it
  - in the models of the RefinedWeb paper one half follows the other, and there are no rotary positions, but scores that
    grow with a slope from one key to the next

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, K groups, D head size, V vocabulary, L
labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Bias, attend
from ..cache import Cache
from ..config import Config
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


class FalconConfig(Config):
    """The configuration of Falcon; the defaults are those of Falcon-7B."""

    model_type = "falcon"
    inert = {
        "apply_residual_connection_post_layernorm": False,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
    }
    aliases = {"n_embed": "hidden_size"}

    vocab_size: int = 65024
    hidden_size: int = 4544
    num_hidden_layers: int = 32
    num_attention_heads: int = 71
    num_kv_heads: int | None = None  # of the newer architecture; None for num_attention_heads
    ffn_hidden_size: int | None = None  # None for 4 hidden_size
    activation: str = "gelu"
    new_decoder_architecture: bool = False
    multi_query: bool = True  # in the older architecture, whether all heads share a key and a value
    parallel_attn: bool = True
    num_ln_in_parallel_attn: int | None = None  # of the newer architecture: norms of a layer, 1 or 2; None for 2
    bias: bool = False
    alibi: bool = False  # slopes instead of rotary positions
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout: float | None = None  # None for hidden_dropout
    bos_token_id: int | None = 11
    eos_token_id: int | list[int] | None = 11

    @property
    def head_size(self) -> int:
        """The size of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        if self.new_decoder_architecture:
            return self.num_kv_heads or self.num_attention_heads
        return 1 if self.multi_query else self.num_attention_heads

    @property
    def two_norms(self) -> bool:
        """Whether attention and feed-forward have a norm each, side by side."""
        return self.new_decoder_architecture and self.num_ln_in_parallel_attn != 1

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned, and slopes go on."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) is not a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.num_attention_heads % self.key_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of num_kv_heads ({self.key_heads})"
            )
        if self.new_decoder_architecture and not self.parallel_attn:
            yield "new_decoder_architecture is true, parallel_attn false; expected both true"
        if self.num_ln_in_parallel_attn not in (None, 1, 2):
            yield f"num_ln_in_parallel_attn is {self.num_ln_in_parallel_attn}; expected 1 or 2, or null"
        if self.activation not in ACTIVATIONS:
            yield f"activation is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        if not self.alibi:
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


# twin: bloom.alibi_slopes
def alibi_slopes(heads: int) -> list[float]:
    """Return a slope for each head: powers of a half, evenly spaced to the eighth, and some between them for more."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return slopes + [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]


def alibi(layout: Layout, heads: int, head_size: int) -> Bias:
    """Return what is added to the scores of keys: a slope a head times their positions, scaled as the scores are.

    The original rounds it to bfloat16 before it is scaled. Of far positions that is no small error, and so part of the
    model: where they are counted from matters.
    """

    def added(q: Tensor, k: Tensor, apart: Tensor) -> Tensor:
        keys = layout.positions if layout.key_positions is None else layout.key_positions  # (B, S)
        if layout.lengths is not None:  # here come packed texts of one length
            keys = torch.arange(k.shape[2], device=k.device)[None]
        slopes = torch.tensor(alibi_slopes(heads), dtype=torch.bfloat16, device=k.device)
        return (slopes[:, None, None] * keys[:, None, None]).to(k.dtype) / math.sqrt(head_size)  # (B, H, 1, S)

    return added


class FalconAttention(nn.Module):
    """Causal attention with rotated queries and keys, or with scores that fall with the distance."""

    def __init__(self, config: FalconConfig, index: int):
        super().__init__()
        self.index, self.groups, self.head_size = index, config.key_heads, config.head_size
        self.dropout = config.attention_dropout
        size = (config.num_attention_heads + 2 * config.key_heads) * config.head_size
        self.query_key_value = nn.Linear(config.hidden_size, size, bias=config.bias)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor] | None, cache: Cache | None) -> Tensor:
        groups = self.query_key_value(x).unflatten(-1, (self.groups, -1, self.head_size))  # (B, T, K, H / K + 2, D)
        q = groups[:, :, :, :-2].flatten(2, 3).transpose(1, 2)  # (B, H, T, D)
        k, v = (groups[:, :, :, i].transpose(1, 2) for i in (-2, -1))  # (B, K, T, D)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        bias = alibi(layout, q.shape[1], self.head_size) if turn is None else None
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, K, S, D)
        x = attend(q, k, v, layout, causal=True, bias=bias, dropout=self.dropout if self.training else 0.0)
        return self.dense(x.transpose(1, 2).flatten(2))  # (B, T, E)


class FalconMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: FalconConfig):
        super().__init__()
        inner = config.ffn_hidden_size or 4 * config.hidden_size
        self.dense_h_to_4h = nn.Linear(config.hidden_size, inner, bias=config.bias)
        self.dense_4h_to_h = nn.Linear(inner, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]

    # twin: gpt_neox.GPTNeoXMLP.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(x)))


class FalconDecoderLayer(nn.Module):
    """One layer: attention and feed-forward side by side, after one norm or one each, or one after the other."""

    def __init__(self, config: FalconConfig, index: int):
        super().__init__()
        self.parallel, self.two_norms = config.parallel_attn, config.two_norms
        if config.two_norms:
            self.ln_attn = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
            self.ln_mlp = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        else:
            self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        if not config.parallel_attn:
            self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.self_attention = FalconAttention(config, index)
        self.mlp = FalconMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor] | None, cache: Cache | None) -> Tensor:
        normed = self.ln_attn(x) if self.two_norms else self.input_layernorm(x)
        attended = self.self_attention(normed, layout, turn, cache)
        if not self.parallel:
            x = x + self.dropout(attended)
            return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        normed = self.ln_mlp(x) if self.two_norms else normed
        return x + self.dropout(attended + self.mlp(normed))


class FalconPreTrainedModel(Model):
    """What all classes of this file share."""

    config: FalconConfig
    config_class = FalconConfig
    prefix = "transformer"
    stack = "h"
    unread = ("rotary_emb.inv_freq", "self_attention.maybe_rotary.inv_freq")  # of old versions; the config says it


class FalconModel(FalconPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: FalconConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(FalconDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.rope = None if config.alibi else Rope.of(config, config.head_size)
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
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        turn = None if self.rope is None else self.rope.turn_halves(layout, position_ids, x.dtype)
        for layer in self.h:
            x = layer(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.ln_f(x))


class FalconForCausalLM(FalconPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "transformer.word_embeddings.weight"}

    def __init__(self, config: FalconConfig):
        super().__init__(config)
        self.transformer = FalconModel(config)
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
        x = self.transformer(input_ids, layout, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)


class FalconForSequenceClassification(FalconPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: FalconConfig):
        super().__init__(config)
        self.transformer = FalconModel(config)
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
        x = self.transformer(input_ids, layout, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class FalconForTokenClassification(FalconPreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: FalconConfig):
        super().__init__(config)
        self.transformer = FalconModel(config)
        rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
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
        x = self.transformer(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class FalconForQuestionAnswering(FalconPreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: FalconConfig):
        super().__init__(config)
        self.transformer = FalconModel(config)
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
