"""A name becomes a folder: from a directory, the cache without a request, or a download that is what was promised."""

import errno
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pellucid.hub
from fake_hub import GOOD_TOKEN, WEAK_TOKEN, FakeHub, digest_of
from pellucid import AutoModelForCausalLM
from pellucid.errors import (
    ArgumentError,
    BadTokenError,
    DamagedDownloadError,
    GatedError,
    HubError,
    InputError,
    MissingFileError,
    NotFoundError,
    OfflineError,
    PellucidError,
    UnsafeFileError,
)
from pellucid.hub import HubOptions, cache_folder, locate, push
from test_gguf import model_of, write

WEIGHTS = bytes(range(256)) * 1000
MODEL = {
    "config.json": b'{"model_type": "bert"}',
    "generation_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"old",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "onnx/model.onnx": b"onnx",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "vocab.txt": b"a\nb\n",
    "README.md": b"# A model",
    "modeling_custom.py": b"raise SystemExit",
}
INDEX = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "model-1-of-2.safetensors": b"first",
    "model-2-of-2.safetensors": b"second",
    "consolidated.safetensors": b"everything twice",
}
FOR_WEIGHTS = ["config.json", "generation_config.json", "model.safetensors"]
FOR_TOKENIZER = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and an environment that says nothing else."""
    for variable in os.environ:
        if variable.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, monkeypatch):
    """A Hub that is the only one."""
    from huggingface_hub.utils import close_session

    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    close_session()


@pytest.fixture
def no_network(monkeypatch):
    """Make every connection an error that nothing catches."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    def forbid():
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return forbid


def names(name, want, **options):
    with locate(name, HubOptions(**options), want=want) as folder:
        return folder.names()


# --- what is fetched --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "want, expected", [("config", ["config.json"]), ("weights", FOR_WEIGHTS), ("tokenizer", FOR_TOKENIZER)]
)
def test_only_what_is_wanted_is_fetched_and_only_once(hub, no_network, capfd, want, expected):
    hub.add("org/model", MODEL)
    with locate("org/model", HubOptions(), want=want) as folder:
        assert folder.names() == expected
        assert all(folder.read_bytes(name) == MODEL[name] for name in expected)
    assert sum(path.startswith("/api/") for path in hub.asked()) == 1
    no_network()
    assert names("org/model", want) == expected
    assert hub.asked() == []
    assert capfd.readouterr() == ("", "")


def test_shards_are_those_that_the_index_names(hub, no_network):
    hub.add("org/sharded", SHARDED)
    expected = sorted(set(SHARDED) - {"consolidated.safetensors"})
    assert names("org/sharded", "weights") == expected
    no_network()
    assert names("org/sharded", "weights") == expected


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/passwd", "pytorch_model.bin", 5])
def test_an_index_that_names_something_else_is_refused(hub, shard):
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    hub.add("org/evil", {"config.json": b"{}", "model.safetensors.index.json": index, "pytorch_model.bin": b""})
    with pytest.raises(UnsafeFileError, match=r"model\.safetensors\.index\.json"):
        locate("org/evil", want="weights")


def test_the_modules_of_a_sentence_model(hub, no_network):
    """And that a model has none is known from then on, too."""
    files = {name: b"{}" for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")}
    hub.add("org/sentences", {**MODEL, **files, "1_Pooling/config.json": b"{}"})
    hub.add("org/plain", MODEL)
    hub.add("org/old", {"modules.json": b"[]", "0_Transformer/sentence_xlm_config.json": b"{}"})

    def found():
        return [names(f"org/{name}", "modules") for name in ("sentences", "plain", "old")]

    wanted = [sorted(["config.json", *files]), ["config.json"], ["modules.json"]]
    assert found() == wanted
    assert names("org/old", "modules", subfolder="0_Transformer") == ["sentence_xlm_config.json"]
    assert names("org/sentences", "config", subfolder="1_Pooling") == ["config.json"]
    no_network()
    assert found() == wanted


def test_old_weights_are_fetched_where_there_are_no_others(hub, no_network):
    hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": b"old", "tf_model.h5": b"tf"})
    assert names("org/old", "weights") == ["config.json", "pytorch_model.bin"]
    no_network()
    assert names("org/old", "weights") == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    "files",
    [
        ["vocab.txt"],
        ["vocab.json", "merges.txt"],
        ["vocab.json"],
        ["spiece.model", "tokenizer_config.json"],
        ["source.spm", "target.spm", "vocab.json"],
        ["qwen.tiktoken"],
        ["tokenizer.json", "chat_template.jinja"],
        ["tekken.json"],
    ],
)
def test_every_kind_of_vocabulary(hub, no_network, files):
    hub.add("org/words", dict.fromkeys(files, b"{}"))
    assert names("org/words", "tokenizer") == sorted(files)
    no_network()
    assert names("org/words", "tokenizer") == sorted(files)


def test_named_chat_templates(hub, no_network):
    named = "additional_chat_templates/rag.jinja"
    hub.add("org/chat", dict.fromkeys(["tokenizer.json", "tekken.json", named, "other/x.jinja"], b"{}"))
    for _ in range(2):
        with locate("org/chat", want="tokenizer") as folder:
            assert folder.names() == ["tokenizer.json"]
            assert [str(path.relative_to(folder.path)) for path in folder.path.rglob("*.jinja")] == [named]
        no_network()


def test_one_gguf_file_of_many(hub, no_network, tmp_path):
    path = write(tmp_path / "small.gguf", "llama", model_of("llama"))
    hub.add("org/model", {"small.gguf": path.read_bytes(), "large.gguf": b"GGUF", "config.json": b"{}"})
    wanted = ["config.json", "small.gguf", "tokenizer_config.json"]
    assert all(names("org/model", want, gguf_file="small.gguf") == wanted for want in ("config", "weights"))
    assert not any("large.gguf" in asked for asked in hub.asked())
    no_network()
    model = AutoModelForCausalLM.from_pretrained("org/model", gguf_file="small.gguf")
    assert torch.equal(model.lm_head.weight, AutoModelForCausalLM.from_pretrained(path).lm_head.weight)
    assert hub.asked() == []


def test_a_gguf_file_that_is_not_there(hub):
    hub.add("org/model", {"small.gguf": b"GGUF", "config.json": b"{}"})
    with pytest.raises(MissingFileError, match=r"no file 'smal\.gguf'; did you mean 'small\.gguf'"):
        locate("org/model", HubOptions(gguf_file="smal.gguf"), want="weights")
    with pytest.raises(ArgumentError, match="not a name inside a repository"):
        HubOptions(gguf_file="../small.gguf")


def test_subfolders(hub, no_network):
    hub.add("org/nested", {f"sub/deep/{name}": content for name, content in MODEL.items()} | {"README.md": b""})
    assert names("org/nested", "weights", subfolder="sub/deep") == FOR_WEIGHTS
    assert names("org/nested", "tokenizer", subfolder="sub/deep") == sorted({*FOR_WEIGHTS, *FOR_TOKENIZER})
    no_network()
    assert names("org/nested", "weights", subfolder="sub/deep") == names(
        "org/nested", "tokenizer", subfolder="sub/deep"
    )


def test_branches_tags_and_commits(hub, no_network):
    first = hub.add("org/model", {"config.json": b'{"v": 1}'})
    hub.add("org/model", {"config.json": b'{"v": 2}'}, revision="refs/pr/1")
    hub.add("org/model", {"config.json": b'{"v": 3}'})
    for _ in range(2):
        for revision, version in [("main", 3), ("refs/pr/1", 2), (first, 1)]:
            with locate("org/model", HubOptions(revision=revision), want="config") as folder:
                assert folder.read_json("config.json") == {"v": version}
        no_network()


def test_a_model_and_its_tokenizer_come_from_one_commit(hub):
    old = hub.add("org/model", MODEL)
    names("org/model", "weights")
    new = hub.add("org/model", MODEL | {"tokenizer.json": b'{"version": "2.0"}'})
    with locate("org/model", want="tokenizer") as folder:
        assert old in str(folder.path) and folder.read_json("tokenizer.json") == {"version": "1.0"}
    with locate("org/model", HubOptions(force_download=True), want="tokenizer") as folder:
        assert new in str(folder.path) and folder.read_json("tokenizer.json") == {"version": "2.0"}
    with locate("org/model", want="weights") as folder:
        assert new in str(folder.path)


def test_a_commit_that_is_gone_from_the_hub_is_not_insisted_on(hub, cache):
    hub.add("org/model", MODEL)
    names("org/model", "config")
    del hub.repositories["org/model"]
    new = hub.add("org/model", MODEL | {"README.md": b"rewritten"})
    with locate("org/model", want="weights") as folder:
        assert new in str(folder.path)


def test_force_download_replaces_a_damaged_blob(hub, cache):
    hub.add("org/model", MODEL)
    names("org/model", "weights")
    blob = cache / "models--org--model" / "blobs" / digest_of("model.safetensors", WEIGHTS)
    blob.write_bytes(b"rotted")
    with locate("org/model", HubOptions(force_download=True), want="weights") as folder:
        assert folder.read_bytes("model.safetensors") == WEIGHTS


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["gpt2", "openai-community/gpt2"])
@pytest.mark.parametrize("cached", ["gpt2", "openai-community/gpt2"])
def test_an_old_short_name_and_its_long_form_are_one_model(hub, cache, no_network, asked, cached):
    hub.add("openai-community/gpt2", MODEL)
    names("gpt2", "weights")
    assert [path.name for path in cache.glob("models--*")] == ["models--openai-community--gpt2"]
    (cache / "models--openai-community--gpt2").rename(cache / f"models--{cached.replace('/', '--')}")
    no_network()
    assert names(asked, "weights") == FOR_WEIGHTS


def test_the_course_names_have_owners():
    known = {name for names_ in pellucid.hub.OWNERS.values() for name in names_.split()}
    assert {"distilbert-base-uncased-finetuned-sst-2-english", "bert-base-uncased", "roberta-base", "t5-small"} <= known


def test_a_renamed_repository_is_followed(hub):
    hub.add("new/name", MODEL)
    hub.moved["old/name"] = "new/name"
    assert names("old/name", "weights") == FOR_WEIGHTS


def test_a_directory_comes_first(hub, tmp_path):
    (tmp_path / "org" / "model" / "sub").mkdir(parents=True)
    (tmp_path / "org" / "model" / "config.json").write_text("{}")
    (tmp_path / "org" / "model" / "sub" / "config.json").write_text("{}")
    for name in ("org/model", tmp_path / "org" / "model", "./org/model/", str(tmp_path / "org" / "model")):
        assert names(name, "config") == ["config.json"]
        assert names(name, "config", subfolder="sub") == ["config.json"]
    assert hub.asked() == []


def test_home_is_expanded(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert names("~/model", "config") == ["config.json"]


def test_models_that_are_shipped(cache, tmp_path, monkeypatch, no_network):
    (tmp_path / "builtin" / "sentiment").mkdir(parents=True)
    (tmp_path / "builtin" / "sentiment" / "config.json").write_text("{}")
    monkeypatch.setattr(pellucid.hub, "__file__", str(tmp_path / "hub.py"))
    no_network()
    assert names("pellucid/sentiment", "weights") == ["config.json"]
    for wrong in ("pellucid/sentimnet", "pellucid/../builtin/sentiment", "pellucid/"):
        with pytest.raises(NotFoundError, match="There are: pellucid/sentiment"):
            locate(wrong, want="weights")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("./bret-model", "did you mean 'bert-model'"),
        ("bret-model/", "did you mean 'bert-model'"),
        ("/nowhere/to/be/found", "no folder"),
        ("a/b/c", "no folder"),
        ("..", None),
        ("https://example.org/org/model", "is an address"),
        ("", "no folder ''"),
        ("org/mo del", "no folder"),
        ("-x/y", "no folder"),
        ("a\0b", "no folder"),
        ("x" * 5000, None),
        ("org\\model", "no folder"),
    ],
)
def test_names_that_are_none(cache, tmp_path, monkeypatch, name, expected):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "bert-model").mkdir()
    with pytest.raises(HubError) as caught:
        locate(name, want="config").read_json("config.json")
    assert expected is None or expected in str(caught.value)


@pytest.mark.parametrize("name", [None, 5, b"org/model", ["org/model"]])
def test_what_is_no_name(name):
    with pytest.raises(InputError, match="Expected a folder, or a name"):
        locate(name, want="config")


@given(name=st.text(max_size=40))
def test_any_text_is_a_folder_or_a_clear_error(name):
    with pytest.raises(PellucidError):
        locate(name, HubOptions(local_files_only=True, cache_dir="/nonexistent"), want="config").read_json("?.json")


# --- options and the environment --------------------------------------------------------------------------------------


def test_options_are_taken_out_of_keyword_arguments():
    kwargs = {"revision": None, "cache_dir": "c", "use_auth_token": "t", "resume_download": True, "proxies": None}
    kwargs |= {"trust_remote_code": False, "use_fast": True, "num_labels": 3, "force_download": True}
    assert vars(HubOptions.take(kwargs)) == vars(HubOptions(cache_dir="c", token="t", force_download=True))
    assert kwargs == {"num_labels": 3}
    assert HubOptions.take({"token": "new", "use_auth_token": "old"}).token == "new"
    assert HubOptions.take({"token": None, "use_auth_token": "old"}).token == "old"


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({"trust_remote_code": True}, "runs no code"),
        ({"proxies": {"https": "x"}}, "HTTPS_PROXY"),
        ({"force_download": True, "local_files_only": True}, "exclude each other"),
        ({"revision": "../../x"}, "revision='../../x'"),
        ({"revision": "/etc"}, "revision"),
        ({"subfolder": "../x"}, "subfolder"),
        ({"subfolder": "a/../../x"}, "subfolder"),
        ({"revision": 5}, "revision=5"),
    ],
)
def test_options_that_can_not_be_honoured(kwargs, expected):
    with pytest.raises(ArgumentError, match=expected):
        HubOptions.take(kwargs)


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"HF_HUB_CACHE": "/a", "TRANSFORMERS_CACHE": "/b", "HF_HOME": "/c"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/d", "HF_HOME": "/c"}, "/d"),
        ({"TRANSFORMERS_CACHE": "/b", "HF_HOME": "/c"}, "/b"),
        ({"HF_HOME": "/c", "XDG_CACHE_HOME": "/e"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/e"}, "/e/huggingface/hub"),
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"HF_HOME": "~/$PROJECT/hf"}, "/home/me/p/hf/hub"),
    ],
)
def test_where_the_cache_is(cache, monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "PROJECT": "p", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
    assert cache_folder(HubOptions(cache_dir="/mine")) == Path("/mine")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_offline_and_not_cached(cache, monkeypatch, no_network, variable):
    no_network()
    if variable:
        monkeypatch.setenv(variable, "1")
    (cache.parent / "org" / "model2").mkdir(parents=True)
    with pytest.raises(OfflineError) as caught:
        locate("org/model", HubOptions(local_files_only=variable is None), want="weights")
    for part in ("'org/model'", variable or "local_files_only=True", "pellucid/sentiment", "'model2'", str(cache)):
        assert part in str(caught.value)


def test_offline_and_cached_by_another_program(cache, monkeypatch, no_network):
    no_network()
    snapshot = cache / "models--org--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text("{}")
    (cache / "models--org--model" / "refs").mkdir()
    (cache / "models--org--model" / "refs" / "main").write_text("a" * 40)
    assert names("org/model", "tokenizer", local_files_only=True) == ["tokenizer.json"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert names("org/model", "tokenizer") == ["tokenizer.json"]
    with pytest.raises(OfflineError):
        names("org/model", "weights")


def test_what_is_cached_suffices_while_the_hub_is_broken(hub):
    hub.add("org/model", MODEL)
    names("org/model", "tokenizer")
    snapshot = next(Path(os.environ["HF_HUB_CACHE"]).glob("*/snapshots/*"))
    (snapshot / "tokenizer_config.json").unlink()  # as another program's download cut short leaves it
    hub.repositories["org/model"].fault = "broken always"
    assert "tokenizer_config.json" not in names("org/model", "tokenizer")
    hub.repositories["org/model"].fault = ""
    assert "tokenizer_config.json" in names("org/model", "tokenizer")


def test_a_cached_model_is_opened_without_the_libraries_of_the_network(hub):
    hub.add("org/model", MODEL)
    names("org/model", "weights")
    code = """
    import sys
    from pellucid.hub import HubOptions, locate
    print(locate("org/model", HubOptions(), want="weights").names())
    print(sorted({"torch", "numpy", "huggingface_hub", "httpx", "tqdm"} & set(sys.modules)))
    """
    assert run_python(code).splitlines() == [str(FOR_WEIGHTS), "[]"]


def start_python(code, *arguments, **variables):
    environment = {**os.environ, "PYTHONPATH": str(Path(pellucid.hub.__file__).parents[1]), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def run_python(code, *arguments, **variables):
    with start_python(code, *arguments, **variables) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said


# --- what goes wrong --------------------------------------------------------------------------------------------------

TROUBLE = [
    # repository, token, error, what the message says
    ("org/absent", None, NotFoundError, ["no model 'org/absent'", "is private", "token="]),
    ("org/absent", WEAK_TOKEN, NotFoundError, ["no model 'org/absent'", "token may not see it"]),
    ("org/private", None, NotFoundError, ["is private"]),
    ("org/private", WEAK_TOKEN, NotFoundError, ["token may not see it"]),
    ("org/gated", None, GatedError, ["{hub}/org/gated", "accept the conditions"]),
    ("org/gated", WEAK_TOKEN, GatedError, ["{hub}/org/gated", "has none yet"]),
    ("org/public", "hf_wrong", BadTokenError, ["refuses the access token", "{hub}/settings/tokens", "token=False"]),
    ("org/busy always", None, OfflineError, ["status 429", "Try again in 0 seconds"]),
    ("org/busy for an hour", None, OfflineError, ["status 429", "Try again in 3600 seconds"]),
    ("org/broken always", None, OfflineError, ["status 500", "Try again later"]),
    ("org/silent", None, OfflineError, ["does not answer", "Timeout", "pellucid/sentiment"]),
    ("org/silent files", None, OfflineError, ["does not answer", "Timeout"]),
    ("org/not a hub", None, HubError, ["HF_ENDPOINT"]),
    ("org/hostile digest", None, HubError, ["no hash"]),
    ("org/hostile commit", None, HubError, ["no hash"]),
    ("org/hostile paths", None, MissingFileError, ["no file 'model.safetensors'"]),
    ("org/cut always", None, OfflineError, ["does not answer", "call again, which goes on from here"]),
    ("org/short", None, DamagedDownloadError, ["model.safetensors", "256,000", hashlib.sha256(WEIGHTS).hexdigest()]),
    ("org/long", None, DamagedDownloadError, ["model.safetensors", "256,000", hashlib.sha256(WEIGHTS).hexdigest()]),
    ("org/flipped", None, DamagedDownloadError, ["model.safetensors", hashlib.sha256(WEIGHTS).hexdigest()]),
]


@pytest.mark.parametrize("name, token, error, parts", TROUBLE, ids=[f"{row[0]}, {row[1]}" for row in TROUBLE])
def test_failures_are_told_by_their_cause(hub, cache, monkeypatch, capfd, name, token, error, parts):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    fault = name.removeprefix("org/")
    name = name.replace(" ", "-")
    if fault != "absent":
        hub.add(name, MODEL, fault="" if fault == "public" else fault)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error) as caught:
        locate(name, want="weights")
    assert type(caught.value) is error
    for part in parts:
        assert part.replace("{hub}", hub.url) in str(caught.value)
    assert not list(cache.glob("*/snapshots/*/*")), "nothing appears of a download that failed"
    blobs = [blob for blob in cache.glob("*/blobs/*") if blob.suffix != ".pellucid"]
    for blob in blobs:
        assert blob.name in {digest_of(path, blob.read_bytes()) for path in ("a.json", "a.bin")}
    if error is DamagedDownloadError:
        assert not list(cache.glob(f"*/blobs/{digest_of('model.safetensors', WEIGHTS)}*"))
    assert not (cache.parent / "stolen").exists() and not (cache.parent.parent / "stolen").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fault", ["busy", "broken", "cut", "no ranges"])
def test_what_passes_is_waited_for(hub, capfd, fault):
    hub.add("org/model", MODEL, fault=fault)
    with locate("org/model", want="weights") as folder:
        assert folder.read_bytes("model.safetensors") == WEIGHTS
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fault, least", [("silent", 1), ("silent files", 6)])
def test_a_silent_hub_is_given_up_after_the_time_that_is_set(hub, fault, least):
    hub.add("org/model", MODEL, fault=fault)
    code = """
    import sys, time
    time.sleep = lambda seconds: None  # the pauses
    from pellucid.hub import locate
    from pellucid.errors import OfflineError
    start = time.monotonic()
    try:
        locate("org/model", want="config")
    except OfflineError:
        print(time.monotonic() - start)
    """
    waited = float(run_python(code, HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1"))
    assert least - 0.1 < waited < least + 4


def test_nobody_listens(cache, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(OfflineError, match="does not answer"):
        locate("org/model", want="config")


def test_a_time_limit_that_is_none(hub):
    code = """
    from pellucid.hub import locate
    try:
        locate("org/model", want="config")
    except OSError as error:
        print(type(error).__name__, error)
    """
    said = run_python(code, HF_HUB_ETAG_TIMEOUT="soon")
    assert said.startswith("HubError") and "'soon'" in said and "HF_HUB_ETAG_TIMEOUT" in said


@pytest.mark.parametrize(
    "want, files, missing",
    [
        ("weights", {"config.json": b"{}", "tf_model.h5": b""}, "model.safetensors"),
        ("weights", {"model.safetensors": b""}, "config.json"),
        ("config", {"readme.md": b""}, "config.json"),
        ("tokenizer", {"config.json": b"{}", "model.safetensors": b""}, "tokenizer.json"),
        ("weights", {name: SHARDED[name] for name in SHARDED if "2-of-2" not in name}, "model-2-of-2.safetensors"),
    ],
)
def test_a_missing_file_is_named_beside_those_that_are_there(hub, want, files, missing):
    hub.add("org/model", files)
    with pytest.raises(MissingFileError) as caught:
        locate("org/model", want=want)
    assert f"no file {missing!r}" in str(caught.value) and hub.url in str(caught.value)
    assert all(name in str(caught.value) for name in files)


def test_a_name_that_no_repository_can_have(hub):
    with pytest.raises(NotFoundError, match="can not be the name of a model"):
        locate("org/a--b", want="config")


def test_a_revision_that_does_not_exist(hub):
    hub.add("org/model", MODEL)
    with pytest.raises(NotFoundError, match="no revision 'v9'"):
        locate("org/model", HubOptions(revision="v9"), want="config")


def test_tokens_go_to_the_hub_and_nowhere_else(hub, monkeypatch):
    hub.add("org/model", MODEL, fault="private")
    names("org/model", "weights", token=GOOD_TOKEN)
    sent = {path.split("/")[1]: headers.get("authorization") for _, path, headers in hub.requests}
    assert sent == {"api": f"Bearer {GOOD_TOKEN}", "org": f"Bearer {GOOD_TOKEN}", "cdn": None}
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    names("org/model", "weights", force_download=True)
    with pytest.raises(NotFoundError):
        names("org/model", "weights", force_download=True, token=False)


def test_a_cache_that_can_not_be_written(hub, monkeypatch, tmp_path):
    hub.add("org/model", MODEL)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(HubError, match="can not be written: Not a directory"):
        locate("org/model", want="config")


def test_a_download_goes_on_where_the_last_one_ended(hub, cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add("org/model", MODEL, fault="cut always")
    with pytest.raises(OfflineError):
        locate("org/model", want="weights")
    hub.repositories["org/model"].fault = ""
    hub.asked()
    names("org/model", "weights")
    ranges = [headers["Range"] for _, _, headers in hub.requests if "Range" in headers]
    assert ranges and set(ranges) == {"bytes=128000-"}
    assert not list(cache.glob("*/blobs/*.pellucid"))


def test_a_rotten_beginning_is_thrown_away(hub, cache):
    hub.add("org/model", MODEL)
    blobs = cache / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    for length in (1000, len(WEIGHTS) + 1):
        (blobs / f"{digest_of('model.safetensors', WEIGHTS)}.pellucid").write_bytes(b"x" * length)
        with locate("org/model", HubOptions(force_download=True), want="weights") as folder:
            assert folder.read_bytes("model.safetensors") == WEIGHTS


def test_large_files_come_through_xet_where_the_hub_says_so(hub, monkeypatch):
    pytest.importorskip("hf_xet")
    contents = [b"damaged", WEIGHTS]

    def xet_get(*, incomplete_path, xet_file_data, headers, expected_size, displayed_filename):
        assert (xet_file_data.file_hash, expected_size) == ("0" * 64, len(WEIGHTS))
        incomplete_path.write_bytes(contents.pop(0))

    monkeypatch.setattr("huggingface_hub.file_download.xet_get", xet_get)
    hub.add("org/model", MODEL, fault="xet")
    with pytest.raises(DamagedDownloadError):
        locate("org/model", want="weights")
    with locate("org/model", want="weights") as folder:
        assert folder.read_bytes("model.safetensors") == WEIGHTS
    assert not any(path.startswith("/cdn/") for path in hub.asked())


def test_a_disk_that_is_full_is_told_as_such(hub, cache, monkeypatch):
    def http_get(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    hub.add("org/model", MODEL)
    with pytest.raises(HubError, match="can not be written: No space left"):
        locate("org/model", want="config")


def test_settings_of_huggingface_hub_are_what_they_were(hub):
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled

    def settings():
        level = logging.getLogger("huggingface_hub").level
        return level, constants.HF_HUB_DISABLE_TELEMETRY, are_progress_bars_disabled(), list(warnings.filters)

    before = settings()
    hub.add("org/model", MODEL)
    hub.add("org/flipped", MODEL, fault="flipped")
    locate("org/model", want="weights")
    with pytest.raises(DamagedDownloadError):
        locate("org/flipped", want="weights")
    assert settings() == before


def test_nothing_is_sent_but_what_is_needed(hub):
    hub.add("org/model", MODEL)
    names("org/model", "weights")
    assert all(path.startswith(("/api/models/org/model/", "/org/model/", "/cdn/")) for _, path, _ in hub.requests)
    agents = {headers["user-agent"] for _, _, headers in hub.requests}
    assert agents and not any(word in agent for agent in agents for word in ("torch", "agent/"))


DOWNLOAD = """
import sys
from pellucid.hub import HubOptions, locate
with locate("org/model", HubOptions(force_download=sys.argv[1] == "again"), want="weights") as folder:
    print(len(folder.read_bytes("model.safetensors")), flush=True)
"""


@pytest.mark.parametrize("again", ["again", "once"])
def test_concurrent_downloads_end_whole(hub, cache, again):
    hub.add("org/model", MODEL)
    processes = [start_python(DOWNLOAD, again) for _ in range(4)]
    for process in processes:
        with process:
            assert process.communicate(timeout=60)[0] == f"{len(WEIGHTS)}\n" and process.returncode == 0
    files = [path for path in (cache / "models--org--model").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files if "snapshots" in path.parts) == FOR_WEIGHTS
    for blob in (path for path in files if "blobs" in path.parts):
        assert blob.name in {digest_of(path, blob.read_bytes()) for path in ("a.json", "a.bin")}
    assert len(files) == 3 + 3 + 1  # links, blobs, refs/main: nothing is left over


def test_an_interrupt_ends_a_download_that_stalls(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    hub.add("org/model", MODEL, fault="silent files")
    with start_python(DOWNLOAD, "once") as process:
        while not any("resolve" in path for _, path, _ in hub.requests):
            time.sleep(0.01)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
    assert time.monotonic() - start < 4


# --- together with huggingface_hub ------------------------------------------------------------------------------------


def test_what_huggingface_hub_cached_is_opened_without_a_request(hub, monkeypatch, no_network):
    from huggingface_hub import snapshot_download

    hub.add("org/model", MODEL)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    snapshot_download("org/model", endpoint=hub.url, cache_dir=os.environ["HF_HUB_CACHE"])
    no_network()
    assert set(FOR_WEIGHTS) <= set(names("org/model", "weights"))
    assert set(FOR_TOKENIZER) <= set(names("org/model", "tokenizer"))


def test_what_we_cached_is_found_by_huggingface_hub(hub, cache, no_network):
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache

    hub.add("org/model", {"config.json": b"{}", "tokenizer.json": b"{}"})
    names("org/model", "tokenizer")
    no_network()
    path = hf_hub_download("org/model", "tokenizer.json", cache_dir=cache, local_files_only=True)
    assert Path(path).read_bytes() == b"{}"
    assert try_to_load_from_cache("org/model", "tokenizer_config.json", cache_dir=cache) is _CACHED_NO_EXIST


class FakeApi:
    """Records what it is asked to do."""

    calls: ClassVar[list] = []

    def __init__(self, **options):
        self.calls[:] = [("api", options)]

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))
        return type("Url", (), {"repo_id": f"me/{repo_id}"})

    def create_branch(self, repo_id, **options):
        self.calls.append(("branch", repo_id, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        pull = "https://hub/pr" if options["create_pr"] else None
        return type("Commit", (), {"commit_url": "https://hub/commit", "pr_url": pull})


def test_push(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    (tmp_path / "model").mkdir()
    with pytest.raises(NotFoundError, match="is empty"):
        push(tmp_path / "model", "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert push(tmp_path / "model", "model", token="t", private=True) == "https://hub/commit"
    api, create, upload = FakeApi.calls
    assert api[1]["token"] == "t"
    assert create == ("create", "model", {"private": True, "exist_ok": True})
    assert upload[1]["repo_id"] == "me/model" and upload[1]["folder_path"] == str(tmp_path / "model")
    assert push(tmp_path / "model", "model", revision="v2", create_pr=True) == "https://hub/pr"
    assert FakeApi.calls[2] == ("branch", "me/model", {"branch": "v2", "exist_ok": True})


def test_push_that_is_refused_says_why(hub, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(BadTokenError, match="refuses the access token"):
        push(tmp_path / "model", "org/model", token="hf_wrong")
