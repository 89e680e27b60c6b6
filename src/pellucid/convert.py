"""`convert`: any checkpoint, one GGUF file or a folder of old .bin files, as an ordinary folder of safetensors."""

import os
from contextlib import suppress
from typing import Any

from . import auto
from .config import read_values
from .errors import MissingFileError
from .gguf import GGUFFolder
from .hub import HubOptions, locate
from .tokenizer import AutoTokenizer


def convert(source: str | os.PathLike, target: str | os.PathLike, *, dtype: str = "auto", **options: Any) -> list[str]:
    """Load a checkpoint and save it as a folder: config.json, model.safetensors, and the tokenizer's files.

    Args:
        source: a GGUF file, a folder, or a name on the Hub.
        target: the folder to write; it changes at once or not at all.
        dtype: of the saved weights; by default what the config or the files say.
        options: those of the Hub, and `gguf_file`.

    Returns:
        The names of the files that are now there.

    Raises:
        HubError: if the files can not be had.
        ConfigError: if no class is known that reads them.
        WeightsError: if the tensors are not those of the class.
    """
    hub = HubOptions.take(options)
    with locate(source, hub, want="weights") as folder:
        model = _class_of(folder).from_pretrained(folder, dtype=dtype, **options)
    model.save_pretrained(target)
    with suppress(MissingFileError):  # of a model that reads no text
        AutoTokenizer.from_pretrained(source, **_as_arguments(hub)).save_pretrained(target)
    return sorted(os.listdir(target))


def _class_of(folder: Any) -> Any:
    """Return the class that saved a folder, else its architecture's backbone; a GGUF file holds a language model."""
    values = read_values(folder)
    architecture = auto.architecture_of(values, f"{folder.path}/config.json")
    if isinstance(folder, GGUFFolder):
        return auto.AutoModelForCausalLM.class_for(architecture)
    names = values.get("architectures") or []
    named = [head for head in auto.heads_of(architecture).values() if head.__name__ in names]
    return named[0] if named else auto.AutoModel.class_for(architecture)


def _as_arguments(hub: HubOptions) -> dict[str, Any]:
    return {name: value for name, value in vars(hub).items() if value != getattr(HubOptions(), name)}
