"""Weight files: every break is named with its file, nothing in them is executed, and the bytes come back as stored."""

import json
import os
import pickle
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pellucid import weights
from pellucid.errors import InputError, MissingFileError, UnsafeFileError, WeightsError
from pellucid.folder import Folder
from pellucid.weights import Checkpoint, is_weight_file, parse_size

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3.0), "c": torch.ones(4, dtype=torch.float16)}
FILE, INDEX, BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def read(folder: Path, **options: bool) -> dict[str, torch.Tensor]:
    """Open a folder and read everything."""
    with Folder(folder) as opened:
        checkpoint = Checkpoint(opened, **options)
        return {name: checkpoint.load(name).clone() for name in list(checkpoint.tensors)}


def assert_equal(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights.same_bits(found[name], tensor), name


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Make a safetensors file of any header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: object, end: object, shape: object = (1,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# --- safetensors ------------------------------------------------------------------------------------------------------

GOOD = raw({"a": entry(0, 4), "b": entry(4, 8)}, bytes(8))
BLOATED = b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(300_000)) + b"}"
BROKEN = {
    "empty": (b"", "no whole safetensors file: 0 bytes"),
    "5 bytes": (b"12345", "no whole safetensors file: 5 bytes"),
    "cut in the data": (GOOD[:-3], "cut or damaged"),
    "cut in the header": (GOOD[:40], "no whole safetensors file: 40 bytes"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS pointer.*git lfs pull"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "no whole safetensors file"),
    "header of 2^63 bytes": (raw({}, length=2**63), "header of 9223372036854775808"),
    "header of 2^64 - 1 bytes": (raw({}, length=2**64 - 1), "no whole safetensors file"),
    "header of 0 bytes": (raw(b"", bytes(9)), "header of 0"),
    "300,000 empty tensors": (raw(BLOATED), "header of 1[0-9]{7} bytes; expected at most"),
    "trailing bytes": (GOOD + b"x", "has 1[0-9]+ bytes, its header describes"),
    "range past the end": (raw({"a": entry(0, 4), "b": entry(4, 8)}, bytes(6)), "cut or damaged"),
    "range far past the end": (raw({"a": entry(2**61, 2**61 + 4)}, bytes(4)), "a begins at byte"),
    "overlap": (raw({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "b begins at byte .* overlap or leave a gap"),
    "same range": (raw({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)), "overlap or leave a gap"),
    "gap": (raw({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "overlap or leave a gap"),
    "gap at the start": (raw({"a": entry(4, 8)}, bytes(8)), "overlap or leave a gap"),
    "range backwards": (raw({"a": entry(4, 0)}, bytes(4)), "needs 4 bytes, its range has -4"),
    "range too short": (raw({"a": entry(0, 4, [2])}, bytes(4)), r"a of shape \[2\] needs 8 bytes, its range has 4"),
    "key twice": (raw(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), bytes(4)), "occurs twice"),
    "field twice": (raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), "twice"),
    "byte order mark": (raw(b"\xef\xbb\xbf" + json.dumps({"a": entry(0, 4)}).encode(), bytes(4)), "broken header"),
    "UTF-16": (raw(json.dumps({"a": entry(0, 4)}).encode("utf-16"), bytes(4)), "broken header"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "broken header"),
    "not JSON": (raw(b"{'a': 1}"), "broken header"),
    "nested deep": (raw(b"[" * 100_000), "broken header"),
    "a list": (raw([1, 2]), "no JSON object"),
    "entry a list": (raw({"a": [1]}), "entry of 'a' is broken"),
    "entry a text": (raw({"a": "x"}), "entry of 'a' is broken"),
    "entry without a dtype": (raw({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "entry of 'a' is broken"),
    "shape of text": (raw({"a": entry(0, 4, ["1"])}, bytes(4)), "entry of 'a' is broken"),
    "shape of fractions": (raw({"a": entry(0, 4, [1.0])}, bytes(4)), "entry of 'a' is broken"),
    "shape of booleans": (raw({"a": entry(0, 4, [True])}, bytes(4)), "entry of 'a' is broken"),
    "shape negative": (raw({"a": entry(0, 4, [-1])}, bytes(4)), "entry of 'a' is broken"),
    "shape missing": (raw({"a": entry(0, 4, None)}, bytes(4)), "entry of 'a' is broken"),
    "offsets negative": (raw({"a": entry(-4, 0)}, bytes(4)), "entry of 'a' is broken"),
    "three offsets": (raw({"a": entry(0, 4) | {"data_offsets": [0, 4, 8]}}, bytes(4)), "entry of 'a' is broken"),
    "shape of 10^18": (raw({"a": entry(0, 4, [10**18])}, bytes(4)), "needs 4000000000000000000 bytes"),
    "shape that overflows": (raw({"a": entry(0, 4, [2**40] * 2)}, bytes(4)), "needs 4835703278458516698824704 bytes"),
    "shape that overflows to 0": (raw({"a": entry(0, 0, [2**32, 2**32])}), "needs 73786976294838206464 bytes"),
    "unknown dtype": (raw({"a": entry(0, 4, dtype="F4")}, bytes(4)), "a is stored as 'F4'; known are F64, "),
    "dtype a list": (raw({"a": entry(0, 4, dtype=["F32"])}, bytes(4)), "stored as|broken"),
    "no tensor": (raw({}), "holds no tensor"),
    "metadata only": (raw({"__metadata__": {"format": "pt"}}), "holds no tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_safetensors_are_named(content, message, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path)
    assert FILE in str(caught.value) and str(tmp_path) in str(caught.value)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_broken_file_is_not_replaced_by_another(tmp_path):
    torch.save(TENSORS, tmp_path / BIN)
    save_file(TENSORS, tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / FILE).write_bytes(GOOD[:-1])
    with pytest.raises(WeightsError, match="cut or damaged"):
        read(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_clear_error_or_harmless(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    save_file(TENSORS, folder / FILE)
    content = bytearray((folder / FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(max_size=3))
        content[place : place + data.draw(st.integers(0, 3))] = piece
    (folder / FILE).write_bytes(content)
    try:
        found = read(folder)
    except WeightsError as error:
        assert FILE in str(error)
    else:  # what is read is what the format's own reader reads
        assert_equal(found, load_file(folder / FILE))


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
          torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(dtype, tmp_path):
    bits = torch.randint(0, 2 if dtype == torch.bool else 256, (3, 8 * dtype.itemsize), dtype=torch.uint8)
    tensors = {"x": bits.view(dtype), "empty": torch.empty(0, 5, dtype=dtype), "scalar": bits.view(dtype)[0, 0].clone()}
    save_file(tensors, tmp_path / FILE)
    assert_equal(read(tmp_path), tensors)
    with Folder(tmp_path) as folder:
        target = torch.zeros(3, 8, dtype=torch.float32)
        Checkpoint(folder).read({"x": target})
    assert torch.equal(target, tensors["x"].float()) or target.isnan().any()


def test_reading_into_other_dtypes_and_layouts(tmp_path):
    save_file(TENSORS, tmp_path / FILE)
    targets = {"a": torch.zeros(3, 2, dtype=torch.bfloat16).T, "b": torch.zeros(()), "c": torch.zeros(4)}
    with Folder(tmp_path) as folder:
        Checkpoint(folder).read(targets)
    assert all(torch.equal(targets[name].float(), tensor.float()) for name, tensor in TENSORS.items())


def test_a_file_cut_while_it_is_read(tmp_path):
    save_file(TENSORS, tmp_path / FILE)
    with Folder(tmp_path) as folder:
        checkpoint = Checkpoint(folder)
        os.truncate(tmp_path / FILE, 200)
        with pytest.raises(WeightsError, match=f"{FILE} became shorter while it was read"):
            checkpoint.read({name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()})


# --- the index --------------------------------------------------------------------------------------------------------

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def shard(folder: Path, changes: dict | None = None) -> Path:
    """Write two shards and their index, in which some entries are changed or, for None, removed."""
    save_file({"a": TENSORS["a"]}, folder / SHARDS[0])
    save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / SHARDS[1])
    places = {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]} | (changes or {})
    places = {name: file for name, file in places.items() if file is not None}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": places}))
    return folder


def test_shards(tmp_path):
    assert_equal(read(shard(tmp_path)), TENSORS)
    assert_equal(read(shard(tmp_path), safetensors_only=True), TENSORS)


STRANGE_NAMES = {
    "one level up": "../outside.safetensors",
    "far up": "../../../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "absolute, of the right suffix": "/tmp/outside.safetensors",
    "in a folder": "deeper/model.safetensors",
    "backslashes": "..\\outside.safetensors",
    "a pickle": BIN,
    "no suffix": "model",
    "NUL": "model\0.safetensors",
    "empty": "",
    "a number": 3,
    "a list": ["model.safetensors"],
    "an object": {"file": "model.safetensors"},
}


@pytest.mark.parametrize("name", STRANGE_NAMES.values(), ids=STRANGE_NAMES)
@pytest.mark.parametrize("safetensors_only", [False, True])
def test_an_index_names_plain_files_of_its_own_kind(name, safetensors_only, tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "outside.safetensors")
    inside = tmp_path / "model"
    (inside / "deeper").mkdir(parents=True)
    shard(inside, {"a": name})
    torch.save(TENSORS, inside / BIN)
    with pytest.raises((UnsafeFileError, MissingFileError), match=r"index\.json names|names the file"):
        read(inside, safetensors_only=safetensors_only)


def test_an_index_of_pickles_names_only_pickles(tmp_path):
    save_file(TENSORS, tmp_path / "weights.safetensors")
    (tmp_path / f"{BIN}.index.json").write_text(json.dumps({"weight_map": {"a": "weights.safetensors"}}))
    with pytest.raises(UnsafeFileError, match=r"expected plain names that end in \.bin"):
        read(tmp_path)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)], ids=["pipe", "folder", "link"]
)
@pytest.mark.parametrize("name", [FILE, SHARDS[0], BIN])
def test_files_that_are_no_files(make, name, tmp_path):
    if name == SHARDS[0]:
        shard(tmp_path)
        (tmp_path / name).unlink()
    make(tmp_path / name)
    start = time.monotonic()
    with pytest.raises(UnsafeFileError, match=name):
        read(tmp_path)
    assert time.monotonic() - start < 2


BROKEN_INDEX = {
    "cut": ('{"weight_map": {"a"', "line 1"),
    "a list": ("[]", "JSON object"),
    "no weight_map": ('{"metadata": {}}', "has no weight_map"),
    "weight_map a list": ('{"weight_map": ["a"]}', "has no weight_map"),
    "weight_map empty": ('{"weight_map": {}}', "has no weight_map"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN_INDEX.values(), ids=BROKEN_INDEX)
def test_broken_indices_are_named(text, message, tmp_path):
    (shard(tmp_path) / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path)
    assert INDEX in str(caught.value)


def test_shards_that_make_no_whole(tmp_path):
    (shard(tmp_path) / SHARDS[1]).unlink()
    with pytest.raises(MissingFileError, match=f"{INDEX} names {SHARDS[1]}, which is not there"):
        read(tmp_path)
    shard(tmp_path, {"d": SHARDS[1]})
    with pytest.raises(WeightsError, match=f"{INDEX} says that {SHARDS[1]} holds d, but it does not"):
        read(tmp_path)
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, shard(tmp_path) / SHARDS[0])
    with pytest.raises(WeightsError, match=f"b is stored twice, in {SHARDS[0]} and in {SHARDS[1]}"):
        read(tmp_path)


def test_no_weights_at_all(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"has no weights; expected model.safetensors.*found: config\.json"):
        read(tmp_path)


# --- pytorch_model.bin ------------------------------------------------------------------------------------------------


class Bomb:
    """Executes a command when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def plain_pickle(content: object, path: Path):
    path.write_bytes(pickle.dumps(content, protocol=2))


def old_format(content: object, path: Path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [plain_pickle, torch.save, old_format], ids=["plain", "zip", "old"])
@pytest.mark.parametrize(
    "wrap",
    [lambda bomb: bomb, lambda bomb: TENSORS | {"x": bomb}, lambda bomb: {bomb: 1}],
    ids=["bare", "among", "key"],
)
def test_pickles_are_not_executed(save, wrap, tmp_path):
    canary = tmp_path / "canary"
    model = tmp_path / "model"
    model.mkdir()
    save(wrap(Bomb(canary)), model / BIN)
    with pytest.raises(UnsafeFileError, match=f"{BIN} holds more than tensors, and nothing in it was executed"):
        read(model)
    with pytest.raises(MissingFileError, match="use_safetensors=True"):
        read(model, safetensors_only=True)
    assert not canary.exists()


def test_pickles_are_not_executed_in_shards_either(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    torch.save(TENSORS, model / "pytorch_model-00001-of-00002.bin")
    torch.save(Bomb(tmp_path / "canary"), model / "pytorch_model-00002-of-00002.bin")
    places = {"a": "pytorch_model-00001-of-00002.bin", "z": "pytorch_model-00002-of-00002.bin"}
    (model / f"{BIN}.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UnsafeFileError, match=r"pytorch_model-00002-of-00002\.bin holds more"):
        read(model)
    assert not (tmp_path / "canary").exists()


NESTS = {
    "plain": TENSORS,
    "state_dict": {"state_dict": TENSORS, "epoch": 3},
    "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()},
}


@pytest.mark.parametrize("save", [torch.save, old_format], ids=["zip", "old"])
@pytest.mark.parametrize("content", NESTS.values(), ids=NESTS)
def test_bin_files(save, content, tmp_path):
    save(content, tmp_path / BIN)
    assert_equal(read(tmp_path), TENSORS)


def test_bin_shards(tmp_path):
    torch.save({"a": TENSORS["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": TENSORS["b"], "c": TENSORS["c"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {name: f"pytorch_model-0000{1 if name == 'a' else 2}-of-00002.bin" for name in TENSORS}
    (tmp_path / f"{BIN}.index.json").write_text(json.dumps({"weight_map": places}))
    assert_equal(read(tmp_path), TENSORS)


def cut(path: Path):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def cut_old(path: Path):
    old_format({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def zip_of_numbers(path: Path):
    np.savez(path.with_suffix(".npz"), a=np.ones(2))
    path.with_suffix(".npz").rename(path)


BROKEN_BIN = {
    "empty": (lambda p: p.write_bytes(b""), "no PyTorch file"),
    "text": (lambda p: p.write_bytes(b"hello world"), "no PyTorch file, it begins with b'hello wo'"),
    "web page": (lambda p: p.write_bytes(b"<!doctype html>"), "no PyTorch file"),
    "LFS pointer": (lambda p: p.write_bytes(b"version https://git-lfs"), "Git LFS pointer"),
    "safetensors": (lambda p: save_file(TENSORS, p), "no PyTorch file"),
    "cut": (cut, "is broken: "),
    "cut, old format": (cut_old, "is broken: "),
    "zip of something else": (zip_of_numbers, "is broken: "),
    "list": (lambda p: torch.save([torch.ones(2)], p), "not a table of plain tensors"),
    "number": (lambda p: torch.save({"a": 3}, p), "not a table of plain tensors"),
    "optimizer": (lambda p: torch.save({"state": {}, "param_groups": []}, p), "not a table of plain tensors"),
    "sparse": (lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p), "not a table of plain tensors"),
    "without data": (lambda p: torch.save({"a": torch.ones(3, device="meta")}, p), "not a table of plain tensors"),
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "message"), BROKEN_BIN.values(), ids=BROKEN_BIN)
def test_broken_bin_files_are_named(break_it, message, tmp_path):
    break_it(tmp_path / BIN)
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path)
    assert BIN in str(caught.value)


@pytest.mark.parametrize("content", [{"a": np.ones(2)}, torch.nn.Linear(2, 2)], ids=["numpy", "module"])
def test_bin_files_of_other_objects(content, tmp_path):
    torch.save(content, tmp_path / BIN)
    with pytest.raises(UnsafeFileError, match="holds more than tensors"):
        read(tmp_path)


def test_a_stride_of_zero_allocates_nothing(tmp_path):
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / BIN)
    with Folder(tmp_path) as folder:
        assert Checkpoint(folder).tensors["a"].shape == (10**12,)  # to be refused by its shape


def test_old_torch_reads_no_pickle(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / BIN)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(WeightsError, match=r"torch 2\.9\.1\+cpu can not read safely; install torch 2\.10"):
        read(tmp_path)


# --- writing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12), limit=st.integers(1, 300))
def test_any_limit_gives_shards_that_make_the_whole(sizes, limit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.randn(size) for i, size in enumerate(sizes)}
    weights.write(folder, tensors, max_shard_size=limit)
    assert_equal(read(folder), tensors)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        content = load_file(file)
        nbytes = sum(t.nbytes for t in content.values())
        assert nbytes <= limit or len([t for t in content.values() if t.nbytes]) == 1
    if len(files) > 1:
        index = json.loads((folder / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
        assert index["weight_map"].keys() == tensors.keys()
        assert {folder / name for name in index["weight_map"].values()} == set(files)


def test_tensors_that_share_memory_are_each_written(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {"all": base, "again": base, "part": base[1:], "turned": base.T, "nan": torch.tensor([float("nan")])}
    weights.write(tmp_path, tensors)
    assert_equal(read(tmp_path), tensors)


@pytest.mark.parametrize("lie", ["flip", "lose", "cut"])
def test_a_disk_that_lies_is_found_out(lie, tmp_path, monkeypatch):
    import safetensors.torch

    honest = safetensors.torch.save_file

    def lying(tensors, path, metadata):
        tensors = {name: t for name, t in tensors.items() if lie != "lose" or name != "b"}
        honest(tensors, path, metadata=metadata)
        content = bytearray(path.read_bytes())
        content[-1] ^= lie == "flip"
        path.write_bytes(content[: len(content) - (lie == "cut")])

    monkeypatch.setattr(safetensors.torch, "save_file", lying)
    with pytest.raises(WeightsError, match=r"check the disk|cut or damaged"):
        weights.write(tmp_path, TENSORS)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (500, 500),
        ("500", 500),
        ("5GB", 5 * 10**9),
        ("5 GB", 5 * 10**9),
        ("2gib", 2**31),
        ("1MiB", 2**20),
        ("3KB", 3000),
    ],
)
def test_sizes(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", [0, -1, "0", "", "5TB", "GB", "1.5GB", "-5GB", "5 G B", None, True, 1.5, "9" * 100, "\u0665GB"]
)
def test_bad_sizes(size):
    with pytest.raises(InputError, match="expected a number of bytes or a text such as '5GB'"):
        parse_size(size)


def test_which_files_a_save_replaces():
    for name in (FILE, INDEX, *SHARDS, BIN, f"{BIN}.index.json", "pytorch_model-00001-of-00002.bin"):
        assert is_weight_file(name), name
    for name in ("config.json", "tokenizer.json", "adapter_model.safetensors", "model_card.md", "model.onnx",
                 "model.bin", "model.fp16.safetensors", "training_args.bin", "my_model.safetensors"):  # fmt: skip
        assert not is_weight_file(name), name
