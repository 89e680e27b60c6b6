"""Tensors in and out of files: safetensors, shards with an index, and the older pytorch_model.bin.

A safetensors file is eight bytes of header length, a JSON header of names, dtypes, shapes and byte ranges, and the bytes.
Headers are checked in full before anything is allocated: ranges that overlap, leave gaps or run past the end are refused.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, MissingFileError, UnsafeFileError, WeightsError
from .folder import Folder

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD_SINGLE, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_HEADER = 100 * 2**20  # bytes, the limit of the format's own reader
MAX_TENSORS = 100_000
READERS = 4  # threads; more do not read faster from a page cache

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: where its bytes are, or, from a .bin file, the tensor itself."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int = 0  # bytes from the start of the file
    tensor: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the stored form."""
        return prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """The tensors of a folder, by name; nothing but headers is read until `read`.

    Args:
        folder: an open folder.
        safetensors_only: refuse pytorch_model.bin.

    Raises:
        WeightsError: if a file is broken, or the shards do not make a whole.
        MissingFileError: if the folder has no weights, or the index names a file it does not have.
        UnsafeFileError: if an index names anything but files of its own kind.
    """

    def __init__(self, folder: Folder, *, safetensors_only: bool = False):
        self.folder = folder
        self.tensors: dict[str, Stored] = {}
        for file, read in self._files(safetensors_only).items():
            for name, stored in read(folder, file).items():
                if name in self.tensors:
                    raise WeightsError(f"{folder.path}: {name} is stored twice, in {self.tensors[name].file} and in {file}.")
                self.tensors[name] = stored
        if not self.tensors:
            raise WeightsError(f"{folder.path}: the weight files hold no tensor.")

    def _files(self, safetensors_only: bool) -> Mapping[str, Any]:
        folder = self.folder
        if SINGLE in folder:
            return {SINGLE: read_header}
        if INDEX in folder:
            return dict.fromkeys(indexed_files(folder, INDEX, ".safetensors"), read_header)
        if safetensors_only and (OLD_SINGLE in folder or OLD_INDEX in folder):
            raise MissingFileError(f"{folder.path} has {OLD_SINGLE} only; expected {SINGLE}, as use_safetensors=True asks.")
        if OLD_SINGLE in folder:
            return {OLD_SINGLE: read_bin}
        if OLD_INDEX in folder:
            return dict.fromkeys(indexed_files(folder, OLD_INDEX, ".bin"), read_bin)
        raise MissingFileError(
            f"{folder.path} has no weights; expected {SINGLE}, {INDEX} or {OLD_SINGLE}, found: {', '.join(folder.names()) or 'nothing'}."
        )

    def read(self, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors with the checkpoint's values, converting dtype and device; files are read in parallel.

        Args:
            wanted: for each name of the checkpoint, a tensor of the stored shape.
        """
        by_place = sorted(wanted, key=lambda name: (self.tensors[name].file, self.tensors[name].begin))
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(lambda name: self._read_into(name, wanted[name]), by_place):
                pass

    def load(self, name: str) -> Tensor:
        """Return one tensor as it is stored."""
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        self._read_into(name, tensor)
        return tensor

    def _read_into(self, name: str, target: Tensor) -> None:
        stored = self.tensors[name]
        with torch.no_grad():
            if stored.tensor is not None:
                target.copy_(stored.tensor)
            elif stored.dtype == target.dtype and target.device.type == "cpu" and target.is_contiguous():
                self._read_bytes(stored, target)
            else:
                target.copy_(self.load(name))

    def _read_bytes(self, stored: Stored, target: Tensor) -> None:
        if not target.numel():
            return
        descriptor = self.folder.descriptor(stored.file)
        view = memoryview(target.detach().reshape(-1).view(torch.uint8).numpy())
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done : done + 2**30]], stored.begin + done)
            if count == 0:
                raise WeightsError(f"{self.folder.path}/{stored.file} became shorter while it was read; load it again.")
            done += count


def indexed_files(folder: Folder, index: str, suffix: str) -> list[str]:
    """Return the shards that an index names, in order; only plain names of the index's own format are accepted."""
    weight_map = folder.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{folder.path}/{index} has no weight_map; expected one entry a tensor.")
    files = sorted({str(file) for file in weight_map.values()})
    for file in files:
        if os.path.basename(file) != file or not file.endswith(suffix):
            raise UnsafeFileError(f"{folder.path}/{index} names {file!r}; expected plain names that end in {suffix}.")
    if lost := [file for file in files if file not in folder]:
        raise MissingFileError(f"{folder.path}: {index} names {', '.join(lost)}, which the folder does not have; fetch it again.")
    return files


# --- safetensors ------------------------------------------------------------------------------------------------------


def read_header(folder: Folder, file: str) -> dict[str, Stored]:
    """Read and check the header of a safetensors file.

    Raises:
        WeightsError: naming the file and what is wrong with it.
    """
    where, size, descriptor = f"{folder.path}/{file}", folder.size(file), folder.descriptor(file)
    start = os.pread(descriptor, 8, 0)
    if start == b"version ":
        raise WeightsError(f"{where} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository.")
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise WeightsError(f"{where} is no whole safetensors file: {size} bytes, header of {length}; download it again.")
    try:
        header = json.loads(os.pread(descriptor, length, 8), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where} has a broken header: {error}; download it again.") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise WeightsError(f"{where} has a header of {len(header)} entries; expected an object of at most {MAX_TENSORS}.")
    header.pop("__metadata__", None)
    tensors = {name: _stored(where, file, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if stored.begin != end:
            raise WeightsError(f"{where}: {name} begins at byte {stored.begin}, expected {end}: ranges overlap or leave a gap.")
        end += stored.nbytes
    if end != size:
        raise WeightsError(f"{where} has {size} bytes, its header describes {end}; it is cut short or damaged: download it again.")
    return tensors


def _stored(where: str, file: str, name: str, entry: Any, data: int) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(n) is int and 0 <= n < 2**62 for n in (*shape, begin, end)):
            raise ValueError("a size is not a whole number")
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"{where}: the header's entry of {name!r} is broken ({error}).") from None
    if dtype not in DTYPES:
        raise WeightsError(f"{where}: {name} is stored as {dtype!r}; known are {', '.join(DTYPES)}.")
    stored = Stored(file, DTYPES[dtype], shape, data + begin)
    if stored.nbytes != end - begin:
        raise WeightsError(f"{where}: {name} of shape {list(shape)} needs {stored.nbytes} bytes, its range has {end - begin}.")
    return stored


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(result := dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


# --- pytorch_model.bin ------------------------------------------------------------------------------------------------


def read_bin(folder: Folder, file: str) -> dict[str, Stored]:
    """Read a .bin file, restricted to tensors: nothing in it is executed.

    Raises:
        UnsafeFileError: if the file holds anything but tensors.
        WeightsError: if it is broken, or this torch is too old to read it safely.
    """
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        raise WeightsError(f"{file} is a pickle, which torch {torch.__version__} can not read safely; expected torch >= 2.10.")
    with os.fdopen(os.dup(folder.descriptor(file)), "rb") as stream:
        stream.seek(0)
        if stream.read(8) == b"version ":
            raise WeightsError(f"{folder.path}/{file} is a Git LFS pointer, not the weights; run `git lfs pull`.")
        stream.seek(0)
        try:
            content = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:
            if "weights_only" in str(error) or "Unsupported" in str(error):
                raise UnsafeFileError(f"{folder.path}/{file} holds more than tensors and was not executed; use safetensors.") from None
            raise WeightsError(f"{folder.path}/{file} is broken: {str(error).splitlines()[0]}; download it again.") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise WeightsError(f"{folder.path}/{file} is not a table of tensors.")
    return {str(name): Stored(file, t.dtype, tuple(t.shape), tensor=t.detach()) for name, t in content.items()}


# --- writing ----------------------------------------------------------------------------------------------------------


def is_weight_file(name: str) -> bool:
    """Tell whether a file of a folder holds (part of) a model's weights, so that a new save replaces it."""
    return name in (INDEX, OLD_INDEX) or (
        name.startswith(("model", "pytorch_model")) and name.endswith((".safetensors", ".bin"))
    )


def write(path: Path, tensors: Mapping[str, Tensor], *, max_shard_size: int | str = "5GB") -> None:
    """Write model.safetensors, or shards with an index, into an existing folder; then read it back and compare.

    Args:
        path: the folder.
        tensors: on any device; names and dtypes are kept.
        max_shard_size: bytes, or a text such as `"500MB"`; a single larger tensor has a shard of its own.

    Raises:
        WeightsError: if what the disk gives back is not what was written.
    """
    from safetensors.torch import save_file

    shards = list(_shards(tensors, parse_size(max_shard_size)))
    names = [SINGLE] if len(shards) == 1 else [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file({key: tensors[key].detach().cpu().contiguous() for key in shard}, path / name, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    with Folder(path) as folder:
        _verify(Checkpoint(folder), tensors)


def _verify(written: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        back = written.load(name) if name in written.tensors else None
        same = back is not None and (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        if back is None or not same or not torch.equal(_bits(back), _bits(tensor.detach().cpu().contiguous())):
            raise WeightsError(f"{written.folder.path}: {name} did not come back from the disk as it was written; check the disk.")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)  # NaN is equal to itself here


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[list[str]]:
    shard, size = [], 0
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        if shard and size + nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += nbytes
    yield shard


def parse_size(size: int | str) -> int:
    """Read a number of bytes: 500, "500", "5GB" (10^9), "5GiB" (2^30)."""
    units = {"GIB": 2**30, "MIB": 2**20, "KIB": 2**10, "GB": 10**9, "MB": 10**6, "KB": 10**3, "": 1}
    text = str(size).upper().replace(" ", "")
    digits = text.rstrip("GIMKB")
    if digits.isdecimal() and (unit := text[len(digits) :]) in units and int(digits) > 0:
        return int(digits) * units[unit]
    raise InputError(f"max_shard_size is {size!r}; expected a number of bytes or a text such as '5GB' or '500MB'.")
