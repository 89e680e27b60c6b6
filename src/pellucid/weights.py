"""Tensors in and out of files: safetensors, shards with an index, and the older pytorch_model.bin.

A safetensors file is eight bytes of header length, a JSON header of names, dtypes, shapes and byte ranges, and the
bytes. Headers are checked in full before anything is allocated: ranges that overlap, leave gaps or run past the end are
refused. Tensors in MXFP4, blocks of four-bit numbers with a scale each, look from outside like the plain ones they are
unpacked to.
"""

import functools
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, MissingFileError, MissingPackageError, UnsafeFileError, WeightsError
from .folder import Folder
from .gguf import Entry, GGUFFolder

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD_SINGLE, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_HEADER = 8 * 2**20  # bytes; some 70,000 tensors in one file, which takes the JSON parser about 300 MB
READERS = 4  # threads; more do not read faster from a page cache
PIECE = 2**24  # bytes that a thread reads at once, so that one large tensor keeps all of them busy
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # what four bits say, the first of which is the sign

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: where its bytes are, or, from a .bin file, the tensor itself.

    One in MXFP4 has its blocks and scales instead, and is of the dtype and shape that it is unpacked to; so is one of a
    GGUF file, of which a part may be all of a stack's tensor.
    """

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int = 0  # bytes from the start of the file
    tensor: Tensor | None = None
    packed: "tuple[Stored, Stored] | None" = None
    quantized: "Quantized | None" = None

    @property
    def nbytes(self) -> int:
        """Bytes of the stored form."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Quantized:
    """How a tensor of a GGUF file becomes a plain one.

    Attributes:
        kind: the number of its format.
        shape: as it is in the file, (rows, columns) or (columns,).
        heads: how many heads' rows are in the order of the other way to rotate; 0 for none.
        transposed: whether it is a matrix that is used as it is multiplied.
        plus_one: whether it is stored with a 1 that the model adds.
    """

    kind: int
    shape: tuple[int, ...]
    heads: int = 0
    transposed: bool = False
    plus_one: bool = False


class Checkpoint:
    """The tensors of a folder, by name; nothing but headers is read until `read`.

    Args:
        folder: an open folder.
        safetensors_only: refuse pytorch_model.bin.
        names: the files to look for, the first of which that is there is read.

    Raises:
        WeightsError: if a file is broken, or the shards do not make a whole.
        MissingFileError: if the folder has no weights, or the index names a file it does not have.
        UnsafeFileError: if an index names anything but files of its own kind.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        safetensors_only: bool = False,
        names: tuple[str, ...] = (SINGLE, INDEX, OLD_SINGLE, OLD_INDEX),
    ):
        self.folder = folder
        self.tensors: dict[str, Stored] = {}
        if isinstance(folder, GGUFFolder):
            self.tensors = read_gguf(folder)
            return
        source = next((name for name in names if name in folder), None)
        if source is None or (safetensors_only and source in (OLD_SINGLE, OLD_INDEX)):
            wanted = f"{SINGLE}, as use_safetensors=True asks" if source else " or ".join(names)
            raise MissingFileError(
                f"{folder.path} has no weights; expected {wanted}, found: {', '.join(folder.names())}."
            )
        read = read_bin if source.endswith((".bin", OLD_INDEX)) else read_header
        files = indexed_files(folder, source) if source in (INDEX, OLD_INDEX) else {source: []}
        for file, indexed in files.items():
            found = read(folder, file)
            if lost := [name for name in indexed if name not in found]:
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
        _join_packed(self.tensors, str(folder.path))

    @property
    def is_packed(self) -> bool:
        """Whether some tensors are unpacked as they are read."""
        return any(stored.packed or stored.quantized for stored in self.tensors.values())

    def read(self, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors with the checkpoint's values, converting dtype and device; files are read in parallel.

        Args:
            wanted: for each name of the checkpoint, a tensor of the stored shape. What came out of a .bin file is let
                go once it is copied, and can not be read again.
        """
        by_place = sorted(wanted, key=lambda name: (self.tensors[name].file, self.tensors[name].begin))
        work = [step for name in by_place for step in self._steps(name, wanted[name])]
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(lambda step: step(), work):
                pass

    def load(self, name: str) -> Tensor:
        """Return one tensor as it is stored."""
        return self._load(self.tensors[name])

    def _load(self, stored: Stored) -> Tensor:
        if stored.tensor is not None:
            return stored.tensor
        if stored.quantized is not None:
            return _dequantize(self.folder, stored, stored.quantized)
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        if stored.packed is None:
            for step in self._reads(stored, tensor):
                step()
        else:
            self._unpack_into(stored.packed, tensor)
        return tensor

    def _steps(self, name: str, target: Tensor) -> list[Callable[[], None]]:
        """Return what fills a tensor, as calls that threads may make in any order."""
        stored = self.tensors[name]
        plain = stored.tensor is None and stored.packed is None and stored.quantized is None
        if plain and stored.dtype == target.dtype and target.device.type == "cpu" and target.is_contiguous():
            return self._reads(stored, target)
        return [lambda: self._copy_into(name, target)]

    @torch.no_grad()
    def _copy_into(self, name: str, target: Tensor) -> None:
        stored = self.tensors[name]
        if stored.tensor is not None:
            target.copy_(stored.tensor)
            self.tensors[name] = replace(stored, tensor=None)
        elif stored.packed is not None:
            self._unpack_into(stored.packed, target)
        else:
            target.copy_(self.load(name))

    def _unpack_into(self, packed: tuple[Stored, Stored], target: Tensor) -> None:
        blocks, scales = (self._load(part) for part in packed)
        for i in range(len(blocks)):  # one by one, since the way there takes many times the memory
            target[i].copy_(unpack_mxfp4(blocks[i], scales[i]).T)

    def _reads(self, stored: Stored, target: Tensor) -> list[Callable[[], None]]:
        """Return the calls that read a tensor's bytes, a piece each, straight into its memory."""
        if not target.numel():
            return []
        view = target.detach().reshape(-1).view(torch.uint8).numpy().data
        read = functools.partial(self._read_bytes, stored.file)
        return [functools.partial(read, stored.begin + at, view[at : at + PIECE]) for at in range(0, len(view), PIECE)]

    def _read_bytes(self, file: str, begin: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self.folder.descriptor(file), [view[done:]], begin + done)
            if count == 0:
                raise WeightsError(f"{self.folder.path}/{file} became shorter while it was read; load it again.")
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


# --- MXFP4 ------------------------------------------------------------------------------------------------------------


def unpack_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Unpack numbers of four bits, of which 32 share a power of two: OCP Microscaling Formats, version 1.0.

    Args:
        blocks: (..., G, 16) bytes, each two numbers, the first in its lower half.
        scales: (..., G) exponents, from 127.

    Returns:
        (..., 32 G) in float32.
    """
    numbers = torch.tensor([*FP4, *(-number for number in FP4)], device=blocks.device)
    pairs = torch.stack([numbers.repeat(16), numbers.repeat_interleave(16)], dim=-1)  # of each byte, (256, 2)
    return torch.ldexp(pairs[blocks.int()].flatten(-2), scales.int()[..., None] - 127).flatten(-2)


def _join_packed(tensors: dict[str, Stored], where: str) -> None:
    """Put one tensor in the place of blocks, (experts, out, G, 16), and scales: (experts, in, out), as it is used."""
    for name in [name for name in tensors if name.endswith("_blocks") and tensors[name].dtype == torch.uint8]:
        stem = name.removesuffix("_blocks")
        blocks, scales = tensors[name], tensors.get(f"{stem}_scales")
        if scales is None or len(blocks.shape) != 4 or (*scales.shape, 16) != blocks.shape or stem in tensors:
            raise WeightsError(
                f"{where}: {name} {list(blocks.shape)} looks like MXFP4; expected (experts, out, groups, 16), "
                f"{stem}_scales of (experts, out, groups), and no {stem} beside them."
            )
        del tensors[name], tensors[f"{stem}_scales"]
        experts, out, groups, _ = blocks.shape
        shape, dtype = (experts, 32 * groups, out), torch.bfloat16  # which holds all these numbers exactly
        tensors[stem] = Stored(blocks.file, dtype, shape, blocks.begin, packed=(blocks, scales))


# --- GGUF -------------------------------------------------------------------------------------------------------------


def read_gguf(folder: GGUFFolder) -> dict[str, Stored]:
    """List the tensors of a GGUF file under the names that a folder has them by; nothing is read.

    Raises:
        WeightsError: if one is of a format that is not known, or ends after the file.
    """
    sizes, size, tensors = _gguf_formats(), folder.size(folder.weights), {}
    for entry in folder.entries:
        place = folder.place_of(entry)
        if place is None:
            continue
        if entry.kind not in sizes:
            raise WeightsError(
                f"{folder.path}: {entry.name} is of the GGUF type {entry.kind}; known are {', '.join(map(str, sizes))}."
            )
        block, nbytes = sizes[entry.kind]
        if entry.shape[-1] % block or entry.begin + prod(entry.shape) // block * nbytes > size:
            raise WeightsError(
                f"{folder.path} is cut short or broken: {entry.name} of the shape {list(entry.shape)}, from byte "
                f"{entry.begin}, does not lie in its {size:,} bytes. Fetch it again."
            )
        count = entry.shape[0] if "{}" in place else 1
        shape = entry.shape[1:] if "{}" in place else entry.shape
        quantized = _quantized(folder, entry, shape)
        wanted = shape[::-1] if quantized.transposed else shape
        for part in range(count):
            begin = entry.begin + part * (prod(shape) // block * nbytes)
            tensors[place.replace("{}", str(part))] = Stored(
                folder.weights, torch.float32, wanted, begin, quantized=quantized
            )
    return tensors


@functools.cache
def _gguf_formats() -> dict[int, tuple[int, int]]:
    """Return for each format that can be unpacked how many numbers are in a block, and how many bytes it has."""
    try:
        import numpy as np
        from gguf import GGML_QUANT_SIZES
        from gguf.quants import dequantize
    except ImportError:
        raise MissingPackageError("GGUF files need the package gguf: pip install 'pellucid[gguf]'.") from None
    formats = {}
    for kind, (numbers, nbytes) in GGML_QUANT_SIZES.items():
        with suppress(NotImplementedError):  # a format that the library only names
            dequantize(np.zeros((1, nbytes), np.uint8), kind)
            formats[int(kind)] = numbers, nbytes
    return formats


def _quantized(folder: GGUFFolder, entry: Entry, shape: tuple[int, ...]) -> Quantized:
    """Say how a tensor of a file becomes the folder's."""
    architecture, inner = folder.architecture, entry.name.split(".", 2)[-1]
    heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}.get(inner.split(".")[0])
    return Quantized(
        kind=entry.kind,
        shape=shape,
        heads=int(folder.says(heads) or folder.says("attention.head_count")) if heads and architecture.turned else 0,
        transposed=inner in architecture.transposed,
        plus_one=architecture.norms_plus_one and entry.name.endswith("norm.weight"),
    )


def _dequantize(folder: Folder, stored: Stored, how: Quantized) -> Tensor:
    """Unpack one tensor, in float32."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    block, nbytes = _gguf_formats()[how.kind]
    count = prod(how.shape) // block * nbytes
    content = bytearray(count)
    done = 0
    while done < count:
        read = os.preadv(folder.descriptor(stored.file), [memoryview(content)[done:]], stored.begin + done)
        if read == 0:
            raise WeightsError(f"{folder.path} became shorter while it was read; load it again.")
        done += read
    rows = np.frombuffer(content, np.uint8).reshape(*how.shape[:-1], how.shape[-1] // block * nbytes)
    rows = dequantize(rows, GGMLQuantizationType(how.kind)).astype(np.float32, copy=False)
    tensor = torch.from_numpy(rows).reshape(how.shape)
    if how.heads:
        tensor = tensor.unflatten(0, (how.heads, -1, 2)).transpose(1, 2).flatten(0, 2)
    if how.plus_one:
        tensor = tensor - 1
    return tensor.T.contiguous() if how.transposed else tensor


# --- writing ----------------------------------------------------------------------------------------------------------


def is_weight_file(name: str) -> bool:
    """Tell whether a file of a folder holds (part of) a model's weights, so that a new save replaces it."""
    return bool(
        re.fullmatch(r"(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin)(\.index\.json)?", name)
    )


def write(path: Path, tensors: Mapping[str, Tensor], *, max_shard_size: int | str = "5GB", name: str = SINGLE) -> None:
    """Write model.safetensors, or shards with an index, into an existing folder; then read it back and compare.

    Args:
        path: the folder.
        tensors: on any device; names and dtypes are kept.
        max_shard_size: bytes, or a text such as `"500MB"`; a single larger tensor has a shard of its own.
        name: of the file, where it is one.

    Raises:
        OSError: if a file can not be written.
        WeightsError: if what the disk gives back is not what was written.
    """
    shards = list(_shards(tensors, parse_size(max_shard_size)))
    total = len(shards)
    files = [name] if total == 1 else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_file(path / file, {key: tensors[key] for key in shard})
    if total > 1:
        nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
        weight_map = {key: file for file, shard in zip(files, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": nbytes}, "weight_map": weight_map}
        (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    with Folder(path) as folder:
        _verify(Checkpoint(folder, names=(name, INDEX)), tensors)


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors on any device as one safetensors file.

    Raises:
        OSError: if it can not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode  # as the user's umask has it; safetensors would let only the owner read
    try:
        save_file(_own_memory(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # which is no OSError, even if it says "No space left on device"
        raise OSError(str(error)) from error
    path.chmod(mode)


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
