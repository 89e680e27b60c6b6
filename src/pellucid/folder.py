"""A folder of model files: read as data from a stranger, written as one step.

`Folder` opens every data file of a directory at one moment, so whoever replaces the directory meanwhile can neither mix
two versions nor pull a file away. `rewrite` replaces a directory so that a reader, a kill or a full disk meets the old
files or the new ones.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from .errors import (
    ConfigError,
    InputError,
    MissingFileError,
    NotFoundError,
    PellucidError,
    SaveError,
    TokenizerError,
    UnsafeFileError,
    WeightsError,
    did_you_mean,
)

READABLE = (
    *(".bin", ".bpe", ".codes", ".jinja", ".json", ".jsonl", ".md"),
    *(".model", ".safetensors", ".spm", ".tiktoken", ".tokenizer", ".txt", ".vocab"),
)  # what is data by its suffix; nothing else in a folder is ever opened

WHOLE_FILE_LIMIT = 256 * 2**20  # bytes; the largest tokenizer.json in use has about 35 MB

_OPENING_ATTEMPTS = 200
_LOCK_SECONDS = 60.0


class Folder:
    """The plain data files of one local directory, all opened at one moment.

    Every file whose suffix is in `READABLE` is opened at construction and stays open until `close()`: one descriptor a
    file. A checkpoint of more files than the process may hold open is refused with the way to raise that limit. Links
    are followed only in a Hub cache, and there only into the blobs of that cache. Threads may share an instance.

    Args:
        path: a directory.

    Raises:
        NotFoundError: if `path` does not exist, is not a directory or is empty.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._files: dict[str, int | str] = {}  # a descriptor, or why the file is refused
        self._closed = False
        self.path = Path(path)
        for _ in range(_OPENING_ATTEMPTS):
            if self._open_all():
                return
            self._close_files()
            time.sleep(0.001)
        raise NotFoundError(f"{path} was replaced {_OPENING_ATTEMPTS} times while being opened. Try again later.")

    def names(self) -> list[str]:
        """Return the names of the data files, sorted."""
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            MissingFileError: if there is no such file.
            UnsafeFileError: if the name is not a plain name, or what it names not a plain file.
        """
        return os.fstat(self.descriptor(name)).st_size

    def descriptor(self, name: str) -> int:
        """Return the open read-only descriptor of a file, valid until `close()`; read it with `os.pread`, never `read`.

        Raises:
            MissingFileError: if there is no such file.
            UnsafeFileError: if the name is not a plain name, or what it names not a plain file.
        """
        if not isinstance(name, str) or not name or name in (".", "..") or any(c in name for c in "/\\\0"):
            raise UnsafeFileError(f"{self.path} names the file {name!r}. Expected a plain name, inside the folder.")
        if self._closed:
            raise InputError(f"{self} was closed. Open it again to read {name!r}.")
        file = self._files.get(name)
        if file is None:
            self._refuse_missing(name)
        if isinstance(file, str):
            raise UnsafeFileError(f"{self.path / name} {file}")
        return file

    def read_bytes(self, name: str, *, limit: int = WHOLE_FILE_LIMIT) -> bytes:
        """Return the content of a file of at most `limit` bytes.

        Raises:
            MissingFileError: if there is no such file.
            UnsafeFileError: if it is not a plain file, is larger than `limit`, or shrinks while being read.
        """
        descriptor, size = self.descriptor(name), self.size(name)
        if size > limit:
            raise UnsafeFileError(f"{self.path / name} has {size:,} bytes. Expected at most {limit:,}.")
        content = bytearray()
        while len(content) < size:
            piece = os.pread(descriptor, size - len(content), len(content))
            if not piece:
                raise UnsafeFileError(f"{self.path / name} was cut to {len(content):,} bytes while being read.")
            content += piece
        return bytes(content)

    def read_text(self, name: str, *, limit: int = WHOLE_FILE_LIMIT) -> str:
        """Return a UTF-8 file as text, without a byte order mark.

        Raises:
            MissingFileError: if there is no such file.
            UnsafeFileError: if it is not a plain file or larger than `limit`.
            ConfigError, TokenizerError or WeightsError: if it is not UTF-8; which of them, the file's name decides.
        """
        content = self.read_bytes(name, limit=limit)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise _error_of(name)(
                f"{self.path / name} is not UTF-8: byte 0x{content[error.start]:02x} in line {line}. Fetch it again."
            ) from None

    def read_json(self, name: str, *, limit: int = WHOLE_FILE_LIMIT, infinity: bool = False) -> dict[str, Any]:
        """Return the JSON object in a file of at most `limit` bytes.

        Args:
            name: of the file.
            limit: in bytes.
            infinity: whether `Infinity` is a number, which it is not in JSON.

        Raises:
            MissingFileError: if there is no such file.
            UnsafeFileError: if it is not a plain file or larger than `limit`.
            ConfigError, TokenizerError or WeightsError: if it is not UTF-8, not JSON, not an object, has a key twice, a
                number that is not finite, or nests too deep; which of them, the file's name decides.
        """
        error, place = _error_of(name), self.path / name
        try:
            text = self.read_text(name, limit=limit)
            value = json.loads(
                text, object_pairs_hook=_distinct, parse_constant=_infinite if infinity else _refuse_constant
            )
        except json.JSONDecodeError as fault:
            where = f"line {fault.lineno}, column {fault.colno}"
            raise error(f"{place} is broken in {where}: {fault.msg}. Fetch or save it again.") from None
        except RecursionError:
            raise error(f"{place} nests too deep to be a model's file.") from None
        except PellucidError:
            raise
        except ValueError as fault:  # from the two hooks, or a number of thousands of digits
            raise error(f"{place}: {fault}") from None
        if not isinstance(value, dict):
            raise error(f"{place} holds a {type(value).__name__}. Expected a JSON object.")
        return value

    def close(self) -> None:
        """Close every file; the second time does nothing."""
        self._closed = True
        self._close_files()

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    def _close_files(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            if isinstance(file, int):
                os.close(file)

    def _open_all(self) -> bool:
        """Open every data file; return False if the directory changed meanwhile."""
        try:
            real = os.path.realpath(self.path)
            directory = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFoundError(f"there is no folder {self.path}{nearest_sibling(self.path) or '.'}") from None
        except NotADirectoryError:
            raise NotFoundError(f"{self.path} is a file. Give the folder that holds the model's files.") from None
        except (OSError, ValueError) as error:
            raise NotFoundError(f"the folder {str(self.path)!r} can not be opened: {error}.") from None
        names: list[str] = []
        try:
            names = sorted(os.listdir(directory))
            for name in names:
                if os.path.splitext(name)[1] in READABLE and (file := _open_in(directory, name, real)) is not None:
                    self._files[name] = file
            for name, file in self._files.items():
                if isinstance(file, int) and not _same_file(file, os.stat(name, dir_fd=directory)):
                    return False
            if sorted(os.listdir(directory)) != names or not _same_file(directory, os.stat(real)):
                return False
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise NotFoundError(
                f"{self.path} has {len(names)} files, more than this process may hold open at once. "
                "Raise the limit (`ulimit -n 65536`) and try again."
            ) from None
        finally:
            os.close(directory)
        if not names:
            raise NotFoundError(f"the folder {self.path} is empty. Expected a model's files, such as config.json.")
        return True

    def _refuse_missing(self, name: str) -> NoReturn:
        found = self.names()
        listed = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
        message = f"{self.path} has no file {name!r}{did_you_mean(name, found) or '.'} Its files: {listed or 'none'}."
        with suppress(OSError):
            folders = sorted(entry for entry in os.listdir(self.path) if (self.path / entry / name).is_file())
            message += f" The file is in its folder {folders[-1]}: give that one." if folders else ""
        raise MissingFileError(message)


def nearest_sibling(path: Path) -> str:
    """Return `"; did you mean ...?"` for a folder beside `path` with nearly its name, or an empty string."""
    with suppress(OSError, ValueError):
        return did_you_mean(path.name, [entry.name for entry in os.scandir(path.parent) if entry.is_dir()])
    return ""


@contextmanager
def rewrite(path: str | os.PathLike[str], *, replaces: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Replace the files of a directory in one step.

    Yields an empty staging directory to write into. When the block ends without an exception, its files together with
    the old files that are neither overwritten nor replaced become `path`: everything is flushed to the disk, then two
    directories are exchanged by one system call. After an exception, a kill or a power cut `path` is what it was, and
    the next `rewrite` removes what a killed one left. Concurrent writers take turns; on a
    system without `fcntl`, such as Windows, there are no turns, and the last to rename wins.

    Two cases are less than that. Where the system can not exchange (anything but Linux, some network file systems), the
    old directory is renamed aside and the new one renamed in: a reader between the two finds no folder. A directory
    that can not be exchanged as a whole (a mount point, the current directory, one with folders inside, one whose
    parent is read-only) gets its files renamed in one by one, config.json first out and last in: a kill between the
    two leaves a folder without config.json, which loads nowhere, and the next `rewrite` restores it.

    Args:
        path: the directory; created, with its parents, if absent. A link to a directory is followed.
        replaces: tells of an old file's name whether it belongs to what is being replaced, and goes.

    Raises:
        SaveError: if anything can not be written; nothing has changed then.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, expected a folder")
        staging, lock = _stage(target)
    except OSError as error:
        raise SaveError(f"{path} can not be written: {error.strerror}. Nothing has changed.") from error
    try:
        yield staging
        _install(staging, target, replaces)
    except PellucidError:
        raise
    except OSError as error:
        raise SaveError(
            f"{path} could not be written: {error.strerror or error}. Nothing has changed; make room or choose another "
            "folder, then save again."
        ) from error
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def _open_in(directory: int, name: str, real: str) -> int | str | None:
    """Open one file of a directory: its descriptor, why it is refused, or None for a cache link without its blob."""
    place = name
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        place = os.path.realpath(os.path.join(real, name))
        if not any(blobs in Path(place).parents for blobs in _blob_folders(Path(real))):
            return "is a link, and a link is followed only inside a Hub cache. Put the file itself there."
        try:
            mode = os.lstat(place).st_mode
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(mode):
        return "is not a regular file (but a folder, pipe, socket or device)."
    try:
        file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except PermissionError as error:
        return f"can not be read: {error.strerror}."
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return "is not a regular file."


def _blob_folders(folder: Path) -> list[Path]:
    """Where links of `models--org--name/snapshots/<commit>` may lead: its blobs, or those that the cache shares."""
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return [parent.parent / "blobs", parent.parent.parent / "blobs"]
    return []


def _same_file(descriptor: int, status: os.stat_result) -> bool:
    return os.path.samestat(os.fstat(descriptor), status)


def _error_of(name: str) -> type[ConfigError] | type[TokenizerError] | type[WeightsError]:
    """Return the class of error for a broken file of this name."""
    if name.endswith((".index.json", ".safetensors", ".bin")):
        return WeightsError
    tokenizer = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")
    return TokenizerError if name.startswith(tokenizer) or not name.endswith((".json", ".md")) else ConfigError


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, refusing a key that is there twice: two readers would take two values."""
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} is there twice. Remove one.")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number. Expected a finite one.")


def _infinite(constant: str) -> float:
    return float(constant) if constant == "Infinity" else _refuse_constant(constant)


def _stage(target: Path) -> tuple[Path, int]:
    """Make the directory to write into, beside `target` if possible, and a lock that says that its writer lives."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside, inside = f".{target.name}.pellucid-", ".pellucid-"
    _sweep(target.parent, beside, target)
    place, prefix = target.parent, beside
    if target.exists():
        _sweep(target, inside, target)
        if target.is_mount() or not os.access(target.parent, os.W_OK | os.X_OK):
            place, prefix = target, inside
    staging = place / f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"
    staging.mkdir()
    try:
        lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        staging.rmdir()
        raise
    _try_lock(lock)
    return staging, lock


def _sweep(place: Path, prefix: str, target: Path) -> None:
    """Remove what killed writers left in `place`, after giving back what they had put aside."""
    for name in os.listdir(place) if os.access(place, os.R_OK) else []:
        writer = name.removeprefix(prefix).split("-")[0]
        left = place / name
        if not name.startswith(prefix) or not writer.isdecimal() or _lives(int(writer)) or _is_locked(left):
            continue
        if name.endswith(".old"):
            _give_back(left, target)
        shutil.rmtree(left, ignore_errors=True)


def _give_back(aside: Path, target: Path) -> None:
    """Undo a replacement cut short: `aside` is the old directory or, inside `target`, holds its old files."""
    if aside.parent == target:
        for name in os.listdir(aside):
            os.rename(aside / name, target / name)
    elif not target.exists():
        os.rename(aside, target)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _try_lock(descriptor: int) -> bool:
    """Try to lock a directory; a system or file system that has no locks grants every one."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_locked(path: Path) -> bool:
    """Whether a directory has a living writer, perhaps in another container, whose process ids are not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _turn(place: Path) -> Iterator[None]:
    """Hold the lock of the directory in which something is replaced, so that writers take turns."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(directory):
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has been writing it for {_LOCK_SECONDS:.0f} s")
            time.sleep(0.005)
        yield
    finally:
        os.close(directory)


def _install(staging: Path, target: Path, replaces: Callable[[str], bool]) -> None:
    """Make the staged files, and the old ones that stay, the content of `target`."""
    for folder, _, names in os.walk(staging):
        for name in names:
            _flush(os.path.join(folder, name))
    with _turn(target.parent if os.access(target.parent, os.R_OK) else target):
        if not target.exists():
            _flush(staging)
            os.rename(staging, target)
            try:
                _flush(target.parent)
            except BaseException:
                os.rename(target, staging)
                raise
        elif _exchangeable(target):
            _take_place(staging, target, replaces)
        else:
            _move_in(staging, target, replaces)


def _exchangeable(target: Path) -> bool:
    """Whether another directory can take the place of this one: it holds files only, and nobody stands in it."""
    with suppress(FileNotFoundError):  # the current directory may have been deleted
        if target in (here := Path.cwd(), *here.parents):
            return False
    return (
        not target.is_mount()
        and os.access(target.parent, os.W_OK | os.X_OK)
        and not [entry for entry in os.scandir(target) if entry.is_dir(follow_symlinks=False)]
    )


def _take_place(staging: Path, target: Path, replaces: Callable[[str], bool]) -> None:
    """Exchange two directories after giving the new one the files of the old one that stay."""
    shutil.copymode(target, staging)
    with suppress(PermissionError):
        status = target.stat()
        os.chown(staging, status.st_uid, status.st_gid)
    _carry(target, staging, replaces)
    _flush(staging)
    _exchange(staging, target)
    try:
        _flush(target.parent)
        _carry(staging, target, replaces)  # what another program put there in the meantime
    except BaseException:
        _exchange(staging, target)
        raise


def _move_in(staging: Path, target: Path, replaces: Callable[[str], bool]) -> None:
    """Rename the staged files into `target` one by one, config.json first out and last in."""
    aside = target / f".pellucid-{os.getpid()}-{os.urandom(4).hex()}.old"
    written = sorted(os.listdir(staging), key=lambda name: (name.endswith(".json"), name == "config.json"))
    old = [name for name in os.listdir(target) if name in written or (replaces(name) and (target / name).is_file())]
    aside.mkdir()
    moved: list[str] = []
    try:
        for name in sorted(old, key=lambda name: name != "config.json"):
            os.rename(target / name, aside / name)
        for name in written:
            os.rename(staging / name, target / name)
            moved.append(name)
        _flush(target)
    except BaseException:
        for name in moved:
            os.rename(target / name, staging / name)
        _give_back(aside, target)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _carry(old: Path, new: Path, replaces: Callable[[str], bool]) -> None:
    """Give `new` the files of `old` that it lacks and that are not replaced."""
    for name in os.listdir(old):
        if os.path.lexists(new / name) or replaces(name):
            continue
        try:
            os.link(old / name, new / name, follow_symlinks=False)
        except OSError:  # a file system without hard links
            shutil.copy2(old / name, new / name, follow_symlinks=False)
            _flush(new / name)


def _exchange(staging: Path, target: Path) -> None:
    """Exchange two directories, by one system call where there is one."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        code = errno.ENOSYS
    else:
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        failed = renameat2(here, os.fsencode(staging), here, os.fsencode(target), exchange)
        code = ctypes.get_errno() if failed else 0
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        aside = staging.with_name(f"{staging.name}.old")
        os.rename(target, aside)
        try:
            os.rename(staging, target)
            os.rename(aside, staging)
        except BaseException:
            if not staging.exists():
                os.rename(target, staging)
            os.rename(aside, target)
            raise
    elif code:
        raise OSError(code, os.strerror(code), str(target))


def _flush(path: str | os.PathLike[str]) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
