"""Adapters: small changes beside a model's frozen weights, several by name, chosen for each call.

A module that changes keeps its place, its name and its weight. Beside them it holds, in `adapters`, what each adapter
adds; `forward` is called as before. So `state_dict()` stays the checkpoint, of the model without adapters.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from . import weights
from .errors import InputError, WeightsError, did_you_mean, refuse_unknown
from .folder import Folder, rewrite
from .hub import HubOptions, locate
from .lora import (
    CONFIG_FILE,
    PREFIX,
    Change,
    LoraConfig,
    detach,
    ends_with,
    is_adaptable,
    own_modules,
    places,
    plan,
    plan_of,
)

WEIGHTS_FILE, OLD_WEIGHTS_FILE = "adapter_model.safetensors", "adapter_model.bin"
TIES = ("tie_word_embeddings", "scale_decoder_outputs")  # T5 scales its output where it is tied, unless told
FILES = (CONFIG_FILE, WEIGHTS_FILE, OLD_WEIGHTS_FILE)


@dataclass
class Switch:
    """Which adapters of a model there are, and which are on.

    Attributes:
        configs: of the adapters, by name.
        active: those that are on where no block says otherwise.
        enabled: whether any is.
        trainable: those that learn while they are on.
        merged: those that are in the weights.
        replaced: the parameters that merging has replaced, by name.
        learning: the model's own parameters that learned before there were adapters.
        said: what the config said about ties before merging.
        blocks: one entry for each block that is open, in any thread.
    """

    configs: dict[str, LoraConfig] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    enabled: bool = True
    trainable: set[str] = field(default_factory=set)
    merged: tuple[str, ...] = ()
    replaced: dict[str, nn.Parameter] = field(default_factory=dict)
    learning: list[nn.Parameter] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)
    blocks: list[object] = field(default_factory=list)

    def names(self) -> tuple[str, ...]:
        """Return the adapters that are on for the calling thread."""
        if self.merged:
            return ()
        for switch, names in reversed(_chosen.get()) if self.blocks else ():  # which a compiler can not look at
            if switch is self:
                return names
        return self.active if self.enabled else ()

    def check(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """Return names as a tuple.

        Raises:
            InputError: if there is no such adapter.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        for name in names:
            if name not in self.configs:
                known = ", ".join(map(repr, self.configs)) or "none"
                raise InputError(
                    f"There is no adapter {name!r}{did_you_mean(name, self.configs) or '.'} There are: {known}."
                )
        return names


_chosen: ContextVar[tuple[tuple[Switch, tuple[str, ...]], ...]] = ContextVar("chosen", default=())


class Changes(nn.ModuleDict):
    """What each adapter does to one module, by the adapter's name; no part of a checkpoint."""

    def __init__(self, switch: Switch):
        super().__init__()
        self.switch = switch
        self.register_load_state_dict_post_hook(_want_no_adapters)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return nothing."""
        return {} if destination is None else destination


def _want_no_adapters(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if ".adapters." not in f".{name}"]


class Adapted(nn.Module):
    """What the class of a module that changes is mixed with, so that it is no longer taken for a plain one."""

    adapters: Changes
    plain: ClassVar[type[nn.Module]]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module, and what the adapters that are on do to it."""
        on: list[Any] = [self.adapters[name] for name in self.adapters.switch.names() if name in self.adapters]
        whole = next((change.whole for change in on if change.whole is not None), None)
        out = super().forward(*args, **kwargs) if whole is None else whole(*args, **kwargs)
        for change in on:
            if change.lora is not None:
                out = (out + change.lora(args[0])).to(out.dtype)
            if change.bias is not None:
                out = out + (change.bias - self.bias).to(out.dtype)
        return out


@functools.cache
def adapted(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class of modules, changed by adapters; where a linear map does more, its product alone changes."""
    more = issubclass(kind, nn.Linear) and kind is not nn.Linear
    bases = (kind, adapted(nn.Linear)) if more else (Adapted, kind)
    return type(f"Adapted{kind.__name__}", bases, {"__module__": kind.__module__, "plain": kind})


def attach(module: nn.Module, name: str, change: Change, switch: Switch) -> None:
    """Give a module the change of an adapter."""
    if not isinstance(module, Adapted):
        module.adapters = Changes(switch)
        module.__class__ = adapted(type(module))
    module.adapters[name] = change  # type: ignore[index,operator]


@contextmanager
def choose(switch: Switch, names: tuple[str, ...]) -> Iterator[None]:
    """While active, and for the calling thread only, let these adapters be on."""
    token = _chosen.set((*_chosen.get(), (switch, names)))
    switch.blocks.append(token)
    try:
        yield
    finally:
        switch.blocks.remove(token)
        _chosen.reset(token)


class Adaptable(nn.Module):
    """What every model can do with adapters."""

    config: Any
    prefix: ClassVar[str] = ""
    heads: ClassVar[tuple[str, ...]] = ()
    uncalled: ClassVar[tuple[str, ...]] = ()

    @property
    def ties(self) -> dict[str, str]:
        """The parameters that are another's under a second name."""
        raise NotImplementedError

    @property
    def switch(self) -> Switch:
        """Which adapters there are, and which are on."""
        return self.__dict__.setdefault("_switch", Switch())

    def add_adapter(self, adapter_config: LoraConfig, adapter_name: str = "default") -> None:
        """Put a new adapter beside the weights, which are frozen, and train and use it alone.

        Args:
            adapter_config: which modules change, and how.
            adapter_name: of the adapter.

        Raises:
            InputError: if the name is taken, or the config names modules that the model has not.
        """
        if not isinstance(adapter_config, LoraConfig):
            raise InputError(f"adapter_config is a {type(adapter_config).__name__}; expected a pellucid.LoraConfig.")
        self._check_new(adapter_name)
        config, changes = plan(self, adapter_config, backbone=self._backbone())
        self._attach(adapter_name, config, changes, is_trainable=True)

    def load_adapter(
        self,
        name: str | os.PathLike | Folder,
        adapter_name: str = "default",
        *,
        is_trainable: bool = False,
        **options: Any,
    ) -> None:
        """Put a saved adapter, of PEFT or ours, beside the weights, and use it alone.

        Args:
            name: a folder with adapter_config.json, or a name on the Hub.
            adapter_name: of the adapter, here.
            is_trainable: whether to go on training it.
            options: those of the Hub.

        Raises:
            HubError: if the files can not be had.
            ConfigError: if its config asks for something that is not implemented.
            WeightsError: if it is not one for this model.
        """
        self._check_new(adapter_name)
        hub = HubOptions.take(options)
        refuse_unknown("load_adapter", options, ["adapter_name", "is_trainable", *vars(hub)])
        with nullcontext(name) if isinstance(name, Folder) else locate(name, hub, want="adapter") as folder:
            config = LoraConfig.from_folder(folder)
            checkpoint = weights.Checkpoint(folder, names=(WEIGHTS_FILE, OLD_WEIGHTS_FILE))
            where = str(folder.path)
            changes = plan_of(self, config, {n: stored.shape for n, stored in checkpoint.tensors.items()}, where)
            found, wrong = places(changes, self, checkpoint.tensors)
            wrong += [n for n, tensor in found.items() if tuple(tensor.shape) != checkpoint.tensors[n].shape]
            wrong += [
                n for n in checkpoint.tensors if n.endswith(".base_layer.weight") and not self._has(n, checkpoint)
            ]
            if wrong:
                raise WeightsError(
                    f"{where} does not fit {type(self).__name__}; missing, unexpected, of another shape, or another "
                    f"model's: {', '.join(wrong[:6])}."
                )
            checkpoint.read({n: tensor.data for n, tensor in found.items()})
        self._attach(adapter_name, config, changes, is_trainable=is_trainable)

    def save_adapter(self, path: str | os.PathLike, adapter_name: str | None = None) -> None:
        """Write an adapter as PEFT does: adapter_config.json and adapter_model.safetensors.

        Args:
            path: the folder, which changes at once or not at all; other files in it stay.
            adapter_name: which; by default the one that is on.

        Raises:
            SaveError: if the folder could not be written; what was there before still is.
        """
        name = self._one(adapter_name)
        with rewrite(path, replaces=FILES.__contains__) as staging:
            self.write_adapter(staging, name)

    def write_adapter(self, path: Path, adapter_name: str) -> None:
        """Write the files of an adapter into a folder that is being written."""
        (path / CONFIG_FILE).write_text(self.switch.configs[adapter_name].to_json_string(), encoding="utf-8")
        tensors = {f"{PREFIX}{name}": tensor for name, tensor in self.get_adapter_state_dict(adapter_name).items()}
        weights.write(path, tensors, max_shard_size=10**17, name=WEIGHTS_FILE)

    def write_own_adapter(self, path: Path) -> None:
        """Write the adapter that a model has into the folder where its weights are being written.

        Raises:
            InputError: if there are several.
        """
        if len(self.switch.configs) > 1 and not self.switch.merged:
            raise InputError(
                f"The model has the adapters {', '.join(self.switch.configs)}; write each with save_adapter(folder, "
                "adapter_name=...), and the model after unload() or merge_and_unload()."
            )
        for name in () if self.switch.merged else self.switch.configs:
            self.switch.configs[name].base_model_name_or_path = None  # it is beside
            self.write_adapter(path, name)

    def load_own_adapter(self, folder: Folder) -> None:
        """Load what `write_own_adapter` wrote, if it is there; an adapter of another model beside weights is none."""
        if CONFIG_FILE in folder and WEIGHTS_FILE in folder:
            values = folder.read_json(CONFIG_FILE)
            if values.get("base_model_name_or_path") is None and values.get("peft_type") == "LORA":
                self.load_adapter(folder)

    def get_adapter_state_dict(self, adapter_name: str | None = None) -> dict[str, Tensor]:
        """Return the tensors of an adapter, by default of the one that is on."""
        name, found = self._one(adapter_name), dict[str, Tensor]()
        for module, change in self._changes(name).items():
            found |= change.tensors(module)
        return {name: tensor.detach() for name, tensor in found.items()}

    # --- choosing -----------------------------------------------------------------------------------------------------

    def set_adapter(self, adapter_name: str | Sequence[str]) -> None:
        """Let an adapter be on, or several, whose changes add up; all others are off."""
        names = self._several(adapter_name)
        self.switch.active, self.switch.enabled = names, True
        for name in self.switch.configs:
            for change in self._changes(name).values():
                change.requires_grad_(name in names and name in self.switch.trainable)

    def active_adapters(self) -> list[str]:
        """Return the names of the adapters that are on."""
        return list(self.switch.names())

    def disable_adapters(self) -> None:
        """Let the model be what it is without adapters, until `enable_adapters`."""
        self.switch.enabled = False

    def enable_adapters(self) -> None:
        """Let those adapters be on again that were."""
        self.switch.enabled = True

    def adapter(self, adapter_name: str | Sequence[str] | None) -> AbstractContextManager[None]:
        """Return a block in which these adapters are on, None for none; other threads do not notice."""
        if self.switch.merged:
            raise InputError("Adapters are merged into the weights; call unmerge_adapter() to choose them again.")
        return choose(self.switch, () if adapter_name is None else self._several(adapter_name))

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter off; after the last one the weights learn again as they did before the first."""
        self.switch.check(adapter_name)
        if self.switch.merged:
            raise InputError("Adapters are merged into the weights; call unmerge_adapter() first.")
        for module in self._adapted().values():
            if adapter_name in module.adapters:
                del module.adapters[adapter_name]
            if not module.adapters:
                detach(module)
        del self.switch.configs[adapter_name]
        self.switch.trainable.discard(adapter_name)
        self.switch.active = tuple(name for name in self.switch.active if name != adapter_name)
        if not self.switch.configs:
            for parameter in self.switch.learning:
                parameter.requires_grad_(True)
            del self.__dict__["_switch"]

    # --- merging ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def merge_adapter(self, adapter_name: str | Sequence[str] | None = None) -> None:
        """Put adapters, by default those that are on, into the weights: nothing is added in a call any more.

        The weights that there were are kept, and `unmerge_adapter` brings them back to the bit. A weight that is tied
        to another is no longer, if only one of both changes.
        """
        switch = self.switch
        if switch.merged:
            raise InputError(f"{', '.join(switch.merged)} is merged already; call unmerge_adapter() first.")
        names = switch.names() if adapter_name is None else self._several(adapter_name)
        merged: dict[str, Tensor] = {}
        for name in names:
            for module, change in self._changes(name).items():
                merged |= change.merged(module, self.get_submodule(module), merged)
        switch.merged = names
        for name, tensor in merged.items():
            switch.replaced[name] = old = self.get_parameter(name)
            self._put(name, nn.Parameter(tensor.to(old.dtype), requires_grad=old.requires_grad))
        if self._untied():
            switch.said = {name: getattr(self.config, name) for name in TIES if name in self.config.fields()}
            if switch.said.get("scale_decoder_outputs", True) is None:
                self.config.scale_decoder_outputs = True
            self.config.tie_word_embeddings = False
        if lost := self._untied():
            self.unmerge_adapter()
            raise InputError(f"{lost[0]} and {self.ties[lost[0]]} are always tied here, and only one of them changes.")

    def unmerge_adapter(self) -> None:
        """Bring back the weights that there were before `merge_adapter`, to the bit."""
        for name, parameter in self.switch.replaced.items():
            self._put(name, parameter)
        for name, value in self.switch.said.items():
            setattr(self.config, name, value)
        self.switch.merged, self.switch.replaced, self.switch.said = (), {}, {}

    def merge_and_unload(self) -> Self:
        """Put the adapters that are on into the weights for good, take all off, and return the model."""
        if not self.switch.merged:
            self.merge_adapter()
        self.switch.merged, self.switch.replaced, self.switch.said = (), {}, {}
        return self.unload()

    def unload(self) -> Self:
        """Take all adapters off and return the model."""
        for name in list(self.switch.configs):
            self.delete_adapter(name)
        return self

    def print_trainable_parameters(self) -> None:
        """Print how many of the parameters learn."""
        own = [p.numel() for p in self.parameters() if p.requires_grad]
        total = sum(p.numel() for p in self.parameters())
        print(f"trainable params: {sum(own):,} || all params: {total:,} || trainable%: {100 * sum(own) / total:.4f}")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _attach(self, name: str, config: LoraConfig, changes: dict[str, Change], *, is_trainable: bool) -> None:
        switch = self.switch
        if uncalled := [module for module in changes if any(ends_with(module, end) for end in self.uncalled)]:
            raise InputError(f"{uncalled[0]} is not called, only its weight is read, which no adapter can change.")
        if not switch.configs:
            switch.learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
            self.requires_grad_(False)
        switch.configs[name] = config
        for module, change in changes.items():
            change.train(self.training)
            attach(self.get_submodule(module), name, change, switch)
        if is_trainable:
            switch.trainable.add(name)
        self.set_adapter(name)

    def _check_new(self, name: str) -> None:
        if name in self.switch.configs:
            raise InputError(f"There is an adapter {name!r} already; choose another name, or delete_adapter({name!r}).")
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
            raise InputError(
                f"adapter_name is {name!r}; expected a name without dots that is no method of a dictionary."
            )
        if self.switch.merged:
            raise InputError("Adapters are merged into the weights; call unmerge_adapter() before adding another.")
        if any(isinstance(m, Adapted) and m.adapters.switch is not self.switch for m in self.modules()):
            raise InputError("A part of this model has adapters of its own; add all to the whole model.")

    def _one(self, name: str | None) -> str:
        names = self.switch.active if name is None else self.switch.check(name)
        if len(names) != 1:
            raise InputError(f"Adapters that are on: {', '.join(names) or 'none'}; say which one: adapter_name=.")
        return names[0]

    def _several(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """Check names of adapters that are to be on together."""
        names, taken = self.switch.check(names), dict[str, str]()
        for name in names:
            for module, change in self._changes(name).items():
                other = taken.get(module)
                if other is not None and (change.lora is None or self._changes(other)[module].lora is None):
                    raise InputError(f"{other} and {name} both replace (a part of) {module}; only one can be on.")
                taken[module] = name
        return names

    def _adapted(self) -> dict[str, Adapted]:
        return {name: module for name, module in own_modules(self).items() if isinstance(module, Adapted)}

    def _changes(self, name: str) -> dict[str, Any]:
        """Return what an adapter does, by module."""
        return {m: module.adapters[name] for m, module in self._adapted().items() if name in module.adapters}

    def _backbone(self) -> list[str]:
        """Return the names of the linear maps that are not the head's."""
        inside = f"{self.prefix}." if self.prefix and hasattr(self, self.prefix) else ""
        return [
            name
            for name, module in own_modules(self).items()
            if is_adaptable(module)
            and not isinstance(module, nn.Embedding)
            and name.startswith(inside)
            and name.split(".")[0] not in self.heads
            and not any(ends_with(name, end) for end in self.uncalled)
        ]

    def _has(self, stored: str, checkpoint: weights.Checkpoint) -> bool:
        """Tell whether the copy of a weight that an adapter's file brings is what the model has."""
        own = dict(self.named_parameters(remove_duplicate=False))
        weight = own.get(stored.removeprefix(PREFIX).replace(".base_layer.", "."))
        return weight is not None and torch.equal(checkpoint.load(stored).to(weight.dtype), weight.cpu())

    def _untied(self) -> list[str]:
        """Return the parameters that should be another, and are not."""
        own = dict(self.named_parameters(remove_duplicate=False))
        return [name for name, source in self.ties.items() if name in own and own[name] is not own.get(source)]

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        module, _, leaf = name.rpartition(".")
        setattr(self.get_submodule(module), leaf, parameter)


class PeftModel:
    """PEFT's way to load an adapter."""

    @staticmethod
    def from_pretrained(model: Any, model_id: str | os.PathLike, adapter_name: str = "default", **options: Any) -> Any:
        """Put a saved adapter beside a model's weights, `model.load_adapter`, and return the model."""
        model.load_adapter(model_id, adapter_name, **options)
        return model


def get_peft_model(model: Any, peft_config: LoraConfig, adapter_name: str = "default") -> Any:
    """Put a new adapter beside a model's weights, `model.add_adapter`, and return the model."""
    model.add_adapter(peft_config, adapter_name)
    return model
