"""XGLM: a causal decoder for thirty languages, with fixed positions.

Paper: Lin et al., 2021, "Few-shot Learning with Multilingual Language Models", https://arxiv.org/abs/2112.10668

What sets it apart from GPT-2:
  - positions are sines and cosines, which nothing was learned for, and count from 2
  - word embeddings are multiplied with the root of their size
  - weights are stored as linear maps are, (out, in); queries, keys and values are three projections
As there, each layer also looks at what an encoder beside it has read, if the config asks for it.

Shapes: B batch, T tokens, S tokens with those in the cache, or of a source, E hidden, H heads, D head size, V
vocabulary, L labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a
packed text.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache, Source
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
FIRST_POSITION = 2  # rows before it stood for padding in the library that it was trained with


class XGLMConfig(Config):
    """The configuration of XGLM; the defaults are those of XGLM-564M."""

    model_type = "xglm"
    inert = {
        "is_encoder_decoder": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "pruned_heads": {},
    }
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "attention_heads",
        "num_hidden_layers": "num_layers",
        "initializer_range": "init_std",
    }

    vocab_size: int = 256008
    max_position_embeddings: int = 2048  # of the texts in training
    d_model: int = 1024
    ffn_dim: int = 4096
    num_layers: int = 24
    attention_heads: int = 16
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layerdrop: float = 0.0  # the probability of leaving out a layer in training
    init_std: float = 0.02
    scale_embedding: bool = True
    add_cross_attention: bool = False  # whether layers can look at what an encoder has read
    is_decoder: bool = False  # it always is
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be computed."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.d_model % self.attention_heads:
            yield f"d_model ({self.d_model}) is not a multiple of attention_heads ({self.attention_heads})"
        if self.d_model % 2 or self.d_model < 4:
            yield f"d_model is {self.d_model}; expected an even number from 4 on, half of it sines, half cosines"
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


def sinusoids(positions: Tensor, size: int) -> Tensor:
    """The sines of each position, then its cosines, at one speed a pair: (B, T) to (B, T, size)."""
    half = size // 2
    speeds = 10000 ** (-torch.arange(half, device=positions.device) / (half - 1))
    angles = positions[..., None] * speeds  # (B, T, size / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class XGLMEmbedding(nn.Embedding):
    """Word embeddings, multiplied with the root of their size if the config asks for it."""

    def __init__(self, config: XGLMConfig):
        super().__init__(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


class XGLMAttention(nn.Module):
    """Attention to the tokens so far, or to what an encoder has read."""

    def __init__(self, config: XGLMConfig, index: int):
        super().__init__()
        size = config.d_model
        self.index, self.heads, self.dropout = index, config.attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.q_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None = None) -> Tensor:
        q, dropout = self.split(self.q_proj(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.k_proj(x)), self.split(self.v_proj(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)  # (B, H, S, D)
            x = attend(q, k, v, layout, causal=True, dropout=dropout)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k_proj(source.states)), self.split(self.v_proj(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D)
            x = attend(q, k, v, layout, source=source.layout, dropout=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)

    # twin: gpt2.GPT2CrossAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class XGLMLayer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: XGLMConfig, index: int):
        super().__init__()
        self.self_attn = XGLMAttention(config, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        if config.add_cross_attention:
            self.encoder_attn = XGLMAttention(config, index)
            self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = ACTIVATIONS[config.activation_function]
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), layout, cache))
        if source is not None:
            x = x + self.dropout(self.encoder_attn(self.encoder_attn_layer_norm(x), layout, cache, source))
        inner = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class XGLMPreTrainedModel(Model):
    """What all classes of this file share."""

    config: XGLMConfig
    config_class = XGLMConfig
    prefix = "model"
    stack = "layers"
    unread = ("embed_positions.weights",)  # computed here, stored by old versions


class XGLMModel(XGLMPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: XGLMConfig):
        super().__init__(config)
        self.embed_tokens = XGLMEmbedding(config)
        self.layers = nn.ModuleList(XGLMLayer(config, i) for i in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        """Read a batch.

        Args:
            input_ids: token ids, (B, T).
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings as `embed_tokens` gives them, (B, T, E), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
            source: what an encoder has read, for a model with `add_cross_attention`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        positions = (layout.positions if position_ids is None else position_ids) + FIRST_POSITION
        x = self.dropout(x + sinusoids(positions, self.config.d_model).to(x.dtype))
        for layer in self.layers:
            if self.training and self.config.layerdrop and torch.rand(()) < self.config.layerdrop:
                continue
            x = layer(x, layout, cache, source)
        return Hidden(last_hidden_state=self.layer_norm(x))


class XGLMForCausalLM(XGLMPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: XGLMConfig):
        super().__init__(config)
        self.model = XGLMModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
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
        source: Source | None = None,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), usually `input_ids`, -100 where there is nothing to learn.

        They are shifted here. `logits_to_keep` says after how many last tokens to score; 0 for all. `source` is what an
        encoder has read.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask, cache)
        x = self.model(input_ids, layout, position_ids, inputs_embeds, cache, source).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else causal_loss(logits, labels, layout)
        return Logits(loss=loss, logits=logits)
