"""What models return: results read by attribute, key, index or unpacking, with absent parts skipped."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(kw_only=True)
class ModelOutput:
    """The base of every result: `out.logits`, `out["logits"]`, `out[0]` and `loss, logits = out` all work.

    Parts that are `None` do not count: they are no key, and indices and unpacking skip them.

    Attributes:
        hidden_states: on `output_hidden_states=True`: the embeddings, then each layer's output, (B, T, E); the last
            is the backbone's `last_hidden_state`.
        attentions: on `output_attentions=True`: each layer's weights, (B, H, T, T); rows sum to 1.
    """

    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the parts that are present as a tuple."""
        return tuple(self.values())

    def items(self) -> list[tuple[str, Any]]:
        """Return the parts that are present as (name, value), what was recorded on request last."""
        inherited = len(ModelOutput.__dataclass_fields__)
        names = [field.name for field in dataclasses.fields(self)]
        pairs = [(name, getattr(self, name)) for name in names[inherited:] + names[:inherited]]
        return [(name, value) for name, value in pairs if value is not None]

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
