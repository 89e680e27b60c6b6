"""UMT5: an encoder and a decoder for 107 languages, in which each layer has its own biases for distances.

Paper: Chung et al., 2023, "UniMax: Fairer and more Effective Language Sampling for Large-Scale Multilingual
Pretraining", https://arxiv.org/abs/2304.09151

What sets it apart from T5:
  - each layer of a half has a table of biases by distance, and not the first one for all
  - feed-forwards are gated, and published models have a head of their own

In float16 the last product of a feed-forward would overflow: its weights, and with them the sums, stay in float32.

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary, L labels. Packed
batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import math
from collections.abc import Callable, Collection
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
from ..outputs import Hidden, Logits, Seq2SeqHidden, Seq2SeqLogits, Seq2SeqSpans
from ..weights import Checkpoint, same_bits

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


Buckets = Callable[[Tensor], Tensor]  # from how far tokens are apart to the rows of a table of biases


class UMT5Config(Config):
    """The configuration of UMT5; the defaults are those of umt5-small."""

    model_type = "umt5"
    inert = {"add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    vocab_size: int = 250112
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_layers: int = 8
    num_decoder_layers: int | None = None  # None for num_layers
    num_heads: int = 6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    feed_forward_proj: str = "gated-gelu"  # an activation, or "gated-" and one
    dense_act_fn: str | None = None  # both said by the line above, unless they are given
    is_gated_act: bool | None = None
    scale_decoder_outputs: bool | None = None  # None when the head shares the words' table
    dropout_rate: float = 0.1
    classifier_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    is_encoder_decoder: bool = True  # what the class does says which it is
    is_decoder: bool = False
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0

    @property
    def activation(self) -> str:
        """The activation of feed-forwards; the gelu of gated ones is the approximate one."""
        named = "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")
        return named if self.dense_act_fn is None else self.dense_act_fn

    @property
    def gated(self) -> bool:
        """Whether feed-forwards multiply what is activated by what is not."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def scales_head(self) -> bool:
        """Whether what the head reads is scaled."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.activation not in ACTIVATIONS:
            yield f"feed_forward_proj or dense_act_fn is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4:
            yield f"relative_attention_num_buckets is {buckets}; expected at least 4"
        elif farthest <= buckets // 2:
            yield f"relative_attention_max_distance is {farthest}; expected more than half of the buckets ({buckets})"


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


# twin: bart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


# twin: t5.distance_buckets
def distance_buckets(apart: Tensor, buckets: int, farthest: int, *, causal: bool) -> Tensor:
    """Sort pairs of tokens by how far the one that looks is after the other, (B, T, S), into buckets of that shape.

    Short distances have a bucket each, longer ones share buckets that widen logarithmically; those from `farthest` on
    share the last. Where tokens look ahead, too, half of the buckets are for that.
    """
    count = buckets if causal else buckets // 2
    exact = count // 2
    distance = apart.clamp(min=0) if causal else apart.abs()
    log = torch.log(distance.clamp(min=1) / exact) / math.log(farthest / exact) * (count - exact)
    wide = (exact + log.long()).clamp(max=count - 1)
    bucket = torch.where(distance < exact, distance, wide)
    return bucket if causal else torch.where(apart < 0, count, 0) + bucket


def shared_buckets(buckets: int, farthest: int, *, causal: bool) -> Buckets:
    """Return what sorts distances into buckets, once for all layers of a forward."""
    made: dict[torch.Size, Tensor] = {}  # by shape: all texts of one are alike in a forward

    def places(apart: Tensor) -> Tensor:
        if apart.shape not in made:
            made[apart.shape] = distance_buckets(apart, buckets, farthest, causal=causal)
        return made[apart.shape]

    return places


class UMT5LayerNorm(nn.RMSNorm):
    """Divides by the root of the mean square; sums that are more exact than the weights are made so only after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(self.weight.dtype)


class UMT5Query(nn.Linear):
    """Makes queries, which begin small: scores are not scaled."""


class UMT5Attention(nn.Module):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: UMT5Config, index: int, *, causal: bool = False, biased: bool = False):
        super().__init__()
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.heads, self.index, self.causal, self.dropout = config.num_heads, index, causal, config.dropout_rate
        self.q = UMT5Query(size, inner, bias=False)
        self.k = nn.Linear(size, inner, bias=False)
        self.v = nn.Linear(size, inner, bias=False)
        self.o = nn.Linear(inner, size, bias=False)
        if biased:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(
        self, x: Tensor, layout: Layout, buckets: Buckets | None, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        q, dropout = self.split(self.q(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.k(x)), self.split(self.v(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)
            bias = None if buckets is None else lambda q, k, apart: self.bias(apart, buckets)
            x = attend(q, k, v, layout, causal=self.causal, scale=1.0, bias=bias, dropout=dropout)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k(source.states)), self.split(self.v(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D)
            x = attend(q, k, v, layout, source=source.layout, scale=1.0, dropout=dropout)
        return self.o(x.transpose(1, 2).flatten(2))

    def bias(self, apart: Tensor, buckets: Buckets) -> Tensor:
        """Look up what this layer adds to the scores, (B or 1, H, T, S)."""
        return self.relative_attention_bias(buckets(apart)).permute(0, 3, 1, 2).contiguous()

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class UMT5LayerSelfAttention(nn.Module):
    """The part of a layer in which a text looks at itself."""

    def __init__(self, config: UMT5Config, index: int, *, causal: bool):
        super().__init__()
        self.SelfAttention = UMT5Attention(config, index, causal=causal, biased=True)
        self.layer_norm = UMT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, layout: Layout, buckets: Buckets, cache: Cache | None) -> Tensor:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), layout, buckets, cache))


class UMT5LayerCrossAttention(nn.Module):
    """The part of a layer in which the target looks at the source."""

    def __init__(self, config: UMT5Config, index: int):
        super().__init__()
        self.EncDecAttention = UMT5Attention(config, index)
        self.layer_norm = UMT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source) -> Tensor:
        return x + self.dropout(self.EncDecAttention(self.layer_norm(x), layout, None, cache, source))


class UMT5FeedForward(nn.Module):
    """Two products with an activation between, of which a third may be the gate."""

    def __init__(self, config: UMT5Config):
        super().__init__()
        if config.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation, self.gated = config.activation, config.gated

    # twin: t5.T5FeedForward.forward
    def forward(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.activation]
        inner = activate(self.wi_0(x)) * self.wi_1(x) if self.gated else activate(self.wi(x))
        return self.wo(self.dropout(inner).to(self.wo.weight.dtype))


class UMT5LayerFF(nn.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: UMT5Config):
        super().__init__()
        self.DenseReluDense = UMT5FeedForward(config)
        self.layer_norm = UMT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class UMT5Block(nn.Module):
    """One layer: attention to the text, in the decoder attention to the source, feed-forward."""

    def __init__(self, config: UMT5Config, index: int, *, decoder: bool):
        super().__init__()
        self.layer = nn.ModuleList([UMT5LayerSelfAttention(config, index, causal=decoder)])
        if decoder:
            self.layer.append(UMT5LayerCrossAttention(config, index))
        self.layer.append(UMT5LayerFF(config))

    def forward(
        self, x: Tensor, layout: Layout, buckets: Buckets, cache: Cache | None, source: Source | None
    ) -> Tensor:
        x = self.layer[0](x, layout, buckets, cache)
        if source is not None:
            x = self.layer[1](x, layout, cache, source)
        return self.layer[-1](x)


class UMT5Stack(nn.Module):
    """One half: the encoder, or the decoder."""

    def __init__(self, config: UMT5Config, *, decoder: bool):
        super().__init__()
        depth = config.num_layers if config.num_decoder_layers is None or not decoder else config.num_decoder_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.block = nn.ModuleList(UMT5Block(config, i, decoder=decoder) for i in range(depth))
        self.final_layer_norm = UMT5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.buckets, self.farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        self.decoder = decoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Hidden:
        tokens = Model.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask, cache)
        x = self.dropout(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)  # (B, T, E)
        buckets = shared_buckets(self.buckets, self.farthest, causal=self.decoder)
        for layer in self.block:
            x = layer(x, layout, buckets, cache, source)
        return Hidden(last_hidden_state=self.dropout(self.final_layer_norm(x)))


class UMT5PreTrainedModel(Model):
    """What all classes of this file share."""

    config: UMT5Config
    config_class = UMT5Config
    prefix = "transformer"
    heads = ("lm_head", "qa_outputs")
    stack = "decoder.block"
    source_stack = "encoder.block"
    tied = {
        **{f"{half}.embed_tokens.weight": "shared.weight" for half in ("encoder", "decoder")},
        **{f"transformer.{half}.embed_tokens.weight": "transformer.shared.weight" for half in ("encoder", "decoder")},
        "lm_head.weight": "shared.weight",
    }
    wide = ("wo.weight",)
    encoder: UMT5Stack
    decoder: UMT5Stack

    @property
    def ties(self) -> dict[str, str]:
        """What is tied: the words of both halves always, the head's when the config says so."""
        return {n: other for n, other in self.tied.items() if n != "lm_head.weight" or self.config.tie_word_embeddings}

    def is_unread(self, name: str) -> bool:
        """Leave the decoder of a whole model's file unread where there is none."""
        return (not self.source_stack and "decoder." in name) or super().is_unread(name)

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw words of size 1, and what else there is so that sums, and scores that are not scaled, are of size 1."""
        super().init_module(module, only)
        if not isinstance(module, nn.Linear | nn.Embedding) or (only is not None and "weight" not in only):
            return
        words = len(module.weight) == self.config.vocab_size  # a table of them, or a head
        fan_in = module.in_features if isinstance(module, nn.Linear) else self.config.d_model
        size = 1.0 if words else (fan_in * (self.config.d_kv if isinstance(module, UMT5Query) else 1)) ** -0.5
        module.weight.normal_(0.0, self.config.initializer_factor * size)

    # twin: t5.T5PreTrainedModel.read
    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | Layout | None,
        encoder_outputs: Hidden | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Source:
        """Return the source as the encoder has read it before, or does now."""
        if cache is not None and cache.source is not None:
            return cache.source
        states = (encoder_outputs or self.encoder(input_ids, attention_mask, inputs_embeds))[0]
        source = Source(states, Layout.of(states, attention_mask))
        if cache is not None:
            cache.source = source
        return source


class UMT5EncoderModel(UMT5PreTrainedModel):
    """The encoder alone."""

    stack, source_stack = "encoder.block", ""

    def __init__(self, config: UMT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = UMT5Stack(config, decoder=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `UMT5Model`."""
        return self.encoder(input_ids, attention_mask, inputs_embeds)


class UMT5Model(UMT5PreTrainedModel):
    """Both halves without a task head."""

    def __init__(self, config: UMT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = UMT5Stack(config, decoder=False)
        self.decoder = UMT5Stack(config, decoder=True)
        self.init_weights()

    # twin: t5.T5Model.forward
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
            decoder_input_ids: ids of the target, (B, T), the start token first.
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what was read before, the source included; these tokens are added to it.
        """
        source = self.read(input_ids, attention_mask, encoder_outputs, inputs_embeds, cache)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise InputError("The target is missing: pass decoder_input_ids, or decoder_inputs_embeds.")
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        return Seq2SeqHidden(last_hidden_state=written.last_hidden_state, encoder_last_hidden_state=source.states)


class UMT5ForConditionalGeneration(UMT5PreTrainedModel):
    """Writes a target, such as a summary, a translation or an answer."""

    def __init__(self, config: UMT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = UMT5Stack(config, decoder=False)
        self.decoder = UMT5Stack(config, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    @classmethod
    def settle(cls, config: UMT5Config, checkpoint: Checkpoint) -> UMT5Config:
        """Let the head have the words' table unless the checkpoint has another for it: new files always say tied."""
        stored = checkpoint.tensors
        shared = "lm_head.weight" not in stored
        if config.tie_word_embeddings and not shared and "shared.weight" in stored:
            shared = same_bits(checkpoint.load("lm_head.weight"), checkpoint.load("shared.weight"))
        if shared == config.tie_word_embeddings:
            return config
        return config.replace(tie_word_embeddings=shared, scale_decoder_outputs=bool(config.scale_decoder_outputs))

    # twin: t5.T5ForConditionalGeneration.forward
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
        source = self.read(input_ids, attention_mask, encoder_outputs, inputs_embeds, cache)
        written = self.decoder(decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, cache, source)
        x = written.last_hidden_state[:, -logits_to_keep:]
        logits = self.lm_head(x * self.config.d_model**-0.5 if self.config.scales_head else x)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=source.states)


class UMT5ClassificationHead(nn.Module):
    """Two layers over the vector of a text."""

    def __init__(self, config: UMT5Config):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    # twin: bart.BartClassificationHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class UMT5ForSequenceClassification(UMT5PreTrainedModel):
    """Labels a whole text, from its last end token, which both halves have read."""

    def __init__(self, config: UMT5Config):
        super().__init__(config)
        self.transformer = UMT5Model(config)
        self.classification_head = UMT5ClassificationHead(config)
        self.init_weights()

    # twin: t5.T5ForSequenceClassification.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        labels: Tensor | None = None,
    ) -> Seq2SeqLogits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        tokens = self.one_of(input_ids=input_ids)
        layout = Layout.of(tokens, attention_mask)
        out = self.transformer(tokens, layout, shift_right(tokens, layout, self.config), layout)
        ends = torch.isin(tokens, torch.tensor(self.config.end_ids, device=tokens.device))
        logits = self.classification_head(layout.last(out.last_hidden_state, ends))
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class UMT5ForTokenClassification(UMT5PreTrainedModel):
    """Labels each token of a text, of which there is the encoder alone."""

    stack, source_stack = "encoder.block", ""

    def __init__(self, config: UMT5Config):
        super().__init__(config)
        self.transformer = UMT5EncoderModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.init_weights()

    # twin: t5.T5ForTokenClassification.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T) ids, -100 where there is nothing to learn."""
        x = self.transformer(input_ids, attention_mask, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class UMT5ForQuestionAnswering(UMT5PreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: UMT5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = UMT5Stack(config, decoder=False)
        self.decoder = UMT5Stack(config, decoder=True)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    # twin: t5.T5ForQuestionAnswering.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Seq2SeqSpans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        tokens = self.one_of(input_ids=input_ids)
        layout = Layout.of(tokens, attention_mask)
        source = self.read(tokens, layout)
        written = self.decoder(shift_right(tokens, layout, self.config), layout, source=source)
        start, end = self.qa_outputs(written.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Seq2SeqSpans(loss=loss, start_logits=start, end_logits=end, encoder_last_hidden_state=source.states)
