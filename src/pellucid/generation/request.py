"""`Request`: what is to be written, with every question answered before the first step."""

import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cache import Cache
from ..config import Config, shorten
from ..errors import ArgumentError, InputError, did_you_mean
from ..generation_config import BEAMS, CHOSEN, SAMPLING, GenerationConfig, leaves
from ..model import Model
from . import processors as p
from .stopping import Criterion, MaxTime, StopStrings
from .structured import Constraint
from .target import begin_target, source_history

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

FALLBACK_CONTEXT = 2048  # tokens, for models that have no limit and for which nobody has said one


@dataclass
class Request:
    """Prompts and how to go on with them.

    Attributes:
        model: that writes.
        config: the settings; what nobody has said is None.
        given: the prompts as they came, (B, P); with embeddings instead of ids, (B, 0).
        ids: the prompts with all padding on the left, which is 0, (B, P).
        keep: (B, P), true on real tokens; None when nothing is padded.
        inputs: further inputs of the model's first step, by name.
        cache: of what was read before.
        processors: that change scores, in order.
        sampling: those that come after the user's own.
        own: the user's processors.
        criteria: that say when a row is done.
        room: how many tokens each prompt may be continued by, (B,).
        constraint: the form that the text must have; the last of the processors.
        generator: of random numbers; None for torch's own.
        pad: fills up rows that end early.
    """

    model: Model
    config: GenerationConfig
    given: Tensor
    ids: Tensor
    keep: Tensor | None
    inputs: dict[str, Any]
    cache: Cache | None
    room: Tensor
    pad: int
    criteria: list[Criterion] = field(default_factory=list)
    processors: list[p.Processor] = field(default_factory=list)
    own: list[p.Processor] = field(default_factory=list)
    sampling: list[p.Processor] = field(default_factory=list)
    constraint: Constraint | None = None
    generator: torch.Generator | None = None

    def says(self, name: str) -> Any:
        """Return a setting, or what holds when nobody has said it."""
        return self.config.value(name)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; a temperature of 0 is another way to say no."""
        return bool(self.says("do_sample")) and self.says("temperature") != 0

    @property
    def rows(self) -> int:
        """How many rows each prompt has while it is written."""
        return max(self.says("num_beams"), self.says("num_return_sequences"))

    @property
    def changes_scores(self) -> bool:
        """Whether anything changes scores, and so can forbid all tokens."""
        return bool(self.processors or self.own or self.sampling)

    def history(self) -> Tensor:
        """Return each row's prompt with -1 for padding, (R, P)."""
        ids = self.ids if self.keep is None else torch.where(self.keep, self.ids, -1)
        return ids.repeat_interleave(self.rows, dim=0)

    def score(self, history: Tensor, text: Tensor, scores: Tensor) -> Tensor:
        """Run the processors over scores, (R, V).

        Args:
            history: what each row has, with -1 for padding.
            text: the same, as it came.
            scores: of the next token.
        """
        for processor in self.processors:
            scores = processor(history, scores)
        for processor in self.own:
            shape, scores = scores.shape, processor(text, scores)
            if not isinstance(scores, Tensor) or scores.shape != shape:
                found = f"scores of {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
                raise InputError(f"The logits_processor {processor!r:.80} returned {found}; expected {tuple(shape)}.")
        for processor in self.sampling:
            scores = processor(history, scores)
        return scores

    def check(self, written: Tensor) -> None:
        """Raise unless every row has the form that was asked for.

        Args:
            written: (R, n) ids, -1 where a row had ended.
        """
        if self.constraint is not None:
            self.constraint.check([[id for id in row if id >= 0] for row in written.tolist()])

    def is_done(self, text: Tensor, scores: Tensor) -> Tensor:
        """Tell which rows a criterion ends, (R,)."""
        done = torch.zeros(len(text), dtype=torch.bool, device=text.device)
        for criterion in self.criteria:
            done = done | torch.as_tensor(criterion(text, scores), dtype=torch.bool, device=text.device)
        return done


def prepare(
    model: Model,
    inputs: Tensor | None,
    config: GenerationConfig | None,
    options: dict[str, Any],
    *,
    tokenizer: "Tokenizer | None" = None,
    logits_processor: Sequence[p.Processor] | None = None,
    stopping_criteria: Sequence[Criterion] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    seed: int | None = None,
    ahead: bool = False,
) -> Request:
    """Check a request and fill in what it leaves open; the arguments are those of `generate`.

    `ahead` says whether somebody guesses ahead.

    Raises:
        InputError: for settings that are impossible or contradict each other, and prompts that do not fit.
        ArgumentError: for a keyword that is neither a setting nor an input of the model.
    """
    if not {"cache", "logits_to_keep"} <= set(getattr(model, "accepts", ())):
        raise InputError(
            f"{type(model).__name__} can not write: it does not predict the next token; load the checkpoint with "
            "AutoModelForCausalLM, or AutoModelForSeq2SeqLM."
        )
    settings, model_inputs = _split(model, options)
    explicit, resolved = _settle(model, settings, config, ahead)
    source: dict[str, Any] = {}
    if model.source_stack:
        inputs, model_inputs, source = begin_target(model, inputs, model_inputs, resolved)
    given, mask, model_inputs = _prompt(model, inputs, model_inputs, resolved)
    ids, keep, model_inputs, length = _to_the_right(given, mask, model_inputs)
    cache = _cache(model_inputs.pop("past_key_values", None), model_inputs.pop("cache", None))
    pad = next(id for id in (resolved.pad_token_id, *resolved.eos_ids, 0) if id is not None and id >= 0)
    request = Request(
        model, resolved, given, ids, keep, model_inputs | source, cache, _room(model, explicit, resolved, length), pad
    )
    history, rows = request.history(), request.rows
    limits = (length + request.room).repeat_interleave(rows)[:, None]
    prefix = None if prefix_allowed_tokens_fn is None else p.PrefixAllowed(prefix_allowed_tokens_fn, rows)
    read = source_history(source, rows) if source else None
    request.processors = p.build(resolved, history, limits, prefix, read)
    request.own = _calls("logits_processor", logits_processor)
    request.sampling = p.build_sampling(resolved) if request.samples else []
    if resolved.renormalize_logits:
        request.sampling.append(p.renormalize)
    request.criteria = _criteria(resolved, tokenizer, given.shape[1])
    request.criteria += _calls("stopping_criteria", stopping_criteria)
    if seed is not None:
        if not isinstance(seed, numbers.Integral) or not -(2**63) <= seed < 2**64:
            raise InputError(f"seed is {shorten(seed)}; expected a whole number of 64 bits.")
        request.generator = torch.Generator(device=given.device).manual_seed(int(seed))
    return request


def _calls(name: str, given: Any) -> list[Any]:
    if not isinstance(given, Iterable | None):
        raise InputError(f"{name} is a {type(given).__name__}; expected a list of them.")
    return list(given or [])


def _cache(*given: Any) -> Cache | None:
    """Return the cache that is given under one of its names."""
    found = [cache for cache in given if cache is not None]
    if len(found) > 1 or not all(isinstance(cache, Cache) for cache in found):
        kinds = " and a ".join(type(cache).__name__ for cache in found)
        raise InputError(f"past_key_values is a {kinds}; expected one pellucid.Cache, as a call returns it.")
    return found[0] if found else None


def _split(model: Model, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell settings from inputs of the model."""
    names = GenerationConfig.names()
    settings = {name: value for name, value in options.items() if name in names}
    inputs = {name: value for name, value in options.items() if name not in names and value is not None}
    known = [*names, *(name for name in model.accepts if name not in ("labels", "logits_to_keep")), "past_key_values"]
    for name in inputs:
        if name not in known:
            raise ArgumentError(
                f"generate has no argument {name!r}{did_you_mean(name, known) or '.'} "
                f"It is no setting, and no input of {type(model).__name__}."
            )
    return settings, inputs


def _settle(
    model: Model, settings: dict[str, Any], config: GenerationConfig | None, ahead: bool
) -> tuple[GenerationConfig, GenerationConfig]:
    """Return what the caller says, and all that holds. A None that is given takes back what others say."""
    if not isinstance(config, GenerationConfig | None):
        raise InputError(f"generation_config is a {type(config).__name__}; expected a pellucid.GenerationConfig.")
    taken_back = dict.fromkeys(name for name, value in settings.items() if value is None)
    explicit = GenerationConfig(**settings)
    explicit = explicit if config is None else explicit.over(replace(config, **taken_back))
    defaults = model.generation_config.beside(model.config)
    resolved = explicit.over(replace(defaults, **taken_back))
    if "top_k" in taken_back:
        resolved.top_k = 0
    _give_way(explicit, resolved, ahead or explicit.prompt_lookup_num_tokens is not None)
    vocabulary = model.config.vocab_size  # of which some files name an end that is not in it
    resolved.eos_token_id = [id for id in resolved.eos_ids if 0 <= id < vocabulary] or None
    _refuse_contradictions(explicit, resolved)
    for name in (*CHOSEN, "sequence_bias"):
        value = getattr(resolved, name)
        ids = leaves([*p.biases(value)] if name == "sequence_bias" and value else value)
        if wrong := [id for id in ids if not 0 <= id < vocabulary]:
            raise InputError(f"{name} holds {wrong[0]}; expected ids of the vocabulary, 0 to {vocabulary - 1}.")
    return explicit, resolved


def _give_way(explicit: GenerationConfig, resolved: GenerationConfig, ahead: bool) -> None:
    """Take back what a file says and the caller's own settings rule out."""

    def take_back(*names: str) -> None:
        for name in names:
            if getattr(explicit, name) is None:
                setattr(resolved, name, None)

    says = resolved.value
    if ahead:
        take_back("penalty_alpha", "num_beams", "cache_implementation")
    if explicit.penalty_alpha is not None:
        take_back("num_beams", "do_sample")
    if says("num_beams") > 1 or says("do_sample"):
        take_back("penalty_alpha")
    if says("num_beams") == 1 or says("num_beams") % says("num_beam_groups") or says("do_sample"):
        take_back("num_beam_groups", "diversity_penalty")
    if says("num_return_sequences") > says("num_beams") and not (says("num_beams") == 1 and says("do_sample")):
        take_back("num_return_sequences")


def _refuse_contradictions(explicit: GenerationConfig, resolved: GenerationConfig) -> None:
    """Refuse what the caller has said and what can not hold; a file's settings that do nothing are left alone."""
    says, faults = resolved.value, []
    idle = [n for n, value in SAMPLING.items() if getattr(explicit, n) not in (None, value)]
    if explicit.temperature == 0:  # another way to say do_sample=False
        idle.remove("temperature")
    if resolved.penalty_alpha is not None and "top_k" in idle:  # which contrastive search reads, too
        idle.remove("top_k")
    if explicit.penalty_alpha is not None and says("do_sample"):
        faults.append("penalty_alpha would do nothing with do_sample=True")
    if explicit.pad_token_id is not None and explicit.pad_token_id < 0:
        faults.append(f"pad_token_id is {explicit.pad_token_id}; expected an id, 0 or more")
    if explicit.cache_implementation not in (None, "dynamic", "static", "sliding_window", "hybrid"):
        kinds = "dynamic, static or sliding_window"
        faults.append(f"cache_implementation is {shorten(explicit.cache_implementation)}; expected {kinds}")
    if idle and not says("do_sample"):
        faults.append(f"{', '.join(idle)} would do nothing without do_sample=True")
    if says("num_beams") == 1:
        idle = [n for n, value in BEAMS.items() if getattr(explicit, n) not in (None, value)]
        if idle:
            faults.append(f"{', '.join(idle)} would do nothing without num_beams above 1")
    if not says("do_sample") and says("num_return_sequences") > says("num_beams"):
        faults.append(
            f"num_return_sequences is {says('num_return_sequences')} with num_beams {says('num_beams')}; "
            "without do_sample=True there are no more different continuations than beams"
        )
    if says("num_beams") > 1 and says("num_return_sequences") > says("num_beams"):
        faults.append(f"num_return_sequences is {says('num_return_sequences')}, num_beams {says('num_beams')}")
    if says("num_beams") % says("num_beam_groups"):
        faults.append(f"num_beams ({says('num_beams')}) is not a multiple of num_beam_groups")
    if says("num_beam_groups") > 1 and says("do_sample"):
        faults.append("groups of beams are not sampled: leave do_sample or num_beam_groups out")
    new, least = explicit.max_new_tokens, explicit.min_new_tokens or 0
    if new is not None and least > new:
        faults.append(f"min_new_tokens is {least}, max_new_tokens {new}")
    if explicit.max_length is not None and (explicit.min_length or 0) > explicit.max_length:
        faults.append(f"min_length is {explicit.min_length}, max_length {explicit.max_length}")
    if faults:
        raise InputError(f"{'; '.join(faults)}.")


def _prompt(
    model: Model, inputs: Tensor | None, given: dict[str, Any], config: GenerationConfig
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Return the prompts' ids, (B, P), their mask, and the model's other inputs."""
    given = dict(given)
    ids, words = given.pop("input_ids", None), given.get("inputs_embeds")
    if ids is not None and inputs is not None:
        raise InputError("The prompt is given twice, as first argument and as input_ids; give one.")
    ids = inputs if ids is None else ids
    if ids is not None and not isinstance(ids, Tensor):
        raise InputError(
            f"The prompt is a {type(ids).__name__}; expected ids, (batch, length): tokenize with return_tensors='pt'."
        )
    if ids is None:
        rows, device = (1, model.device) if words is None else (len(words), words.device)
        ids = torch.zeros(rows, 0, dtype=torch.long, device=device)
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"The prompt is {ids.dtype} of shape {tuple(ids.shape)}; expected ids, (batch, length).")
    ids = ids.long()
    if ids.shape[1] == 0 and words is None:
        if config.bos_token_id is None:
            raise InputError("The prompt is empty and there is no bos_token_id to begin with; give at least one token.")
        ids = ids.new_full((len(ids), 1), config.bos_token_id)
    mask, pad = given.pop("attention_mask", None), config.pad_token_id
    if mask is not None:
        _check_mask(mask, ids if words is None else words)
    elif words is None and not model.source_stack and pad is not None and pad not in config.eos_ids:
        mask = ids != pad if bool((ids == pad).any()) else None  # a target may begin with it
    if mask is not None and not bool(mask.any(dim=1).all()):
        raise InputError("attention_mask is 0 on every token of a prompt; leave the prompt out, or give it a token.")
    if (places := given.pop("position_ids", None)) is not None:
        tokens = ids if words is None else words[..., 0]
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        if places.shape[-1] != real.shape[1] or bool((places != real.cumsum(dim=1) - 1)[real].any()):
            raise InputError(
                "position_ids do not count from each prompt's first real token, as generate does by itself."
            )
    return ids, mask, given


def _check_mask(mask: Any, tokens: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask is a {type(mask).__name__}; expected a tensor, (batch, length).")
    if mask.shape != tokens.shape[:2]:
        raise InputError(f"attention_mask has the shape {tuple(mask.shape)}, the prompt {tuple(tokens.shape[:2])}.")
    if bool((mask.bool() != mask).any()):
        wrong = mask[mask.bool() != mask][0].item()
        raise InputError(f"attention_mask holds {wrong}; expected 1 on real tokens and 0 on padding.")


def _to_the_right(
    ids: Tensor, mask: Tensor | None, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor | None, dict[str, Any], Tensor]:
    """Move each prompt's real tokens to the end of its row, where it goes on.

    Returns:
        Ids; which are real, None for all; the inputs that belong to them; and how many there are, (B,).
    """
    tokens = inputs.get("inputs_embeds", ids)
    if mask is None or bool(mask.all()):
        return ids, None, inputs, ids.new_full((len(ids),), tokens.shape[1])
    order = mask.bool().int().argsort(dim=1, stable=True)
    keep, rows = mask.bool().gather(1, order), torch.arange(len(ids), device=ids.device)[:, None]
    moved = {name: inputs[name][rows, order] for name in ("inputs_embeds", "token_type_ids") if name in inputs}
    if "inputs_embeds" in inputs:
        moved["attention_mask"] = keep.long()
    if ids.shape[1] == 0:
        return ids, None, inputs | moved, keep.sum(dim=1)
    return ids.gather(1, order).masked_fill(~keep, 0), keep, inputs | moved, keep.sum(dim=1)


def limit_of(config: Config) -> int | None:
    """Return how many tokens a model can write, its prompt included; None when there is no limit."""
    return getattr(config, "max_decoder_position_embeddings", None) or config.max_tokens


def context_of(config: Config) -> int | None:
    """Return how many tokens a model was made to write, its prompt included; None when nobody knows."""
    return limit_of(config) or getattr(config, "max_position_embeddings", None)


def _room(model: Model, explicit: GenerationConfig, config: GenerationConfig, length: Tensor) -> Tensor:
    """Return by how many tokens each prompt may be continued, (B,)."""
    longest, hard = int(length.max()) if len(length) else 0, limit_of(model.config)
    if hard is not None and longest > hard:
        raise InputError(
            f"The prompt has {longest} tokens, this model reads {hard}; shorten it, for example by tokenizing "
            f"with truncation=True, max_length={hard}."
        )
    counts = explicit.max_new_tokens is None and explicit.max_length is not None  # max_length, before a file
    limit = config.max_length if counts or config.max_new_tokens is None else None
    if limit is not None and longest >= limit:
        raise InputError(
            f"The prompt has {longest} tokens and max_length is {limit}, which counts them; "
            "pass max_new_tokens instead, or more."
        )
    if limit is not None:
        room = limit - length
    elif config.max_new_tokens is not None:
        room = torch.full_like(length, config.max_new_tokens)
    else:
        room = (context_of(model.config) or FALLBACK_CONTEXT) - length
    if hard is not None:
        room = torch.minimum(room, hard - length)
    if bool((room < 1).any()):
        more = "there is no room to go on" if hard else "pass max_new_tokens to go on regardless"
        raise InputError(f"The prompt has {longest} tokens, all that this model reads; {more}.")
    return room


def _criteria(config: GenerationConfig, tokenizer: "Tokenizer | None", prompt: int) -> list[Criterion]:
    criteria: list[Criterion] = []
    if config.max_time is not None:
        criteria.append(MaxTime(config.max_time))
    strings = [config.stop_strings] if isinstance(config.stop_strings, str) else list(config.stop_strings or [])
    if strings:
        if tokenizer is None:
            raise InputError("stop_strings are looked for in text; pass tokenizer=, too.")
        if not all(isinstance(string, str) and string for string in strings):
            raise InputError(f"stop_strings is {config.stop_strings!r}; expected texts that are not empty.")
        criteria.append(StopStrings(strings, tokenizer, prompt))
    return criteria
