"""The tokens with a role - begin, end, padding, mask and so on - as attributes of a tokenizer."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken

from pellucid.errors import InputError, TokenizerError, did_you_mean
from pellucid.folder import Folder

from .engine import Engine

_ADDING = threading.Lock()

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Role:
    """A descriptor `<role>_token`: the token's text, None where the tokenizer has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: "SpecialTokens | None", owner: type | None = None) -> Any:
        return self if tokenizer is None else tokenizer._roles.get(self.name)

    def __set__(self, tokenizer: "SpecialTokens", token: "str | AddedToken | None") -> None:
        content = str(token) if isinstance(token, (str, AddedToken)) else token
        if content is not None:
            vocabulary = tokenizer._engine.rust
            if not isinstance(content, str):
                raise InputError(f"{self.name} is {content!r}. Expected a token (str), or None.")
            if vocabulary.token_to_id(content) is None:
                raise InputError(
                    f"{self.name}={content!r} is not in the vocabulary of {vocabulary.get_vocab_size()} tokens. Choose "
                    f"one that is, or add it with add_special_tokens({{{self.name!r}: {content!r}}}) and resize the "
                    "model's embedding."
                )
        tokenizer._roles = {**tokenizer._roles, self.name: content}


class _RoleId:
    """A descriptor `<role>_token_id`: the token's id, None where the tokenizer has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: "SpecialTokens | None", owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._roles.get(self.name)
        return None if token is None else tokenizer._engine.rust.token_to_id(token)

    def __set__(self, tokenizer: "SpecialTokens", id: int | None) -> None:
        if id is not None:
            tokenizer._engine.refuse_ids([id])
        setattr(tokenizer, self.name, None if id is None else tokenizer._engine.rust.id_to_token(id))


class SpecialTokens:
    """The tokens with a role, by attribute: `pad_token`, `pad_token_id` and so on; each can be set, None for none.

    A model may have tokens under names of its own, such as `image_token`; they can be read the same way.
    """

    _engine: Engine
    _roles: dict[str, str | None]
    _named: dict[str, str]
    _extra: list[str]

    bos_token, bos_token_id = _Role(), _RoleId()
    eos_token, eos_token_id = _Role(), _RoleId()
    unk_token, unk_token_id = _Role(), _RoleId()
    sep_token, sep_token_id = _Role(), _RoleId()
    pad_token, pad_token_id = _Role(), _RoleId()
    cls_token, cls_token_id = _Role(), _RoleId()
    mask_token, mask_token_id = _Role(), _RoleId()

    def __getattr__(self, name: str) -> Any:
        # copy and pickle ask for attributes before there is any
        token = self.__dict__.get("_named", {}).get(name.removesuffix("_id"))
        if token is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._engine.rust.token_to_id(token) if name.endswith("_id") else token

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The tokens by role or name, with the ones without either under `additional_special_tokens`."""
        roles: dict[str, Any] = {name: token for name in NAMES if (token := self._roles.get(name)) is not None}
        roles |= self._named
        return {**roles, "additional_special_tokens": list(self._extra)} if self._extra else roles

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a role."""
        return list(self._extra)

    additional_special_tokens = extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: those with a role in the order of the attributes, then the others."""
        roles = [token for name in NAMES if (token := self._roles.get(name)) is not None]
        return list(dict.fromkeys([*roles, *self._named.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`, in their order."""
        ids = (self._engine.rust.token_to_id(token) for token in self.all_special_tokens)
        return [id for id in ids if id is not None]

    def add_tokens(
        self, new_tokens: "str | AddedToken | Iterable[str | AddedToken]", special_tokens: bool = False
    ) -> int:
        """Add tokens to the vocabulary; texts are split around them before anything else happens.

        Grow the model's embedding to `len(tokenizer)` afterwards.

        Args:
            new_tokens: one token or several.
            special_tokens: whether `decode(skip_special_tokens=True)` leaves them out.

        Returns:
            How many were new.

        Raises:
            InputError: if something is not a token.
        """
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        return self._add([as_added_token(token, special=special_tokens) for token in tokens])

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Give roles to tokens, adding those that the vocabulary lacks.

        Args:
            special_tokens_dict: `{"pad_token": "<pad>"}` and so on; "additional_special_tokens" or
                "extra_special_tokens" for a list of tokens without a role.
            replace_extra_special_tokens: whether that list replaces the former one, or extends it.

        Returns:
            How many were new.

        Raises:
            InputError: if a role does not exist, or something is not a token.
        """
        roles: dict[str, str | None] = {}
        extra: list[AddedToken] = []
        known = [*NAMES, "additional_special_tokens", "extra_special_tokens"]
        for name, value in special_tokens_dict.items():
            if name not in known:
                raise InputError(
                    f"there is no special token {name!r}{did_you_mean(name, known) or '.'} Known: {', '.join(known)}."
                )
            if name in NAMES:
                roles[name] = as_added_token(value, special=True).content
            else:
                extra += [as_added_token(token, special=True) for token in value]
        given = [as_added_token(special_tokens_dict[name], special=True) for name in roles]
        added = self._add([*given, *extra])
        self._roles = {**self._roles, **roles}
        if extra:
            kept = [] if replace_extra_special_tokens else self._extra
            self._extra = list(dict.fromkeys([*kept, *(token.content for token in extra)]))
        return added

    def _add(self, tokens: list[AddedToken]) -> int:
        """Put tokens into the vocabulary in one step, for threads that are encoding at this moment."""
        with _ADDING:
            self._engine, added = self._engine.with_tokens(tokens)
        return added


def named_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens that a model has under names of its own, from all the places where files have them."""
    own = {
        name: token
        for name, token in settings.items()
        if name.endswith("_token") and name not in NAMES
        if isinstance(token, (str, AddedToken)) or (isinstance(token, Mapping) and "content" in token)
    }
    places = (settings.get("extra_special_tokens"), settings.get("model_specific_special_tokens"))
    return {**own, **{name: token for place in places if isinstance(place, Mapping) for name, token in place.items()}}


def as_added_token(token: Any, *, special: bool) -> AddedToken:
    """Read a token as files and users write it: a string, an object with `content`, or an `AddedToken`.

    Raises:
        InputError: if it is none of these, or empty.
    """
    if isinstance(token, AddedToken):
        flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
        return AddedToken(token.content, special=token.special or special, **flags)
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    if isinstance(token, Mapping) and isinstance(token.get("content"), str):
        flags = {name: bool(token[name]) for name in ("lstrip", "rstrip", "single_word", "normalized") if name in token}
        special = bool(token.get("special", special))
        return AddedToken(token["content"], special=special, **{"normalized": not special, **flags})
    raise InputError(f"{token!r} is not a token. Expected a string or an AddedToken.")


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with special tokens as strings."""
    roles = {name: as_added_token(settings[name], special=True).content for name in NAMES if settings.get(name)}
    return {**settings, **roles}


def with_listed_tokens(engine: Engine, folder: Folder, settings: Mapping[str, Any]) -> Engine:
    """Add the tokens that files beside the vocabulary list and it lacks, at the ids that they give."""
    listed: dict[int, AddedToken] = {}
    try:
        if "added_tokens.json" in folder:
            special = {plain(settings).get(name) for name in NAMES}
            for content, id in folder.read_json("added_tokens.json").items():
                listed[int(id)] = as_added_token(content, special=content in special)
        for id, token in settings.get("added_tokens_decoder", {}).items():
            listed[int(id)] = as_added_token(token, special=False)
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{folder.path}: the list of added tokens is broken: {error}") from None
    known = {token.content for token in engine.rust.get_added_tokens_decoder().values()}
    missing = {id: token for id, token in sorted(listed.items()) if token.content not in known}
    if not missing:
        return engine
    engine, _ = engine.with_tokens(list(missing.values()))
    for id, token in missing.items():
        actual = engine.rust.token_to_id(token.content)
        if actual != id:
            raise TokenizerError(
                f"{folder.path}: the added token {token.content!r} should have the id {id}, but the vocabulary gives "
                f"it {actual}. The files do not belong together."
            )
    return engine
