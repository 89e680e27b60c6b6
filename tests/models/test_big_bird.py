"""BigBird's sparse attention, its questions, and published configurations."""

import pytest
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from cases import CASES
from oracle import checkpoint, ours, reference
from pellucid import Layout
from pellucid.errors import ConfigError
from pellucid.models.big_bird import BigBirdConfig, find_blocks

BASE = {  # bigbird-roberta-base's
    "architectures": ["BigBirdForPreTraining"], "attention_probs_dropout_prob": 0.1, "attention_type": "block_sparse",
    "block_size": 64, "bos_token_id": 1, "eos_token_id": 2, "gradient_checkpointing": False, "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 4096, "model_type": "big_bird", "num_attention_heads": 12,
    "num_hidden_layers": 12, "num_random_blocks": 3, "pad_token_id": 0, "position_embedding_type": "absolute",
    "rescale_embeddings": False, "sep_token_id": 66, "transformers_version": "4.4.0.dev0", "type_vocab_size": 2,
    "use_bias": True, "use_cache": True, "vocab_size": 50358,
}  # fmt: skip
SMALL = {"block_size": 4, "num_random_blocks": 2}  # sparse from 37 tokens on
LENGTHS = [37, 60, 12, 36, 57]


def test_a_published_config():
    config = BigBirdConfig.from_dict(BASE)
    assert (config.max_tokens, config.longest_full) == (4096, 704) and config.to_dict() == BASE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_type", "sparse"),
        ("block_size", 0),
        ("num_random_blocks", -1),
        ("add_cross_attention", True),
        ("hidden_act", "glu"),
        ("num_attention_heads", 7),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        BigBirdConfig(**BASE | {name: value})


def rows_and_places():
    """Draw texts of `LENGTHS`, and places in the small model's table, which is shorter."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 99, (length,), generator=generator) for length in LENGTHS]
    return rows, [torch.arange(length) % 40 for length in LENGTHS]


def alone(**settings):
    """Run the original on each text; a short one would end its sparse attention for good, so each time anew."""
    config = transformers.BigBirdConfig(**CASES["big_bird"] | settings)
    original = transformers.BigBirdModel.from_pretrained(checkpoint("big_bird", "Model"), config=config).eval()
    hidden = []
    for row, place in zip(*rows_and_places(), strict=True):
        original.set_attention_type(config.attention_type)
        types = torch.zeros_like(row)[None]
        hidden.append(original(row[None], position_ids=place[None], token_type_ids=types).last_hidden_state[0])
    return hidden


@pytest.mark.parametrize("settings", [SMALL, SMALL | {"attention_type": "original_full"}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_long_and_short_texts_in_a_batch(settings, side):
    rows, places = rows_and_places()
    ids, places = (pad_sequence(x, batch_first=True, padding_side=side) for x in (rows, places))
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    model = ours("big_bird", "Model", **settings)
    out = model(ids, mask, position_ids=places, output_attentions=True)
    for i, hidden in enumerate(alone(**settings)):
        assert torch.allclose(out.last_hidden_state[i][mask[i].bool()], hidden, atol=1e-5)
        for weights in out.attentions:
            kept = weights[i][:, mask[i].bool()][:, :, mask[i].bool()]
            assert torch.allclose(kept.sum(-1), torch.ones(()), atol=1e-5)


def test_packed_texts():
    rows, places = rows_and_places()
    model, layout = ours("big_bird", "Model", **SMALL), Layout.packed(LENGTHS)
    out = model(torch.cat(rows)[None], layout, position_ids=torch.cat(places)[None], output_attentions=True)
    start = 0
    for row, place, hidden in zip(rows, places, alone(**SMALL), strict=True):
        part = slice(start, start := start + len(row))
        assert torch.allclose(out.last_hidden_state[0, part], hidden, atol=1e-5)
        single = model(row[None], position_ids=place[None], output_attentions=True)
        for together, weights in zip(out.attentions, single.attentions, strict=True):
            assert torch.allclose(together[0, :, part, part], weights[0], atol=1e-5)


def test_a_row_of_padding_among_long_texts():
    mask = torch.ones(2, 50, dtype=torch.long)
    mask[1] = 0
    out = ours("big_bird", "Model", **SMALL)(torch.ones_like(mask), mask, position_ids=torch.zeros_like(mask))
    assert all(value.isfinite().all() for value in out.values())


def test_blocks_of_a_text():
    blocks = find_blocks(Layout.packed([57, 20]), 4, 2, 1, None)  # 15 blocks, and a text that is not sparse
    assert blocks.ends.tolist() == [[0, 14], [0, 4]]
    seen = [row[counts].tolist() for row, counts in zip(blocks.seen[0, 0], blocks.counts[0, 0], strict=True)]
    assert [sorted(seen[i]) for i in (1, 2, 13)] == [
        [0, 0, 0, 1, 2, 14],
        [0, 0, 0, 1, 2, 3, 14],
        [0, 0, 0, 12, 13, 14],
    ]
    assert blocks.seen[1, 0, 1].tolist() == list(range(9)) and blocks.counts[1].all()


def test_random_blocks_in_training():
    layout = Layout.packed([57, 80])
    blocks, again, other = (find_blocks(layout, 4, 2, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(blocks.seen, again.seen) and not torch.equal(blocks.seen, other.seen)
    assert not torch.equal(blocks.seen[:, 0], blocks.seen[:, 1])  # each head its own
    for text, last in enumerate((14, 19)):
        for row in range(1, last):
            for head in range(3):
                seen = blocks.seen[text, head, row][blocks.counts[text, head, row]].tolist()
                assert len(set(seen)) == len(seen) == (6 if row in (1, last - 1) else 7) and max(seen) == last
    model = ours("big_bird", "Model", **SMALL).train()
    model(torch.ones(1, 40, dtype=torch.long)).last_hidden_state.sum().backward()


# --- questions --------------------------------------------------------------------------------------------------------


def test_a_question_is_no_answer():
    model, original = ours("big_bird", "ForQuestionAnswering"), reference("big_bird", "ForQuestionAnswering")
    rows = [torch.randint(5, 99, (length,)) for length in (9, 12, 7)]
    for row, separators in zip(rows, ([3], [5, 11], []), strict=True):
        row[separators] = 2
    theirs = [original(row[None]) for row in rows]
    packed = model(torch.cat(rows)[None], Layout.packed([9, 12, 7]))
    ids = pad_sequence(rows, batch_first=True, padding_side="left", padding_value=2)
    left = model(ids, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"))
    for name in ("start_logits", "end_logits"):
        for i, (one, part) in enumerate(zip(theirs, packed[name][0].split([9, 12, 7]), strict=True)):
            assert torch.allclose(part, one[name][0], atol=1e-5, rtol=1e-6)
            assert torch.allclose(left[name][i, -len(part) :], one[name][0], atol=1e-5, rtol=1e-6)
    assert packed.start_logits[0, :9].argmax() not in (1, 2, 3)


def test_question_lengths():
    model, original = ours("big_bird", "ForQuestionAnswering"), reference("big_bird", "ForQuestionAnswering")
    ids = torch.randint(5, 99, (2, 9))
    asked = torch.tensor([4, 6])
    words = model.bert.embeddings.word_embeddings(ids)
    for inputs in ({"input_ids": ids}, {"inputs_embeds": words}):
        mine = model(**inputs, question_lengths=asked).start_logits
        types = (torch.arange(9) >= asked[:, None]).long()  # which the original guesses from ids alone
        theirs = original(**inputs, question_lengths=asked[:, None], token_type_ids=types).start_logits
        assert torch.allclose(mine, theirs, atol=1e-5, rtol=1e-6)


@torch.no_grad()
def test_a_decoder_looks_back_at_all():
    """However long a text is; the original reads long ones in blocks, which see later ones, unless told otherwise."""
    model, folder = ours("big_bird:decoder", "ForCausalLM"), checkpoint("big_bird:decoder", "ForCausalLM")
    sparse = type(model).from_pretrained(folder, block_size=1, num_random_blocks=1)
    ids = torch.arange(5, 35)[None]
    wanted = transformers.BigBirdForCausalLM.from_pretrained(folder, attention_type="original_full")(ids).logits
    assert torch.allclose(sparse(ids).logits, wanted, atol=1e-5)
    assert torch.equal(sparse(ids).logits, model(ids).logits)
