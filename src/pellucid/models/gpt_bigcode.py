"""GPT-BigCode: GPT-2 for programs, whose query heads share one head of keys and values.

Papers: Li et al., 2023, "StarCoder: May the Source Be with You!", https://arxiv.org/abs/2305.06161;
the shared head: Shazeer, 2019, "Fast Transformer Decoding: One Write-Head Is All You Need", https://arxiv.org/abs/1911.02150

What sets it apart from GPT-2:
  - one head of keys and one of values serve all heads of queries, so that a cache is small
  - weights are stored as linear maps are, (out, in)

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, V vocabulary, L labels. A
packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache
from ..config import Config
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


class GPTBigCodeConfig(Config):
    """The configuration of GPT-BigCode; the defaults are those of the original library."""

    model_type = "gpt_bigcode"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,  # the original names such layers, but fails to run them
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "pruned_heads": {},
    }
    aliases = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # None for 4 n_embd
    activation_function: str = "gelu_pytorch_tanh"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    attention_softmax_in_fp32: bool = True  # both of these change only rounding
    scale_attention_softmax_in_fp32: bool = True
    multi_query: bool = True
    num_key_value_heads: int | None = None  # says the same as multi_query: 1, or n_head
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return 1 if self.multi_query else self.n_head

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.n_embd % self.n_head:
            yield f"n_embd ({self.n_embd}) is not a multiple of n_head ({self.n_head})"
        if self.num_key_value_heads not in (None, self.key_heads):
            yield (
                f"num_key_value_heads is {self.num_key_value_heads}; with multi_query {self.multi_query} expected "
                f"{self.key_heads}"
            )
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"


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


class GPTBigCodeAttention(nn.Module):
    """Causal attention and its output projection."""

    def __init__(self, config: GPTBigCodeConfig, index: int):
        super().__init__()
        self.index, self.dropout, self.shared = index, config.attn_pdrop, config.multi_query
        self.head_size = config.n_embd // config.n_head
        self.scale = None if config.scale_attn_weights else 1.0
        self.c_attn = nn.Linear(config.n_embd, config.n_embd + 2 * config.key_heads * self.head_size)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        if self.shared:  # all queries, then the key and the value
            heads = self.c_attn(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H + 2, T, D)
            q, k, v = heads[:, :-2], heads[:, -2:-1], heads[:, -1:]  # (B, H or 1, T, D)
        else:  # head by head
            heads = self.c_attn(x).unflatten(-1, (-1, 3 * self.head_size)).transpose(1, 2)  # (B, H, T, 3 D)
            q, k, v = heads.chunk(3, dim=-1)  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H or 1, S, D)
        x = attend(q, k, v, layout, causal=True, scale=self.scale, dropout=self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(x.transpose(1, 2).flatten(2)))  # (B, T, E)


class GPTBigCodeMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: GPTBigCodeConfig):
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, inner)
        self.c_proj = nn.Linear(inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class GPTBigCodeBlock(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: GPTBigCodeConfig, index: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPTBigCodeAttention(config, index)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPTBigCodeMLP(config)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), layout, cache)
        return x + self.mlp(self.ln_2(x))


class GPTBigCodePreTrainedModel(Model):
    """What all classes of this file share."""

    config: GPTBigCodeConfig
    config_class = GPTBigCodeConfig
    prefix = "transformer"
    stack = "h"
    unread = (".attn.bias", ".attn.masked_bias")  # the mask, as old versions stored it


class GPTBigCodeModel(GPTBigCodePreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: GPTBigCodeConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPTBigCodeBlock(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), ids of words that are added to the tokens, for models trained with that.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        x = x + self.wpe(layout.positions if position_ids is None else position_ids)
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)
        x = self.drop(x)
        for block in self.h:
            x = block(x, layout, cache)
        return Hidden(last_hidden_state=self.ln_f(x))


class GPTBigCodeForCausalLM(GPTBigCodePreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: GPTBigCodeConfig):
        super().__init__(config)
        self.transformer = GPTBigCodeModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
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
        x = self.transformer(input_ids, layout, token_type_ids, position_ids, inputs_embeds, cache).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)


class GPTBigCodeForSequenceClassification(GPTBigCodePreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: GPTBigCodeConfig):
        super().__init__(config)
        self.transformer = GPTBigCodeModel(config)
        self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.transformer(input_ids, layout, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.score(layout.last(x))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class GPTBigCodeForTokenClassification(GPTBigCodePreTrainedModel):
    """Labels every token, from those before it."""

    def __init__(self, config: GPTBigCodeConfig):
        super().__init__(config)
        self.transformer = GPTBigCodeModel(config)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.transformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)
