"""Every promise of a model, for every class of every architecture in `cases.py`, against the original."""

import copy
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases import EVERY_CLASS, EVERY_HEAD, LENGTH_COUNTS, OWN_ATTENTIONS, PADDING_COUNTS, WITHOUT_EMBEDDINGS
from oracle import (
    COMPUTED,
    checkpoint,
    is_pair,
    of_gradients,
    our_class,
    ours,
    reference,
    reference_class,
    stored,
    stored_gradients,
)
from pellucid import AutoModelForCausalLM, Layout, auto
from pellucid.cache import Cache
from pellucid.errors import ArgumentError, InputError, ShapeError, WeightsError
from threads import in_threads

# Those of an encoder and a decoder have promises of their own, in test_seq2seq.py; files are files.
ALONE = [case for case in EVERY_CLASS if not is_pair(*case)]
every_class = pytest.mark.parametrize(("architecture", "head"), ALONE)
every_file = pytest.mark.parametrize(("architecture", "head"), EVERY_CLASS)
every_headed_file = pytest.mark.parametrize(("architecture", "head"), EVERY_HEAD)
every_cached = pytest.mark.parametrize(
    ("architecture", "head"),
    [case for case in ALONE if "cache" in our_class(*case).accepts and case[0] not in LENGTH_COUNTS],
)
every_head = pytest.mark.parametrize(("architecture", "head"), [case for case in EVERY_HEAD if case in ALONE])

LENGTHS = [7, 11, 11, 4]
EVEN = [9, 9, 9, 9]


def texts(model, lengths=LENGTHS, seed=0):
    """Draw random texts: a list of 1-D tensors of ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, model.config.vocab_size, (length,), generator=generator) for length in lengths]


def padded(rows, side):
    """Pad texts to a batch: (ids, mask)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), 3)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


def tables(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]


def of_original(model, head, ids, mask=None, **labels):
    """Run the original; its multiple-choice heads want (B, C, T)."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type == "longformer" and head in ("ForMultipleChoice", "ForQuestionAnswering"):
        inputs["global_attention_mask"] = torch.zeros_like(ids)  # without, it refuses texts that have no separators
    if model.config.model_type == "falcon" and labels.pop("output_attentions", False):
        output = of_original(
            model, head, ids, mask, **labels
        )  # asked for weights, it adds true and false to the scores
        output["attentions"] = ()
        return output
    if head == "ForMultipleChoice":
        inputs = {name: None if x is None else x[None] for name, x in inputs.items()}
    return model(**{name: x for name, x in inputs.items() if x is not None}, **labels)


def assert_equal_outputs(ours, original, keep=None, tolerance=1e-5):
    """Compare every part of two results; `keep`, (B, T), says which tokens count."""
    original = numbers(original)
    assert list(numbers(ours)) == list(original)
    for name, value in original.items():
        mine = ours[name]
        assert mine.shape == value.shape, name
        if keep is not None and value.dim() >= 2 and value.shape[:2] == keep.shape:
            mine, value = mine[keep], value[keep]
        assert torch.allclose(mine, value, atol=tolerance, rtol=tolerance), (name, (mine - value).abs().max())


def numbers(output):
    """Return what a result says by itself, without cache and recordings."""
    parts = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
    return {name: value for name, value in parts.items() if "ngram" not in name}  # see test_prophetnet.py


def real(x, keep):
    """Pick the tokens that are no padding from (B, T, ...); where an architecture pools tokens, take all."""
    return x[keep] if x.shape[1] == keep.shape[1] else x


def labels_for(head, ids, model):
    torch.manual_seed(1)
    batch, vocabulary = len(ids), model.config.vocab_size
    asked = (torch.rand(ids.shape) < 0.5) & (ids != 3)  # not on padding, where models may differ
    words = torch.where(asked, torch.randint(0, vocabulary, ids.shape), -100)
    answers = {"start_positions": torch.tensor([1, 0, 99, 2]), "end_positions": torch.tensor([3, 5, 99, 2])}
    if "p_mask" in model.accepts:  # of beams: an answer is in the text, and whether there is one is learned, too
        answers = {name: places.clamp(max=4) for name, places in answers.items()}
        answers |= {"is_impossible": torch.tensor([0.0, 1.0, 0.0, 0.0]), "cls_index": torch.tensor([0, 8, 3, 8])}
        answers["p_mask"] = (torch.arange(ids.shape[1]) == 6).float().expand(ids.shape)
    order = next((name for name in model.accepts if name.endswith("_label")), None)  # of the texts of a pair
    return {
        "ForPreTraining": {"labels": words, order: torch.tensor([1, 0, 0, 1])} if order else {"labels": asked.long()},
        "ForMaskedLM": {"labels": words},
        "ForNextSentencePrediction": {"labels": torch.randint(0, 2, (batch,))},
        "ForSequenceClassification": {"labels": torch.randint(0, 3, (batch,))},
        "ForMultipleChoice": {"labels": torch.tensor([2])},
        "ForTokenClassification": {"labels": torch.where(words == -100, -100, words % 3)},
        "LMHeadModel": {"labels": words},
        "ForCausalLM": {"labels": words},
        "ForQuestionAnswering": answers,
    }[head.removesuffix("Simple").removeprefix("With")]


# --- numbers ----------------------------------------------------------------------------------------------------------


@every_file
def test_names_and_shapes_equal(architecture, head):
    model = ours(architecture, head)
    tied = model.ties
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}
    assert shapes == {name: tuple(t.shape) for name, t in stored(architecture, head).items()}
    assert list(model.buffers()) == []


@every_class
def test_plain_batch(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    ids = torch.stack(texts(model, [9, 9, 9]))
    assert_equal_outputs(model(input_ids=ids), of_original(original, head, ids))


@every_class
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batch(architecture, head, side):
    model, original = ours(architecture, head), reference(architecture, head)
    rows = texts(model)
    ids, mask = padded(rows, side)
    if side == "right" and (architecture, head) not in PADDING_COUNTS:
        assert_equal_outputs(
            model(input_ids=ids, attention_mask=mask), of_original(original, head, ids, mask), mask.bool()
        )
    else:  # on the left, the original neither counts from the first real token nor reads it: compare with texts alone
        together = model(input_ids=ids, attention_mask=mask)
        for i, row in enumerate(rows):
            alone = of_original(original, head, row[None])
            for name, value in numbers(alone).items():
                part = together[name][0, i : i + 1][None] if head == "ForMultipleChoice" else together[name][i : i + 1]
                where = slice(-len(row), None) if side == "left" else slice(len(row))
                part = part - where.start % len(ids[0]) if side == "left" and "index" in name else part
                part = part[:, where] if value.dim() >= 2 and value.shape[1] == len(row) else part
                assert torch.allclose(part, value, atol=1e-5), (name, i)


@every_class
def test_packed_batch(architecture, head):
    model = ours(architecture, head)
    rows = texts(model)
    together = model(input_ids=torch.cat(rows)[None], attention_mask=Layout.packed(LENGTHS))
    start = 0
    for i, row in enumerate(rows):
        for name, value in numbers(model(input_ids=row[None])).items():
            if value.dim() >= 2 and value.shape[1] == len(row):
                part = together[name][:, start : start + len(row)]
            else:
                part = together[name][:, i : i + 1] if head == "ForMultipleChoice" else together[name][i : i + 1]
            assert torch.allclose(part, value, atol=1e-5), (name, i)
        start += len(row)


@every_head
def test_loss_and_gradients_equal(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    spans = head.startswith("ForQuestionAnswering")  # the loss into which the scores of padding go
    even = spans or (architecture, head) in PADDING_COUNTS
    ids, mask = padded(texts(model, EVEN if even else LENGTHS), "right")
    labels = labels_for(head, ids, model)
    original.zero_grad()
    theirs = of_original(original, head, ids, mask, **labels)
    theirs.loss.backward()
    nested = (
        {"input_ids": ids[None], "attention_mask": mask[None]}
        if head == "ForMultipleChoice"
        else {"input_ids": ids, "attention_mask": mask}
    )
    mine = model(**nested, **labels)
    mine.loss.backward()
    assert torch.allclose(mine.loss, theirs.loss, atol=1e-6)
    assert mine.keys()[0] == "loss"
    gradients = stored_gradients(architecture, head)
    for name, reached in of_gradients(model).state_dict().items():
        stored_name = name if name in gradients else model.tied[name]
        assert torch.allclose(reached, gradients[stored_name], atol=1e-6), name


@every_class
def test_every_parameter_gets_a_gradient(architecture, head):
    model = ours(architecture, head)
    values = numbers(model(input_ids=torch.stack(texts(model, [9, 9])))).values()
    torch.stack([value.square().sum() for value in values if value.is_floating_point()]).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    spared = ("key.bias", "k_lin.bias", "key_global.bias")  # a bias of all keys changes no weight
    spared += ("start_logits.dense.bias", "end_logits.dense_1.bias")  # nor one of all tokens a probability
    optional = r"\.pooler\.|contact_head|lang_embeddings|longformer.*\.1\.attention\.self"  # only some heads use it
    optional += r"|\.encoder_attn|\.cross_?att"  # of a decoder without an encoder
    optional += r"|_global\.|mask_emb|seg_embed|r_s_bias"  # and only some inputs
    optional += r"|entity_embeddings|entity_predictions|[we]2[we]_query"
    optional += r"|e_score_correction_bias|act_fn\.(beta|eps)"  # and a choice has none, nor what is given
    optional += r"|funnel\.encoder.*(r_kernel|r_r_bias)"  # and what reads [CLS] alone meets no distances
    assert not {name for name in without if not name.endswith(spared) and not re.search(optional, name)}


@every_class
def test_embeddings_instead_of_ids(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    words = next(table for table in tables(model) if table.num_embeddings == model.config.vocab_size)(ids)
    with_ids, with_words = model(input_ids=ids), model(inputs_embeds=words)
    assert all(torch.equal(with_ids[name], with_words[name]) for name in numbers(with_ids))
    with pytest.raises(InputError, match="exactly one of input_ids, inputs_embeds"):
        model()


@every_class
def test_hidden_states_and_attentions(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    original.set_attn_implementation("eager")
    ids, mask = padded(texts(model, EVEN if (architecture, head) in PADDING_COUNTS else LENGTHS), "right")
    theirs = of_original(original, head, ids, mask, output_hidden_states=True, output_attentions=True)
    mine = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    absent = ("past_key_values", "cache_params", "cross_attentions", "global_attentions", "entity_hidden_states")
    absent += ("hidden_states_ngram", "ngram_attentions")
    order = sorted if head == "EncoderModel" else list  # T5Gemma's has them the other way round
    assert order(n for n in mine.keys() if n not in absent) == order(n for n in theirs if n not in absent)  # noqa: SIM118
    keep = mask.bool()
    seen = theirs.hidden_states
    if architecture in WITHOUT_EMBEDDINGS:
        seen = (mine.hidden_states[0], *seen[:-2], seen[-1])
    for a, b in zip(mine.hidden_states, seen, strict=True):
        assert torch.allclose(real(a, keep), real(b, keep), atol=1e-5)
    watched = mine.get("attentions", ())
    for a, b in zip(watched, theirs.get("attentions") or watched, strict=True):  # a fallen-back BigBird returns none
        a, b = real(a.transpose(1, 2), keep), real(b.transpose(1, 2), keep)
        if architecture in OWN_ATTENTIONS:
            assert torch.allclose(a.sum(-1), torch.ones(()), atol=1e-5)
        else:
            assert torch.allclose(a, b, atol=1e-5)
    plain = model(input_ids=ids, attention_mask=mask)
    assert "hidden_states" not in plain
    row = model(input_ids=ids, attention_mask=mask, return_dict=False)
    assert isinstance(row, tuple) and len(row) == len(plain)


@every_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(architecture, head, dtype):
    model, exact = ours(architecture, head, dtype=dtype), ours(architecture, head)
    ids, mask = padded(texts(model), "left")
    for name, value in numbers(model(input_ids=ids, attention_mask=mask)).items():
        if name.endswith("index"):
            continue
        assert value.dtype == dtype and value.isfinite().all()
        wanted = exact(input_ids=ids, attention_mask=mask)[name]
        assert torch.nn.functional.cosine_similarity(value.float().flatten(), wanted.flatten(), dim=0) > 0.99


@every_class
def test_dropout_only_in_training(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    assert not model.training
    assert torch.equal(model(ids)[0], model(ids)[0])
    model.train()
    rates = [getattr(model.config, name) for name in model.config.fields() if "drop" in name or name.endswith("pdrop")]
    rates += [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert torch.equal(model(ids)[0], model(ids)[0]) != any(rates)


@every_class
def test_batch_of_none(architecture, head):
    model = ours(architecture, head)
    out = model(input_ids=torch.empty(0, 5, dtype=torch.long), attention_mask=torch.empty(0, 5, dtype=torch.long))
    assert 0 in out[0].shape


@every_class
def test_compiles_to_one_graph(architecture, head):
    model = ours(architecture, head)
    ids, mask = padded(texts(model), "left")
    torch.compiler.reset()  # the limit of recompilations is counted over all classes
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        mine, plain = compiled(input_ids=ids, attention_mask=mask), model(input_ids=ids, attention_mask=mask)
    assert all(torch.allclose(mine[name], plain[name], atol=1e-5) for name in numbers(plain))


@every_class
def test_copies(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(ids)[0], model(ids)[0])


@pytest.mark.parametrize(
    "kind", [kind for kind in auto.architectures() if hasattr(auto.module_of(kind), "ACTIVATIONS")]
)
def test_every_activation_can_be_pickled(kind):
    """A model whose config asks for it can then be sent to another process; a lambda can not."""
    activations, x = auto.module_of(kind).ACTIVATIONS, torch.linspace(-3, 3, 7)
    assert all(torch.equal(pickle.loads(pickle.dumps(f))(x), f(x)) for f in activations.values())


def test_a_model_with_an_activation_of_many_names_can_be_pickled():
    config = auto.config_class("gpt2")(vocab_size=99, n_embd=16, n_layer=1, n_head=2, activation_function="gelu_new")
    model, ids = AutoModelForCausalLM.from_config(config).eval(), torch.arange(9)[None]
    assert torch.equal(pickle.loads(pickle.dumps(model))(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("architecture", "head"), [("bert", "ForSequenceClassification"), ("distilbert", "ForMaskedLM")]
)
def test_threads_share_a_model(architecture, head):
    model = ours(architecture, head)
    rows = texts(model, [5 + i for i in range(16)])
    alone = [model(input_ids=row[None]).logits for row in rows]

    def work(i):
        for step in range(10):
            out = model(input_ids=rows[i][None], output_hidden_states=step % 2 == 0, output_attentions=i % 2 == 0)
            assert torch.allclose(out.logits, alone[i], atol=1e-5) and ("hidden_states" in out) == (step % 2 == 0)
            assert step % 2 or (len(out.hidden_states) == 3 and out.hidden_states[0].shape[1] == len(rows[i]))

    in_threads(work, range(16))


# --- caches -----------------------------------------------------------------------------------------------------------


def read_in_chunks(model, ids, cache, cuts, mask=None):
    """Read a batch piece by piece; return the hidden states or logits of all of it."""
    pieces, start = [], 0
    for end in (*cuts, ids.shape[1]):
        piece = None if mask is None else mask[:, start:end]
        pieces.append(model(input_ids=ids[:, start:end], attention_mask=piece, cache=cache)[0])
        start = end
    return torch.cat(pieces, dim=1)


@every_cached
@torch.no_grad()
def test_chunks_equal_one_pass(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [12, 12]))
    whole = model(input_ids=ids, use_cache=False)[0]
    caches = [Cache(), Cache(capacity=15), Cache(sliding=True)]
    for cache in caches:
        for cuts in ((5, 6, 7, 11), tuple(range(1, 12))):
            used = copy.deepcopy(cache)
            assert torch.allclose(read_in_chunks(model, ids, used, cuts), whole, atol=1e-5), (cache.__dict__, cuts)
            assert len(used) == used.get_seq_length() == 12
    first = model(input_ids=ids[:, :7])
    assert isinstance(first.past_key_values, Cache)
    second = model(input_ids=ids[:, 7:], past_key_values=first.past_key_values, attention_mask=torch.ones_like(ids))
    assert torch.allclose(second[0], whole[:, 7:], atol=1e-5)
    assert "past_key_values" not in model(input_ids=ids, use_cache=False)


@every_cached
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_padded_texts_go_on_as_if_alone(architecture, head, side):
    model = ours(architecture, head)
    rows, more = texts(model), torch.stack(texts(model, [3] * 4, seed=1))
    ids, mask = padded(rows, side)
    alone = [
        model(input_ids=torch.cat([row, new])[None], use_cache=False)[0][:, -3:]
        for row, new in zip(rows, more, strict=True)
    ]
    for cache in [Cache(), Cache(capacity=20)] + [Cache(sliding=True)] * (side == "left"):
        read_in_chunks(model, ids, cache, (4, 6), mask)
        together = read_in_chunks(model, more, cache, (1, 2))
        assert torch.allclose(together, torch.cat(alone), atol=1e-5), cache.__dict__


@every_cached
@torch.no_grad()
def test_caches_are_copied_reordered_cropped_and_saved(architecture, head, tmp_path):
    model = ours(architecture, head)
    ids, more = torch.stack(texts(model, [9, 9, 9])), torch.stack(texts(model, [3] * 3, seed=1))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for cache in (Cache(), Cache(capacity=15)):
        read_in_chunks(model, ids, cache, (4,), mask)
        twin = cache.copy()
        wanted = model(input_ids=more, cache=cache)[0]
        assert torch.equal(model(input_ids=more, cache=twin.copy())[0], wanted)
        order = torch.tensor([2, 1, 1, 0])
        beams = twin.copy()
        beams.reorder(order)
        assert torch.allclose(model(input_ids=more[order], cache=beams)[0], wanted[order], atol=1e-5)
        twin.save(tmp_path / "cache.safetensors")
        assert torch.equal(model(input_ids=more, cache=Cache.load(tmp_path / "cache.safetensors"))[0], wanted)
        if twin._states:
            with pytest.raises(InputError, match="can not be cropped"):
                cache.crop(9)
        else:
            cache.crop(9)
            assert torch.equal(model(input_ids=more, cache=cache)[0], wanted)
            cache.crop(-3)
            assert len(cache) == 9


@every_cached
def test_what_does_not_fit_a_cache(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    cache = model(input_ids=ids).past_key_values
    with pytest.raises(InputError, match="holds 2 texts, the input 1"):
        model(input_ids=ids[:1], cache=cache)
    with pytest.raises(InputError, match="9 of 10 tokens; there is no room for 9"):
        small = Cache(capacity=10)
        model(input_ids=ids, cache=small)
        model(input_ids=ids, cache=small)
    with pytest.raises(InputError, match="A packed batch has no cache"):
        model(input_ids=ids.reshape(1, -1), attention_mask=Layout.packed([9, 9]), cache=Cache())
    with pytest.raises(InputError, match=r"expected a pellucid\.Cache"):
        model(input_ids=ids, past_key_values=((ids, ids),))


@every_cached
@torch.no_grad()
def test_only_the_last_logits(architecture, head):
    model = ours(architecture, head)
    if "logits_to_keep" in model.accepts:
        ids = torch.stack(texts(model, [9, 9]))
        assert torch.allclose(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:], atol=1e-6)


# --- loading and saving -----------------------------------------------------------------------------------------------


@every_file
def test_the_original_loads_what_we_save(architecture, head, tmp_path):
    model = ours(architecture, head)
    model.save_pretrained(tmp_path)
    written = {path.name for path in tmp_path.iterdir()} - {"generation_config.json"}
    assert written == {"config.json", "model.safetensors"}
    back, info = reference_class(architecture, head).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not {name for name in info["missing_keys"] if not name.endswith((*COMPUTED, *model.unread))}
    for name, tensor in reference(architecture, head).state_dict().items():
        if not name.endswith(COMPUTED):  # which the original makes anew when it reads a longer text
            assert torch.equal(tensor, back.state_dict()[name]), name
    assert load_file(tmp_path / "model.safetensors").keys() == stored(architecture, head).keys()


def within(model):
    """Return a headed model's tensors without its head, under the names that they have in the backbone."""
    heads = tuple(f"{part}." for part in model.heads)
    return {name: tensor for name, tensor in model.base_model.state_dict().items() if not name.startswith(heads)}


@every_headed_file
def test_backbone_from_headed_file_and_back(architecture, head, tmp_path):
    model = ours(architecture, head)
    inside, kind = within(model), our_class(architecture, "Model")
    part, whose = type(model.base_model), type(model.base_model).config_class
    if hasattr(model, model.prefix) and issubclass(kind.config_class, whose):  # some heads need a part of it alone
        suffix = part.__name__.removeprefix(whose.__name__.removesuffix("Config"))
        kind = part if whose is kind.config_class else our_class(architecture, suffix)  # of kin
    backbone = kind.from_pretrained(checkpoint(architecture, head))
    assert {n: tuple(t.shape) for n, t in backbone.state_dict().items()} == {
        n: tuple(t.shape) for n, t in inside.items()
    }
    assert all(torch.equal(t, inside[n]) for n, t in backbone.state_dict().items())
    backbone.save_pretrained(tmp_path)
    tied = model.ties
    own = [name for name in model.state_dict() if name.removeprefix(f"{model.prefix}.") not in {*inside, *tied}]
    if own:
        with pytest.raises(WeightsError, match=r"num_labels|tie_word_embeddings"):
            our_class(architecture, head).from_pretrained(tmp_path)
    again = our_class(architecture, head).from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert all(torch.equal(t, within(again)[n]) for n, t in backbone.state_dict().items())
    assert bool(again.load_report.new) == bool(own) and not again.load_report.ignored


@every_file
def test_missing_extra_and_misshapen_tensors_name_themselves(architecture, head, tmp_path):
    model = ours(architecture, head)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    prefix = f"{model.prefix}." if hasattr(model, model.prefix) else ""
    encoder = [n for n, t in tensors.items() if t.dim() == 2 and n.startswith(prefix) and "pooler" not in n][-1]
    save_file({n: t for n, t in tensors.items() if n != encoder}, file)
    with pytest.raises(WeightsError, match=f"missing in the checkpoint: {encoder}"):
        type(model).from_pretrained(tmp_path)
    save_file(tensors | {encoder + "x": tensors[encoder].clone()}, file)
    with pytest.raises(WeightsError, match=f"not in the model: {encoder}x"):
        type(model).from_pretrained(tmp_path)
    save_file(tensors | {encoder: torch.zeros(3, 5)}, file)
    with pytest.raises(WeightsError, match=rf"{encoder} \(file \[3, 5\]"):
        type(model).from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    save_file(tensors | {encoder: tensors[encoder].long()}, file)
    with pytest.raises(WeightsError, match=rf"not floating point: {encoder} \(torch.int64"):
        type(model).from_pretrained(tmp_path)


# --- bad input --------------------------------------------------------------------------------------------------------


@every_class
def test_bad_input_is_explained(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    with pytest.raises(ShapeError, match=r"expected a batch") as caught:
        model(ids[0])
    assert isinstance(caught.value, IndexError)
    with pytest.raises(InputError, match="expected the same"):
        model(ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(InputError, match="input_ids holds 99; expected 0 to 98"):
        model(ids.clone().fill_(99))
    long = torch.ones(1, 41, dtype=torch.long)
    rows = getattr(model.config, "max_position_embeddings", 0)
    if any(rows and m.num_embeddings in (rows, rows + 2) for m in tables(model)):  # some begin at 2 and do not count it
        with pytest.raises(InputError, match="The text has 41 tokens, this model reads 40"):
            model(long)
    else:  # without learned positions, longer texts than any in training can be computed
        assert model(long)[0].isfinite().all()
    with pytest.raises(ArgumentError, match="did you mean 'attention_mask'"):
        model(ids, atention_mask=torch.ones_like(ids))
    with pytest.raises(InputError, match="expected a tensor"):
        model([[1, 2, 3]])
