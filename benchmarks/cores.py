"""Whether a faster tokenizer gives the same ids as the `tokenizers` library: on English, on ugly text, and how fast.

Each core reads the same tokenizer.json. A text counts as different if one id differs, or if the core fails on it. What
a core does not give at all, such as the characters of each token, is not counted here; see README.md.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import measure
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ENGLISH = [" ".join(part.split()) for topic in sorted(topics) for part in topics[topic].split("\n\n") if part][:1000]
SHORT = "The quick brown fox jumps over a lazy dog..."
RANGES = [(32, 127), (0, 32), (160, 592), (768, 880), (1425, 1792), (2304, 2432), (8192, 8304), (19968, 20096)]
RANGES += [(44032, 44096), (65024, 65040), (127744, 128592), (57344, 57360)]
SPECIAL = ["<s>", "</s>", "<mask>", "[CLS]", "[SEP]", "foo", "'s", "  ", "\n"]


def ugly_texts(count: int) -> list[str]:
    """Draw texts of many scripts, controls, marks, emoji and special tokens; always the same ones."""
    draw = random.Random(0)
    pool = [chr(code) for first, end in RANGES for code in range(first, end)] + (SPECIAL + [" "] * 9) * 60
    return ["".join(draw.choices(pool, k=draw.randint(0, 30))) for _ in range(count)]


def tokenizers(folder: Path) -> Iterator[tuple[str, Path]]:
    """Make a tokenizer.json for each kind."""
    special = ["<s>", "</s>", "<mask>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ENGLISH,
        trainers.BpeTrainer(vocab_size=2000, show_progress=False, special_tokens=special, initial_alphabet=alphabet),
    )
    yield "byte-level BPE", write(bpe, folder / "bpe.json")
    bpe.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    yield "the same, framed as RoBERTa", write(bpe, folder / "roberta.json")
    bpe.post_processor = None
    bpe.add_tokens([AddedToken("foo", single_word=True)])
    yield "the same, with an added whole word", write(bpe, folder / "added.json")
    lines = measure.VOCABULARY.read_text(encoding="utf-8").splitlines()
    bert = Tokenizer(models.WordPiece({token: i for i, token in enumerate(lines)}, unk_token="[UNK]"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bert.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    bert.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    yield "BERT's WordPiece", write(bert, folder / "bert.json")
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        ENGLISH,
        trainers.UnigramTrainer(
            vocab_size=2000, show_progress=False, special_tokens=[*special, "<unk>"], unk_token="<unk>"
        ),
    )
    yield "Unigram", write(unigram, folder / "unigram.json")


def write(tokenizer: Tokenizer, path: Path) -> Path:
    tokenizer.save(str(path))
    return path


def open_tokie(path: Path) -> Callable[[str], list[int]]:
    import tokie  # pyright: ignore[reportMissingImports]

    encode = tokie.Tokenizer.from_json(str(path)).encode
    return lambda text: list(encode(text).ids)


def open_gigatoken(path: Path) -> Callable[[str], list[int]]:
    import gigatoken  # pyright: ignore[reportMissingImports]

    encode = gigatoken.Tokenizer(str(path)).as_hf().encode
    return lambda text: list(encode(text))


CORES = {"tokie": open_tokie, "gigatoken": open_gigatoken}


def different(encode: Callable[[str], list[int]], bare: Tokenizer, texts: list[str]) -> tuple[int, str]:
    """Count the texts whose ids differ, and show the shortest."""
    found = []
    for text in texts:
        try:
            same = encode(text) == bare.encode(text).ids
        except Exception:  # whatever it is, these ids are not to be had
            same = False
        found += [] if same else [text]
    return len(found), json.dumps(min(found, key=len)) if found else ""


def microseconds(encode: Callable[[str], object]) -> float:
    """Time one short text."""
    times = []
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(100):
            encode(SHORT)
        times.append((time.perf_counter() - start) * 1e4)
    return min(times)


def main() -> None:
    options = measure.arguments(__doc__ or "")
    cores = {core: open_core for core, open_core in CORES.items() if find_spec(core)}
    ugly, rows = ugly_texts(300 if options.quick else 3000), []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, path in tokenizers(Path(scratch)):
            bare = Tokenizer.from_file(str(path))
            usual = microseconds(lambda text, bare=bare: bare.encode(text).ids)
            for core, open_core in cores.items():
                try:
                    encode = open_core(path)
                    encode(SHORT)
                except Exception as error:  # of a kind that the core does not have
                    rows.append([kind, core, "refused", "", "", type(error).__name__])
                    continue
                counts = [different(encode, bare, texts) for texts in (ENGLISH, ugly)]
                shown = [f"{count} of {len(texts)}" for (count, _), texts in zip(counts, (ENGLISH, ugly), strict=True)]
                rows.append([kind, core, *shown, f"{usual / microseconds(encode):.1f}x", counts[1][1] or counts[0][1]])
    heads = [
        "tokenizer",
        "core",
        "English differs",
        "ugly differs",
        "one short text, faster",
        "the shortest that differs",
    ]
    versions = ", ".join(f"{core} {version(core)}" for core in cores)
    measure.report("cores", f"{measure.table(heads, rows)}\n\nInstalled: {versions or 'none'}.", save=options.save)


if __name__ == "__main__":
    main()
