"""Small vocabularies of models that write a target for a source, in the files that each of them has."""

import io
import json
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers, trainers

from .cases import BERT_VOCABULARY, corpus

FAMILIES = {  # name -> class, its SentencePiece model, tokenizer_config.json
    "marian": ("MarianTokenizer", "unigram", {}),
    "marian-apart": ("MarianTokenizer", "unigram", {"separate_vocabs": True}),
    "m2m_100": ("M2M100Tokenizer", "bpe", {}),
    "wmt21": ("M2M100Tokenizer", "bpe", {"language_codes": "wmt21"}),
    "mbart": ("MBartTokenizer", "unigram", {}),
    "mbart50": ("MBart50Tokenizer", "unigram", {"src_lang": "fr_XX", "tgt_lang": "de_DE"}),
    "nllb": ("NllbTokenizer", "bpe", {}),
    "nllb-legacy": ("NllbTokenizer", "bpe", {"legacy_behaviour": True}),
    "plbart": ("PLBartTokenizer", "unigram", {}),
    "plbart-multi": ("PLBartTokenizer", "unigram", {"language_codes": "multi"}),
    "pegasus": ("PegasusTokenizer", "t5", {}),
    "byt5": ("ByT5Tokenizer", "", {}),
    "blenderbot_small": ("BlenderbotSmallTokenizer", "", {}),
    "fsmt": ("FSMTTokenizer", "", {"langs": ["en", "de"]}),
    "prophetnet": ("ProphetNetTokenizer", "", {}),
}
ARGUMENTS = {
    "unigram": {"model_type": "unigram"},
    "bpe": {"model_type": "bpe"},
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
}


def sentences() -> list[str]:
    return [line for line in corpus() if line.strip() and "\0" not in line and "aaaa" not in line]


def train(lines: list[str], **arguments) -> bytes:
    content = io.BytesIO()
    options = {"vocab_size": 900, "minloglevel": 2, **arguments}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=content, **options)
    return content.getvalue()


def pieces(model: bytes) -> list[str]:
    """Return the pieces that texts can give, by id."""
    read = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(read.get_piece_size())
    return [read.id_to_piece(id) for id in ids if not read.is_control(id) and not read.is_unknown(id)]


def write_ids(path: Path, tokens: list[str]) -> None:
    path.write_text(json.dumps({token: id for id, token in enumerate(tokens)}), encoding="utf-8")


def write_marian(folder: Path, *, apart: bool) -> None:
    """Write a model for each language, and a vocabulary that lacks some pieces of both."""
    source, target = train(sentences()[::2], **ARGUMENTS["unigram"]), train(sentences()[1::2], **ARGUMENTS["unigram"])
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    both = sorted({*pieces(source), *pieces(target)})
    kept = [piece for i, piece in enumerate(both) if i % 17]
    write_ids(folder / "vocab.json", ["</s>", "<unk>", ">>fr<<", ">>cmn_Hans<<", *kept, "<pad>"])
    if apart:
        write_ids(folder / "target_vocab.json", ["</s>", "<unk>", *reversed(pieces(target)), "<pad>"])


def write_blenderbot(folder: Path) -> None:
    """Write merges over words, and a vocabulary that lacks some of what they make."""
    rust = RustTokenizer(models.BPE(unk_token="", end_of_word_suffix="</w>"))
    rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.BpeTrainer(vocab_size=1200, end_of_word_suffix="</w>", show_progress=False)
    rust.train_from_iterator([line.lower() for line in corpus()], trainer)
    rust.model.save(str(folder))
    parts = sorted(rust.get_vocab(), key=rust.get_vocab().get)
    names = dict.fromkeys(part[:-4] if part.endswith("</w>") else f"{part}@@" for part in parts)
    kept = [name for i, name in enumerate(names) if i % 13]
    write_ids(folder / "vocab.json", ["__null__", "__start__", "__end__", "__unk__", *kept])


def write_fsmt(folder: Path) -> None:
    """Write merges over the words of two languages, and a vocabulary for each, which lacks some of what they make."""
    rust = RustTokenizer(models.BPE(unk_token="", end_of_word_suffix="</w>"))
    rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.BpeTrainer(vocab_size=1200, end_of_word_suffix="</w>", show_progress=False)
    rust.train_from_iterator([*corpus(), "don &apos;t say &quot; yes &quot; @-@ s &amp;"], trainer)
    rust.model.save(str(folder))
    (folder / "vocab.json").unlink()
    parts = sorted(rust.get_vocab(), key=rust.get_vocab().get)
    for side, order, step in (("src", parts, 13), ("tgt", parts[::-1], 11)):
        kept = [part for i, part in enumerate(order) if i % step]
        write_ids(folder / f"vocab-{side}.json", ["<s>", "<pad>", "</s>", "<unk>", *kept])


def write_prophetnet(folder: Path) -> None:
    """Write BERT's words under the marks and the file name of ProphetNet."""
    words = [word for word in BERT_VOCABULARY.read_text(encoding="utf-8").splitlines() if not word.startswith("[")]
    lines = ["[PAD]", "[UNK]", "[X_SEP]", "[SEP]", "[MASK]", *words]
    (folder / "prophetnet.tokenizer").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write(folder: Path, family: str) -> Path:
    """Fill a new folder with the files of a family."""
    cls, model, config = FAMILIES[family]
    folder.mkdir(parents=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": cls, **config}))
    if cls == "MarianTokenizer":
        write_marian(folder, apart="separate_vocabs" in config)
    elif cls == "BlenderbotSmallTokenizer":
        write_blenderbot(folder)
    elif cls == "FSMTTokenizer":
        write_fsmt(folder)
    elif cls == "ProphetNetTokenizer":
        write_prophetnet(folder)
    elif model:
        content = train(sentences(), **ARGUMENTS[model])
        (folder / ("spiece.model" if cls == "PegasusTokenizer" else "sentencepiece.bpe.model")).write_bytes(content)
        if cls == "M2M100Tokenizer":
            tokens = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces(content)), "madeupword0"]
            write_ids(folder / "vocab.json", tokens)
    return folder
