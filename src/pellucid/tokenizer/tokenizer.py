"""The tokenizer: text to token ids and back, with every setting a value of the call."""

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import InputError, TokenizerError, refuse_unknown

from .batch_encoding import BatchEncoding
from .chat import ChatTemplates
from .engine import Engine, Padding, Truncation, copy
from .families import Family
from .inputs import read_inputs
from .languages import Languages
from .padding import pad_rows
from .special_tokens import NAMES, as_added_token, named_tokens

if TYPE_CHECKING:
    from typing_extensions import Self

SETTINGS = (
    *NAMES,
    *("additional_special_tokens", "extra_special_tokens", "split_special_tokens"),
    *("model_max_length", "padding_side", "truncation_side", "pad_token_type_id", "model_input_names"),
    *("clean_up_tokenization_spaces", "chat_template", "name_or_path", "src_lang", "tgt_lang"),
)
TRUNCATIONS = ("longest_first", "only_first", "only_second")

_UNLIMITED = 10**9  # files write 1e30 and the like for "no limit"
_CALL_ARGUMENTS = (
    *("text", "text_pair", "text_target", "text_pair_target", "src_lang", "tgt_lang"),
    *("add_special_tokens", "padding", "truncation"),
    *("max_length", "stride", "is_split_into_words", "pad_to_multiple_of", "padding_side", "return_tensors"),
    *("return_token_type_ids", "return_attention_mask", "return_overflowing_tokens", "return_special_tokens_mask"),
    *("return_offsets_mapping", "return_length", "verbose"),
)
_COLUMNS = {
    "input_ids": operator.attrgetter("ids"),
    "token_type_ids": operator.attrgetter("type_ids"),
    "attention_mask": operator.attrgetter("attention_mask"),
    "special_tokens_mask": operator.attrgetter("special_tokens_mask"),
    "offset_mapping": operator.attrgetter("offsets"),
    "length": len,
}


class Tokenizer(ChatTemplates, Languages):
    """Turns texts into the token ids of one vocabulary, and ids into text.

    Wraps a `tokenizers.Tokenizer`. A call changes nothing: truncation and padding belong to the call, so any number of
    threads can share an instance. `add_tokens` and `add_special_tokens` replace the vocabulary in one step.

    Make one with `AutoTokenizer.from_pretrained`, or from a `tokenizers.Tokenizer` of your own.

    Args:
        tokenizer_object: the `tokenizers.Tokenizer` to wrap; it is copied.
        tokenizer_file: the path of a tokenizer.json, instead.
        settings: as in tokenizer_config.json: `model_max_length`, `padding_side` ("right"), `truncation_side`
            ("right"), `model_input_names`, `clean_up_tokenization_spaces`, `pad_token_type_id` (0), `chat_template`,
            `name_or_path`, `split_special_tokens`, `extra_special_tokens`, `src_lang` and `tgt_lang` where there are
            languages, and `bos_token`, `eos_token`, `unk_token`, `sep_token`, `pad_token`, `cls_token`, `mask_token`.
            Special tokens that the vocabulary lacks are added.

    Attributes:
        model_max_length: the most tokens that the model reads, None if unknown.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        model_input_names: what a call returns when it is not told otherwise.
        chat_template: a Jinja template, or several by name; None if there is none.

    Raises:
        ArgumentError: if a setting does not exist.
        InputError: if neither or both of the first two are given, or a setting has an impossible value.
        TokenizerError: if the file is broken.
    """

    family = Family()

    padding_side: str
    truncation_side: str
    model_input_names: list[str]
    pad_token_type_id: int
    name_or_path: str
    init_kwargs: dict[str, Any]

    def __init__(
        self,
        tokenizer_object: RustTokenizer | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        **settings: Any,
    ):
        refuse_unknown(type(self).__name__, settings, SETTINGS)
        if (tokenizer_object is None) == (tokenizer_file is None):
            raise InputError(
                "give either tokenizer_object or tokenizer_file; for a name or a folder there is "
                "AutoTokenizer.from_pretrained."
            )
        if tokenizer_object is not None:
            engine = Engine(copy(tokenizer_object))
        else:
            path = Path(os.fspath(tokenizer_file or ""))
            try:
                engine = Engine.from_json(path.read_bytes(), str(path))
            except OSError as error:
                raise TokenizerError(f"{path} can not be read: {error.strerror}.") from None
        self._setup(engine, settings)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> "Self":
        """Load a tokenizer from a folder, the cache or the Hub.

        With a tokenizer.json its ids are the truth; without one the tokenizer is built from the vocabulary files.

        Args:
            name_or_path: a folder, or the name of a repository on the Hub.
            options: where to look (`revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`,
                `force_download`), and settings that override those of the files: those of the class, and
                `do_lower_case`, `strip_accents`, `tokenize_chinese_chars`, `add_prefix_space`, `add_bos_token`,
                `add_eos_token`, and `legacy` for SentencePiece models without a tokenizer.json.

        Raises:
            ArgumentError: if an option does not exist.
            HubError: if the files can not be had.
            TokenizerError: if they are broken, or of a kind that is not implemented.
        """
        from .loading import load

        return load(cls, name_or_path, options)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False, **options: Any
    ) -> tuple[str, ...]:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja, all or nothing.

        Several chat templates go into tokenizer_config.json, with their names. Other files of the folder stay.

        Args:
            save_directory: the folder; made if absent.
            push_to_hub: also upload the folder.
            options: of the upload: `repo_id` (the folder's name), `private`, `token`, `commit_message`, `revision`,
                `create_pr`.

        Returns:
            The paths of the files.

        Raises:
            SaveError: if the folder can not be written; it is as before then.
        """
        from .loading import save

        paths = save(self, save_directory)
        if push_to_hub:
            from pellucid.hub import push

            push(save_directory, options.pop("repo_id", Path(save_directory).resolve().name), **options)
        return paths

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the tokenizer's files to a repository, and return the address of the commit.

        Args:
            repo_id: the repository's name; made if absent.
            options: `private`, `token`, `commit_message`, `revision`, `create_pr`.

        Raises:
            HubError: if the upload fails.
        """
        from tempfile import TemporaryDirectory

        from pellucid.hub import push

        with TemporaryDirectory() as folder:
            self.save_pretrained(os.path.join(folder, "tokenizer"))
            return push(os.path.join(folder, "tokenizer"), repo_id, **options)

    # --- text to ids --------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        *,
        text_target: Any = None,
        text_pair_target: Any = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **unknown: Any,
    ) -> BatchEncoding:
        """Tokenize one text or many.

        Args:
            text: a text, a list of texts, or a list of pairs; an empty list gives a batch of no rows.
            text_pair: the second text of each pair.
            text_target: texts whose ids are returned as "labels" (or alone, without `text`).
            text_pair_target: the second text of each of those.
            src_lang: the code of the language of `text`, where the tokenizer has languages; the attribute if None.
            tgt_lang: that of `text_target`; the attribute if None, and the source's without that.
            add_special_tokens: whether to put the model's special tokens around.
            padding: True or "longest" fills rows up to the longest; "max_length" up to `max_length`.
            truncation: True or "longest_first" cuts the longer text of a pair first; "only_first" and "only_second" cut
                that one; False cuts nothing. None cuts only if `max_length` is given and `padding` is not.
            max_length: the most tokens, special ones included; `model_max_length` if None.
            stride: how many tokens overlap between the pieces of a truncated text.
            is_split_into_words: whether a text is a list of words.
            pad_to_multiple_of: pad further, up to a multiple.
            padding_side: "right" or "left"; the attribute if None.
            return_tensors: "pt", "np", "tf" or "jax"; None gives lists.
            return_token_type_ids: None follows `model_input_names`.
            return_attention_mask: None follows `model_input_names`.
            return_overflowing_tokens: whether what truncation cuts off is returned as more rows, with the text that
                each row comes from in "overflow_to_sample_mapping".
            return_special_tokens_mask: 1 where a special token is.
            return_offsets_mapping: the characters of each token, (start, end).
            return_length: the number of tokens of each row, padding included.
            verbose: accepted, and changes nothing.
            unknown: nothing; a misspelt name raises.

        Raises:
            ArgumentError: if an argument does not exist.
            InputError: if something is not a text, or a length, side, strategy or language is impossible.
        """
        if unknown:
            refuse_unknown("a tokenizer call", unknown, _CALL_ARGUMENTS)
        names = self.model_input_names
        columns = ["input_ids"]
        if return_token_type_ids or (return_token_type_ids is None and "token_type_ids" in names):
            columns.append("token_type_ids")
        if return_attention_mask or (return_attention_mask is None and "attention_mask" in names):
            columns.append("attention_mask")
        if return_special_tokens_mask:
            columns.append("special_tokens_mask")
        if return_offsets_mapping:
            columns.append("offset_mapping")
        if return_length:
            columns.append("length")

        def encode(engine: Engine, text: Any, pair: Any) -> BatchEncoding:
            return self._encode(
                engine,
                text,
                pair,
                columns=columns,
                add_special_tokens=add_special_tokens,
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                stride=stride,
                split=is_split_into_words,
                multiple=pad_to_multiple_of,
                side=padding_side,
                tensors=return_tensors,
                overflow=return_overflowing_tokens,
            )

        engine, target_engine = self._engines(src_lang, tgt_lang)
        if text_target is None:
            return encode(engine, text, text_pair)
        target = encode(target_engine, text_target, text_pair_target)
        if text is None:
            return target
        result = encode(engine, text, text_pair)
        result["labels"] = target["input_ids"]
        return result

    def _encode(
        self,
        engine: Engine,
        text: Any,
        pair: Any,
        *,
        columns: list[str],
        add_special_tokens: bool,
        padding: bool | str,
        truncation: bool | str | None,
        max_length: int | None,
        stride: int,
        split: bool,
        multiple: int | None,
        side: str | None,
        tensors: str | None,
        overflow: bool,
    ) -> BatchEncoding:
        inputs = read_inputs(text, pair, split)
        cut = fill = None
        if truncation or max_length is not None:
            reserved = engine.rust.num_special_tokens_to_add(inputs.paired) if add_special_tokens else 0
            cut = self._truncation(truncation, max_length, stride, padding, reserved)
        if padding:
            fill = self._padding(padding, max_length, multiple, side, cut)
        rows = engine.encode(inputs, truncation=cut, padding=fill, add_special_tokens=add_special_tokens)
        if not inputs.batched and tensors is None and not overflow:
            data = {name: _COLUMNS[name](rows[0]) for name in columns}
            if "length" in data:
                data["length"] = [data["length"]]
            return BatchEncoding(data, rows)
        samples = None
        if overflow:
            pieces = [(index, piece) for index, row in enumerate(rows) for piece in (row, *row.overflowing)]
            samples, rows = [index for index, _ in pieces], [piece for _, piece in pieces]
        data = {name: [_COLUMNS[name](row) for row in rows] for name in columns}
        if samples is not None:
            data["overflow_to_sample_mapping"] = samples
        return BatchEncoding(data, rows, tensor_type=tensors)

    def _truncation(
        self, truncation: bool | str | None, max_length: int | None, stride: int, padding: bool | str, reserved: int
    ) -> Truncation | None:
        """Check and complete what a call says about truncation; `reserved` tokens are special ones."""
        if truncation is None and padding in (False, "do_not_pad"):
            truncation = padding is False
        if not truncation or truncation == "do_not_truncate":
            return None
        strategy = "longest_first" if truncation is True else truncation
        if strategy not in TRUNCATIONS:
            raise InputError(
                f"truncation={truncation!r} is not one of True, False, {', '.join(map(repr, TRUNCATIONS))}."
            )
        limit = _count("max_length", max_length, 0) if max_length is not None else self.model_max_length
        if limit is None:
            return None
        if limit < max(reserved, 1):
            raise InputError(f"max_length={limit} is too small: the special tokens alone are {reserved}.")
        if _count("stride", stride, 0) >= max(limit - reserved, 1):
            raise InputError(
                f"stride={stride} is too large: of max_length={limit} tokens {reserved} are special, so that pieces of "
                f"{limit - reserved} would never advance. Take a stride below {limit - reserved}."
            )
        return Truncation(limit, stride, strategy, _side("truncation_side", self.truncation_side))

    def _padding(
        self,
        padding: bool | str,
        max_length: int | None,
        multiple: int | None,
        side: str | None,
        cut: Truncation | None,
    ) -> Padding | None:
        """Check and complete what a call says about padding."""
        if padding == "do_not_pad":
            return None
        length = None
        if padding == "max_length":
            length = _count("max_length", max_length, 0) if max_length is not None else self.model_max_length
            if length is None:
                raise InputError(
                    "padding='max_length' needs max_length=..., because this tokenizer does not know how many tokens "
                    "its model reads (model_max_length is None)."
                )
        elif padding is not True and padding != "longest":
            raise InputError(f"padding={padding!r} is not one of True, False, 'longest', 'max_length'.")
        if multiple is not None and _count("pad_to_multiple_of", multiple, 1) and cut and cut.max_length % multiple:
            raise InputError(f"max_length={cut.max_length} is not a multiple of pad_to_multiple_of={multiple}.")
        side = _side("padding_side", side or self.padding_side)
        token, id = self._pad()
        return Padding(length, multiple, side, id, self.pad_token_type_id, token)

    def _pad(self) -> tuple[str, int]:
        token, id = self.pad_token, self.pad_token_id
        if token is None or id is None:
            raise InputError(
                "there is no padding token. Set one (tokenizer.pad_token = tokenizer.eos_token), or add one: "
                "tokenizer.add_special_tokens({'pad_token': '[PAD]'}), then resize the model's embedding."
            )
        return token, id

    def encode(self, text: Any, text_pair: Any = None, *, return_tensors: str | None = None, **arguments: Any) -> Any:
        """Return the ids of a text, or of each of many; the arguments are those of a call."""
        return self(text, text_pair, return_tensors=return_tensors, **arguments)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **arguments: Any) -> BatchEncoding:
        """Do what a call does."""
        return self(text, text_pair, **arguments)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **arguments: Any) -> BatchEncoding:
        """Do what a call with a list of texts, or of pairs, does."""
        return self(batch_text_or_text_pairs, **arguments)

    def tokenize(
        self, text: str, pair: str | None = None, *, add_special_tokens: bool = False, **arguments: Any
    ) -> list[str]:
        """Return the tokens of a text; the arguments are those of a call.

        Raises:
            InputError: if it is not one text.
        """
        return self(text, pair, add_special_tokens=add_special_tokens, **arguments).tokens()

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        *,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Bring rows that are tokenized already to one length.

        Fills up "input_ids", "attention_mask" (made if absent), "token_type_ids" and "special_tokens_mask"; everything
        else, such as "labels", stays as it is.

        Args:
            encoded_inputs: a list of dictionaries, one a row; or one dictionary of lists of rows, or of a single row.
            padding: as in a call.
            max_length: as in a call.
            pad_to_multiple_of: as in a call.
            padding_side: as in a call.
            return_attention_mask: None follows `model_input_names`.
            return_tensors: as in a call.
            verbose: accepted, and changes nothing.

        Raises:
            InputError: if the rows can not be padded, or not become tensors.
        """
        fill = self._padding(padding, max_length, pad_to_multiple_of, padding_side, None) if padding else None
        mask = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        return BatchEncoding(pad_rows(encoded_inputs, fill, mask), tensor_type=return_tensors)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        *,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer_options: Any,
    ) -> "Self":
        """Return a tokenizer of the same kind and settings with a vocabulary learned from other texts.

        Args:
            text_iterator: texts, or lists of texts.
            vocab_size: the size of the new vocabulary, special tokens included.
            length: how many items `text_iterator` has, for the progress bar of the library.
            new_special_tokens: special tokens to add to those of this tokenizer.
            special_tokens_map: new names for special tokens, by old name.
            trainer_options: further arguments of the library's trainer, such as `min_frequency`.

        Raises:
            ArgumentError: if the trainer has no such option.
            TokenizerError: if the vocabulary is of a kind that can not be trained.
        """
        from .training import train

        rust, settings = train(
            self,
            text_iterator,
            vocab_size,
            length=length,
            new_special_tokens=list(new_special_tokens or ()),
            renamed=special_tokens_map or {},
            options=trainer_options,
        )
        return self._from_engine(Engine(rust), settings)

    # --- settings -----------------------------------------------------------------------------------------------------

    @property
    def model_max_length(self) -> int | None:
        """The most tokens that the model reads, special ones included; None if unknown."""
        return self._model_max_length

    @model_max_length.setter
    def model_max_length(self, length: float | None) -> None:
        self._model_max_length = (
            None if length is None or length > _UNLIMITED else _count("model_max_length", length, 1)
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings as tokenizer_config.json has them, with those that only other programs understand."""
        usual = list(self.family.model_input_names)
        now = {
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "pad_token_type_id": self.pad_token_type_id,
            "model_input_names": None if self.model_input_names == usual else list(self.model_input_names),
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "split_special_tokens": self._engine.rust.encode_special_tokens,
            "chat_template": self.chat_template,
            "src_lang": self._src_lang,
            "tgt_lang": self._tgt_lang,
        }
        return {**self.init_kwargs, **self.special_tokens_map, **{name: value for name, value in now.items() if value}}

    @classmethod
    def _from_engine(cls, engine: Engine, settings: Mapping[str, Any]) -> "Self":
        tokenizer = cls.__new__(cls)
        tokenizer._setup(engine, settings)
        return tokenizer

    def _setup(self, engine: Engine, settings: Mapping[str, Any]) -> None:
        """Take over an engine and settings; special tokens that the vocabulary lacks are added to it."""
        family = self.family
        engine.split_special_tokens(bool(settings.get("split_special_tokens", False)))
        settings = {**{name: value for name, value in family.defaults.items() if name in SETTINGS}, **settings}
        roles = {}
        for name in NAMES:
            usual = family.special.get(name)
            token = settings.get(name, usual if usual and engine.rust.token_to_id(str(usual)) is not None else None)
            if token is not None:
                roles[name] = as_added_token(usual if usual and token == str(usual) else token, special=True)
        named = {name: as_added_token(token, special=True) for name, token in named_tokens(settings).items()}
        extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
        more = [as_added_token(token, special=True) for token in ([] if isinstance(extra, Mapping) else extra)]
        known = {token.content for token in engine.rust.get_added_tokens_decoder().values() if token.special}
        if missing := [token for token in (*roles.values(), *named.values(), *more) if token.content not in known]:
            engine, _ = engine.with_tokens(missing)
        self._engine = engine
        self._roles = {name: token.content for name, token in roles.items()}
        self._named = {name: token.content for name, token in named.items()}
        self._extra = list(dict.fromkeys(token.content for token in more))
        self.model_max_length = settings.get("model_max_length")
        self.padding_side = _side("padding_side", settings.get("padding_side", "right"))
        self.truncation_side = _side("truncation_side", settings.get("truncation_side", "right"))
        self.model_input_names = list(settings.get("model_input_names") or family.model_input_names)
        self.pad_token_type_id = settings.get("pad_token_type_id", 0)
        clean = settings.get("clean_up_tokenization_spaces")
        self.clean_up_tokenization_spaces = (
            type(engine.rust.model).__name__ == "WordPiece" if clean is None else bool(clean)
        )
        self.chat_template = settings.get("chat_template")
        self.name_or_path = settings.get("name_or_path", "")
        self._set_languages(settings)
        ours = (*SETTINGS, *named, "model_specific_special_tokens")
        self.init_kwargs = {name: value for name, value in settings.items() if name not in ours}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name_or_path!r}, {len(self)} tokens, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )


def _count(name: str, value: Any, least: int) -> int:
    """Return a setting as an integer of at least `least`."""
    try:
        number = int(value) if isinstance(value, float) else operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}. Expected an integer.") from None
    if number < least:
        raise InputError(f"{name} is {number}. Expected at least {least}.")
    return number


def _side(name: str, side: Any) -> str:
    if side not in ("right", "left"):
        raise InputError(f"{name} is {side!r}. Expected 'right' or 'left'.")
    return side
