"""Conversations to token ids, against the original library."""

import pickle
from collections.abc import Mapping
from itertools import chain

import numpy as np
import pytest
import torch

from pellucid import AutoTokenizer
from pellucid.errors import ArgumentError, InputError
from pellucid.tokenizer import BatchEncoding

TEMPLATE = """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}
<a>{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}

{% else %}<u>{{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}{{ mood }}"""
CHAT = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": " yo né 👍 "},
    {"role": "user", "content": "Hé"},
    {"role": "assistant", "content": "ok"},
]
WAYS = [
    {},
    {"return_dict": False},
    {"tokenize": False},
    {"tokenize": False, "return_dict": True},
    {"add_generation_prompt": True},
    {"mood": "calm"},
    {"continue_final_message": True},
    {"truncation": True, "max_length": 9},
    {"max_length": 9},
    {"truncation": True, "max_length": 60, "padding": "max_length"},
    {"padding": True, "return_tensors": "np"},
    {"padding": True, "return_tensors": "pt"},
    {"padding": True, "return_tensors": "pt", "return_dict": False},
    {"tokenizer_kwargs": {"return_offsets_mapping": True, "return_length": True}},
    {"return_assistant_tokens_mask": True},
    {"return_assistant_tokens_mask": True, "padding": True},
    {"return_assistant_tokens_mask": True, "padding": True, "return_tensors": "pt"},
    {"return_assistant_tokens_mask": True, "padding": "max_length", "max_length": 200, "return_tensors": "np"},
]


def plain(value):
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, torch.Tensor)) else value


@pytest.fixture
def chatting(both):
    """Return a function that gives a family's tokenizer with a chat template, here and in the original library."""
    used = []

    def load(family):
        pair = both(family)
        used.extend(pair)
        for tokenizer in pair:
            tokenizer.chat_template = TEMPLATE
        return pair

    yield load
    for tokenizer in used:
        tokenizer.chat_template = None
    for original in used[1::2]:  # which keeps what its last call said
        original.backend_tokenizer.no_padding()
        original.backend_tokenizer.no_truncation()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("chats", [CHAT, CHAT[:2], [CHAT, CHAT[:2], CHAT[:3]]], ids=["one", "short", "several"])
def test_same(chatting, family, way, chats):
    ours, original = chatting(family)
    if "padding" in way and ours.pad_token is None:
        way = {name: value for name, value in way.items() if name not in ("padding", "return_tensors")}
    mine, theirs = (tokenizer.apply_chat_template(chats, **way) for tokenizer in (ours, original))
    assert plain(mine) == plain(theirs)
    if isinstance(mine, BatchEncoding):
        assert list(mine) == list(theirs)
        assert {type(value) for value in mine.values()} == {type(value) for value in theirs.values()}
    else:
        assert type(mine) is type(theirs)


def said(tokenizer, encoded):
    tokens = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    return tokenizer.decode([id for id, mask in tokens if mask])


def test_masks_say_what_the_assistant_said(chatting):
    tokenizer, _ = chatting("gpt2")
    whole = " yo né 👍 <|endoftext|>ok<|endoftext|>"
    assert said(tokenizer, tokenizer.apply_chat_template(CHAT, return_assistant_tokens_mask=True)) == whole
    tokenizer, _ = chatting("bert")  # has no token for a space; the original then finds nothing
    assert said(tokenizer, tokenizer.apply_chat_template(CHAT, return_assistant_tokens_mask=True)) == "yo ne [UNK] ok"


@pytest.mark.parametrize("side", ["right", "left"])
def test_masks_of_what_is_left(chatting, side):
    """The original gives up on what is cut in the middle."""
    tokenizer, _ = chatting("gpt2")
    options = {"return_assistant_tokens_mask": True, "truncation": True}
    length = len(tokenizer.apply_chat_template(CHAT)["input_ids"])
    tokenizer.truncation_side = side
    try:
        for short in range(1, length):
            cut = tokenizer.apply_chat_template(CHAT, max_length=short, **options)["assistant_masks"]
            whole = tokenizer.apply_chat_template(CHAT, return_assistant_tokens_mask=True)["assistant_masks"]
            assert cut == (whole[:short] if side == "right" else whole[-short:])
    finally:
        tokenizer.truncation_side = "right"


def test_masks_of_pieces(chatting):
    tokenizer, _ = chatting("gpt2")
    options = {"return_overflowing_tokens": True, "return_offsets_mapping": True}
    pieces = tokenizer.apply_chat_template(
        CHAT, return_assistant_tokens_mask=True, truncation=True, max_length=7, tokenizer_kwargs=options
    )
    whole = tokenizer.apply_chat_template(CHAT, return_assistant_tokens_mask=True)
    assert [*chain(*pieces["assistant_masks"])] == whole["assistant_masks"]


def test_templates_of_a_tokenizer(chatting):
    tokenizer, _ = chatting("gpt2")
    assert tokenizer.get_chat_template() == TEMPLATE
    tokenizer.chat_template = {"default": "D{{ tools }}", "tool_use": "T", "rag": "R{{ documents | length }}"}
    render = lambda **options: tokenizer.apply_chat_template(CHAT, tokenize=False, **options)  # noqa: E731
    assert render() == "DNone"
    assert render(tools=iter([])) == "T"
    assert render(chat_template="rag", documents=[{"text": "x"}]) == "R1"
    assert render(chat_template="{{ 1 + 1 }}") == "2"
    with pytest.raises(InputError, match=r"'tool_us'.*did you mean 'tool_use'"):
        render(chat_template="tool_us")
    assert pickle.loads(pickle.dumps(tokenizer)).chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    "options, error, fault",
    [
        ({"add_generation_prompt": True, "continue_final_message": True}, InputError, "Take one of the two"),
        ({"return_assistant_tokens_mask": True, "return_dict": False}, InputError, "leave return_dict and tokenize"),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, InputError, "leave return_dict and tokenize"),
        ({"return_assistant_tokens_mask": True, "continue_final_message": True}, InputError, "whole messages"),
        ({"return_assistant_tokens_mask": True, "chat_template": "{{ 1 }}"}, InputError, "this one has none"),
        ({"add_generation_promt": True}, ArgumentError, "did you mean 'add_generation_prompt'"),
        ({"sanitize_control_tokens": True}, ArgumentError, "not implemented"),
        ({"tokenizer_kwargs": {"strid": 1}}, ArgumentError, "did you mean 'stride'"),
        ({"tools": [5]}, InputError, "tool 0 can not be used"),
    ],
    ids=str,
)
def test_faults(chatting, options, error, fault):
    tokenizer, _ = chatting("gpt2")
    with pytest.raises(error, match=fault):
        tokenizer.apply_chat_template(CHAT, **options)


def test_objects_that_a_template_prints(chatting):
    tokenizer, _ = chatting("gpt2")
    messages = [{"role": "user", "content": [{"type": "image", "image": np.zeros(2)}]}]
    with pytest.raises(InputError, match=r"messages\[0\]\['content'\]\[0\]\['image'\] is of the type ndarray"):
        tokenizer.apply_chat_template(messages)
    assert tokenizer.apply_chat_template(messages, chat_template="{{ messages | length }}", tokenize=False) == "1"


def test_no_template(both):
    with pytest.raises(InputError, match=r"no chat template.*tokenizer_config\.json"):
        both("gpt2")[0].apply_chat_template(CHAT)


# --- files ------------------------------------------------------------------------------------------------------------

SEVERAL = {"default": "d", "rag": "é\n{{ x }}\n"}


@pytest.fixture
def folder(both, tmp_path):
    both("gpt2")[0].save_pretrained(tmp_path / "x")
    return tmp_path / "x"


@pytest.mark.parametrize("template", ["one\n{{ x }}\n", SEVERAL, {"rag": "r"}], ids=["one", "several", "no default"])
@pytest.mark.parametrize("files", [True, False])
def test_files_of_the_original(folder, tmp_path, template, files):
    import transformers

    original = transformers.AutoTokenizer.from_pretrained(str(folder))
    original.chat_template = template
    original.save_pretrained(str(tmp_path / "theirs"), save_jinja_files=files)
    ours = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert ours.chat_template == template
    ours.save_pretrained(tmp_path / "ours")
    ours.save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        assert transformers.AutoTokenizer.from_pretrained(str(tmp_path / name)).chat_template == template


NAMED = '[{"name": "default", "template": "cd"}, {"name": "rag", "template": "cr"}]'
SOURCES = [  # tokenizer_config.json's value in JSON, other files
    ('"c"', {}),
    (NAMED, {}),
    ('{"default": "x"}', {}),
    ('"c"', {"chat_template.jinja": "j"}),
    (NAMED, {"chat_template.jinja": "j"}),
    ("null", {"additional_chat_templates/rag.jinja": "r"}),
    ('"c"', {"additional_chat_templates/rag.jinja": "r"}),
    (NAMED, {"additional_chat_templates/tool_use.jinja": "r"}),
    (NAMED, {"chat_template.jinja": "j", "additional_chat_templates/rag.jinja": "r"}),
    ("null", {"chat_template.jinja": "j", "additional_chat_templates/default.jinja": "D"}),
    ("null", {"additional_chat_templates/default.jinja": "D", "additional_chat_templates/x.txt": "x"}),
    ('"c"', {"chat_template.json": '{"chat_template": "J"}'}),
    ("null", {"chat_template.jinja": "j\n\n", "chat_template.json": '{"chat_template": "J"}'}),
]


@pytest.mark.parametrize("value, files", SOURCES, ids=str)
def test_which_file_wins(folder, value, files):
    import transformers

    config = (folder / "tokenizer_config.json").read_text().rstrip().removesuffix("}").rstrip()
    (folder / "tokenizer_config.json").write_text(f'{config}, "chat_template": {value}}}')
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    original = transformers.AutoTokenizer.from_pretrained(str(folder)).chat_template
    assert AutoTokenizer.from_pretrained(folder).chat_template == original
    assert AutoTokenizer.from_pretrained(folder, chat_template="mine").chat_template == "mine"


def test_the_file_of_processors_is_the_last_resort(folder):
    (folder / "chat_template.json").write_text('{"chat_template": "J"}')
    assert AutoTokenizer.from_pretrained(folder).chat_template == "J"


def test_nothing_is_left_of_former_templates(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("old")
    tokenizer = AutoTokenizer.from_pretrained(folder, chat_template="new")
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template == "new"
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
