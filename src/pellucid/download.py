"""The Hub as a source of files: what a repository holds, and its bytes, checked before they are filed.

huggingface_hub does the talking: addresses, tokens, Xet, retries, progress bars, and the environment variables that it
documents. This file adds what it does not promise. A file is filed only when it is what the Hub listed; a download goes
on where an earlier call ended, unless it came through Xet; a failure is told by its cause; stderr stays silent. A Hub
that does not answer is given up after `HF_HUB_ETAG_TIMEOUT` seconds (10), one that stops in a file after six times
`HF_HUB_DOWNLOAD_TIMEOUT` (10). One download at a time in a process; other processes wait for a file or go on with it.
"""

import hashlib
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .errors import (
    BadTokenError,
    DamagedDownloadError,
    GatedError,
    HubError,
    MissingFileError,
    NotFoundError,
    OfflineError,
    PellucidError,
)
from .folder import nearest_sibling

WITHOUT_NETWORK = "pellucid/sentiment"  # the model that is shipped inside this package
BROKEN = (500, 502, 503, 504)  # statuses after which asking again may help
BUSY = (408, 429, *BROKEN)
RETRY_SECONDS = (1.0, 2.0, 4.0)  # pauses before a request is tried again
LONGEST_PAUSE = 60  # seconds; a Hub that asks for more is not waited for
CHUNK = 2**20  # bytes

Result = TypeVar("Result")
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Remote:
    """One file of a repository at a commit."""

    path: str
    size: int  # bytes
    digest: str  # its sha256, or the sha1 of a git blob, which counts a header

    def digest_of(self, path: Path) -> str:
        """Return the hash of a file here, of the kind that was promised."""
        header = b"blob %d\0" % path.stat().st_size
        digest = hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(header, usedforsecurity=False)
        with open(path, "rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
        return digest.hexdigest()


class Hub:
    """One repository on the Hub: what it holds, and its bytes; every failure told by its cause."""

    def __init__(self, repository: str, *, revision: str = "main", token: str | bool | None = None):
        try:
            import huggingface_hub.constants as constants
        except ValueError as error:
            raise HubError(
                f"huggingface_hub can not be imported ({error}). Expected whole numbers of seconds in the environment "
                "variables HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, like 10."
            ) from error
        from huggingface_hub import HfApi, get_token

        self.repository, self.revision = repository, revision
        self.endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        if token is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            token = False
        self.token = get_token() if token is None or token is True else token
        self.api = HfApi(endpoint=self.endpoint, token=self.token or False, library_name="pellucid")

    def listing(self, revision: str | None = None) -> tuple[str, dict[str, Remote]]:
        """Return the commit that a revision is, and its files by path."""
        from huggingface_hub import constants

        about = {"revision": revision or self.revision, "timeout": constants.HF_HUB_ETAG_TIMEOUT}
        with self.errors():
            answer = _patiently(lambda: self.api.model_info(self.repository, files_metadata=True, **about))
            commit, files = str(answer.sha), {}
            for file in answer.siblings or []:
                digest = str(file.lfs.sha256 if file.lfs else file.blob_id)
                files[file.rfilename] = Remote(file.rfilename, int(file.size or 0), digest)
                if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest) or not re.fullmatch("[0-9a-f]{40}", commit):
                    raise ValueError(f"{digest!r} or {commit!r} is no hash")
        return commit, files

    def fetch(self, remote: Remote, commit: str, blob: Path, *, again: bool) -> None:
        """Bring a file to `blob`, going on where an earlier download of any process ended.

        Args:
            remote: the file.
            commit: the commit it is taken from.
            blob: where it goes, once it is whole and has the hash that was promised.
            again: whether to fetch it also when `blob` exists.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import WeakFileLock

        url = hf_hub_url(self.repository, remote.path, revision=commit, endpoint=self.endpoint)
        partial = blob.with_name(f"{blob.name}.pellucid")
        lock = blob.parents[2] / ".locks" / blob.parents[1].name / f"{blob.name}.lock"  # that of huggingface_hub
        for folder in (lock.parent, blob.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self.errors(), WeakFileLock(lock):
            if blob.exists() and not again:
                return
            for _ in range(2 if partial.exists() else 1):  # what was there may be to blame for a wrong hash
                _patiently(lambda: self._receive(remote, url, partial), BROKEN)
                if remote.digest_of(partial) == remote.digest:
                    return os.replace(partial, blob)
                partial.unlink()
        raise DamagedDownloadError(
            f"{remote.path} of {self.repository!r} came with other bytes than the {remote.size:,} of the hash "
            f"{remote.digest} that were promised. Nothing of it was kept; try again."
        )

    def _receive(self, remote: Remote, url: str, partial: Path) -> None:
        """Append what is missing of a file, or get all of it through Xet where the Hub stores it so."""
        from huggingface_hub.file_download import http_get, xet_get  # hf_hub_download throws away what it began

        headers = {"user-agent": "pellucid", **({"authorization": f"Bearer {self.token}"} if self.token else {})}
        about = {"headers": headers, "expected_size": remote.size, "displayed_filename": remote.path}
        xet = self._xet(url) if len(remote.digest) == 64 else None
        with open(partial, "ab") as file:
            if xet or file.tell() > remote.size:
                file.truncate(0)
            try:
                if xet:
                    xet_get(incomplete_path=partial, xet_file_data=xet, **about)
                else:
                    http_get(url, file, resume_size=file.seek(0, os.SEEK_END), **about)
            except OSError as error:
                if error.errno is not None or type(error) is not OSError:
                    raise  # anything but a wrong number of bytes, which the hash will tell
            file.flush()
            os.fsync(file.fileno())

    def _xet(self, url: str) -> Any:
        """Return how to get a file through Xet, or `None` if that is not possible."""
        from huggingface_hub import constants, get_hf_file_metadata

        if constants.HF_HUB_DISABLE_XET or not find_spec("hf_xet"):
            return None
        about = {"token": self.token or False, "timeout": constants.HF_HUB_ETAG_TIMEOUT, "library_name": "pellucid"}
        return _patiently(lambda: get_hf_file_metadata(url, endpoint=self.endpoint, **about)).xet_file_data

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Let huggingface_hub work: in silence, and what goes wrong told by its cause."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        http_error: Any = HfHubHTTPError.__bases__[0]  # that of httpx or httpx2, by the version of huggingface_hub
        try:
            with _silence():
                yield
        except PellucidError:
            raise
        except HfHubHTTPError as error:
            self._refuse(error.response)
        except (http_error, ConnectionError, TimeoutError) as error:
            raise OfflineError(
                f"{self.repository!r} is not (or not whole) in the cache, and {self.endpoint} does not answer "
                f"({type(error).__name__}: {error}). Check the network and call again, which goes on from here, or use "
                f"a model that needs none: {WITHOUT_NETWORK}.{folder_hint(self.repository)}"
            ) from error
        except HFValidationError as error:
            raise NotFoundError(f"{self.repository!r} can not be the name of a model: {error}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk is to blame
                raise
            raise HubError(
                f"{self.endpoint} does not answer about {self.repository!r} as a Hub does ({type(error).__name__}: "
                f"{error}). Is HF_ENDPOINT the address of a Hub?"
            ) from error

    def _refuse(self, response: Any) -> NoReturn:
        """Raise the error that a status means."""
        status, code = response.status_code, response.headers.get("x-error-code", "")
        said = response.headers.get("x-error-message") or code or "no reason given"
        what, settings = f"{self.repository!r} on {self.endpoint}", f"{self.endpoint}/settings/tokens"
        if status in BUSY:
            asked = response.headers.get("retry-after", "")
            later = f"in {asked} seconds" if asked.isdecimal() else "later"
            reason = "sends too many requests from here away" if status == 429 else "is broken or busy"
            raise OfflineError(
                f"{self.endpoint} {reason} (status {status}), and {self.repository!r} is not (or not whole) in the "
                f"cache. Try again {later}."
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
        if status == 403 or (status == 401 and self.token and code != "RepoNotFound"):
            raise BadTokenError(
                f"{self.endpoint} refuses the access token for {self.repository!r} ({said}). Make one that may read it "
                f"at {settings}, or pass token=False for a public model."
            )
        if status in (401, 404):
            private = "the access token may not see it" if self.token else "it is private: then pass token="
            raise NotFoundError(f"there is no model {what}, or {private}.{folder_hint(self.repository)}")
        raise HubError(f"{self.endpoint} answered {status} ({said}) about {what}.")


def _patiently(action: Callable[[], Result], statuses: tuple[int, ...] = BUSY) -> Result:
    """Do something again while the Hub is busy: when it says so, or after a pause."""
    from huggingface_hub.errors import HfHubHTTPError

    for pause in RETRY_SECONDS:
        try:
            return action()
        except HfHubHTTPError as error:
            asked = error.response.headers.get("retry-after", "")
            wait = float(asked) if asked.isdecimal() else pause
            if error.response.status_code not in statuses or wait > LONGEST_PAUSE:
                raise
        time.sleep(wait)
    return action()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep huggingface_hub off stderr, except for progress bars in a terminal, and let it send nothing of its own."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    with _one_at_a_time, warnings.catch_warnings():  # these settings are those of the whole process
        warnings.simplefilter("ignore")
        level, telemetry = logger.level, constants.HF_HUB_DISABLE_TELEMETRY
        hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
        logger.setLevel(logging.CRITICAL)
        constants.HF_HUB_DISABLE_TELEMETRY = True
        if hide:
            disable_progress_bars()
        try:
            yield
        finally:
            logger.setLevel(level)
            constants.HF_HUB_DISABLE_TELEMETRY = telemetry
            if hide:
                enable_progress_bars()


def folder_hint(name: str) -> str:
    """Return a question after a folder here whose name is nearly that of a repository."""
    hint = nearest_sibling(Path(name))
    return f" Or{hint.removeprefix(';').replace('did you mean', 'did you mean the folder')}" if hint else ""
