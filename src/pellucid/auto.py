"""From config.json to a class: `model_type` names the file, the task's suffix names the class in it.

There is no registry. `AutoModelForMaskedLM` on a `model_type` of `"bert"` is `BertForMaskedLM` of `models/bert.py`.
Only architectures that are another's with other defaults share its file, and `KIN` says which.
"""

import importlib
import os
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from .config import Config, read_values, shorten
from .errors import ConfigError, InputError, did_you_mean
from .folder import Folder
from .hub import HubOptions, locate

if TYPE_CHECKING:
    from .model import Model


KIN = {  # architecture -> the file it shares
    "camembert": "roberta",
    "flaubert": "xlm",
    "mt5": "t5",
    "new": "gte",
    "xlm_roberta": "roberta",
}
OTHER_KIN = {"mistral": "llama", "qwen2": "llama", "qwen3": "llama"}  # more of it, outside of PyTorch


@cache
def architectures() -> list[str]:
    """List all architectures there are, as their `model_type` with underscores: ["albert", "apertus", ...]."""
    from . import models

    return sorted([*(module.name for module in pkgutil.iter_modules(models.__path__)), *KIN])


def architecture_of(values: dict[str, Any], where: str, model_type: str | None = None) -> str:
    """Return the architecture of a config.json, by `model_type`, else by the class in `architectures`.

    Args:
        values: the content of the file.
        where: the file, for messages.
        model_type: what the caller knows, for a file that does not say.

    Raises:
        ConfigError: if there is none, with the nearest one, or if the file contradicts the caller.
    """
    kind = values.get("model_type")
    if None not in (kind, model_type) and kind != model_type:
        raise ConfigError(f"{where} says model_type {shorten(kind)}; leave model_type={shorten(model_type)} out.")
    kind = model_type if kind is None else kind
    if kind is None:  # configs of 2018 and 2019 have no model_type
        named = values.get("architectures")
        classes = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        pairs = [(architecture_of_class(name), name) for name in classes]
        kind = next((kind for kind, name in pairs if kind and hasattr(module_of(kind), name)), None)
    if kind is None:
        raise ConfigError(
            f"{where} has no model_type, and its architectures name no known class. If you know which it is, say so: "
            f"model_type='bert'. pellucid.auto.architectures() lists all {len(architectures())} there are."
        )
    if not isinstance(kind, str) or kind.replace("-", "_") not in architectures():
        raise ConfigError(
            f"{where}: no architecture is called {shorten(kind)}"
            f"{did_you_mean(shorten(kind), architectures(), most=3) or '.'} "
            f"pellucid.auto.architectures() lists all {len(architectures())} there are."
        )
    return kind.replace("-", "_")


def architecture_of_class(name: str) -> str | None:
    """Return the architecture to which a class of this name would belong, or None."""
    plain = name.lower().replace("_", "")
    fitting = [kind for kind in architectures() if plain.startswith(kind.replace("_", "").removesuffix("text"))]
    return max(fitting, key=len, default=None)


def module_of(architecture: str) -> Any:
    """Import an architecture's file."""
    return importlib.import_module(f".models.{KIN.get(architecture, architecture)}", __package__)


def config_class(architecture: str) -> type[Config]:
    """Return the Config class of an architecture."""
    for value in vars(module_of(architecture)).values():
        if isinstance(value, type) and issubclass(value, Config) and value.model_type.replace("-", "_") == architecture:
            return value
    raise ConfigError(f"models/{KIN.get(architecture, architecture)}.py has no Config of model_type {architecture!r}.")


def read_config(folder: Folder, model_type: str | None = None, **overrides: Any) -> Config:
    """Read config.json of an open folder with the class its model_type, or else the caller's, asks for."""
    where = f"{folder.path}/config.json"
    values = read_values(folder)
    return config_class(architecture_of(values, where, model_type)).from_dict(values, where=where, **overrides)


def architectures_in(framework: str) -> list[str]:
    """List the architectures that another framework, "flax" or "tf", has classes of."""
    from .foreign import FRAMEWORKS

    folder = importlib.import_module(f".{FRAMEWORKS[framework].folder}", __package__)
    files = {module.name for module in pkgutil.iter_modules(folder.__path__)}
    return [kind for kind in architectures() if (KIN | OTHER_KIN).get(kind, kind) in files]


def counterpart(kind: "type[Model]", framework: str) -> Any:
    """Return the class of another framework that is what a PyTorch class is: FlaxBertModel for BertModel.

    Raises:
        MissingPackageError: if the framework is not installed.
        ConfigError: if there is none; with the architectures or classes that there are.
    """
    from .foreign import FRAMEWORKS, check_installed

    mark, folder, _, _ = FRAMEWORKS[framework]
    name, architecture = f"{mark}{kind.__name__}", architecture_of_class(kind.__name__) or ""
    if architecture not in (known := architectures_in(framework)):
        raise ConfigError(
            f"There is no {name}: {framework!r} has classes of {', '.join(known) or 'nothing'}. "
            f"Load {architecture} in PyTorch, with {kind.__name__}."
        )
    check_installed(framework)
    if framework == "tf":
        from .tensorflow_import import import_tensorflow

        import_tensorflow()
    module = importlib.import_module(f".{folder}.{(KIN | OTHER_KIN).get(architecture, architecture)}", __package__)
    if not hasattr(module, name):
        stem = f"{mark}{kind.config_class.__name__.removesuffix('Config')}"
        has = [own for own, value in vars(module).items() if own.startswith(stem) and hasattr(value, "from_pretrained")]
        raise ConfigError(f"There is no {name}; of {architecture}, {framework!r} has: {', '.join(has)}.")
    return getattr(module, name)


def class_in(name: str) -> Any:
    """Return a class of another framework by its name, FlaxBertModel or FlaxAutoModel; None if there is none."""
    from .foreign import FRAMEWORKS

    framework, mark = next((f, other.mark) for f, other in FRAMEWORKS.items() if name.startswith(other.mark))
    plain = name.removeprefix(mark)
    if isinstance(auto := globals().get(plain), type) and issubclass(auto, AutoModel):
        return auto_in(auto, framework)
    architecture = architecture_of_class(plain)
    kind = vars(module_of(architecture)).get(plain) if architecture else None
    try:
        return None if kind is None else counterpart(kind, framework)
    except ConfigError as error:
        raise AttributeError(str(error)) from None


@cache
def auto_in(auto: "type[AutoModel]", framework: str) -> "type[AutoModel]":
    """Return what loads models of another framework: FlaxAutoModel for AutoModel."""
    from .foreign import FRAMEWORKS

    values = {"framework": framework, "__doc__": auto.__doc__, "__module__": __name__}
    return type(f"{FRAMEWORKS[framework].mark}{auto.__name__}", (auto,), values)


class AutoConfig:
    """Reads a configuration of any architecture."""

    def __init__(self) -> None:
        raise InputError("AutoConfig is not built but loaded: AutoConfig.from_pretrained(name).")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options: Any) -> Config:
        """Read the configuration of a folder or a model on the Hub.

        Args:
            name: a folder, or a name such as `"google-bert/bert-base-uncased"`.
            options: `model_type`, for a config.json that does not name its own; others as in `Config.from_pretrained`.

        Raises:
            ConfigError: if the architecture is unknown or the configuration impossible.
        """
        with locate(name, HubOptions.take(options), want="config") as folder:
            return read_config(folder, **options)

    @classmethod
    def for_model(cls, model_type: str, **fields: Any) -> Config:
        """Build the default configuration of an architecture, with some fields changed."""
        return config_class(architecture_of({"model_type": model_type}, "for_model"))(**fields)


class AutoModel:
    """Loads the backbone of any architecture: hidden states without a task head."""

    suffixes: ClassVar[tuple[str, ...]] = ("Model",)
    framework: ClassVar[str] = "pt"

    def __init__(self) -> None:
        name = type(self).__name__
        raise InputError(
            f"{name} is not built but loaded: {name}.from_pretrained(name), or {name}.from_config(config)."
        )

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, config: Config | None = None, model_type: str | None = None, **options: Any
    ) -> "Model":
        """Load a checkpoint, in evaluation mode.

        Args:
            name: a folder, or a name such as `"google-bert/bert-base-uncased"`.
            config: instead of the one beside the weights.
            model_type: the architecture, such as `"bert"`, for a config.json that does not name its own.
            options: as in `Model.from_pretrained`.

        Raises:
            ConfigError: if the architecture is unknown or has no such head.
        """
        if config is not None:
            architecture = cls._architecture(config, model_type)
            return cls._class(architecture).from_pretrained(name, config=config, **options)
        with locate(name, HubOptions.take(options), want="weights") as folder:
            architecture = architecture_of(read_values(folder), f"{folder.path}/config.json", model_type)
            return cls._class(architecture).from_pretrained(folder, **options)

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> "Model":
        """Build with random weights, in training mode; options as in `Model.from_config`."""
        return cls._class(cls._architecture(config)).from_config(config, **options)

    @staticmethod
    def _architecture(config: Config, model_type: str | None = None) -> str:
        if not isinstance(config, Config):
            raise InputError(f"config is a {type(config).__name__}; expected a configuration, as AutoConfig gives.")
        return architecture_of({"model_type": config.model_type}, type(config).__name__, model_type)

    @classmethod
    def _class(cls, architecture: str) -> Any:
        kind = cls.class_for(architecture)
        return kind if cls.framework == "pt" else counterpart(kind, cls.framework)

    @classmethod
    def class_for(cls, architecture: str) -> "type[Model]":
        """Return the PyTorch class of an architecture's file that has this head.

        Raises:
            ConfigError: if it has none, with those it has.
        """
        heads = heads_of(architecture)
        for suffix in cls.suffixes:
            if suffix in heads:
                return heads[suffix]
        has = ", ".join(head.__name__ for head in heads.values())
        raise ConfigError(f"{architecture} has no class for {cls.__name__}; it has: {has}.")


def heads_of(architecture: str) -> "dict[str, type[Model]]":
    """Return an architecture's classes by suffix: {"Model": BertModel, "ForMaskedLM": BertForMaskedLM, ...}."""
    from .model import Model

    module = module_of(architecture)
    stem = config_class(architecture).__name__.removesuffix("Config")
    whole = stem.removesuffix("Text")  # the text part of a model of more lends heads the name of the whole
    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Model)]
    names = {v.__name__.removeprefix(stem).removeprefix(whole): v for v in classes if v.__module__ == module.__name__}
    heads = ("Model", "EncoderModel", "MTModel", "For", "LMHead", "WithLMHead")
    return {s: v for s, v in names.items() if s.startswith(heads)}


class AutoModelForTextEncoding(AutoModel):
    """Loads a model that turns a text into hidden states: an encoder, without the decoder that may stand beside it."""

    suffixes = ("EncoderModel", "Model")

    @classmethod
    def class_for(cls, architecture: str) -> "type[Model]":
        """Return the class of an architecture's file that is an encoder.

        Raises:
            ConfigError: if there is none, as for models that write on.
        """
        found = super().class_for(architecture)
        if "cache" in found.accepts:
            raise ConfigError(f"{architecture} has no encoder of its own, a {found.__name__} writes; use AutoModel.")
        return found


class AutoModelForPreTraining(AutoModel):
    """Loads a model with its pre-training heads."""

    suffixes = ("ForPreTraining", "ForMaskedLM", "WithLMHeadModel", "LMHeadModel", "ForCausalLM")


class AutoModelForCausalLM(AutoModel):
    """Loads a model that writes on, token by token."""

    suffixes = ("ForCausalLM", "LMHeadModel")


class AutoModelForSeq2SeqLM(AutoModel):
    """Loads a model that reads one text and writes another."""

    suffixes = ("ForConditionalGeneration", "MTModel")

    @classmethod
    def class_for(cls, architecture: str) -> "type[Model]":
        """Return the class of an architecture's file that has this head; two halves put together have one class."""
        return heads_of(architecture)["Model"] if architecture == "encoder_decoder" else super().class_for(architecture)


class AutoModelForMaskedLM(AutoModel):
    """Loads a model that fills in masked words."""

    suffixes = ("ForMaskedLM", "WithLMHeadModel")


class AutoModelForNextSentencePrediction(AutoModel):
    """Loads a model that tells whether one text follows another."""

    suffixes = ("ForNextSentencePrediction",)


class AutoModelForSequenceClassification(AutoModel):
    """Loads a model that labels whole texts."""

    suffixes = ("ForSequenceClassification",)


class AutoModelForTokenClassification(AutoModel):
    """Loads a model that labels each token."""

    suffixes = ("ForTokenClassification",)


class AutoModelForQuestionAnswering(AutoModel):
    """Loads a model that finds an answer in a text."""

    suffixes = ("ForQuestionAnsweringSimple", "ForQuestionAnswering")


class AutoModelForMultipleChoice(AutoModel):
    """Loads a model that picks one of several continuations."""

    suffixes = ("ForMultipleChoice",)
