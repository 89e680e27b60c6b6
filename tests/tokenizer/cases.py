"""Texts that break tokenizers, and small vocabularies in every format, trained here."""
# ruff: noqa: RUF001 - characters that look alike are what this is about

import base64
import json
import shutil
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"
BERT_VOCABULARY = DATA / "bert-base-uncased" / "vocab.txt"

UGLY = [
    "",
    " ",
    "   \t\n ",
    "Hello, world!",
    "  leading and trailing  ",
    "multiple   spaces\tand\ttabs",
    "line\nbreaks\r\nof\rall\u2028kinds\u2029here\x85",
    "I'm sure they've said it isn't we'll you'd",
    "don\u2019t \u201cquote\u201d me \u2014 ok\u2026",
    "numbers 1 12 123 1234567890 3.14 1,000 1e-5",
    "CamelCase snake_case kebab-case SHOUTING",
    "naïve café résumé Ångström ÀÉÎÕÜ",
    "nai\u0308ve cafe\u0301 decomposed",
    "ﬁ ﬂ ligatures ½ ² № ℃ ＦＵＬＬ width",
    "中文字符和日本語テスト、한국어도",
    "漢字kana混合text",
    "שלום עולם مرحبا بالعالم",
    "नमस्ते दुनिया ไทย ខ្មែរ",
    "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪",
    "zero\u200bwidth\u200cjoin\u200ders\ufeff\u2060\u00ad",
    "nul\x00bell\x07esc\x1bdel\x7f\x80\x9f",
    "\x00",
    "\ufffd\ufffe\uffff \U0010ffff \ue000",
    "nbsp\u00a0thin\u2009em\u2003ideographic\u3000space",
    "[CLS] [SEP] [MASK] [PAD] [UNK] in text",
    "<s> </s> <mask> <pad> <unk> <|endoftext|> in text",
    "a[MASK]b a<mask>b  <mask>  <mask><mask>",
    "##ing ##s #hash ▁ ▁▁under Ġ Ċ </w>",
    "def f(x):\n    return x ** 2  # comment\n\n\n",
    "https://example.org/a?b=c&d=%20 me@mail.com",
    "$€£¥ +-*/=<>^~`|\\",
    "a" * 300,
    "ab " * 200,
    "\u0301\u0302\u0303 lone marks",
    "İstanbul ıI ǅ ß ẞ ς Σ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀",
]


def corpus() -> list[str]:
    """Return lines of English words and of everything else, the same on every machine."""
    words = [word for word in BERT_VOCABULARY.read_text(encoding="utf-8").split() if word.isalpha()]
    lines = [" ".join(words[start : start + 12]) for start in range(0, len(words), 48)]
    capitals = [line.title() + "." for line in lines[::3]]
    return [*lines, *capitals, *UGLY, "I'm here, aren't you? It's 12:30 - 1,000 dollars!"]


BYTE_LEVEL_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|startoftext|>", "[CLS]", "[SEP]"]

SENTENCEPIECE = {  # arguments of the trainer
    "t5": dict(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "xlmr": dict(model_type="unigram"),
    "albert": dict(
        model_type="unigram",
        normalization_rule_name="nfkc_cf",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols="[CLS],[SEP]",
        user_defined_symbols="[MASK]",
    ),
    "xlnet": dict(model_type="unigram", control_symbols="<cls>,<sep>,<pad>,<mask>"),
    "llama": dict(
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
    ),
    "gemma": dict(
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols="<start_of_turn>,\n,\n\n,<b>",
    ),
    "symbols": dict(
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols="\n,\n\n,\u2581\u2581,\u2581\u2581\u2581,<b>",
    ),
    "collapsed": dict(model_type="bpe", normalization_rule_name="nfkc"),
}


def train_vocabularies(folder: Path) -> None:
    """Write `bert.txt`, byte-level `vocab.json` and `merges.txt`, `*.model` and `ranks.tiktoken` into a folder."""
    import sentencepiece
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = corpus()
    shutil.copy(BERT_VOCABULARY, folder / "bert.txt")

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = level
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=BYTE_LEVEL_SPECIAL,
        initial_alphabet=level.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(lines, trainer)
    rust.model.save(str(folder))

    clip = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    clip.pre_tokenizer = level
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=level.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    clip.train_from_iterator((line.lower() for line in lines), trainer)
    clip.model.save(str(folder), "clip")

    sentences = [line for line in lines if line.strip() and "\0" not in line]
    for name, arguments in SENTENCEPIECE.items():
        with open(folder / f"{name}.model", "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences), model_writer=file, vocab_size=1500, minloglevel=2, **arguments
            )

    from pellucid.tokenizer.tiktoken import byte_characters

    bytes_of = {character: byte for byte, character in enumerate(byte_characters())}
    by_id = sorted(rust.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in by_id if token not in BYTE_LEVEL_SPECIAL]
    raw = [bytes(bytes_of[character] for character in token) for token in tokens]
    ranked = sorted(raw, key=len)[:256] + [token for token in raw if len(token) > 1]
    content = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranked))
    (folder / "ranks.tiktoken").write_text(content)


def _mask(token: str) -> dict:
    return {"content": token, "lstrip": True, "normalized": False, "special": True, "__type": "AddedToken"}


BYTE_LEVEL = {"vocab.json": "vocab.json", "merges.txt": "merges.txt"}
XLMR = {"xlmr.model": "sentencepiece.bpe.model"}
FAMILIES = {  # name -> class, files (source: name), tokenizer_config.json
    "bert": ("BertTokenizer", {"bert.txt": "vocab.txt"}, {"model_max_length": 512}),
    "bert-cased": ("BertTokenizer", {"bert.txt": "vocab.txt"}, {"do_lower_case": False}),
    "bert-accents": (
        "BertTokenizer",
        {"bert.txt": "vocab.txt"},
        {"strip_accents": False, "tokenize_chinese_chars": False},
    ),
    "distilbert": ("DistilBertTokenizer", {"bert.txt": "vocab.txt"}, {}),
    "gpt2": ("GPT2Tokenizer", BYTE_LEVEL, {"pad_token": "<|endoftext|>"}),
    "gpt2-bos": ("GPT2Tokenizer", BYTE_LEVEL, {"add_bos_token": True, "add_prefix_space": True}),
    "roberta": ("RobertaTokenizer", BYTE_LEVEL, {"mask_token": _mask("<mask>")}),
    "roberta-space": ("RobertaTokenizer", BYTE_LEVEL, {"mask_token": _mask("<mask>"), "add_prefix_space": True}),
    "qwen2": ("Qwen2Tokenizer", BYTE_LEVEL, {}),
    "clip": ("CLIPTokenizer", {"clip-vocab.json": "vocab.json", "clip-merges.txt": "merges.txt"}, {}),
    "t5": ("T5Tokenizer", {"t5.model": "spiece.model"}, {}),
    "xlm-roberta": ("XLMRobertaTokenizer", XLMR, {"mask_token": _mask("<mask>")}),
    "camembert": ("CamembertTokenizer", XLMR, {"mask_token": _mask("<mask>")}),
    "albert": ("AlbertTokenizer", {"albert.model": "spiece.model"}, {}),
    "xlnet": ("XLNetTokenizer", {"xlnet.model": "spiece.model"}, {}),
    "llama": ("LlamaTokenizer", {"llama.model": "tokenizer.model"}, {"legacy": False, "add_bos_token": True}),
    "gemma": ("GemmaTokenizer", {"gemma.model": "tokenizer.model"}, {"add_bos_token": True, "mask_token": "<b>"}),
}


def write_folder(folder: Path, source: Path, files: dict[str, str], config: dict | None = None) -> Path:
    """Fill a new folder with copies of files under other names, and a tokenizer_config.json."""
    folder.mkdir(parents=True)
    for old, new in files.items():
        shutil.copy(source / old, folder / new)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
