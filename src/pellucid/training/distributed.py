"""Several processes that train one model: a thin layer over what torch.distributed offers.

`torchrun --nproc-per-node N script.py` starts the processes and says in the environment which is which; one process
needs nothing. Whole models are copied to all (DDP), or every layer is split over them (FSDP2), or every matrix product
is (tensor parallel).

With `torchrun --max-restarts N` all processes start again when one has died, and `train(resume_from_checkpoint=True)`
goes on from the last checkpoint. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 then: else the new ones may wait for the
addresses of the old.
"""

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .layers import blocks

COLUMNWISE = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # whose outputs are split
ROWWISE = ("o_proj", "down_proj")  # whose inputs are, and whose results are added up


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this is.

    Attributes:
        device: where this process computes.
        rank: this process's number among those that read different rows.
        size: how many those are.
        mesh: of the processes, by the names "data" and "tensor"; None when there is one.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: Any = None

    @property
    def is_alone(self) -> bool:
        """Whether there is one process."""
        return self.mesh is None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.mesh is None or torch.distributed.get_rank() == 0

    def sum(self, values: list[float]) -> list[float]:
        """Add up numbers over the processes that read different rows."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total, group=self.mesh["data"].get_group())
        return total.tolist()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors that all processes have, in order; their sizes may differ, their number of axes not."""
        if self.size == 1:
            return [tensor]
        group = self.mesh["data"].get_group()
        plain = (tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor).to(self.device).contiguous()
        shape = torch.tensor(plain.shape, dtype=torch.int64, device=self.device)
        shapes = [torch.empty_like(shape) for _ in range(self.size)]
        torch.distributed.all_gather(shapes, shape, group=group)
        most = torch.stack(shapes).amax(0).tolist()
        padded = plain.new_zeros(most)
        padded[tuple(slice(0, n) for n in plain.shape)] = plain
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(parts, padded, group=group)
        return [part[tuple(slice(0, n) for n in own.tolist())] for part, own in zip(parts, shapes, strict=True)]

    def tell(self, text: str = "") -> str:
        """Return to all processes what the first one says."""
        told = [text]
        if not self.is_alone:
            torch.distributed.broadcast_object_list(told, src=0, device=self.device)
        return told[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if not self.is_alone:
            torch.distributed.barrier()


def join(device: torch.device, *, tensor_parallel_size: int = 1, timeout: float = 1800) -> World:
    """Join the processes that torchrun started; without torchrun there is one.

    Args:
        device: where this process computes.
        tensor_parallel_size: how many processes share each matrix product, and read the same rows.
        timeout: seconds after which one that waits for another gives up.

    Raises:
        InputError: if the processes can not be divided so.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count % tensor_parallel_size:
        raise InputError(
            f"tensor_parallel_size is {tensor_parallel_size}, and there are {count} processes; start a multiple of it "
            f"with torchrun --nproc-per-node {tensor_parallel_size}."
        )
    if count == 1:
        return World(device)
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        atexit.register(_leave)
    shape = (count // tensor_parallel_size, tensor_parallel_size)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "tensor"))
    return World(device, mesh["data"].get_local_rank(), shape[0], mesh)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


# --- splitting a model ------------------------------------------------------------------------------------------------


def agree(model: nn.Module) -> None:
    """Give all processes the parameters of the first one, since a new head was drawn by each for itself."""
    for parameter in model.parameters():
        torch.distributed.broadcast(parameter.data, 0)


def shard(model: nn.Module, world: World) -> None:
    """Split every layer, then what is left, over the processes that read different rows (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    mesh, kind = world.mesh["data"], type(model)
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    type(model).__name__, type(model).__module__ = kind.__name__, kind.__module__  # by which config.json calls it


def tensor_parallel(model: nn.Module, mesh: Any) -> None:
    """Split the matrix products of a decoder's layers over processes, each with some of the heads.

    Args:
        model: with layers whose products are called `q_proj`, ..., `down_proj`.
        mesh: of one dimension.

    Raises:
        InputError: if its products have other names, or its heads can not be divided by the number of processes.
    """
    from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

    config, count = getattr(model, "config", None), mesh.size()
    heads = getattr(config, "num_attention_heads", 0), getattr(config, "key_heads", None)
    for block in blocks(model):
        names = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
        wrong = [name for name in names if name.rpartition(".")[2] not in (*COLUMNWISE, *ROWWISE)]
        if wrong or not names or any(one and one % count for one in heads):
            raise InputError(
                f"{type(model).__name__} can not be split over {count} processes: "
                + (f"its layers have {', '.join(wrong[:4])}" if wrong else f"it has {heads} heads for queries and keys")
                + f"; expected products called {', '.join((*COLUMNWISE, *ROWWISE))} and heads that divide evenly."
            )
        plan: dict[str, ParallelStyle] = {
            name: ColwiseParallel() if name.rpartition(".")[2] in COLUMNWISE else RowwiseParallel() for name in names
        }
        parallelize_module(block, mesh, plan)


@contextmanager
def exchange(model: nn.Module, *, now: bool) -> Iterator[None]:
    """While active, a backward pass exchanges gradients with the other processes, or leaves that to a later one."""
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(now)  # type: ignore[operator]
        yield
    elif not now and hasattr(model, "no_sync"):
        with model.no_sync():  # type: ignore[operator]
            yield
    else:
        yield


# --- whole tensors, and parts -----------------------------------------------------------------------------------------


def is_split(tensor: Tensor) -> bool:
    """Tell whether this process has a part of a tensor only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts; all processes must ask for it."""
    if not is_split(tensor):
        return tensor
    from torch.distributed.tensor import Replicate

    part: Any = tensor
    placements = list(part.placements)
    for axis in range(len(placements)):  # one after the other, beginning with the last split: torch warns otherwise
        placements[axis] = Replicate()
        part = part.redistribute(placements=placements)
    return part.to_local()


def parts(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of which this process has a part."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # what a forward pass has gathered and kept for the next
            module.reshard()  # type: ignore[operator]
    return [parameter for parameter in model.parameters() if is_split(parameter)]


@contextmanager
def gathered(model: nn.Module, world: World) -> Iterator[None]:
    """While active, the first process has the whole model, what was split on the CPU; all processes must begin it."""
    wholes = {}
    for part in parts(model):
        full = whole(part.detach())
        if world.is_first:
            wholes[part] = full.cpu()
    with exchanged(model, wholes):
        yield


@contextmanager
def exchanged(model: nn.Module, others: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """While active, parameters of a model are others; to see and store it, not to compute with it."""
    made = {old: nn.Parameter(tensor, requires_grad=False) for old, tensor in others.items()}
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter in made
    ]
    for module, name, parameter in places:
        setattr(module, name, made[parameter])
    try:
        yield
    finally:
        for module, name, parameter in places:
            setattr(module, name, parameter)


def as_split(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, split as another one is."""
    if not is_split(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    split: Any = like
    return distribute_tensor(value.to(like.device), split.device_mesh, split.placements, src_data_rank=None)


def unwrapped(model: Any) -> Any:
    """Return the model inside what DDP and torch.compile put around it."""
    while (inner := getattr(model, "module", None) or getattr(model, "_orig_mod", None)) is not None:
        model = inner
    return model
