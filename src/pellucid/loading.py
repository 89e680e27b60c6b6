"""From a checkpoint's tensors to a model's parameters: every one is written exactly once, or the load raises."""

import logging
import os
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from .config import Config
from .errors import ConfigError, WeightsError, did_you_mean
from .weights import Checkpoint, same_bits

if TYPE_CHECKING:
    from .model import Model

log = logging.getLogger("pellucid")

PRETRAINING = ("ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction")  # other heads go on from these


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        loaded: parameters that hold the checkpoint's values.
        new: parameters of a head that the user asked for, drawn at random; train them before use.
        ignored: tensors of the checkpoint that belong to other heads.
        dtype: the parameters' dtype.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    ignored: tuple[str, ...]
    dtype: torch.dtype


def check_depth(config: Config, tensors: int) -> None:
    """Refuse a config of many more layers than there are tensors, before its modules are built.

    Raises:
        ConfigError: naming the field and both numbers.
    """
    for name in config.fields():
        value = getattr(config, name)
        if isinstance(value, Config):
            check_depth(value, tensors)
        if name.endswith("layers") and isinstance(value, int) and value > 4 * tensors:
            raise ConfigError(
                f"{name} is {value}, but the checkpoint holds {tensors} tensors; "
                "config.json and weights do not belong together."
            )


def load(
    model: "Model",
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    new_head: bool,
    reshape_head: bool,
) -> LoadReport:
    """Give a model built on the meta device the checkpoint's values.

    Args:
        model: on the meta device.
        checkpoint: the tensors.
        dtype: of the parameters, whatever the files hold.
        device: of the parameters.
        new_head: whether head tensors that the checkpoint lacks may be drawn at random.
        reshape_head: whether head tensors of another shape may be drawn at random instead.

    Raises:
        WeightsError: with everything that does not fit, grouped.
    """
    _drop_absent_parts(model, checkpoint)
    expected = model.state_dict(keep_vars=True)
    found, ignored = _assign_names(model, checkpoint)
    saved, alike = _alike(model, found)
    if alike and not new_head:
        raise WeightsError(
            f"The weights in {checkpoint.folder.path} are of {saved}, says its config.json; its head has tensors of "
            f"the same names as that of {type(model).__name__}, but learned another task: {', '.join(alike[:6])}.\n"
            f"  Load it with {saved}. To train a new head, say so: num_labels=..., or ignore_mismatched_sizes=True."
        )
    foreign = [found.pop(name) for name in alike]
    tied = model.ties
    for name, source in tied.items():
        if name in found and source in expected and source not in found:  # stored once, under the other name
            found[source] = found.pop(name)
    stored = checkpoint.tensors
    shapes = {
        name: (list(stored[source].shape), list(expected[name].shape))
        for name, source in found.items()
        if stored[source].shape != tuple(expected[name].shape)
    }
    inexact = {
        name: stored[source].dtype for name, source in found.items() if not stored[source].dtype.is_floating_point
    }
    missing = [name for name in expected if name not in found and name not in tied]
    head_missing = [name for name in missing if _is_head(model, name)]
    head_shapes = [name for name in shapes if _is_head(model, name)]
    faults = {
        "missing in the checkpoint": [n for n in missing if not (new_head and n in head_missing)],
        "not in the model": [n for n in ignored if _is_backbone_name(model, n, checkpoint)],
        "of another shape": [n for n in shapes if not (reshape_head and n in head_shapes)],
        "not floating point": [f"{n} ({kind})" for n, kind in inexact.items()],
    }
    if any(faults.values()):
        only_head = set(missing) <= set(head_missing) and set(shapes) <= set(head_shapes)
        raise WeightsError(_explain(model, checkpoint, faults, shapes, only_head))
    _check_ties(model, checkpoint, found, tied)
    new = [*head_missing, *head_shapes]
    sources = {name: stored for name, stored in found.items() if name not in new and name not in tied}
    _fill(model, checkpoint, sources, new, tied, dtype, device)
    if new:
        log.warning("%s: new and untrained, train before use: %s", type(model).__name__, ", ".join(new))
    return LoadReport(tuple(sources), tuple(new), (*ignored, *foreign), dtype)


# --- names ------------------------------------------------------------------------------------------------------------


def _assign_names(model: "Model", checkpoint: Checkpoint) -> tuple[dict[str, str], list[str]]:
    """Match the model's names with the checkpoint's: (model name -> stored name, stored names without a place)."""
    expected = set(model.state_dict(keep_vars=True))
    prefix, add, strip = f"{model.prefix}.", "", ""
    if _is_headed(model, checkpoint):
        strip = "" if hasattr(model, model.prefix) else prefix
    else:
        add = prefix if hasattr(model, model.prefix) else ""
    found: dict[str, str] = {}
    left: list[str] = []
    for stored in checkpoint.tensors:
        name = _modern(model, stored)
        names = [name[len(strip) :]] if name.startswith(strip) else []  # else a tensor of another head
        place = next((n for n in [*names, *(add + n for n in names)] if n in expected and n not in found), None)
        if place is not None:
            found[place] = stored
        elif not model.is_unread(name):
            left.append(stored)
    return found, left


def _alike(model: "Model", found: dict[str, str]) -> tuple[str, list[str]]:
    """Find head tensors that only look like the model's own: (the class that was saved, their names).

    Heads of different tasks have tensors of the same names and shapes, such as classifier.weight. Which head a file
    has, config.json says in `architectures`. Where it says nothing, or no class of this file, the names decide.
    """
    from .model import Model

    own, home = type(model), vars(sys.modules[type(model.config).__module__])
    stem = type(model.config).__name__.removesuffix("Config")  # a name of kin, or of before, may have another one
    named = [home.get(f"{stem}For{name.rpartition('For')[2]}") for name in model.config.architectures or []]
    saved = [kind for kind in named if isinstance(kind, type) and issubclass(kind, Model)]
    known = home.get(own.__name__) is own and hasattr(model, model.prefix)
    if not known or any(issubclass(kind, own) or kind.__name__.endswith(PRETRAINING) for kind in saved):
        return "", []
    names: set[str] = set()
    for kind in saved:
        with torch.device("meta"), suppress(ConfigError):  # of an encoder, which the config now makes a decoder
            names |= {name for name, _ in kind(model.config).named_parameters()}
    alike = [name for name in found if name in names and not name.startswith(f"{model.prefix}.")]
    return ", ".join(kind.__name__ for kind in saved), alike


def _modern(model: "Model", name: str) -> str:
    for old, modern in model.legacy_names.items():
        name = name.replace(old, modern)
    return name


def _is_headed(model: "Model", checkpoint: Checkpoint) -> bool:
    return any(_modern(model, name).startswith(f"{model.prefix}.") for name in checkpoint.tensors)


def _is_head(model: "Model", name: str) -> bool:
    """Tell whether a parameter of the model belongs to its head, or to a part that checkpoints may lack."""
    if name.startswith(tuple(f"{part}." for part in model.heads)):
        return True
    if not hasattr(model, model.prefix):
        return False
    inner = name.removeprefix(f"{model.prefix}.")
    return inner == name or inner.startswith(tuple(f"{part}." for part in model.optional))


def _is_backbone_name(model: "Model", stored: str, checkpoint: Checkpoint) -> bool:
    """Tell whether a stored tensor without a place belongs to the backbone, where nothing may be left over."""
    prefix, name = f"{model.prefix}.", _modern(model, stored)
    if _is_headed(model, checkpoint) and not name.startswith(prefix):
        return False
    return not name.removeprefix(prefix).startswith(tuple(f"{part}." for part in (*model.optional, *model.heads)))


def _drop_absent_parts(model: "Model", checkpoint: Checkpoint) -> None:
    """Remove a backbone's optional part when the checkpoint has nothing of it: absent is better than random."""
    if hasattr(model, model.prefix):
        return
    for part in model.optional:
        learned = any(name.startswith(f"{part}.") for name, _ in model.named_parameters())
        stored = any(name.removeprefix(f"{model.prefix}.").startswith(f"{part}.") for name in checkpoint.tensors)
        if learned and not stored:
            setattr(model, part, None)


# --- explaining -------------------------------------------------------------------------------------------------------


def _explain(
    model: "Model",
    checkpoint: Checkpoint,
    faults: dict[str, list[str]],
    shapes: dict[str, tuple[list[int], list[int]]],
    only_head: bool,
) -> str:
    lines = [f"The weights in {checkpoint.folder.path} do not fit {type(model).__name__}."]
    for kind, names in faults.items():
        if names:
            detail = {n: f" (file {file}, model {own})" for n, (file, own) in shapes.items()}
            shown = ", ".join(n + detail.get(n, "") for n in names[:6])
            lines.append(f"  {len(names)} {kind}: {shown}" + (f" and {len(names) - 6} more" if len(names) > 6 else ""))
    missing, extra = faults["missing in the checkpoint"], faults["not in the model"]
    if missing and extra and (hint := did_you_mean(missing[0], extra)):
        lines.append(f"  For {missing[0]}{hint}")
    has = ", ".join(model.config.architectures or [])
    count = model.config.num_labels
    labels = {file[0] for file, own in shapes.values() if own[:1] == [count]} - {count}
    if missing and set(missing) <= set(model.tied):
        lines.append("  The checkpoint stores what is tied once: leave tie_word_embeddings at true.")
    elif missing and only_head:
        says = f" (config.json says {has})" if has else ""
        lines.append(
            f"  This head is not in it{says}. To train a new one, say so: num_labels=..., "
            "or ignore_mismatched_sizes=True."
        )
    elif faults["of another shape"] and only_head and not extra:
        own = f"To use it, pass num_labels={min(labels)}, or id2label with their names. " if labels else ""
        lines.append(f"  Its head has another size. {own}To train a new one, pass ignore_mismatched_sizes=True.")
    else:
        lines.append(
            f"  Its config.json says {has or 'another architecture or size'}: load it with that class, "
            "or fetch the matching weights."
        )
    return "\n".join(lines)


def _check_ties(model: "Model", checkpoint: Checkpoint, found: dict[str, str], tied: dict[str, str]) -> None:
    """Refuse a checkpoint whose tied tensors differ, since one of them would be lost."""
    for name, source in tied.items():
        if name not in found or source not in found:
            continue
        if not same_bits(checkpoint.load(found[name]), checkpoint.load(found[source])):
            halves = name.startswith("encoder.") and source.startswith("decoder.")
            field = "tie_encoder_decoder" if halves else "tie_word_embeddings"
            raise WeightsError(
                f"{checkpoint.folder.path}: {found[name]} and {found[source]} differ, but the config ties them; "
                f"pass {field}=False to keep both."
            )


# --- filling ----------------------------------------------------------------------------------------------------------


def _fill(
    model: "Model",
    checkpoint: Checkpoint,
    sources: dict[str, str],
    new: list[str],
    tied: dict[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    sizes = {
        name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False) if name not in tied
    }
    check_memory(sum(prod(shape) for shape in sizes.values()) * dtype.itemsize, str(checkpoint.folder.path))
    exact = torch.promote_types(dtype, torch.float32)
    exactly = model.exact + (model.wide if dtype == torch.float16 else ())
    for name, shape in sizes.items():
        module_name, _, leaf = name.rpartition(".")
        empty = torch.empty(shape, dtype=exact if name.endswith(exactly) else dtype, device=device)
        setattr(model.get_submodule(module_name), leaf, nn.Parameter(empty))
    values = model.state_dict()
    checkpoint.read({stored: values[name] for name, stored in sources.items()})
    model.tie_weights()
    fresh = defaultdict(set)
    for name in new:
        module_name, _, leaf = name.rpartition(".")
        fresh[model.get_submodule(module_name)].add(leaf)
    for module, leaves in fresh.items():
        model.init_module(module, only=leaves)


def check_memory(nbytes: int, where: str) -> None:
    """Refuse what can not fit into this machine's memory, before allocating.

    Raises:
        ConfigError: naming both sizes.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**62
    if nbytes > physical:
        raise ConfigError(
            f"{where}: the parameters would take {nbytes / 1e9:,.1f} GB, this machine has {physical / 1e9:,.1f} GB; "
            "check the sizes in config.json, or load with a smaller dtype."
        )
