"""Checkpoints: everything that a training needs to go on as if it had not stopped, as safetensors and JSON.

A checkpoint is a folder that appears in one step: the model as `save_pretrained` writes it, `optimizer.safetensors`
(where processes share each layer, a file of each: `optimizer-00001-of-00002.safetensors`), `random_state.safetensors`,
and trainer_state.json, which lists the files with their sizes. `last_checkpoints.json` beside the checkpoints names
those of the latest run, so that what an earlier one left is not taken for its own.
"""

import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import weights
from ..errors import InputError, SaveError, did_you_mean
from ..folder import Folder, rewrite
from . import shards
from .distributed import World, as_split, exchanged, gathered, parts

STATE, OPTIMIZER, RANDOM = "trainer_state.json", "optimizer.safetensors", "random_state.safetensors"
ADAPTERS = "adapters.safetensors"  # all that there are, under their parameters' names
OWN = "last_checkpoints.json"
PREFIX = "checkpoint-"


# --- which checkpoints there are --------------------------------------------------------------------------------------


def begin_run(output: str) -> None:
    """Note that a new run begins, to which no checkpoint belongs yet."""
    if os.path.isdir(output) and _numbered(Path(output)):
        note_own(Path(output), [])


def own_checkpoints(output: str | os.PathLike) -> list[Path]:
    """Return the checkpoints of the latest run in a folder, oldest first; all, where nothing says whose they are."""
    place = Path(output)
    with suppress(OSError, ValueError, TypeError, KeyError):
        names = json.loads((place / OWN).read_text(encoding="utf-8"))["checkpoints"]
        return [place / name for name in names if re.fullmatch(r"checkpoint-\d+", name) and (place / name).is_dir()]
    return _numbered(place)


def last_checkpoint(output: str | os.PathLike) -> Path:
    """Return the last complete checkpoint of the latest run in a folder.

    Raises:
        InputError: if there is none, with what there is.
    """
    reasons = []
    for path in reversed(own_checkpoints(output)):
        reason = damage(path)
        if reason is None:
            if reasons:
                warnings.warn(f"{'; '.join(reasons)}; going on from {path}.", stacklevel=2)
            return path
        reasons.append(f"{path} is not complete: {reason}")
    raise InputError(
        f"{output} has no checkpoint to go on from{': ' if reasons else '.'}{'; '.join(reasons)} "
        "Leave resume_from_checkpoint out to begin anew, or name a checkpoint's folder."
    )


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint; None for a complete one."""
    if not (path / STATE).is_file():
        foreign = [name for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth") if (path / name).exists()]
        return f"it holds pickles ({', '.join(foreign)}) and is of another trainer" if foreign else f"it has no {STATE}"
    try:
        files = json.loads((path / STATE).read_text(encoding="utf-8"))["files"]
        for name, size in files.items():
            if not (path / name).is_file() or (path / name).stat().st_size != size:
                return f"{name} is not the file of {size} bytes that was written"
    except (ValueError, KeyError, AttributeError):
        return f"its {STATE} is broken, or of another trainer"
    return None


def _numbered(place: Path) -> list[Path]:
    found = [path for path in place.glob(f"{PREFIX}*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def note_own(place: Path, checkpoints: list[Path]) -> None:
    """Write in one step which checkpoints are the latest run's."""
    beside = place / f".{OWN}.{os.getpid()}"
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"checkpoints": [path.name for path in checkpoints]}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, place / OWN)


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """What changes while training, and is kept.

    Attributes:
        model: without what is put around it.
        optimizer: of its parameters.
        scheduler: of the learning rate.
        scaler: of gradients in fp16.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    scaler: Any


def save(
    path: Path,
    training: Training,
    state: Mapping[str, Any],
    training_state: Mapping[str, Any],
    world: World,
    *,
    write_model: Callable[[Path], None],
    limit: int | None,
    best: str | None,
    model_only: bool = False,
) -> None:
    """Write a checkpoint in one step, then remove the oldest of this run's that are too many.

    Args:
        path: of the checkpoint.
        training: all processes' together, which all must call this.
        state: what trainer_state.json says to users.
        training_state: what it says besides, to go on.
        world: the processes.
        write_model: writes the model into a folder.
        limit: how many checkpoints to keep.
        best: one that is kept in any case.
        model_only: whether to leave out what is needed to go on.

    Raises:
        SaveError: if it can not be written; no earlier checkpoint has been touched then.
    """
    split = parts(training.model)
    numbers, moments = ({}, {}) if model_only else _optimizer_state(training)
    drawn = {} if model_only else _gather_random(world)
    with _staging(path, world) as staging:
        if split and moments:
            shards.write(staging, moments, world, of=path)
            moments = {}
        with gathered(training.model, world):
            if world.is_first:
                _write_model(staging, write_model)
                contents = {OPTIMIZER: moments, RANDOM: drawn, ADAPTERS: _adapters(training.model)}
                for name, content in contents.items():
                    if content:
                        weights.write_file(staging / name, content)
                files = {entry.name: entry.stat().st_size for entry in sorted(staging.iterdir())}
                values = {**state, "training": {**training_state, **numbers}, "files": files}
                (staging / STATE).write_text(json.dumps(values, indent=2, default=_plain) + "\n", encoding="utf-8")
    if world.is_first:
        _rotate(path, limit, best)
    world.wait()


@contextmanager
def _staging(path: Path, world: World) -> Iterator[Path]:
    """Give all processes the folder that becomes the checkpoint when the first one leaves the block."""
    if not world.is_first:
        yield Path(world.tell())
        return
    with rewrite(path, replaces=lambda name: True) as staging:
        world.tell(str(staging))
        yield staging


def _adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of adapters, which are beside the model's own."""
    return {name: p.detach() for name, p in model.named_parameters() if ".adapters." in name}


def _write_model(staging: Path, write: Callable[[Path], None]) -> None:
    inside = staging / "part" / "model"  # so that what a killed writer leaves is all in one place
    inside.mkdir(parents=True)
    try:
        write(inside)
    except SaveError as error:  # it names a folder that nobody knows; the checkpoint's own names that
        raise error.__cause__ or error from None
    for entry in inside.iterdir():
        os.rename(entry, staging / entry.name)
    shutil.rmtree(staging / "part")


def _rotate(path: Path, limit: int | None, best: str | None) -> None:
    own = [one for one in own_checkpoints(path.parent) if one != path] if (path.parent / OWN).exists() else []
    own.append(path)
    kept = own
    if limit is not None:
        dear = {path, Path(best) if best else path}
        spare = [one for one in own if one not in dear]
        kept = [one for one in own if one in dear or one in spare[len(spare) - max(0, limit - len(dear)) :]]
    note_own(path.parent, kept)
    for one in own:
        if one not in kept:
            shutil.rmtree(one, ignore_errors=True)


def _plain(value: Any) -> Any:
    """Turn what JSON does not know into what it does."""
    if isinstance(value, Tensor | np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise InputError(f"{value!r:.80} can not be kept in {STATE}; expected numbers, texts, lists and dictionaries.")


def _parameter_names(training: Training) -> list[str]:
    """Name the optimizer's parameters, in its order, as the model does."""
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    return [names.get(id(p), f"parameter {i}") for i, p in enumerate(parameters)]


def _optimizer_state(training: Training) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the optimizer's, scheduler's and scaler's numbers, and the optimizer's tensors by parameter."""
    names, saved = _parameter_names(training), training.optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, values in saved["state"].items():
        for key, value in values.items():
            place = tensors if isinstance(value, Tensor) else numbers
            place[f"{names[index]}.{key}"] = value
    groups = [group | {"params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
    return {
        "optimizer": {"class": type(training.optimizer).__name__, "groups": groups, "numbers": numbers},
        "scheduler": _without_functions(training.scheduler.state_dict()),
        "scaler": training.scaler.state_dict(),
    }, tensors


def _without_functions(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "lr_lambdas"}  # which the arguments say


# --- reading ----------------------------------------------------------------------------------------------------------


def read_state(path: str | os.PathLike) -> dict[str, Any]:
    """Return what trainer_state.json of a complete checkpoint says.

    Raises:
        InputError: if the folder is no complete checkpoint, with what it is.
    """
    place = Path(path)
    if not place.is_dir():
        near = did_you_mean(place.name, [p.name for p in place.parent.glob("*")]) if place.parent.is_dir() else ""
        raise InputError(f"resume_from_checkpoint: there is no folder {path}{near or '.'}")
    if (reason := damage(place)) is not None:
        inside = own_checkpoints(place)
        hint = f"give its {inside[-1].name}" if inside else "give a checkpoint's folder, or True for the last"
        raise InputError(f"resume_from_checkpoint: {path} can not be resumed from, {reason}; {hint}.")
    values = json.loads((place / STATE).read_text(encoding="utf-8"))
    if "optimizer" not in values.get("training", {}):
        raise InputError(
            f"resume_from_checkpoint: {path} holds a model alone (save_only_model); load it and begin anew."
        )
    return values


def load_model(path: str | os.PathLike, model: nn.Module) -> None:
    """Read the weights of a checkpoint into a model.

    Raises:
        InputError: if they are another model's.
    """
    wholes = {part: torch.empty(part.shape, dtype=part.dtype) for part in parts(model)}
    with exchanged(model, wholes):
        _read_model(path, model)
    with torch.no_grad():
        for part, tensor in wholes.items():
            part.copy_(as_split(tensor, part))


def _read_model(path: str | os.PathLike, model: nn.Module) -> None:
    ties = getattr(model, "ties", {})
    targets = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    beside = _adapters(model)
    with Folder(path) as folder:
        checkpoint = weights.Checkpoint(folder, safetensors_only=True)
        adapters = _read_tensors(folder, ADAPTERS) if ADAPTERS in folder else {}
        wrong = sorted((targets.keys() ^ checkpoint.tensors.keys()) | (beside.keys() ^ adapters.keys()))
        wrong += [n for n in targets if n not in wrong and checkpoint.tensors[n].shape != tuple(targets[n].shape)]
        if wrong:
            raise InputError(
                f"{path} is not a checkpoint of this {type(model).__name__}: missing, unexpected or of another shape: "
                f"{', '.join(wrong[:5])}; build the model as it was."
            )
        checkpoint.read(targets)
        for name, tensor in beside.items():
            tensor.copy_(adapters[name])


def load_training(path: str | os.PathLike, training: Training, kept: Mapping[str, Any], world: World) -> None:
    """Give the optimizer, the scheduler, the scaler and the sources of randomness what a checkpoint kept.

    Raises:
        InputError: if it kept another optimizer's, or that of other parameters.
    """
    names, optimizer = _parameter_names(training), kept["optimizer"]
    groups = training.optimizer.state_dict()["param_groups"]
    ours = [[names[i] for i in group["params"]] for group in groups]
    if optimizer["class"] != type(training.optimizer).__name__ or [g["params"] for g in optimizer["groups"]] != ours:
        raise InputError(
            f"{path} was written with {optimizer['class']} over {[len(g['params']) for g in optimizer['groups']]} "
            f"parameters; this run has {type(training.optimizer).__name__} over {[len(group) for group in ours]}, or "
            "others. Build model, optimizer and arguments as they were."
        )
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    by_name = dict(zip(names, parameters, strict=True))
    with Folder(path) as folder:
        drawn = {} if RANDOM not in folder else _read_tensors(folder, RANDOM)
        if shards.are_needed(Path(path), by_name):
            moments = shards.read(Path(path), by_name)
        else:
            moments = {} if OPTIMIZER not in folder else _read_tensors(folder, OPTIMIZER)
    values: dict[int, dict[str, Any]] = {}
    for index, name in enumerate(names):
        own = {key.removeprefix(f"{name}."): v for key, v in (moments | optimizer["numbers"]).items() if _of(key, name)}
        if own:
            values[index] = own
    for group, saved in zip(groups, optimizer["groups"], strict=True):
        for key, value in saved.items():
            if key != "params":
                group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
    training.optimizer.load_state_dict({"state": values, "param_groups": groups})
    training.scheduler.load_state_dict(training.scheduler.state_dict() | kept["scheduler"])  # functions are its own
    if kept["scaler"]:
        training.scaler.load_state_dict(kept["scaler"])
    _set_random(drawn, world)


def _of(key: str, name: str) -> bool:
    return key.rpartition(".")[0] == name


def _read_tensors(folder: Folder, file: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(folder.read_bytes(file, limit=folder.size(file)))


# --- randomness -------------------------------------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return where all sources of randomness of this process are, as tensors."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy.place": torch.tensor([numpy_state["state"]["pos"], numpy_state["has_gauss"]], dtype=torch.int64),
        "numpy.gauss": torch.tensor([numpy_state["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Bring all sources of randomness of this process to where they were."""
    version, *words = state["python"].tolist()
    random.setstate((version, tuple(words), next(iter(state["python.gauss"].tolist()), None)))
    place, has_gauss = state["numpy.place"].tolist()
    key = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, place, has_gauss, state["numpy.gauss"].item()))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _gather_random(world: World) -> dict[str, Tensor]:
    gathered = {name: world.gather(tensor) for name, tensor in random_state(world.device).items()}
    return {f"{rank}.{name}": part for name, parts in gathered.items() for rank, part in enumerate(parts)}


def _set_random(drawn: Mapping[str, Tensor], world: World) -> None:
    """Go on with what this process drew; one that was not there before has what its seed says."""
    own = {name.removeprefix(f"{world.rank}."): t for name, t in drawn.items() if name.startswith(f"{world.rank}.")}
    if own:
        restore_random(own, world.device)
