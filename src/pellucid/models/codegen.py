"""CodeGen: a causal decoder for programs, whose attention and feed-forward read the same normed input.

Paper: Nijkamp et al., 2022, "CodeGen: An Open Large Language Model for Code with Multi-Turn Program Synthesis",
https://arxiv.org/abs/2203.13474

What sets it apart from GPT-2:
  - no learned positions: the first dimensions of queries and keys are turned by their place, 2 i together with 2 i + 1
  - one norm a layer, whose output goes into both halves; their sum is added to the layer's input
  - queries, values and keys are one projection, which lies as the four devices of its training had it
  - no biases in attention, but one of the scores over the vocabulary, whose weights are their own

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, H heads, D head size, R turned dimensions of a
head, V vocabulary. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a
packed text.
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
PARTS = 4  # devices that shared the attention in training


class CodeGenConfig(Config):
    """The configuration of CodeGen; the defaults are those of the original library."""

    model_type = "codegen"
    inert = {
        "scale_attn_weights": True,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
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

    vocab_size: int = 50400
    n_positions: int = 2048  # of the texts in training
    n_ctx: int = 2048  # the same
    n_embd: int = 4096
    n_layer: int = 28
    n_head: int = 16
    rotary_dim: int = 64  # how many dimensions of a head are turned
    n_inner: int | None = None  # None for 4 n_embd
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attn_pdrop: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be turned."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.n_embd % self.n_head:
            yield f"n_embd ({self.n_embd}) is not a multiple of n_head ({self.n_head})"
        elif self.rotary_dim > self.n_embd // self.n_head:
            yield f"rotary_dim is {self.rotary_dim}; expected at most {self.n_embd // self.n_head}, the size of a head"
        if self.n_head % PARTS:
            yield f"n_head is {self.n_head}; expected a multiple of {PARTS}, as the projections are stored"
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"
        yield from Rope.faults(self, self.rotary_dim)


# twin: gpt2.causal_loss
def causal_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The loss of predicting each token from those before it; nothing comes before a text's first."""
    targets = labels[:, 1:].masked_fill(layout.positions[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension 2 i with dimension 2 i + 1, (B, H, T, D), among the first R; the others stay."""
    cos, sin = (part.to(x.dtype) for part in turn)
    size = 2 * cos.shape[-1]
    a, b = x[..., :size].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., size:]], dim=-1)


class CodeGenAttention(nn.Module):
    """Causal attention with partly rotated queries and keys."""

    def __init__(self, config: CodeGenConfig, index: int):
        super().__init__()
        self.index, self.dropout = index, config.attn_pdrop
        self.head_size = config.n_embd // config.n_head
        self.qkv_proj = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        parts = self.qkv_proj(x).unflatten(-1, (PARTS, 3, -1, self.head_size))  # (B, T, P, 3, H / P, D)
        q, v, k = (part.flatten(2, 3).transpose(1, 2) for part in parts.unbind(3))  # (B, H, T, D) each
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.resid_dropout(self.out_proj(x.transpose(1, 2).flatten(2)))  # (B, T, E)


class CodeGenMLP(nn.Module):
    """The position-wise half of a layer."""

    def __init__(self, config: CodeGenConfig):
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.fc_in = nn.Linear(config.n_embd, inner)
        self.fc_out = nn.Linear(inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc_out(self.activation(self.fc_in(x))))


class CodeGenBlock(nn.Module):
    """One layer: attention and feed-forward side by side, after one norm."""

    def __init__(self, config: CodeGenConfig, index: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CodeGenAttention(config, index)
        self.mlp = CodeGenMLP(config)

    def forward(self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        read = self.ln_1(x)
        return x + self.attn(read, layout, turn, cache) + self.mlp(read)


class CodeGenPreTrainedModel(Model):
    """What all classes of this file share."""

    config: CodeGenConfig
    config_class = CodeGenConfig
    prefix = "transformer"
    stack = "h"
    unread = (".attn.causal_mask", ".attn.bias", ".attn.masked_bias")  # the mask, as old versions stored it


class CodeGenModel(CodeGenPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: CodeGenConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(CodeGenBlock(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.rope = Rope.of(config, config.rotary_dim)
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
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)
        x, turn = self.drop(x), self.rope.turn(layout, position_ids)
        for block in self.h:
            x = block(x, layout, turn, cache)
        return Hidden(last_hidden_state=self.ln_f(x))


class CodeGenForCausalLM(CodeGenPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: CodeGenConfig):
        super().__init__(config)
        self.transformer = CodeGenModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)
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
