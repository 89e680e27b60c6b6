"""`TFModel`: a `keras.Model` on TensorFlow that loads the checkpoints of its PyTorch twin, with the same numbers."""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
import torch
from typing_extensions import Self

from . import foreign
from .config import Config
from .errors import ArgumentError, InputError
from .folder import Folder
from .generation_config import GenerationConfig
from .loading import LoadReport
from .model import Model
from .tf_attention import TFCache, TFLayout
from .tf_ragged import pad, pad_data


class TFModel(keras.Model):
    """The base of every architecture's Keras classes.

    `TFBertModel(config)` has zeros in the place of weights: load them with `from_pretrained`, or draw them with
    `from_config`.

    Called with named tensors, as in `model(**inputs)`, it returns what its twin does. Called with one dictionary, as
    Keras does in `fit`, `predict` and `export`, it returns a dictionary; labels among the inputs then give the loss, so
    that `compile` needs none.
    """

    accepts: ClassVar[tuple[str, ...]] = ()  # the arguments of forward
    returns: ClassVar[type] = dict  # what forward returns
    checkpoint_names: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        signature = inspect.signature(cls.forward)
        cls.accepts, cls.returns = tuple(signature.parameters)[1:], signature.return_annotation

    def __init__(self, config: Config):
        check_backend()
        super().__init__()
        config.check()  # fields may have been set since it was built
        self._config, self.generation_config = config, GenerationConfig.unsaid()
        self.load_report: LoadReport | None = None  # what `from_pretrained` did; None for a model that was not loaded
        self._filled = False
        self.built = True

    @classmethod
    def twin(cls) -> type[Model]:
        """Return the PyTorch class of the same checkpoints: BertModel for TFBertModel."""
        return foreign.twin_of(cls)

    @property
    def config(self) -> Any:
        """The configuration, of the same class as the twin's."""
        return self._config

    def num_parameters(self) -> int:
        """Count the parameters; tied ones once."""
        return sum(int(np.prod(v.shape)) for v in {id(v): v for _, v in named_parameters(self)}.values())

    # --- calling ------------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Compute; what it takes, each class says."""
        raise TypeError(f"{type(self).__name__} does not say how to compute.")

    def call(
        self, inputs: dict[str, Any], beside: dict[str, Any] | None = None, training: bool | None = None
    ) -> dict[str, Any]:
        """Compute for Keras: from tensors and, beside them, what is none; `training` reaches dropout by itself."""
        return dict(self.forward(**inputs, **beside or {}).items())

    def compute(self, inputs: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Run `forward` in Keras' way, with its dtype policy and its dropout, on inputs that nobody needs to check."""
        beside = {name: value for name, value in inputs.items() if not hasattr(value, "shape")}
        tensors = {name: value for name, value in inputs.items() if name not in beside}
        return super().__call__(inputs=tensors, beside=beside or None, training=training)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, training: bool | None = None, **inputs: Any) -> Any:
        """Run `forward` on tensors of TensorFlow, ragged ones too, or arrays of NumPy.

        Args:
            args: the first arguments of `forward`; or all of them, as one dictionary.
            training: whether dropout is on.
            inputs: the other arguments of `forward`.

        Raises:
            ArgumentError: for an argument that `forward` does not have.
            InputError: for what is no tensor or not of whole numbers, and, outside of compiled functions, for ids
                outside the vocabulary; compiled functions give NaN for these.
        """
        by_keras = len(args) == 1 and type(args[0]) is dict and not inputs
        if len(args) == 1 and isinstance(args[0], Mapping):
            args, inputs = (), {**args[0], **inputs}
        given = foreign.arguments(self, args, inputs)
        if not self._filled:
            raise InputError(
                f"This {type(self).__name__} has no weights yet. Load them with from_pretrained(name), or draw them "
                "with from_config(config)."
            )
        given = pad(given, self.config.pad_token_id)
        given = {name: self._checked(name, value) for name, value in given.items() if value is not None}
        parts = self.compute(given, training)
        if not by_keras:
            return self.returns(**parts)
        if (loss := parts.pop("loss", None)) is not None:
            self.add_loss(loss)
        return parts

    def fit(self, x: Any = None, *args: Any, validation_data: Any = None, **options: Any) -> Any:
        """Train as every `keras.Model`; texts may be ragged."""
        if isinstance(validation_data, tuple | list):
            validation_data = (self._padded(validation_data[0]), *validation_data[1:])
        options["validation_data"] = self._padded(validation_data)
        return super().fit(self._padded(x), *args, **options)

    def evaluate(self, x: Any = None, *args: Any, **options: Any) -> Any:
        """Measure as every `keras.Model`; texts may be ragged."""
        return super().evaluate(self._padded(x), *args, **options)

    def predict(self, x: Any, *args: Any, **options: Any) -> Any:
        """Predict as every `keras.Model`; texts may be ragged."""
        return super().predict(self._padded(x), *args, **options)

    def _padded(self, data: Any) -> Any:
        return pad_data(data, self.config.pad_token_id)

    def _checked(self, name: str, value: Any) -> Any:
        """Return an input as it can be computed with."""
        if isinstance(value, TFLayout | TFCache | int | keras.KerasTensor):
            return value
        if not isinstance(value, tf.Tensor | np.ndarray):
            raise InputError(
                f"{name} is a {type(value).__name__}; expected a tensor: tokenize with return_tensors='tf'."
            )
        kind = tf.as_dtype(value.dtype)
        if name.endswith("_ids") and not kind.is_integer:
            raise InputError(f"{name} is of {kind.name}; expected whole numbers, such as int32.")
        longest = self.config.max_tokens
        if name == "input_ids" and longest is not None and (value.shape[-1] or 0) > longest:
            raise InputError(f"input_ids has {value.shape[-1]} tokens; {type(self).__name__} reads at most {longest}.")
        value = tf.cast(value, "int32") if kind.is_integer else tf.convert_to_tensor(value)
        if tf.is_symbolic_tensor(value) or not np.size(value):
            return value
        foreign.check_values(self.config, name, np.asarray(value))
        return value

    one_of = staticmethod(foreign.one_of)

    def run(self, **inputs: Any) -> Any:
        """Run `forward` compiled and in evaluation mode; the result is NumPy's."""
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        program = _run.get_concrete_function(self, tensors)  # `_run` itself would warn of sizes that are many
        parts = program(self, tensors)
        return self.returns(**{name: part.numpy() for name, part in parts.items()})

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> tf.Tensor:
        """Continue prompts, (B, P), and return them with what was written; see `pellucid.tf_generation.write`."""
        return self.write(input_ids, attention_mask, **options)[0]

    def write(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Do the same, and return how many tokens were written in each row, too."""
        from .tf_generation import write

        prompts = pad({"input_ids": input_ids, "attention_mask": attention_mask}, self.config.pad_token_id)
        return write(self, *prompts.values(), **options)

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
        """Load a checkpoint.

        Args:
            name: a folder, by its path or open, or a name such as `"google-bert/bert-base-uncased"`.
            dtype: of the weights: `"bfloat16"`, `tf.bfloat16`, ..., or `"auto"` for what config.json says, else the
                files. Float32 weights compute as Keras' dtype policy says, others as they are.
            seed: of a new head's weights.
            output_loading_info: whether to return `(model, report)`.
            options: as in `Model.from_pretrained`, but for the device, which TensorFlow chooses.

        Raises:
            HubError, ConfigError, WeightsError, ArgumentError: as `Model.from_pretrained`.
            InputError: if Keras runs on something else than TensorFlow.
        """
        check_backend()
        options.pop("from_pt", None)  # every checkpoint is one of PyTorch
        for place in ("device", "device_map"):
            if place in options:
                raise ArgumentError(f"{cls.__name__} has no argument {place!r}; use `with tf.device(...)`.")
        wanted = _read_dtype(options.pop("torch_dtype", dtype))
        with foreign.drawing(seed):
            twin = cls.twin().from_pretrained(name, dtype=wanted, **options)
        model = cls._of(twin)
        return (model, model.load_report) if output_loading_info else model  # type: ignore[return-value]

    @classmethod
    def from_config(cls, config: Config, *, dtype: Any = None, seed: int = 0) -> Self:  # type: ignore[override]
        """Build with random weights, drawn as in PyTorch.

        Args:
            config: of this class's architecture.
            dtype: of the weights; `"float32"` by default.
            seed: of the weights.
        """
        check_backend()
        wanted = None if dtype is None else _read_dtype(dtype)
        with foreign.drawing(seed):
            twin = cls.twin().from_config(config, dtype=wanted)
        return cls._of(twin)

    @classmethod
    def _of(cls, twin: Model) -> Self:
        """Build the model of a PyTorch one, which is empty afterwards."""
        if {parameter.dtype for parameter in twin.parameters()} != {twin.dtype}:
            raise InputError(
                f"{twin.dtype} is too narrow for parts of {type(twin).__name__}, which only PyTorch keeps in float32; "
                "pass dtype='bfloat16' or 'float32'."
            )
        parts = {"add_pooling_layer": False} if "pooler" in foreign.absent_parts(twin) else {}
        with _policy(str(twin.dtype).removeprefix("torch.")):
            model = cls(twin.config, **parts)
        parameters = dict(named_parameters(model))
        for name, source in twin.ties.items():
            if name in parameters and source in parameters:
                *path, leaf = name.split(".")
                holder = _inside(model, path)
                delattr(holder, leaf)  # so that Keras forgets the variable
                setattr(holder, leaf, parameters[source])
        foreign.fill(slots(model), twin)
        model.generation_config, model.load_report = twin.generation_config, twin.load_report
        model._filled = True
        return model

    def save_pretrained(self, path: str | os.PathLike, **options: Any) -> None:
        """Write what PyTorch loads, config.json and model.safetensors or shards; see `Model.save_pretrained`."""
        foreign.save(path, self.twin(), self.config, slots(self), self.generation_config, **options)

    def get_config(self) -> dict[str, Any]:
        """Refuse what Keras would write of its own; `save_weights` works.

        Raises:
            InputError: naming what to call instead.
        """
        raise InputError(
            f"{type(self).__name__} is not saved in Keras' own format: call save_pretrained(folder), which every "
            "framework loads, export(folder) for serving, or save_weights(file) for the weights alone."
        )

    def export(self, filepath: Any, format: str = "tf_saved_model", **options: Any) -> None:
        """Write a SavedModel that needs no Pellucid: texts of any number and length, as ids and masks.

        Args:
            filepath: a folder.
            format: as in `keras.Model.export`.
            options: likewise; `input_signature` instead of all ids and masks that the model takes.
        """
        known = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask")
        shape = (None,) * (3 if self.twin().__name__.endswith("ForMultipleChoice") else 2)
        signature = [{n: keras.InputSpec(dtype="int32", shape=shape, name=n) for n in known if n in self.accepts}]
        super().export(filepath, format, **{"input_signature": signature, "verbose": False, **options})


@tf.function(autograph=False)
def _run(model: TFModel, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return model(inputs, training=False)


def check_backend() -> None:
    """Raise unless Keras runs on TensorFlow.

    Raises:
        InputError: saying what to set.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(
            f"Keras runs on {backend!r} in this process, but TF classes need 'tensorflow'. Set the environment "
            "variable KERAS_BACKEND to tensorflow before keras is imported, or take the PyTorch or the Flax class."
        )


def named_parameters(layer: Any, prefix: str = "") -> Iterator[tuple[str, keras.Variable]]:
    """Yield each weight with its name in the checkpoint, which is its path; tied ones under each of their names."""
    names = getattr(layer, "checkpoint_names", {})
    for name, value in enumerate(layer) if isinstance(layer, list) else vars(layer).items():
        place = f"{prefix}{names.get(name, name)}"
        if str(name).startswith("_"):  # Keras' own
            continue
        if isinstance(value, keras.Variable):
            yield place, value
        elif isinstance(value, keras.layers.Layer | list):
            yield from named_parameters(value, f"{place}.")


def slots(model: TFModel) -> dict[str, foreign.Slot]:
    """Return the places of all weights."""
    return {
        name: foreign.Slot(tuple(variable.shape), variable.numpy, variable.assign)
        for name, variable in named_parameters(model)
    }


def _inside(model: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(model, list):
            model = model[int(part)]
        else:
            own = {there: here for here, there in getattr(model, "checkpoint_names", {}).items()}
            model = getattr(model, own.get(part, part))
    return model


@contextmanager
def _policy(dtype: str) -> Iterator[None]:
    """Build layers with weights of a dtype; the user's own policy counts, where its weights are of that."""
    before = keras.config.dtype_policy()
    if before.variable_dtype == dtype:
        yield
        return
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _read_dtype(dtype: Any) -> str | torch.dtype:
    """Read a dtype of TensorFlow, NumPy or PyTorch, or the name of one."""
    if isinstance(dtype, torch.dtype) or (isinstance(dtype, str) and dtype == "auto"):
        return dtype
    try:
        return foreign.dtype_named(tf.as_dtype(dtype).name)
    except TypeError:
        return foreign.dtype_named(str(dtype))
