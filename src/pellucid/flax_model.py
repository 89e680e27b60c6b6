"""`FlaxModel`: an `nnx.Module` that loads the checkpoints of its PyTorch twin, and gives the same numbers."""

import dataclasses
import inspect
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax import Array
from jax.core import Tracer
from typing_extensions import Self

from . import foreign, outputs
from .config import Config
from .errors import ArgumentError, InputError
from .flax_attention import FlaxCache, FlaxLayout
from .folder import Folder
from .generation_config import GenerationConfig
from .loading import LoadReport
from .model import Model

# What a traced function may return.
for _output in [kind for kind in vars(outputs).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]:
    jax.tree_util.register_dataclass(_output, [field.name for field in dataclasses.fields(_output)], [])


class _Beside:
    """What stands beside the parameters and is not traced; it is compared by identity, since its parts may change."""

    def __init__(self, config: Config):
        self.config = config
        self.generation_config = GenerationConfig.unsaid()
        self.load_report: LoadReport | None = None


class FlaxModel(nnx.Module):
    """The base of every architecture's Flax classes.

    `FlaxBertModel(config, rngs=...)` has shapes in the place of weights: load them with `from_pretrained`, or draw them
    with `from_config`. `train()` and `eval()` switch dropout on and off, as in every `nnx.Module`.
    """

    accepts: ClassVar[tuple[str, ...]] = ()  # the arguments of forward

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.accepts = tuple(inspect.signature(cls.forward).parameters)[1:]

    def __init__(self, config: Config):
        config.check()  # fields may have been set since it was built
        self._beside = _Beside(config)

    @classmethod
    def twin(cls) -> type[Model]:
        """Return the PyTorch class of the same checkpoints: BertModel for FlaxBertModel."""
        return foreign.twin_of(cls)

    @property
    def config(self) -> Any:
        """The configuration, of the same class as the twin's."""
        return self._beside.config

    @property
    def generation_config(self) -> GenerationConfig:
        """How the model writes when nobody says otherwise."""
        return self._beside.generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._beside.generation_config = config

    @property
    def load_report(self) -> LoadReport | None:
        """What `from_pretrained` did; None for a model that was not loaded."""
        return self._beside.load_report

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the parameters."""
        return next(parameter.get_value().dtype for _, parameter in named_parameters(self))

    def num_parameters(self) -> int:
        """Count the parameters; tied ones once."""
        return sum(parameter.get_value().size for parameter in {id(p): p for _, p in named_parameters(self)}.values())

    # --- calling ------------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Compute; what it takes, each class says."""
        raise TypeError(f"{type(self).__name__} does not say how to compute.")

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Run `forward` on arrays of JAX or NumPy.

        Raises:
            ArgumentError: for an argument that `forward` does not have.
            InputError: for what is no array or not of whole numbers, and, outside of compiled functions, for ids
                outside the vocabulary; compiled functions give NaN for these.
        """
        given = foreign.arguments(self, args, inputs)
        if isinstance(next(p for _, p in named_parameters(self)).get_value(), jax.ShapeDtypeStruct):
            raise InputError(
                f"This {type(self).__name__} has no weights yet. Load them with from_pretrained(name), or draw them "
                "with from_config(config)."
            )
        given = {name: self._checked(name, value) for name, value in given.items() if value is not None}
        self._check_length(given.get("input_ids"), given.get("attention_mask"))
        return self.forward(**given)

    def _check_length(self, ids: Array | None, mask: Any) -> None:
        """Refuse texts that are too long; of compiled ones that are padded, only the table of positions knows."""
        longest = self.config.max_tokens
        if ids is None or longest is None or ids.shape[-1] <= longest or isinstance(mask, FlaxLayout | Tracer):
            return
        length = ids.shape[-1] if mask is None else int(mask.sum(-1).max())
        if length > longest:
            raise InputError(f"input_ids has {length} tokens; {type(self).__name__} reads at most {longest}.")

    def _checked(self, name: str, value: Any) -> Any:
        """Return an input as it can be computed with."""
        if not isinstance(value, Array | np.ndarray):
            if isinstance(value, FlaxLayout | FlaxCache | int) or dataclasses.is_dataclass(value):
                return value
            raise InputError(
                f"{name} is a {type(value).__name__}; expected an array: tokenize with return_tensors='jax'."
            )
        if name.endswith("_ids") and value.dtype.kind not in "iu":
            raise InputError(f"{name} is of {value.dtype}; expected whole numbers, such as int32.")
        if isinstance(value, Tracer) or not value.size:
            return value
        foreign.check_values(self.config, name, value)
        return jnp.asarray(value)

    one_of = staticmethod(foreign.one_of)

    def run(self, **inputs: Any) -> Any:
        """Run `forward` compiled and in evaluation mode, whatever mode the model is in; the result is NumPy's."""
        graph, state = nnx.split(self)
        return jax.tree.map(np.asarray, _run(graph, state, inputs))

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Array:
        """Continue prompts, (B, P), and return them with what was written; see `pellucid.flax_generation.write`."""
        return self.write(input_ids, attention_mask, **options)[0]

    def write(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> tuple[Array, Array]:
        """Do the same, and return how many tokens were written in each row, too."""
        from .flax_generation import write

        return write(self, input_ids, attention_mask, **options)

    # --- loading and saving -------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike | Folder,
        *,
        dtype: Any = "auto",
        seed: int = 0,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Self:
        """Load a checkpoint, in evaluation mode.

        Args:
            name: a folder, by its path or open, or a name such as `"google-bert/bert-base-uncased"`.
            dtype: of the parameters: `"bfloat16"`, `jnp.bfloat16`, ..., or `"auto"` for what config.json says, else the
                files.
            seed: of dropout, and of a new head's weights.
            output_loading_info: whether to return `(model, report)`.
            options: as in `Model.from_pretrained`, but for the device, which JAX chooses.

        Raises:
            HubError, ConfigError, WeightsError, ArgumentError: as `Model.from_pretrained`.
            InputError: for float64, unless JAX is told to have it.
        """
        options.pop("from_pt", None)  # every checkpoint is one of PyTorch
        for place in ("device", "device_map"):
            if place in options:
                raise ArgumentError(f"{cls.__name__} has no argument {place!r}; use `with jax.default_device(...)`.")
        wanted = _read_dtype(options.pop("torch_dtype", dtype))
        with foreign.drawing(seed):
            twin = cls.twin().from_pretrained(name, dtype=wanted, **options)
        model = cls._of(twin, seed)
        model.eval()
        return (model, model.load_report) if output_loading_info else model  # type: ignore[return-value]

    @classmethod
    def from_config(cls, config: Config, *, dtype: Any = None, seed: int = 0) -> Self:
        """Build with random weights, drawn as in PyTorch, in training mode.

        Args:
            config: of this class's architecture.
            dtype: of the parameters; `"float32"` by default.
            seed: of the weights, and of dropout.
        """
        wanted = None if dtype is None else _read_dtype(dtype)
        with foreign.drawing(seed):
            twin = cls.twin().from_config(config, dtype=wanted)
        return cls._of(twin, seed)

    @classmethod
    def _of(cls, twin: Model, seed: int) -> Self:
        """Build the model of a PyTorch one, which is empty afterwards."""
        _refuse_float64(twin.dtype)
        model = cls(twin.config, rngs=nnx.Rngs(seed))  # type: ignore[call-arg]
        for part in foreign.absent_parts(twin):
            setattr(model, part, None)
        parameters = dict(named_parameters(model))
        for name, source in twin.ties.items():
            if name in parameters and source in parameters:
                *path, leaf = name.split(".")
                setattr(_inside(model, path), leaf, parameters[source])
        foreign.fill(slots(model), twin)
        model._beside.generation_config, model._beside.load_report = twin.generation_config, twin.load_report
        return model

    def save_pretrained(self, path: str | os.PathLike, **options: Any) -> None:
        """Write what PyTorch loads, config.json and model.safetensors or shards; see `Model.save_pretrained`."""
        foreign.save(path, self.twin(), self.config, slots(self), self.generation_config, **options)


@partial(jax.jit, static_argnames="graph")
def _run(graph: Any, state: Any, inputs: dict[str, Array]) -> Any:
    model = nnx.merge(graph, state)
    model.eval()
    return model.forward(**inputs)


def named_parameters(module: Any, prefix: str = "") -> Iterator[tuple[str, nnx.Param]]:
    """Yield each parameter with its name in the checkpoint, which is its path; tied ones under each of their names."""
    for name, value in enumerate(module) if isinstance(module, nnx.List) else vars(module).items():
        if isinstance(value, nnx.Param):
            yield f"{prefix}{name}", value
        elif isinstance(value, nnx.Module | nnx.List):
            yield from named_parameters(value, f"{prefix}{name}.")


def slots(model: FlaxModel) -> dict[str, foreign.Slot]:
    """Return the places of all parameters."""

    def slot(parameter: nnx.Param) -> foreign.Slot:
        return foreign.Slot(
            tuple(parameter.get_value().shape),
            lambda: np.asarray(parameter.get_value()),
            lambda array: parameter.set_value(jnp.asarray(array)),
        )

    return {name: slot(parameter) for name, parameter in named_parameters(model)}


def _inside(model: Any, path: list[str]) -> Any:
    for part in path:
        model = model[int(part)] if part.isdecimal() else getattr(model, part)
    return model


def _read_dtype(dtype: Any) -> str | torch.dtype:
    """Read a dtype of JAX, NumPy or PyTorch, or the name of one."""
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    _refuse_float64(found := foreign.dtype_named(name))
    return found


def _refuse_float64(dtype: torch.dtype) -> None:
    if dtype == torch.float64 and not jax.config.read("jax_enable_x64"):
        raise InputError(
            "The parameters would be float64, which JAX cuts to float32 unless it is told otherwise: pass "
            "dtype='float32', or call jax.config.update('jax_enable_x64', True) first."
        )
