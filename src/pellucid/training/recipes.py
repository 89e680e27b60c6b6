"""Recipes: what each task makes of a table's rows - examples, tokens, labels, batches, metrics."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, InputError, MissingPackageError
from ..hub import HubOptions
from ..pipelines.sentence_folder import SentenceFolder, read_sentence_folder
from .collators import (
    IGNORED,
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)
from .contrastive import ContrastiveTrainer, new_sentence_folder, rank_correlation, retrieval
from .metrics import F1, Accuracy, AnswerOverlap, EntitySpans, Metric, Metrics, Rouge, SacreBleu
from .tables import Row, classes_of, find_column, in_order, same_kind, scores_of, texts_of
from .trainer import Trainer

Example = dict[str, Any]
OVERLAP = 64  # tokens that windows of a context share
SCORED = 200  # examples for which a model writes, when it is scored


class Encoded(NamedTuple):
    """What a model trains on.

    Attributes:
        rows: of token ids and labels.
        lengths: tokens of each example before it was cut.
    """

    rows: list[Example]
    lengths: list[int]


class Recipe:
    """The base of recipes.

    Attributes:
        task: its name, which may name languages: "translation_en_to_fr".
        columns: the arguments that name columns, and the names that these usually have.
        optional: those of them that a table may lack.
        best: the metric that decides which epoch was the best.
        new_head: whether a model may come without its head, or with one of other classes.
        tagged: whether .txt files have a word and its tag on each line.
        is_calibrated: whether the probabilities of answers are measured, and corrected.
        head: the task's name in PEFT.
        limit: tokens of a text at most, where what lies beside the model says so.
    """

    columns: dict[str, tuple[str, ...]] = {}
    optional: tuple[str, ...] = ()
    best = "loss"
    new_head = True
    tagged = False
    is_calibrated = False
    head = "FEATURE_EXTRACTION"
    limit: int | None = None

    def __init__(self, task: str):
        self.task = task

    def named(self, rows: Sequence[Row], given: Mapping[str, str | None]) -> dict[str, str]:
        """Return the column of each argument.

        Raises:
            InputError: if one is not there.
        """
        extra = [name for name, value in given.items() if value is not None and name not in self.columns]
        if extra:
            raise InputError(f"{self.task} has no column for {extra[0]}=; leave it out.")
        lower = {name.lower() for name in rows[0] if isinstance(name, str)}
        there = [n for n in self.columns if n not in self.optional or given.get(n) or lower & {*self.columns[n]}]
        return {name: find_column(rows, name, self.columns[name], given.get(name)) for name in there}

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read the rows.

        Raises:
            InputError: if some are not what the task needs, with their numbers.
        """
        raise NotImplementedError

    def labels(self, examples: Sequence[Example]) -> list[str]:
        """Return the names of the classes, in the order of their numbers; none where there are no classes."""
        return []

    def balance(self, examples: Sequence[Example]) -> Counter[str]:
        """Count the examples of each class."""
        return Counter()

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Tokenize.

        Args:
            tokenizer: of the model.
            examples: to tokenize.
            limit: tokens of a row at most.
            config: of the model, with its labels.
        """
        raise NotImplementedError

    def beside(self, base: Any) -> dict[str, Any]:
        """Read what lies beside a model; return where in its folder its own files are."""
        return {}

    def collator(self, tokenizer: Any) -> Any:
        """Return what makes batches."""
        return DataCollatorWithPadding(tokenizer)

    def trainer(self, model: Any, *arguments: Any, **options: Any) -> Trainer:
        """Return what trains the model."""
        return Trainer(model, *arguments, **options)

    def save(self, folder: Path) -> None:
        """Write what belongs beside the trained model."""

    def metric(self, labels: Sequence[str]) -> Any:
        """Return what is measured after each epoch beside the loss; None for nothing."""
        return None

    def score(self, pipe: Any, examples: Sequence[Example], metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return what is measured once, with the pipeline that users will call."""
        return {}


class TextClassification(Recipe):
    """A text and its class."""

    columns = {
        "text": ("text", "sentence", "review", "content", "question", "title"),
        "target": ("label", "labels", "category", "class", "target", "intent", "sentiment"),
    }
    best = "f1"
    is_calibrated = True
    head = "SEQ_CLS"

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read texts and classes."""
        texts, classes = texts_of(rows, named["text"]), classes_of(rows, named["target"])
        return [{"text": text, "label": label} for text, label in zip(texts, classes, strict=True)]

    def labels(self, examples: Sequence[Example]) -> list[str]:
        """Return the classes."""
        counts = self.balance(examples)
        if len(counts) == 1:
            raise InputError(f"All {len(examples)} rows have the label {next(iter(counts))!r}; expected two or more.")
        return in_order(counts)

    def balance(self, examples: Sequence[Example]) -> Counter[str]:
        """Count the examples of each class."""
        return Counter(example["label"] for example in examples)

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Tokenize texts; long ones are cut."""
        texts = [example["text"] for example in examples]
        lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        rows = _rows(tokenizer(texts, truncation=True, max_length=limit))
        numbers = {name: i for i, name in config.id2label.items()}
        return Encoded([row | {"label": numbers[e["label"]]} for row, e in zip(rows, examples, strict=True)], lengths)

    def metric(self, labels: Sequence[str]) -> Metric:
        """Return accuracy, and precision, recall and F1 as the mean over classes."""
        return Metrics(Accuracy(), F1("macro"))


class TokenClassification(Recipe):
    """Words and a tag for each."""

    columns = {"text": ("tokens", "words"), "target": ("tags", "ner_tags", "labels", "pos_tags")}
    best = "overall_f1"
    tagged = True
    head = "TOKEN_CLS"

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read words and tags, as many of both."""
        words, tags = named["text"], named["target"]
        for i, row in enumerate(rows, 1):
            for name in (words, tags):
                if not isinstance(row[name], list | tuple) or not row[name]:
                    raise InputError(f"Column {name!r} is {row[name]!r:.60} in row {i}; expected a list with an item.")
            if len(row[words]) != len(row[tags]):
                raise InputError(f"Row {i} has {len(row[words])} {words} and {len(row[tags])} {tags}; expected a pair.")
            if wrong := [word for word in row[words] if not isinstance(word, str)]:
                raise InputError(f"Column {words!r} has {wrong[0]!r:.60} in row {i}; expected texts.")
        flat = iter(same_kind([(i, tag) for i, row in enumerate(rows, 1) for tag in row[tags]], tags))
        return [{"tokens": list(row[words]), "tags": [next(flat) for _ in row[tags]]} for row in rows]

    def labels(self, examples: Sequence[Example]) -> list[str]:
        """Return the tags, "O" first."""
        counts = self.balance(examples)
        if len(counts) == 1:
            raise InputError(f"All words have the tag {next(iter(counts))!r}; expected two or more.")
        return sorted(in_order(counts), key=lambda name: name != "O")

    def balance(self, examples: Sequence[Example]) -> Counter[str]:
        """Count the words of each tag."""
        return Counter(tag for example in examples for tag in example["tags"])

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Tokenize words, of which the first token has the tag; long sentences become several rows."""
        words, numbers = [e["tokens"] for e in examples], {name: i for i, name in config.id2label.items()}
        lengths = [len(ids) for ids in tokenizer(words, is_split_into_words=True)["input_ids"]]
        cut = {"truncation": True, "max_length": limit, "return_overflowing_tokens": True}
        encoded = tokenizer(words, is_split_into_words=True, **cut)
        rows, labelled = [], set()
        for i, (row, of) in enumerate(zip(_rows(encoded), encoded["overflow_to_sample_mapping"], strict=True)):
            labels = []
            for word in encoded.word_ids(i):
                known = word is None or (of, word) in labelled
                labels.append(IGNORED if known else numbers[examples[of]["tags"][word]])
                labelled.add((of, word))
            rows.append(row | {"labels": labels})
        return Encoded(rows, lengths)

    def collator(self, tokenizer: Any) -> Any:
        """Return what pads tags with their tokens."""
        return DataCollatorForTokenClassification(tokenizer)

    def metric(self, labels: Sequence[str]) -> Metric:
        """Return precision, recall and F1 of whole entities."""
        return EntitySpans(labels)


class TextGeneration(Recipe):
    """Texts to go on with; or conversations, of which what the assistant says is learned."""

    columns = {"text": ("messages", "conversation", "conversations", "text", "content")}
    new_head = False
    head = "CAUSAL_LM"

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read texts or conversations; lists of messages are conversations."""
        column = named["text"]
        if not isinstance(rows[0][column], list | tuple):
            return [{"text": text} for text in texts_of(rows, column)]
        for i, row in enumerate(rows, 1):
            messages = row[column]
            roles = [m.get("role") if isinstance(m, Mapping) else None for m in messages or ()]
            if not isinstance(messages, list | tuple) or None in roles or "assistant" not in roles:
                raise InputError(
                    f"Column {column!r} is {messages!r:.60} in row {i}; expected messages such as {{'role': 'user', "
                    "'content': ...}, one of them of the assistant."
                )
        return [{"messages": list(row[column])} for row in rows]

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Lay texts one after the other and cut them into rows of the limit; a conversation is a row of its own."""
        if "messages" in examples[0]:
            rows = [_conversation(tokenizer, e["messages"], i) for i, e in enumerate(examples, 1)]
            lengths = [len(row["input_ids"]) for row in rows]
            cut = [{name: values[:limit] for name, values in row.items()} for row in rows]
            return Encoded([row for row in cut if any(label != IGNORED for label in row["labels"][1:])], lengths)
        texts, end = tokenizer([e["text"] for e in examples])["input_ids"], tokenizer.eos_token_id
        texts = [ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in texts]
        flat = [i for ids in texts for i in ids]
        blocks = [flat[i : i + limit] for i in range(0, len(flat), limit)]
        rows = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids} for ids in blocks if len(ids) > 1]
        return Encoded(rows, [len(ids) for ids in texts])

    def collator(self, tokenizer: Any) -> Any:
        """Return what pads labels with their tokens."""
        return DataCollatorForTokenClassification(tokenizer)

    def score(self, pipe: Any, examples: Sequence[Example], metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return the perplexity of a token."""
        return {"perplexity": math.exp(min(metrics["loss"], 700))}


class Seq2Seq(Recipe):
    """A source and its target."""

    new_head = False
    head = "SEQ_2_SEQ_LM"

    def named(self, rows: Sequence[Row], given: Mapping[str, str | None]) -> dict[str, str]:
        """Find the columns; those of a translation may be called as its languages."""
        source, target = _languages(self.task)
        if self.task == "summarization":
            usual = (("text", "document", "article", "dialogue"), ("summary", "highlights", "target"))
        else:
            usual = (("source", "src", "text"), ("target", "tgt", "translation"))
        more = [[language] if language else [] for language in (source, target)]
        self.columns = {"text": (*more[0], *usual[0]), "target": (*more[1], *usual[1])}
        return super().named(rows, given)

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read sources and targets."""
        pairs = zip(texts_of(rows, named["text"]), texts_of(rows, named["target"]), strict=True)
        return [{"text": text, "target": target} for text, target in pairs]

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Tokenize both; sources begin as the model's config says that they do in this task."""
        tasks = getattr(config, "task_specific_params", None) or {}
        prefix = (tasks.get(self.task) or {}).get("prefix", getattr(config, "prefix", None)) or ""
        source, target = _languages(self.task)
        languages = {"src_lang": source, "tgt_lang": target} if tokenizer.is_multilingual else {}
        if languages and source is None:
            raise InputError("This model translates between many languages; name the task 'translation_xx_to_yy'.")
        sources = [prefix + e["text"] for e in examples]
        lengths = [len(ids) for ids in tokenizer(sources, **languages)["input_ids"]]
        given = {"text_target": [e["target"] for e in examples], "truncation": True, "max_length": limit}
        encoded = tokenizer(sources, **given, **languages)
        return Encoded(_rows(encoded, "labels"), lengths)

    def collator(self, tokenizer: Any) -> Any:
        """Return what pads sources and targets, each to a length of its own."""
        return DataCollatorForSeq2Seq(tokenizer)

    def score(self, pipe: Any, examples: Sequence[Example], metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return ROUGE of summaries or BLEU of translations, of the first examples."""
        some = examples[:SCORED]
        summary = self.task == "summarization"
        try:
            metric = Rouge() if summary else SacreBleu()
        except MissingPackageError as error:
            return {"rouge" if summary else "bleu": f"not measured: {error}"}
        answers = pipe([e["text"] for e in some], truncation=True)
        metric.update([next(iter(answer.values())) for answer in answers], [e["target"] for e in some])
        result = metric.compute()
        return result if summary else {"bleu": result["score"]}


class QuestionAnswering(Recipe):
    """A question, a context, and where in it the answer is."""

    head = "QUESTION_ANS"

    def named(self, rows: Sequence[Row], given: Mapping[str, str | None]) -> dict[str, str]:
        """Find the answers; other names are always SQuAD's."""
        super().named(rows, given)
        nested = "paragraphs" in rows[0]
        return {"answers": "answers" if nested else find_column(rows, "answers", ("answers", "answer"))}

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read questions and answers, nested as in SQuAD's files or one question a row."""
        if "paragraphs" in rows[0]:
            paragraphs = [paragraph for row in rows for paragraph in row.get("paragraphs", ())]
            rows = [{"context": p.get("context"), **question} for p in paragraphs for question in p.get("qas", ())]
            if not rows:
                raise InputError("The data has paragraphs without a question; expected 'qas' in them, as in SQuAD.")
        for name in ("question", "context", named["answers"]):
            find_column(rows, name, (name,))
        for name in ("question", "context"):
            texts_of(rows, name)
        return [
            {"question": row["question"], "context": row["context"], "answers": _answers(row, named["answers"], i)}
            for i, row in enumerate(rows, 1)
        ]

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Tokenize pairs; long contexts become several rows, of which those without the answer point at the first."""
        first = tokenizer.padding_side == "left"  # such tokenizers belong to models that read the context first
        pair = [[e["question"] for e in examples], [e["context"] for e in examples]]
        pair, part = (pair[::-1], 0) if first else (pair, 1)
        lengths = [len(ids) for ids in tokenizer(*pair)["input_ids"]]
        cut = {"truncation": "only_first" if first else "only_second", "max_length": limit}
        cut |= {"stride": min(OVERLAP, limit // 4), "return_overflowing_tokens": True}
        encoded = tokenizer(*pair, **cut, return_offsets_mapping=True)
        rows = []
        for i, (row, of) in enumerate(zip(_rows(encoded), encoded["overflow_to_sample_mapping"], strict=True)):
            places = [
                (k, span) for k, span in enumerate(encoded["offset_mapping"][i]) if encoded.sequence_ids(i)[k] == part
            ]
            start, end = _place(places, examples[of]["answers"])
            rows.append(row | {"start_positions": start, "end_positions": end})
        return Encoded(rows, lengths)

    def score(self, pipe: Any, examples: Sequence[Example], metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return exact match and F1, in percent."""
        metric = AnswerOverlap()
        asked = [{name: e[name] for name in ("question", "context")} for e in examples]
        answers = pipe(asked, handle_impossible_answer=any(not e["answers"] for e in examples))
        metric.update([a["answer"] for a in answers], [[text for text, _ in e["answers"]] for e in examples])
        return metric.compute()


class Embedding(Recipe):
    """Texts that belong together: pairs, pairs with a text that does not, or pairs with a score."""

    columns = {
        "text": ("anchor", "query", "question", "sentence1", "text1", "sentence_a", "text"),
        "target": ("positive", "answer", "passage", "document", "sentence2", "text2", "sentence_b", "target"),
        "negative": ("negative", "hard_negative"),
        "score": ("score", "similarity", "similarity_score", "label"),
    }
    optional = ("negative", "score")
    new_head = False

    def __init__(self, task: str):
        super().__init__(task)
        self.sentence: SentenceFolder | None = None
        self.is_scored, self.is_binary = False, True
        self.read: set[str] = set()

    def named(self, rows: Sequence[Row], given: Mapping[str, str | None]) -> dict[str, str]:
        """Find the columns; a third text and a score exclude each other."""
        named = super().named(rows, given)
        if {*self.optional} <= named.keys():
            raise InputError(
                f"The data has a third text, {named['negative']!r}, and a score, {named['score']!r}; leave out one."
            )
        if twice := [name for name, count in Counter(named.values()).items() if count > 1]:
            raise InputError(f"{twice[0]!r} is named twice; expected one column for each of {', '.join(named)}.")
        if "score" not in named:
            self.check_unused(rows, {*rows[0]} - {*named.values()})
        if self.read and self.read != named.keys():
            raise InputError(f"validation has {', '.join(named)}, and the data has not the same; give both alike.")
        self.read = {*named}
        return named

    @staticmethod
    def check_unused(rows: Sequence[Row], names: set[str]) -> None:
        """Refuse what may be scores under another name: without them all pairs would count as alike."""
        for name in sorted(names):
            if (found := next((row[name] for row in rows if _is_part(row.get(name))), None)) is not None:
                raise InputError(
                    f"Column {name!r} has {found!r}, which may be a score, and is not used; name it with score=, or "
                    "remove it: without a score, all pairs count as alike."
                )

    def examples(self, rows: Sequence[Row], named: Mapping[str, str]) -> list[Example]:
        """Read two or three texts a row, or two and a score."""
        names = [name for name in ("text", "target", "negative") if name in named]
        texts = [*zip(*(texts_of(rows, named[name]) for name in names), strict=True)]
        wrong = [i for i, (*right, last) in enumerate(texts, 1) if "negative" in named and last in right]
        if wrong:
            raise InputError(f"Column {named['negative']!r} repeats another text of its row in row {wrong[0]}.")
        examples: list[Example] = [{"texts": row, "anchor": row[0]} for row in texts]
        if "score" not in named:
            return examples
        scores = scores_of(rows, named["score"])
        if len({*scores}) == 1:
            raise InputError(
                f"All {len(rows)} rows have {scores[0]:g} in {named['score']!r}; expected texts of different likeness, "
                "or a table without scores, whose pairs all belong together."
            )
        return [example | {"score": score} for example, score in zip(examples, scores, strict=True)]

    def beside(self, base: Any) -> dict[str, Any]:
        """Read the modules of a folder of the sentence-transformers library."""
        self.sentence, own = read_sentence_folder(base, HubOptions())
        if self.sentence and self.sentence.pooling.kind != "Pooling":
            raise ConfigError(f"{base} gives sparse vectors, which are not trained here; give another model.")
        self.limit = self.sentence.reading.get("max_seq_length") if self.sentence else None
        return {"subfolder": own.subfolder} if own.subfolder else {}

    def encode(self, tokenizer: Any, examples: Sequence[Example], limit: int, config: Any) -> Encoded:
        """Tokenize the texts of each row as the pipeline does; long ones are cut."""
        self.sentence = self.sentence or new_sentence_folder(config.hidden_size, limit)
        reading, about = self.sentence.reading, self.sentence.settings
        prompt = (about.get("prompts") or {}).get(about.get("default_prompt_name") or "", "")
        flat = [prompt + text for example in examples for text in example["texts"]]
        flat = [text.lower() for text in flat] if reading.get("do_lower_case") else flat
        lengths, count = [len(ids) for ids in tokenizer(flat)["input_ids"]], len(examples[0]["texts"])
        rows = _rows(tokenizer(flat, truncation=True, max_length=limit))
        groups = [range(i, i + count) for i in range(0, len(rows), count)]
        joined = [{name: [rows[i][name] for i in group] for name in rows[0]} for group in groups]
        self.is_scored = "score" in examples[0]
        self.is_binary &= all(example.get("score") in (0, 1) for example in examples)
        numbers: dict[str, int] = {}
        for row, example, group in zip(joined, examples, groups, strict=True):
            texts = [numbers.setdefault(text, len(numbers)) for text in example["texts"]]
            row |= {"label": example.get("score", texts), "length": max(len(rows[i]["input_ids"]) for i in group)}
        return Encoded(joined, [max(lengths[i] for i in group) for group in groups])

    def collator(self, tokenizer: Any) -> Any:
        """Return what pads all texts of a batch to one length."""
        return DataCollatorForMultipleChoice(tokenizer)

    def trainer(self, model: Any, *arguments: Any, **options: Any) -> Trainer:
        """Return what trains the model; pairs without a score learn from the other rows of their batch."""
        if not self.is_scored and arguments[0].per_device_train_batch_size == 1:
            raise InputError("per_device_train_batch_size is 1; each row is compared with the others of its batch.")
        own = {"sentence": self.sentence, "is_binary": self.is_binary}
        return ContrastiveTrainer(model, *arguments, **own, **options)

    def save(self, folder: Path) -> None:
        """Write the modules, so that pipelines and the sentence-transformers library read them."""
        if self.sentence is not None:
            self.sentence.save(folder)

    def metric(self, labels: Sequence[str]) -> Any:
        """Return how well the nearest text is found, or how well likeness is ordered."""
        return rank_correlation if self.is_scored else retrieval


RECIPES: dict[str, type[Recipe]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "text-generation": TextGeneration,
    "summarization": Seq2Seq,
    "translation": Seq2Seq,
    "question-answering": QuestionAnswering,
    "embedding": Embedding,
}


def _rows(encoded: Mapping[str, Any], *more: str) -> list[Example]:
    """Turn what a tokenizer returns into rows of what a model reads."""
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask", *more) if name in encoded]
    return [dict(zip(names, values, strict=True)) for values in zip(*(encoded[name] for name in names), strict=True)]


def _is_part(value: Any) -> bool:
    """Tell whether a value is a number between 0 and 1."""
    try:
        return 0 < float(value) < 1
    except (TypeError, ValueError):
        return False


def _languages(task: str) -> tuple[str | None, str | None]:
    source, between, target = task.removeprefix("translation_").partition("_to_")
    return (source, target) if between else (None, None)


def _conversation(tokenizer: Any, messages: list[Any], number: int) -> Example:
    """Tokenize a conversation; only what the assistant writes, the end of its turn included, is a label."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.apply_chat_template(messages[:i], tokenize=False, add_generation_prompt=True)
            after = tokenizer.apply_chat_template(messages[: i + 1], tokenize=False)
            if not (text.startswith(after) and after.startswith(before)):
                raise InputError(
                    f"Row {number}: the chat template writes message {i + 1} otherwise when others follow it, so that "
                    "what the assistant says can not be told; give conversations that end with its first answer."
                )
            spans.append((len(before), len(after)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    said = [any(a < end and start < b for start, end in spans) for a, b in encoded["offset_mapping"]]
    labels = [i if learned else IGNORED for i, learned in zip(encoded["input_ids"], said, strict=True)]
    return {"input_ids": encoded["input_ids"], "attention_mask": [1] * len(labels), "labels": labels}


def _answers(row: Row, column: str, number: int) -> list[tuple[str, int]]:
    """Return the answers of a row with their places: of SQuAD's two forms, or one text that the context contains."""
    given, context = row[column], row["context"]
    if isinstance(given, str):
        pairs = [(given, context.find(given))] if given else []
    elif isinstance(given, Mapping) and given.keys() >= {"text", "answer_start"}:
        pairs = list(zip(given["text"], given["answer_start"], strict=False))
    elif isinstance(given, list) and all(
        isinstance(a, Mapping) and a.keys() >= {"text", "answer_start"} for a in given
    ):
        pairs = [(a["text"], a["answer_start"]) for a in given]
    else:
        raise InputError(
            f"Column {column!r} is {given!r:.60} in row {number}; expected {{'text': [...], 'answer_start': [...]}}."
        )
    for text, start in pairs:
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            raise InputError(f"Row {number}: the context does not have the answer {text!r:.60} at {start}; correct it.")
    return pairs


def _place(places: list[tuple[int, Any]], answers: list[tuple[str, int]]) -> tuple[int, int]:
    """Return the first and last token of the first answer; (0, 0) if these tokens do not have all of it."""
    if not answers or not places:
        return 0, 0
    begin, end = answers[0][1], answers[0][1] + len(answers[0][0])
    if places[0][1][0] > begin or places[-1][1][1] < end:
        return 0, 0
    inside = [k for k, (a, b) in places if a < end and begin < b]
    return (inside[0], inside[-1]) if inside else (0, 0)
