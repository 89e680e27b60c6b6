import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from pellucid.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizers():
    """A tokenizer with a token for each byte, here and in the original library."""
    import transformers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust = RustTokenizer(models.BPE({character: id for id, character in enumerate(sorted(level.alphabet()))}, []))
    rust.pre_tokenizer, rust.decoder = level, decoders.ByteLevel()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return Tokenizer(rust, **tokens), transformers.PreTrainedTokenizerFast(tokenizer_object=rust, **tokens)


@pytest.fixture(scope="session")
def both(tokenizers):
    """Return a function that renders here and in the original library: two texts, None for a refusal."""
    from pellucid.errors import PellucidError

    ours, original = tokenizers

    def render(conversation, template, **options):
        try:
            mine = ours.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
        except PellucidError:
            mine = None
        try:
            theirs = original.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
        except Exception:
            theirs = None
        return mine, theirs

    return render
