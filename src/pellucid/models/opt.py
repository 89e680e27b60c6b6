"""OPT: a causal decoder with learned positions, trained to be an open GPT-3.

Paper: Zhang et al., 2022, "OPT: Open Pre-trained Transformer Language Models", https://arxiv.org/abs/2205.01068

What sets it apart from GPT-2:
  - weights are stored as usual, (out, in), and queries, keys and values are projections of their own
  - feed-forwards with ReLU; positions begin at the third row of their table
  - the model of 350 million parameters normalises after each sub-layer, and its words are smaller than its hidden
    states: they are projected on the way in and out

Shapes: B batch, T tokens, S tokens with those in the cache, E hidden, W words, H heads, D head size, V vocabulary, L
labels. A packed batch is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
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
from ..outputs import Hidden, Logits, Spans

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
FIRST_POSITION = 2  # the rows before it were for padding


class OPTConfig(Config):
    """The configuration of OPT; the defaults are those of OPT-125M."""

    model_type = "opt"
    inert = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "is_causal": True,
        "pruned_heads": {},
    }
    aliases = {"initializer_range": "init_std", "_remove_final_layer_norm": "remove_final_layer_norm"}

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    ffn_dim: int = 3072
    word_embed_proj_dim: int | None = None  # None for hidden_size
    max_position_embeddings: int = 2048
    activation_function: str = "relu"
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = False  # of models that were trained further before it was found to be missing
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True  # whether norms have weights
    dropout: float = 0.1
    attention_dropout: float = 0.0
    layerdrop: float = 0.0  # the probability of leaving out a layer in training
    init_std: float = 0.02
    pad_token_id: int | None = 1
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 2

    @property
    def word_size(self) -> int:
        """The size of a word's embedding, and of what the model returns."""
        return self.word_embed_proj_dim or self.hidden_size

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.hidden_size % self.num_attention_heads:
            yield (
                f"hidden_size ({self.hidden_size}) is not a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
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


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


class OPTAttention(nn.Module):
    """Causal attention and its output projection."""

    def __init__(self, config: OPTConfig, index: int):
        super().__init__()
        size, bias = config.hidden_size, config.enable_bias
        self.index, self.heads, self.dropout = index, config.num_attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(size, size, bias=bias)
        self.v_proj = nn.Linear(size, size, bias=bias)
        self.q_proj = nn.Linear(size, size, bias=bias)
        self.out_proj = nn.Linear(size, size, bias=bias)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            k, v = cache.update(self.index, k, v)  # (B, H, S, D)
        x = attend(q, k, v, layout, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)


class OPTDecoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each with its residual sum and its norm before or after."""

    def __init__(self, config: OPTConfig, index: int):
        super().__init__()
        size, affine = config.hidden_size, config.layer_norm_elementwise_affine
        self.norm_first = config.do_layer_norm_before
        self.self_attn = OPTAttention(config, index)
        self.self_attn_layer_norm = nn.LayerNorm(size, elementwise_affine=affine)
        self.fc1 = nn.Linear(size, config.ffn_dim, bias=config.enable_bias)
        self.fc2 = nn.Linear(config.ffn_dim, size, bias=config.enable_bias)
        self.final_layer_norm = nn.LayerNorm(size, elementwise_affine=affine)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), layout, cache))
            return x + self.dropout(self.feed_forward(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, layout, cache)))
        return self.final_layer_norm(x + self.dropout(self.feed_forward(x)))


class OPTDecoder(nn.Module):
    """Embeddings and layers; checkpoints nest them so."""

    def __init__(self, config: OPTConfig):
        super().__init__()
        size, words = config.hidden_size, config.word_size
        self.layerdrop = config.layerdrop
        self.embed_tokens = nn.Embedding(config.vocab_size, words, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + FIRST_POSITION, size)
        self.project_in = nn.Linear(words, size, bias=False) if words != size else None
        self.project_out = nn.Linear(size, words, bias=False) if words != size else None
        self.layers = nn.ModuleList(OPTDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_layer_norm = None
        if config.do_layer_norm_before and not config.remove_final_layer_norm:
            self.final_layer_norm = nn.LayerNorm(size, elementwise_affine=config.layer_norm_elementwise_affine)

    def forward(self, words: Tensor, positions: Tensor, layout: Layout, cache: Cache | None) -> Tensor:
        x = words if self.project_in is None else self.project_in(words)  # (B, T, E) from (B, T, W)
        x = x + self.embed_positions(positions + FIRST_POSITION)
        for layer in self.layers:
            if self.training and self.layerdrop and torch.rand(()) < self.layerdrop:
                continue
            x = layer(x, layout, cache)
        x = x if self.final_layer_norm is None else self.final_layer_norm(x)
        return x if self.project_out is None else self.project_out(x)  # (B, T, W)


class OPTPreTrainedModel(Model):
    """What all classes of this file share."""

    config: OPTConfig
    config_class = OPTConfig
    prefix = "model"
    stack = "decoder.layers"


class OPTModel(OPTPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: OPTConfig):
        super().__init__(config)
        self.decoder = OPTDecoder(config)
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
            inputs_embeds: word embeddings, (B, T, W), instead of `input_ids`.
            cache: what was read before; these tokens are added to it.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        words = self.decoder.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, W)
        positions = layout.positions if position_ids is None else position_ids
        return Hidden(last_hidden_state=self.decoder(words, positions, layout, cache))


class OPTForCausalLM(OPTPreTrainedModel):
    """Scores over the vocabulary for the next token."""

    tied = {"lm_head.weight": "model.decoder.embed_tokens.weight"}

    def __init__(self, config: OPTConfig):
        super().__init__(config)
        self.model = OPTModel(config)
        self.lm_head = nn.Linear(config.word_size, config.vocab_size, bias=False)
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


class OPTForSequenceClassification(OPTPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: OPTConfig):
        super().__init__(config)
        self.model = OPTModel(config)
        self.score = nn.Linear(config.word_size, config.num_labels, bias=False)
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


class OPTForQuestionAnswering(OPTPreTrainedModel):
    """Scores where the answer begins and ends in a text."""

    def __init__(self, config: OPTConfig):
        super().__init__(config)
        self.model = OPTModel(config)
        self.qa_outputs = nn.Linear(config.word_size, 2)
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
