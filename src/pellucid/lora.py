"""LoRA: a change of low rank beside a frozen weight, W + scale B A, and its settings as PEFT's files have them.

Paper: Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685

Shapes: I in, O out, R rank, V vocabulary, E hidden.
"""

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ConfigError, InputError, WeightsError, did_you_mean
from .folder import Folder

CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."  # of every name in PEFT's files

# The heads that a task trains in full beside LoRA, by PEFT's names of tasks.
HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
    "CAUSAL_LM": (),
    "SEQ_2_SEQ_LM": (),
    "FEATURE_EXTRACTION": (),
}

# Keys of PEFT's files that say nothing about numbers; others that are not fields here must be empty.
BOOKKEEPING = {
    *("peft_type", "peft_version", "auto_mapping", "inference_mode", "revision", "runtime_config"),
    *("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    "fan_in_fan_out",  # which way round a weight is stored: its module says so
}


LORA_A = (".lora_A.weight", ".lora_embedding_A")
QUERIES_AND_VALUES = (  # what architectures call the projections that the paper changes
    *(("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("q", "v"), ("query_proj", "value_proj")),
    *(("query_key_value",), ("qkv_proj",), ("c_attn",), ("Wqkv",), ("self.in_proj",)),
)


@dataclass(kw_only=True)
class LoraConfig:
    """Which modules change, and how. Names are those of PEFT; a name stands for every module whose name ends with it.

    Attributes:
        r: the rank, R.
        lora_alpha: the scale is this divided by the rank.
        lora_dropout: of what goes into A, in training.
        target_modules: the modules that change; "all-linear" for every linear map of the backbone; None for the
            projections of queries and values, as in the paper.
        exclude_modules: those among them that do not.
        modules_to_save: modules that are trained in full, such as a new head.
        task_type: "SEQ_CLS", "TOKEN_CLS" and "QUESTION_ANS" train the head in full; others change nothing.
        bias: which biases are trained: "none", "lora_only" for those of the modules that change, or "all".
        use_rslora: whether to divide by the rank's square root: https://arxiv.org/abs/2312.03732.
        layers_to_transform: the numbers of the layers that change; None for all.
        layers_pattern: what a list of layers is called, where the last number in a module's name is not its layer's.
        rank_pattern: other ranks, by name.
        alpha_pattern: other values of `lora_alpha`, by name.
        init_lora_weights: True draws A uniformly, "gaussian" normally, and B is 0; False draws both.
        base_model_name_or_path: the model that the change was trained for.

    Raises:
        ConfigError: if a value is impossible.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: Sequence[str] | str | None = None
    exclude_modules: Sequence[str] | None = None
    modules_to_save: Sequence[str] | None = None
    task_type: str | None = None
    bias: str = "none"
    use_rslora: bool = False
    layers_to_transform: Sequence[int] | int | None = None
    layers_pattern: Sequence[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    init_lora_weights: bool | str = True
    base_model_name_or_path: str | None = None

    def __post_init__(self):
        self.task_type = getattr(self.task_type, "value", self.task_type)  # of PEFT's enumeration
        self.rank_pattern, self.alpha_pattern = dict(self.rank_pattern or {}), dict(self.alpha_pattern or {})
        if faults := list(self._faults()):
            raise ConfigError(f"LoraConfig: {'; '.join(faults)}.")

    def _faults(self):
        """Yield what is impossible."""
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            if type(rank) is not int or rank < 1:
                yield f"the rank {name} is {rank!r}, expected a whole number from 1"
        if not 0 <= self.lora_dropout < 1:
            yield f"lora_dropout is {self.lora_dropout}, expected a number from 0 to below 1"
        if self.bias not in ("none", "lora_only", "all"):
            yield f"bias is {self.bias!r}, expected 'none', 'lora_only' or 'all'"
        if self.init_lora_weights not in (True, False, "gaussian"):
            yield (
                f"init_lora_weights is {self.init_lora_weights!r}, expected True, False or 'gaussian'; ways that "
                "change the model's own weights are not implemented"
            )
        if self.task_type is not None and self.task_type not in HEADS:
            yield f"task_type is {self.task_type!r}, expected one of {', '.join(HEADS)}"
        if isinstance(self.exclude_modules, str):
            yield "exclude_modules is a text, expected a list of names"
        for name in (*self.rank_pattern, *self.alpha_pattern):
            if not is_name(name):
                yield f"the pattern {name!r} is a regular expression, expected a module's name or its end"

    @property
    def saved_modules(self) -> tuple[str, ...]:
        """The names of the modules that are trained in full, those of the task included."""
        return (*(self.modules_to_save or ()), *HEADS.get(self.task_type or "", ()))

    def rank(self, module: str) -> int:
        """Return the rank of a module's change."""
        return next((rank for name, rank in self.rank_pattern.items() if ends_with(module, name)), self.r)

    def scale(self, module: str) -> float:
        """Return what a module's change is multiplied with."""
        alpha = next((a for name, a in self.alpha_pattern.items() if ends_with(module, name)), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def is_chosen(self, module: str) -> bool:
        """Tell whether neither its layer nor a name rules a module out."""
        if any(ends_with(module, name) for name in self.exclude_modules or ()):
            return False
        if self.layers_to_transform is None:
            return True
        wanted, lists = self.layers_to_transform, self.layers_pattern or ()
        layer = layer_of(module, (lists,) if isinstance(lists, str) else lists)
        return layer in ((wanted,) if isinstance(wanted, int) else wanted)

    @classmethod
    def from_folder(cls, folder: Folder) -> "LoraConfig":
        """Read adapter_config.json.

        Raises:
            MissingFileError: if there is none.
            ConfigError: if it is of another method, or asks for something that changes numbers and is not implemented.
        """
        values, where = folder.read_json(CONFIG_FILE), f"{folder.path}/{CONFIG_FILE}"
        if values.get("peft_type") != "LORA":
            raise ConfigError(f"{where} is of the method {values.get('peft_type')!r}; only 'LORA' is implemented.")
        own = {f.name for f in fields(cls)}
        if foreign := [name for name in values if values[name] and name not in own and name not in BOOKKEEPING]:
            raise ConfigError(
                f"{where} has {', '.join(f'{name}={values[name]!r:.60}' for name in foreign)}, which changes what LoRA "
                "computes and is not implemented."
            )
        try:
            return cls(**{name: value for name, value in values.items() if name in own})
        except (ConfigError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_json_string(self) -> str:
        """Return the content of an adapter_config.json that PEFT reads."""
        values = asdict(self) | {"peft_type": "LORA", "inference_mode": True, "fan_in_fan_out": False}
        return json.dumps(values, indent=2, sort_keys=True, default=list) + "\n"


class Lora(nn.Module):
    """The change of one module: B A x, scaled.

    Attributes:
        A: (R, I); of an embedding (R, V).
        B: (O, R); of an embedding (E, R).
        scale: of the change.

    Args:
        module: a linear map or an embedding; its weight says the sizes, the device, and the dtype, float32 at least.
        rank: of the change.
        scale: of the change.
        dropout: of what goes in, in training; not of an embedding.
    """

    def __init__(self, module: nn.Module, rank: int, *, scale: float, dropout: float):
        super().__init__()
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.is_embedding, self.is_transposed = isinstance(module, nn.Embedding), not isinstance(module, nn.Linear)
        inner, outer = weight.shape if self.is_transposed else weight.T.shape
        exact = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
        self.A = nn.Parameter(torch.empty(rank, inner, **exact))
        self.B = nn.Parameter(torch.empty(outer, rank, **exact))
        self.scale, self.dropout = scale, dropout

    @torch.no_grad()
    def draw(self, how: bool | str) -> None:
        """Draw A and B as `init_lora_weights` says; the change is 0 unless that is False."""
        if self.is_embedding:
            self.A.zero_() if how is not False else self.A.normal_()
            self.B.normal_()
            return
        if how == "gaussian":
            self.A.normal_(std=1 / len(self.A))
        else:
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B.zero_() if how is not False else nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the module's output; `x` is its input."""
        if self.is_embedding:
            return F.linear(F.embedding(x, self.A.T), self.B) * self.scale
        x = F.dropout(x.to(self.A.dtype), self.dropout, self.training)
        return F.linear(F.linear(x, self.A), self.B) * self.scale

    def delta(self) -> Tensor:
        """Return what is added to the module's weight, in its shape."""
        change = self.B @ self.A * self.scale
        return change.T if self.is_transposed else change


class Change(nn.Module):
    """What one adapter does to one module.

    Attributes:
        lora: is added to what comes out.
        bias: takes the bias's place.
        whole: takes the module's place.
    """

    def __init__(self, lora: Lora | None = None, bias: nn.Parameter | None = None, whole: nn.Module | None = None):
        super().__init__()
        self.lora, self.bias, self.whole = lora, bias, whole

    def merged(self, name: str, module: nn.Module, so_far: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a module's parameters become, by their names in the model.

        Args:
            name: of the module.
            module: itself.
            so_far: what other adapters have made of them.
        """
        if self.whole is not None:
            return {f"{name}.{leaf}": tensor for leaf, tensor in self.whole.named_parameters()}
        made: dict[str, Tensor] = {}
        if self.lora is not None:
            weight = so_far.get(f"{name}.weight", module.weight)
            made[f"{name}.weight"] = weight + self.lora.delta()  # type: ignore[operator]
        if self.bias is not None:
            made[f"{name}.bias"] = self.bias
        return made

    def tensors(self, module: str) -> dict[str, Tensor]:
        """Return the tensors under the names that PEFT's files have them by."""
        found: dict[str, Tensor] = {}
        if self.lora is not None:
            name = f"{module}.lora_embedding_{{}}" if self.lora.is_embedding else f"{module}.lora_{{}}.weight"
            found |= {name.format("A"): self.lora.A, name.format("B"): self.lora.B}
        if self.bias is not None:
            found[f"{module}.bias" if self.lora is None else f"{module}.base_layer.bias"] = self.bias
        if self.whole is not None:
            found |= {f"{module}.{name}": tensor for name, tensor in self.whole.state_dict(keep_vars=True).items()}
        return found


def is_adaptable(module: nn.Module) -> bool:
    """Tell whether LoRA can change a module: a linear map, stored either way round, or an embedding."""
    return isinstance(module, nn.Linear | nn.Embedding) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)  # each architecture has its own


def detach(module: nn.Module) -> None:
    """Take all adapters off a module."""
    del module.adapters
    module.__class__ = type(module).plain  # type: ignore[assignment]


def ends_with(module: str, name: str) -> bool:
    """Tell whether a module's dotted name is `name`, or ends with it."""
    return module == name or module.endswith(f".{name}")


def layer_of(module: str, lists: Sequence[str] = ()) -> int | None:
    """Return the number of the layer that a module is in: the last in its name, or the last after one of `lists`."""
    parts = module.split(".")
    for i in range(len(parts) - 2, 0, -1):
        if parts[i].isdecimal() and (not lists or parts[i - 1] in lists):
            return int(parts[i])
    return None


def is_name(text: str) -> bool:
    """Tell whether a text is a dotted name, and no regular expression."""
    return all(part.replace("_", "a").replace("-", "a").isalnum() for part in text.split("."))


# --- what an adapter does to a model ----------------------------------------------------------------------------------


def plan(model: nn.Module, config: LoraConfig, *, backbone: Sequence[str]) -> tuple[LoraConfig, dict[str, Change]]:
    """Return what a config does to a model's modules, drawn at random, by the module's name.

    Args:
        model: with its modules.
        config: of the adapter.
        backbone: the maps that "all-linear" stands for.

    Returns:
        The config, with the names that it left open, and the changes.

    Raises:
        InputError: if a name in the config is no module's, or one's that can not change.
    """
    modules = own_modules(model)
    for part in config.modules_to_save or ():
        if part not in HEADS["SEQ_CLS"] and not any(ends_with(name, part) for name in modules):
            raise InputError(f"modules_to_save: the model has no {part!r}{did_you_mean(part, _ends(modules)) or '.'}")
    whole = [name for name in modules if _is_saved(name, config)]
    free = {name: module for name, module in modules.items() if not _saved_part(name, config)}
    config = replace(config, target_modules=_wanted(free, config, backbone))
    targets = [name for name in free if _is_target(name, config)]
    changes = {name: Change(_lora(free, name, config)) for name in targets}
    if not changes:
        raise InputError("target_modules, exclude_modules and layers_to_transform leave no module; check the names.")
    for change in changes.values():
        change.lora.draw(config.init_lora_weights)  # type: ignore[union-attr]
    biased = {"none": list, "lora_only": lambda: targets, "all": lambda: _owners_of_biases(free).values()}
    for name in biased[config.bias]():
        _set_bias(changes, free, name)
    return config, changes | {name: Change(whole=_plain_copy(modules[name])) for name in whole}


def plan_of(
    model: nn.Module, config: LoraConfig, shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, Change]:
    """Return what an adapter's file does to a model's modules, by the module's name; its numbers are not read.

    Args:
        model: with its modules.
        config: of the adapter.
        shapes: of the tensors in the file, by name.
        where: the file, for messages.

    Raises:
        WeightsError: if the file is not one of this config and model.
    """
    modules, changes = own_modules(model), dict[str, Change]()
    names = [name.removeprefix(PREFIX) for name in shapes]
    for name, shape in zip(names, shapes.values(), strict=True):
        module = next((name.removesuffix(end) for end in LORA_A if name.endswith(end)), None)
        if module is not None and module in modules and is_adaptable(modules[module]):
            if shape[0] != config.rank(module):
                raise WeightsError(f"{where}: {name} has rank {shape[0]}, {CONFIG_FILE} says {config.rank(module)}.")
            changes[module] = Change(_lora(modules, module, config))
    owners = _owners_of_biases(modules, strict=False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        owner = owner.removesuffix(".base_layer")
        saved = _saved_part(owner, config) or owner
        if ".lora_" in name or name.endswith(".base_layer.weight") or saved not in modules:
            continue  # taken above; or a copy of what the model has; or for another model
        if saved == owner and leaf == "bias" and config.bias != "none" and not _is_saved(owner, config):
            _set_bias(changes, modules, owners.get(id(modules[owner].bias), owner))
        else:
            changes.setdefault(saved, Change(whole=_plain_copy(modules[saved])))
    lost = [] if isinstance(config.target_modules, str) else [n for n in modules if _is_target(n, config)]
    lost = [n for n in lost if n not in changes and is_adaptable(modules[n]) and not _saved_part(n, config)]
    if lost or not changes:
        raise WeightsError(
            f"{where} does not fit {type(model).__name__}: it has nothing for {', '.join(lost[:4]) or 'any module'}. "
            "Was it trained for another class of model?"
        )
    return changes


def places(
    changes: Mapping[str, Change], model: nn.Module, names: Iterable[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Match the names in a file with the parameters of an adapter.

    Args:
        changes: the adapter, by module.
        model: that it changes.
        names: in the file.

    Returns:
        The parameter of each name, and the names of what is missing, or has no place.
    """
    free = {name: tensor for module, change in changes.items() for name, tensor in change.tensors(module).items()}
    own = dict(model.named_parameters(remove_duplicate=False))
    biases = {id(own[f"{module}.bias"]) for module, change in changes.items() if change.bias is not None}
    found: dict[str, Tensor] = {}
    left: list[str] = []
    for name in names:
        place = name.removeprefix(PREFIX)
        older = f"{place.removesuffix('.bias')}.base_layer.bias"  # which PEFT once wrote without its middle
        if (place if place in free else older) in free:
            found[name] = free.pop(place if place in free else older)
        elif not place.endswith(".base_layer.weight") and id(own.get(place)) not in biases:  # a tied bias's other name
            left.append(name)
    return found, [*free, *left]


def own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return a model's modules by name, less itself and the parts of adapters."""
    return {name: module for name, module in model.named_modules() if name and ".adapters" not in f".{name}"}


def _wanted(modules: Mapping[str, nn.Module], config: LoraConfig, backbone: Sequence[str]) -> list[str]:
    """Return the names that `target_modules` stands for, each of which is that of some module."""
    if config.target_modules == "all-linear":
        return [name for name in backbone if name in modules]
    if isinstance(config.target_modules, str):
        raise InputError(
            f"target_modules is {config.target_modules!r}; expected a list of the modules' names or their ends, or "
            "'all-linear'. Regular expressions are not read."
        )
    if not config.target_modules:
        known = [name for name, module in modules.items() if is_adaptable(module)]
        for names in QUERIES_AND_VALUES:
            if all(any(ends_with(name, end) for name in known) for end in names):
                return list(names)
        raise InputError(f"target_modules is missing; say which change, of: {', '.join(sorted(_ends(known)))}.")
    for part in config.target_modules:
        if not any(ends_with(name, part) for name in modules):
            raise InputError(f"target_modules: the model has no {part!r}{did_you_mean(part, _ends(modules)) or '.'}")
    return list(config.target_modules)


def _is_target(name: str, config: LoraConfig) -> bool:
    return any(ends_with(name, part) for part in config.target_modules or ()) and config.is_chosen(name)


def _is_saved(name: str, config: LoraConfig) -> bool:
    return any(ends_with(name, part) for part in config.saved_modules)


def _saved_part(name: str, config: LoraConfig) -> str | None:
    """Return the module that is trained in full and that another is, or is inside of."""
    parts = name.split(".")
    outer = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next((module for module in outer if _is_saved(module, config)), None)


def _lora(modules: Mapping[str, nn.Module], name: str, config: LoraConfig) -> Lora:
    if not is_adaptable(modules[name]):
        kind = type(modules[name]).__name__
        raise InputError(f"target_modules: {name} is a {kind}; LoRA changes linear maps and embeddings.")
    return Lora(modules[name], config.rank(name), scale=config.scale(name), dropout=config.lora_dropout)


def _set_bias(changes: dict[str, Change], modules: Mapping[str, nn.Module], name: str) -> None:
    bias = getattr(modules[name], "bias", None)
    if isinstance(bias, nn.Parameter) and _adds_its_bias(modules[name]):
        changes.setdefault(name, Change()).bias = nn.Parameter(bias.detach().clone())


def _owners_of_biases(modules: Mapping[str, nn.Module], *, strict: bool = True) -> dict[int, str]:
    """Return, for each bias by its identity, the module that adds it to what comes out.

    Raises:
        InputError: if a bias is added elsewhere.
    """
    owners: dict[int, str] = {}
    for name, module in modules.items():
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter) and _adds_its_bias(module):
            owners.setdefault(id(bias), name)
    for name, module in modules.items():
        for leaf, parameter in module.named_parameters(recurse=False):
            if strict and leaf.endswith("bias") and id(parameter) not in owners:
                raise InputError(f"bias='all': {name}.{leaf} is no bias of a linear map or norm; use 'lora_only'.")
    return owners


def _adds_its_bias(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.LayerNorm) or _is_conv1d(module)


def _ends(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def _plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module without adapters, to train; in float32 at least."""
    made = copy.deepcopy(module)
    for part in list(made.modules()):
        if "adapters" in part._modules:
            detach(part)
    if isinstance(made, nn.Linear) and type(made) is not nn.Linear:
        raise InputError(f"A {type(made).__name__} is more than a linear map; it can not be copied and trained.")
    made.requires_grad_(True)
    dtype = next(made.parameters()).dtype
    return made.to(torch.promote_types(dtype, torch.float32))
