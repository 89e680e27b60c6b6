"""What a folder of the sentence-transformers library holds beside the model: modules.json, and a folder a module."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .. import weights
from ..errors import ConfigError, UnsafeFileError, WeightsError
from ..folder import rewrite
from ..hub import HubOptions, locate

# Names of classes in config files choose among these, and nothing else.
ACTIVATIONS = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}
# What was one switch a mode in older files, in the order in which their vectors are joined.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODELS, POOLINGS = ("Transformer", "MLMTransformer"), ("Pooling", "SpladePooling")
KINDS = (*MODELS, *POOLINGS, "Dense", "LayerNorm", "Normalize", "Dropout")


class Dense(nn.Module):
    """A linear layer and an activation, on sentence vectors, (E,)."""

    def __init__(self, config: dict[str, Any], where: str):
        super().__init__()
        name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        if name not in ACTIVATIONS:
            raise ConfigError(f"{where}: activation_function is {name!r}; expected one of {', '.join(ACTIVATIONS)}.")
        for key in ("module_input_name", "module_output_name"):
            if config.get(key) not in (None, "sentence_embedding"):
                raise ConfigError(f"{where}: {key} is {config[key]!r}; only sentence_embedding is implemented.")
        self.linear = nn.Linear(
            _size(config, "in_features", where),
            _size(config, "out_features", where),
            "bias" not in config or bool(config["bias"]),
        )
        self.activation = ACTIVATIONS[name]()

    def forward(self, x: Tensor) -> Tensor:
        """Project."""
        return self.activation(self.linear(x))


class LayerNorm(nn.Module):
    """A norm with learned weights, on sentence vectors, (E,)."""

    def __init__(self, config: dict[str, Any], where: str):
        super().__init__()
        self.norm = nn.LayerNorm(_size(config, "dimension", where))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(x)


class Normalize(nn.Module):
    """Brings sentence vectors, (..., E), to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the length."""
        return F.normalize(x, dim=-1)


@dataclass(frozen=True)
class Part:
    """One entry of modules.json.

    Attributes:
        kind: its class's name, without the package.
        path: its folder.
        config: its config.json.
        module: what it does to sentence vectors; None for the model and the pooling.
    """

    kind: str
    path: str
    config: dict[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


@dataclass(frozen=True)
class SentenceFolder:
    """The modules of a folder and how it wants texts.

    Attributes:
        parts: the modules in their order; the first is the model.
        reading: sentence_bert_config.json: `max_seq_length`, `do_lower_case`.
        settings: config_sentence_transformers.json: `prompts`, `default_prompt_name`, `similarity_fn_name`.
    """

    parts: tuple[Part, ...]
    reading: dict[str, Any]
    settings: dict[str, Any]

    @property
    def pooling(self) -> Part:
        """The module that makes one vector of many."""
        return next(part for part in self.parts if part.kind in POOLINGS)

    @property
    def modes(self) -> tuple[str, ...]:
        """How the pooling goes; several ways give their vectors one after the other."""
        modes = self.pooling.config.get("pooling_mode")
        if modes is None:
            modes = [mode for switch, mode in SWITCHES.items() if self.pooling.config.get(switch)] or "mean"
        return (modes,) if isinstance(modes, str) else tuple(modes)

    @property
    def after(self) -> nn.Sequential:
        """What happens to pooled vectors."""
        return nn.Sequential(*(part.module for part in self.parts if part.module is not None)).eval()

    def save(self, path: str | os.PathLike) -> None:
        """Write the files beside a model that is saved in the same folder."""
        folder = Path(path)
        entries = []
        for i, part in enumerate(self.parts):
            place = "" if part.kind in MODELS else part.path
            entries.append(
                {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{part.kind}"}
            )
            if place and part.config:
                with rewrite(folder / place) as staging:
                    (staging / "config.json").write_text(json.dumps(part.config, indent=2), encoding="utf-8")
                    if part.module is not None:
                        weights.write(staging, part.module.state_dict())
        files = {
            "sentence_bert_config": self.reading,
            "config_sentence_transformers": self.settings,
            "modules": entries,
        }
        with rewrite(folder) as staging:
            for name, content in files.items():
                (staging / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def read_sentence_folder(name: str | os.PathLike, hub: HubOptions) -> tuple[SentenceFolder | None, HubOptions]:
    """Read the modules of a folder or of a model on the Hub; also return where the model's own files are.

    Returns:
        None and `hub` for a model without modules.json.

    Raises:
        ConfigError: for a module that is not implemented.
        WeightsError: if a module's weights do not fit its config.json.
        UnsafeFileError: if modules.json names anything but folders inside its own.
    """
    with locate(name, hub, want="modules") as folder:
        if "modules.json" not in folder:
            return None, hub
        where = f"{folder.path}/modules.json"
        entries = list(_entries(folder.read_text("modules.json"), where))
        own = hub if not entries[0].path else hub.inside(entries[0].path)
        settings = _read(folder, "config_sentence_transformers.json")
        reading = _reading(folder)
    if own is not hub:
        with locate(name, own, want="modules") as folder:
            reading = _reading(folder)
    parts = tuple(_load(name, hub, part, where) for part in entries)
    return SentenceFolder(parts, reading, settings), own


def _entries(text: str, where: str) -> Iterator[Part]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values) or not values:
        raise ConfigError(f"{where} is no list of modules; fetch it again.")
    for number, value in enumerate(values):
        kind, path = str(value.get("type")).rpartition(".")[2], value.get("path", "")
        if not isinstance(path, str) or (path and not re.fullmatch(r"\w[\w-]*", path, re.ASCII)):
            raise UnsafeFileError(f"{where} names the folder {path!r}; expected a plain name such as 1_Pooling.")
        if kind not in KINDS or (kind in MODELS) != (number == 0):
            raise ConfigError(
                f"{where}: module {number} is a {kind!r}, which is not implemented there; expected a Transformer, then "
                f"of {', '.join(KINDS[2:])}."
            )
        yield Part(kind, path)
    if sum(str(value.get("type")).endswith(POOLINGS) for value in values) != 1:
        raise ConfigError(f"{where} has not one pooling; models with a vector for each token are not implemented.")


def _load(name: str | os.PathLike, hub: HubOptions, part: Part, where: str) -> Part:
    """Read a module's config and weights."""
    if part.kind == "Normalize":
        return replace(part, module=Normalize())
    if part.kind in (*MODELS, "Dropout"):
        return part
    learned = part.kind in ("Dense", "LayerNorm")
    with locate(name, hub.inside(part.path), want="weights" if learned else "config") as folder:
        config, where = folder.read_json("config.json"), str(folder.path)
        if not learned:
            return replace(part, config=config)
        module = Dense(config, where) if part.kind == "Dense" else LayerNorm(config, where)
        checkpoint, own = weights.Checkpoint(folder), module.state_dict()
        found = {tensor: stored.shape for tensor, stored in checkpoint.tensors.items()}
        wanted = {tensor: tuple(value.shape) for tensor, value in own.items()}
        if found != wanted:
            raise WeightsError(f"{where} holds the tensors {found}; its config.json asks for {wanted}.")
        checkpoint.read(own)
        return replace(part, config=config, module=module)


def _read(folder: Any, name: str) -> dict[str, Any]:
    return folder.read_json(name) if name in folder else {}


def _reading(folder: Any) -> dict[str, Any]:
    """Read sentence_bert_config.json, which older folders name after another architecture."""
    names = [name for name in folder.names() if name.startswith("sentence_") and name.endswith("_config.json")]
    return _read(folder, names[0]) if names else {}


def _size(config: dict[str, Any], name: str, where: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 2**16:
        raise ConfigError(f"{where}: {name} is {value!r}; expected a whole number from 1 to 65536.")
    return value
