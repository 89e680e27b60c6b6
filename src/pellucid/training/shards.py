"""The state of an optimizer that several processes share, in files: each writes its own parts, any number reads them.

The files are safetensors, which say in their headers where in the whole tensors their parts lie; no process ever holds
the whole. They are written and read by `torch.distributed.checkpoint`.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SaveError
from .distributed import World, is_split

PARTS = "optimizer-*-of-*.safetensors"


def write(folder: Path, tensors: Mapping[str, Tensor], world: World, *, of: Path) -> None:
    """Write this process's parts into a folder that all processes see; all must call this.

    Args:
        folder: the folder.
        tensors: by name.
        world: the processes.
        of: the checkpoint that the folder becomes.

    Raises:
        SaveError: in all processes, if one of them could not.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    inside = folder / "part"
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(inside), save_distributed=True))
    except CheckpointException as error:
        reasons = "; ".join(f"process {rank}: {reason[0]}" for rank, reason in sorted(error.failures.items()))
        raise SaveError(f"{of} could not be written, {reasons}. Earlier checkpoints are as they were.") from error
    if world.is_first:
        files = sorted(inside.iterdir())
        for number, file in enumerate(files, 1):
            os.rename(file, folder / f"optimizer-{number:05d}-of-{len(files):05d}.safetensors")
        inside.rmdir()


def read(folder: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read what an optimizer keeps of parameters, split as they are; all processes must call this.

    Args:
        folder: with safetensors, whole or in parts.
        parameters: by their names, which begin those of the tensors: `{parameter}.exp_avg`.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    metadata: Any = reader.read_metadata()
    tensors = {}
    for name, stored in metadata.state_dict_metadata.items():
        if (like := parameters.get(name.rpartition(".")[0])) is not None:
            dtype, size = stored.properties.dtype, stored.size
            split = size == like.shape  # a count of steps is not
            tensors[name] = torch.zeros_like(like.detach(), dtype=dtype) if split else torch.zeros(size, dtype=dtype)
    if tensors:
        with warnings.catch_warnings():  # one process may read what several wrote
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(tensors, storage_reader=reader)
    return tensors


def are_needed(folder: Path, parameters: Mapping[str, Tensor]) -> bool:
    """Tell whether a folder holds parts, or parameters are split."""
    return any(folder.glob(PARTS)) or any(map(is_split, parameters.values()))
