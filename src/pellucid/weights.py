"""Tensors in and out of files: safetensors, shards with an index, and the older pytorch_model.bin.

A safetensors file is eight bytes of header length, a JSON header of names, dtypes, shapes and byte ranges, and the
bytes. Headers are checked in full before anything is allocated: ranges that overlap, leave gaps or run past the end are
refused.
"""

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, MissingFileError, UnsafeFileError, WeightsError
from .folder import Folder

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD_SINGLE, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_HEADER = 8 * 2**20  # bytes; some 70,000 tensors in one file, which takes the JSON parser about 300 MB
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
        source = next((name for name in (SINGLE, INDEX, OLD_SINGLE, OLD_INDEX) if name in folder), None)
        if source is None or (safetensors_only and source in (OLD_SINGLE, OLD_INDEX)):
            wanted = f"{SINGLE}, as use_safetensors=True asks" if source else f"{SINGLE}, {INDEX} or {OLD_SINGLE}"
            raise MissingFileError(
                f"{folder.path} has no weights; expected {wanted}, found: {', '.join(folder.names())}."
            )
        read = read_bin if source in (OLD_SINGLE, OLD_INDEX) else read_header
        files = indexed_files(folder, source) if source in (INDEX, OLD_INDEX) else {source: []}
        for file, names in files.items():
            found = read(folder, file)
            if lost := [name for name in names if name not in found]:
                raise WeightsError(
                    f"{folder.path}: {source} says that {file} holds {lost[0]}, but it does not; fetch both again."
                )
            if twice := [name for name in found if name in self.tensors]:
                raise WeightsError(
                    f"{folder.path}: {twice[0]} is stored twice, in {self.tensors[twice[0]].file} and in {file}."
                )
            self.tensors |= found
        if not self.tensors:
            raise WeightsError(f"{folder.path}: {source} holds no tensor; fetch it again.")

    def read(self, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors with the checkpoint's values, converting dtype and device; files are read in parallel.

        Args:
            wanted: for each name of the checkpoint, a tensor of the stored shape. What came out of a .bin file is let
                go once it is copied, and can not be read again.
        """
        by_place = sorted(wanted, key=lambda name: (self.tensors[name].file, self.tensors[name].begin))
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(lambda name: self._read_into(name, wanted[name]), by_place):
                pass

    def load(self, name: str) -> Tensor:
        """Return one tensor as it is stored."""
        stored = self.tensors[name]
        if stored.tensor is not None:
            return stored.tensor
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        self._read_bytes(stored, tensor)
        return tensor

    def _read_into(self, name: str, target: Tensor) -> None:
        stored = self.tensors[name]
        with torch.no_grad():
            if stored.tensor is not None:
                target.copy_(stored.tensor)
                self.tensors[name] = replace(stored, tensor=None)
            elif stored.dtype == target.dtype and target.device.type == "cpu" and target.is_contiguous():
                self._read_bytes(stored, target)
            else:
                target.copy_(self.load(name))

    def _read_bytes(self, stored: Stored, target: Tensor) -> None:
        if not target.numel():
            return
        descriptor = self.folder.descriptor(stored.file)
        view = target.detach().reshape(-1).view(torch.uint8).numpy().data
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done : done + 2**30]], stored.begin + done)
            if count == 0:
                raise WeightsError(f"{self.folder.path}/{stored.file} became shorter while it was read; load it again.")
            done += count


def indexed_files(folder: Folder, index: str) -> dict[str, list[str]]:
    """Return the shards that an index names, in order, each with the tensors that it should hold.

    Raises:
        WeightsError: if the index is broken.
        UnsafeFileError: if it names anything but plain files of its own format.
        MissingFileError: if it names a file that is not there.
    """
    weight_map = folder.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{folder.path}/{index} has no weight_map; expected one entry a tensor. Fetch it again.")
    suffix = ".bin" if index == OLD_INDEX else ".safetensors"
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or os.path.basename(file) != file or not file.endswith(suffix):
            raise UnsafeFileError(f"{folder.path}/{index} names {file!r}; expected plain names that end in {suffix}.")
        files.setdefault(file, []).append(name)
    if lost := [file for file in files if file not in folder]:
        raise MissingFileError(
            f"{folder.path}: {index} names {', '.join(lost[:5])}, which is not there; fetch it again."
        )
    return dict(sorted(files.items()))


# --- safetensors ------------------------------------------------------------------------------------------------------


def read_header(folder: Folder, file: str) -> dict[str, Stored]:
    """Read and check the header of a safetensors file.

    Raises:
        WeightsError: naming the file and what is wrong with it.
    """
    where, size, descriptor = f"{folder.path}/{file}", folder.size(file), folder.descriptor(file)
    start = os.pread(descriptor, 8, 0)
    _refuse_pointer(start, where)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
    if not 2 <= length <= size - 8:
        raise WeightsError(f"{where} is no whole safetensors file: {size} bytes, header of {length}; fetch it again.")
    if length > MAX_HEADER:
        raise WeightsError(f"{where} has a header of {length} bytes; expected at most {MAX_HEADER}.")
    try:
        header = json.loads(os.pread(descriptor, length, 8).decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where} has a broken header: {error}; fetch it again.") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{where} has a header that is no JSON object; fetch it again.")
    header.pop("__metadata__", None)
    tensors = {name: _stored(where, file, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if stored.begin != end:
            raise WeightsError(
                f"{where}: {name} begins at byte {stored.begin}, expected {end}: ranges overlap or leave a gap."
            )
        end += stored.nbytes
    if end != size:
        raise WeightsError(
            f"{where} has {size} bytes, its header describes {end}; it is cut or damaged: fetch it again."
        )
    return tensors


def _refuse_pointer(start: bytes, where: str) -> None:
    if start == b"version ":
        raise WeightsError(f"{where} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository.")


def _stored(where: str, file: str, name: str, entry: Any, data: int) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(n) is int and 0 <= n < 2**62 for n in (*shape, begin, end)):
            raise ValueError("a size is not a whole number")
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"{where}: the header's entry of {name!r} is broken ({error}).") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{where}: {name} is stored as {dtype!r}; known are {', '.join(DTYPES)}.")
    stored = Stored(file, DTYPES[dtype], shape, data + begin)
    if stored.nbytes != end - begin:
        raise WeightsError(
            f"{where}: {name} of shape {list(shape)} needs {stored.nbytes} bytes, its range has {end - begin}."
        )
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
    where = f"{folder.path}/{file}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        raise WeightsError(
            f"{where} is a pickle, which torch {torch.__version__} can not read safely; install torch 2.10."
        )
    start = os.pread(folder.descriptor(file), 8, 0)
    _refuse_pointer(start, where)
    if not start.startswith((b"PK", b"\x80")):
        raise WeightsError(f"{where} is no PyTorch file, it begins with {start!r}; fetch it again.")
    with os.fdopen(os.dup(folder.descriptor(file)), "rb") as stream:
        stream.seek(0)
        try:
            content = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:
            if "weights_only" in str(error):
                raise UnsafeFileError(
                    f"{where} holds more than tensors, and nothing in it was executed; ask its author for {SINGLE}."
                ) from None
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise WeightsError(f"{where} is broken: {reason}; fetch it again.") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(map(_is_plain, content.values())):
        raise WeightsError(f"{where} is not a table of plain tensors; ask its author for {SINGLE}.")
    return {str(name): Stored(file, t.dtype, tuple(t.shape), tensor=t.detach()) for name, t in content.items()}


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_nested


# --- writing ----------------------------------------------------------------------------------------------------------


def is_weight_file(name: str) -> bool:
    """Tell whether a file of a folder holds (part of) a model's weights, so that a new save replaces it."""
    return bool(
        re.fullmatch(r"(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin)(\.index\.json)?", name)
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
    total = len(shards)
    names = [SINGLE] if total == 1 else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    for name, shard in zip(names, shards, strict=True):
        (path / name).touch()
        mode = (path / name).stat().st_mode  # as the user's umask has it; safetensors would let only the owner read
        save_file(_own_memory({key: tensors[key] for key in shard}), path / name, metadata={"format": "pt"})
        (path / name).chmod(mode)
    if total > 1:
        nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": nbytes}, "weight_map": weight_map}
        (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    with Folder(path) as folder:
        _verify(Checkpoint(folder), tensors)


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return plain CPU tensors of which no two share memory, since the format stores each by itself."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in plain.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            plain[name] = tensor.clone()
        seen.add(place)
    return plain


def _verify(written: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name not in written.tensors or not same_bits(written.load(name), tensor.detach().cpu()):
            raise WeightsError(f"{written.folder.path}: {name} did not come back as it was written; check the disk.")


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two CPU tensors are equal in dtype, shape and every bit, so that NaN is equal to itself."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    flat = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(*flat)


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
    parts = re.fullmatch(r"([1-9]\d{0,17}) *([KMG]I?B)?", str(size).upper())
    if parts:
        return int(parts[1]) * units[parts[2] or ""]
    raise InputError(f"max_shard_size is {size!r}; expected a number of bytes or a text such as '5GB' or '500MB'.")
