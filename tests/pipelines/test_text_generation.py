"""Text generation: the original's contracts, key for key, and answers that no batch changes."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tiny
import writer
from pellucid import AutoTokenizer, GenerationConfig, pipeline
from pellucid.cli import app
from pellucid.errors import ArgumentError, InputError
from pellucid.pipelines import TASKS

HELLO = [{"role": "user", "content": "hello"}]
BEGUN = [*HELLO, {"role": "assistant", "content": "the"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
GREEDY = {"do_sample": False, "max_new_tokens": 12}
LONG = "hello the world " * 40


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request):
    return writer.folder(request.param, positions=64)


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("text-generation", folder)


@pytest.fixture(scope="module")
def original(folder):
    return tiny.original("text-generation", folder)


@pytest.mark.parametrize("options", [{}, {"return_full_text": False}, {"return_tensors": True}, {"return_text": True}])
@pytest.mark.parametrize(
    "inputs",
    [
        "hello the world",
        "",
        "語 ü",
        ["hello", "the world hello", "", "the"],
        HELLO,
        tuple(HELLO),
        BEGUN,
        [HELLO, BEGUN, [{"role": "system", "content": "the"}, *HELLO]],
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    ],
)
def test_same_as_the_original(pipe, original, inputs, options):
    assert pipe(inputs, **GREEDY, **options) == original(inputs, **GREEDY, **options)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("hello", {"max_length": 12, "max_new_tokens": None}),
        ("hello", {"max_length": 12}),
        ("hello", {"num_beams": 3, "num_return_sequences": 2}),
        (HELLO, {"num_beams": 3, "num_return_sequences": 2}),
        ("hello", {"prefix": "the "}),
        (HELLO, {"prefix": "the "}),
        ("hello", {"skip_special_tokens": False}),
        ("hello", {"clean_up_tokenization_spaces": True}),
        ("hello", {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
        ("hello", {"add_special_tokens": False}),
        (BEGUN, {"continue_final_message": False}),
        (HELLO, {"continue_final_message": True}),
        (BEGUN, {"continue_final_message": True, "return_full_text": False}),
        (HELLO, {"tools": [TOOL]}),
        (HELLO, {"documents": [{"title": "the", "text": "world"}], "return_full_text": False}),
        (HELLO, {"tokenizer_encode_kwargs": {"enable_thinking": False}}),
        (["hello", "hello the world hello"], {"batch_size": 2}),
        ("hello", {"generation_config": None}),
    ],
)
def test_options_as_the_originals(pipe, original, inputs, options):
    assert pipe(inputs, **GREEDY | options) == original(inputs, **GREEDY | options)


def test_what_config_json_says_of_the_task_is_not_read(folder, tmp_path):
    """As in the original, whose defaults (256 drawn tokens) are what gpt2 gets."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["task_specific_params"] = {"text-generation": {"do_sample": False, "max_length": 9, "num_beams": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pipes = (pipeline("text-generation", tmp_path), tiny.original("text-generation", tmp_path))
    for pipe in pipes:
        texts = set()
        for seed in range(3):
            torch.manual_seed(seed)
            texts.add(pipe("hello", max_new_tokens=20)[0]["generated_text"])
        assert len(texts) == 3
        rows = pipe("hello", do_sample=False, min_new_tokens=20, return_tensors=True)
        assert len(rows[0]["generated_token_ids"]) > 20


def test_stop_strings(pipe, original):
    options = {**GREEDY, "eos_token_id": None, "suppress_tokens": list(range(7))}
    whole = pipe("hello", **options)[0]["generated_text"]
    stop = whole[7:9]
    for given_as in (stop, [stop], ["nowhere", stop]):
        wanted = original("hello", stop_sequence=given_as, **options)
        assert pipe("hello", stop_sequence=given_as, **options) == wanted
        assert pipe("hello", stop_strings=given_as, **options) == wanted
    assert pipe("hello", stop_sequence="nowhere", stop_strings=stop, **options) == wanted
    assert "".join(pipe.stream("hello", stop_strings=stop, **options)) == whole[5 : whole.index(stop, 5)]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.sampled_from(["hello", "the", " world", "語", "ü", "x"]), min_size=1, max_size=8).flatmap(
        lambda parts: st.lists(st.permutations(parts).map("".join), min_size=1, max_size=6)
    ),
    size=st.integers(1, 4),
    beams=st.integers(1, 2),
)
def test_alone_in_any_batch_and_any_order(pipe, texts, size, beams):
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams, "return_tensors": True}
    items = [text if i % 3 else [{"role": "user", "content": text}] for i, text in enumerate(texts)]
    alone = [pipe(item, **options) for item in items]
    assert pipe(items, **options) == alone
    assert pipe(items, batch_size=size, **options) == alone
    assert pipe(items[::-1], **options) == alone[::-1]
    assert list(pipe(iter(items), **options)) == alone
    if beams == 1:
        texts = pipe(items, **options | {"return_tensors": False})
        for item, (answer,), (text,) in zip(items, alone, texts, strict=True):
            written = pipe.stream(item, **options)
            pieces = "".join(written)
            shown = text["generated_text"]
            assert pieces == (shown[len(item) :] if isinstance(item, str) else shown[-1]["content"])
            assert written.ids == answer["generated_token_ids"]


def test_texts_of_all_lengths_share_batches(pipe, monkeypatch):
    sizes, forward, steps, run = [], pipe.forward, [], type(pipe.model).forward
    monkeypatch.setattr(pipe, "forward", lambda pieces, **o: sizes.append(len(pieces)) or forward(pieces, **o))
    monkeypatch.setattr(type(pipe.model), "forward", lambda self, **o: steps.append(o["input_ids"]) or run(self, **o))
    texts = [("hello " * (i % 5 + 1)).strip() for i in range(40)]
    pipe(texts, **GREEDY)
    assert max(map(len, steps)) == 32 and not sizes
    pipe(texts, **GREEDY, num_beams=2)
    assert sum(sizes) == 40 and max(sizes) > 8
    sizes.clear()
    (piece,) = pipe.preprocess("hello", max_new_tokens=20, num_beams=3)
    assert pipe.cost(piece) == 3 * (3 + 20)
    # what is made for one text, or knows rows of a batch, gets one text at a time
    ends = pipe(texts[:8], **GREEDY, stopping_criteria=[lambda ids, scores: ids.shape[1] > 15])
    assert sizes == [1] * 8 and ends == [
        pipe(text, **GREEDY, stopping_criteria=[lambda ids, scores: ids.shape[1] > 15]) for text in texts[:8]
    ]
    assert pipe(texts[:4], **GREEDY, prompt_lookup_num_tokens=2) == pipe(texts[:4], **GREEDY)
    assert pipe(texts[:4], **GREEDY, assistant_model=pipe.model) == pipe(texts[:4], **GREEDY)


def test_padding_is_told_from_tokens(folder):
    """Whether there is a token for padding or not, and where a prompt holds it."""
    pipe, texts = pipeline("text-generation", folder), ["hello the world", "<pad>the", "語"]
    alone = [pipe(text, **GREEDY) for text in texts]
    assert pipe(texts, **GREEDY) == alone
    pipe.model.config.pad_token_id = pipe.model.generation_config.pad_token_id = None
    assert pipe(texts, **GREEDY) == [pipe(text, **GREEDY) for text in texts] == alone


def test_texts_of_a_form(pipe):
    pytest.importorskip("llguidance")
    choices = [" the world", " hello"]
    answers = pipe(["hello", "hello the", "the"], choices=choices, do_sample=False, return_full_text=False)
    assert {answer["generated_text"] for (answer,) in answers} <= set(choices)
    (answer,) = pipe(HELLO, regex="(the|world)+[0-9]", max_new_tokens=20, do_sample=False)
    assert answer["generated_text"][-1]["content"][-1].isdigit()


# --- what holds when nothing is said ----------------------------------------------------------------------------------


@pytest.fixture
def fresh():
    return pipeline("text-generation", writer.folder("llama"))


def lengths(pipe, **options):
    options = {"return_tensors": True, "eos_token_id": -1} | options
    return [len(answer["generated_token_ids"]) - 3 for answer in pipe("hello", **options)]


def test_the_course(fresh):
    assert TASKS["text-generation"].checkpoint == "openai-community/gpt2"
    prompt = "hello the world"
    (answer,) = fresh(prompt)
    assert answer.keys() == {"generated_text"} and answer["generated_text"].startswith(prompt)
    both = fresh(prompt, max_length=30, num_return_sequences=2)
    assert len(both) == 2 and both[0] != both[1]
    assert all(len(a["generated_token_ids"]) <= 30 for a in fresh(prompt, max_length=30, return_tensors=True))


def test_256_new_tokens_drawn_at_a_temperature(fresh):
    assert lengths(fresh) == [256]
    assert fresh("hello", seed=1) == fresh("hello", seed=1) != fresh("hello", seed=2)
    told = fresh.told(fresh.read_options(fresh.defaults, {}))
    assert (told["max_new_tokens"], told["do_sample"], told["temperature"]) == (256, True, 0.7)


def test_the_file_beats_defaults_and_the_call_beats_the_file(fresh):
    fresh.model.generation_config = GenerationConfig(max_new_tokens=7, do_sample=True, temperature=0.01, top_p=0.5)
    assert lengths(fresh) == [7] and lengths(fresh, max_new_tokens=3) == [3] and lengths(fresh, max_length=8) == [5]
    assert fresh("hello", do_sample=False) == fresh(
        "hello", temperature=0
    )  # the file's temperature is no contradiction
    fresh.model.generation_config = GenerationConfig(max_length=9)
    assert lengths(fresh) == [6] and lengths(fresh, max_new_tokens=10) == [10]
    fresh.model.generation_config = GenerationConfig(do_sample=False)
    assert fresh("hello", max_new_tokens=9) == fresh("hello", max_new_tokens=9)
    assert lengths(fresh, generation_config=GenerationConfig(max_new_tokens=4, do_sample=True, top_k=3)) == [4]


def test_what_a_pipeline_was_built_with_is_a_default():
    options = {"max_new_tokens": 7, "temperature": 0.5, "do_sample": True, "num_beams": 3, "length_penalty": 2.0}
    pipe = pipeline("text-generation", writer.folder("llama"), **options)
    assert lengths(pipe) == [7] and lengths(pipe, max_length=5) == [2] and lengths(pipe, max_new_tokens=2) == [2]
    greedy = pipeline("text-generation", writer.folder("llama"))
    assert pipe("hello", do_sample=False, num_beams=1) == greedy("hello", do_sample=False, max_new_tokens=7)
    for how in ({"num_beam_groups": 2, "num_beams": 4}, {"penalty_alpha": 0.6, "top_k": 4}):
        assert greedy("hello", max_new_tokens=4, **how) == greedy("hello", max_new_tokens=4, **how)  # nothing is drawn


# --- long and empty prompts -------------------------------------------------------------------------------------------


def test_prompts_that_are_too_long(pipe, original):
    with pytest.raises(
        InputError, match=r"The prompt 'hello the.* has 240 tokens, this model reads 64; with truncation"
    ):
        pipe(LONG)
    ids = pipe.tokenizer(LONG)["input_ids"]
    for way in ({"truncation": True}, {"handle_long_generation": "hole"}):
        (answer,) = pipe(LONG, **GREEDY, **way)
        assert answer["generated_text"].startswith(LONG)
        (piece,) = pipe.preprocess(LONG, **GREEDY, **way)
        assert piece["input_ids"] == ids[-52:]
        assert pipe.preprocess("hello", **GREEDY, **way)[0]["input_ids"] == pipe.tokenizer("hello")["input_ids"]
    assert len(pipe.preprocess(LONG, truncation=True)[0]["input_ids"]) == 32  # 256 new ones leave no room
    assert len(pipe.preprocess(LONG, truncation=True, max_length=20)[0]["input_ids"]) == 10
    with pytest.raises(InputError, match="max_new_tokens is 64, and this model reads 64: no room is left for a prompt"):
        pipe(LONG, truncation=True, max_new_tokens=64)
    chat = [{"role": "user", "content": LONG}]
    (piece,) = pipe.preprocess(chat, **GREEDY, truncation=True)
    whole = pipe.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert piece["input_ids"] == [1, *whole[-51:]]  # what begins a text is kept
    trace = pipe.trace([LONG, "hello"], **GREEDY, truncation=True)
    assert "of 1 long prompt(s) only the last tokens are read" in str(trace)
    if pipe.model.config.max_tokens is None:
        original.tokenizer.model_max_length = 64
        assert pipe(LONG, **GREEDY, truncation=True) == original(LONG, **GREEDY, handle_long_generation="hole")


def test_nothing_to_begin_with(fresh):
    assert fresh("", **GREEDY) == fresh([""], **GREEDY)[0]
    plain = AutoTokenizer.from_pretrained(writer.folder("llama"))
    plain.bos_token = None
    fresh.model.config.bos_token_id = fresh.model.generation_config.bos_token_id = None
    pipe = pipeline("text-generation", fresh.model, tokenizer=plain)
    with pytest.raises(InputError, match="The input is empty, and this model has no token to begin a text with"):
        pipe("")
    with pytest.raises(InputError, match="Item 1 of the list is empty"):
        pipe(["hello", ""])
    assert pipe("", prefix="the", **GREEDY)


# --- other ways in ----------------------------------------------------------------------------------------------------


def test_traces(pipe):
    trace = pipe.trace(["hello", HELLO], **GREEDY)
    assert trace.answers == pipe(["hello", HELLO], **GREEDY)
    assert "3. One token after the other is chosen" in str(trace) and trace.output.logits.shape[0] == 2


def test_steps_by_hand(pipe):
    pieces = [piece for text in ("hello", "the world") for piece in pipe.preprocess(text, **GREEDY)]
    rows = pipe.rows(pipe.forward(pieces, **GREEDY), pieces)
    assert pipe.postprocess([pieces[1]], [rows[1]]) == pipe("the world", **GREEDY)


def test_the_command(folder):
    arguments = ["run", "text-generation", "hello", "--model", str(folder), "--option", "do_sample=false", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--option", "max_new_tokens=4"])
    assert result.exit_code == 0 and json.loads(result.stdout)[0]["generated_text"].startswith("hello")


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        (5, {}, r"The input is 5 \(int\); expected a text \(str\), or a conversation: a list of messages"),
        (["hello", 5], {}, "Item 1 of the list is 5"),
        ({"role": "user", "content": "hello"}, {}, "The input is {'role'"),
        ([{"role": "user"}], {}, "item 0 of the conversation has 'role', but no 'content'"),
        ("hello", {"handle_long_generation": "cut"}, "handle_long_generation is 'cut'; expected 'hole' or None"),
        ("hello", {"return_text": True, "return_tensors": True}, "return_text and return_tensors exclude each other"),
        ("hello", {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ("hello", {"do_sample": False, "top_p": 0.5}, "top_p would do nothing without do_sample=True"),
        ("hello", {"stop_sequence": ""}, r"stop_strings is \[''\]; expected texts that are not empty"),
        ("hello", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_input_names_itself(pipe, inputs, options, says):
    with pytest.raises(InputError, match=says):
        pipe(inputs, **options)


def test_what_does_not_exist(pipe):
    for name, nearest in (("max_new_token", "max_new_tokens"), ("return_fulltext", "return_full_text")):
        with pytest.raises(ArgumentError, match=f"no argument '{name}'; did you mean '{nearest}'"):
            pipe("hello", **{name: 3})
    with pytest.raises(InputError, match="no chat template"):
        pipeline("text-generation", writer.folder("llama", template=False))(HELLO)
    with pytest.raises(InputError, match="Beams are not certain"):
        pipe.stream("hello", num_beams=2)
    model = tiny.model("text-generation", "xlnet")
    with pytest.raises(InputError, match="XLNetLMHeadModel can not write: it does not predict the next token"):
        pipeline("text-generation", model, tokenizer=tiny.tokenizer())


def test_models_say_that_this_is_their_task(folder):
    assert type(pipeline(model=folder)).__name__ == "TextGenerationPipeline"


def test_dtypes(folder):
    pipe = pipeline("text-generation", folder, dtype=torch.bfloat16)
    assert len(pipe(["hello", "hello the world"], **GREEDY)) == 2
