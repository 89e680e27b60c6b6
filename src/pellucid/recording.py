"""Hidden states and attention weights, taken from outside by hooks while a model runs."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .attention import watch_attention


@dataclass
class Recording:
    """What was seen: the input of the first layer, then every layer's output; and every layer's attention weights."""

    hidden_states: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)


_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


def recording() -> bool:
    """Tell whether this thread is inside `record`."""
    return _current.get() is not None


@contextmanager
def record(backbone: nn.Module, layers: Iterable[nn.Module], *, attentions: bool) -> Iterator[Recording]:
    """Record what passes through a backbone's layers; the last hidden state is the one that the backbone returns.

    Other threads may use the same model meanwhile; they are not seen.
    """
    seen = Recording()

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if _current.get() is seen and not seen.hidden_states:
            seen.hidden_states.append(args[0])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _current.get() is seen:
            seen.hidden_states.append(output[0] if isinstance(output, tuple) else output)

    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _current.get() is seen and seen.hidden_states:
            seen.hidden_states[-1] = output.last_hidden_state  # some normalise once more after the last layer

    with ExitStack() as stack:
        stack.callback(backbone.register_forward_hook(end).remove)
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(before).remove)
            stack.callback(layer.register_forward_hook(after).remove)
        stack.callback(_current.reset, _current.set(seen))
        if attentions:
            seen.attentions = stack.enter_context(watch_attention())
        yield seen
