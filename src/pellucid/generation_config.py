"""What generation_config.json says: how a model writes when nobody says otherwise."""

import dataclasses
import functools
import json
import math
import numbers
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from .config import Config, shorten
from .errors import ConfigError, InputError, did_you_mean, refuse_unknown
from .folder import Folder, rewrite
from .hub import HubOptions, locate

FILE = "generation_config.json"
# The settings that only sampling reads, each at the value at which it does nothing.
SAMPLING = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# What beam search reads, likewise.
BEAMS = {"length_penalty": 1.0, "early_stopping": False, "num_beam_groups": 1, "diversity_penalty": 0.0}


@dataclass(kw_only=True)
class GenerationConfig:
    """How to write. None stands for what nobody has said; `value` gives what then holds.

    Attributes:
        max_new_tokens: how many tokens to write at most; by default until the model's context is full.
        max_length: the same, with the prompt's tokens counted; `max_new_tokens` beats it.
        min_new_tokens: how many to write at least.
        min_length: the same, with the prompt's tokens counted.
        max_time: seconds after which no further token is begun.
        stop_strings: texts after which to stop; they need `tokenizer`.
        do_sample: whether to draw tokens by their probability, instead of taking the likeliest.
        num_beams: how many continuations beam search follows at once.
        num_beam_groups: into how many groups beams are divided that avoid each other's tokens.
        diversity_penalty: what a token costs that an earlier group has just taken.
        num_return_sequences: how many continuations a prompt.
        early_stopping: when beam search ends: True as soon as there are `num_beams` finished ones, False when better
            ones are unlikely, "never" when they are impossible.
        length_penalty: the power of the length by which a beam's score is divided.
        temperature: by which scores are divided before drawing; 0 for the likeliest token.
        top_k: how many of the likeliest tokens may be drawn; 0 for all.
        top_p: the probability that those which may be drawn have together.
        min_p: how likely a token must be, as a share of the likeliest.
        typical_p: the probability of those nearest to the expected surprise, https://arxiv.org/abs/2202.00666.
        epsilon_cutoff: how likely a token must be, https://arxiv.org/abs/2210.15191.
        eta_cutoff: the same, lower where nothing is likely.
        repetition_penalty: by which scores of tokens that were there are divided, https://arxiv.org/abs/1909.05858.
        encoder_repetition_penalty: by which scores of tokens that are not in the prompt are divided.
        no_repeat_ngram_size: the length of sequences that may not come twice.
        encoder_no_repeat_ngram_size: the length of sequences of the prompt that may not come again.
        bad_words_ids: sequences of ids that may not come.
        sequence_bias: what is added to the score of a sequence's last token: {(1, 2): -5.0}.
        suppress_tokens: ids that may not come.
        begin_suppress_tokens: ids that may not come first.
        forced_bos_token_id: the first token.
        forced_eos_token_id: the last token, when the length is reached.
        exponential_decay_length_penalty: (start, factor): how soon and fast the end becomes likelier.
        guidance_scale: how far to move away from what `negative_prompt_ids` would give, above 1.
        penalty_alpha: how much contrastive search avoids what is like the text so far, 0 to 1.
        renormalize_logits: whether scores are log-probabilities again after all changes.
        remove_invalid_values: whether NaN scores become 0 and infinite ones finite, instead of an error.
        prompt_lookup_num_tokens: how many tokens to guess at once from what follows the same words in the prompt.
        max_matching_ngram_size: how many tokens have to be the same for that, at most.
        num_assistant_tokens: how many tokens the assistant model guesses at once.
        use_cache: whether what was read is kept.
        cache_implementation: "dynamic", "static" or "sliding_window"; what a file calls otherwise is one of these, too.
        return_dict_in_generate: whether to return more than the ids.
        output_scores: whether to return scores as they were chosen by.
        output_logits: whether to return scores as the model gave them.
        output_attentions: whether to return attention weights.
        output_hidden_states: whether to return hidden states.
        pad_token_id: fills up the rows of a batch that end early; `eos_token_id` by default.
        bos_token_id: stands for an empty prompt.
        eos_token_id: ends a text; one, or several.
        decoder_start_token_id: the first token of a decoder beside an encoder.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int | None = None
    max_time: float | None = None
    stop_strings: str | list[str] | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    num_beam_groups: int | None = None
    diversity_penalty: float | None = None
    num_return_sequences: int | None = None
    early_stopping: bool | str | None = None
    length_penalty: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    encoder_repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: list[list[int]] | None = None
    sequence_bias: Any = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    exponential_decay_length_penalty: Any = None
    guidance_scale: float | None = None
    penalty_alpha: float | None = None
    renormalize_logits: bool | None = None
    remove_invalid_values: bool | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    num_assistant_tokens: int | None = None
    use_cache: bool | None = None
    cache_implementation: str | None = None
    return_dict_in_generate: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __new__(cls, **settings: Any) -> Self:
        """Refuse what is no setting."""
        refuse_unknown(cls.__name__, settings, cls.names())
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in (*self.names(), "_extra", "_is_open") and name not in self._extra:
            hint = did_you_mean(name, self.names()) or "."
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}{hint}")
        object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        self._extra: dict[str, Any] = {}  # keys of the file that are no fields
        self._is_open = False  # whether what config.json says about writing counts, too
        if faults := list(self.faults()):
            raise InputError(f"{'; '.join(faults)}.")

    @classmethod
    @functools.cache
    def names(cls) -> tuple[str, ...]:
        """Return the names of the settings."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def said(self) -> dict[str, Any]:
        """Return what somebody has said."""
        return {name: value for name in self.names() if (value := getattr(self, name)) is not None}

    def value(self, name: str) -> Any:
        """Return a setting, or what holds when nobody has said it."""
        said = getattr(self, name)
        return said if said is not None else DEFAULTS.get(name)

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text."""
        return [] if self.eos_token_id is None else list(leaves(self.eos_token_id))

    def over(self, other: "GenerationConfig") -> "GenerationConfig":
        """Return what this one says, and where it says nothing the other."""
        return GenerationConfig(**(other.said() | self.said()))

    @classmethod
    def unsaid(cls) -> Self:
        """Return the settings of a model without a generation_config.json, for which config.json speaks."""
        config = cls()
        config._is_open = True
        return config

    def beside(self, config: Config) -> "GenerationConfig":
        """Return all that holds for a model of this config.

        Older folders have all in config.json. A generation_config.json, or settings that somebody gives a model, take
        the place of that, but for the ids of tokens that they leave out.
        """
        said = GenerationConfig.from_model_config(config)
        return self.over(said if self._is_open else GenerationConfig(**{name: getattr(said, name) for name in IDS}))

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each setting that is impossible."""
        for name, (least, kind) in LIMITS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not _is_number(value) or not value >= least or (kind is int and value % 1 != 0):
                whole = "a whole number" if kind is int else "a number"
                yield f"{name} is {shorten(value)}; expected {whole}" + f", {least} or more" * (least > -math.inf)
        for name in ("top_p", "typical_p", "min_p", "penalty_alpha", "epsilon_cutoff", "eta_cutoff"):
            value = getattr(self, name)
            if _is_number(value) and value > 1:
                yield f"{name} is {value}; expected at most 1"
        if self.early_stopping not in (None, True, False, "never"):
            yield f"early_stopping is {shorten(self.early_stopping)}; expected True, False or 'never'"
        for name in FLAGS:
            if (value := getattr(self, name)) not in (None, True, False):
                yield f"{name} is {shorten(value)}; expected True or False"
        for name in TOKENS:
            ids = list(leaves(getattr(self, name)))
            if wrong := [id for id in ids if not isinstance(id, numbers.Integral) or isinstance(id, bool)]:
                yield f"{name} holds {shorten(wrong[0])}; expected ids of tokens, which are whole numbers"
        words = self.bad_words_ids
        if words and not (isinstance(words, list) and all(isinstance(word, list | tuple) and word for word in words)):
            yield f"bad_words_ids is {shorten(words)}; expected a list of words, [[1], [2, 3]], each a list of ids"

    # --- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = FILE) -> Self:
        """Build from the content of a generation_config.json; keys that are no settings are kept."""
        known = set(cls.names())
        try:
            config = cls(**{name: value for name, value in values.items() if name in known})
        except InputError as error:
            raise ConfigError(f"{where}: {error}") from None
        config._extra = {name: value for name, value in values.items() if name not in known}
        return config

    @classmethod
    def from_folder(cls, folder: Folder) -> Self:
        """Read generation_config.json of an open folder; all is unsaid where there is none."""
        if FILE not in folder:
            return cls.unsaid()
        return cls.from_dict(folder.read_json(FILE), where=f"{folder.path}/{FILE}")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options: Any) -> Self:
        """Read generation_config.json of a folder or a model on the Hub; further keywords are settings."""
        hub = HubOptions.take(options)
        refuse_unknown("GenerationConfig.from_pretrained", options, cls.names())
        with locate(name, hub, want="weights") as folder:
            config = cls.from_folder(folder)
        return dataclasses.replace(config, **options) if options else config

    @classmethod
    def from_model_config(cls, config: Config) -> Self:
        """Read what config.json says about writing, as older files do."""
        said = {name: getattr(config, name, None) for name in cls.names() if name not in NOT_IN_CONFIG}
        if said["max_length"] == EVERY_LENGTH:
            del said["max_length"]
        return cls.from_dict({name: value for name, value in said.items() if value is not None}, where="config.json")

    def for_file(self, config: Config) -> "GenerationConfig":
        """Return what generation_config.json is to say beside this config, which it keeps from counting."""
        return self.beside(config) if self._is_open and self.said() else self

    def to_dict(self) -> dict[str, Any]:
        """Return what generation_config.json will hold."""
        return self._extra | self.said()

    def to_json_string(self) -> str:
        """Return generation_config.json as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write generation_config.json into a folder, all or nothing."""
        with rewrite(path) as staging:
            (staging / FILE).write_text(self.to_json_string(), encoding="utf-8")


def _is_number(value: Any) -> bool:
    """Tell whether something is a number, such as one of NumPy; NaN is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value


def leaves(value: Any) -> Iterator[Any]:
    """Yield what lists, tuples and tensors, which may be nested, hold in the end; nothing for None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield value


DEFAULTS: dict[str, Any] = {
    **SAMPLING,
    **BEAMS,
    "top_k": 50,
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "use_cache": True,
    "num_assistant_tokens": 8,
    "max_matching_ngram_size": 2,
}
LIMITS: dict[str, tuple[float, type]] = {  # the least value, and whether it is a whole number
    "max_new_tokens": (1, int),
    "max_length": (1, int),
    "min_new_tokens": (0, int),
    "min_length": (0, int),
    "max_time": (0, float),
    "num_beams": (1, int),
    "num_beam_groups": (1, int),
    "diversity_penalty": (0, float),
    "num_return_sequences": (1, int),
    "temperature": (0, float),
    "top_k": (0, int),
    "top_p": (0, float),
    "min_p": (0, float),
    "typical_p": (0, float),
    "epsilon_cutoff": (0, float),
    "eta_cutoff": (0, float),
    "penalty_alpha": (0, float),
    "repetition_penalty": (1e-9, float),
    "encoder_repetition_penalty": (1e-9, float),
    "no_repeat_ngram_size": (0, int),
    "encoder_no_repeat_ngram_size": (0, int),
    "prompt_lookup_num_tokens": (1, int),
    "max_matching_ngram_size": (1, int),
    "num_assistant_tokens": (1, int),
    "length_penalty": (-math.inf, float),
    "guidance_scale": (-math.inf, float),
}
FLAGS = (
    *("do_sample", "renormalize_logits", "remove_invalid_values", "use_cache", "return_dict_in_generate"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
)
CHOSEN = ("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids")
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
TOKENS = (*IDS, *CHOSEN)
# Fields of a model's config of the same names that say something else.
NOT_IN_CONFIG = frozenset({"use_cache", "output_attentions", "output_hidden_states", "output_scores"})
EVERY_LENGTH = 20  # the max_length that config.json once had for all models, of those that write nothing, too
