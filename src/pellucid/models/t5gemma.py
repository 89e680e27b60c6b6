"""T5Gemma: an encoder and a decoder, both made of Gemma 2's layers.

Paper: Zhang et al., 2025, "Encoder-Decoder Gemma: Improving the Quality-Efficiency Trade-Off via Adaptation",
https://arxiv.org/abs/2504.06225

What sets it apart from Gemma 2:
  - an encoder of the same layers that looks to both sides, each half of a size of its own, with words of its own
  - attention to what the encoder has read, between two norms like the others, without positions
  - a whole text is labelled from the decoder's last token, when both halves read the same text, or from the encoder's

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary, L labels. Packed
batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import dataclasses
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..cache import Cache, Source
from ..config import Config, shorten
from ..errors import InputError
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits, Seq2SeqHidden, Seq2SeqLogits
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

LOCAL, GLOBAL = "sliding_attention", "full_attention"


class T5GemmaModuleConfig(Config):
    """The configuration of one half; the defaults are those of Gemma-2-2B."""

    model_type = "t5_gemma_module"
    inert = {"add_cross_attention": False, "is_encoder_decoder": False, "is_causal": True, "pruned_heads": {}}
    aliases = {"hidden_act": "hidden_activation"}

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # both of these in one, in newer files; it wins
    attention_bias: bool = False
    attention_dropout: float = 0.0  # the whole's counts
    dropout_rate: float = 0.0  # the whole's counts
    query_pre_attn_scalar: float = 256  # what scores of attention are divided by the root of
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    sliding_window: int | None = 4096  # tokens that a local layer looks at in the decoder, itself among them
    layer_types: list[str] | None = None  # None for local, global, local, ...
    is_decoder: bool = False  # its place in the whole says which it is
    cross_attention_hidden_size: int | None = None  # the encoder's hidden_size counts
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    def window(self, layer: int) -> int | None:
        """Return the window of a layer; None when it looks at all."""
        is_local = layer % 2 == 0 if self.layer_types is None else self.layer_types[layer] == LOCAL
        return self.sliding_window if is_local else None

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.num_attention_heads % self.num_key_value_heads:
            yield (
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.hidden_activation not in ACTIVATIONS:
            yield f"hidden_activation is {self.hidden_activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        for name in ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "sliding_window"):
            if (value := getattr(self, name)) is not None and value <= 0:
                yield f"{name} is {value}; expected more than 0"
        kinds = self.layer_types
        if kinds is not None and (len(kinds) != self.num_hidden_layers or set(kinds) - {LOCAL, GLOBAL}):
            yield f"layer_types is {shorten(kinds)}; expected {self.num_hidden_layers} times {LOCAL!r} or {GLOBAL!r}"
        yield from Rope.faults(self, self.head_dim)


class T5GemmaConfig(Config):
    """The configuration of T5Gemma: that of each half, and what both share."""

    model_type = "t5gemma"
    inert = {"add_cross_attention": False, "is_decoder": False, "pruned_heads": {}, "cross_attention_hidden_size": None}

    encoder: T5GemmaModuleConfig = dataclasses.field(default_factory=T5GemmaModuleConfig)
    decoder: T5GemmaModuleConfig = dataclasses.field(default_factory=T5GemmaModuleConfig)
    vocab_size: int = 256000
    dropout_rate: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout_rate: float = 0.0
    initializer_range: float = 0.02
    is_encoder_decoder: bool = True  # whether classifiers have a decoder
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    @property
    def hidden_size(self) -> int:
        """The decoder's."""
        return self.decoder.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """The decoder's."""
        return self.decoder.num_hidden_layers

    def modernize(self, values: dict[str, Any]) -> list[str]:
        """Read both halves, and take from the decoder's what the whole does not say."""
        faults = super().modernize(values)
        for name in ("encoder", "decoder"):
            if values.get(name) is None:
                values[name] = T5GemmaModuleConfig()
            elif isinstance(values[name], dict):
                values[name] = T5GemmaModuleConfig.from_dict(values[name], where=name)
        if isinstance(half := values["decoder"], T5GemmaModuleConfig):
            for name in ("pad_token_id", "bos_token_id", "eos_token_id", "initializer_range", "vocab_size"):
                values.setdefault(name, getattr(half, name))
        return faults


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


def shift_right(ids: Tensor, layout: Layout, config: T5GemmaConfig) -> Tensor:
    """Put the decoder's first token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder.bos_token_id, config.decoder.pad_token_id
    if start is None or pad is None:
        raise InputError("The decoder's config has no bos_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


# twin: llama.rotate
def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = (part.to(x.dtype) for part in turn)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


# twin: gemma.GemmaRMSNorm
class GemmaRMSNorm(nn.RMSNorm):
    """Divides by the root mean square and multiplies with 1 + weight, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps).to(x.dtype)


class T5GemmaAttention(nn.Module):
    """Attention of a text to itself, with rotated queries and keys, or to what the encoder has read, without."""

    def __init__(self, config: T5GemmaConfig, half: T5GemmaModuleConfig, index: int, *, looks: str):
        super().__init__()
        size, bias = half.hidden_size, half.attention_bias
        self.index, self.head_size, self.dropout = index, half.head_dim, config.attention_dropout
        self.scale, self.softcap = half.query_pre_attn_scalar**-0.5, half.attn_logit_softcapping
        self.causal, self.window = looks == "back", half.window(index)
        if self.causal and self.window is not None:
            self.window -= 1  # there, a token counts itself
        seen = config.encoder.hidden_size if looks == "across" else size
        self.q_proj = nn.Linear(size, half.num_attention_heads * self.head_size, bias=bias)
        self.k_proj = nn.Linear(seen, half.num_key_value_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(seen, half.num_key_value_heads * self.head_size, bias=bias)
        self.o_proj = nn.Linear(half.num_attention_heads * self.head_size, size, bias=bias)

    def forward(
        self, x: Tensor, layout: Layout, turn: tuple[Tensor, Tensor], cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        how: dict[str, Any] = {"scale": self.scale, "softcap": self.softcap}
        how["dropout"] = self.dropout if self.training else 0.0
        q = self.split(self.q_proj(x))  # (B, H, T, D)
        if source is None:
            q, k, v = rotate(q, turn), rotate(self.split(self.k_proj(x)), turn), self.split(self.v_proj(x))
            if cache is not None:
                k, v = cache.update(self.index, k, v, window=self.window)
            x = attend(q, k, v, layout, causal=self.causal, window=self.window, **how)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k_proj(source.states)), self.split(self.v_proj(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H or fewer, S, D)
            x = attend(q, k, v, layout, source=source.layout, **how)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # (B, T, E)

    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, H D) to (B, H, T, D)."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class T5GemmaMLP(nn.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: T5GemmaConfig, half: T5GemmaModuleConfig):
        super().__init__()
        self.gate_proj = nn.Linear(half.hidden_size, half.intermediate_size, bias=False)
        self.up_proj = nn.Linear(half.hidden_size, half.intermediate_size, bias=False)
        self.down_proj = nn.Linear(half.intermediate_size, half.hidden_size, bias=False)
        self.activation, self.dropout = half.hidden_activation, nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.dropout(ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x)))


class T5GemmaLayer(nn.Module):
    """One layer: attention, in the decoder attention to the source, feed-forward; each between two norms."""

    def __init__(self, config: T5GemmaConfig, half: T5GemmaModuleConfig, index: int):
        super().__init__()
        size, eps, is_decoder = half.hidden_size, half.rms_norm_eps, half is config.decoder
        self.self_attn = T5GemmaAttention(config, half, index, looks="back" if is_decoder else "around")
        self.pre_self_attn_layernorm = GemmaRMSNorm(size, eps=eps)
        self.post_self_attn_layernorm = GemmaRMSNorm(size, eps=eps)
        if is_decoder:
            self.cross_attn = T5GemmaAttention(config, half, index, looks="across")
            self.pre_cross_attn_layernorm = GemmaRMSNorm(size, eps=eps)
            self.post_cross_attn_layernorm = GemmaRMSNorm(size, eps=eps)
        self.mlp = T5GemmaMLP(config, half)
        self.pre_feedforward_layernorm = GemmaRMSNorm(size, eps=eps)
        self.post_feedforward_layernorm = GemmaRMSNorm(size, eps=eps)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        turn: tuple[Tensor, Tensor],
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Tensor:
        inner = self.self_attn(self.pre_self_attn_layernorm(x), layout, turn, cache)
        x = x + self.dropout(self.post_self_attn_layernorm(inner))
        if source is not None:
            inner = self.cross_attn(self.pre_cross_attn_layernorm(x), layout, turn, cache, source)
            x = x + self.dropout(self.post_cross_attn_layernorm(inner))
        inner = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.dropout(self.post_feedforward_layernorm(inner))


class T5GemmaPreTrainedModel(Model):
    """What all classes of this file share."""

    config: T5GemmaConfig
    config_class = T5GemmaConfig
    prefix = "model"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    unread = ("rotary_emb.inv_freq",)  # of old versions; the config says it

    def is_unread(self, name: str) -> bool:
        """Leave the decoder of a whole model's file unread, where there is none."""
        alone = not self.config.is_encoder_decoder
        return super().is_unread(name) or (alone and name.removeprefix("model.").startswith("decoder."))

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; a norm's 0 changes nothing."""
        super().init_module(module, only)
        if isinstance(module, GemmaRMSNorm):
            module.weight.zero_()


class T5GemmaHalf(T5GemmaPreTrainedModel):
    """The half that reads the source, or the one that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: T5GemmaConfig, half: T5GemmaModuleConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(half.vocab_size, half.hidden_size, padding_idx=half.pad_token_id)
        self.norm = GemmaRMSNorm(half.hidden_size, eps=half.rms_norm_eps)
        self.layers = nn.ModuleList(T5GemmaLayer(config, half, i) for i in range(half.num_hidden_layers))
        self.dropout = nn.Dropout(config.dropout_rate)
        self.rope = Rope.of(half, half.head_dim)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        """Read a batch and, in the decoder, look at the source."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        x = self.dropout(x * x.new_full((), x.shape[-1] ** 0.5))  # rounded to the words' dtype
        turn = self.rope.turn_halves(layout, None, x.dtype)
        for layer in self.layers:
            x = layer(x, layout, turn, cache, source)
        return Hidden(last_hidden_state=self.dropout(self.norm(x)))


class T5GemmaModel(T5GemmaPreTrainedModel):
    """Both halves without a task head."""

    def __init__(self, config: T5GemmaConfig):
        super().__init__(config)
        self.encoder = T5GemmaHalf(config, config.encoder)
        self.decoder = T5GemmaHalf(config, config.decoder)
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
            read = (
                self.encoder(input_ids, attention_mask, inputs_embeds) if encoder_outputs is None else encoder_outputs
            )
            states = read[0]
            source = Source(states, Layout.of(states, attention_mask))
            if cache is not None:
                cache.source = source
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=written.last_hidden_state, encoder_last_hidden_state=source.states)


class T5GemmaEncoderModel(T5GemmaPreTrainedModel):
    """The encoder alone."""

    stack, source_stack = "encoder.layers", ""

    def __init__(self, config: T5GemmaConfig):
        super().__init__(config)
        self.config = config.replace(is_encoder_decoder=False)
        self.encoder = T5GemmaHalf(self.config, self.config.encoder)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `T5GemmaModel`."""
        return self.encoder(input_ids, attention_mask, inputs_embeds)


class T5GemmaLMHead(nn.Module):
    """Scores over the vocabulary."""

    def __init__(self, config: T5GemmaConfig):
        super().__init__()
        self.out_proj = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)
        self.bound = config.decoder.final_logit_softcapping

    def forward(self, x: Tensor) -> Tensor:
        logits = self.out_proj(x)
        return logits if self.bound is None else self.bound * torch.tanh(logits / self.bound)


class T5GemmaForConditionalGeneration(T5GemmaPreTrainedModel):
    """Writes a target, such as an answer."""

    tied = {"lm_head.out_proj.weight": "model.decoder.embed_tokens.weight"}

    def __init__(self, config: T5GemmaConfig):
        super().__init__(config)
        self.config = config.replace(is_encoder_decoder=True)
        self.model = T5GemmaModel(self.config)
        self.lm_head = T5GemmaLMHead(self.config)
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
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class T5GemmaClassificationHead(nn.Module):
    """Scores of the labels; it reads the last of both halves, or the only one."""

    def __init__(self, config: T5GemmaConfig):
        super().__init__()
        half = config.decoder if config.is_encoder_decoder else config.encoder
        self.dropout = nn.Dropout(config.classifier_dropout_rate)
        self.out_proj = nn.Linear(half.hidden_size, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(x))


def read(
    model: T5GemmaModel | T5GemmaEncoderModel, input_ids: Tensor | None, layout: Layout, inputs_embeds: Tensor | None
) -> Tensor:
    """Let both halves read a text, the decoder's shifted by one, or the encoder alone, where there is no other."""
    if isinstance(model, T5GemmaEncoderModel):
        return model(input_ids, layout, inputs_embeds).last_hidden_state
    if input_ids is None:
        raise InputError("Both halves read the text: pass input_ids; inputs_embeds are the encoder's alone.")
    return model(input_ids, layout, shift_right(input_ids, layout, model.config), layout).last_hidden_state


class T5GemmaForSequenceClassification(T5GemmaPreTrainedModel):
    """Labels a whole text, from its last token."""

    def __init__(self, config: T5GemmaConfig):
        super().__init__(config)
        self.model = T5GemmaModel(config) if config.is_encoder_decoder else T5GemmaEncoderModel(config)
        self.score = T5GemmaClassificationHead(config)
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
        logits = self.score(layout.last(read(self.model, input_ids, layout, inputs_embeds)))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class T5GemmaForTokenClassification(T5GemmaPreTrainedModel):
    """Labels every token; with a decoder, from what that makes of the tokens before it."""

    def __init__(self, config: T5GemmaConfig):
        super().__init__(config)
        self.model = T5GemmaModel(config) if config.is_encoder_decoder else T5GemmaEncoderModel(config)
        self.score = T5GemmaClassificationHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        logits = self.score(read(self.model, input_ids, layout, inputs_embeds))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)
