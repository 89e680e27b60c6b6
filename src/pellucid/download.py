"""The Hub as a source of files: what a repository holds, and its bytes, hashed while they arrive.

The address, the token and the time limits come from the environment variables that other libraries use too. Every
failure is told by its cause, with what to do about it.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote

from .errors import (
    BadTokenError,
    DamagedDownloadError,
    GatedError,
    HubError,
    MissingFileError,
    NotFoundError,
    OfflineError,
)
from .folder import nearest_sibling, try_lock

WITHOUT_NETWORK = "pellucid/sentiment"  # the model that is shipped inside this package
BUSY = (408, 429, 500, 502, 503, 504)  # statuses after which asking again may help
RETRY_SECONDS = (1.0, 2.0, 4.0)  # pauses before a request is tried again
LONGEST_PAUSE = 60  # seconds; a Hub that asks for more is not waited for
LISTING_LIMIT = 64 * 2**20  # bytes
CHUNK = 2**20  # bytes


def is_commit(revision: str) -> bool:
    """Whether a revision is the full hash of a commit, which never changes what it means."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


@dataclass(frozen=True)
class Remote:
    """One file of a repository at a commit."""

    path: str
    size: int  # bytes
    digest: str  # its sha256, or the sha1 of a git blob, which counts a header

    def new_hash(self) -> "hashlib._Hash":
        """Return the hash of no content yet, of the kind that was promised."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


class Hub:
    """One repository on the Hub: what it holds, and its bytes; every failure told by its cause."""

    def __init__(self, repository: str, *, revision: str = "main", token: str | bool | None = None):
        from huggingface_hub import get_token
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.utils import get_session

        self.repository, self.revision = repository, revision
        self.endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.session = get_session()
        http_error: Any = HfHubHTTPError.__bases__[0]  # that of httpx or httpx2, by the version of huggingface_hub
        self.network_errors: tuple[type[Exception], ...] = (http_error, OfflineModeIsEnabled)
        self.stop = threading.Event()  # set to end what other threads are fetching
        if token is None and os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
            token = False
        self.token = get_token() if token is None or token is True else token
        self.headers = {"user-agent": "pellucid", "accept-encoding": "identity"}
        if self.token:
            self.headers["authorization"] = f"Bearer {self.token}"

    def listing(self, revision: str | None = None) -> tuple[str, dict[str, Remote]]:
        """Return the commit that a revision is, and its files by path."""
        asked = quote(revision or self.revision, safe="")
        url = f"{self.endpoint}/api/models/{self.repository}/revision/{asked}?blobs=true"
        timeout, body = seconds("HF_HUB_ETAG_TIMEOUT"), bytearray()
        try:
            with self.get(url, timeout=timeout) as response:
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > LISTING_LIMIT:
                        raise HubError(
                            f"{self.endpoint} lists more than {LISTING_LIMIT:,} bytes for {self.repository}."
                        )
        except self.network_errors as error:
            raise self._unreachable(error) from error
        try:
            answer = json.loads(body)
            commit, files = answer["sha"], {}
            for entry in answer["siblings"]:
                digest = (entry.get("lfs") or {}).get("sha256") or entry["blobId"]
                files[entry["rfilename"]] = Remote(entry["rfilename"], int(entry["size"]), digest)
                if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest) or not is_commit(commit):
                    raise ValueError(f"{digest!r} or {commit!r} is no hash")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HubError(
                f"{self.endpoint} does not say what {self.repository!r} holds ({type(error).__name__}: {error}). "
                "Is HF_ENDPOINT the address of a Hub?"
            ) from error
        return commit, files

    def fetch(self, remote: Remote, commit: str, blob: Path, *, again: bool, arrived: Callable[[int], Any]) -> None:
        """Bring a file to `blob`, going on where an earlier download of any process ended.

        Args:
            remote: the file.
            commit: the commit it is taken from.
            blob: where it goes, once it is whole and has the hash that was promised.
            again: whether to fetch it also when `blob` exists.
            arrived: called with the number of bytes that arrived.
        """
        partial = blob.with_name(f"{blob.name}.pellucid")
        while not self.stop.is_set() and (again or not blob.exists()):
            with open(partial, "a+b") as file:
                while not try_lock(file.fileno()):  # another process is fetching it
                    if self.stop.wait(0.1):
                        return
                with suppress(FileNotFoundError):
                    if not os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
                        continue
                    try:
                        if self._receive(remote, commit, file, arrived):
                            file.flush()
                            os.fsync(file.fileno())
                            os.replace(partial, blob)
                            return
                    except DamagedDownloadError:
                        partial.unlink()
                        raise

    def _receive(self, remote: Remote, commit: str, file: BinaryIO, arrived: Callable[[int], Any]) -> bool:
        """Complete a file and check its hash; return False if it has to be begun again."""
        digest, received = remote.new_hash(), 0
        file.seek(0)
        while piece := file.read(CHUNK):
            digest.update(piece)
            received += len(piece)
        resumed = best = received
        failures, cause, timeout = 0, None, seconds("HF_HUB_DOWNLOAD_TIMEOUT")
        url = f"{self.endpoint}/{self.repository}/resolve/{commit}/{quote(remote.path)}"
        while received < remote.size:
            try:
                with self.get(url, offset=received, timeout=timeout) as response:
                    if received and response.status_code != 206:  # it ignores ranges, or has less than we have
                        file.truncate(0)
                        digest, received = remote.new_hash(), 0
                    for piece in response.iter_bytes() if response.status_code != 416 else ():
                        if self.stop.is_set() or received > remote.size:
                            break
                        file.write(piece)
                        digest.update(piece)
                        received += len(piece)
                        arrived(len(piece))
                cause = None
            except self.network_errors as error:
                cause = error
            if self.stop.is_set():
                return False
            failures = 0 if received > best else failures + 1
            best = max(best, received)
            if received < remote.size and failures > len(RETRY_SECONDS):
                self._give_up(remote, best, cause)
            if failures:
                self.stop.wait(RETRY_SECONDS[failures - 1])
        if digest.hexdigest() == remote.digest:
            return True
        if resumed:  # what was there before may be to blame
            file.truncate(0)
            return False
        raise DamagedDownloadError(
            f"{remote.path} of {self.repository!r} came with {received:,} bytes and the hash {digest.hexdigest()}. "
            f"Promised were {remote.size:,} and {remote.digest}. Nothing of it was kept; try again."
        )

    def _give_up(self, remote: Remote, received: int, cause: Exception | None) -> NoReturn:
        """Raise for a file that stays incomplete."""
        if cause is None:
            raise DamagedDownloadError(
                f"{remote.path} of {self.repository!r} ends after {received:,} bytes. Promised were {remote.size:,}. "
                "Nothing of it was kept; try again, or tell the owner of the Hub."
            )
        if not received:
            raise self._unreachable(cause) from cause
        raise OfflineError(
            f"the connection breaks again and again after {received:,} of {remote.size:,} bytes of {remote.path} of "
            f"{self.repository!r} ({type(cause).__name__}). What came is kept: call again to go on from there."
        ) from cause

    def _unreachable(self, cause: Exception) -> OfflineError:
        return OfflineError(
            f"{self.repository!r} is not in the cache, and {self.endpoint} does not answer ({type(cause).__name__}: "
            f"{cause}). Check the network, or use a model that needs none: {WITHOUT_NETWORK}."
            + folder_hint(self.repository)
        )

    @contextmanager
    def get(self, url: str, *, offset: int = 0, timeout: float) -> Iterator[Any]:
        """Request a URL from a byte on, and yield the response before its body is read."""
        headers = {**self.headers, "range": f"bytes={offset}-"} if offset else self.headers
        for pause in (*RETRY_SECONDS, None):
            with self.session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
                status = response.status_code
                if status < 400 or (status == 416 and offset):
                    yield response
                    return
                asked = response.headers.get("retry-after", "")
                wait = float(asked) if asked.isdecimal() else pause
                if status not in BUSY or pause is None or wait is None or wait > LONGEST_PAUSE:
                    self.refuse(response)
            self.stop.wait(wait)

    def refuse(self, response: Any) -> NoReturn:
        """Raise the error that a status means."""
        status, headers = response.status_code, response.headers
        code, said = headers.get("x-error-code", ""), headers.get("x-error-message", "")
        what, settings = f"{self.repository!r} on {self.endpoint}", f"{self.endpoint}/settings/tokens"
        if status in BUSY:
            asked = headers.get("retry-after", "")
            later = f"in {asked} seconds" if asked.isdecimal() else "later"
            reason = "sends too many requests from here away" if status == 429 else "is broken or busy"
            raise OfflineError(
                f"{self.endpoint} {reason} (status {status}), and {self.repository!r} is not in the cache. "
                f"Try again {later}."
            )
        if code == "GatedRepo":
            yet = " (the one that was sent has none yet)" if self.token else ""
            raise GatedError(
                f"access to {what} has to be asked for. Open {self.endpoint}/{self.repository}, accept the conditions, "
                f"and pass the token of an account that has access{yet}."
            )
        if code == "RevisionNotFound":
            raise NotFoundError(f"{what} has no revision {self.revision!r}. Leave it out for 'main'.")
        if code == "EntryNotFound":
            raise MissingFileError(f"{what} lists the file {response.url} but has it no more. Try again.")
        if status == 401 and self.token and code != "RepoNotFound":
            raise BadTokenError(
                f"{self.endpoint} refuses the access token ({said or 'it is wrong or expired'}). Make a new one at "
                f"{settings}, or pass token=False for a public model."
            )
        if status == 403:
            raise BadTokenError(
                f"the access token may not read {what} ({said or 'forbidden'}). Give it that permission at {settings}."
            )
        if status in (401, 404):
            private = "the access token may not see it" if self.token else "it is private: then pass token="
            raise NotFoundError(f"there is no model {what}, or {private}.{folder_hint(self.repository)}")
        raise HubError(f"{self.endpoint} answered {status} ({said or code or 'no reason given'}) about {what}.")


def seconds(variable: str) -> float:
    """Return how long to wait for an answer: what the environment says, or ten seconds."""
    text = os.environ.get(variable) or "10"
    with suppress(ValueError):
        if 0 < float(text) < 10_000:
            return float(text)
    raise HubError(f"the environment says {variable}={text}. Expected a number of seconds, like 10.")


def folder_hint(name: str) -> str:
    """Return a question after a folder here whose name is nearly that of a repository."""
    hint = nearest_sibling(Path(name))
    return f" Or{hint.removeprefix(';').replace('did you mean', 'did you mean the folder')}" if hint else ""
