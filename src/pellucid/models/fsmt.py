"""FSMT: the translators of fairseq that won at WMT19, which are Marian's architecture with two vocabularies.

Paper: Ng et al., 2019, "Facebook FAIR's WMT19 News Translation Task Submission", https://arxiv.org/abs/1907.06616

What sets it apart from Marian:
  - positions count from after the padding token's id
  - source and target have vocabularies of their own, unless all words are tied
  - the projection to words is a part of the decoder: what the model without a head returns are scores of words
  - a target is learned from its own last token, the end token, followed by the text without it

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary of the target.
Packed batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache, Source
from ..config import Config
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Seq2SeqHidden, Seq2SeqLogits

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


class FSMTConfig(Config):
    """The configuration of FSMT; the defaults are what a missing key of config.json means."""

    model_type = "fsmt"
    inert = {"is_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {
        "vocab_size": "tgt_vocab_size",
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    langs: list[str] | None = None  # of source and target
    src_vocab_size: int = 42024
    tgt_vocab_size: int = 42024
    max_position_embeddings: int = 1024  # of the texts in training
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    activation_function: str = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = True
    tie_word_embeddings: bool = False
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | list[int] | None = 2

    @property
    def initializer_range(self) -> float:
        """The deviation of new weights."""
        return self.init_std

    @property
    def first_position(self) -> int:
        """The position of a text's first token."""
        return 1 if self.pad_token_id is None else self.pad_token_id + 1

    @property
    def max_tokens(self) -> None:
        """There is no limit: any position can be computed."""
        return None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                yield f"d_model ({self.d_model}) is not a multiple of {side}_attention_heads ({heads})"
        if self.d_model % 2 or self.d_model < 4:
            yield f"d_model is {self.d_model}; expected an even number from 4 on, half of it sines, half cosines"
        if self.tie_word_embeddings and self.src_vocab_size != self.tgt_vocab_size:
            sizes = f"src_vocab_size is {self.src_vocab_size} and tgt_vocab_size {self.tgt_vocab_size}"
            yield f"{sizes}; expected the same, or tie_word_embeddings false"
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"


# twin: mbart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the last token of each text, (B, T), before its first; -100 becomes padding."""
    pad = config.pad_token_id
    if pad is None:
        raise InputError("The config has no pad_token_id; pass decoder_input_ids.")
    ids = ids.masked_fill(ids == -100, pad)
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, layout.spread(layout.last(ids, ids != pad)), shifted)


# twin: xglm.sinusoids
def sinusoids(positions: Tensor, size: int) -> Tensor:
    """The sines of each position, then its cosines, at one speed a pair: (B, T) to (B, T, size)."""
    half = size // 2
    speeds = 10000 ** (-torch.arange(half, device=positions.device) / (half - 1))
    angles = positions[..., None] * speeds  # (B, T, size / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FSMTAttention(nn.Module):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: FSMTConfig, heads: int, index: int, *, causal: bool = False):
        super().__init__()
        self.heads, self.index, self.causal, self.dropout = heads, index, causal, config.attention_dropout
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

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FSMTEncoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each followed by its residual sum and norm."""

    def __init__(self, config: FSMTConfig, index: int):
        super().__init__()
        self.self_attn = FSMTAttention(config, config.encoder_attention_heads, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    # twin: bart.BartEncoderLayer.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, layout)))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(inner)))


class FSMTDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: FSMTConfig, index: int):
        super().__init__()
        self.self_attn = FSMTAttention(config, config.decoder_attention_heads, index, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = FSMTAttention(config, config.decoder_attention_heads, index)
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


class FSMTPreTrainedModel(Model):
    """What all classes of this file share."""

    config: FSMTConfig
    config_class = FSMTConfig
    prefix = "model"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    unread = ("embed_positions.weight",)  # which can be computed


class FSMTEncoder(FSMTPreTrainedModel):
    """The half that reads the source."""

    stack, source_stack = "layers", ""

    def __init__(self, config: FSMTConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.src_vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(FSMTEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `FSMTModel`."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, E)
        x = x * math.sqrt(self.config.d_model) if self.config.scale_embedding else x
        places = sinusoids(layout.positions + self.config.first_position, self.config.d_model)
        x = self.dropout(x + places.to(x.dtype))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.encoder_layerdrop:
                x = layer(x, layout)
        return Hidden(last_hidden_state=x)


class FSMTDecoder(FSMTPreTrainedModel):
    """The half that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: FSMTConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.tgt_vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(FSMTDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.output_projection = nn.Linear(config.d_model, config.tgt_vocab_size, bias=False)  # for who calls this
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
        x = x * math.sqrt(self.config.d_model) if self.config.scale_embedding else x
        places = sinusoids(layout.positions + self.config.first_position, self.config.d_model)
        x = self.dropout(x + places.to(x.dtype))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.decoder_layerdrop:
                x = layer(x, layout, cache, source)
        return Hidden(last_hidden_state=x)


class FSMTModel(FSMTPreTrainedModel):
    """Both halves; what is called its last hidden state are scores of words, (B, T, V)."""

    tied = {
        "encoder.embed_tokens.weight": "decoder.embed_tokens.weight",
        "decoder.output_projection.weight": "decoder.embed_tokens.weight",
    }

    def __init__(self, config: FSMTConfig):
        super().__init__(config)
        self.encoder = FSMTEncoder(config)
        self.decoder = FSMTDecoder(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | Layout | None = None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Seq2SeqHidden:
        """Read a source and what was written of its target.

        Args:
            input_ids: ids of the source, (B, S).
            attention_mask: (B, S), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            decoder_input_ids: ids of the target, (B, T); without, the source, which begins with its last one.
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what was read before, the source included; these tokens are added to it.
        """
        source = None if cache is None else cache.source
        if source is None:
            read = encoder_outputs or self.encoder(input_ids, attention_mask, inputs_embeds)
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
        scores = self.decoder.output_projection(written.last_hidden_state)  # (B, T, V)
        return Seq2SeqHidden(last_hidden_state=scores, encoder_last_hidden_state=source.states)


class FSMTForConditionalGeneration(FSMTPreTrainedModel):
    """Writes a translation."""

    tied = {
        "model.encoder.embed_tokens.weight": "model.decoder.embed_tokens.weight",
        "model.decoder.output_projection.weight": "model.decoder.embed_tokens.weight",
    }

    def __init__(self, config: FSMTConfig):
        super().__init__(config)
        self.model = FSMTModel(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | Layout | None = None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Seq2SeqLogits:
        """Score what comes next; `labels`: (B, T), the target, -100 where there is nothing to learn.

        Without `decoder_input_ids`, those are the labels, of which the last goes first. `logits_to_keep` says after how
        many last tokens to score; 0 for all.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            layout = Layout.of(labels, decoder_attention_mask)
            decoder_input_ids = shift_right(labels, layout, self.config)
        out = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            cache,
        )
        logits = out.last_hidden_state[:, -logits_to_keep:]  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)
