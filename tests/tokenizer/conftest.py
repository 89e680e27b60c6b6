from pathlib import Path

import pytest

from pellucid import AutoTokenizer

from .cases import FAMILIES, train_vocabularies, write_folder


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory) -> Path:
    """A folder with small vocabularies in every format."""
    folder = tmp_path_factory.mktemp("vocabularies")
    train_vocabularies(folder)
    return folder


@pytest.fixture(scope="session")
def folders(vocabularies) -> dict[str, Path]:
    """A tokenizer's folder for every family, without a tokenizer.json."""
    made = {}
    for name, (cls, files, config) in FAMILIES.items():
        made[name] = write_folder(vocabularies / name, vocabularies, files, {"tokenizer_class": cls, **config})
    return made


@pytest.fixture(scope="session")
def both(folders):
    """Return a function that gives a family's tokenizer here and in the original library."""
    import transformers

    loaded = {}

    def load(name):
        if name not in loaded:
            original = getattr(transformers, FAMILIES[name][0]).from_pretrained(str(folders[name]))
            loaded[name] = AutoTokenizer.from_pretrained(folders[name]), original
        return loaded[name]

    return load


@pytest.fixture
def bert(folders):
    return AutoTokenizer.from_pretrained(folders["bert"])


@pytest.fixture
def gpt2(folders):
    return AutoTokenizer.from_pretrained(folders["gpt2"])
