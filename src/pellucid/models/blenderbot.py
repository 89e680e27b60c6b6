"""Blenderbot: BART with pre-norm and a deep decoder, trained to hold a conversation.

Paper: Roller et al., 2020, "Recipes for building an open-domain chatbot", https://arxiv.org/abs/2004.13637

What sets it apart from BART:
  - a norm before each part of a layer instead of after it, and one after the last layer; none of the embeddings
  - positions count from 0
  - no classifiers; the decoder begins with a start token of its own, the id 1

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary. Packed batches
are (1, N) tokens with a layout, of sources and targets alike.
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
from ..outputs import Hidden, Logits, Seq2SeqHidden, Seq2SeqLogits

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


class BlenderbotConfig(Config):
    """The configuration of Blenderbot; the defaults are those of blenderbot-3B."""

    model_type = "blenderbot"
    inert = {
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "normalize_before": True,  # these are of 2020, when one class read BART and all that is like it
        "normalize_embedding": False,
        "add_final_layer_norm": True,
        "static_position_embeddings": False,
        "extra_pos_embeddings": 0,
    }
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 8008
    max_position_embeddings: int = 128
    d_model: int = 2560
    encoder_layers: int = 2
    encoder_ffn_dim: int = 10240
    encoder_attention_heads: int = 32
    decoder_layers: int = 24
    decoder_ffn_dim: int = 10240
    decoder_attention_heads: int = 32
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    is_encoder_decoder: bool = True  # what the class does says which it is
    is_decoder: bool = False
    add_cross_attention: bool = True  # a decoder always can look at a source
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1
    forced_eos_token_id: int | list[int] | None = 2

    @property
    def initializer_range(self) -> float:
        """The deviation of new weights."""
        return self.init_std

    # twin: bart.BartConfig.faults
    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                yield f"d_model ({self.d_model}) is not a multiple of {side}_attention_heads ({heads})"
        if self.activation_function not in ACTIVATIONS:
            yield f"activation_function is {self.activation_function!r}; expected one of {', '.join(ACTIVATIONS)}"


# twin: bart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


class BlenderbotAttention(nn.Module):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: BlenderbotConfig, heads: int, index: int, *, causal: bool = False):
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


class BlenderbotEncoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each of a norm of what it is added to."""

    def __init__(self, config: BlenderbotConfig, index: int):
        super().__init__()
        self.self_attn = BlenderbotAttention(config, config.encoder_attention_heads, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), layout))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class BlenderbotDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: BlenderbotConfig, index: int):
        super().__init__()
        self.self_attn = BlenderbotAttention(config, config.decoder_attention_heads, index, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = BlenderbotAttention(config, config.decoder_attention_heads, index)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), layout, cache))
        if source is not None:
            x = x + self.dropout(self.encoder_attn(self.encoder_attn_layer_norm(x), layout, cache, source))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class BlenderbotPreTrainedModel(Model):
    """What all classes of this file share."""

    config: BlenderbotConfig
    config_class = BlenderbotConfig
    prefix = "model"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    tied = {
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }


class BlenderbotEncoder(BlenderbotPreTrainedModel):
    """The half that reads the source."""

    stack, source_stack = "layers", ""

    def __init__(self, config: BlenderbotConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(BlenderbotEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `BlenderbotModel`."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, E)
        x = x * math.sqrt(self.config.d_model) if self.config.scale_embedding else x
        x = self.dropout(x + self.embed_positions(layout.positions))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.encoder_layerdrop:
                x = layer(x, layout)
        return Hidden(last_hidden_state=self.layer_norm(x))


class BlenderbotDecoder(BlenderbotPreTrainedModel):
    """The half that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: BlenderbotConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(BlenderbotDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
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
        x = self.dropout(x + self.embed_positions(layout.positions))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.decoder_layerdrop:
                x = layer(x, layout, cache, source)
        return Hidden(last_hidden_state=self.layer_norm(x))


class BlenderbotModel(BlenderbotPreTrainedModel):
    """Both halves without a task head."""

    tied = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: BlenderbotConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = BlenderbotEncoder(config)
        self.decoder = BlenderbotDecoder(config)
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
            decoder_input_ids: ids of the target, (B, T).
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
            raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=written.last_hidden_state, encoder_last_hidden_state=source.states)


class BlenderbotForConditionalGeneration(BlenderbotPreTrainedModel):
    """Writes a target, such as a summary or a translation."""

    def __init__(self, config: BlenderbotConfig):
        super().__init__(config)
        self.model = BlenderbotModel(config)
        self.final_logits_bias = nn.Parameter(torch.zeros(1, config.vocab_size), requires_grad=False)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    # twin: bart.BartForConditionalGeneration.forward
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

        Without `decoder_input_ids`, those are the labels, shifted by one. `logits_to_keep` says after how many last
        tokens to score; 0 for all.
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
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:]) + self.final_logits_bias.detach()
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class BlenderbotDecoderWrapper(BlenderbotPreTrainedModel):
    """The decoder under the name that it has in a whole model."""

    stack, source_stack = "decoder.layers", ""

    def __init__(self, config: BlenderbotConfig):
        super().__init__(config)
        self.decoder = BlenderbotDecoder(config)

    # twin: bart.BartDecoderWrapper.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        return self.decoder(input_ids, attention_mask, inputs_embeds, cache, source)


class BlenderbotForCausalLM(BlenderbotPreTrainedModel):
    """The decoder alone, as a language model, or beside another encoder."""

    stack, source_stack = "decoder.layers", ""
    tied = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    legacy_names = {"model.shared.": "model.decoder.embed_tokens."}  # in files of whole models

    def __init__(self, config: BlenderbotConfig):
        super().__init__(config)
        self.model = BlenderbotDecoderWrapper(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    # twin: bart.BartForCausalLM.is_unread
    def is_unread(self, name: str) -> bool:
        """Leave the encoder of a whole model's file unread."""
        return "encoder." in name.split("decoder.")[0] or super().is_unread(name)

    # twin: bart.BartForCausalLM.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        source: Source | None = None,
    ) -> Logits:
        """Score what comes next; `labels`: (B, T), what follows each token, -100 where there is nothing to learn.

        `logits_to_keep` says after how many last tokens to score; 0 for all. `source` is what an encoder has read.
        """
        x = self.model(input_ids, attention_mask, inputs_embeds, cache, source).last_hidden_state
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)
