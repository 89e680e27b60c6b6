"""A Hub on the loopback: a few repositories, some of them faulty, and a record of what was asked for.

with FakeHub() as hub:
    hub.add("org/model", {"config.json": b"{}"})
    hub.add("org/locked", {"config.json": b"{}"}, fault="gated")
    ...  # with HF_ENDPOINT=hub.url
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

GOOD_TOKEN, WEAK_TOKEN = "hf_good", "hf_weak"  # one that may read everything, one that may read what is public
LARGE = (".safetensors", ".bin", ".model", ".h5", ".msgpack")  # stored with a sha256, served from another host


def digest_of(path: str, content: bytes) -> str:
    """Return the hash under which a file is stored: sha256 for large files, otherwise that of a git blob."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """The files of each commit, what each revision is, and what goes wrong.

    Faults: `gated`, `private`, `busy` and `broken` (429 and 500, twice), `busy always`, `busy for an hour` and `broken
    always`, `silent` (never answers), `silent files` (answers about files, not with them), `cut` and `cut always` (the
    connection breaks in the middle of a large file), `no ranges` (the same, once, and a request for the rest gets it
    all), `short` and `long` (not the promised size), `flipped` (one byte is another), `not a hub` (HTML),
    `hostile digest`, `hostile commit`, `hostile paths`. And `xet`, where large files are said to be had through Xet.
    """

    name: str
    fault: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    failures: int = 0


class FakeHub:
    """The server. `requests` is what was asked for, in order, as (method, path, headers)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}  # an old name to the one it redirects to
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.closing = threading.Event()
        hub = self

        class Handler(_Handler):
            fake = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "FakeHub":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, name: str, files: dict[str, bytes], *, revision: str = "main", fault: str = "") -> str:
        """Commit files to a revision of a repository, and return the commit."""
        repository = self.repositories.setdefault(name, Repository(name, fault))
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        repository.commits[commit] = files
        repository.revisions[revision] = commit
        return commit

    def asked(self) -> list[str]:
        """Return the paths that were asked for since the last time, without the host and the query."""
        paths = [urlsplit(path).path for _, path, _ in self.requests]
        self.requests.clear()
        return paths


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.refuse(None, resolving=False)

    def answer(self) -> None:
        self.fake.requests.append((self.command, self.path, dict(self.headers)))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "cdn":  # /cdn/org/name/commit/path
            repository = self.fake.repositories["/".join(parts[1:3])]
            path = "/".join(parts[4:])
            return self.send_file(repository, path, repository.commits[parts[3]][path])
        if parts[:2] == ["api", "models"]:  # /api/models/org/name/revision|tree/main
            name = "/".join(parts[2:4]) if parts[3:4] not in ([], ["revision"], ["tree"]) else parts[2]
            rest = parts[2 + name.count("/") + 1 :] or ["revision"]
        elif "resolve" not in parts:
            return self.send(404)
        else:  # /org/name/resolve/main/path
            name = "/".join(parts[:2]) if parts[1:2] != ["resolve"] else parts[0]
            rest = parts[name.count("/") + 1 :]
        if name in self.fake.moved:
            return self.send(307, headers={"Location": self.path.replace(name, self.fake.moved[name], 1)})
        repository = self.fake.repositories.get(name)
        if self.refuse(repository, resolving=rest[0] == "resolve") or repository is None:
            return None
        revision = rest[1] if len(rest) > 1 else "main"
        commit = revision if revision in repository.commits else repository.revisions.get(revision)
        if commit is None:
            return self.send(404, headers={"X-Error-Code": "RevisionNotFound"})
        if rest[0] == "resolve":
            return self.resolve(repository, commit, "/".join(rest[2:]))
        return self.describe(repository, commit, tree=rest[0] == "tree")

    def refuse(self, repository: Repository | None, *, resolving: bool) -> bool:
        """Answer with the failure that is due, if one is."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", GOOD_TOKEN, WEAK_TOKEN):
            self.send(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.fault == "private" and token != GOOD_TOKEN):
            self.send(404 if token else 401, headers={"X-Error-Code": "RepoNotFound"})
        elif repository.fault == "gated" and resolving and token != GOOD_TOKEN:
            self.send(403 if token else 401, headers={"X-Error-Code": "GatedRepo"})
        elif repository.fault == "silent" or (repository.fault == "silent files" and resolving):
            self.fake.closing.wait()
            self.close_connection = True
        elif repository.fault == "not a hub":
            self.send(200, b"<html>Please log in to this network.</html>", headers={"Content-Type": "text/html"})
        elif repository.fault.startswith(("busy", "broken")) and (
            "always" in repository.fault or "hour" in repository.fault or repository.failures < 2
        ):
            repository.failures += 1
            retry = {"Retry-After": "3600" if "hour" in repository.fault else "0"}
            self.send(429 if "busy" in repository.fault else 500, headers=retry if "busy" in repository.fault else {})
        else:
            return False
        return True

    def describe(self, repository: Repository, commit: str, *, tree: bool) -> None:
        entries: list[dict[str, Any]] = []
        for path, content in repository.commits[commit].items():
            digest = digest_of(path, content)
            digest = "../../../stolen" if repository.fault == "hostile digest" else digest
            path = f"../../../{path}" if repository.fault == "hostile paths" else path
            lfs = {"lfs": {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 134}}
            entry = {"size": len(content), **(lfs if path.endswith(LARGE) else {})}
            if tree:
                entries.append({"type": "file", "path": path, "oid": digest[:40], **entry})
            else:
                entries.append({"rfilename": path, "blobId": digest[:40], **entry})
        sha = "../../../stolen" if repository.fault == "hostile commit" else commit
        answer = entries if tree else {"id": repository.name, "sha": sha, "siblings": entries, "tags": []}
        self.send(200, json.dumps(answer).encode(), headers={"Content-Type": "application/json"})

    def resolve(self, repository: Repository, commit: str, path: str) -> None:
        content = repository.commits[commit].get(path)
        if content is None:
            return self.send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if not path.endswith(LARGE):
            return self.send_file(repository, path, content, {"X-Repo-Commit": commit})
        headers = {"X-Linked-Etag": f'"{digest_of(path, content)}"', "X-Linked-Size": str(len(content))}
        if repository.fault == "xet":
            headers |= {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": f"{self.fake.url}/refresh"}
        location = f"http://localhost:{self.fake.port}/cdn/{repository.name}/{commit}/{path}"
        return self.send(302, headers={"Location": location, "X-Repo-Commit": commit, **headers})

    def send_file(
        self, repository: Repository, path: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        fault, large = repository.fault, path.endswith(LARGE)
        headers = {"ETag": f'"{digest_of(path, content)}"', **(headers or {})}
        half = len(content) // 2
        if fault == "flipped" and large:
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        if fault in ("short", "long") and large:
            content = content[:half] if fault == "short" else content + b"more"
        start, status = 0, 200
        if "Range" in self.headers and fault != "no ranges":
            start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                return self.send(416, headers={"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = large and (fault == "cut always" or (fault in ("cut", "no ranges") and not repository.failures))
        self.send(status, content[start:], headers=headers, cut_at=max(half - start, 0) if cut else None)
        return None

    def send(
        self, status: int, body: bytes = b"", *, headers: dict[str, str] | None = None, cut_at: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut_at])
        if cut_at is not None:
            self.fake.repositories["/".join(unquote(self.path).split("/")[2:4])].failures += 1
            self.close_connection = True
