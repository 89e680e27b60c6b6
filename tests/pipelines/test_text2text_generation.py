"""Summaries, translations and other targets: contracts, languages, long sources, and answers that no batch changes."""

import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
import translator
import writer
from pellucid import AutoTokenizer, GenerationConfig, pipeline
from pellucid.errors import ArgumentError, InputError
from pellucid.pipelines import TASKS
from threads import in_threads

KINDS = ["bart", "t5", "marian", "m2m_100", "mbart"]
LANGUAGES = {
    "t5": {"src_lang": "en", "tgt_lang": "fr"},
    "marian": {"tgt_lang": "fr"},
    "m2m_100": {"src_lang": "en", "tgt_lang": "fr"},
    "mbart": {"src_lang": "en_XX", "tgt_lang": "fr_XX"},
}
KEYS = {"summarization": "summary", "translation": "translation", "text2text-generation": "generated"}
SHORT = {"max_length": 7}
LONG = ("The cat sees the dog. " * 30).strip()


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(kind):
    return pipeline("translation", translator.folder(kind), **LANGUAGES.get(kind, {}))


@pytest.mark.parametrize("task", KEYS)
def test_contracts(kind, task):
    options = LANGUAGES.get(kind, {}) if task == "translation" else {}
    pipe, name = pipeline(task, translator.folder(kind), **options), KEYS[task]
    one = pipe("the cat sees", **SHORT)
    assert isinstance(one, list) and [*one[0]] == [f"{name}_text"] and isinstance(one[0][f"{name}_text"], str)
    assert pipe("the cat sees", return_text=True, **SHORT) == one
    many = pipe(["the cat sees", "a house"], **SHORT)
    assert many == [one[0], *pipe("a house", **SHORT)] and pipe(["the cat sees"], **SHORT) == one
    assert pipe([]) == [] and list(pipe(iter(["the cat sees"]), **SHORT)) == [one]
    (ids,) = pipe("the cat sees", return_tensors=True, **SHORT)
    assert [*ids] == [f"{name}_token_ids"] and len(ids[f"{name}_token_ids"]) <= 7
    options = {"num_beams": 2, "num_return_sequences": 2, **SHORT}
    assert [len(answer) for answer in pipe(["the cat", "a dog"], **options)] == [2, 2]


def test_same_as_the_originals_model_and_tokenizer(pipe, kind):
    import transformers

    original = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator.folder(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = transformers.AutoTokenizer.from_pretrained(translator.folder(kind))
    texts, more = ["the cat sees the dog", "a big house", "where is not the small tree and the red dog"], {}
    if kind == "t5":
        sources, more = [f"en fr: {text}" for text in texts], {"max_length": 8}
    else:
        sources, more = [f">>fr<< {text}" if kind == "marian" else text for text in texts], {"max_length": 12}
        if kind in ("m2m_100", "mbart"):
            words.src_lang, target = LANGUAGES[kind]["src_lang"], LANGUAGES[kind]["tgt_lang"]
            token = f"__{target}__" if kind == "m2m_100" else target
            more["forced_bos_token_id"] = pipe.tokenizer.convert_tokens_to_ids(token)
    for options in ({}, {"num_beams": 3, "early_stopping": True, "length_penalty": 0.6}, {"no_repeat_ngram_size": 2}):
        answers = pipe(texts, return_tensors=True, max_length=more["max_length"], **options)
        for source, answer in zip(sources, answers, strict=True):
            theirs = original.generate(**words(source, return_tensors="pt"), **more, **options)[0].tolist()
            assert answer["translation_token_ids"] == theirs
            text = words.decode(theirs, skip_special_tokens=True)
            text = re.sub("__[a-z]+__", "", text).strip()  # which it takes for no special tokens
            assert pipe.postprocess([], [[theirs]], **pipe.defaults) == [{"translation_text": text}]


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.lists(st.sampled_from(translator.WORDS), min_size=1, max_size=12).map(" ".join), max_size=5),
    size=st.integers(1, 4),
    beams=st.integers(1, 3),
)
def test_alone_in_any_batch_and_any_order(pipe, texts, size, beams):
    options = {"num_beams": beams, "return_tensors": True, **SHORT}
    alone = [answer for text in texts for answer in pipe(text, **options)]
    assert pipe(texts, **options) == alone
    assert pipe(texts, batch_size=size, **options) == alone
    assert pipe(texts[::-1], **options) == alone[::-1]
    if beams == 1:
        whole = pipe(texts, **SHORT)
        assert ["".join(pipe.stream(text, **SHORT)).strip() for text in texts] == [x["translation_text"] for x in whole]


@pytest.mark.parametrize("kind", ["m2m_100", "mbart"])
def test_threads_with_their_own_languages(kind):
    pipe = pipeline("translation", translator.folder(kind))
    codes = list(pipe.tokenizer.lang_code_to_id)[:4]

    def answer(code):
        return pipe(["the cat", "a house and a tree"], src_lang=codes[0], tgt_lang=code, return_tensors=True, **SHORT)

    alone = [answer(code) for code in codes]
    assert in_threads(answer, codes) == alone
    assert [rows[0]["translation_token_ids"][1] for rows in alone] == [pipe.tokenizer.get_lang_id(c) for c in codes]


# --- what holds when nothing is said ----------------------------------------------------------------------------------


def test_default_checkpoints():
    assert TASKS["summarization"].checkpoint == "sshleifer/distilbart-cnn-12-6"
    assert TASKS["translation"].checkpoint == TASKS["text2text-generation"].checkpoint == "google-t5/t5-small"


def test_what_config_json_says_of_a_task():
    folder = translator.folder("t5")
    summary, free = pipeline("summarization", folder), pipeline("text2text-generation", folder)
    said = {name: value for name, value in translator.TASKS["summarization"].items() if name != "prefix"}
    wanted = free("sum: the cat", return_tensors=True, **said)[0]["generated_token_ids"]
    assert summary("the cat", return_tensors=True)[0]["summary_token_ids"] == wanted
    plain = free("the cat", return_tensors=True, **said)[0]["generated_token_ids"]
    assert summary("the cat", prefix="", return_tensors=True)[0]["summary_token_ids"] == plain
    # a call beats config.json, and what would contradict it is dropped
    assert "early_stopping" not in summary.told(summary.read_options(summary.defaults, {"num_beams": 1}))
    told = summary.told(summary.read_options(summary.defaults, {"max_length": 4}))
    assert (told["max_length"], told["min_length"], told["num_beams"]) == (4, 4, 3)
    told = summary.told(summary.read_options(summary.defaults, {"max_new_tokens": 9}))
    assert told["max_new_tokens"] == 9 and "max_length" not in told
    assert free.told(free.defaults)["max_new_tokens"] == 256
    free.model.generation_config = GenerationConfig(max_length=5)
    assert "max_new_tokens" not in free.told(free.defaults)
    config = GenerationConfig(max_length=3, num_beams=1)
    assert len(summary("the cat", generation_config=config, return_tensors=True)[0]["summary_token_ids"]) <= 3


def test_languages_of_t5():
    folder = translator.folder("t5")
    named, asked = pipeline("translation_en_to_de", folder), pipeline("translation", folder)
    wanted = named("the cat sees")
    assert asked("the cat sees", src_lang="en", tgt_lang="de") == wanted
    assert named("the cat", tgt_lang="fr") == pipeline("translation_en_to_fr", folder)("the cat")
    free = pipeline("text2text-generation", folder)
    assert asked("en de: the cat") == [{"translation_text": free("en de: the cat")[0]["generated_text"]}]
    with pytest.raises(InputError, match="knows translation_en_to_de, translation_en_to_fr; name one"):
        asked("the cat")
    with pytest.raises(InputError, match=r"no translation_en_to_df; did you mean 'translation_en_to_\w+'.*It has"):
        asked("the cat", src_lang="en", tgt_lang="df")
    assert pipeline("translation_en_to_df", folder)("en de: the cat")  # a name is no demand


def test_languages_of_marian():
    folder = translator.folder("marian")
    pipe = pipeline("translation", folder)
    wanted = pipe(">>de<< the cat", **SHORT)
    assert pipe("the cat", tgt_lang="de", **SHORT) == wanted
    assert pipe(">>de<< the cat", tgt_lang="fr", **SHORT) == wanted  # what is said of one text
    assert pipeline("translation_en_to_de", folder)("the cat", **SHORT) == wanted
    assert pipeline("translation_en_to_es", folder)("the cat", **SHORT) == pipe("the cat", **SHORT)
    with pytest.raises(InputError, match=r"tgt_lang is 'frr', which this model does not write; did you mean '>>fr<<'"):
        pipe("the cat", tgt_lang="frr")
    with pytest.raises(InputError, match=r"src_lang is 'en', but this model is told only the language to translate"):
        pipe("the cat", src_lang="en", tgt_lang="fr")
    with pytest.raises(InputError, match=r"'>>xx<<' is no language of this tokenizer.*It has 2: >>fr<<, >>de<<"):
        pipe(">>xx<< the cat")
    with pytest.raises(InputError, match=r"no translation_None_to_fr.*It has no choice of languages"):
        pipeline("translation", translator.folder("bart"))("the cat", tgt_lang="fr")


def test_languages_with_codes():
    folder = translator.folder("mbart")
    pipe = pipeline("translation", folder)
    with pytest.raises(InputError, match="translates between 25 languages; say src_lang and tgt_lang, such as 'ar_AR'"):
        pipe("the cat")
    with pytest.raises(InputError, match="say tgt_lang"):
        pipe("the cat", src_lang="en_XX")
    with pytest.raises(InputError, match=r"src_lang is 'en_XY', which is no language.*did you mean 'en_XX'"):
        pipe("the cat", src_lang="en_XY", tgt_lang="fr_XX")
    wanted = pipe("the cat", src_lang="en_XX", tgt_lang="fr_XX", **SHORT)
    assert pipeline("translation_en_XX_to_fr_XX", folder)("the cat", **SHORT) == wanted
    told = AutoTokenizer.from_pretrained(folder, src_lang="en_XX", tgt_lang="fr_XX")
    assert pipeline("translation", folder, tokenizer=told)("the cat", **SHORT) == wanted
    ids = pipe("the cat", src_lang="en_XX", forced_bos_token_id=5, return_tensors=True, **SHORT)
    assert ids[0]["translation_token_ids"][1] == 5


# --- long sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["summarization", "translation"])
def test_sources_that_are_too_long(task):
    pipe, key = pipeline(task, translator.folder("bart")), f"{KEYS[task]}_text"
    with pytest.raises(InputError, match=r"The source 'The cat.* tokens, this model reads 64; with truncation=True"):
        pipe(LONG, **SHORT)
    (piece,) = pipe.preprocess(LONG, truncation=True)
    assert piece["input_ids"] == pipe.tokenizer(LONG, truncation=True, max_length=64)["input_ids"]
    parts = pipe.preprocess(LONG, chunk=True)
    assert len(parts) > 5 and all(len(part["input_ids"]) <= 64 for part in parts)
    texts = [pipe.tokenizer.decode(part["input_ids"], skip_special_tokens=True) for part in parts]
    assert " ".join(texts) == LONG and all(text.endswith(".") for text in texts)
    answers = pipe([LONG, "the cat", LONG], chunk=True, **SHORT)
    assert answers[0] == answers[2] == {key: " ".join(answer[key] for answer in pipe(texts, **SHORT))}
    assert answers[1:2] == pipe("the cat", **SHORT)
    assert "1 long source(s) read in" in str(pipe.trace([LONG, "the cat"], chunk=True, **SHORT))
    assert "of 1 long source(s) only the beginning is read" in str(pipe.trace(LONG, truncation=True, **SHORT))
    words = "cat" * 400 + " dog " * 50
    parts = pipe.preprocess(words, chunk=True)
    whole = "".join(pipe.tokenizer.decode(part["input_ids"], skip_special_tokens=True) for part in parts)
    assert whole.replace(" ", "") == words.replace(" ", "")
    with pytest.raises(InputError, match="A stream is one text; there are"):
        pipe.stream(LONG, chunk=True)


@pytest.mark.parametrize("kind", ["bart", "marian", "mbart", "t5"])
def test_documents_of_ten_times_the_limit(kind):
    """Each part is read after the other, alone and among others, in lists and generators."""
    pipe = pipeline("translation", translator.folder(kind), **LANGUAGES.get(kind, {}))
    pipe.tokenizer.model_max_length = 64  # as T5's files say of its training, though it has no limit
    documents = [" ".join(translator.sentences(step) * 2) for step in (5, 7)]
    pieces = [pipe.preprocess(document, chunk=True) for document in documents]
    assert all(sum(len(piece["input_ids"]) for piece in group) > 640 for group in pieces)
    assert all(len(piece["input_ids"]) <= 64 for group in pieces for piece in group)
    mixed = ["the cat", documents[0], "a house", documents[1]]
    alone = [answer for text in mixed for answer in pipe(text, chunk=True, **SHORT)]
    assert pipe(mixed, chunk=True, **SHORT) == alone
    assert [answer for (answer,) in pipe((text for text in mixed), chunk=True, batch_size=3, **SHORT)] == alone
    parts = [pipe.tokenizer.decode(piece["input_ids"], skip_special_tokens=True) for piece in pieces[0]]
    (first,) = pipe.preprocess("", chunk=True)
    begin = pipe.tokenizer.decode(first["input_ids"], skip_special_tokens=True)
    said = "".join(part.removeprefix(begin) for part in parts)
    assert said.replace(" ", "") == documents[0].replace(" ", "")


@pytest.mark.parametrize(("kind", "own"), [("marian", ">>de<< "), ("marian", ">>de<<"), ("t5", "en de: ")])
def test_what_a_document_begins_with_itself_stands_before_each_part(kind, own):
    pipe = pipeline("translation", translator.folder(kind), **LANGUAGES[kind])
    pipe.tokenizer.model_max_length = 64
    text = " ".join(translator.sentences(5))
    options = {"chunk": True, **({"prefix": ""} if kind == "t5" else {})}
    pieces = pipe.preprocess(f"{own}{text}", **options)
    begin = pipe.tokenizer(own.strip(), add_special_tokens=False)["input_ids"]
    assert len(pieces) > 3 and all(piece["input_ids"][: len(begin)] == begin for piece in pieces)


def test_models_without_a_limit_read_all():
    pipe = pipeline("text2text-generation", translator.folder("t5"))
    (piece,) = pipe.preprocess(LONG)
    assert len(piece["input_ids"]) > 150 and pipe(LONG, **SHORT)
    assert pipe.preprocess(LONG, chunk=True)[0]["input_ids"] == piece["input_ids"]


def test_texts_of_all_lengths_share_batches(monkeypatch):
    pipe = pipeline("summarization", translator.folder("bart"))
    sizes, forward = [], pipe.forward
    monkeypatch.setattr(pipe, "forward", lambda pieces, **o: sizes.append(len(pieces)) or forward(pieces, **o))
    pipe([("the cat " * (i % 5 + 1)).strip() for i in range(40)], **SHORT)
    assert sum(sizes) == 40 and max(sizes) > 8
    (piece,) = pipe.preprocess("the cat", num_beams=3, max_length=20)
    assert pipe.cost(piece) == len(piece["input_ids"]) + 3 * 20


# --- other ways in ----------------------------------------------------------------------------------------------------


def test_traces_and_steps(pipe):
    trace = pipe.trace(["the cat", "a house"], **SHORT)
    assert [answer[0] for answer in trace.answers] == pipe(["the cat", "a house"], **SHORT)
    assert "3. One token after the other is chosen" in str(trace) and trace.output.logits.shape[:2] == (2, 1)
    pieces = [piece for text in ("the cat", "a house") for piece in pipe.preprocess(text, **SHORT)]
    rows = pipe.rows(pipe.forward(pieces, **SHORT), pieces)
    assert pipe.postprocess([pieces[1]], [rows[1]]) == pipe("a house", **SHORT)


def test_stop_sequences():
    pipe = pipeline("text2text-generation", translator.folder("bart"))
    (whole,) = pipe("the cat", max_length=12, suppress_tokens=[0, 1, 2])
    stop = whole["generated_text"][:2]
    (short,) = pipe("the cat", max_length=12, suppress_tokens=[0, 1, 2], stop_sequence=stop)
    assert len(short["generated_text"]) < len(whole["generated_text"])


def test_models_say_that_this_is_their_task():
    assert type(pipeline(model=translator.folder("bart"))).__name__ == "Text2TextGenerationPipeline"
    assert pipeline("summarization", translator.folder("bart"), dtype=torch.bfloat16)("the cat", **SHORT)


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        (5, {}, r"The input is 5 \(int\); expected a text"),
        (["the", 5], {}, "Item 1 of the list is 5"),
        ("the", {"return_text": True, "return_tensors": True}, "return_text and return_tensors exclude each other"),
        ("the", {"truncation": True, "chunk": True}, "truncation and chunk exclude each other"),
        ("the", {"chunk": True, "return_tensors": True}, "chunk joins texts"),
        ("the", {"num_beams": 0}, "num_beams is 0"),
        ("the", {"max_length": 0}, "max_length is 0"),
        ("the", {"do_sample": False, "top_p": 0.5}, "top_p would do nothing without do_sample=True"),
        ("the", {"length_penalty": 2.0}, "length_penalty would do nothing without num_beams above 1"),
    ],
)
def test_bad_input_names_itself(inputs, options, says):
    with pytest.raises(InputError, match=says):
        pipeline("summarization", translator.folder("bart"))(inputs, **options)


def test_what_does_not_exist():
    pipe = pipeline("summarization", translator.folder("bart"))
    with pytest.raises(ArgumentError, match="no argument 'max_lenght'; did you mean 'max_length'"):
        pipe("the", max_lenght=3)
    with pytest.raises(ArgumentError, match="no argument 'tgt_lang'"):
        pipe("the", tgt_lang="fr")
    with pytest.raises(InputError, match="Beams are not certain"):
        pipe.stream("the", num_beams=2)
    with pytest.raises(InputError, match="There is no task 'translation_en_fr'"):
        pipeline("translation_en_fr", translator.folder("bart"))
    with pytest.raises(InputError, match="has not the head that SummarizationPipeline needs"):
        pipeline("summarization", writer.folder("llama"))
    model = tiny.model("text-classification")
    with pytest.raises(InputError, match="has not the head"):
        pipeline("translation", model, tokenizer=tiny.tokenizer())
