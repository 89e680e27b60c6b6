"""MPT: a causal decoder whose only sense of order is that far tokens count less.

Model: MosaicML, 2023, "Introducing MPT-7B", https://www.databricks.com/blog/mpt-7b;
positions: Press et al., 2021, "Train Short, Test Long", https://arxiv.org/abs/2108.12409

What sets it apart from GPT-2:
  - no positions: scores fall with the distance, in each head at a speed of its own; any length can be read
  - no biases, neither in projections nor in norms
  - queries, keys and values may be clipped

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import math
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

ATTENTION = {"attn_pdrop": 0.0, "clip_qkv": None, "softmax_scale": None, "alibi_bias_max": 8}  # in attn_config
INERT = {  # the rest of it, at the values that are implemented
    "attn_type": "multihead_attention",
    "prefix_lm": False,
    "qk_ln": False,
    "qk_gn": False,
    "attn_uses_sequence_id": False,
    "alibi": True,
    "rope": False,
    "sliding_window_size": -1,
}


class MptConfig(Config):
    """The configuration of MPT; the defaults are those of the original library."""

    model_type = "mpt"
    inert = {
        "no_bias": True,
        "logit_scale": None,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "pruned_heads": {},
    }
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    vocab_size: int = 50368
    d_model: int = 2048
    n_heads: int = 16
    n_layers: int = 24
    expansion_ratio: int = 4
    max_seq_len: int = 2048  # of the texts in training
    emb_pdrop: float = 0.0
    resid_pdrop: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    norm_type: str = "low_precision_layernorm"  # or "layernorm"; they differ in rounding
    learned_pos_emb: bool = True  # of models that have no ALiBi, which are not here
    attn_config: dict[str, Any] | None = None  # see ATTENTION
    use_cache: bool = False

    @property
    def max_tokens(self) -> None:
        """There is no limit: the distance of any two tokens can be computed."""
        return None

    def attention(self, name: str) -> Any:
        """Return a value of `attn_config`, or its default."""
        return (self.attn_config or {}).get(name, ATTENTION[name])

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.d_model % self.n_heads:
            yield f"d_model ({self.d_model}) is not a multiple of n_heads ({self.n_heads})"
        if self.norm_type not in ("low_precision_layernorm", "layernorm"):
            yield f"norm_type is {self.norm_type!r}; expected low_precision_layernorm or layernorm"
        for name, value in (self.attn_config or {}).items():
            if name in INERT and value is not None and value != INERT[name]:
                yield f"{name} of attn_config is {shorten(value)}; only {INERT[name]!r} is implemented"
            possible = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            if name in ATTENTION and not possible and not (value is None and ATTENTION[name] is None):
                yield f"{name} of attn_config is {shorten(value)}; expected a number that is not negative"


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


def slopes_of(heads: int, most: float, device: torch.device) -> Tensor:
    """Return how fast the scores of each head fall with the distance, (H,): from about 1 down to 2 ** -most."""
    whole = 2 ** math.ceil(math.log2(heads))
    slopes = 2 ** (-most / whole * torch.arange(1, whole + 1, device=device).float())
    return slopes if heads == whole else torch.cat([slopes[1::2], slopes[::2]])[:heads]


class MptAttention(nn.Module):
    """Causal attention in which far tokens count less."""

    def __init__(self, config: MptConfig, index: int):
        super().__init__()
        self.index, self.heads, self.dropout = index, config.n_heads, config.attention("attn_pdrop")
        self.scale, self.limit = config.attention("softmax_scale"), config.attention("clip_qkv")
        self.most = config.attention("alibi_bias_max")
        self.Wqkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x = self.Wqkv(x)
        if self.limit:
            x = x.clamp(-self.limit, self.limit)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(3, dim=-1))  # (B, H, T, D)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        slopes, dropout = slopes_of(self.heads, self.most, x.device), self.dropout if self.training else 0.0
        x = attend(q, k, v, layout, causal=True, scale=self.scale, alibi=slopes, dropout=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class MptMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: MptConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.expansion_ratio * config.d_model, bias=False)
        self.down_proj = nn.Linear(config.expansion_ratio * config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))


class MptBlock(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: MptConfig, index: int):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon, bias=False)
        self.attn = MptAttention(config, index)
        self.norm_2 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon, bias=False)
        self.ffn = MptMLP(config)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x = x + self.dropout(self.attn(self.norm_1(x), layout, cache))
        return x + self.dropout(self.ffn(self.norm_2(x)))


class MptPreTrainedModel(Model):
    """What all classes of this file share."""

    config: MptConfig
    config_class = MptConfig
    prefix = "transformer"
    stack = "blocks"


class MptModel(MptPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: MptConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.emb_drop = nn.Dropout(config.emb_pdrop)
        self.blocks = nn.ModuleList(MptBlock(config, i) for i in range(config.n_layers))
        self.norm_f = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.emb_drop(self.wte(input_ids) if inputs_embeds is None else inputs_embeds)  # (B, T, E)
        for block in self.blocks:
            x = block(x, layout, cache)
        return Hidden(last_hidden_state=self.norm_f(x))


class MptForCausalLM(MptPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: MptConfig):
        super().__init__(config)
        self.transformer = MptModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.transformer(input_ids, layout, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)


class MptForSequenceClassification(MptPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: MptConfig):
        super().__init__(config)
        self.transformer = MptModel(config)
        self.score = nn.Linear(config.d_model, config.num_labels, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.transformer(input_ids, layout, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class MptForTokenClassification(MptPreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: MptConfig):
        super().__init__(config)
        self.transformer = MptModel(config)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.transformer(input_ids, attention_mask, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class MptForQuestionAnswering(MptPreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: MptConfig):
        super().__init__(config)
        self.transformer = MptModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score starts and ends; `start_positions` and `end_positions`: (B,), the true ones."""
        x = self.transformer(input_ids, attention_mask, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)
