"""What models return: results read by attribute, key, index or unpacking, with absent parts skipped."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .cache import Cache


LAST = (
    "past_key_values",
    "hidden_states",
    "attentions",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
)


@dataclass(kw_only=True)
class ModelOutput:
    """The base of every result: `out.logits`, `out["logits"]`, `out[0]` and `loss, logits = out` all work.

    Parts that are `None` do not count: they are no key, and indices and unpacking skip them.

    Attributes:
        past_key_values: the `Cache` of what was read, of models that can go on from there.
        hidden_states: on `output_hidden_states=True`: the embeddings, then each layer's output, (B, T, E); the last
            is the backbone's `last_hidden_state`.
        attentions: on `output_attentions=True`: each layer's weights, (B, H, T, T); rows sum to 1.
    """

    past_key_values: "Cache | None" = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the parts that are present as a tuple."""
        return tuple(self.values())

    def items(self) -> list[tuple[str, Any]]:
        """Return the parts that are present as (name, value), the cache and what was recorded on request last."""
        names = [field.name for field in dataclasses.fields(self)]
        names.sort(key=lambda name: LAST.index(name) if name in LAST else -1)  # others stay in their order
        return [(name, value) for name in names if (value := getattr(self, name)) is not None]

    def keys(self) -> list[str]:
        """Return the names of the parts that are present."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """Return the parts that are present."""
        return [value for _, value in self.items()]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a part by name, or `default` when it is absent."""
        return dict(self.items()).get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __len__(self) -> int:
        return len(self.items())


@dataclass(kw_only=True)
class Hidden(ModelOutput):
    """What a backbone returns.

    Attributes:
        last_hidden_state: (B, T, E).
        pooler_output: one vector a text, (B, E); absent when the architecture or the checkpoint has no pooler.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None


@dataclass(kw_only=True)
class Logits(ModelOutput):
    """Scores before normalisation.

    Attributes:
        loss: a scalar, in nats (or squared units for regression); present when `labels` were given.
        logits: (B, L) for a text, (B, C) for choices, (B, T, L) for tokens, (B, T, V) for vocabulary entries.
    """

    loss: Tensor | None = None
    logits: Tensor


@dataclass(kw_only=True)
class Spans(ModelOutput):
    """Scores of where an answer begins and ends.

    Attributes:
        loss: a scalar; present when both positions were given.
        start_logits: (B, T).
        end_logits: (B, T).
    """

    loss: Tensor | None = None
    start_logits: Tensor
    end_logits: Tensor


@dataclass(kw_only=True)
class BeamSpans(ModelOutput):
    """Where an answer may begin, and for each of these S beginnings where it may end; and whether there is one.

    An index counts from the first token of the row, padding included; in a packed batch, from the text's own. A beam
    for which the text has no token left has the probability 0, and the index of the best one.

    Attributes:
        loss: a scalar; present when both positions were given, and then alone.
        start_top_log_probs: probabilities of the likeliest first tokens, best first, (B, S); no logarithms, whatever
            the original's name says.
        start_top_index: which tokens these are, (B, S).
        end_top_log_probs: probabilities of the likeliest last tokens given each first one, (B, N * S): S best ones,
            one a beginning, then S second-best ones, and so on.
        end_top_index: which tokens these are, (B, N * S).
        cls_logits: scores of having no answer, (B,).
    """

    loss: Tensor | None = None
    start_top_log_probs: Tensor | None = None
    start_top_index: Tensor | None = None
    end_top_log_probs: Tensor | None = None
    end_top_index: Tensor | None = None
    cls_logits: Tensor | None = None


@dataclass(kw_only=True)
class PreTraining(ModelOutput):
    """Scores of BERT's two pre-training tasks.

    Attributes:
        loss: the sum of both losses, a scalar; present when both labels were given.
        prediction_logits: (B, T, V).
        seq_relationship_logits: (B, 2): the second text follows the first, or is a random one.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor
    seq_relationship_logits: Tensor


@dataclass(kw_only=True)
class Seq2Seq(ModelOutput):
    """The base of what a model of an encoder and a decoder returns.

    Attributes:
        decoder_hidden_states: as `hidden_states`, of the decoder.
        decoder_attentions: as `attentions`, of the decoder, (B, H, T, T).
        cross_attentions: the decoder's weights on the encoder's tokens, (B, H, T, S) a layer.
        encoder_last_hidden_state: (B, S, E).
        encoder_hidden_states: as `hidden_states`, of the encoder.
        encoder_attentions: as `attentions`, of the encoder, (B, H, S, S).
    """

    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass(kw_only=True)
class Seq2SeqHidden(Seq2Seq):
    """What an encoder and decoder without a head return.

    Attributes:
        last_hidden_state: the decoder's, (B, T, E).
    """

    last_hidden_state: Tensor


@dataclass(kw_only=True)
class Seq2SeqLogits(Seq2Seq, Logits):
    """Scores before normalisation, of a model of an encoder and a decoder."""


@dataclass(kw_only=True)
class Seq2SeqSpans(Seq2Seq, Spans):
    """Scores of where an answer begins and ends, of a model of an encoder and a decoder."""
