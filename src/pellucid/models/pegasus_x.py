"""PEGASUS-X: PEGASUS for long texts, whose tokens look at their block and at some global tokens that are in no text.

Paper: Phang et al., 2022, "Investigating Efficiently Extending Transformers for Long Input Summarization",
https://arxiv.org/abs/2208.04347

What sets it apart from PEGASUS:
  - the encoder reads a text in blocks of `block_size` tokens; in every second layer they begin half a block earlier
  - global tokens, which are learned, look at the whole text, and all look at them: this is how blocks meet
  - attention has no biases, and none is added to the scores of words

The encoder's attention is computed in blocks that begin with each text's first token, without `attend`. Its weights,
when asked for, are those of each token on the G global tokens, then on all tokens, (B, H, S, G + S).

Shapes: B batch, S tokens of the source, T of the target, E hidden, H heads, D head size, V vocabulary, G global tokens,
N blocks of a text, K tokens of a block. Packed batches are (1, N) tokens with a layout, of sources and targets alike.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend, report_attention
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


class PegasusXConfig(Config):
    """The configuration of PEGASUS-X; the defaults are what a missing key of config.json means."""

    model_type = "pegasus_x"
    inert = {"is_decoder": False, "add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {}}
    aliases = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 96103
    max_position_embeddings: int = 16384  # of the texts in training
    d_model: int = 1024
    encoder_layers: int = 16
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 16
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = True
    is_encoder_decoder: bool = True
    num_global_tokens: int = 32
    block_size: int = 512
    stagger_local_blocks: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0
    forced_eos_token_id: int | list[int] | None = 1

    @property
    def initializer_range(self) -> float:
        """The deviation of new weights."""
        return self.init_std

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
        if self.num_global_tokens < 1:
            yield f"num_global_tokens is {self.num_global_tokens}; expected at least 1"
        if self.stagger_local_blocks and self.block_size % 2:
            yield f"block_size is {self.block_size}; expected an even number, or stagger_local_blocks false"
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


# twin: xglm.sinusoids
def sinusoids(positions: Tensor, size: int) -> Tensor:
    """The sines of each position, then its cosines, at one speed a pair: (B, T) to (B, T, size)."""
    half = size // 2
    speeds = 10000 ** (-torch.arange(half, device=positions.device) / (half - 1))
    angles = positions[..., None] * speeds  # (B, T, size / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PegasusXGlobalLocalAttention(nn.Module):
    """Attention of each token to its block and the global tokens, and of these to all."""

    def __init__(self, config: PegasusXConfig, index: int):
        super().__init__()
        self.heads, self.dropout, self.block = (
            config.encoder_attention_heads,
            config.attention_dropout,
            config.block_size,
        )
        self.earlier = self.block // 2 if config.stagger_local_blocks and index % 2 else 0  # tokens
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, far: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Tokens, (B, S, E), and each text's global tokens, (texts, G, E), to the same."""
        report_attention(lambda: self.weights(x, far, layout))
        rows, aligned = layout.align(x)  # (texts, S, E)
        real = torch.ones_like(aligned.positions, dtype=torch.bool) if aligned.keep is None else aligned.keep
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self.split(project(rows)) for project in projections)  # (texts, H, S, D)
        far_q, far_k, far_v = (self.split(project(far)) for project in projections)  # (texts, H, G, D)
        near = self.near(q, k, v, far_k, far_v, real)
        k, v = torch.cat([far_k, k], dim=2), torch.cat([far_v, v], dim=2)
        mask = F.pad(real[:, None, None], (far.shape[1], 0), value=True)
        far = F.scaled_dot_product_attention(far_q, k, v, mask, self.dropout if self.training else 0.0)
        near, far = (self.out_proj(x.transpose(1, 2).flatten(2)) for x in (near, far))
        return layout.unalign(near), far

    def near(self, q: Tensor, k: Tensor, v: Tensor, far_k: Tensor, far_v: Tensor, real: Tensor) -> Tensor:
        """Let the tokens of each block look at each other and at the global ones: (texts, H, S, D) to the same."""
        texts, length = real.shape
        around = (self.earlier, -(self.earlier + length) % self.block)  # what fills up the first and the last block
        q, k, v = (
            F.pad(x, (0, 0, *around)).unflatten(2, (-1, self.block)).transpose(1, 2).flatten(0, 1)  # (texts N, H, K, D)
            for x in (q, k, v)
        )
        blocks = len(q) // max(1, texts)
        k = torch.cat([far_k.repeat_interleave(blocks, dim=0), k], dim=2)  # (texts N, H, G + K, D)
        v = torch.cat([far_v.repeat_interleave(blocks, dim=0), v], dim=2)
        mask = F.pad(real, around).unflatten(1, (-1, self.block)).flatten(0, 1)[:, None, None]  # (texts N, 1, 1, K)
        mask = F.pad(mask, (far_k.shape[2], 0), value=True)
        x = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        x = x.unflatten(0, (texts, blocks)).transpose(1, 2).flatten(2, 3)
        return x[:, :, self.earlier : self.earlier + length]

    def weights(self, x: Tensor, far: Tensor, layout: Layout) -> Tensor:
        """Write the weights of all blocks as one matrix, (B, H, S, G + S), for those who want to see them."""
        q, k = self.split(self.q_proj(x)), self.split(self.k_proj(x))
        far_k = layout.spread(self.split(self.k_proj(far)))  # (B, S, H, G, D)
        blocks = (layout.positions + self.earlier) // self.block
        seen = blocks[:, :, None] == blocks[:, None]  # (B, S, S)
        if layout.sequence is not None:
            seen = seen & (layout.sequence[:, :, None] == layout.sequence[:, None])
        if layout.keep is not None:
            seen = seen & layout.keep[:, None]
        near = (q @ k.mT).masked_fill(~seen[:, None], float("-inf"))
        scores = torch.cat([torch.einsum("bhsd,bshgd->bhsg", q, far_k), near], dim=-1)
        return (scores * q.shape[-1] ** -0.5).softmax(dim=-1)

    # twin: bart.BartAttention.split
    def split(self, x: Tensor) -> Tensor:
        """Give each head its part: (B, T, E) to (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PegasusXAttention(nn.Module):
    """Attention of what was written to itself, or to what the encoder has read."""

    def __init__(self, config: PegasusXConfig, heads: int, index: int, *, causal: bool = False):
        super().__init__()
        self.heads, self.index, self.causal, self.dropout = heads, index, causal, config.attention_dropout
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)

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


class PegasusXEncoderLayer(nn.Module):
    """One layer: attention, then feed-forward, each after its norm and with its residual sum."""

    def __init__(self, config: PegasusXConfig, index: int):
        super().__init__()
        self.self_attn = PegasusXGlobalLocalAttention(config, index)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.global_self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, far: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        near, distant = self.self_attn(self.self_attn_layer_norm(x), self.global_self_attn_layer_norm(far), layout)
        return self.feed(x + self.dropout(near)), self.feed(far + self.dropout(distant))

    def feed(self, x: Tensor) -> Tensor:
        """Go through the feed-forward half."""
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class PegasusXDecoderLayer(nn.Module):
    """One layer: attention to what was written, attention to the source, feed-forward, each after its norm."""

    def __init__(self, config: PegasusXConfig, index: int):
        super().__init__()
        self.self_attn = PegasusXAttention(config, config.decoder_attention_heads, index, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = PegasusXAttention(config, config.decoder_attention_heads, index)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = config.activation_function
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)

    # twin: mbart.MBartDecoderLayer.forward
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None, source: Source | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), layout, cache))
        if source is not None:
            x = x + self.dropout(self.encoder_attn(self.encoder_attn_layer_norm(x), layout, cache, source))
        inner = self.inner_dropout(ACTIVATIONS[self.activation](self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class PegasusXPreTrainedModel(Model):
    """What all classes of this file share."""

    config: PegasusXConfig
    config_class = PegasusXConfig
    prefix = "model"
    stack = "decoder.layers"
    source_stack = "encoder.layers"
    tied = {
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }


class PegasusXEncoder(PegasusXPreTrainedModel):
    """The half that reads the source."""

    stack, source_stack = "layers", ""

    def __init__(self, config: PegasusXConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_global = nn.Embedding(config.num_global_tokens, config.d_model)
        self.layers = nn.ModuleList(PegasusXEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Read a batch; the arguments are those of `PegasusXModel`."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, E)
        x = x * math.sqrt(self.config.d_model) if self.config.scale_embedding else x
        places = sinusoids(layout.positions, self.config.d_model)
        x = self.dropout(x + places.to(x.dtype))
        texts = len(x) if layout.lengths is None else len(layout.lengths)
        far = self.embed_global.weight.expand(texts, -1, -1)  # (texts, G, E)
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.encoder_layerdrop:
                x, far = layer(x, far, layout)
        return Hidden(last_hidden_state=self.layer_norm(x))


class PegasusXDecoder(PegasusXPreTrainedModel):
    """The half that writes."""

    stack, source_stack = "layers", ""

    def __init__(self, config: PegasusXConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(PegasusXDecoderLayer(config, i) for i in range(config.decoder_layers))
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
        places = sinusoids(layout.positions, self.config.d_model)
        x = self.dropout(x + places.to(x.dtype))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.config.decoder_layerdrop:
                x = layer(x, layout, cache, source)
        return Hidden(last_hidden_state=self.layer_norm(x))


class PegasusXModel(PegasusXPreTrainedModel):
    """Both halves without a task head."""

    tied = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: PegasusXConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = PegasusXEncoder(config)
        self.decoder = PegasusXDecoder(config)
        self.init_weights()

    # twin: marian.MarianModel.forward
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


class PegasusXForConditionalGeneration(PegasusXPreTrainedModel):
    """Writes a target, such as a summary."""

    def __init__(self, config: PegasusXConfig):
        super().__init__(config)
        self.model = PegasusXModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    # twin: m2m_100.M2M100ForConditionalGeneration.forward
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
