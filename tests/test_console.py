"""`pellucid chat`: at a terminal, through a pipe, and what a conversation keeps between two turns."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest

import writer
from pellucid import pipeline
from pellucid.console import Conversation, from_pipe, obey, read_message, talk
from pellucid.errors import InputError

OPTIONS = {"max_new_tokens": 12, "do_sample": False}


def made(**options):
    return pipeline("text-generation", writer.folder("llama"), **OPTIONS | options)


def of_words():
    """A pipeline whose answers are words that have the same ids when they are read again."""
    tokenizer = made().tokenizer
    words = tokenizer.convert_tokens_to_ids(["Ġthe", "Ġworld"])
    return made(suppress_tokens=[id for id in range(len(tokenizer)) if id not in words])


def lines(*given):
    """What reads given lines, then the end."""
    left = list(given)

    def read(prompt):
        if not left:
            raise EOFError
        return left.pop(0)

    return read


def counted(model, monkeypatch):
    """Count how many tokens the model reads in each forward."""
    reads, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: reads.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    return reads


# --- conversations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 3}, {"penalty_alpha": 0.6, "top_k": 4}])
def test_answers_are_the_pipelines(options):
    pipe = made(**options)
    conversation, messages = Conversation(pipe, system="the"), [{"role": "system", "content": "the"}]
    for text in ("hello", "the world", "語"):
        messages.append({"role": "user", "content": text})
        (answer,) = pipe(messages)
        messages = answer["generated_text"]
        assert "".join(conversation.ask(text)) == messages[-1]["content"]
        assert conversation.messages == messages[1:] and conversation.finish_reason in ("stop", "length")


def test_nothing_is_read_twice(monkeypatch):
    pipe = of_words()
    conversation, reads = Conversation(pipe), counted(pipe.model, monkeypatch)
    list(conversation.ask("hello"))
    prompt = pipe.preprocess([{"role": "user", "content": "hello"}])[0]["input_ids"]
    assert reads[0] == len(prompt) and sum(reads) == len(prompt) + 11
    said = list(conversation.messages)
    reads.clear()
    list(conversation.ask("the world"))
    longer = pipe.preprocess([*said, {"role": "user", "content": "the world"}])[0]["input_ids"]
    assert reads[0] == len(longer) - len(prompt) - 11
    conversation.messages.clear()
    reads.clear()
    list(conversation.ask("hello"))
    assert reads[0] == 1  # all of it was read at first


def test_an_answer_that_is_broken_off(monkeypatch):
    """What was said is kept, and the next answer is the one that a new conversation would give."""
    pipe = of_words()
    conversation, forward = Conversation(pipe), pipe.model.forward
    with closing(conversation.ask("hello")) as pieces:
        said = [next(pieces), next(pieces)]
    assert conversation.messages[1:] == [{"role": "assistant", "content": "".join(said)}]
    assert conversation.finish_reason is None
    layers, left = pipe.model.model.layers, [0]

    def interrupted(module, args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    for after in (1, 2, 5):  # in the middle of reading the prompt, and of a token of the answer
        left[0] = after
        hook = layers[1].register_forward_pre_hook(interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(conversation.ask("the world"))
        hook.remove()
        before = list(conversation.messages)
        (wanted,) = pipe([*before, {"role": "user", "content": "again"}], return_full_text=False)
        assert "".join(conversation.ask("again")) == wanted["generated_text"]
    monkeypatch.setattr(pipe.model, "forward", lambda **_: (_ for _ in ()).throw(RuntimeError("mine")))
    before = list(conversation.messages)
    with pytest.raises(RuntimeError, match="mine"):
        list(conversation.ask("the"))
    assert conversation.messages == before
    monkeypatch.setattr(pipe.model, "forward", forward)
    assert list(conversation.ask("the"))


def test_an_empty_answer_is_one():
    conversation = Conversation(made(suppress_tokens=[id for id in range(284) if id != 2]))
    assert list(conversation.ask("hello")) == [] and conversation.finish_reason == "stop"
    assert [message["content"] for message in conversation.messages] == ["hello", ""]
    assert list(conversation.ask("the")) == [] and len(conversation.messages) == 4


def test_going_on_with_a_text():
    pipe = pipeline("text-generation", writer.folder("llama", template=False), **OPTIONS)
    with pytest.raises(InputError, match=r"has no chat template: it was not trained to answer.* --raw"):
        Conversation(pipe)
    conversation = Conversation(pipe, raw=True)
    first = "".join(conversation.ask("hello"))
    (wanted,) = pipe(f"hello{first}\nthe", return_full_text=False)
    assert "".join(conversation.ask("the")) == wanted["generated_text"]
    obey(conversation, "/reset")  # what follows begins with another token
    (wanted,) = pipe("world", return_full_text=False)
    assert "".join(conversation.ask("world")) == wanted["generated_text"]


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hello"], "hello"),
        (["hello \\", "the \\", "world"], "hello \nthe \nworld"),
        (["hello\\"], "hello\\"),
        (['"""', "hello", "", "world", '"""', "more"], "hello\n\nworld"),
        (['"""hello', 'world"""'], "hello\nworld"),
        (['"""hello"""'], "hello"),
        (['"""hello'], "hello"),
    ],
)
def test_messages_of_several_lines(given, message):
    assert read_message(lines(*given)) == message


def test_commands(tmp_path, capsys):
    conversation = Conversation(made(), system="the")
    file = tmp_path / "said.json"
    script = [
        "hello",
        "/system world",
        f"/save {file}",
        "/reset",
        "",
        "  ",
        "/help",
        "/rest",
        "/save",
        "/exit",
        "hello",
    ]
    talk(conversation, lines(*script), terminal=True)
    out, err = capsys.readouterr()
    said = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in said] == ["system", "user", "assistant"]
    assert said[0]["content"] == "world" and said[2]["content"] == out.partition("\n")[0]
    assert conversation.messages == [] and conversation.system == "world"
    assert "/system TEXT" in out and "There is no command '/rest'; did you mean '/reset'?" in err
    assert "There is no command '/save'" in err
    obey(conversation, "/system")
    assert conversation.system is None
    with pytest.raises(InputError, match="can not be written: No such file or directory"):
        obey(conversation, f"/save {tmp_path}/no/such/folder")


def test_errors_end_a_pipe_but_no_terminal(capsys):
    conversation = Conversation(pipeline("text-generation", writer.folder("llama", positions=20), **OPTIONS))
    talk(conversation, lines("hello " * 30, "the"), terminal=True)
    out, err = capsys.readouterr()
    assert "tokens, this model reads 20" in err and len(conversation.messages) == 2 and out.count("\n") == 2
    with pytest.raises(InputError, match="this model reads 20"):
        talk(conversation, lines("hello " * 30), terminal=False)


def test_an_answer_that_is_cut_off_says_so(capsys):
    conversation = Conversation(made(suppress_tokens=[2]))
    talk(conversation, lines("hello"), terminal=True)
    assert "[cut off: --max-new-tokens allows more]" in capsys.readouterr().err
    talk(conversation, lines("hello"), terminal=False)
    assert capsys.readouterr().err == ""


def test_interrupts(capsys):
    conversation = Conversation(made())

    keys: list[type[BaseException]] = [KeyboardInterrupt, EOFError]

    def read(prompt):
        raise keys.pop(0)

    talk(conversation, read, terminal=True)
    assert keys == [] and capsys.readouterr().out == "\n\n"
    with pytest.raises(KeyboardInterrupt):
        talk(conversation, lambda prompt: (_ for _ in ()).throw(KeyboardInterrupt), terminal=False)


def test_bytes_that_are_no_text(monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\r\n\xff\n"), encoding="utf-8"))
    with pytest.raises(InputError, match="Standard input is not text"):
        assert from_pipe("> ") == "hello"
        from_pipe("> ")


# --- the program ------------------------------------------------------------------------------------------------------


def command(*arguments, folder=None):
    options = ["--option", "do_sample=false", *arguments]
    return [sys.executable, "-m", "pellucid.cli", "chat", str(folder or writer.folder("llama")), *options]


def test_through_a_pipe():
    said = "hello\nthe \\\nworld\n"
    done = subprocess.run(
        command("--max-new-tokens", "12"), input=said, capture_output=True, text=True, env=os.environ, timeout=120
    )
    conversation = Conversation(made())
    wanted = ["".join(conversation.ask(text)) for text in ("hello", "the \nworld")]
    assert (done.stdout, done.stderr, done.returncode) == ("".join(f"{answer}\n" for answer in wanted), "", 0)


def test_a_model_that_does_not_chat():
    folder = writer.folder("llama", template=False)
    done = subprocess.run(command(folder=folder), input="hello\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: This model has no chat template") and "Traceback" not in done.stderr
    raw = subprocess.run(
        command("--raw", "--max-new-tokens", "3", folder=folder),
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert raw.returncode == 0 and raw.stdout.endswith("\n") and raw.stderr == ""


class Terminal:
    """A program at a pseudo-terminal."""

    def __init__(self, arguments):
        self.end, other = pty.openpty()
        self.shown = ""
        # in a session of its own, whose terminal this is, so that Ctrl-C reaches it and nobody else
        session = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", session, *arguments], stdin=other, stdout=other, stderr=other, start_new_session=True
        )
        os.close(other)

    def wait_for(self, found, seconds=60):
        """Read until what is shown is as it should be, or fail with what it is."""
        until = time.monotonic() + seconds
        while not found(self.shown):
            assert time.monotonic() < until, self.shown
            if select.select([self.end], [], [], 0.1)[0]:
                with suppress(OSError):  # at its end
                    self.shown += os.read(self.end, 4096).decode("utf-8", "replace")

    def type(self, text):
        os.write(self.end, text.encode())


def test_at_a_terminal(tmp_path):
    only_words = json.dumps([id for id in range(284) if id not in of_words().tokenizer("the world the")["input_ids"]])
    file = tmp_path / "said.json"
    terminal = Terminal(command("--max-new-tokens", "100000", "--option", f"suppress_tokens={only_words}"))
    try:
        terminal.wait_for(lambda shown: "/help shows the commands" in shown and shown.endswith("> "))
        terminal.type("hello\n")
        terminal.wait_for(lambda shown: shown.count("the") > 9)
        terminal.type("\x03")  # Ctrl-C
        terminal.wait_for(lambda shown: shown.count("> ") == 2)
        terminal.type(f"/save {file}\n")
        terminal.wait_for(lambda shown: shown.count("> ") == 3)
        said = json.loads(file.read_text(encoding="utf-8"))
        assert [message["role"] for message in said] == ["user", "assistant"] and "the" in said[1]["content"]
        terminal.type("\x04")  # Ctrl-D
        assert terminal.process.wait(60) == 0
        assert "Traceback" not in terminal.shown
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)
