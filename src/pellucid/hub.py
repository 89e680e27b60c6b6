"""From a name to a folder on this machine: a directory, the cache shared with other libraries, or a download.

A model that is cached and complete is opened without any request. A download asks the Hub once what the repository
holds, fetches only what is wanted, and files nothing that is not what was promised.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from .errors import (
    ArgumentError,
    HubError,
    InputError,
    MissingFileError,
    NotFoundError,
    OfflineError,
    PellucidError,
    UnsafeFileError,
    did_you_mean,
)
from .folder import Folder, nearest_sibling

if TYPE_CHECKING:
    from .download import Hub, Remote

Want = Literal["config", "tokenizer", "weights", "modules", "adapter"]

# Patterns of what is fetched, in the order in which it appears in the cache: what makes a folder complete comes last.
CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.jinja"),
    *("chat_template.json", "merges.txt", "bpe.codes", "vocab*", "*.model", "*.spm", "*.tiktoken", "tekken.json"),
    *("prophetnet.tokenizer", "tokenizer.json"),
)
WEIGHT_FILES = ("generation_config.json", "config.json")  # and one of the pairs below
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
MODULE_FILES = ("config.json", "config_sentence_transformers.json", "sentence_*_config.json", "modules.json")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # and adapter_config.json
VOCABULARIES = (
    *("tokenizer.json", "tekken.json", "vocab.txt", "vocab.json", "vocab-src.json", "prophetnet.tokenizer"),
    *("*.model", "*.spm", "*.tiktoken"),
)
ASKED_FOR = {  # their absence is noted in the cache
    "tokenizer": ("tokenizer_config.json", "tokenizer.json", "merges.txt"),
    "modules": ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
}

# Names of the time before repositories had an owner, which courses and books still use.
OWNERS = {
    "google-bert": (
        "bert-base-cased bert-base-chinese bert-base-german-cased bert-base-multilingual-cased "
        "bert-base-multilingual-uncased bert-base-uncased bert-large-cased bert-large-uncased "
        "bert-large-cased-whole-word-masking bert-large-uncased-whole-word-masking "
        "bert-large-cased-whole-word-masking-finetuned-squad bert-large-uncased-whole-word-masking-finetuned-squad"
    ),
    "distilbert": (
        "distilbert-base-cased distilbert-base-cased-distilled-squad distilbert-base-german-cased "
        "distilbert-base-multilingual-cased distilbert-base-uncased distilbert-base-uncased-distilled-squad "
        "distilbert-base-uncased-finetuned-sst-2-english distilgpt2 distilroberta-base"
    ),
    "FacebookAI": (
        "roberta-base roberta-large roberta-large-mnli xlm-roberta-base xlm-roberta-large "
        "xlm-roberta-large-finetuned-conll03-english xlm-mlm-en-2048"
    ),
    "openai-community": "gpt2 gpt2-medium gpt2-large gpt2-xl openai-gpt",
    "google-t5": "t5-small t5-base t5-large t5-3b t5-11b",
    "albert": "albert-base-v1 albert-base-v2 albert-large-v2 albert-xlarge-v2 albert-xxlarge-v2",
    "xlnet": "xlnet-base-cased xlnet-large-cased",
    "almanach": "camembert-base",
}

EMBEDDED = "pellucid/"  # models that are shipped inside this package

_OPTIONS = ("revision", "token", "cache_dir", "subfolder", "force_download", "local_files_only", "gguf_file")


class HubOptions:
    """How a model is looked for; a value that nobody changes.

    Args:
        revision: a branch, tag or commit.
        token: an access token; `None` or `True` takes the saved one, `False` sends none.
        cache_dir: the cache, instead of the one that the environment names.
        subfolder: a folder inside the repository or directory.
        force_download: whether to fetch what is cached again, and the newest commit of a branch with it.
        local_files_only: whether to send no request.
        gguf_file: the name of a GGUF file in the repository or directory, to be loaded instead of all others.
    """

    def __init__(
        self,
        revision: str = "main",
        token: str | bool | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        subfolder: str = "",
        force_download: bool = False,
        local_files_only: bool = False,
        gguf_file: str = "",
    ):
        for name, value in {"revision": revision, "subfolder": subfolder, "gguf_file": gguf_file}.items():
            if not isinstance(value, str) or ".." in value.split("/") or re.search(r"[\\\0-\x1f]|^/", value):
                raise ArgumentError(f"{name}={value!r} is not a name inside a repository. Expected one like 'main'.")
        if force_download and local_files_only:
            raise ArgumentError("force_download and local_files_only exclude each other. Leave one of them out.")
        self.revision, self.token, self.cache_dir, self.subfolder = revision, token, cache_dir, subfolder
        self.force_download, self.local_files_only, self.gguf_file = force_download, local_files_only, gguf_file

    @classmethod
    def take(cls, kwargs: dict[str, Any]) -> "HubOptions":
        """Pop the fields of this class, and the older spellings that users still write, out of `kwargs`.

        Raises:
            ArgumentError: if a value can not be honoured.
        """
        given = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        older = kwargs.pop("use_auth_token", None)
        given["token"] = older if given.get("token") is None else given["token"]
        for name in ("resume_download", "use_fast", "mirror"):  # without a meaning today
            kwargs.pop(name, None)
        if kwargs.pop("trust_remote_code", False):
            raise ArgumentError("Pellucid runs no code that comes with a model. Leave trust_remote_code out.")
        if kwargs.pop("proxies", None):
            raise ArgumentError("proxies is not an argument. Set the environment variable HTTPS_PROXY.")
        return cls(**{name: value for name, value in given.items() if value is not None})

    def inside(self, folder: str) -> "HubOptions":
        """Return the same options for a folder inside; `""` for the same place."""
        place = "/".join(part for part in (self.subfolder, folder) if part)
        return HubOptions(**{**vars(self), "subfolder": place})


def locate(name: str | os.PathLike[str], options: HubOptions | None = None, *, want: Want) -> Folder:
    """Open the folder of a model: a directory, one shipped with the package, cached, or downloaded.

    Args:
        name: a directory, `"organisation/model"`, or `"pellucid/<model>"` for one inside this package.
        options: how to look for it.
        want: what has to be there; nothing else is downloaded.

    Raises:
        NotFoundError: if there is no such directory, repository or revision.
        MissingFileError: if the repository has not what is wanted; its files are listed.
        GatedError: if access has to be asked for first.
        BadTokenError: if the access token is wrong or may not read this.
        OfflineError: if it is not cached, and the Hub can not or may not be reached.
        DamagedDownloadError: if what came is not what the Hub promised; nothing of it is kept.
    """
    options = options or HubOptions()
    if not isinstance(name, (str, os.PathLike)) or not isinstance(text := os.fspath(name), str):
        raise InputError(f"the name of a model is {name!r}. Expected a folder, or a name like 'organisation/model'.")
    path = Path(os.path.expanduser(text))
    if text and os.path.exists(path):
        return _open_gguf(path) if path.suffix == ".gguf" else _open(path / options.subfolder, options)
    if text.startswith(EMBEDDED):
        return _embedded(text)
    _check_name(text)
    usable = None
    for repository in [] if options.force_download else [text, *_other_spellings(text)]:
        cached = _Cached(repository, options)
        folder = cached.open()
        if folder and cached.is_usable(folder, want):
            if options.local_files_only or _offline_variable() or cached.is_complete(folder, want):
                return folder
            usable = folder
        elif folder:
            folder.close()
    try:
        return _download(text, options, want)
    except OfflineError:
        if usable is None:
            raise
        return usable


def _open(path: Path, options: HubOptions) -> Folder:
    return _open_gguf(path / options.gguf_file) if options.gguf_file else Folder(path)


def _open_gguf(path: Path) -> Folder:
    from .gguf import GGUFFolder

    return GGUFFolder(path)


def _embedded(name: str) -> Folder:
    builtin = Path(__file__).parent / "builtin"
    shipped = [f"{EMBEDDED}{entry.parent.name}" for entry in sorted(builtin.glob("*/config.json"))]
    if name not in shipped:
        raise NotFoundError(
            f"no model {name!r} is shipped with Pellucid{did_you_mean(name, shipped) or '.'} "
            f"There are: {', '.join(shipped) or 'none'}."
        )
    return Folder(builtin / name.removeprefix(EMBEDDED))


def _check_name(name: str) -> None:
    """Refuse what can not be the name of a repository, as the path or address that it seems to be."""
    if "://" in name:
        raise NotFoundError(f"{name!r} is an address. Give the model's name alone, like 'organisation/model'.")
    if re.fullmatch(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", name, re.ASCII) and ".." not in name:
        return
    raise NotFoundError(
        f"there is no folder {name!r}{nearest_sibling(Path(os.path.expanduser(name))) or '.'} "
        "Give a folder that exists, or the name of a model on the Hub, like 'organisation/model'."
    )


def _other_spellings(name: str) -> list[str]:
    """Return the name with its owner for an old name without one, and the other way round."""
    owner, _, model = name.rpartition("/")
    if owner:
        return [model] if model in OWNERS.get(owner, "").split() else []
    return [f"{owner}/{name}" for owner, models in OWNERS.items() if name in models.split()]


# --- the cache --------------------------------------------------------------------------------------------------------


def cache_folder(options: HubOptions | None = None) -> Path:
    """Return the cache: the option, else what the environment names, else `~/.cache/huggingface/hub`."""
    if options and options.cache_dir is not None:
        return Path(options.cache_dir).expanduser()
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def _offline_variable() -> str | None:
    """Return the environment variable that forbids requests, if one does."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return variable
    return None


def _is_commit(revision: str) -> bool:
    """Whether a revision is the full hash of a commit, which never changes what it means."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


class _Cached:
    """One repository in the cache: `blobs` by hash, `snapshots` of links into them, `refs` from a name to a commit."""

    def __init__(self, repository: str, options: HubOptions, commit: str | None = None):
        self.root = cache_folder(options) / f"models--{repository.replace('/', '--')}"
        self.options, self.revision, self.subfolder = options, options.revision, options.subfolder
        self.commit = commit or self._read_commit()

    def _read_commit(self) -> str | None:
        """Return the commit that the revision was when something of it was fetched last."""
        if _is_commit(self.revision):
            return self.revision
        with suppress(OSError, UnicodeDecodeError):
            commit = (self.root / "refs" / self.revision).read_text(encoding="ascii").strip()
            return commit if _is_commit(commit) else None
        return None

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshots" / str(self.commit) / self.subfolder

    def open(self) -> Folder | None:
        """Open the snapshot, if there is one."""
        if self.commit is None:
            return None
        with suppress(NotFoundError):
            return _open(self.snapshot, self.options)
        return None

    def is_usable(self, folder: Folder, want: Want) -> bool:
        """Whether the files suffice to work with."""
        if self.options.gguf_file:
            return True
        if want == "modules":
            return self._is_known(folder, "modules.json")
        if want == "adapter":
            return "adapter_config.json" in folder and any(name in folder for name in ADAPTER_FILES)
        if want == "config":
            return "config.json" in folder
        if want == "weights":
            return "config.json" in folder and any(_has_weights(folder, *pair) for pair in WEIGHTS)
        found = [name for name in folder.names() if any(fnmatchcase(name, pattern) for pattern in VOCABULARIES)]
        return bool(found) and (found != ["vocab.json"] or self._is_known(folder, "merges.txt"))

    def is_complete(self, folder: Folder, want: Want) -> bool:
        """Whether the repository is known to have nothing more that is wanted."""
        if self.options.gguf_file:
            return True
        needed = {"tokenizer": ASKED_FOR["tokenizer"][:2]}.get(want, ASKED_FOR.get(want, ()))
        return all(self._is_known(folder, name) for name in needed)

    def has(self, name: str) -> bool:
        return (self.snapshot / name).exists()

    def blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest

    def link(self, name: str, digest: str) -> None:
        """Let a downloaded file appear under its name."""

        def create(path: Path) -> None:
            try:
                path.symlink_to(os.path.relpath(self.blob(digest), path.parent))
            except OSError:  # a file system without links
                import shutil

                shutil.copyfile(self.blob(digest), path)

        _put(self.snapshot / name, create)

    def note(self, absent: Iterable[str]) -> None:
        """Write down which commit the revision is, and which files that commit does not have."""
        for name in absent:
            _put(self._mark(name), Path.touch)
        if self.revision != self.commit:
            _put(self.root / "refs" / self.revision, lambda path: path.write_text(str(self.commit), encoding="ascii"))

    def _mark(self, name: str) -> Path:
        return self.root / ".no_exist" / str(self.commit) / self.subfolder / name

    def _is_known(self, folder: Folder, name: str) -> bool:
        return name in folder or self._mark(name).exists()


def _put(path: Path, create: Callable[[Path], Any]) -> None:
    """Create a file and let it appear, whole, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    create(temporary := path.with_name(f".{os.urandom(8).hex()}"))
    os.replace(temporary, path)


def _has_weights(folder: Folder, single: str, index: str) -> bool:
    if single in folder:
        return True
    return index in folder and all(shard in folder for shard in shards_of(folder.read_json(index), index))


def shards_of(index: dict[str, Any], name: str) -> list[str]:
    """Return the files that an index of weights names, in order.

    Raises:
        UnsafeFileError: if it names anything but plain files of its own format.
    """
    files = index.get("weight_map")
    suffix = ".safetensors" if "safetensors" in name else ".bin"
    if not isinstance(files, dict) or not files:
        raise UnsafeFileError(f"{name} has no weight_map of tensor names to files. Fetch or save it again.")
    shards = list(dict.fromkeys(files.values()))
    for shard in shards:
        if not isinstance(shard, str) or not shard.endswith(suffix) or re.search(r"[/\\\0]", shard):
            raise UnsafeFileError(f"{name} names the file {shard!r}. Expected plain names that end in {suffix}.")
    return sorted(shards)


# --- downloads --------------------------------------------------------------------------------------------------------


def _download(name: str, options: HubOptions, want: Want) -> Folder:
    """Fetch what is wanted into the cache, and open it there."""
    from .download import WITHOUT_NETWORK, Hub, folder_hint

    variable = "local_files_only=True" if options.local_files_only else _offline_variable()
    if variable:
        raise OfflineError(
            f"{name!r} is not (or not whole) in the cache {cache_folder(options)}, and {variable} forbids to fetch it. "
            f"Allow it once, or use a model that needs no network: {WITHOUT_NETWORK}.{folder_hint(name)}"
        )
    spellings = [name, *_other_spellings(name)]
    repository = max(spellings, key=lambda spelling: spelling.count("/"))
    hub = Hub(repository, revision=options.revision, token=options.token)
    commit, files = _resolve(hub, spellings, options)
    cached = _Cached(repository, options, commit)
    prefix = f"{options.subfolder}/" if options.subfolder else ""
    here = {path.removeprefix(prefix): file for path, file in files.items() if path.startswith(prefix)}
    try:
        chosen = _choose(hub, here, want, options.gguf_file)
        _fetch(hub, cached, chosen, again=options.force_download)
        for index in [index for _, index in WEIGHTS if want == "weights" and index in chosen]:
            with Folder(cached.snapshot) as folder:
                shards = shards_of(folder.read_json(index), index)
            wanted = {shard: here.get(shard) or _refuse_missing(hub, shard, here) for shard in shards}
            _fetch(hub, cached, wanted, again=options.force_download)
        cached.note(absent=[name for name in ASKED_FOR.get(want, ()) if name not in here])
    except PellucidError:
        raise
    except OSError as error:
        raise HubError(
            f"{cached.root} can not be written: {error.strerror or error}. "
            "Make room, or set HF_HUB_CACHE to another folder."
        ) from error
    return _open(cached.snapshot, options)


def _resolve(hub: "Hub", spellings: list[str], options: HubOptions) -> "tuple[str, dict[str, Remote]]":
    """Return a commit and its files: the commit of which something is cached, so that a model fits its tokenizer."""
    for spelling in [] if options.force_download else spellings:
        cached = _Cached(spelling, options)
        if cached.commit:
            with suppress(NotFoundError):  # a commit that was rewritten since
                return hub.listing(cached.commit)
    return hub.listing()


def _choose(hub: "Hub", here: "dict[str, Remote]", want: Want, gguf_file: str) -> "dict[str, Remote]":
    """Return the files to fetch, those last that make the folder complete."""
    if gguf_file:
        return {gguf_file: here.get(gguf_file) or _refuse_missing(hub, gguf_file, here)}
    patterns = {
        "config": CONFIG_FILES,
        "tokenizer": TOKENIZER_FILES,
        "weights": WEIGHT_FILES,
        "modules": MODULE_FILES,
        "adapter": ("adapter_config.json",),
    }[want]
    if want == "weights":
        pairs = [name for pair in WEIGHTS for name in pair if name in here]
        patterns = (*patterns, *(pairs[:1] or _refuse_missing(hub, "model.safetensors", here)))
    if want == "adapter":
        stored = [name for name in ADAPTER_FILES if name in here]
        patterns = (*(stored[:1] or _refuse_missing(hub, ADAPTER_FILES[0], here)), *patterns)
    names = [
        name
        for pattern in patterns
        for name in here
        if fnmatchcase(name, pattern) and not re.search(r"[/\\\0]", name.removeprefix("additional_chat_templates/"))
    ]
    if "tokenizer.json" in names and "tekken.json" in names:  # the same again, 20 MB of it
        names.remove("tekken.json")
    needed = {"config": "config.json", "weights": "config.json", "adapter": "adapter_config.json"}.get(want)
    if needed and needed not in names:
        _refuse_missing(hub, needed, here)
    if not any(fnmatchcase(name, pattern) for name in names for pattern in VOCABULARIES) and want == "tokenizer":
        _refuse_missing(hub, "tokenizer.json", here)
    return {name: here[name] for name in names}


def _refuse_missing(hub: "Hub", name: str, here: "dict[str, Remote]") -> NoReturn:
    found = sorted(here)
    listed = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    raise MissingFileError(
        f"{hub.repository!r} on {hub.endpoint} has no file {name!r}{did_you_mean(name, found) or '.'} "
        f"The files there: {listed or 'none'}."
    )


def _fetch(hub: "Hub", cached: _Cached, files: "dict[str, Remote]", *, again: bool) -> None:
    """Download files and, when all of them are here, let them appear in the cache."""
    missing = {name: file for name, file in files.items() if again or not cached.has(name)}
    for file in missing.values():
        hub.fetch(file, str(cached.commit), cached.blob(file.digest), again=again)
    for name, file in missing.items():
        cached.link(name, file.digest)


# --- the way back -----------------------------------------------------------------------------------------------------


def push(
    folder_path: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to a repository of the Hub, which is created if there is none.

    Args:
        folder_path: the folder; files whose names begin with a dot stay here.
        repo_id: the name of the repository, with or without its owner.
        private: whether a new repository is private; the owner's default if `None`.
        commit_message: the first line of the commit.
        token: an access token that may write; the saved one if `None`.
        revision: a branch, created if there is none; `main` if `None`.
        create_pr: whether to propose the commit instead of making it.

    Returns:
        The address of the commit, or of the proposal.

    Raises:
        NotFoundError: if there is no such folder, or it is empty.
        HubError: if the Hub refuses; its subclasses say why.
    """
    from .download import Hub

    Folder(folder_path).close()
    _check_name(repo_id)
    hub = Hub(repo_id, revision=revision or "main", token=token)
    with hub.errors():
        repository = hub.api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision:
            hub.api.create_branch(repository, branch=revision, exist_ok=True)
        commit = hub.api.upload_folder(
            repo_id=repository,
            folder_path=os.fspath(folder_path),
            commit_message=commit_message or "Upload with Pellucid",
            revision=revision,
            create_pr=create_pr,
            ignore_patterns=[".*"],
        )
    return commit.pr_url or commit.commit_url
