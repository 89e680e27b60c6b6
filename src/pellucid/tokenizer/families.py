"""What a class name such as `BertTokenizer` stands for, where a folder's files do not say it themselves."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import TokenizerError

_IDS = ("input_ids", "attention_mask")
_IDS_AND_TYPES = ("input_ids", "token_type_ids", "attention_mask")


class Family(NamedTuple):
    """Tokenizers that differ in their vocabulary only.

    Args:
        format: the builder of its vocabulary: "wordpiece", "byte_level", "sentencepiece", "tiktoken", or the name of
            the one family that has it; None if only a tokenizer.json can be read.
        special: the tokens with a role.
        single: where special tokens go around a text `$A`, by role and with the type id if not 0: "cls $A sep".
        pair: the same for a text and its pair `$B`.
        model_input_names: what a call returns.
        defaults: settings, where tokenizer_config.json does not say otherwise.
        options: how the builder of the format differs from its usual way.
    """

    format: str | None = None
    special: Mapping[str, str | AddedToken] = MappingProxyType({})
    single: str = "$A"
    pair: str = "$A $B:1"
    model_input_names: tuple[str, ...] = _IDS
    defaults: Mapping[str, Any] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})


def template(
    rust: RustTokenizer, single: str, pair: str, roles: Mapping[str, Any], origin: str
) -> processors.TemplateProcessing:
    """Return the post-processor that puts special tokens around texts.

    Args:
        rust: the tokenizer whose vocabulary has the tokens.
        single: as in `Family`.
        pair: as in `Family`.
        roles: the token of each role, under names such as "cls_token".
        origin: where the vocabulary comes from, for messages.

    Raises:
        TokenizerError: if the vocabulary lacks one of the tokens.
    """
    special: dict[str, int] = {}

    def name(piece: str) -> str:
        role, colon, type_id = piece.partition(":")
        if role.startswith("$"):
            return piece
        token = roles.get(f"{role}_token")
        id = None if token is None else rust.token_to_id(str(token))
        if token is None or id is None:
            raise TokenizerError(
                f"{origin}: the vocabulary of {rust.get_vocab_size()} tokens lacks the {role}_token {token!r}. "
                f"Name the one that it has as {role}_token in tokenizer_config.json."
            )
        special[str(token)] = id
        return f"{token}{colon}{type_id}"

    return processors.TemplateProcessing(
        single=[name(piece) for piece in single.split()],
        pair=[name(piece) for piece in pair.split()],
        special_tokens=list(special.items()),
    )


def frame(rust: RustTokenizer, family: Family, settings: Mapping[str, Any], origin: str) -> None:
    """Set the step that puts the special tokens of a family around texts.

    Args:
        rust: the tokenizer, with every token in its vocabulary.
        family: where they go.
        settings: the token of each role, and `add_bos_token` and `add_eos_token`.
        origin: where the vocabulary comes from, for messages.

    Raises:
        TokenizerError: if the vocabulary lacks one of the tokens.
    """
    start = "bos " if settings.get("add_bos_token") else ""
    end = " eos" if settings.get("add_eos_token") else ""
    single = f"{start}{family.single}{end}"
    pair = f"{single} {start and 'bos:1 '}$B:1{end and ' eos:1'}" if start or end else family.pair
    rust.post_processor = template(rust, single, pair, settings, origin)
    if family.options.get("trim_offsets"):
        cls, sep = str(settings["cls_token"]), str(settings["sep_token"])
        rust.post_processor = processors.RobertaProcessing(
            (sep, rust.token_to_id(sep) or 0),
            (cls, rust.token_to_id(cls) or 0),
            trim_offsets=True,
            add_prefix_space=bool(settings.get("add_prefix_space", False)),
        )


def _roles(**tokens: str | AddedToken) -> dict[str, str | AddedToken]:
    return {f"{role}_token": token for role, token in tokens.items()}


def _mask(token: str) -> AddedToken:
    """Return a mask that takes the space before it along, as the models of its kind were trained."""
    return AddedToken(token, lstrip=True, normalized=False, special=True)


_BERT_ROLES = _roles(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
_ROBERTA_ROLES = _roles(bos="<s>", eos="</s>", unk="<unk>", sep="</s>", pad="<pad>", cls="<s>", mask=_mask("<mask>"))
_END = "<|endoftext|>"

_BERT = Family("wordpiece", _BERT_ROLES, "cls $A sep", "cls $A sep $B:1 sep:1", _IDS_AND_TYPES)
_DISTILBERT = _BERT._replace(model_input_names=_IDS)
_FUNNEL = _BERT._replace(
    special=_roles(bos="<s>", eos="</s>", unk="<unk>", sep="<sep>", pad="<pad>", cls="<cls>", mask="<mask>"),
    single="cls:2 $A sep",
    pair="cls:2 $A sep $B:1 sep:1",
)
_PROPHETNET = Family(
    "wordpiece",
    _roles(unk="[UNK]", sep="[SEP]", pad="[PAD]", mask="[MASK]"),
    "$A sep",
    "$A sep $B:1 sep:1",
    defaults={"x_sep_token": "[X_SEP]"},
    options={"file": "prophetnet.tokenizer"},
)
_MPNET = Family(
    "wordpiece",
    _roles(bos="<s>", eos="</s>", unk="[UNK]", sep="</s>", pad="<pad>", cls="<s>", mask=_mask("<mask>")),
    "cls $A sep",
    "cls $A sep sep $B sep",
    options={"trim_offsets": True},
)
_ROBERTA = Family("byte_level", _ROBERTA_ROLES, "cls $A sep", "cls $A sep sep $B sep", options={"trim_offsets": True})
_DEBERTA = Family(
    "byte_level",
    _roles(bos="[CLS]", eos="[SEP]", unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask=_mask("[MASK]")),
    "cls $A sep",
    "cls $A sep $B:1 sep:1",
    _IDS_AND_TYPES,
)
_GPT2 = Family("byte_level", _roles(bos=_END, eos=_END, unk=_END))
_QWEN2 = Family("byte_level", _roles(eos=_END, unk=_END, pad=_END), options={"words": "qwen"})
_CLIP = Family(
    "byte_level",
    _roles(bos="<|startoftext|>", eos=_END, unk=_END, pad=_END),
    "bos $A eos",
    "bos $A eos eos $B eos",
    options={"words": "clip"},
)
_T5 = Family(
    "sentencepiece",
    _roles(eos="</s>", unk="<unk>", pad="<pad>"),
    "$A eos",
    "$A eos $B eos",
    defaults={"extra_ids": 100},
)
_BYT5 = Family(
    "byt5",
    _roles(
        **{
            role: AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)
            for role, token in (("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"))
        }
    ),
    "$A eos",
    "$A eos $B eos",
    defaults={"extra_ids": 125},
)
_PEGASUS = Family(
    "sentencepiece",
    _roles(eos="</s>", unk="<unk>", pad="<pad>", mask="<mask_2>"),
    "$A eos",
    "$A $B eos",
    defaults={"offset": 103, "mask_token_sent": "<mask_1>", "split_at_whitespace": False},
)
_MARIAN = Family(
    "marian",
    _roles(eos="</s>", unk="<unk>", pad="<pad>"),
    "$A eos",
    "$A $B eos",
    defaults={"model_max_length": 512},
)
_BLENDERBOT = Family(
    "byte_level",
    _ROBERTA_ROLES,
    "$A eos",
    "$A $B eos",
    defaults={"add_prefix_space": True},
)
_BLENDERBOT_SMALL = Family("blenderbot_small", _roles(bos="__start__", eos="__end__", unk="__unk__", pad="__null__"))
_FSMT = Family(
    "fsmt",
    _roles(bos="<s>", unk="<unk>", sep="</s>", pad="<pad>"),
    "$A sep",
    "$A sep $B:1 sep:1",
)
_XLM_ROBERTA = Family(
    "sentencepiece",
    _ROBERTA_ROLES,
    "cls $A sep",
    "cls $A sep sep $B sep",
    options={"head": ("<s>", "<pad>", "</s>", "<unk>"), "replaced": 3, "tail": ("<mask>",)},
)
# Of translators; "lang" is the token of a language, and `source` the one that is meant without a word about it.
_MBART = _XLM_ROBERTA._replace(
    single="$A eos lang",
    pair="$A $B eos lang",
    options={**_XLM_ROBERTA.options, "languages": "mbart", "source": "en_XX"},
)
_MBART50 = _MBART._replace(
    single="lang $A eos",
    pair="lang $A $B eos",
    defaults={"split_at_whitespace": False},
    options={**_MBART.options, "languages": "mbart50"},
)
_NLLB = _MBART50._replace(options={**_MBART.options, "languages": "nllb", "source": "eng_Latn"})
_PLBART = _MBART._replace(
    defaults={"split_at_whitespace": False, "clean_up_tokenization_spaces": True},
    options={**_MBART.options, "languages": "base", "source": None},
)
_M2M_100 = Family(
    "m2m_100",
    _roles(bos="<s>", eos="</s>", unk="<unk>", sep="</s>", pad="<pad>"),
    "lang $A eos",
    "lang $A $B eos",
    options={"languages": "m2m100", "source": "en"},
)
_CAMEMBERT = _XLM_ROBERTA._replace(
    options={
        "head": ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"),
        "replaced": 1,
        "tail": ("<mask>",),
    },
)
_ALBERT = Family(
    "sentencepiece",
    _roles(bos="[CLS]", eos="[SEP]", unk="<unk>", sep="[SEP]", pad="<pad>", cls="[CLS]", mask=_mask("[MASK]")),
    "cls $A sep",
    "cls $A sep $B:1 sep:1",
    _IDS_AND_TYPES,
    defaults={"do_lower_case": True, "keep_accents": False},
)
_BIG_BIRD = _ALBERT._replace(
    special={**_ALBERT.special, **_roles(bos="<s>", eos="</s>")},
    model_input_names=_IDS,
    defaults={"split_at_whitespace": False},
)
_XLNET = Family(
    "sentencepiece",
    _roles(bos="<s>", eos="</s>", unk="<unk>", sep="<sep>", pad="<pad>", cls="<cls>", mask=_mask("<mask>")),
    "$A sep cls:2",
    "$A sep $B:1 sep:1 cls:2",
    _IDS_AND_TYPES,
    defaults={"padding_side": "left", "pad_token_type_id": 3, "keep_accents": False},
)
_DEBERTA_V2 = _DEBERTA._replace(format="sentencepiece", defaults={"split_at_whitespace": False})
_LLAMA = Family(
    "sentencepiece",
    _roles(bos="<s>", eos="</s>", unk="<unk>"),
    defaults={"padding_side": "left", "add_bos_token": True},
)
_GEMMA = _LLAMA._replace(special=_roles(bos="<bos>", eos="<eos>", unk="<unk>", pad="<pad>"))
_QWEN = Family("tiktoken", options={"words": "qwen"})

_BY_NAME = {
    **dict.fromkeys(("Bert", "ConvBert", "DPRContextEncoder", "DPRQuestionEncoder", "DPRReader", "Electra"), _BERT),
    **dict.fromkeys(("LayoutLM", "Lxmert", "MobileBert", "NomicBert", "Realm", "RetriBert", "SqueezeBert"), _BERT),
    "DistilBert": _DISTILBERT,
    "Funnel": _FUNNEL,
    "MPNet": _MPNET,
    "ProphetNet": _PROPHETNET,
    **dict.fromkeys(("Roberta", "Bart", "LED", "Longformer", "Mvp"), _ROBERTA),
    "Deberta": _DEBERTA,
    **dict.fromkeys(("GPT2", "CodeGen"), _GPT2),
    "Qwen2": _QWEN2,
    "QWen": _QWEN,
    "CLIP": _CLIP,
    **dict.fromkeys(("T5", "MT5"), _T5),
    "ByT5": _BYT5,
    "Pegasus": _PEGASUS,
    "Marian": _MARIAN,
    "MBart": _MBART,
    "MBart50": _MBART50,
    "Nllb": _NLLB,
    "M2M100": _M2M_100,
    "PLBart": _PLBART,
    "Blenderbot": _BLENDERBOT,
    "BlenderbotSmall": _BLENDERBOT_SMALL,
    "FSMT": _FSMT,
    "XLMRoberta": _XLM_ROBERTA,
    "Camembert": _CAMEMBERT,
    "Albert": _ALBERT,
    "BigBird": _BIG_BIRD,
    "XLNet": _XLNET,
    "DebertaV2": _DEBERTA_V2,
    **dict.fromkeys(("Llama", "CodeLlama"), _LLAMA),
    "Gemma": _GEMMA,
    # these only from a tokenizer.json
    **dict.fromkeys(("Barthez", "Bloom", "Cohere", "FNet", "GPTNeoX"), Family()),
    **dict.fromkeys(("Herbert", "MarkupLM", "OpenAIGPT"), Family()),
    **dict.fromkeys(("PreTrained", "Reformer", "RemBert", "Splinter", "Whisper", "XGLM"), Family()),
}

# What model types use whose name is not that of their tokenizer.
_OF_MODEL = {
    **dict.fromkeys(("ernie", "megatron-bert", "nezha", "visual_bert", "vilt", "chinese_clip", "blip"), "Bert"),
    **dict.fromkeys(("data2vec-text", "ibert", "lilt", "roberta-prelayernorm"), "Roberta"),
    **dict.fromkeys(("gpt_neo", "gptj", "opt", "phi", "starcoder2"), "GPT2"),
    **dict.fromkeys(("qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe"), "Qwen2"),
    **dict.fromkeys(("switch_transformers", "umt5", "longt5", "pop2piano"), "T5"),
    **dict.fromkeys(("pegasus_x", "bigbird_pegasus"), "Pegasus"),
    "nllb-moe": "Nllb",
    **dict.fromkeys(("xlm-roberta-xl", "xmod"), "XLMRoberta"),
    **dict.fromkeys(("mistral", "mixtral"), "Llama"),
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), "Gemma"),
}


def find_family(name: str) -> Family | None:
    """Return what a class name, with or without "Fast" at its end, stands for; None if unknown."""
    name = name.removesuffix("Fast")
    if name in ("Tokenizer", "TokenizersBackend"):
        return Family()
    return _BY_NAME.get(name.removesuffix("Tokenizer")) if name.endswith("Tokenizer") else None


def class_of_model(model_type: str) -> str | None:
    """Return the name of the tokenizer class that a model type uses; None if unknown."""
    plain = model_type.replace("-", "").replace("_", "")
    stem = _OF_MODEL.get(model_type) or next((stem for stem in _BY_NAME if stem.lower() == plain), None)
    return f"{stem}Tokenizer" if stem else None
