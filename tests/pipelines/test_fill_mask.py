import pytest

import tiny
from pellucid.errors import InputError
from pellucid.pipelines import pipeline

TEXTS = ["anna works in [MASK] .", "[MASK]", "The film is unbelievably [MASK], don't you think?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("mask"), "fill-mask")


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("fill-mask", folder)


@pytest.fixture(scope="module")
def original(folder):
    return tiny.original("fill-mask", folder)


def assert_alike(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, list):
            assert_alike(a, b)
        else:
            assert list(a) == list(b) and a == b | {"score": pytest.approx(b["score"], abs=1e-6)}


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 20}, {"targets": ["paris", "berlin"]}])
def test_same_as_the_original(pipe, original, options):
    for text in TEXTS:
        assert_alike(pipe(text, **options), original(text, **options))
    assert_alike(pipe(TEXTS, **options), original(TEXTS, **options))
    several = "[MASK] works in [MASK] and [MASK]"
    assert_alike(pipe(several, **options), original(several, **options))


def test_targets(pipe, original):
    for targets in ("paris", ["paris", "berlin", "paris"], ["##s", "the"]):
        assert_alike(pipe(TEXTS[0], targets=targets, top_k=2), original(TEXTS[0], targets=targets, top_k=2))
    assert (
        pipeline("fill-mask", pipe.model, tokenizer=pipe.tokenizer, targets="paris")(TEXTS[0])[0]["token_str"]
        == "paris"
    )


def test_a_list_of_one_is_a_list(pipe):
    assert pipe([TEXTS[0]]) == [pipe(TEXTS[0])]


def test_masks_of_a_long_text(pipe):
    """Each is filled in the window that shows most around it, and the whole text is shown with it."""
    few, many = "anna works in " * 4, "anna works in " * 40
    (first, second) = pipe(f"{few} [MASK] {many} [MASK]", top_k=2)
    assert first[0]["sequence"].split()[1:-1].count(first[0]["token_str"]) >= 1
    assert len(pipe.tokenizer(first[0]["sequence"], add_special_tokens=False)["input_ids"]) == 3 * 44 + 2 + 2
    (window,) = pipe.preprocess(f"{many} [MASK]")
    assert len(window["input_ids"]) == tiny.POSITIONS
    near = pipe(pipe.tokenizer.decode(window["input_ids"][1:-1]), top_k=2)
    assert tiny.numbers(pipe(f"{many} [MASK]", top_k=2)) == pytest.approx(tiny.numbers(near), abs=1e-5)
    assert second[0]["token"] == near[0]["token"]


def test_a_vocabulary_smaller_than_the_embedding():
    """Ids that the tokenizer does not know are no answer."""
    made = tiny.model("fill-mask", vocab_size=len(tiny.tokenizer()) + 50)
    pipe = pipeline("fill-mask", made, tokenizer=tiny.tokenizer())
    assert len(pipe("anna is [MASK]", top_k=10_000)) == len(tiny.tokenizer())


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("no mask", {}, r"no \[MASK\] in the text 'no mask'"),
        ("", {}, r"no \[MASK\]"),
        (TEXTS[0], {"top_k": 0}, "top_k is 0"),
        (TEXTS[0], {"targets": ["berlim"]}, "'berlim' is not one token of this vocabulary; did you mean 'berlin'"),
        (TEXTS[0], {"targets": []}, "targets is empty"),
        (TEXTS[0], {"targets": [5]}, "targets holds 5"),
    ],
)
def test_bad_input_names_itself(pipe, text, options, words):
    with pytest.raises(InputError, match=words):
        pipe(text, **options)


def test_no_mask_token(tmp_path):
    from pellucid import AutoTokenizer

    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "mask_token": null}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="no mask token"):
        pipeline("fill-mask", tiny.model("fill-mask"), tokenizer=tokenizer)("good")
