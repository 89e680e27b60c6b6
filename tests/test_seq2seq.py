"""Every promise of a model of an encoder and a decoder, against the original."""

import copy

import pytest
import torch

from cases import EVERY_CLASS, OWN_ATTENTIONS, PADDING_COUNTS
from oracle import is_pair, of_gradients, ours, reference, stored_gradients
from pellucid import Layout
from pellucid.cache import Cache
from pellucid.errors import ConfigError, InputError
from test_models import EVEN, LENGTHS, assert_equal_outputs, numbers, padded, texts

WRITERS = ("ForConditionalGeneration", "MTModel")
PAIRS = [case for case in EVERY_CLASS if is_pair(*case)]
every_pair = pytest.mark.parametrize(("architecture", "head"), PAIRS)
every_headed = pytest.mark.parametrize(("architecture", "head"), [case for case in PAIRS if case[1] != "Model"])
every_writer = pytest.mark.parametrize(
    ("architecture", "head"), [case for case in PAIRS if case[1] in ("Model", *WRITERS)]
)
TARGETS = [5, 3, 8, 6]


def reads_twice(model):
    """Tell whether both halves read the same text, so that no target is given."""
    return "decoder_input_ids" not in model.accepts


def sources(model, lengths=LENGTHS, seed=0):
    """Draw random texts that end with the end token."""
    rows = texts(model, lengths, seed)
    for row in rows:
        row[-1] = model.config.eos_token_id
    return rows


def inputs_of(model, side="right", lengths=LENGTHS, targets=TARGETS, original=False):
    """Make a padded batch of sources and targets: (inputs, which target tokens are real)."""
    ids, mask = padded(sources(model, lengths), side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if reads_twice(model):
        return inputs, mask.bool()
    written, real = padded(texts(model, targets, seed=1), side)
    inputs |= {"decoder_input_ids": written, "decoder_attention_mask": real}
    return inputs, real.bool()


def given(model, inputs):
    """Leave out what a class does not take: the original's classifiers take masks of the target, too."""
    return {name: x for name, x in inputs.items() if name in model.accepts}


@every_pair
def test_plain_batch(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    inputs, _ = inputs_of(model, lengths=EVEN, targets=[6] * 4)
    assert_equal_outputs(model(**inputs), original(**inputs))


@every_pair
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batch(architecture, head, side):
    model, original = ours(architecture, head), reference(architecture, head)
    inputs, real = inputs_of(model, side)
    together = model(**inputs)
    for i, row in enumerate(sources(model)):
        one = {"input_ids": row[None]}
        if not reads_twice(model):
            one["decoder_input_ids"] = inputs["decoder_input_ids"][i][real[i]][None]
        for name, value in numbers(original(**one)).items():
            part = together[name][i]
            if name == "encoder_last_hidden_state":
                part = part[inputs["attention_mask"][i].bool()]
            elif value.dim() >= 2 and part.shape[:1] == real[i].shape:
                part = part[real[i]]
            assert torch.allclose(part, value[0], atol=1e-5), (name, i)


@every_pair
def test_packed_batch(architecture, head):
    model = ours(architecture, head)
    rows, targets = sources(model), texts(model, TARGETS, seed=1)
    inputs = {"input_ids": torch.cat(rows)[None], "attention_mask": Layout.packed(LENGTHS)}
    if not reads_twice(model):
        inputs |= {"decoder_input_ids": torch.cat(targets)[None], "decoder_attention_mask": Layout.packed(TARGETS)}
    together = model(**inputs)
    read = written = 0
    for i, (row, target) in enumerate(zip(rows, targets, strict=True)):
        alone = model(row[None]) if reads_twice(model) else model(row[None], decoder_input_ids=target[None])
        length = len(row) if reads_twice(model) else len(target)
        for name, value in numbers(alone).items():
            if name == "encoder_last_hidden_state":
                part = together[name][:, read : read + len(row)]
            elif value.dim() >= 2 and value.shape[1] == length:
                part = together[name][:, written : written + length]
            else:
                part = together[name][i : i + 1]
            assert torch.allclose(part, value, atol=1e-5), (name, i)
        read, written = read + len(row), written + length


def labels_of(model, head, real):
    """Make labels for a head."""
    if head == "ForSequenceClassification":
        return {"labels": torch.tensor([2, 0, 1, 1])}
    if head == "ForQuestionAnswering":
        return {"start_positions": torch.tensor([1, 0, 99, 2]), "end_positions": torch.tensor([3, 5, 99, 2])}
    torch.manual_seed(2)
    labels = torch.randint(5, model.config.vocab_size, real.shape)
    labels = labels % model.config.num_labels if head == "ForTokenClassification" else labels
    return {"labels": labels.masked_fill(~real, -100)}


@every_headed
def test_loss_and_gradients_equal(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    even = head == "ForQuestionAnswering" or (architecture, head) in PADDING_COUNTS
    inputs, real = inputs_of(model, lengths=EVEN if even else LENGTHS)
    labels = labels_of(model, head, real)
    if not architecture.startswith("fsmt"):  # whose original wants them both
        inputs = {name: x for name, x in inputs.items() if "decoder" not in name}  # what is made of the labels
    original.zero_grad()
    theirs = original(**inputs, **labels)
    theirs.loss.backward()
    mine = model(**inputs, **labels)
    mine.loss.backward()
    assert torch.allclose(mine.loss, theirs.loss, atol=1e-6)
    assert mine.keys()[0] == "loss"
    gradients = stored_gradients(architecture, head)
    reached = of_gradients(model).state_dict()
    for name, gradient in gradients.items():
        if "final_logits_bias" not in name:
            assert torch.allclose(reached[name], gradient, atol=1e-6), name


@every_pair
def test_every_parameter_gets_a_gradient(architecture, head):
    model = ours(architecture, head)
    inputs, _ = inputs_of(model)
    if "global_attention_mask" in model.accepts:  # without global tokens, nobody needs their projections
        inputs["global_attention_mask"] = (inputs["input_ids"] % 2) * inputs["attention_mask"]
    values = [value for value in model(**inputs).values() if isinstance(value, torch.Tensor)]
    torch.stack([value.square().sum() for value in values]).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    spared = ("k_proj.bias", "final_logits_bias", "k.bias", "key_proj.bias", "key.bias", "key_global.bias")
    spared += ("pooler.dense.weight", "pooler.dense.bias")  # of an encoder beside a decoder
    assert not {name for name in without if not name.endswith(spared)}  # a bias of all keys changes no weight


@every_pair
def test_hidden_states_and_attentions(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    original.set_attn_implementation("eager")
    inputs, real = inputs_of(model, lengths=EVEN if (architecture, head) in PADDING_COUNTS else LENGTHS)
    asked = {"output_hidden_states": True, "output_attentions": True}
    mine, theirs = model(**inputs, **asked), original(**inputs, **asked)
    read = inputs["attention_mask"].bool()
    absent = ("past_key_values", "decoder_ngram_hidden_states", "decoder_ngram_attentions")
    assert [name for name in mine.keys() if name not in absent] == [name for name in theirs if name not in absent]  # noqa: SIM118
    for name in {"encoder_hidden_states", "decoder_hidden_states", "hidden_states"} & {*theirs}:
        keep = read if name.startswith("encoder") else real
        for a, b in zip(mine[name], theirs[name], strict=True):
            b = (b[0] if isinstance(b, tuple) else b)[:, : keep.shape[1]]  # PEGASUS-X fills up its blocks
            assert torch.allclose(a[keep], b[keep], atol=1e-5), name
    for name in {"encoder_attentions", "decoder_attentions", "cross_attentions", "attentions"} & {*theirs}:
        keep = read if name.startswith("encoder") else real
        for a, b in zip(mine[name], theirs[name], strict=True):
            a = a.transpose(1, 2)[:, : keep.shape[1]][keep]
            if architecture not in OWN_ATTENTIONS or not name.startswith("encoder"):
                scores = ("cross",) if architecture.startswith("encoder_decoder") else ("cross", "encoder")
                if "prophetnet" in architecture and name.startswith(scores):
                    b = b.softmax(dim=-1)  # it gives scores, and those of all its streams
                assert torch.allclose(a, b.transpose(1, 2)[:, : keep.shape[1]][keep], atol=1e-5), name
            assert torch.allclose(a.sum(-1), torch.ones(()), atol=1e-5)


@every_pair
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(architecture, head, dtype):
    model, exact = ours(architecture, head, dtype=dtype), ours(architecture, head)
    inputs, _ = inputs_of(model, "left")
    wanted = exact(**inputs)
    for name, value in numbers(model(**inputs)).items():
        assert value.dtype == dtype and value.isfinite().all()
        assert torch.nn.functional.cosine_similarity(value.float().flatten(), wanted[name].flatten(), dim=0) > 0.98


@every_pair
def test_compiles_to_one_graph(architecture, head):
    model = ours(architecture, head)
    inputs, _ = inputs_of(model, "left")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        mine, plain = compiled(**inputs), model(**inputs)
    assert all(torch.allclose(mine[name], plain[name], atol=1e-5) for name in numbers(plain))


@every_pair
def test_copies(architecture, head):
    model = ours(architecture, head)
    inputs, _ = inputs_of(model)
    assert torch.equal(copy.deepcopy(model)(**inputs)[0], model(**inputs)[0])


# --- caches -----------------------------------------------------------------------------------------------------------


def write_in_chunks(model, source, targets, cache, cuts):
    """Write targets piece by piece; the source is read once."""
    pieces, start = [], 0
    for end in (*cuts, targets.shape[1]):
        read = source if start == 0 else {}
        pieces.append(model(**read, decoder_input_ids=targets[:, start:end], cache=cache)[0])
        start = end
    return torch.cat(pieces, dim=1)


@every_writer
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_chunks_equal_one_pass(architecture, head, side):
    model = ours(architecture, head)
    ids, mask = padded(sources(model), side)
    source = {"input_ids": ids, "attention_mask": mask}
    targets = torch.stack(texts(model, [9] * 4, seed=1))
    whole = model(**source, decoder_input_ids=targets, use_cache=False)[0]
    for cache in (Cache(), Cache(capacity=12), Cache(sliding=True)):
        assert torch.allclose(write_in_chunks(model, source, targets, cache, (3, 4, 7)), whole, atol=1e-5)
        assert len(cache) == 9
    first = model(**source, decoder_input_ids=targets[:, :4])
    again = model(
        encoder_outputs=(first.encoder_last_hidden_state,),
        attention_mask=mask,
        decoder_input_ids=targets[:, 4:],
        past_key_values=first.past_key_values,
    )
    assert torch.allclose(again[0], whole[:, 4:], atol=1e-5)


@every_writer
@torch.no_grad()
def test_caches_are_reordered_with_their_sources(architecture, head, tmp_path):
    model = ours(architecture, head)
    ids, mask = padded(sources(model), "right")
    targets = torch.stack(texts(model, [9] * 4, seed=1))
    cache = Cache()
    model(ids, mask, decoder_input_ids=targets[:, :5], cache=cache)
    wanted = model(decoder_input_ids=targets[:, 5:], cache=cache.copy())[0]
    beams = torch.arange(4).repeat_interleave(3)
    cache.reorder(beams)  # three rows a source, which stays one
    kept = cache.source
    assert torch.allclose(model(decoder_input_ids=targets[beams, 5:], cache=cache.copy())[0], wanted[beams], atol=1e-5)
    cache.reorder(torch.tensor([2, 0, 0, 5, 4, 3, 6, 6, 7, 11, 10, 9]))  # each within its own
    assert cache.source is kept
    cache.save(tmp_path / "cache.safetensors")
    again = Cache.load(tmp_path / "cache.safetensors")
    assert torch.allclose(model(decoder_input_ids=targets[beams, 5:], cache=again)[0], wanted[beams], atol=1e-5)
    other = torch.tensor([9, 0, 4])  # and here across them
    cache.reorder(other)
    found = model(decoder_input_ids=targets[beams[other], 5:], cache=cache)[0]
    assert torch.allclose(found, wanted[beams[other]], atol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


@every_pair
def test_bad_input_is_explained(architecture, head):
    model = ours(architecture, head)
    inputs, _ = inputs_of(model, lengths=EVEN, targets=[6] * 4)
    if head in WRITERS:
        with pytest.raises(InputError, match=r"labels= .*decoder_input_ids="):
            model(input_ids=inputs["input_ids"])
    with pytest.raises(InputError, match="input_ids holds 99; expected 0 to 98"):
        model(**{**inputs, "input_ids": inputs["input_ids"].clone().fill_(99)})
    if not reads_twice(model):
        with pytest.raises(InputError, match="decoder_input_ids holds 104; expected 0 to"):
            model(**{**inputs, "decoder_input_ids": inputs["decoder_input_ids"].clone().fill_(104)})
    if head in WRITERS:
        with pytest.raises(InputError, match=r"labels holds 104; expected 0 to \d+. -100 stands where nothing"):
            model(input_ids=inputs["input_ids"], labels=torch.tensor([[5, 104, 5]] * 4))
    if head in (*WRITERS, "Model") and not reads_twice(model):
        with pytest.raises(InputError, match=r"decoder_input_ids has 3 row\(s\), the source 4"):
            model(input_ids=inputs["input_ids"], decoder_input_ids=inputs["decoder_input_ids"][:3])
        model(input_ids=inputs["input_ids"], decoder_input_ids=inputs["decoder_input_ids"].repeat(2, 1))
    long = torch.ones(1, 41, dtype=torch.long)
    if "embed_positions" in str(list(dict(model.named_parameters()))) and not reads_twice(model):
        with pytest.raises(InputError, match="The text has 41 tokens, this model reads 40"):
            model(input_ids=long, decoder_input_ids=long[:, :3])


@pytest.mark.parametrize("kind", ["bart", "bigbird_pegasus", "mbart", "mt5", "mvp", "plbart", "t5", "umt5"])
def test_a_config_without_an_end_token_is_explained(kind):
    model = ours(kind, "ForSequenceClassification")
    ids = torch.stack(sources(model, EVEN))
    for ends in (None, []):
        model.config.eos_token_id = ends
        with pytest.raises(ConfigError, match=r"eos_token_id is (None|\[\]), .* set config.eos_token_id to its id"):
            model(ids)
    model.config.eos_token_id = [2, 98]
    assert model(ids).logits.shape == (4, 3)
