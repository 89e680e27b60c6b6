"""Hidden states and attention weights, taken from outside by hooks while a model runs."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .attention import Watched, watch_attention


@dataclass
class Recording:
    """What was seen of a stack of layers.

    Attributes:
        hidden_states: the input of the first layer, then every layer's output.
        attentions: every layer's attention weights.
    """

    hidden_states: list[Tensor] = field(default_factory=list)
    attentions: Watched = field(default_factory=Watched)


_current: ContextVar[tuple[Recording, ...]] = ContextVar("recording", default=())


def recording() -> bool:
    """Tell whether this thread is inside `record`."""
    return bool(_current.get())


@contextmanager
def record(backbone: nn.Module, layers: Iterable[nn.Module], *, attentions: bool) -> Iterator[Recording]:
    """Record what passes through a backbone's layers; the last hidden state is the one that the backbone returns.

    An encoder and a decoder are recorded by one block each, one inside the other. Other threads may use the same model
    meanwhile; they are not seen.
    """
    seen, watching = Recording(), ExitStack()

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        if attentions and _is_seen(seen):
            watching.enter_context(watch_attention(seen.attentions))

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if _is_seen(seen) and not seen.hidden_states:
            seen.hidden_states.append(args[0])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _is_seen(seen):
            seen.hidden_states.append(output[0] if isinstance(output, tuple) else output)

    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _is_seen(seen):
            watching.close()
            if seen.hidden_states:
                seen.hidden_states[-1] = output.last_hidden_state  # some normalise once more after the last layer

    with ExitStack() as stack:
        stack.callback(backbone.register_forward_pre_hook(begin).remove)
        stack.callback(backbone.register_forward_hook(end).remove)
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(before).remove)
            stack.callback(layer.register_forward_hook(after).remove)
        stack.callback(_current.reset, _current.set((*_current.get(), seen)))
        stack.enter_context(watching)
        yield seen


def _is_seen(recording: Recording) -> bool:
    return any(recording is current for current in _current.get())
