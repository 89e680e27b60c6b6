"""T5: every task a text to write, by an encoder and a decoder whose positions are biases on the scores.

Paper: Raffel et al., 2019, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
https://arxiv.org/abs/1910.10683. Flan-T5, ByT5 and MADLAD-400 are of this architecture, too; mT5 is its kin.

What sets it apart from BART:
  - no embeddings of positions, but a bias on the scores by how far two tokens are apart, in buckets that widen; one
    table a half, which its first layer holds
  - norms before each part, without means and biases; no biases anywhere; scores are not scaled
  - a head that shares the words' table scales what it reads by 1 / sqrt(E)
  - the decoder begins with the padding token

In float16 the last product of a feed-forward would overflow: its weights, and with them the sums, stay in float32.

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary, L labels. Packed
batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import math
from collections.abc import Collection
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Bias, attend
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


class T5Config(Config):
    """The configuration of T5; the defaults are those of t5-small."""

    model_type = "t5"
    inert = {"add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None  # None for num_layers
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    feed_forward_proj: str = "relu"  # an activation, or "gated-" and one
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
    def decoder_depth(self) -> int:
        """The number of the decoder's layers."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

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
        if 0 in (self.num_layers, self.decoder_depth):
            yield "num_layers or num_decoder_layers is 0; expected at least 1 layer, which holds the table of distances"
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


def distance_bias(table: Tensor, farthest: int, *, causal: bool) -> Bias:
    """Return what adds to the scores what a table, (buckets, H), says; layers that are given it share the work."""
    made: dict[torch.Size, Tensor] = {}  # by shape: all texts of one are alike in a forward

    def bias(q: Tensor, k: Tensor, apart: Tensor) -> Tensor:
        if apart.shape not in made:
            places = distance_buckets(apart, len(table), farthest, causal=causal)
            made[apart.shape] = F.embedding(places, table).permute(0, 3, 1, 2).contiguous()  # (B or 1, H, T, S)
        return made[apart.shape]

    return bias


class T5LayerNorm(nn.RMSNorm):
    """Divides by the root of the mean square; sums that are more exact than the weights are made so only after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(self.weight.dtype)


class T5Query(nn.Linear):
    """Makes queries, which begin small: scores are not scaled."""


class T5Attention(nn.Module):
    """Attention of a text to itself, or to what the encoder has read."""

    def __init__(self, config: T5Config, index: int, *, causal: bool = False, biased: bool = False):
        super().__init__()
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.heads, self.index, self.causal, self.dropout = config.num_heads, index, causal, config.dropout_rate
        self.q = T5Query(size, inner, bias=False)
        self.k = nn.Linear(size, inner, bias=False)
        self.v = nn.Linear(size, inner, bias=False)
        self.o = nn.Linear(inner, size, bias=False)
        if biased:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(
        self, x: Tensor, layout: Layout, bias: Bias | None, cache: Cache | None, source: Source | None = None
    ) -> Tensor:
        q, dropout = self.split(self.q(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.k(x)), self.split(self.v(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)
            x = attend(q, k, v, layout, causal=self.causal, scale=1.0, bias=bias, dropout=dropout)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k(source.states)), self.split(self.v(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D)
            x = attend(q, k, v, layout, source=source.layout, scale=1.0, dropout=dropout)
        return self.o(x.transpose(1, 2).flatten(2))

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class T5LayerSelfAttention(nn.Module):
    """The part of a layer in which a text looks at itself."""

    def __init__(self, config: T5Config, index: int, *, causal: bool):
        super().__init__()
        self.SelfAttention = T5Attention(config, index, causal=causal, biased=index == 0)
        self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, layout: Layout, bias: Bias, cache: Cache | None) -> Tensor:
        return x + self.dropout(self.SelfAttention(self.layer_norm(x), layout, bias, cache))


class T5LayerCrossAttention(nn.Module):
    """The part of a layer in which the target looks at the source."""

    def __init__(self, config: T5Config, index: int):
        super().__init__()
        self.EncDecAttention = T5Attention(config, index)
        self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source) -> Tensor:
        return x + self.dropout(self.EncDecAttention(self.layer_norm(x), layout, None, cache, source))


class T5FeedForward(nn.Module):
    """Two products with an activation between, of which a third may be the gate."""

    def __init__(self, config: T5Config):
        super().__init__()
        if config.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation, self.gated = config.activation, config.gated

    def forward(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.activation]
        inner = activate(self.wi_0(x)) * self.wi_1(x) if self.gated else activate(self.wi(x))
        return self.wo(self.dropout(inner).to(self.wo.weight.dtype))


class T5LayerFF(nn.Module):
    """The position-wise part of a layer."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.DenseReluDense = T5FeedForward(config)
        self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class T5Block(nn.Module):
    """One layer: attention to the text, in the decoder attention to the source, feed-forward."""

    def __init__(self, config: T5Config, index: int, *, decoder: bool):
        super().__init__()
        self.layer = nn.ModuleList([T5LayerSelfAttention(config, index, causal=decoder)])
        if decoder:
            self.layer.append(T5LayerCrossAttention(config, index))
        self.layer.append(T5LayerFF(config))

    def forward(self, x: Tensor, layout: Layout, bias: Bias, cache: Cache | None, source: Source | None) -> Tensor:
        x = self.layer[0](x, layout, bias, cache)
        if source is not None:
            x = self.layer[1](x, layout, cache, source)
        return self.layer[-1](x)


class T5Stack(nn.Module):
    """One half: the encoder, or the decoder."""

    def __init__(self, config: T5Config, *, decoder: bool):
        super().__init__()
        depth = config.decoder_depth if decoder else config.num_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.block = nn.ModuleList(T5Block(config, i, decoder=decoder) for i in range(depth))
        self.final_layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.farthest, self.decoder = config.relative_attention_max_distance, decoder

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
        table = self.get_parameter("block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        bias = distance_bias(table, self.farthest, causal=self.decoder)
        for layer in self.block:
            x = layer(x, layout, bias, cache, source)
        return Hidden(last_hidden_state=self.dropout(self.final_layer_norm(x)))


class T5PreTrainedModel(Model):
    """What all classes of this file share."""

    config: T5Config
    config_class = T5Config
    prefix = "transformer"
    heads = ("lm_head", "qa_outputs")
    stack = "decoder.block"
    source_stack = "encoder.block"
    tied = {
        **{f"{half}.embed_tokens.weight": "shared.weight" for half in ("encoder", "decoder")},
        **{f"transformer.{half}.embed_tokens.weight": "transformer.shared.weight" for half in ("encoder", "decoder")},
        "lm_head.weight": "shared.weight",
    }
    unread = ("EncDecAttention.relative_attention_bias.weight",)  # of old versions, which nothing learned
    wide = ("wo.weight",)
    encoder: T5Stack
    decoder: T5Stack

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
        size = 1.0 if words else (fan_in * (self.config.d_kv if isinstance(module, T5Query) else 1)) ** -0.5
        module.weight.normal_(0.0, self.config.initializer_factor * size)

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


class T5EncoderModel(T5PreTrainedModel):
    """The encoder alone."""

    stack, source_stack = "encoder.block", ""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, decoder=False)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `T5Model`."""
        return self.encoder(input_ids, attention_mask, inputs_embeds)


class T5Model(T5PreTrainedModel):
    """Both halves without a task head."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, decoder=False)
        self.decoder = T5Stack(config, decoder=True)
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


class T5ForConditionalGeneration(T5PreTrainedModel):
    """Writes a target, such as a summary, a translation or an answer."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, decoder=False)
        self.decoder = T5Stack(config, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    @classmethod
    def settle(cls, config: T5Config, checkpoint: Checkpoint) -> T5Config:
        """Let the head have the words' table unless the checkpoint has another for it, whatever the config says.

        There, `tie_word_embeddings` came to mean whether the head scales what it reads. New files always say that it is
        tied, and files of some kin that it is not, though they hold one table.
        """
        stored = checkpoint.tensors
        shared = "lm_head.weight" not in stored
        if config.tie_word_embeddings and not shared and "shared.weight" in stored:
            shared = same_bits(checkpoint.load("lm_head.weight"), checkpoint.load("shared.weight"))
        if shared == config.tie_word_embeddings:
            return config
        return config.replace(tie_word_embeddings=shared, scale_decoder_outputs=bool(config.scale_decoder_outputs))

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


class T5ClassificationHead(nn.Module):
    """Two layers over the vector of a text."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    # twin: bart.BartClassificationHead.forward
    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class T5ForSequenceClassification(T5PreTrainedModel):
    """Labels a whole text, from its last end token, which both halves have read."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.transformer = T5Model(config)
        self.classification_head = T5ClassificationHead(config)
        self.init_weights()

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


class T5ForTokenClassification(T5PreTrainedModel):
    """Labels each token of a text, of which there is the encoder alone."""

    stack, source_stack = "encoder.block", ""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.transformer = T5EncoderModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.init_weights()

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


class T5ForQuestionAnswering(T5PreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, decoder=False)
        self.decoder = T5Stack(config, decoder=True)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

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


# --- mT5: the same network, trained on 101 languages, Xue et al., 2020, https://arxiv.org/abs/2010.11934 --------------


class MT5Config(T5Config):
    """The configuration of mT5; the defaults are those of mt5-small. See T5Config."""

    model_type = "mt5"

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    scale_decoder_outputs: bool | None = False


class MT5EncoderModel(T5EncoderModel):
    """The encoder alone; see T5EncoderModel."""

    config_class = MT5Config


class MT5Model(T5Model):
    """Both halves without a task head; see T5Model."""

    config_class = MT5Config


class MT5ForConditionalGeneration(T5ForConditionalGeneration):
    """See T5ForConditionalGeneration."""

    config_class = MT5Config


class MT5ForSequenceClassification(T5ForSequenceClassification):
    """See T5ForSequenceClassification."""

    config_class = MT5Config


class MT5ForTokenClassification(T5ForTokenClassification):
    """See T5ForTokenClassification."""

    config_class = MT5Config


class MT5ForQuestionAnswering(T5ForQuestionAnswering):
    """See T5ForQuestionAnswering."""

    config_class = MT5Config
