"""Text to text: summaries, translations, and whatever else a model of an encoder and a decoder was trained to write."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..errors import InputError, did_you_mean
from ..generation import GenerateOutput, GenerationConfig, Stream, stream
from ..generation_config import BEAMS, SAMPLING
from ..outputs import ModelOutput
from .base import Pipeline
from .text_generation import ALONE, NEW_TOKENS, PARTS, SETTINGS
from .windows import Piece

LETTERS = 12  # of a token, more than which texts have on average
ENDS = (". ", "! ", "? ", "\n", "。")  # of sentences


class Text2TextGenerationPipeline(Pipeline):
    """Writes a target for each source: `[{"generated_text"}]` for a text, a flat list of dictionaries for a list.

    What counts, in this order: what a call says, what the pipeline was built with, what config.json says of the task
    (`task_specific_params`), generation_config.json, and else at most 256 new tokens.

    Options:
        return_tensors: whether to give "generated_token_ids", those of the target, instead of text.
        return_text: accepted; text is what there is without `return_tensors`.
        clean_up_tokenization_spaces: as in `Tokenizer.decode`.
        truncation: whether to read only the beginning of a source that is too long; an error by default.
        chunk: whether to cut it instead, between sentences where that is possible, and join what is written for each
            part.
        prefix: a text that is read before each source; by default what config.json says of the task.
        stop_sequence: another name of `stop_strings`.
        task_name: under which config.json may say more of the task.
        max_length, num_beams, ...: all that `generate` takes; lengths are those of the target.
    """

    task = "text2text-generation"
    name = "generated"  # what is written
    side_by_side = False  # all draw from the same source of chance, in order
    options = {
        "return_tensors": False,
        "return_text": None,
        "clean_up_tokenization_spaces": None,
        "truncation": False,
        "chunk": False,
        "prefix": None,
        "stop_sequence": None,
        "task_name": None,
        **dict.fromkeys([*SETTINGS, *PARTS]),
    }

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        if not model.source_stack or "cache" not in model.accepts:
            raise InputError(
                f"{type(model).__name__} does not write a target for a source; load it with AutoModelForSeq2SeqLM."
            )

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the values, and drop defaults that would contradict what is given."""
        settings = super().read_options(_without_idle(defaults, given), given)
        if settings["return_text"] and settings["return_tensors"]:
            raise InputError("return_text and return_tensors exclude each other; give one of them.")
        if settings["truncation"] and settings["chunk"]:
            raise InputError("truncation and chunk exclude each other; give one of them.")
        if settings["chunk"] and settings["return_tensors"]:
            raise InputError("chunk joins texts; leave return_tensors out.")
        GenerationConfig(**{name: settings[name] for name in SETTINGS})  # impossible values raise before the first text
        if any(settings[name] is not None for name in ALONE):
            settings["batch_size"] = 1
        return settings

    # --- the three steps ----------------------------------------------------------------------------------------------

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Turn a source into ids, in one piece or, where it is too long and `chunk` says so, in several."""
        options = self.defaults | options
        self.check(item, "the input", options)
        prefix = self.prefix(item, options)
        limit, hard = self.limit, self.model.config.max_tokens
        texts = [item]
        if options["chunk"] and limit is not None:
            own = self.own_prefix(item)
            room = limit - len(self.ids(f"{prefix}{own}", options))
            texts = [f"{own}{part}" for part in self._parts(item[len(own) :], room)]
        cut = {"truncation": True, "max_length": limit} if options["truncation"] and limit is not None else {}
        pieces, config = [], self._resolved(options)[1]
        width = max(config.value("num_return_sequences"), config.value("num_beams"))
        for text in texts:
            ids = self.ids(f"{prefix}{text}", options, **cut)
            if hard is not None and len(ids) > hard:
                raise InputError(
                    f"The source {item!r:.60} has {len(ids)} tokens, this model reads {hard}; with truncation=True "
                    "only the beginning is read, with chunk=True one part after the other."
                )
            if not ids:
                raise InputError("The source is empty, and this model has no token that ends one; give it a word.")
            cost = len(ids) + width * (config.max_new_tokens or config.max_length or NEW_TOKENS)
            pieces.append({"input_ids": ids, "cost": cost, "cut": bool(cut) and len(ids) == limit})
        return pieces

    def forward(self, pieces: list[Piece], **options: Any) -> GenerateOutput:
        """Let the model write a target for every piece."""
        batch = {name: tensor.to(self.model.device) for name, tensor in self._rectangle(pieces).items()}
        told = self.told(self.defaults | options)
        return self.model.generate(**batch, return_dict_in_generate=True, **told)

    def stream(self, item: Any, **options: Any) -> Stream:
        """Write a target, and give each piece of new text as soon as it is certain.

        Nothing runs between two pieces, in no thread: when the loop is left, the work has ended.

        Raises:
            InputError: for beams, several targets and several parts, too.
        """
        settings = self.read_options(self.defaults, options)
        pieces = self.preprocess(item, **settings)
        if len(pieces) > 1:
            raise InputError(f"A stream is one text; there are {len(pieces)} parts. Leave chunk out, or call.")
        batch = {name: tensor.to(self.model.device) for name, tensor in self._rectangle(pieces).items()}
        return stream(self.model, batch.pop("input_ids"), **batch, **self.told(settings))

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[list[list[int]]]:
        """The ids of the targets of each piece, with the token that begins them."""
        sequences, written = output["sequences"].tolist(), output["written"]
        begun = len(sequences[0]) - max(written)
        targets = [row[: begun + count] for row, count in zip(sequences, written, strict=True)]
        each = len(targets) // len(pieces)
        return [targets[i : i + each] for i in range(0, len(targets), each)]

    def postprocess(self, pieces: list[Piece], rows: list[Any], **options: Any) -> list[dict[str, Any]]:
        """Turn ids into text; what was written for parts is joined."""
        options = self.defaults | options
        if options["return_tensors"]:
            return [{f"{self.name}_token_ids": ids} for ids in rows[0]]
        clean = {"clean_up_tokenization_spaces": options["clean_up_tokenization_spaces"]}
        texts = [[self.tokenizer.decode(ids, True, **clean).strip() for ids in targets] for targets in rows]
        return [{f"{self.name}_text": " ".join(parts)} for parts in zip(*texts, strict=True)]

    def many(self, answers: list[Any], settings: dict[str, Any]) -> Any:
        """Give a flat list where each source has one target."""
        flat = all(len(answer) == 1 for answer in answers)
        return [answer[0] for answer in answers] if flat else answers

    # --- what they are made of ----------------------------------------------------------------------------------------

    def ids(self, source: str, options: dict[str, Any], **cut: Any) -> list[int]:
        """Return the ids of a source."""
        return self.tokenizer(source, **cut)["input_ids"]

    def prefix(self, item: str, options: dict[str, Any]) -> str:
        """Return what is read before a source."""
        said = self.of_task(options).get("prefix", getattr(self.model.config, "prefix", None))
        return (said if options["prefix"] is None else options["prefix"]) or ""

    def own_prefix(self, item: str) -> str:
        """Return what a source itself begins with that is none of its text: one of the prefixes in config.json."""
        said = [str(of.get("prefix") or "") for of in self.tasks().values()]
        return max((prefix for prefix in said if item.startswith(prefix)), key=len, default="")

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return what config.json says of tasks, by name."""
        said = getattr(self.model.config, "task_specific_params", None)
        return said if isinstance(said, dict) else {}

    def of_task(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what config.json says of this task."""
        return self.tasks().get(options["task_name"] or self.task) or {}

    def told(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what `generate` is told."""
        return self._resolved(options)[0] | {"tokenizer": self.tokenizer}

    def _resolved(self, options: dict[str, Any]) -> tuple[dict[str, Any], GenerationConfig]:
        """Return what `generate` is told, and all that then holds."""
        given = {name: options[name] for name in (*SETTINGS, *PARTS) if options[name] is not None}
        if options["stop_sequence"] is not None:
            stops = (options["stop_sequence"], given.get("stop_strings", []))
            given["stop_strings"] = [stop for part in stops for stop in ([part] if isinstance(part, str) else part)]
        file = given.get("generation_config") or GenerationConfig()
        said = file.said() | given
        task = {name: value for name, value in self.of_task(options).items() if name in SETTINGS and name not in said}
        told = _without_idle(task, said) | given
        told = {name: value for name, value in told.items() if value is not None}
        explicit = GenerationConfig(**{name: value for name, value in told.items() if name in SETTINGS}).over(file)
        config = explicit.over(self.model.generation_config.beside(self.model.config))
        if config.max_new_tokens is None and config.max_length is None:
            told["max_new_tokens"] = config.max_new_tokens = NEW_TOKENS
        return told, config

    def _parts(self, text: str, room: int) -> Iterator[str]:
        """Cut a text into parts of at most `room` tokens, between sentences or words where that is possible."""
        room -= 2  # a part may be cut differently where it begins and ends
        if room < 1:
            raise InputError(f"No room is left for a source beside the prefix; this model reads {self.limit} tokens.")
        while (end := self._fitting(text[: LETTERS * room], room)) < len(text):
            end = _border(text, end)
            if part := text[:end].strip():
                yield part
            text = text[end:].lstrip()
        yield text

    def _fitting(self, text: str, room: int) -> int:
        """Return how many characters of a text are at most `room` tokens; one at least."""

        def count(end: int) -> int:
            return len(self.tokenizer(text[:end], add_special_tokens=False)["input_ids"])

        return len(text) if count(len(text)) <= room else max(1, bisect_right(range(len(text)), room, key=count) - 1)

    def _rectangle(self, pieces: list[Piece]) -> dict[str, torch.Tensor]:
        """Lay pieces under each other, filled up on the right, with the mask."""
        rows = [piece["input_ids"] for piece in pieces]
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}

    def cost(self, piece: Piece) -> int:
        """Count what will be written, too."""
        return piece["cost"]

    def _padded(self, pieces: list[Piece]) -> dict[str, Any]:
        """Add the token that begins each target, so that a trace shows what the model would write first."""
        config = self.model.generation_config.beside(self.model.config)
        start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        return self._rectangle(pieces) | {"decoder_input_ids": torch.full((len(pieces), 1), start or 0)}

    def rows_of_trace(self, output: ModelOutput, pieces: list[Piece], settings: dict[str, Any]) -> list[Any]:
        """Write, after the sources were read."""
        return [row for piece in pieces for row in self.rows(self.forward([piece], **settings), [piece])]

    def note(self, groups: list[list[Piece]]) -> str:
        """Say of how many sources only the beginning is read, or how many are cut into parts."""
        parts = [len(group) for group in groups if len(group) > 1]
        if parts:
            return f"{len(parts)} long source(s) read in {sum(parts)} parts, one after the other"
        long = sum(piece["cut"] for group in groups for piece in group)
        return f"of {long} long source(s) only the beginning is read" if long else ""


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Summarizes: `[{"summary_text"}]` for a text, a flat list of dictionaries for a list.

    Options: those of `Text2TextGenerationPipeline`; with return_tensors "summary_token_ids".
    """

    task, name = "summarization", "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """Translates: `[{"translation_text"}]` for a text, a flat list of dictionaries for a list.

    The languages are those of the task's name, `translation_en_to_fr`, or of options, where the model has a choice:
    M2M-100, NLLB and mBART know them by codes of their own (`tokenizer.lang_code_to_id`), Marian's models of several
    targets by `tokenizer.supported_language_codes`, and T5 by the tasks of its config.json.

    Options:
        src_lang: the language of the sources.
        tgt_lang: the language to translate into.
        others: those of `Text2TextGenerationPipeline`; with return_tensors "translation_token_ids".
    """

    task, name = "translation", "translation"
    options = Text2TextGenerationPipeline.options | {"src_lang": None, "tgt_lang": None}

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the languages that are given."""
        settings = super().read_options(defaults, given)
        source, target = settings["src_lang"], settings["tgt_lang"]
        if source is None and target is None:
            return settings
        if self.tokenizer.is_multilingual:
            self.tokenizer("", src_lang=source, tgt_lang=target)  # which knows them, or raises
        elif codes := self.tokenizer.supported_language_codes:
            if source is not None:
                raise InputError(
                    f"src_lang is {source!r}, but this model is told only the language to translate into; leave it out."
                )
            if target is not None and (code := f">>{target}<<") not in codes:
                raise InputError(
                    f"tgt_lang is {target!r}, which this model does not write{did_you_mean(code, codes) or '.'} "
                    "tokenizer.supported_language_codes has all."
                )
        elif (wanted := "translation_{}_to_{}".format(*self._languages(settings))) not in self.tasks():
            pairs = [name for name in self.tasks() if name.startswith("translation_")]
            has = f"It has {', '.join(pairs)}." if pairs else "It has no choice of languages; leave them out."
            raise InputError(f"This model has no {wanted}{did_you_mean(wanted, pairs) or '.'} {has}")
        return settings

    def _languages(self, options: dict[str, Any]) -> tuple[str | None, str | None]:
        """Return the languages of an option, else of the task's name, else of the tokenizer, if it was told any."""
        source, between, target = (options["task_name"] or "").removeprefix("translation_").partition("_to_")
        words = self.tokenizer
        told = words.is_multilingual and words.tgt_lang is not None
        usual = (source, target) if between else (words.src_lang, words.tgt_lang) if told else (None, None)
        return options["src_lang"] or usual[0], options["tgt_lang"] or usual[1]

    def of_task(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what config.json says of a translation between two languages."""
        return self.tasks().get("translation_{}_to_{}".format(*self._languages(options))) or super().of_task(options)

    def told(self, options: dict[str, Any]) -> dict[str, Any]:
        """Add the token of the language with which targets begin."""
        told = super().told(options)
        target = self._languages(options)[1]
        if not self.tokenizer.is_multilingual or target is None:
            return told
        return {"forced_bos_token_id": self.tokenizer.get_lang_id(target)} | told

    def ids(self, source: str, options: dict[str, Any], **cut: Any) -> list[int]:
        """Return the ids of a source, beside which the code of its language may stand.

        Raises:
            InputError: if the model translates between many languages, and nothing says which.
        """
        words = self.tokenizer
        if not words.is_multilingual:
            return super().ids(source, options, **cut)
        languages = dict(zip(("src_lang", "tgt_lang"), self._languages(options), strict=True))
        config = self.model.generation_config.beside(self.model.config)
        if options["forced_bos_token_id"] is not None or config.forced_bos_token_id is not None:
            languages.pop("tgt_lang")
        if missing := [name for name, code in languages.items() if code is None]:
            raise InputError(
                f"This model translates between {len(words.lang_code_to_id)} languages; say {' and '.join(missing)}, "
                f"such as {next(iter(words.lang_code_to_id))!r}. tokenizer.lang_code_to_id has all."
            )
        return words(source, src_lang=languages["src_lang"], **cut)["input_ids"]

    def own_prefix(self, item: str) -> str:
        """Return what a source itself begins with: also a language to translate into, `>>fr<<`."""
        code, end, text = item.partition("<<")
        known = f"{code}{end}" in self.tokenizer.supported_language_codes
        return item[: len(item) - len(text.lstrip())] if known else super().own_prefix(item)

    def prefix(self, item: str, options: dict[str, Any]) -> str:
        """Return what is read before a source: for some models the language to translate into.

        Raises:
            InputError: if the model translates between several languages, and nothing says which.
        """
        said = super().prefix(item, options)
        code = f">>{self._languages(options)[1]}<<"
        if code in self.tokenizer.supported_language_codes and not item.startswith(">>"):
            return f"{code} {said}"
        tasks = {name: of for name, of in self.tasks().items() if name.startswith("translation_")}
        prefixes = [str(of.get("prefix") or "") for of in tasks.values()]
        if not said and all(prefixes) and len(tasks) > 1 and not item.startswith(tuple(prefixes)):
            raise InputError(
                f"This model knows {', '.join(tasks)}; name one: pipeline({next(iter(tasks))!r}, ...), or say src_lang "
                "and tgt_lang."
            )
        return said


def _without_idle(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return defaults without those that would contradict what is given, or do nothing beside it."""
    idle: list[str] = []
    if given.get("max_length") is not None:
        idle.append("max_new_tokens")
    if given.get("max_new_tokens") is not None:
        idle.append("max_length")
    if given.get("do_sample") is False or given.get("temperature") == 0:
        idle += SAMPLING
    if given.get("num_beams") == 1:
        idle += BEAMS
    kept = {name: None if name in idle else value for name, value in defaults.items()}
    least, most = kept.get("min_length"), given.get("max_length")
    return kept | {"min_length": most} if least is not None and most is not None and least > most else kept


def _border(text: str, end: int) -> int:
    """Return where to cut a text before `end`: after a sentence in its second half, else after a word."""
    places = [place + len(mark) for mark in ENDS if (place := text.rfind(mark, end // 2, end)) >= 0]
    if places:
        return max(places)
    space = text.rfind(" ", 1, end + 1)
    return end if space < 1 else space
