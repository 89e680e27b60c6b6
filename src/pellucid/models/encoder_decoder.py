"""Encoder-decoder: any encoder that reads beside any decoder that writes and can look at what was read.

Paper: Rothe et al., 2019, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks",
https://arxiv.org/abs/1907.12461

What sets it apart from BART:
  - both halves are models of other files, with their own configurations, names and ties
  - what was read is projected where the decoder is of another size
  - halves of one architecture may share all weights that both have, which are most

Shapes: B batch, S tokens of the source, T of the target, E hidden, V vocabulary. Packed batches are (1, N) tokens with
a layout, of sources and targets alike.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from ..cache import Cache, Source
from ..config import Config, read_values
from ..errors import ConfigError, InputError, WeightsError
from ..hub import HubOptions, locate
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Seq2SeqLogits

log = logging.getLogger("pellucid")


def can_look(architecture: str) -> bool:
    """Tell whether an architecture has a decoder that can look at what an encoder has read."""
    from ..auto import AutoModelForCausalLM, heads_of

    heads = heads_of(architecture)
    return any("source" in heads[suffix].accepts for suffix in AutoModelForCausalLM.suffixes if suffix in heads)


def reader_of(architecture: str) -> Any:
    """Return what loads an architecture as the half that reads: of models with a decoder of their own, the encoder."""
    from ..auto import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if AutoModel.class_for(architecture).source_stack else AutoModel


def refusal(decoder: str) -> str:
    """Say that a decoder can not look at what an encoder has read, and which ones can, from all the files there are."""
    from ..auto import architectures

    known = ", ".join(filter(can_look, architectures()))
    return f"the decoder, a {decoder}, can not look at what an encoder has read; take one of {known}"


class EncoderDecoderConfig(Config):
    """The configuration of both halves, and of how they write."""

    model_type = "encoder-decoder"
    inert = {"add_cross_attention": False, "is_decoder": False, "cross_attention_hidden_size": None, "pruned_heads": {}}

    encoder: Config = dataclasses.field(default=None)  # type: ignore[assignment]  # both must be given
    decoder: Config = dataclasses.field(default=None)  # type: ignore[assignment]
    is_encoder_decoder: bool = True
    tie_encoder_decoder: bool = False  # whether the halves share their weights, a choice of version 4
    decoder_start_token_id: int | None = None

    @property
    def src_vocab_size(self) -> int:
        """The encoder's."""
        return self.encoder.vocab_size

    @property
    def vocab_size(self) -> int:
        """The decoder's, of the tokens that it writes."""
        return getattr(self.decoder, "target_vocab_size", self.decoder.vocab_size)

    @property
    def hidden_size(self) -> int:
        """The decoder's."""
        return self.decoder.hidden_size

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of a text that either half reads at once."""
        return min((n for n in (self.encoder.max_tokens, self.decoder.max_tokens) if n is not None), default=None)

    def modernize(self, values: dict[str, Any]) -> list[str]:
        """Read both halves."""
        from ..auto import architecture_of, config_class

        for half in ("encoder", "decoder"):
            if isinstance(part := values.get(half), dict):
                values[half] = config_class(architecture_of(part, half)).from_dict(part, where=half)
        return super().modernize(values)

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if not can_look(self.decoder.model_type.replace("-", "_")):
            yield refusal(type(self.decoder).__name__)
        elif not self.decoder.add_cross_attention:
            yield f"add_cross_attention of the decoder, a {type(self.decoder).__name__}, is not True; expected True"
        elif self.tie_encoder_decoder and self.encoder.model_type != self.decoder.model_type:
            kinds = f"a {type(self.encoder).__name__} and a {type(self.decoder).__name__}"
            yield f"tie_encoder_decoder is True, but {kinds} have no weights to share; expected one architecture"

    @classmethod
    def from_encoder_decoder_configs(cls, encoder: Config, decoder: Config, **fields: Any) -> Self:
        """Join two configurations; the decoder's becomes that of one.

        Raises:
            ConfigError: if this decoder can not look at what an encoder has read.
        """
        if not can_look(decoder.model_type.replace("-", "_")):
            raise ConfigError(f"{cls.__name__}: {refusal(type(decoder).__name__)}.")
        return cls(encoder=encoder, decoder=decoder.replace(is_decoder=True, add_cross_attention=True), **fields)


# twin: bart.shift_right
def shift_right(ids: Tensor, layout: Layout, config: Config) -> Tensor:
    """Put the start token before each text, (B, T), and leave out its last; -100 becomes padding."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise InputError("The config has no decoder_start_token_id or no pad_token_id; pass decoder_input_ids.")
    shifted = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
    return torch.where(layout.positions == 0, start, shifted.masked_fill(shifted == -100, pad))


class EncoderDecoderModel(Model):
    """Reads a source and writes a target."""

    config: EncoderDecoderConfig
    config_class = EncoderDecoderConfig
    prefix = "encoder_decoder"
    stack, source_stack = "decoder", "encoder"
    encoder: Model
    decoder: Model

    def __init__(self, config: EncoderDecoderConfig):
        from ..auto import AutoModelForCausalLM, architecture_of

        super().__init__(config)
        for half in ("encoder", "decoder"):
            part = getattr(config, half)
            kind = architecture_of({"model_type": part.model_type}, half)
            auto = reader_of(kind) if half == "encoder" else AutoModelForCausalLM
            self.add_module(half, auto.class_for(kind)(part))
        sizes = config.encoder.hidden_size, config.decoder.hidden_size
        self.enc_to_dec_proj = nn.Linear(*sizes) if sizes[0] != sizes[1] else None
        for name, source in self.shared.items():
            shapes = [list(self.get_parameter(either).shape) for either in (name, source)]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"tie_encoder_decoder is True, but {name} is {shapes[0]} and {source} is {shapes[1]}; expected "
                    "halves of the same sizes, or tie_encoder_decoder=False."
                )
        self.init_weights()

    @property
    def halves(self) -> dict[str, Model]:
        """Both models by name."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def shared(self) -> dict[str, str]:
        """Parameters of the encoder that are the decoder's, under whose names files hold them: {name: source}."""
        if not self.config.tie_encoder_decoder:
            return {}
        both = self.encoder.state_dict().keys() & self.decoder.base_model.state_dict().keys()
        return {f"encoder.{name}": f"decoder.{self.decoder.prefix}.{name}" for name in sorted(both)}

    @property
    def ties(self) -> dict[str, str]:
        """What the halves share, and those of each."""
        pairs = [(half, *pair) for half, model in self.halves.items() for pair in model.ties.items()]
        return self.shared | {f"{half}.{name}": f"{half}.{other}" for half, name, other in pairs}

    def is_unread(self, name: str) -> bool:
        """Ask the half whose tensor it is."""
        half, _, rest = name.partition(".")
        return half in self.halves and self.halves[half].is_unread(rest)

    def recorded_halves(self) -> list[tuple[nn.Module, Iterable[nn.Module]]]:
        """Return the backbones of both halves and their layers."""
        bases = [model.base_model for model in self.halves.values()]
        return [(base, base.recorded_layers()) for base in bases]

    @classmethod
    def from_encoder_decoder_pretrained(
        cls, encoder: str | os.PathLike, decoder: str | os.PathLike, **options: Any
    ) -> Self:
        """Join two checkpoints, in evaluation mode; what the decoder needs to look at the source is new.

        Args:
            encoder: a folder, or a name such as `"google-bert/bert-base-uncased"`.
            decoder: likewise.
            options: with `encoder_` or `decoder_` before it, an option of that half's `from_pretrained`; else a field
                of the joint config, such as `pad_token_id` or `tie_encoder_decoder`.

        Raises:
            ConfigError: if this decoder can not look at what an encoder has read.
            WeightsError: if the halves are to share weights that differ.
        """
        from ..auto import AutoModelForCausalLM, architecture_of

        fields = {name: options.pop(name) for name in ("decoder_start_token_id",) if name in options}
        given: dict[str, dict[str, Any]] = {"encoder": {}, "decoder": {}, "": fields}
        for name, value in options.items():
            half = next((half for half in ("encoder", "decoder") if name.startswith(f"{half}_")), "")
            given[half][name.removeprefix(f"{half}_") if half else name] = value
        kinds = []
        for half, name in (("encoder", encoder), ("decoder", decoder)):
            with locate(name, HubOptions.take({**given[half]}), want="config") as folder:
                said = given[half].get("model_type")
                kinds.append(architecture_of(read_values(folder), f"{folder.path}/config.json", said))
        if not can_look(kinds[1]):  # before it is asked to be one
            raise ConfigError(f"{folder.path}: {refusal(kinds[1])}.")
        given["decoder"].setdefault("is_decoder", True)
        halves = {
            "encoder": reader_of(kinds[0]).from_pretrained(encoder, **given["encoder"]),
            "decoder": AutoModelForCausalLM.from_pretrained(decoder, **given["decoder"]),
        }
        configs = (part.config for part in halves.values())
        config = EncoderDecoderConfig.from_encoder_decoder_configs(*configs, **given[""])
        model = cls.from_config(config, dtype=halves["encoder"].dtype).to(halves["encoder"].device)
        held = {f"{half}.{name}" for half, part in halves.items() for name in part.state_dict()}
        for half, part in halves.items():
            model.halves[half].load_state_dict(part.state_dict(), strict=False)
        read = {f"encoder.{name}": tensor for name, tensor in halves["encoder"].state_dict().items()}
        kept = {name: model.get_parameter(name) for name in model.shared.keys() & read}
        if lost := [name for name, tensor in kept.items() if not torch.equal(read[name].to(tensor.dtype), tensor)]:
            raise WeightsError(
                f"tie_encoder_decoder is True, but {len(lost)} weights of {encoder} and {decoder} differ, such as "
                f"{min(lost)}; name one checkpoint for both halves, or leave tie_encoder_decoder out."
            )
        if new := [name for name in model.state_dict() if name not in held]:
            log.warning("%s: new and untrained, train before use: %s", cls.__name__, ", ".join(new))
        return model.eval()

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
        """Read a source and what was written of its target, and score what comes next.

        Args:
            input_ids: ids of the source, (B, S).
            attention_mask: (B, S), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            decoder_input_ids: ids of the target, (B, T); without, the labels, shifted by one.
            decoder_attention_mask: (B, T), likewise.
            encoder_outputs: what the encoder returned, instead of `input_ids`.
            inputs_embeds: word embeddings of the source, (B, S, E), instead of `input_ids`.
            decoder_inputs_embeds: word embeddings of the target, (B, T, E), instead of `decoder_input_ids`.
            cache: what was read before, the source included; these tokens are added to it.
            labels: (B, T), the target, -100 where there is nothing to learn.
            logits_to_keep: after how many last tokens to score; 0 for all.
        """
        source = None if cache is None else cache.source
        if source is None:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
            states = self.encoder(**given)[0] if encoder_outputs is None else encoder_outputs[0]
            source = Source(states, Layout.of(states, attention_mask))
            if cache is not None:
                cache.source = source
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("The target is missing: pass labels= to train, or decoder_input_ids= to score.")
            layout = Layout.of(labels, decoder_attention_mask)
            decoder_input_ids = shift_right(labels, layout, self.config)
        seen = source.states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(source.states)
        logits = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            cache=cache,
            logits_to_keep=logits_to_keep,
            source=Source(seen, source.layout),
        ).logits  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLogits(loss=loss, logits=logits, encoder_last_hidden_state=source.states)
