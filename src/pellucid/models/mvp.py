"""MVP: BART trained on many tasks of writing at once, each of which may have prompts that are learned.

Paper: Tang et al., 2022, "MVP: Multi-task Supervised Pre-training for Natural Language Generation",
https://arxiv.org/abs/2206.12131

What sets it apart from BART, with `use_prompt`:
  - each attention has `prompt_length` keys and values more, at which every token looks, of whatever text
  - they are made of vectors that are learned, by two layers that are learned, too, for a whole half at once

The decoder alone, as a language model, has no prompts. Texts of a packed batch get a row each where there are prompts.

Shapes: B batch, S tokens of the source, T of the target, P of a prompt, E hidden, H heads, D head size, V vocabulary, L
labels. Packed batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import math
from dataclasses import replace
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
OFFSET = 2  # the first row of positions that is used


class MvpConfig(Config):
    """The configuration of MVP; the defaults are those of mvp."""

    model_type = "mvp"
    inert = {"cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 50267
    max_position_embeddings: int = 1024
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
    classifier_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    use_prompt: bool = False
    prompt_length: int = 100
    prompt_mid_dim: int = 800
    is_encoder_decoder: bool = True  # what the class does says which it is
    is_decoder: bool = False
    add_cross_attention: bool = True  # a decoder always can look at a source
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2

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
        if self.prompt_length < 1:
            yield f"prompt_length is {self.prompt_length}; expected at least 1"


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


def attend_prompted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    prompt: Tensor,
    *,
    source: Layout | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attend as `attend` does, and to the keys and values of a prompt, (2, H, P, D)."""
    where = layout if source is None else source
    (q, rows), (k, seen), (v, _) = (at.unpack(x.transpose(1, 2)) for at, x in ((layout, q), (where, k), (where, v)))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # one text a row
    if layout.lengths is not None and len(q) != len(k):
        raise InputError(f"The packed batches have {len(q)} and {len(k)} texts; expected as many.")
    k, v = (torch.cat([first.expand(len(x), -1, -1, -1), x], dim=2) for first, x in zip(prompt, (k, v), strict=True))
    positions, keep = seen.key_positions, seen.key_keep
    if positions is None:
        positions, keep = seen.positions, seen.keep
    positions = F.pad(positions, (prompt.shape[2], 0))  # all tokens come after a prompt
    keep = None if keep is None else F.pad(keep, (prompt.shape[2], 0), value=True)
    if source is None:
        rows = replace(rows, key_positions=positions, key_keep=keep)
        x = attend(q, k, v, rows, causal=causal, dropout=dropout)
    else:
        x = attend(q, k, v, rows, source=Layout(positions, keep), dropout=dropout)
    return layout.pack(x.transpose(1, 2)).transpose(1, 2)


class MvpPrompt(nn.Module):
    """The prompts of all layers of a half, for one kind of its attention."""

    def __init__(self, config: MvpConfig, layers: int, heads: int):
        super().__init__()
        self.shape, wide = (layers, 2, heads, config.d_model // heads), 2 * layers * config.d_model
        self.prompt_embedding = nn.Embedding(config.prompt_length, config.d_model)
        self.prompt_trans = nn.Sequential(
            nn.Linear(config.d_model, config.prompt_mid_dim), nn.GELU(), nn.Linear(config.prompt_mid_dim, wide)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self) -> Tensor:
        x = self.dropout(self.prompt_trans(self.prompt_embedding.weight))
        return x.unflatten(-1, self.shape).permute(1, 2, 3, 0, 4)  # (layers, 2, H, P, D)


class MvpAttention(nn.Module):
    """Attention of a text to itself, or to what the encoder has read; and to a prompt, if there is one."""

    def __init__(self, config: MvpConfig, heads: int, index: int, *, causal: bool = False):
        super().__init__()
        self.heads, self.index, self.causal, self.dropout = heads, index, causal, config.attention_dropout
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        prompt: Tensor | None,
        cache: Cache | None = None,
        source: Source | None = None,
    ) -> Tensor:
        q, dropout = self.split(self.q_proj(x)), self.dropout if self.training else 0.0
        if source is None:
            k, v = self.split(self.k_proj(x)), self.split(self.v_proj(x))  # (B, H, T, D)
            if cache is not None:
                k, v = cache.update(self.index, k, v)
        else:
            kept = None if cache is None else cache.source_keys(self.index)
            k, v = kept or (self.split(self.k_proj(source.states)), self.split(self.v_proj(source.states)))
            if cache is not None and kept is None:
                cache.set_source_keys(self.index, k, v)  # (B, H, S, D)
        where = None if source is None else source.layout
        if prompt is None:
            x = attend(q, k, v, layout, source=where, causal=self.causal, dropout=dropout)
        else:
            x = attend_prompted(q, k, v, layout, prompt, source=where, causal=self.causal, dropout=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MvpEncoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each followed by its residual sum and norm."""

    def __init__(self, config: MvpConfig, index: int):
        super().__init__()
        self.self_attn = MvpAttention(config, config.encoder_attention_heads, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, layout: Layout, prompt: Tensor | None) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, layout, prompt)))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(inner)))


class MvpDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward."""

    def __init__(self, config: MvpConfig, index: int):
        super().__init__()
        self.self_attn = MvpAttention(config, config.decoder_attention_heads, index, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = MvpAttention(config, config.decoder_attention_heads, index)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        prompts: list[Tensor | None],
        cache: Cache | None,
        source: Source | None,
    ) -> Tensor:
        """Run the layer; there are prompts for what was written and for the source."""
        own, cross = prompts
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, layout, own, cache)))
        if source is not None:
            x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x, layout, cross, cache, source)))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(inner)))


class MvpPreTrainedModel(Model):
    """What all classes of this file share."""

    config: MvpConfig
    config_class = MvpConfig
    prefix = "model"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    tied = {
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }


class MvpEncoder(MvpPreTrainedModel):
    """The half that reads the source."""

    stack, source_stack = "layers", ""

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + OFFSET, config.d_model)
        self.layers = nn.ModuleList(MvpEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        if config.use_prompt:
            self.self_attn_prompt = MvpPrompt(config, config.encoder_layers, config.encoder_attention_heads)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `MvpModel`."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, E)
        x = x * math.sqrt(self.config.d_model) if self.config.scale_embedding else x
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(layout.positions + OFFSET)))
        prompts = self.self_attn_prompt() if self.config.use_prompt else [None] * len(self.layers)
        for layer, prompt in zip(self.layers, prompts, strict=True):
            if not self.training or torch.rand(()) >= self.config.encoder_layerdrop:
                x = layer(x, layout, prompt)
        return Hidden(last_hidden_state=x)


class MvpDecoder(MvpPreTrainedModel):
    """The half that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: MvpConfig, use_prompt: bool = False):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + OFFSET, config.d_model)
        self.layers = nn.ModuleList(MvpDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.dropout, self.use_prompt = nn.Dropout(config.dropout), use_prompt
        if use_prompt:
            self.self_attn_prompt = MvpPrompt(config, config.decoder_layers, config.decoder_attention_heads)
            self.cross_attn_prompt = MvpPrompt(config, config.decoder_layers, config.decoder_attention_heads)
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
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(layout.positions + OFFSET)))
        own = cross = [None] * len(self.layers)
        if self.use_prompt:
            own, cross = self.self_attn_prompt(), self.cross_attn_prompt()
        for layer, *prompts in zip(self.layers, own, cross, strict=True):
            if not self.training or torch.rand(()) >= self.config.decoder_layerdrop:
                x = layer(x, layout, prompts, cache, source)
        return Hidden(last_hidden_state=x)


class MvpModel(MvpPreTrainedModel):
    """Both halves without a task head."""

    tied = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = MvpEncoder(config)
        self.decoder = MvpDecoder(config, config.use_prompt)
        self.init_weights()

    # twin: bart.BartModel.forward
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
            decoder_input_ids: ids of the target, (B, T); without, the source shifted by one, as in pre-training.
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
        return Seq2SeqHidden(last_hidden_state=written.last_hidden_state, encoder_last_hidden_state=source.states)


class MvpForConditionalGeneration(MvpPreTrainedModel):
    """Writes a target, such as a summary or a translation."""

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.model = MvpModel(config)
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


class MvpClassificationHead(nn.Module):
    """Two layers over the vector of a text."""

    def __init__(self, config: MvpConfig):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class MvpForSequenceClassification(MvpPreTrainedModel):
    """Labels a whole text, from its last end token, which both halves have read."""

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.model = MvpModel(config)
        self.classification_head = MvpClassificationHead(config)
        self.init_weights()

    # twin: bart.BartForSequenceClassification.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        labels: Tensor | None = None,
    ) -> Seq2SeqLogits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        tokens = self.one_of(input_ids=input_ids)
        layout = Layout.of(tokens, attention_mask)
        out = self.model(input_ids, layout)
        ends = torch.isin(tokens, torch.tensor(self.config.end_ids, device=tokens.device))
        logits = self.classification_head(layout.last(out.last_hidden_state, ends))
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=out.encoder_last_hidden_state)


class MvpForQuestionAnswering(MvpPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends."""

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.model = MvpModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    # twin: bart.BartForQuestionAnswering.forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Seq2SeqSpans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        out = self.model(input_ids, attention_mask)
        start, end = self.qa_outputs(out.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        states = out.encoder_last_hidden_state
        return Seq2SeqSpans(loss=loss, start_logits=start, end_logits=end, encoder_last_hidden_state=states)


class MvpDecoderWrapper(MvpPreTrainedModel):
    """The decoder under the name that it has in a whole model."""

    stack, source_stack = "decoder.layers", ""

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.decoder = MvpDecoder(config)

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


class MvpForCausalLM(MvpPreTrainedModel):
    """The decoder alone, as a language model, or beside another encoder."""

    stack, source_stack = "decoder.layers", ""
    tied = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    legacy_names = {"model.shared.": "model.decoder.embed_tokens."}  # in files of whole models

    def __init__(self, config: MvpConfig):
        super().__init__(config)
        self.model = MvpDecoderWrapper(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    def is_unread(self, name: str) -> bool:
        """Leave the encoder and the prompts of a whole model's file unread."""
        return "encoder." in name.split("decoder.")[0] or "attn_prompt." in name or super().is_unread(name)

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
