"""Metrics that are counted batch by batch: `update` as often as there are batches, `merge` over processes, `compute`.

All that a metric keeps is `counts`, some numbers by name; no batch is kept. The results have the names and the scale of
the libraries that they are usually computed with: scikit-learn, seqeval, SQuAD's script, rouge-score, sacreBLEU.
"""

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

IGNORED = -100  # the label of what does not count


class Metric:
    """The base of all metrics.

    Attributes:
        counts: all that was seen.
    """

    def __init__(self):
        self.counts: defaultdict[Hashable, float] = defaultdict(int)

    def update(self, predictions: Any, labels: Any) -> None:
        """Count a batch.

        Args:
            predictions: what a model says.
            labels: what is true.
        """
        raise NotImplementedError

    def compute(self) -> dict[str, Any]:
        """Return the results by name.

        Raises:
            InputError: if nothing was counted.
        """
        raise NotImplementedError

    def merge(self, other: "Metric") -> None:
        """Add what another metric of this kind has counted, such as that of another process."""
        for name, count in other.counts.items():
            self.counts[name] += count

    def reset(self) -> None:
        """Forget what was counted."""
        self.counts.clear()

    def _seen(self, count: float) -> float:
        """Return how much was counted, which must not be nothing."""
        if not count:
            raise InputError(f"{type(self).__name__} has counted nothing; call update() before compute().")
        return count


class Metrics(Metric):
    """Several metrics of the same batches as one: `Metrics(Accuracy(), F1("macro"))`."""

    def __init__(self, *metrics: Metric):
        super().__init__()
        self.metrics = metrics

    def update(self, predictions: Any, labels: Any) -> None:
        """Count a batch in all of them."""
        for metric in self.metrics:
            metric.update(predictions, labels)

    def compute(self) -> dict[str, Any]:
        """Return the results of all."""
        return {name: result for metric in self.metrics for name, result in metric.compute().items()}

    def merge(self, other: Metric) -> None:
        """Add what others of these kinds have counted."""
        for own, more in zip(self.metrics, other.metrics if isinstance(other, Metrics) else (), strict=True):
            own.merge(more)

    def reset(self) -> None:
        """Forget what was counted."""
        for metric in self.metrics:
            metric.reset()


# --- classes ----------------------------------------------------------------------------------------------------------


class ConfusionMatrix(Metric):
    """How often which class was said for which; the base of the metrics that follow from that."""

    def update(self, predictions: Any, labels: Any) -> None:
        """Count a batch.

        Args:
            predictions: classes, (...), or their scores, (..., L).
            labels: classes, (...), -100 on what does not count.
        """
        predictions, labels = read_classes(predictions, labels)
        counted = labels != IGNORED
        pairs, counts = torch.stack([labels[counted], predictions[counted]]).unique(dim=1, return_counts=True)
        for label, prediction, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            self.counts[label, prediction] += count

    def compute(self) -> dict[str, Any]:
        """Return `confusion_matrix`: a list a true class, in it how often each class was said."""
        classes = range(1 + max(c for pair in self.pairs() for c in pair[:2]))
        return {"confusion_matrix": [[self.counts[label, said] for said in classes] for label in classes]}

    def pairs(self) -> list[tuple[int, int, int]]:
        """Return (label, prediction, how often) of all that were seen."""
        self._seen(len(self.counts))
        return [(*pair, int(count)) for pair, count in self.counts.items()]  # type: ignore[misc]

    def totals(self) -> tuple[Counter[int], Counter[int], Counter[int]]:
        """Return by class how often it was said rightly, how often it was said, and how often it was true."""
        right, said, true = Counter[int](), Counter[int](), Counter[int]()
        for label, prediction, count in self.pairs():
            true[label] += count
            said[prediction] += count
            if label == prediction:
                right[label] += count
        return right, said, true


class Accuracy(ConfusionMatrix):
    """The share of right answers, `accuracy`."""

    def compute(self) -> dict[str, Any]:
        """Return `accuracy`, from 0 to 1."""
        right, _, true = self.totals()
        return {"accuracy": right.total() / true.total()}


class F1(ConfusionMatrix):
    """Precision, recall and their harmonic mean.

    Args:
        average: "binary" for those of one class, "macro" for the mean over the classes that occur, "micro" for those of
            all decisions together.
        pos_label: the class of "binary".
    """

    def __init__(self, average: Literal["binary", "macro", "micro"] = "binary", pos_label: int = 1):
        super().__init__()
        if average not in ("binary", "macro", "micro"):
            raise InputError(f"average is {average!r}; expected 'binary', 'macro' or 'micro'.")
        self.average, self.pos_label = average, pos_label

    def compute(self) -> dict[str, Any]:
        """Return `precision`, `recall` and `f1`, from 0 to 1."""
        right, said, true = self.totals()
        classes = sorted(said | true)
        if self.average == "micro":
            return _precision_recall_f1(right.total(), said.total(), true.total())
        if self.average == "macro":
            each = [_precision_recall_f1(right[c], said[c], true[c]) for c in classes]
            return {name: sum(scores[name] for scores in each) / len(each) for name in each[0]}
        if len({*classes, self.pos_label}) > 2:
            raise InputError(f"average='binary' is for two classes; there are {classes}. Choose 'macro' or 'micro'.")
        return _precision_recall_f1(right[self.pos_label], said[self.pos_label], true[self.pos_label])


class MatthewsCorrelation(ConfusionMatrix):
    """The correlation between what is said and what is true, of any number of classes: Gorodkin, 2004."""

    def compute(self) -> dict[str, Any]:
        """Return `matthews_correlation`, from -1 to 1; 0 if one of both is always the same."""
        right, said, true = self.totals()
        total = true.total()
        together = right.total() * total - sum(said[c] * true[c] for c in true)
        spread = [total**2 - sum(count**2 for count in side.values()) for side in (said, true)]
        return {"matthews_correlation": together / math.sqrt(spread[0] * spread[1]) if all(spread) else 0.0}


class EntitySpans(Metric):
    """Precision, recall and F1 of entities, each right only as a whole: as seqeval counts them.

    Args:
        labels: the names of the classes, such as "B-PER", by their number.
        scheme: how tags make entities; see `spans`.
    """

    def __init__(self, labels: Sequence[str] | dict[int, str], scheme: str | None = None):
        super().__init__()
        self.names = labels if isinstance(labels, dict) else dict(enumerate(labels))
        self.scheme = scheme
        spans([], scheme)

    def update(self, predictions: Any, labels: Any) -> None:
        """Count a batch of texts.

        Args:
            predictions: classes of tokens, (B, T), or their scores, (B, T, L).
            labels: true classes, (B, T), -100 on tokens that do not count, such as all but the first of a word.
        """
        predictions, labels = read_classes(predictions, labels)
        for said, true in zip(predictions, labels, strict=True):
            counted = true != IGNORED
            tags = [[self.names[i] for i in row[counted].tolist()] for row in (said, true)]
            self.counts["tokens"] += len(tags[0])
            self.counts["right tokens"] += sum(a == b for a, b in zip(*tags, strict=True))
            said_spans, true_spans = (set(spans(row, self.scheme)) for row in tags)
            for name, found in (("said", said_spans), ("true", true_spans), ("right", said_spans & true_spans)):
                for kind, _, _ in found:
                    self.counts[name, kind] += 1

    def compute(self) -> dict[str, Any]:
        """Return `overall_precision`, `overall_recall`, `overall_f1` and `overall_accuracy` (of tokens).

        And by type a dictionary of `precision`, `recall`, `f1` and `number`, of the true ones.
        """
        tokens = self._seen(self.counts["tokens"])
        by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for key, count in self.counts.items():
            if isinstance(key, tuple):
                by_type[key[1]][key[0]] += int(count)
        results: dict[str, Any] = {}
        for kind in sorted(by_type):
            number = by_type[kind]
            scores = _precision_recall_f1(number["right"], number["said"], number["true"])
            results[kind] = scores | {"number": number["true"]}
        all_types = sum(by_type.values(), Counter[str]())
        overall = _precision_recall_f1(all_types["right"], all_types["said"], all_types["true"])
        results |= {f"overall_{name}": score for name, score in overall.items()}
        return results | {"overall_accuracy": self.counts["right tokens"] / tokens}


def spans(tags: Sequence[str], scheme: str | None = None) -> list[tuple[str, int, int]]:
    """Read entities off the tags of a text: (type, first token, last token).

    Args:
        tags: such as "B-PER", "I-PER", "O"; one without a prefix counts as "I-".
        scheme: None takes what models say as it may be meant, as conlleval does: any tag begins an entity that can not
            go on with the one before. Strict are "IOB1" (B only between two of a type), "IOB2" (B on each first),
            "BIOES" (and E on each last, S on single ones): what does not fit is no entity.
    """
    if scheme not in (None, "IOB1", "IOB2", "BIOES"):
        raise InputError(f"scheme is {scheme!r}; expected None, 'IOB1', 'IOB2' or 'BIOES'.")
    found: list[tuple[str, int, int]] = []
    before, kind_before, is_open = "O", "", False
    for i, tag in enumerate(tags):
        prefix, _, kind = tag.rpartition("-") if tag[1:2] != "-" else (tag[0], "-", tag[2:])
        prefix = "O" if tag == "O" else prefix or "I"
        same = kind == kind_before and before != "O"
        if is_open and same and prefix in ("I", "E") and before in ("B", "I"):
            found[-1] = (kind, found[-1][1], i)
        else:
            is_open = _begins(prefix, same, scheme)
            if is_open:
                found.append((kind, i, i))
        before, kind_before = prefix, kind
    if scheme == "BIOES":
        ends = {i for i, tag in enumerate(tags) if tag[0] in "ES"}
        found = [span for span in found if span[2] in ends]
    return found


def _begins(prefix: str, same: bool, scheme: str | None) -> bool:
    """Tell whether a tag that does not go on with an entity begins one; `same`: it is of the type of the tag before."""
    if scheme == "IOB2":
        return prefix == "B"
    if scheme == "BIOES":
        return prefix in ("B", "S")
    return prefix != "O" and (scheme is None or prefix == "I" or same)


# --- texts ------------------------------------------------------------------------------------------------------------


class Texts(Metric):
    """The base of metrics that compare texts.

    Args:
        tokenizer: to decode token ids with, where a model's own output is counted; not needed for texts.
    """

    def __init__(self, tokenizer: "Tokenizer | None" = None):
        super().__init__()
        self.tokenizer = tokenizer

    def update(self, predictions: Any, labels: Any) -> None:
        """Count a batch.

        Args:
            predictions: texts, or token ids, (B, T).
            labels: the true text of each, or a list of all that would be right; or token ids, -100 on padding.
        """
        for said, true in zip(self._read(predictions), self._read(labels), strict=True):
            self._count(said, [true] if isinstance(true, str) else list(true))

    def _read(self, texts: Any) -> Sequence[Any]:
        if not hasattr(texts, "shape"):
            return texts
        if self.tokenizer is None:
            raise InputError(f"{type(self).__name__} was given token ids; build it with tokenizer= to decode them.")
        rows = [[i for i in row if i >= 0] for row in texts.tolist()]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def _count(self, said: str, true: list[str]) -> None:
        raise NotImplementedError


class AnswerOverlap(Texts):
    """Exact match and the F1 of words, in percent, as SQuAD counts them: Rajpurkar et al., 2016.

    Texts are compared without case, punctuation and articles. An empty list of true answers means that there is none,
    which an empty text says.
    """

    def compute(self) -> dict[str, Any]:
        """Return `exact_match` and `f1`, from 0 to 100."""
        texts = self._seen(self.counts["texts"])
        return {name: 100 * self.counts[name] / texts for name in ("exact_match", "f1")}

    def _read(self, texts: Any) -> Sequence[Any]:
        if isinstance(texts, Sequence) and texts and isinstance(texts[0], dict):  # as SQuAD's files have them
            return [row["prediction_text"] if "prediction_text" in row else row["answers"]["text"] for row in texts]
        return super()._read(texts)

    def _count(self, said: str, true: list[str]) -> None:
        words, answers = normalize_answer(said).split(), [normalize_answer(text).split() for text in true or [""]]
        self.counts["texts"] += 1
        self.counts["exact_match"] += float(any(words == answer for answer in answers))
        self.counts["f1"] += max(_overlap(words, answer) for answer in answers)


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and white space that means nothing."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _overlap(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    common = (Counter(words) & Counter(answer)).total()
    return _precision_recall_f1(common, len(words), len(answer))["f1"]


class Rouge(Texts):
    """How many words, pairs of words and sequences of words a summary shares with a true one: Lin, 2004.

    The score of a text with several true ones is that of the best; the result is the mean over texts.

    Args:
        tokenizer: to decode token ids with.
        use_stemmer: whether English endings are taken off words.

    Raises:
        MissingPackageError: if rouge-score is not installed.
    """

    KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

    def __init__(self, tokenizer: "Tokenizer | None" = None, *, use_stemmer: bool = False):
        super().__init__(tokenizer)
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise MissingPackageError("ROUGE needs rouge-score: pip install 'pellucid[metrics]'.") from None
        self.scorer = RougeScorer(self.KINDS, use_stemmer=use_stemmer)

    def compute(self) -> dict[str, Any]:
        """Return `rouge1`, `rouge2`, `rougeL` and `rougeLsum` (sentences on lines of their own), from 0 to 1."""
        texts = self._seen(self.counts["texts"])
        return {kind: self.counts[kind] / texts for kind in self.KINDS}

    def _count(self, said: str, true: list[str]) -> None:
        self.counts["texts"] += 1
        for kind, score in self.scorer.score_multi(true, said).items():
            self.counts[kind] += score.fmeasure


class SacreBleu(Texts):
    """BLEU of a corpus with sacreBLEU's tokenization: Papineni et al., 2002; Post, 2018.

    Args:
        tokenizer: to decode token ids with.
        tokenize: how sacreBLEU cuts words: "13a", or "zh", "ja-mecab", "char", ...

    Raises:
        MissingPackageError: if sacrebleu is not installed.
    """

    def __init__(self, tokenizer: "Tokenizer | None" = None, *, tokenize: str = "13a"):
        super().__init__(tokenizer)
        try:
            from sacrebleu import BLEU
        except ImportError:
            raise MissingPackageError("BLEU needs sacrebleu: pip install 'pellucid[metrics]'.") from None
        self.bleu = BLEU(tokenize=tokenize, effective_order=True)

    def compute(self) -> dict[str, Any]:
        """Return `score`, from 0 to 100, `bp`, the penalty for short texts, and the lengths `sys_len`, `ref_len`."""
        self._seen(self.counts["texts"])
        correct, total = ([int(self.counts[name, n]) for n in range(4)] for name in ("counts", "totals"))
        sys_len, ref_len = int(self.counts["sys_len"]), int(self.counts["ref_len"])
        score = self.bleu.compute_bleu(correct, total, sys_len, ref_len)
        return {"score": score.score, "bp": score.bp, "sys_len": sys_len, "ref_len": ref_len}

    def _count(self, said: str, true: list[str]) -> None:
        score = self.bleu.sentence_score(said, true)
        self.counts["texts"] += 1
        for n in range(4):
            self.counts["counts", n] += score.counts[n]
            self.counts["totals", n] += score.totals[n]
        self.counts["sys_len"] += score.sys_len
        self.counts["ref_len"] += score.ref_len


class Perplexity(Metric):
    """The exponential of the mean loss of a token.

    Args:
        causal: whether the scores at a token are of the next one, as a language model's are; False for those of the
            token itself, as with masks.
    """

    def __init__(self, *, causal: bool = True):
        super().__init__()
        self.causal = causal

    def update(self, predictions: Any, labels: Any) -> None:
        """Count a batch.

        Args:
            predictions: scores, (B, T, V).
            labels: true tokens, (B, T), -100 on what does not count.
        """
        logits, labels = torch.as_tensor(predictions), torch.as_tensor(labels)
        if self.causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        self.counts["loss"] += loss.item()
        self.counts["tokens"] += int((labels != IGNORED).sum())

    def compute(self) -> dict[str, Any]:
        """Return `perplexity`, from 1."""
        loss = self.counts["loss"] / self._seen(self.counts["tokens"])
        return {"perplexity": math.exp(loss) if loss < 700 else math.inf}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_classes(predictions: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return classes and labels of one shape, from scores if need be.

    Raises:
        InputError: if they do not fit together.
    """
    said, true = torch.as_tensor(predictions), torch.as_tensor(labels)
    if said.dim() == true.dim() + 1 and said.shape[:-1] == true.shape:
        said = said.argmax(dim=-1)
    if said.shape != true.shape or said.is_floating_point() or true.is_floating_point():
        raise InputError(
            f"predictions are {said.dtype} of {tuple(said.shape)}, labels {true.dtype} of {tuple(true.shape)}; "
            "expected classes of the labels' shape, or scores with one more dimension."
        )
    return said, true


def _precision_recall_f1(right: float, said: float, true: float) -> dict[str, float]:
    return {
        "precision": right / said if said else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (said + true) if said + true else 0.0,
    }
