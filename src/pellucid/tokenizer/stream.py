"""Text from tokens that come one after the other."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .vocabulary import Vocabulary


class DecodeStream:
    """Decodes tokens as they come; see `Vocabulary.decode_stream`.

    The pieces of all steps, with that of `flush`, are what `decode` makes of all ids at once. A piece comes as soon as
    no later token can change it: a character is never split, and bytes that a vocabulary of SentencePiece writes one
    by one wait for the token after the last of them.

    Args:
        tokenizer: whose tokens they are.
        skip_special_tokens: whether to leave out special tokens.
        clean: what takes out spaces before punctuation, which looks a word ahead; None for nothing.
    """

    def __init__(self, tokenizer: "Vocabulary", skip_special_tokens: bool, clean: Callable[[str], str] | None):
        engine = tokenizer._engine.target
        rust, self._rewrites = engine.rust, engine.rewrites
        added = rust.get_added_tokens_decoder().items()
        self._skipped = frozenset(id for id, token in added if token.special) if skip_special_tokens else frozenset()
        self._decode: Callable[[list[int]], str] = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        self._token = rust.id_to_token
        self._clean = clean
        self._by_bytes = rust.decoder is not None and b"ByteFallback" in rust.decoder.__getstate__()
        self._suffix = getattr(rust.model, "end_of_word_suffix", None) or ""
        self._ids: list[int] = []
        self._shown = 0  # characters of their text
        self._unclean = ""  # text that cleaning may still change

    def step(self, id: int) -> str:
        """Return the text that has become certain with one more token, which may be empty.

        Raises:
            InputError: if the id is not in the vocabulary.
        """
        if id in self._skipped:
            return ""
        text = self._decode([*self._ids, id])
        self._ids.append(id)
        certain = max(self._certain(text, id), self._shown)
        piece, self._shown = text[self._shown : certain], certain
        if certain == len(text) and not self._rewrites:
            # one token is enough for the next to know that it is not the first
            self._ids = self._ids[-1:]
            self._shown = len(self._decode(self._ids))
        if self._clean is None:
            return piece
        self._unclean += piece
        end = _last_break(self._unclean)
        piece, self._unclean = self._unclean[:end], self._unclean[end:]
        return self._clean(piece)

    def flush(self) -> str:
        """Return what was held back, and begin anew."""
        piece = self._unclean + (self._decode(self._ids)[self._shown :] if self._ids else "")
        self._ids, self._shown, self._unclean = [], 0, ""
        return piece if self._clean is None else self._clean(piece)

    def _certain(self, text: str, last: int) -> int:
        """Return how many characters of a text no later token can change."""
        if self._by_bytes and _is_byte(self._token(last) or ""):  # invalid bytes spoil valid ones before them
            return self._shown
        if self._rewrites:  # quotes and dashes, of the words just before
            return max(0, len(text.rpartition(" ")[0].rpartition(" ")[0]))
        begun = next((n for n in range(len(self._suffix) - 1, 0, -1) if text.endswith(self._suffix[:n])), 0)
        return len(text.rstrip("\ufffd")) if not begun else len(text) - begun


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _last_break(text: str) -> int:
    """Return the last place between two words that nothing which is cleaned up can reach across."""
    place = text.rfind(" ", 1, -1)
    while place > 0:
        if text[place - 1].isalnum() and text[place + 1].isalnum() and text[place + 1] != "n":  # the start of " n't"
            return place
        place = text.rfind(" ", 1, place)
    return 0
