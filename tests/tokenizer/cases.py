"""Texts that break tokenizers, and small vocabularies in every format, trained here."""

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
    lines = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    capitals = [line.title() + "." for line in lines[::3]]
    return [*lines, *capitals, *UGLY, "I'm here, aren't you? It's 12:30 - 1,000 dollars!"] * 2
