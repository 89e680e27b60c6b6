"""One checkpoint in other frameworks: a model of Flax or Keras is filled from its PyTorch twin, and saved as it.

The twin of FlaxBertModel is BertModel. It knows all there is to know about a checkpoint: its config, which names belong
to it and which of them are tied, what files may lack, how weights are drawn, how files are read, checked and written.
So a load lets the twin load, and then moves its parameters over one by one, and a save gives the tensors to a twin
without memory of its own. The twin never computes anything.

The one contract with a framework: a dictionary from the checkpoint's names to a `Slot` each.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .config import Config
from .errors import ArgumentError, InputError, MissingPackageError, WeightsError, did_you_mean
from .generation_config import GenerationConfig
from .model import DTYPES, Model, Skeleton

if TYPE_CHECKING:
    import numpy as np


class Slot(NamedTuple):
    """The place of one parameter in a model of another framework.

    Attributes:
        shape: as in the checkpoint.
        get: gives the value, as a NumPy array of that shape.
        set: takes it.
    """

    shape: tuple[int, ...]
    get: "Callable[[], np.ndarray]"
    set: "Callable[[np.ndarray], None]"


class Framework(NamedTuple):
    """A framework that models are written in.

    Attributes:
        mark: what the names of its classes begin with.
        folder: where their files are.
        packages: what has to be installed.
        extra: what installs it, in `pip install 'pellucid[extra]'`.
    """

    mark: str
    folder: str
    packages: tuple[str, ...]
    extra: str


FRAMEWORKS = {
    "flax": Framework("Flax", "models_flax", ("flax", "jax"), "flax"),
    "tf": Framework("TF", "models_tf", ("tensorflow", "keras"), "tensorflow"),
}


def check_installed(framework: str) -> None:
    """Raise unless a framework is installed.

    Raises:
        MissingPackageError: with the line that installs it.
    """
    _, _, packages, extra = FRAMEWORKS[framework]
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise MissingPackageError(
            f"framework={framework!r} needs packages that are not installed, {' and '.join(missing)}: "
            f"pip install 'pellucid[{extra}]'."
        )


def twin_of(kind: type) -> type[Model]:
    """Return the PyTorch class of a class of another framework, or of a user's subclass of one."""
    for own in kind.__mro__:
        for mark, folder, _, _ in FRAMEWORKS.values():
            if own.__module__.startswith(f"{__package__}.{folder}.") and own.__name__.startswith(mark):
                return getattr(importlib.import_module(str(__package__)), own.__name__.removeprefix(mark))
    raise InputError(f"{kind.__name__} is no class of an architecture; expected one such as FlaxBertModel.")


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Draw random weights from a seed, and leave torch's own random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def arguments(model: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what a model is called with, by the names of the arguments that its `forward` has.

    Raises:
        ArgumentError: for others, and for one that is given twice.
    """
    name, accepts = type(model).__name__, model.accepts
    if len(args) > len(accepts):
        raise ArgumentError(f"{name} takes {len(accepts)} arguments; got {len(args)}.")
    given = dict(zip(accepts, args, strict=False))
    for key in inputs:
        if key not in accepts or key in given:
            raise ArgumentError(
                f"{name} has no argument {key!r}{did_you_mean(key, accepts) or '.'} It takes: {', '.join(accepts)}."
            )
    return given | inputs


def check_values(config: Config, name: str, array: Any) -> None:
    """Raise for ids that a model has no row for, and masks that are none.

    Raises:
        InputError: naming the first of these.
    """
    size = {"token_type_ids": "type_vocab_size"}.get(name, "vocab_size")
    limit = getattr(config, size, None)
    if name.endswith(("input_ids", "token_type_ids")) and limit is not None:
        least, most = int(array.min()), int(array.max())
        if least < 0 or most >= limit:
            wrong = least if least < 0 else most
            raise InputError(f"{name} holds {wrong}; expected 0 to {limit - 1}, as {size} is {limit}.")
    if name.endswith("attention_mask") and not bool(((array == 0) | (array == 1)).all()):
        raise InputError(f"{name} holds something else than 1 on real tokens and 0 on padding.")


def one_of(**arrays: Any) -> Any:
    """Return the one array that is given.

    Raises:
        InputError: if none or several are given.
    """
    given = {name: value for name, value in arrays.items() if value is not None}
    if len(given) != 1:
        raise InputError(f"Give exactly one of {', '.join(arrays)}; got {', '.join(given) or 'none'}.")
    return next(iter(given.values()))


def skeleton(kind: type[Model], config: Config) -> Model:
    """Build a twin of shapes only."""
    with torch.device("meta"), Skeleton():
        return kind(config)


def absent_parts(twin: Model) -> list[str]:
    """Return the optional parts that a checkpoint had nothing of, and which its model is therefore without."""
    return [part for part in twin.optional if getattr(twin, part, twin) is None]


def fill(slots: Mapping[str, Slot], twin: Model) -> None:
    """Move a twin's parameters over; each is let go as soon as it is copied, so that no more than one is there twice.

    Args:
        slots: of all parameters; those that are tied to others may be left out.
        twin: which is empty afterwards.

    Raises:
        WeightsError: if a class and its twin differ.
    """
    check_slots(slots, twin)
    ties = twin.ties
    for name, parameter in twin.named_parameters(remove_duplicate=False):
        if name not in ties:
            slots[name].set(to_numpy(parameter.detach()))
            parameter.data = parameter.data.new_empty(0)


def check_slots(slots: Mapping[str, Slot], twin: Model) -> None:
    """Raise unless a model has the parameters of its twin, in the same shapes."""
    ties = twin.ties
    own = {name: tuple(p.shape) for name, p in twin.named_parameters(remove_duplicate=False)}
    wrong = [name for name in own if name not in slots and name not in ties]
    wrong += [name for name, slot in slots.items() if own.get(name) != tuple(slot.shape)]
    if wrong:
        raise WeightsError(
            f"The model and {type(twin).__name__} differ in {len(wrong)} parameters, which are missing, foreign or of "
            f"another shape: {', '.join(wrong[:6])}. Parameters may be changed, but neither added nor reshaped."
        )


def save(
    path: str | os.PathLike[str],
    kind: type[Model],
    config: Config,
    slots: Mapping[str, Slot],
    generation_config: GenerationConfig,
    **options: Any,
) -> None:
    """Write a folder as `Model.save_pretrained` of the twin does, of which these are the options."""
    twin = skeleton(kind, config)
    for part in twin.optional:
        if hasattr(twin, part) and not any(name.startswith(f"{part}.") for name in slots):
            setattr(twin, part, None)
    check_slots(slots, twin)
    tensors = {name: to_torch(slot.get()) for name, slot in slots.items() if name not in twin.ties}
    twin.to(next(iter(tensors.values())).dtype).generation_config = generation_config
    twin.save_pretrained(path, state_dict=tensors, **options)


def dtype_named(name: str) -> torch.dtype:
    """Return the torch dtype of a name of NumPy's.

    Raises:
        InputError: if parameters can not be of it.
    """
    if name not in DTYPES:
        raise InputError(f"dtype is {name!r}; expected 'auto', {', '.join(map(repr, DTYPES))}.")
    return DTYPES[name]


def to_numpy(tensor: Tensor) -> "np.ndarray":
    """Show a CPU tensor as a NumPy array of the same memory; bfloat16, which NumPy lacks, is that of ml_dtypes."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    from ml_dtypes import bfloat16  # pyright: ignore[reportMissingImports]

    return tensor.view(torch.int16).numpy().view(bfloat16)


def to_torch(array: "np.ndarray") -> Tensor:
    """Turn a NumPy array into a tensor, of the same memory if that may be written to."""
    import numpy as np

    bits = array.view(np.int16) if array.dtype.name == "bfloat16" else array
    tensor = torch.from_numpy(bits if bits.flags.writeable and bits.flags.c_contiguous else bits.copy(order="C"))
    return tensor.view(torch.bfloat16) if array.dtype.name == "bfloat16" else tensor
