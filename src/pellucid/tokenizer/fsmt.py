"""FSMT: byte-pair encoding of words as Moses cuts them, with a vocabulary and a language for each of two sides."""

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import AddedToken, Encoding, models, processors
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import InputError, MissingPackageError, TokenizerError
from pellucid.folder import Folder

from .byte_level import read_merges
from .engine import Engine, Padding, Truncation
from .families import Family
from .inputs import Inputs, refuse_inputs
from .renumbered import Renumbered, RenumberedEngine, read_ids, vocabulary

_END = "</w>"
_PLACES = ("offsets", "token_to_chars", "word_to_chars", "char_to_token", "char_to_word")


class MosesEngine(Engine):
    """Cuts texts into words as Moses does, whose rules differ by language, and the words into parts.

    Args:
        rust: cuts words.
        language: its code, "en".
        lower: whether texts are brought to lower case first.

    Raises:
        MissingPackageError: without sacremoses.
    """

    def __init__(self, rust: RustTokenizer, language: str, lower: bool):
        super().__init__(rust)
        try:
            import sacremoses
        except ImportError:
            raise MissingPackageError(
                "FSMT's words are cut by the package sacremoses: pip install 'pellucid[moses]'."
            ) from None
        rules = {"pre_replace_unicode_punct": True, "post_remove_control_chars": True}
        self._language, self._lower = language, lower
        self._normalizer = sacremoses.MosesPunctNormalizer(language, **rules)
        self._words = sacremoses.MosesTokenizer(language)
        self._texts = sacremoses.MosesDetokenizer(language)

    def encode(
        self, inputs: Inputs, *, truncation: Truncation | None, padding: Padding | None, add_special_tokens: bool
    ) -> list[Encoding]:
        """Encode every row; as `Engine.encode`.

        Raises:
            InputError: also for texts in words, which Moses would cut again.
        """
        refuse_inputs(inputs)
        if inputs.split:
            raise InputError("This tokenizer cuts texts into words by itself; give whole texts, ' '.join(words).")
        added = self.rust.get_added_tokens_decoder().values()
        looked_for = [token.content for token in added if not (token.special and self.rust.encode_special_tokens)]
        rows = [[self._cut(text, looked_for) for text in (row if inputs.paired else [row])] for row in inputs.rows]
        inputs = inputs._replace(rows=rows if inputs.paired else [row for (row,) in rows], split=True)
        options: dict[str, Any] = {"padding": padding, "add_special_tokens": add_special_tokens}
        return super().encode(inputs, truncation=truncation, **options)

    def _cut(self, text: str, looked_for: Sequence[str]) -> list[str]:
        """Return the words of a text, and the tokens between them that are looked for before everything else."""
        places = [(place, -len(token), token) for token in looked_for if (place := text.find(token)) >= 0]
        if places:
            place, _, token = min(places)  # the first; the longest of those
            return [*self._cut(text[:place], ()), token, *self._cut(text[place + len(token) :], looked_for)]
        plain = self._normalizer.normalize(text.lower() if self._lower else text)
        return [*filter(None, self._words.tokenize(plain, aggressive_dash_splits=True))]

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens, with spaces where the language has them."""
        return self._texts.detokenize("".join(tokens).replace(_END, " ").split())

    def with_tokens(self, tokens: list[AddedToken]) -> tuple[Engine, int]:
        """Return an engine with more tokens in its vocabulary, and how many of them were new."""
        engine, added = super().with_tokens(tokens)
        return MosesEngine(engine.rust, self._language, self._lower), added

    def framed(self, make: Callable[[RustTokenizer], processors.TemplateProcessing]) -> Engine:
        """Return an engine that puts other special tokens around texts."""
        return MosesEngine(super().framed(make).rust, self._language, self._lower)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.rust.to_str(), self._language, self._lower)


def _restore(rust: str, language: str, lower: bool) -> MosesEngine:
    return MosesEngine(RustTokenizer.from_str(rust), language, lower)


class FSMTEngine(RenumberedEngine):
    """One side: its words, and the ids of their parts."""

    rewrites = True

    def row(self, row: Encoding) -> Renumbered:
        """Give a row its ids."""
        return RewrittenRow(row, self)

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Turn ids into text; as `Engine.decode`."""
        self.refuse_ids(ids)
        added = self.rust.get_added_tokens_decoder() if skip_special_tokens else {}
        return self.join([self.rust.id_to_token(id) or "" for id in ids if id not in added or not added[id].special])

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        return self._cutter.join(tokens)


class RewrittenRow(Renumbered):
    """A row of a text that was rewritten before it was cut, so that nobody knows where in it a token stands."""

    def __getattr__(self, name: str) -> Any:
        if name in _PLACES:
            raise InputError(
                "Moses rewrites texts before they are cut, so tokens have no places in them: leave "
                "return_offsets_mapping out, and what asks for characters."
            )
        return super().__getattr__(name)


def build(folder: Folder, settings: dict[str, Any], family: Family) -> Engine:
    """Build the tokenizer of a `vocab-src.json`, a `vocab-tgt.json` and a `merges.txt`.

    Args:
        folder: where the files are.
        settings: `langs`, the codes of the two languages, `do_lower_case` (False), and the special tokens.
        family: which of them there are.

    Raises:
        TokenizerError: if the files are broken, lack a special token, or do not say which languages.
        MissingPackageError: without sacremoses.
    """
    languages = settings.get("langs")
    if not isinstance(languages, list) or len(languages) != 2 or not all(isinstance(code, str) for code in languages):
        raise TokenizerError(
            f"{folder.path / 'tokenizer_config.json'}: langs is {languages!r:.60}; expected the codes of two "
            "languages, such as ['en', 'de'], by whose rules texts are cut."
        )
    names = ["vocab-src.json", "vocab-tgt.json"]
    files = {name: folder.read_bytes(name) for name in (*names, "merges.txt")}
    special, unknown = [str(settings[role]) for role in family.special], str(settings["unk_token"])

    def side(name: str, language: str, target: FSMTEngine | None = None) -> FSMTEngine:
        ids = read_ids(folder, name, special)
        rust = _cutter(ids, read_merges(folder), special)
        cutter = MosesEngine(rust, language, bool(settings.get("do_lower_case")))
        return FSMTEngine(vocabulary(ids, unknown), cutter, {}, ids[unknown], files, target)

    return side(names[0], languages[0], target=side(names[1], languages[1]))


def _cutter(ids: dict[str, int], merges: list[tuple[str, str]], special: list[str]) -> RustTokenizer:
    """Return what cuts words into parts, those that the vocabulary lacks included; "" is what no part is known of."""
    parts = {letter for token in ids for letter in token.removesuffix(_END)} | {part for two in merges for part in two}
    parts |= {"".join(two) for two in merges}
    parts |= {f"{letter}{_END}" for letter in parts if len(letter) == 1}
    parts |= {letter.removesuffix(_END) for letter in parts}
    numbers = {part: id for id, part in enumerate(["", *sorted(parts - {""})])}
    rust = RustTokenizer(models.BPE(numbers, merges, unk_token="", end_of_word_suffix=_END))
    rust.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return rust
