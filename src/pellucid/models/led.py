"""LED: BART for long sources, most tokens of which look at their neighbours alone.

Paper: Beltagy et al., 2020, "Longformer: The Long-Document Transformer", https://arxiv.org/abs/2004.05150

What sets it apart from BART:
  - the encoder's attention is Longformer's: a token looks `attention_window` / 2 tokens to each side, but for a few
    global ones, which look at all and at which all look; which they are is an input, by default there are none
  - positions count from 0, and the halves have tables of different lengths

The encoder's attention is computed in blocks of neighbouring tokens, without `attend`, as in longformer.py.

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary, G global tokens
of a row, N tokens of a block, K tokens of a block and its neighbours. Packed batches are (1, N) tokens with a layout,
of sources and targets alike.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend, report_attention
from ..cache import Cache, Source
from ..config import Config, shorten
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Seq2SeqHidden, Seq2SeqLogits, Seq2SeqSpans

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


class LEDConfig(Config):
    """The configuration of LED; the defaults are what a missing key of config.json means."""

    model_type = "led"
    inert = {"add_cross_attention": False, "cross_attention_hidden_size": None, "is_decoder": False, "pruned_heads": {}}
    aliases = {
        "attention_probs_dropout_prob": "attention_dropout",
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 50265
    max_encoder_position_embeddings: int = 16384
    max_decoder_position_embeddings: int = 1024
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    attention_window: int | list[int] = 512  # to both sides together; a list has one a layer
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2

    @property
    def windows(self) -> list[int]:
        """Over how many tokens to both sides together each layer of the encoder looks."""
        one = self.attention_window
        return one if isinstance(one, list) else [one] * self.encoder_layers

    @property
    def max_tokens(self) -> int:
        """The most tokens of a source that the model reads at once."""
        return self.max_encoder_position_embeddings

    @property
    def initializer_range(self) -> float:
        """The deviation of new weights."""
        return self.init_std

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                yield f"d_model ({self.d_model}) is not a multiple of {side}_attention_heads ({heads})"
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"
        if len(self.windows) != self.encoder_layers or any(window < 2 or window % 2 for window in self.windows):
            yield f"attention_window is {shorten(self.attention_window)}; expected an even number, or one a layer"


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


# twin: bart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


@dataclass(frozen=True)
class GlobalTokens:
    """The tokens that look everywhere."""

    chosen: Tensor  # (B, T), true on them
    places: Tensor  # (B, G), where they are in their row; rows that have fewer than G are filled up
    filled: Tensor  # (B, G), true on what is only filled up

    def pick(self, x: Tensor) -> Tensor:
        """(B, T, ...) to (B, G, ...)."""
        return x[torch.arange(len(x), device=x.device)[:, None], self.places]


# twin: longformer.find_global_tokens
def find_global_tokens(mask: Tensor, layout: Layout) -> GlobalTokens | None:
    """Find the tokens that a mask, (B, T), marks; None when there are none."""
    if mask.shape != (shape := layout.positions.shape):
        raise InputError(f"global_attention_mask is {tuple(mask.shape)}, the input {tuple(shape)}; expected the same.")
    chosen = mask.bool() if layout.keep is None else mask.bool() & layout.keep
    counts = chosen.sum(-1)
    most = max(counts.tolist(), default=0) if not torch.compiler.is_compiling() else chosen.shape[1]  # graphs are fixed
    if not most:
        return None
    places = chosen.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return GlobalTokens(chosen, places, torch.arange(most, device=mask.device) >= counts[:, None])


# twin: longformer.texts_of
def texts_of(layout: Layout) -> Tensor:
    """Number the text that each token is of, (B, T); padding is of none, -1."""
    texts = torch.zeros_like(layout.positions) if layout.sequence is None else layout.sequence
    return texts if layout.keep is None else texts.masked_fill(~layout.keep, -1)


# twin: longformer.cut
def cut(x: Tensor, size: int, *, beyond: int = 0, fill: int = 0) -> Tensor:
    """Cut rows into blocks of `size` tokens and their neighbours: (B, H, T, D) to (blocks, H, size + 2 beyond, D)."""
    x = F.pad(x, (0, 0, beyond, beyond + -x.shape[2] % size), value=fill)  # also what lies beyond a row's ends
    return x.unfold(2, size + 2 * beyond, size).permute(0, 2, 1, 4, 3).flatten(0, 1)


# twin: longformer.repeat
def repeat(x: Tensor, blocks: int) -> Tensor:
    """Give each block what its row has: (B, ...) to (blocks, ...)."""
    return x.repeat_interleave(blocks // max(1, len(x)), dim=0)


@dataclass(frozen=True)
class Sight:
    """How far the tokens of a layer look, and the blocks in which that is computed."""

    reach: int  # tokens to each side
    size: int  # N, tokens of a block
    beyond: int  # tokens to each side of a block that its own ones may look at
    far: GlobalTokens | None
    mask: Tensor | None  # (blocks, 1, N, K + G), true where a block looks: at near tokens, at global ones; None: all

    @staticmethod
    # twin: longformer.Sight.of
    def of(layout: Layout, far: GlobalTokens | None, reach: int) -> "Sight":
        length = layout.positions.shape[1]
        size, beyond = (length, 0) if length <= reach else (reach, reach)
        if not beyond and layout.keep is None and layout.sequence is None and far is None:
            return Sight(reach, size, beyond, far, None)
        texts = texts_of(layout)[:, None, :, None]  # (B, 1, T, 1)
        queries = cut(texts, size, fill=-1)  # (blocks, 1, N, 1)
        near = texts if far is None else texts.masked_fill(far.chosen[:, None, :, None], -2)  # they come by themselves
        places = torch.arange(size + 2 * beyond, device=texts.device)
        apart = places - beyond - places[:size, None]  # (N, K)
        mask = (queries == cut(near, size, beyond=beyond, fill=-1).transpose(-1, -2)) & (apart.abs() <= reach)
        if far is not None:
            keys = far.pick(texts_of(layout)).masked_fill(far.filled, -2)[:, None, None]  # (B, 1, 1, G)
            mask = torch.cat([mask, queries == repeat(keys, len(mask))], dim=-1)
        return Sight(reach, size, beyond, far, mask)

    # twin: longformer.Sight.keys
    def keys(self, x: Tensor) -> Tensor:
        """Cut keys or values, and add those of the global tokens: (B, H, T, D) to (blocks, H, K + G, D)."""
        blocks = cut(x, self.size, beyond=self.beyond)
        if self.far is None:
            return blocks
        far = self.far.pick(x.transpose(1, 2)).transpose(1, 2)  # (B, H, G, D)
        return torch.cat([blocks, repeat(far, len(blocks))], dim=2)


class LEDEncoderSelfAttention(nn.Module):
    """Attention of a source to near and to global tokens, without its output projection."""

    def __init__(self, config: LEDConfig):
        super().__init__()
        self.heads, self.head_size = config.encoder_attention_heads, config.d_model // config.encoder_attention_heads
        self.dropout = config.attention_dropout
        size = config.d_model
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (nn.Linear(size, size) for _ in range(3))

    # twin: longformer.LongformerSelfAttention.forward
    def forward(self, x: Tensor, layout: Layout, sight: Sight) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        queries, keys, values = cut(q, sight.size), sight.keys(k), sight.keys(v)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=sight.mask, dropout_p=dropout)
        whole = -(-x.shape[1] // sight.size) * sight.size
        out = out.transpose(1, 2).reshape(len(x), whole, x.shape[2])[:, : x.shape[1]]  # (B, T, E)
        report_attention(lambda: self.weights(x, q, k, layout, sight))
        return out if sight.far is None else self.look_everywhere(x, out, layout, sight.far, dropout)

    # twin: longformer.LongformerSelfAttention.split
    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)

    # twin: longformer.LongformerSelfAttention.look_everywhere
    def look_everywhere(self, x: Tensor, out: Tensor, layout: Layout, far: GlobalTokens, dropout: float) -> Tensor:
        """Replace what global tokens saw near them by what they see in all of their text."""
        q, k, v = self.query_global(far.pick(x)), self.key_global(x), self.value_global(x)
        mask = (far.pick(texts_of(layout))[..., None] == texts_of(layout)[:, None])[:, None]  # (B, 1, G, T)
        seen = F.scaled_dot_product_attention(*map(self.split, (q, k, v)), attn_mask=mask, dropout_p=dropout)
        seen = torch.where(far.filled[..., None], far.pick(out), seen.transpose(1, 2).flatten(2))  # (B, G, E)
        return out.scatter(1, far.places[..., None].expand_as(seen), seen)

    # twin: longformer.LongformerSelfAttention.weights
    def weights(self, x: Tensor, q: Tensor, k: Tensor, layout: Layout, sight: Sight) -> Tensor:
        """Write the weights of all blocks as one matrix, (B, H, T, T), for those who want to see them."""
        texts, places = texts_of(layout), torch.arange(x.shape[1], device=x.device)
        mask = (texts[:, :, None] == texts[:, None])[:, None]  # (B, 1, T, T)
        near, scores = (places[:, None] - places).abs() <= sight.reach, q @ k.mT
        if sight.far is not None:
            rows, columns = sight.far.chosen[:, None, :, None], sight.far.chosen[:, None, None]
            near = near | rows | columns
            q, k = self.split(self.query_global(x)), self.split(self.key_global(x))
            scores = torch.where(rows, q @ k.mT, scores)
        return (scores * self.head_size**-0.5).masked_fill(~(mask & near), float("-inf")).softmax(-1)


class LEDEncoderAttention(nn.Module):
    """Attention of a source to itself."""

    def __init__(self, config: LEDConfig):
        super().__init__()
        self.longformer_self_attn = LEDEncoderSelfAttention(config)
        self.output = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, layout: Layout, sight: Sight) -> Tensor:
        return self.output(self.longformer_self_attn(x, layout, sight))


class LEDDecoderAttention(nn.Module):
    """Attention of a target to itself, or to what the encoder has read."""

    def __init__(self, config: LEDConfig, index: int, *, causal: bool = False):
        super().__init__()
        self.heads, self.dropout = config.decoder_attention_heads, config.attention_dropout
        self.index, self.causal = index, causal
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    # twin: bart.BartAttention.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None = None, source: Source | None = None) -> Tensor:
        q, dropout = self.split(self.q_proj(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.k_proj(x)), self.split(self.v_proj(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)
            x = attend(q, k, v, layout, causal=self.causal, dropout=dropout)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k_proj(source.states)), self.split(self.v_proj(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D)
            x = attend(q, k, v, layout, source=source.layout, dropout=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class LEDEncoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each followed by its residual sum and norm."""

    def __init__(self, config: LEDConfig):
        super().__init__()
        self.self_attn = LEDEncoderAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, layout: Layout, sight: Sight) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, layout, sight)))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(inner)))


class LEDDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: LEDConfig, index: int):
        super().__init__()
        self.self_attn = LEDDecoderAttention(config, index, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = LEDDecoderAttention(config, index)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    # twin: bart.BartDecoderLayer.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, layout, cache)))
        if source is not None:
            x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x, layout, cache, source)))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(inner)))


class LEDPreTrainedModel(Model):
    """What all classes of this file share."""

    config: LEDConfig
    config_class = LEDConfig
    prefix = "led"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    tied = {
        "led.encoder.embed_tokens.weight": "led.shared.weight",
        "led.decoder.embed_tokens.weight": "led.shared.weight",
        "lm_head.weight": "led.shared.weight",
    }

    def explain_index(self, error: IndexError, inputs: dict[str, Any]) -> Exception:
        """Explain it as other models do; but the target has positions of its own."""
        given = [inputs.get(name) for name in ("decoder_input_ids", "decoder_inputs_embeds", "labels")]
        length = max([x.shape[1] for x in given if isinstance(x, Tensor)], default=0)
        length = max(length, len(cache)) if isinstance(cache := inputs.get("cache"), Cache) else length
        limit = self.config.max_decoder_position_embeddings
        if length > limit:
            return InputError(f"The target has {length} tokens, this model writes {limit}; shorten it.")
        return super().explain_index(error, inputs)


class LEDEncoder(LEDPreTrainedModel):
    """The half that reads the source."""

    stack, source_stack = "layers", ""

    def __init__(self, config: LEDConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_encoder_position_embeddings, config.d_model)
        self.reaches = [window // 2 for window in config.windows]
        self.layers = nn.ModuleList(LEDEncoderLayer(config) for _ in self.reaches)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `LEDModel`."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, E)
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(layout.positions)))
        far = None if global_attention_mask is None else find_global_tokens(global_attention_mask, layout)
        sights = {reach: Sight.of(layout, far, reach) for reach in set(self.reaches)}  # layers share them
        for layer, reach in zip(self.layers, self.reaches, strict=True):
            if not self.training or torch.rand(()) >= self.config.encoder_layerdrop:
                x = layer(x, layout, sights[reach])
        return Hidden(last_hidden_state=x)


class LEDDecoder(LEDPreTrainedModel):
    """The half that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: LEDConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_decoder_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(LEDDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        """Read what was written, and look at the source, if there is one."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(layout.positions)))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.decoder_layerdrop:
                x = layer(x, layout, cache, source)
        return Hidden(last_hidden_state=x)


class LEDModel(LEDPreTrainedModel):
    """Both halves without a task head."""

    tied = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: LEDConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = LEDEncoder(config)
        self.decoder = LEDDecoder(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | Layout | None = None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Seq2SeqHidden:
        """Read a source and what was written of its target.

        Args:
            input_ids: ids of the source, (B, S).
            attention_mask: (B, S), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            decoder_input_ids: ids of the target, (B, T); without, the source shifted by one, as in pre-training.
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            global_attention_mask: (B, S), 1 for tokens that look at their whole text; None for none.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what was read before, the source included; these tokens are added to it.
        """
        source = None if cache is None else cache.source
        if source is None:
            read = encoder_outputs or self.encoder(input_ids, attention_mask, global_attention_mask, inputs_embeds)
            states = read[0]  # (B, S, E)
            source = Source(states, Layout.of(states, attention_mask))
            if cache is not None:
                cache.source = source
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
            decoder_attention_mask = Layout.of(input_ids, attention_mask)
            decoder_input_ids = shift_right(input_ids, decoder_attention_mask, self.config)
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=written.last_hidden_state, encoder_last_hidden_state=source.states)


class LEDForConditionalGeneration(LEDPreTrainedModel):
    """Writes a target, such as a summary or a translation."""

    def __init__(self, config: LEDConfig):
        super().__init__(config)
        self.led = LEDModel(config)
        self.final_logits_bias = nn.Parameter(torch.zeros(1, config.vocab_size), requires_grad=False)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | Layout | None = None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Seq2SeqLogits:
        """Score what comes next; `labels`: (B, T), the target, -100 where there is nothing to learn.

        Without `decoder_input_ids`, those are the labels, shifted by one. `logits_to_keep` says after how many last
        tokens to score; 0 for all.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            layout = Layout.of(labels, decoder_attention_mask)
            decoder_input_ids = shift_right(labels, layout, self.config)
        out = self.led(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            global_attention_mask,
            inputs_embeds,
            decoder_inputs_embeds,
            cache,
        )
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:]) + self.final_logits_bias.detach()
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class LEDForQuestionAnswering(LEDPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: LEDConfig):
        super().__init__(config)
        self.led = LEDModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        global_attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Seq2SeqSpans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        out = self.led(input_ids, attention_mask, global_attention_mask=global_attention_mask)
        start, end = self.qa_outputs(out.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        states = out.encoder_last_hidden_state
        return Seq2SeqSpans(loss=loss, start_logits=start, end_logits=end, encoder_last_hidden_state=states)
