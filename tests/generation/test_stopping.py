"""Stop strings are found wherever they stand, first spaces included."""

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from pellucid import Tokenizer
from pellucid.generation.stopping import StopStrings


@pytest.fixture(scope="module")
def tokenizer():
    """A vocabulary whose words begin with a space that is left out at the beginning of a text."""
    words = ["<s>", "▁the", "▁end", "of", "▁it"]
    rust = RustTokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return Tokenizer(tokenizer_object=rust, bos_token="<s>")


@pytest.mark.parametrize(
    ("string", "ids", "prompt", "stops"),
    [
        (" end", [1, 2], 1, True),  # the first token that is new
        ("the", [1, 2], 1, False),  # of the prompt
        ("e end", [1, 2], 1, False),  # half of it
        ("endof", [1, 2, 3], 1, True),
        (" it", [1, 2, 3, 4], 1, True),
        ("the", [1], 0, True),  # after embeddings there is no prompt to go on from
        ("end", [0, 2], 1, True),
    ],
)
def test_where_stop_strings_stand(tokenizer, string, ids, prompt, stops):
    found = StopStrings([string, "\x00"], tokenizer, prompt)(torch.tensor([ids, [3] * len(ids)]), torch.zeros(2, 5))
    assert found.tolist() == [stops, False]
