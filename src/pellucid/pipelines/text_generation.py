"""Text generation: what a model writes after a text, or answers in a conversation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from ..cache import Cache
from ..errors import InputError
from ..generation import GenerateOutput, GenerationConfig, Stream, stream
from ..generation.batches import can_share, write_each
from ..generation.prompt import is_conversation, prompt_ids
from ..generation.request import context_of
from ..generation.structured import KINDS
from ..generation_config import BEAMS, SAMPLING
from ..outputs import ModelOutput
from .base import Pipeline
from .windows import Piece

# What holds when neither a call nor generation_config.json says anything.
NEW_TOKENS, TEMPERATURE = 256, 0.7
# Settings of `generate` that speak of what it returns, which a pipeline decides.
RETURNED = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
SETTINGS = [name for name in GenerationConfig.names() if name not in RETURNED]
PARTS = [
    *("generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model"),
    *("negative_prompt_ids", "seed", *KINDS),
]
# Those that are for one text, or for what a call knows of the whole batch.
ALONE = (
    *("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model", "negative_prompt_ids"),
    "prompt_lookup_num_tokens",
)


class TextGenerationPipeline(Pipeline):
    """Writes on: `[{"generated_text"}]` for a text, with the text before what is new; a list of such lists for a list.

    A conversation, a list of messages `{"role", "content"}`, is answered: "generated_text" is the conversation with the
    answer as its last message. What counts, in this order: what a call says, what the pipeline was built with,
    generation_config.json, and else 256 new tokens, drawn with a temperature of 0.7.

    Options:
        return_full_text: whether to give the prompt, too; True by default.
        return_tensors: whether to give "generated_token_ids", those of the prompt and of what is new, instead of text.
        return_text: accepted; text is what there is without `return_tensors`.
        prefix: a text that is read before the prompt, and not shown.
        truncation: whether to read only the last tokens of a prompt that is too long, as many as leave room for what
            will be written; an error by default.
        handle_long_generation: "hole" for the same.
        stop_sequence: another name of `stop_strings`, after which to stop; they are the end of the text.
        skip_special_tokens: whether to leave special tokens out of the text; True by default.
        clean_up_tokenization_spaces: as in `Tokenizer.decode`.
        add_special_tokens: whether to put the model's special tokens around a text.
        continue_final_message: whether to go on with the last message; by default where it is the assistant's.
        tools, documents: as in `Tokenizer.apply_chat_template`.
        tokenizer_encode_kwargs: further arguments of `apply_chat_template`, such as {"enable_thinking": False}.
        schema, regex, choices, grammar: the form that the new text must have.
        max_new_tokens, do_sample, ...: all that `generate` takes.
    """

    task = "text-generation"
    side_by_side = False  # all draw from the same source of chance, in order
    options = {
        "return_full_text": None,
        "return_tensors": False,
        "return_text": None,
        "prefix": "",
        "truncation": False,
        "handle_long_generation": None,
        "stop_sequence": None,
        "skip_special_tokens": True,
        "clean_up_tokenization_spaces": None,
        "add_special_tokens": True,
        "continue_final_message": None,
        "tools": None,
        "documents": None,
        "tokenizer_encode_kwargs": None,
        **dict.fromkeys([*SETTINGS, *PARTS]),
    }

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        if "cache" not in model.accepts:
            raise InputError(f"{type(model).__name__} can not write: it does not predict the next token.")

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the values, and drop defaults that would contradict what is given."""
        idle = []
        if given.get("max_length") is not None:
            idle.append("max_new_tokens")
        if given.get("do_sample") is False or given.get("temperature") == 0:
            idle += SAMPLING
        if given.get("num_beams") == 1:
            idle += BEAMS
        settings = super().read_options({n: None if n in idle else x for n, x in defaults.items()}, given)
        if (way := settings["handle_long_generation"]) not in (None, "hole"):
            raise InputError(f"handle_long_generation is {way!r}; expected 'hole' or None.")
        if settings["return_text"] and settings["return_tensors"]:
            raise InputError("return_text and return_tensors exclude each other; give one of them.")
        GenerationConfig(**{name: settings[name] for name in SETTINGS})  # impossible values raise before the first text
        if any(settings[name] is not None for name in ALONE):
            settings["batch_size"] = 1
        return settings

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """A text, or a conversation."""
        return isinstance(inputs, str) or is_conversation(inputs)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Accept what there is at least one token of to begin with."""
        place = where[0].upper() + where[1:]
        if not self.is_one(item, settings):
            raise InputError(
                f"{place} is {item!r:.60} ({type(item).__name__}); expected a text (str), or a conversation: a list of "
                "messages {'role': ..., 'content': ...}."
            )
        if item == "" and not self._ids(item, settings):
            raise InputError(f"{place} is empty, and this model has no token to begin a text with; give it a word.")

    # --- the three steps ----------------------------------------------------------------------------------------------

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Turn a text or a conversation into ids, all of them or, where they are too many, the last."""
        options = self.defaults | options
        self.check(item, "the input", options)
        ids, config = self._ids(item, options), self._resolved(options)[1]
        cut = options["truncation"] or options["handle_long_generation"]
        kept = self._last(ids, config, options["max_new_tokens"] is not None) if cut else ids
        limit = context_of(self.model.config)
        if limit is not None and len(kept) > limit:
            raise InputError(
                f"The prompt {item!r:.60} has {len(kept)} tokens, this model reads {limit}; with truncation=True only "
                "the last ones are read."
            )
        end = config.max_length or len(kept) + (config.max_new_tokens or 0)
        cost = end * max(config.value("num_return_sequences"), config.value("num_beams"))
        return [{"input_ids": kept, "item": item, "left_out": len(ids) - len(kept), "cost": cost}]

    def forward(self, pieces: list[Piece], **options: Any) -> GenerateOutput:
        """Let the model write after all pieces at once, padded on the left."""
        rows = [piece["input_ids"] for piece in pieces]
        longest, device = max(map(len, rows)), self.model.device
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        told = self.told(self.defaults | options)
        with torch.inference_mode():
            return self.model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **told)

    def stream(self, item: Any, **options: Any) -> Stream:
        """Write after one text or conversation, and give each piece of new text as soon as it is certain.

        Nothing runs between two pieces, in no thread: when the loop is left, the work has ended. Stop strings are left
        out.

        Raises:
            InputError: for beams and several continuations, too.
        """
        settings = self.read_options(self.defaults, options)
        (piece,) = self.preprocess(item, **settings)
        return self.forward_stream(piece, **settings)

    def forward_stream(self, piece: Piece, *, cache: Cache | None = None, **options: Any) -> Stream:
        """Let the model write after a piece; give each piece of new text as soon as it is certain.

        Args:
            piece: from `preprocess`.
            cache: of tokens with which the piece begins, which are not read again.
            options: of the task.
        """
        ids = torch.tensor([piece["input_ids"]], device=self.model.device)
        told = self.told(self.defaults | options)
        return stream(self.model, ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **told)

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[list[list[int]]]:
        """The ids that were written, for each continuation of each piece."""
        start = max(len(piece["input_ids"]) for piece in pieces)
        rows = output["sequences"][:, start:].tolist()
        new = [row[:count] for row, count in zip(rows, output["written"], strict=True)]
        each = len(new) // len(pieces)
        return [new[i : i + each] for i in range(0, len(new), each)]

    def postprocess(self, pieces: list[Piece], rows: list[Any], **options: Any) -> list[dict[str, Any]]:
        """Turn ids into text, or conversations with the answer."""
        options = self.defaults | options
        (piece,), (answers,) = pieces, rows
        ids = piece["input_ids"]
        if options["return_tensors"]:
            return [{"generated_token_ids": ids + answer} for answer in answers]
        before = len(self._text(ids, options))  # of what is new, a first space is part, which alone would be left out
        texts = [self._text(ids + answer, options)[before:] for answer in answers]
        return [{"generated_text": _shown(piece["item"], text, options)} for text in texts]

    def _run(self, items: Iterable[Any], settings: dict[str, Any], tell: Callable[[int], Any]) -> Iterator[Any]:
        """Answer every item in order; where a text has ended, the next begins beside the others."""
        one = settings["batch_size"] == 1 or (isinstance(items, list) and len(items) == 1)
        if one or not can_share(self.model, self._resolved(settings)[1]):
            yield from super()._run(items, settings, tell)
            return
        pieces: list[Piece] = []  # that have been read but not answered

        def prompts() -> Iterator[list[int]]:
            for item in items:
                pieces.extend(self.preprocess(item, **settings))
                yield pieces[-1]["input_ids"]

        for output in write_each(self.model, prompts(), rows=settings["batch_size"], **self.told(settings)):
            piece = [pieces.pop(0)]
            tell(1)
            yield self.postprocess(piece, self.rows(output, piece), **settings)

    # --- what they are made of ----------------------------------------------------------------------------------------

    def told(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what `generate` is told."""
        return self._resolved(options)[0] | {"tokenizer": self.tokenizer}

    def _resolved(self, options: dict[str, Any]) -> tuple[dict[str, Any], GenerationConfig]:
        """Return what `generate` is told, and all that then holds.

        It is told what was asked for, and a default where generation_config.json has none.
        """
        told = {name: options[name] for name in (*SETTINGS, *PARTS) if options[name] is not None}
        if options["stop_sequence"] is not None:
            stops = (options["stop_sequence"], told.get("stop_strings", []))
            told["stop_strings"] = [stop for part in stops for stop in ([part] if isinstance(part, str) else part)]
        explicit = GenerationConfig(**{name: value for name, value in told.items() if name in SETTINGS})
        explicit = explicit.over(told.get("generation_config") or GenerationConfig())
        config = explicit.over(self.model.generation_config.beside(self.model.config))
        if explicit.max_new_tokens is None and explicit.max_length is not None:
            config.max_new_tokens = None
        elif config.max_new_tokens is None and config.max_length is None:
            told["max_new_tokens"] = config.max_new_tokens = NEW_TOKENS
        if config.max_new_tokens is not None:
            config.max_length = None
        if config.penalty_alpha is None and config.value("num_beam_groups") == 1:  # what these take is never drawn
            if config.do_sample is None:
                told["do_sample"] = config.do_sample = True
            if config.do_sample and config.temperature is None:
                told["temperature"] = config.temperature = TEMPERATURE
        return told, config

    def _ids(self, item: Any, options: dict[str, Any]) -> list[int]:
        """Return the ids of a prompt; empty if there is nothing to begin a text with."""
        if is_conversation(item):
            template = {name: options[name] for name in ("tools", "documents")}
            template |= {"continue_final_message": _goes_on(item, options)} | (options["tokenizer_encode_kwargs"] or {})
            return prompt_ids(self.tokenizer, item, **template)
        text = f"{options['prefix'] or ''}{item}"
        ids = prompt_ids(self.tokenizer, text, add_special_tokens=options["add_special_tokens"])
        return ids or [id for id in (self._bos,) if id is not None]

    @property
    def _bos(self) -> int | None:
        """The token that begins a text."""
        config = self.model.generation_config.beside(self.model.config)
        return self.tokenizer.bos_token_id if config.bos_token_id is None else config.bos_token_id

    def _last(self, ids: list[int], config: GenerationConfig, asked: bool) -> list[int]:
        """Keep the last tokens, so many that there is room for what will be written; and a token that begins texts.

        Raises:
            InputError: if so many new tokens are asked for that there is no room for a prompt.
        """
        limit = context_of(self.model.config)
        limit = min((length for length in (limit, config.max_length) if length is not None), default=None)
        if limit is None:
            return ids
        new = config.max_new_tokens
        if asked and new is not None and new >= limit:
            raise InputError(f"max_new_tokens is {new}, and this model reads {limit}: no room is left for a prompt.")
        keep = limit - (new if new is not None and new < limit else limit // 2)
        if len(ids) <= keep:
            return ids
        return [ids[0], *ids[len(ids) - keep + 1 :]] if ids[0] == self._bos else ids[-keep:]

    def _text(self, ids: list[int], options: dict[str, Any]) -> str:
        clean = options["clean_up_tokenization_spaces"]
        return self.tokenizer.decode(ids, options["skip_special_tokens"], clean_up_tokenization_spaces=clean)

    def cost(self, piece: Piece) -> int:
        """Count what will be written, too."""
        return piece["cost"]

    def rows_of_trace(
        self, output: ModelOutput, pieces: list[Piece], settings: dict[str, Any]
    ) -> list[list[list[int]]]:
        """Write, after the prompts were read."""
        return [row for piece in pieces for row in self.rows(self.forward([piece], **settings), [piece])]

    def note(self, groups: list[list[Piece]]) -> str:
        """Say of how many prompts not all is read."""
        long = sum(piece["left_out"] > 0 for group in groups for piece in group)
        return f"of {long} long prompt(s) only the last tokens are read" if long else ""


def _goes_on(conversation: Any, options: dict[str, Any]) -> bool | str:
    """Return whether the last message is to be gone on with, or the field of it that is."""
    goes_on = options["continue_final_message"]
    return conversation[-1]["role"] == "assistant" if goes_on is None else goes_on


def _shown(item: Any, text: str, options: dict[str, Any]) -> Any:
    """Return the prompt with what is new: one text, or a conversation of one more message."""
    if options["return_full_text"] is False:
        return text
    if isinstance(item, str):
        return item + text
    goes_on = _goes_on(item, options)
    if not goes_on:
        return [*item, {"role": "assistant", "content": text}]
    field = goes_on if isinstance(goes_on, str) else "content"
    before = item[-1].get(field) or ""
    content = before + text if isinstance(before, str) else [*before, {"type": "text", "text": text}]
    return [*item[:-1], {**item[-1], field: content}]
