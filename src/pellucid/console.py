"""A conversation with a model at the console: `pellucid chat`."""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .cache import Cache
from .errors import InputError, PellucidError, did_you_mean

if TYPE_CHECKING:
    from .generation import Stream
    from .pipelines.text_generation import TextGenerationPipeline

COMMANDS = {
    "/help": "show this",
    "/reset": "forget the conversation",
    "/system TEXT": "tell the model how to behave; without TEXT no more",
    "/save FILE": "write the messages to a file, as JSON",
    "/exit": "leave, as Ctrl-D does; Ctrl-C stops an answer",
}
BLOCK = '"""'


class Conversation:
    """Messages, and what the model has read of them, which it does not read again.

    Args:
        pipe: what answers; its defaults are the settings.
        system: how the model should behave.
        raw: whether the model goes on with the text, instead of answering messages.

    Attributes:
        messages: of the user and the assistant.
        finish_reason: of the last answer; None if it was broken off.
    """

    def __init__(self, pipe: "TextGenerationPipeline", *, system: str | None = None, raw: bool = False):
        if pipe.tokenizer.chat_template is None and not raw:
            raise InputError(
                "This model has no chat template: it was not trained to answer, but to go on with a text. "
                "pellucid chat --raw lets it do that."
            )
        self.pipe, self.system, self.raw = pipe, system, raw
        self.messages: list[dict[str, str]] = []
        self.finish_reason: str | None = None
        self._cache = Cache()

    def ask(self, text: str) -> Generator[str, None, None]:
        """Say something, and give the answer piece by piece.

        What has been said so far is kept when the answer is broken off; if that is nothing, so is the question not.
        """
        before, said, self.finish_reason = len(self.messages), list[str](), None
        self.messages.append({"role": "user", "content": text})
        try:
            (piece,) = self.pipe.preprocess(self._prompt())
            ids = piece["input_ids"]
            if self._cache.ids is None or int(self._cache.ids[0, 0]) != ids[0]:
                self._cache = Cache()  # this conversation begins in another way
            answer = self.pipe.forward_stream(piece, cache=self._cache)
            try:
                for part in answer:
                    said.append(part)
                    yield part
            finally:
                self._settle(answer, len(ids))
            self.finish_reason = answer.finish_reason
        finally:
            if said or self.finish_reason:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                del self.messages[before:]

    def _prompt(self) -> "str | list[dict[str, str]]":
        begin = [] if self.system is None else [{"role": "system", "content": self.system}]
        if not self.raw:
            return begin + self.messages
        return "".join(m["content"] + "\n" * (m["role"] != "user") for m in begin + self.messages)

    def _settle(self, answer: "Stream", prompt: int) -> None:
        """Keep what every layer has read; the model may have been interrupted in the middle of a token."""
        written = len(answer.ids) - prompt
        try:
            self._cache.crop(len(answer.ids) - 1 if written else 0)
        except InputError:  # of a state or a sliding window nothing can be cut off
            self._cache = Cache()

    def save(self, path: Path) -> None:
        """Write the messages to a JSON file.

        Raises:
            OSError: if it can not be written.
        """
        begin = [] if self.system is None else [{"role": "system", "content": self.system}]
        path.write_text(json.dumps(begin + self.messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def talk(conversation: Conversation, read: Callable[[str], str], *, terminal: bool) -> None:
    """Answer messages until there are no more.

    Args:
        conversation: to go on with.
        read: gives a line, after a prompt; raises EOFError at the end.
        terminal: whether somebody sits there, who may break off an answer, and hears of errors and goes on.

    Raises:
        PellucidError: what a message causes, if nobody sits there.
    """
    while True:
        try:
            text = read_message(read)
            if text.startswith("/"):
                obey(conversation, text)
            elif text.strip():
                _answer(conversation, text, terminal)
        except EOFError:
            if terminal:
                print()
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            print()
        except PellucidError as error:
            if not terminal:
                raise
            print(f"error: {error}", file=sys.stderr)


def _answer(conversation: Conversation, text: str, terminal: bool) -> None:
    with closing(conversation.ask(text)) as pieces:
        for piece in pieces:
            print(piece, end="", flush=True)
    print(flush=True)
    if terminal and conversation.finish_reason == "length":
        print("[cut off: --max-new-tokens allows more]", file=sys.stderr)


def read_message(read: Callable[[str], str]) -> str:
    r"""Read one message: a line, lines that end in \ except for the last, or what is between triple quotes.

    Raises:
        EOFError: if there is none.
    """

    def more() -> str | None:
        try:
            return read(". ")
        except EOFError:
            return None  # so the message ends

    text = read("> ")
    if text.startswith(BLOCK):
        text = text.removeprefix(BLOCK)
        while not text.rstrip().endswith(BLOCK) and (line := more()) is not None:
            text += f"\n{line}"
        return text.rstrip().removesuffix(BLOCK).strip("\n")
    while text.endswith("\\") and (line := more()) is not None:
        text = f"{text[:-1]}\n{line}"
    return text


def obey(conversation: Conversation, text: str) -> None:
    """Carry out a command.

    Raises:
        EOFError: to leave.
        InputError: if there is no such command, or it can not be carried out.
    """
    name, _, argument = text.partition(" ")
    argument = argument.strip()
    if name == "/exit":
        raise EOFError
    elif name == "/reset":
        conversation.messages.clear()
    elif name == "/system":
        conversation.system = argument or None
    elif name == "/save" and argument:
        try:
            conversation.save(Path(argument).expanduser())
        except OSError as error:
            raise InputError(f"{argument} can not be written: {error.strerror}.") from None
    elif name == "/help":
        print("\n".join(f"{command:14} {meaning}" for command, meaning in COMMANDS.items()))
        print('A line that ends in \\ goes on in the next; """ begins and ends a message of any lines.')
    else:
        names = [command.split()[0] for command in COMMANDS]
        near = did_you_mean(name, names)
        raise InputError(f"There is no command {text!r}{near}. /help shows them; a message may begin with a space.")


def from_terminal() -> Callable[[str], str]:
    """Return what reads lines that somebody types, and can edit."""
    with suppress(ImportError):
        import readline  # noqa: F401, it changes what input() does
    return input


def from_pipe(prompt: str) -> str:
    """Read a line that a program sends; nobody sees a prompt."""
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise InputError(f"Standard input is not text: {error}.") from None
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
