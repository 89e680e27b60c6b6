"""`stream` gives, piece by piece, what `generate` writes, and nothing runs when nobody listens."""

import io
import threading
import time
from contextlib import redirect_stdout, suppress
from queue import Empty

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers
from tokenizers.processors import TemplateProcessing

import writer
from pellucid import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    TextIteratorStreamer,
    TextStreamer,
    Tokenizer,
    generate,
    stream,
)
from pellucid.errors import ArgumentError, InputError, NonFiniteError
from pellucid.generation.streaming import _up_to

CONVERSATION = [{"role": "user", "content": "hello the world"}]
TEXTS = ["hello", "the world 語", "", "ü", "hello world ", "\ufffd", "語"[:1] * 3]
HOW = [
    {},
    {"do_sample": True, "seed": 3, "top_k": 20},
    {"prompt_lookup_num_tokens": 3},
    {"penalty_alpha": 0.5, "top_k": 4},
    {"use_cache": False},
    {"repetition_penalty": 1.3, "cache_implementation": "static"},
    {"eos_token_id": list(range(20, 60))},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(writer.folder())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(writer.folder())


def ids_of(tokenizer, prompt):
    return torch.tensor([tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id]])


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(prompt=st.sampled_from(TEXTS), length=st.integers(1, 40))
def test_the_pieces_are_the_answer(model, tokenizer, how, prompt, length):
    options = {"max_new_tokens": length, **how}
    ids = ids_of(tokenizer, prompt)
    (wanted,) = generate(model, ids, **options)
    got = stream(model, ids, **options)
    assert list(got) == wanted[ids.shape[1] :].tolist() and got.ids == wanted.tolist()
    text = tokenizer.decode(wanted, skip_special_tokens=True)
    for given_as in (prompt, ids):
        pieces = list(stream(model, given_as, tokenizer=tokenizer, **options))
        assert "".join(pieces) == text[len(tokenizer.decode(ids[0], skip_special_tokens=True)) :]
        assert all(pieces)


@pytest.mark.parametrize("how", HOW[:3])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(place=st.integers(0, 30), size=st.integers(1, 6), others=st.lists(st.text("abc\x12k", min_size=1), max_size=3))
def test_stop_strings_are_left_out(model, tokenizer, how, place, size, others):
    options = {"max_new_tokens": 30, **how}
    whole = "".join(stream(model, "hello", tokenizer=tokenizer, **options))
    stops = [string for string in (whole[place : place + size], *others) if string]
    got = stream(model, "hello", tokenizer=tokenizer, stop_strings=stops, **options)
    ends = [whole.index(string) for string in stops if string in whole]
    assert "".join(got) == whole[: min(ends, default=len(whole))]
    assert got.finish_reason == ("stop" if ends else "length")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), text=st.text("abc", max_size=12))
def test_only_what_may_begin_a_stop_string_waits(stops, text):
    before, held, found = _up_to(stops, text)
    assert found == any(stop in text for stop in stops)
    if found:
        assert held == "" and before == min((text.partition(stop)[0] for stop in stops), key=len)
    else:
        waits = [n for n in range(len(text) + 1) if any(stop.startswith(text[n:]) for stop in stops)]
        assert before + held == text and len(before) == min(waits, default=len(text))


def test_the_beginning_of_a_stop_string_that_does_not_come(model, tokenizer):
    text = "".join(stream(model, "hello", tokenizer=tokenizer, max_new_tokens=30))
    for never in (text[3:6], text[-3:]):  # it goes on in another way, or ends
        pieces = stream(model, "hello", tokenizer=tokenizer, max_new_tokens=30, stop_strings=never + "\x00")
        assert "".join(pieces) == text


def test_assistants(model, tokenizer):
    options = {"max_new_tokens": 20}
    wanted = "".join(stream(model, "hello", tokenizer=tokenizer, **options))
    assert "".join(stream(model, "hello", tokenizer=tokenizer, assistant_model=model, **options)) == wanted


def test_vocabularies_whose_words_carry_their_space(model):
    words = ["\u2581", "h", "e", "l", "o", "\u2581he", "ll", "\u2581hell", "\u2581hello", "\u2581the", "\u8a9e"]
    vocabulary = [*writer.SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("\u2581h", "e"), ("l", "l"), ("\u2581he", "ll"), ("\u2581hell", "o")]
    vocabulary += ["\u2581h", *(f"\u2581word{i}" for i in range(model.config.vocab_size - len(vocabulary) - 1))]
    ids = {token: i for i, token in enumerate(vocabulary)}
    rust = RustTokenizer(models.BPE(ids, [("\u2581", "h"), *merges], byte_fallback=True, unk_token="<pad>"))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = Tokenizer(rust, bos_token="<s>")
    spaces = {id for id in ids.values() if vocabulary[id].startswith("\u2581")}

    def favour_spaces(_, scores):
        return scores.index_add(1, torch.tensor(sorted(spaces)), torch.full((len(scores), len(spaces)), 3.0))

    for seed in range(20):
        prompt = tokenizer("hello hello", return_tensors="pt")["input_ids"]
        options = {"max_new_tokens": 20, "do_sample": True, "seed": seed, "logits_processor": [favour_spaces]}
        (wanted,) = generate(model, prompt, **options)
        pieces = list(stream(model, "hello hello", tokenizer=tokenizer, **options))
        assert "hello hello" + "".join(pieces) == tokenizer.decode(wanted, skip_special_tokens=True)


def test_conversations(model, tokenizer):
    prompt = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)
    wanted = list(stream(model, torch.tensor([prompt]), tokenizer=tokenizer, max_new_tokens=9))
    assert list(stream(model, CONVERSATION, tokenizer=tokenizer, max_new_tokens=9)) == wanted
    assert list(stream(model, tuple(CONVERSATION), tokenizer=tokenizer, max_new_tokens=9)) == wanted


def test_a_text_that_begins_with_bos_gets_no_second_one(model, tokenizer):
    rust = RustTokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    rust.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    begins = Tokenizer(rust, bos_token="<s>")
    for prompt in ("hello", "<s>hello"):
        written = stream(model, prompt, tokenizer=begins, max_new_tokens=1)
        list(written)
        assert written.ids[:-1] == [1, *tokenizer("hello")["input_ids"]]


def counted(model, monkeypatch):
    """Count how many tokens the model reads in each forward."""
    reads, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda *args, **inputs: reads.append(inputs["input_ids"].shape[1]) or forward(*args, **inputs)
    )
    return reads


def test_nothing_runs_before_the_first_piece_nor_after_the_last(model, tokenizer, monkeypatch):
    reads = counted(model, monkeypatch)
    ids = ids_of(tokenizer, "hello world")
    pieces = stream(model, ids, max_new_tokens=20)
    assert reads == []
    next(pieces)
    assert reads == [ids.shape[1]]
    for count, _ in enumerate(pieces):
        if count == 3:
            break
    assert reads == [ids.shape[1], 1, 1, 1, 1]
    pieces.close()
    assert list(pieces) == [] and len(reads) == 5 and len(pieces.ids) == ids.shape[1] + 5
    assert pieces.finish_reason is None


def test_leaving_the_loop_leaves_the_model_as_it_was(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(writer.folder()).train()
    for _ in stream(model, "hello", tokenizer=tokenizer, max_new_tokens=20):
        assert torch.is_grad_enabled()
        break
    assert model.training
    with torch.enable_grad():
        assert all(piece for piece in stream(model, "hello", tokenizer=tokenizer, max_new_tokens=20))
    assert model.training and torch.is_grad_enabled()


def test_a_cache_of_the_beginning_is_not_read_again(model, tokenizer, monkeypatch):
    ids = ids_of(tokenizer, "hello world the world")
    wanted = list(stream(model, ids, max_new_tokens=6))
    cache = Cache()
    list(stream(model, ids[:, :4], max_new_tokens=1, past_key_values=cache))
    reads = counted(model, monkeypatch)
    assert list(stream(model, ids, max_new_tokens=6, past_key_values=cache)) == wanted
    assert reads[0] == ids.shape[1] - 4
    cache.crop(ids.shape[1])  # all of the prompt: its last token is read again
    assert list(stream(model, ids, max_new_tokens=6, past_key_values=cache)) == wanted
    shorter = list(stream(model, ids[:, :3], max_new_tokens=6))
    assert list(stream(model, ids[:, :3], max_new_tokens=6, past_key_values=cache)) == shorter
    with pytest.raises(
        InputError, match="The cache holds 8 tokens, with which this prompt of 2 does not begin; give all"
    ):
        list(stream(model, ids[:, 1:3], past_key_values=cache))


def test_time_for_each_token_does_not_grow(model, tokenizer):
    decoder = tokenizer.decode_stream(skip_special_tokens=True)
    streamer = TextIteratorStreamer(tokenizer)
    token = torch.tensor([tokenizer("the")["input_ids"][0]])

    def seconds(work):
        start = time.thread_time()
        for _ in range(300):
            work()
        return time.thread_time() - start

    for work in (lambda: decoder.step(int(token)), lambda: streamer.put(token)):
        early = min(seconds(work) for _ in range(3))
        for _ in range(30):
            seconds(work)
        assert min(seconds(work) for _ in range(3)) < 3 * early + 0.01


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ("hello", {"num_beams": 2}, "Beams are not certain of any token before the end"),
        ("hello", {"do_sample": True, "num_return_sequences": 2}, "1 prompts with 2 continuations each"),
        (torch.ones(2, 3, dtype=torch.long), {}, "2 prompts with 1 continuations each"),
        (["hello", "the"], {}, "The prompt is a list of 2; expected one text, or the messages of one conversation"),
        (5, {}, r"The prompt is 5 \(int\); expected one text"),
        ([], {}, "The prompt is a list of 0"),
        ("hello", {"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_what_is_no_stream(model, tokenizer, inputs, options, says):
    with pytest.raises(InputError, match=says):
        stream(model, inputs, tokenizer=tokenizer, **options)


def test_what_does_not_exist(model, tokenizer):
    with pytest.raises(ArgumentError, match="no argument 'max_tokens'; did you mean"):
        stream(model, "hello", tokenizer=tokenizer, max_tokens=3)
    with pytest.raises(InputError, match="is a str; expected ids"):
        stream(model, "hello")
    plain = AutoTokenizer.from_pretrained(writer.folder(template=False))
    with pytest.raises(InputError, match="no chat template"):
        stream(model, CONVERSATION, tokenizer=plain)


def test_errors_come_where_they_happen(model, tokenizer):
    def fails(ids, scores):
        if ids.shape[1] > 5:
            raise RuntimeError("mine")
        return scores

    pieces = stream(model, ids_of(tokenizer, "hello"), logits_processor=[fails], max_new_tokens=9)
    assert len([next(pieces), next(pieces), next(pieces)]) == 3
    with pytest.raises(RuntimeError, match="mine"):
        next(pieces)
    assert list(pieces) == []


# --- streamers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"skip_special_tokens": True}])
@pytest.mark.parametrize("skip", [False, True])
def test_printing(model, tokenizer, options, skip):
    ids = ids_of(tokenizer, "<s>hello 語")
    streamer, out = TextStreamer(tokenizer, skip_prompt=skip, **options), io.StringIO()
    with redirect_stdout(out):
        wanted = generate(model, ids, max_new_tokens=12, streamer=streamer)[0, ids.shape[1] if skip else 0 :]
        again = generate(model, ids, max_new_tokens=3, streamer=streamer)[0, ids.shape[1] if skip else 0 :]
    texts = [tokenizer.decode(part, **options) for part in (wanted, again)]
    assert out.getvalue() == "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize("skip", [False, True])
def test_printing_as_the_original(model, tokenizer, skip):
    import transformers

    original = transformers.AutoTokenizer.from_pretrained(writer.folder())
    ids, printed = ids_of(tokenizer, "hello the world"), []
    for streamer in (TextStreamer(tokenizer, skip), transformers.TextStreamer(original, skip)):
        out = io.StringIO()
        with redirect_stdout(out):
            generate(model, ids, max_new_tokens=30, streamer=streamer)
        printed.append(out.getvalue())
    assert printed[0] == printed[1]


def in_a_thread(work):
    """Start work whose exception is nobody's business; return the thread."""

    def quiet():
        with suppress(Exception):
            work()

    thread = threading.Thread(target=quiet)
    thread.start()
    return thread


def test_reading_from_another_thread(model, tokenizer):
    ids = ids_of(tokenizer, "hello 語")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    for length in (12, 3):
        thread = in_a_thread(lambda n=length: generate(model, ids, max_new_tokens=n, streamer=streamer))
        text = "".join(streamer)
        thread.join()
        assert text == tokenizer.decode(generate(model, ids, max_new_tokens=length)[0, ids.shape[1] :])


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"max_tokens": 3}, {"num_beams": 2}, {}])
def test_errors_reach_the_other_thread(tokenizer, options):
    model = AutoModelForCausalLM.from_pretrained(writer.folder())
    if not options:
        with torch.no_grad():
            model.lm_head.weight.fill_(float("nan"))
    streamer = TextIteratorStreamer(tokenizer, timeout=60)
    thread = in_a_thread(lambda: generate(model, ids_of(tokenizer, "hello"), streamer=streamer, **options))
    with pytest.raises(NonFiniteError if not options else (InputError, ArgumentError)):
        list(streamer)
    thread.join()


def test_waiting_in_vain(tokenizer):
    with pytest.raises(Empty, match=r"No text came for 0.05 seconds: is generate"):
        list(TextIteratorStreamer(tokenizer, timeout=0.05))


def test_streamers_show_one_text(model, tokenizer):
    with pytest.raises(InputError, match="A streamer shows one text; there are 2"):
        generate(model, ids_of(tokenizer, "hello").repeat(2, 1), streamer=TextStreamer(tokenizer))
    with pytest.raises(InputError, match="A streamer shows one text; there are 2"):
        TextStreamer(tokenizer).put(torch.ones(2, 3, dtype=torch.long))
