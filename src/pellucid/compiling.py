"""`Steps`: one program of all that a model does to write a token, made by torch's compiler."""

from collections.abc import Callable
from threading import Lock
from types import FunctionType
from typing import Any

import torch

from .errors import InputError
from .model import Model
from .recording import recording

SMALLEST = 256  # tokens of the smallest cache; each larger one is twice as large, so that there are few programs
KEPT = 2  # programs at a time: each holds weights of its own

# What is constant is the program's own and packed for the CPU; layers that read the same are multiplied at once.
OPTIONS = {
    "freezing": True,
    "cpp_wrapper": True,
    "cpp.enable_concat_linear": True,
    "emulate_precision_casts": True,  # what a model rounds is rounded
}

_making = Lock()


class Steps:
    """A model's forward, in which reading one more token of each text is a program.

    There is one for each number of texts and each size of the cache, which has to be one of a fixed capacity; it is
    made when it is first needed. All else runs as it did.
    """

    def __init__(self, model: Model):
        if model.source_stack or "cache" not in model.accepts:
            raise InputError(
                f"compile=True is for models that write after a prompt; {type(model).__name__} gains nothing by it. "
                "Leave it out."
            )
        _find_compiler()
        self.model = model
        self.programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Run the program if this is a step of writing, else the model's own forward."""
        given = {name: x for name, x in inputs.items() if x is not None}
        if args or not _is_step(given):
            return type(self.model).forward(self.model, *args, **inputs)
        ids, cache = given["input_ids"], given["cache"]
        size = len(ids), cache.capacity, self.model.dtype
        if (program := self.programs.get(size)) is not None:
            return program(ids, cache)
        from torch._inductor import config

        with _making, config.patch(OPTIONS):  # which holds for all threads
            program = _program(self.model)
            output = program(ids, cache)  # it is made when it first runs
            self.programs = dict([*self.programs.items(), (size, program)][-KEPT:])
            return output

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "programs": {}}  # a copy has other weights


def is_compiled(model: Any) -> bool:
    """Tell whether a model writes by programs."""
    return isinstance(vars(model).get("forward"), Steps)


def room(tokens: int) -> int:
    """Return the capacity of a cache for some tokens."""
    return max(SMALLEST, 1 << (tokens - 1).bit_length())


def _is_step(given: dict[str, Any]) -> bool:
    if set(given) != {"input_ids", "cache", "logits_to_keep"} or torch.is_grad_enabled() or recording():
        return False
    cache = given["cache"]
    return cache.capacity is not None and given["input_ids"].shape[1] == given["logits_to_keep"] == 1 and len(cache) > 0


def _program(model: Model) -> Callable[..., Any]:
    def step(input_ids: torch.Tensor, cache: Any) -> Any:
        return type(model).forward(model, input_ids=input_ids, cache=cache, logits_to_keep=1)  # type: ignore[call-arg]

    # The compiler tells programs apart by their code and by guards. Guards would take a tenth of a step: each program
    # has code of its own instead.
    own = FunctionType(step.__code__.replace(), step.__globals__, closure=step.__closure__)
    options: Any = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _find_compiler() -> None:
    """Raise unless there is what makes programs of C++.

    Raises:
        InputError: saying what to install.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError("compile=True needs a compiler of C++, such as g++; install one.") from error
