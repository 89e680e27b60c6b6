"""A folder is read as data from a stranger, and written as one step."""

import errno
import inspect
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pellucid.folder
from pellucid.errors import (
    ConfigError,
    InputError,
    MissingFileError,
    NotFoundError,
    SaveError,
    TokenizerError,
    UnsafeFileError,
    WeightsError,
)
from pellucid.folder import Folder, rewrite


@pytest.fixture
def model(tmp_path):
    """A folder of three files."""
    path = tmp_path / "bert-model"
    path.mkdir()
    (path / "config.json").write_text('{"hidden_size": 8}')
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "vocab.txt").write_text("hello\nworld\n")
    return path


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_data_files_and_nothing_else(model):
    (model / "modeling.py").write_text("raise SystemExit")
    (model / "data.pt").write_bytes(b"")
    (model / "checkpoint-5").mkdir()
    with Folder(model) as folder:
        assert folder.names() == ["config.json", "model.safetensors", "vocab.txt"]
        assert "config.json" in folder and "modeling.py" not in folder
        assert folder.size("model.safetensors") == 7
        assert folder.read_bytes("model.safetensors") == b"weights"
        assert folder.read_text("vocab.txt") == "hello\nworld\n"
        assert folder.read_json("config.json") == {"hidden_size": 8}
        assert os.pread(folder.descriptor("model.safetensors"), 3, 2) == b"igh"


def test_a_missing_file_is_named_with_those_that_are_there(model):
    with Folder(model) as folder, pytest.raises(MissingFileError) as caught:
        folder.read_json("confg.json")
    for part in ("'confg.json'", "did you mean 'config.json'", "vocab.txt", str(model)):
        assert part in str(caught.value)


def test_a_missing_file_in_a_folder_below_is_pointed_at(model):
    (model / "config.json").rename(model / "config.json.bak")
    (model / "checkpoint-5").mkdir()
    (model / "checkpoint-5" / "config.json").write_text("{}")
    with Folder(model) as folder, pytest.raises(MissingFileError, match="in its folder checkpoint-5"):
        folder.read_json("config.json")


@pytest.mark.parametrize(
    "name", ["../secret.json", "/etc/passwd", "a/b.json", "a\\b.json", "..", ".", "", "a\0.json", None, 5, ["a.json"]]
)
def test_a_name_that_is_not_plain_is_refused(model, name):
    (model.parent / "secret.json").write_text("{}")
    with Folder(model) as folder, pytest.raises(UnsafeFileError, match="plain name"):
        folder.read_bytes(name)


def test_pipes_sockets_folders_and_links_are_refused_at_once(model, tmp_path):
    os.mkfifo(model / "pipe.safetensors")
    (model / "folder.json").mkdir()
    (model / "link.json").symlink_to(model / "config.json")
    (model / "dangling.json").symlink_to("nowhere.json")
    server = socket.socket(socket.AF_UNIX)
    with server, Folder(model) as folder:
        start = time.monotonic()
        for name in ("pipe.safetensors", "folder.json", "link.json", "dangling.json"):
            assert name in folder
            with pytest.raises(UnsafeFileError, match=name):
                folder.descriptor(name)
        assert time.monotonic() - start < 1
        assert folder.read_json("config.json") == {"hidden_size": 8}


def make_cache(tmp_path):
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "a1"
    (snapshot / "sub").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "b1").write_text('{"from": "blob"}')
    (snapshot / "config.json").symlink_to("../../blobs/b1")
    (snapshot / "sub" / "config.json").symlink_to("../../../blobs/b1")
    return snapshot


def test_a_cache_snapshot_may_link_into_its_blobs_only(tmp_path):
    snapshot = make_cache(tmp_path)
    shared = tmp_path / "hub" / "blobs" / "ab"
    shared.mkdir(parents=True)
    (shared / "abc").write_text('{"from": "shared"}')
    (snapshot.parent.parent / "blobs" / "b2").symlink_to("../../blobs/ab/abc")
    (snapshot / "shared.json").symlink_to("../../blobs/b2")
    (tmp_path / "secret.json").write_text("{}")
    (snapshot / "outside.json").symlink_to(tmp_path / "secret.json")
    (snapshot / "other.json").symlink_to("../../../models--org--other/blobs/b1")
    (snapshot / "gone.json").symlink_to("../../blobs/b9")
    os.symlink(snapshot, tmp_path / "shortcut")
    for path in (snapshot, tmp_path / "shortcut"):
        with Folder(path) as folder:
            assert folder.read_json("config.json") == {"from": "blob"}
            assert folder.read_json("shared.json") == {"from": "shared"}
            assert "gone.json" not in folder
            for name in ("outside.json", "other.json"):
                with pytest.raises(UnsafeFileError, match="is a link"):
                    folder.read_bytes(name)
    with Folder(snapshot / "sub") as folder:
        assert folder.read_json("config.json") == {"from": "blob"}


def test_folders_that_are_none(model, tmp_path):
    with pytest.raises(NotFoundError, match=r"no folder .*bret-model; did you mean 'bert-model'\?"):
        Folder(tmp_path / "bret-model")
    with pytest.raises(NotFoundError, match="is a file"):
        Folder(model / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="is empty"):
        Folder(tmp_path / "empty")
    with pytest.raises(NotFoundError, match="can not be opened"):
        Folder("a\0b")


BROKEN = {
    "cut": ('{"a": 1,\n "b', "line 2, column 2"),
    "empty": ("", "line 1, column 1"),
    "list": ("[1]", "holds a list"),
    "null": ("null", "holds a NoneType"),
    "key twice": ('{"x": {"a": 1, "a": 1}}', "'a' is there twice"),
    "nan": ('{"a": NaN}', "NaN"),
    "infinity": ('{"a": -Infinity}', "Infinity"),
    "too deep": ('{"a":' * 100_000, "nests too deep"),
    "number of 10,000 digits": ('{"a": ' + "9" * 10_000 + "}", "digits"),
}


@pytest.mark.parametrize(
    "name, error",
    [
        ("config.json", ConfigError),
        ("tokenizer_config.json", TokenizerError),
        ("model.safetensors.index.json", WeightsError),
    ],
)
@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_names_the_file_and_the_place(model, name, error, case):
    text, expected = BROKEN[case]
    (model / name).write_text(text)
    with Folder(model) as folder, pytest.raises(error) as caught:
        folder.read_json(name)
    assert expected in str(caught.value) and str(model / name) in str(caught.value)


def test_infinity_where_it_is_allowed(model):
    (model / "config.json").write_text('{"a": [0, Infinity]}')
    with Folder(model) as folder:
        assert folder.read_json("config.json", infinity=True) == {"a": [0, float("inf")]}
    for constant in ("NaN", "-Infinity"):
        (model / "config.json").write_text(f'{{"a": {constant}}}')
        with Folder(model) as folder, pytest.raises(ConfigError, match=f"{constant} is not a JSON number"):
            folder.read_json("config.json", infinity=True)


def test_text_that_is_not_utf8_names_the_line(model):
    (model / "vocab.txt").write_bytes(b"good\nb\xffd\n")
    with Folder(model) as folder, pytest.raises(TokenizerError, match=r"vocab.txt is not UTF-8: byte 0xff in line 2"):
        folder.read_text("vocab.txt")


def test_a_byte_order_mark_is_no_content(model):
    (model / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    with Folder(model) as folder:
        assert folder.read_json("config.json") == {"a": 1}


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(model):
    os.truncate(model / "config.json", 2**40)
    with Folder(model) as folder:
        with pytest.raises(UnsafeFileError, match=r"config.json has 1,099,511,627,776 bytes"):
            folder.read_json("config.json")
        with pytest.raises(UnsafeFileError, match="at most 3"):
            folder.read_bytes("model.safetensors", limit=3)


def test_an_open_folder_keeps_what_it_opened(model):
    with Folder(model) as folder:
        for path in model.iterdir():
            path.unlink()
        model.rmdir()
        assert folder.read_json("config.json") == {"hidden_size": 8}


def test_descriptors_are_given_back(model):
    before = open_descriptors()
    folder = Folder(model)
    assert open_descriptors() == before + 3
    folder.close()
    folder.close()
    assert open_descriptors() == before
    with pytest.raises(InputError, match="closed"):
        folder.read_bytes("config.json")
    Folder(model)
    assert open_descriptors() == before


def test_more_files_than_a_process_may_open(tmp_path):
    for i in range(100):
        (tmp_path / f"model-{i:05}-of-00100.safetensors").touch()
    said = run_python(
        """
        import resource, sys
        from pellucid.folder import Folder
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            Folder(sys.argv[1])
        except OSError as error:
            print(type(error).__name__, error)
        """,
        tmp_path,
    )
    assert said.startswith("NotFoundError") and "100 files" in said and "ulimit" in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_every_json_object_is_read_as_it_was_written(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(value))
    with Folder(path) as folder:
        assert folder.read_json("config.json") == value


@given(content=st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_bytes(content)
    with Folder(path) as folder:
        try:
            assert isinstance(folder.read_json("config.json"), dict)
        except ConfigError as error:
            assert "config.json" in str(error)


# --- writing ----------------------------------------------------------------------------------------------------------


def save(path, version, size=20_000):
    """Save a model of one to three weight files, every one of which carries the version."""
    with rewrite(path, replaces=lambda name: name.endswith(".safetensors")) as staging:
        for i in range(1 + version % 3):
            (staging / f"model-{i}.safetensors").write_bytes(version.to_bytes(4, "little") * (size // 4))
        (staging / "config.json").write_text(json.dumps({"version": version, "files": 1 + version % 3}))


def version_of(folder):
    """Return the version of a saved model after checking that it is whole."""
    config = folder.read_json("config.json")
    weights = [name for name in folder.names() if name.endswith(".safetensors")]
    assert len(weights) == config["files"], (weights, config)
    for name in weights:
        content = folder.read_bytes(name)
        assert len(content) == 20_000 and content == config["version"].to_bytes(4, "little") * 5_000, (name, config)
    return config["version"]


PRELUDE = "import json, sys\nfrom pellucid.folder import Folder, rewrite\n" + inspect.getsource(save)


def start_python(code, *arguments):
    source = PRELUDE + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(pellucid.folder.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_until_ready(process):
    assert process.stdout.readline() == "ready\n"


def run_python(code, *arguments):
    with start_python(code, *arguments) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said


def contents(path):
    """Every file below a folder, its bytes and permissions."""
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mode)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def leftovers(path):
    return [str(left) for left in (*path.parent.iterdir(), *path.iterdir()) if "pellucid-" in left.name]


WAYS = ["exchange", "two renames", "in place"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch, tmp_path):
    """Each of the ways in which a directory is replaced."""
    if request.param == "two renames":
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    if request.param == "in place":
        (tmp_path / "model" / "runs").mkdir(parents=True)
        (tmp_path / "model" / "runs" / "log.txt").write_text("a log")
    return request.param


def test_a_new_folder_appears_with_its_parents(tmp_path):
    path = tmp_path / "a" / "b"
    save(path, 1)
    with Folder(path) as folder:
        assert version_of(folder) == 1
    assert not leftovers(path)


def test_files_are_replaced_kept_or_dropped(tmp_path, way):
    path = tmp_path / "model"
    save(path, 2)
    (path / "notes.txt").write_text("mine")
    save(path, 3)
    with Folder(path) as folder:
        assert version_of(folder) == 3
        assert folder.names() == ["config.json", "model-0.safetensors", "notes.txt"]
        assert folder.read_text("notes.txt") == "mine"
    assert not leftovers(path)
    assert (path / "runs" / "log.txt").exists() == (way == "in place")


def test_an_exception_changes_nothing(tmp_path, way):
    path = tmp_path / "model"
    save(path, 2)
    before = contents(path)
    with pytest.raises(ZeroDivisionError), rewrite(path) as staging:
        (staging / "config.json").write_text("{}")
        _ = 1 / 0
    assert contents(path) == before and not leftovers(path)


def test_an_exception_leaves_no_new_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), rewrite(tmp_path / "model"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_permissions_and_umask_are_respected(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "model", 1)
        assert (tmp_path / "model").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "model" / "config.json").stat().st_mode & 0o777 == 0o640
        (tmp_path / "model").chmod(0o775)
        save(tmp_path / "model", 2)
        assert (tmp_path / "model").stat().st_mode & 0o777 == 0o775
    finally:
        os.umask(before)


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    save(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    with Folder(tmp_path / "real") as folder:
        assert version_of(folder) == 2


def test_a_linked_file_is_replaced_and_never_written_through(tmp_path):
    save(tmp_path / "model", 3)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "config.json").symlink_to("../precious")
    save(tmp_path / "model", 4)
    assert (tmp_path / "precious").read_text() == "precious"
    with Folder(tmp_path / "model") as folder:
        assert version_of(folder) == 4


def test_the_current_directory_can_be_saved_into(tmp_path, monkeypatch):
    save(tmp_path / "model", 1)
    monkeypatch.chdir(tmp_path / "model")
    save(".", 2)
    assert os.getcwd() == str(tmp_path / "model")
    assert json.loads(Path("config.json").read_text())["version"] == 2


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "model").write_text("a file")
    for path in (tmp_path / "model", tmp_path / "model" / "below"):
        with pytest.raises(SaveError, match="model"), rewrite(path):
            raise AssertionError("not reached")
    assert (tmp_path / "model").read_text() == "a file"


def test_the_name_of_a_path_that_can_not_be_written_is_in_the_error(tmp_path, monkeypatch):
    save(tmp_path / "model", 1)
    expected = r"model could not be written: No space left.*Nothing has changed"
    with pytest.raises(SaveError, match=expected), rewrite(tmp_path / "model"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with Folder(tmp_path / "model") as folder:
        assert version_of(folder) == 1


CALLS = ["fsync", "rename", "link", "mkdir", "open", "listdir", "access", "exchange"]


@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_fails_the_old_or_the_new_version_is_there(tmp_path, way, call, monkeypatch):
    path = tmp_path / "model"
    save(path, 2)
    (path / "notes.txt").write_text("mine")
    owner, name = (pellucid.folder, "_exchange") if call == "exchange" else (os, call)
    original = getattr(owner, name)
    for failing in range(1, 100):
        before, count = contents(path), 0

        def faulty(*arguments, **options):
            nonlocal count
            count += 1
            if count == failing:  # noqa: B023
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, faulty)
            try:
                save(path, 2 + failing)
                failed = False
            except SaveError as error:
                failed = True
                assert str(path) in str(error)
        if failed:
            assert contents(path) == before
        else:
            with Folder(path) as folder:
                assert version_of(folder) == 2 + failing
                assert folder.read_text("notes.txt") == "mine"
        assert call == "open" or not leftovers(path)  # removing a folder opens it
        if count < failing:
            break
    else:
        raise AssertionError("the call never stopped failing")


def test_a_full_disk_leaves_the_old_version(tmp_path):
    path = tmp_path / "model"
    save(path, 1)
    before = contents(path)
    said = run_python(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            save(sys.argv[1], 2, size=80_000)
        except OSError as error:
            print(type(error).__name__, error)
        """,
        path,
    )
    assert said.startswith("SaveError") and str(path) in said
    assert contents(path) == before and not leftovers(path)


def test_kill_at_any_moment_leaves_one_whole_version(tmp_path):
    path = tmp_path / "model"
    save(path, 0)
    seen = set()
    for moment in range(15):
        writer = start_python(
            """
            print("ready", flush=True)
            for version in range(int(sys.argv[2]), 1_000_000):
                save(sys.argv[1], version)
            """,
            path,
            1000 * moment + 1,
        )
        with writer:
            wait_until_ready(writer)
            time.sleep(random.Random(moment).uniform(0, 0.06))
            writer.send_signal(signal.SIGKILL)
        with Folder(path) as folder:
            seen.add(version_of(folder))
    save(path, 5)
    assert len(seen) > 1, "the kills came after some saves"
    assert not leftovers(path), "the next save removes what killed ones left"


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_beside_a_writer_sees_whole_versions(tmp_path, way):
    path = tmp_path / "model"
    save(path, 0)
    if way == "in place":
        (path / "runs").mkdir()
    writer = start_python(
        """
        import ctypes, itertools
        if sys.argv[2] == "two renames":
            ctypes.CDLL = lambda *_, **__: object()
        print("ready", flush=True)
        for version in itertools.count(1):
            save(sys.argv[1], version)
        """,
        path,
        way,
    )
    seen, gaps = set(), 0
    with writer:
        try:
            wait_until_ready(writer)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                try:
                    with Folder(path) as folder:
                        seen.add(version_of(folder))
                except (NotFoundError, MissingFileError):
                    gaps += 1
        finally:
            writer.kill()
    assert len(seen) > 10
    assert gaps == 0 or way != "exchange"


def test_concurrent_writers_end_with_one_whole_version(tmp_path):
    path = tmp_path / "model"
    code = """
    for version in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
        save(sys.argv[1], version)
    """
    writers = [start_python(code, path, 100 * number) for number in range(4)]
    for writer in writers:
        with writer:
            assert writer.wait(timeout=60) == 0
    with Folder(path) as folder:
        assert version_of(folder) % 100 == 19
    assert not leftovers(path)


def test_writers_of_different_files_do_not_undo_each_other(tmp_path):
    path = tmp_path / "model"
    save(path, 0)
    code = """
    for version in range(40):
        with rewrite(sys.argv[1]) as staging:
            (staging / sys.argv[2]).write_text(str(version))
    """
    writers = [start_python(code, path, name) for name in ("vocab.txt", "merges.txt", "tokenizer.json")]
    for writer in writers:
        with writer:
            assert writer.wait(timeout=60) == 0
    with Folder(path) as folder:
        assert [folder.read_text(name) for name in ("vocab.txt", "merges.txt", "tokenizer.json")] == ["39"] * 3
        assert version_of(folder) == 0


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path):
    save(tmp_path / "model", 1)
    dead, living = (tmp_path / f".model.pellucid-{number}-ab" for number in (dead_process(), os.getpid()))
    other = tmp_path / ".model2.pellucid-1-ab"
    for left in (dead, living, other):
        left.mkdir()
        (left / "config.json").touch()
    save(tmp_path / "model", 2)
    assert not dead.exists() and living.exists() and other.exists()


def test_a_kill_between_two_renames_is_repaired(tmp_path):
    save(tmp_path / "model", 1)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "model").rename(tmp_path / f".model.pellucid-{dead_process()}-ab.old")
    with rewrite(tmp_path / "model") as staging:
        (staging / "vocab.txt").write_text("a")
    with Folder(tmp_path / "model") as folder:
        assert version_of(folder) == 1 and "notes.txt" in folder and "vocab.txt" in folder
    assert not leftovers(tmp_path / "model")


def test_a_kill_in_place_is_repaired(tmp_path):
    path = tmp_path / "model"
    save(path, 1)
    aside = path / f".pellucid-{dead_process()}-ab.old"
    aside.mkdir()
    (path / "config.json").rename(aside / "config.json")
    with Folder(path) as folder, pytest.raises(MissingFileError):
        version_of(folder)
    with rewrite(path) as staging:
        (staging / "vocab.txt").write_text("a")
    with Folder(path) as folder:
        assert version_of(folder) == 1
    assert not leftovers(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
def test_a_full_small_disk_and_a_mount_point(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this system lets not even root mount a disk")
    try:
        for path in (disk, disk / "model"):
            save(path, 3)
            before = contents(path)
            with pytest.raises(SaveError, match="No space left"):
                save(path, 4, size=200_000)
            assert contents(path) == before
            save(path, 6)
            with Folder(path) as folder:
                assert version_of(folder) == 6
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_system_without_locks(tmp_path):
    code = """
    import sys
    sys.modules["fcntl"] = None  # as on Windows
    from pellucid.folder import Folder, rewrite
    for version in ("1", "2"):
        with rewrite(sys.argv[1]) as staging:
            (staging / "config.json").write_text(f'{{"version": {version}}}')
    print(Folder(sys.argv[1]).read_json("config.json"))
    """
    source = str(Path(pellucid.folder.__file__).parents[1])
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "model")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert (said.stdout, said.stderr) == ("{'version': 2}\n", "")
