"""Every promise of a model, for every class of every architecture in `cases.py`, against the original."""

import copy
import pickle
import re
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases import EVERY_CLASS, EVERY_HEAD, OWN_ATTENTIONS, PADDING_COUNTS
from oracle import COMPUTED, checkpoint, our_class, ours, reference, reference_class, stored, stored_gradients
from pellucid import Layout
from pellucid.errors import ArgumentError, InputError, ShapeError, WeightsError

every_class = pytest.mark.parametrize(("architecture", "head"), EVERY_CLASS)
every_head = pytest.mark.parametrize(("architecture", "head"), EVERY_HEAD)

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
    if model.config.model_type == "big_bird":  # one short text ends sparse attention for good
        model.base_model.set_attention_type(model.config.attention_type)
    if model.config.model_type == "longformer" and head in ("ForMultipleChoice", "ForQuestionAnswering"):
        inputs["global_attention_mask"] = torch.zeros_like(ids)  # without, it refuses texts that have no separators
    if head == "ForMultipleChoice":
        inputs = {name: None if x is None else x[None] for name, x in inputs.items()}
    return model(**{name: x for name, x in inputs.items() if x is not None}, **labels)


def assert_equal_outputs(ours, original, keep=None, tolerance=1e-5):
    """Compare every part of two results; `keep`, (B, T), says which tokens count."""
    original = {k: v for k, v in original.items() if k not in ("hidden_states", "attentions")}
    assert ours.keys() == list(original)
    for name, value in original.items():
        mine = ours[name]
        assert mine.shape == value.shape, name
        if keep is not None and value.dim() >= 2 and value.shape[:2] == keep.shape:
            mine, value = mine[keep], value[keep]
        assert torch.allclose(mine, value, atol=tolerance, rtol=tolerance), (name, (mine - value).abs().max())


def real(x, keep):
    """Pick the tokens that are no padding from (B, T, ...); where an architecture pools tokens, take all."""
    return x[keep] if x.shape[1] == keep.shape[1] else x


def labels_for(head, ids, model):
    torch.manual_seed(1)
    batch, vocabulary = len(ids), model.config.vocab_size
    asked = (torch.rand(ids.shape) < 0.5) & (ids != 3)  # not on padding, where models may differ
    words = torch.where(asked, torch.randint(0, vocabulary, ids.shape), -100)
    order = next((name for name in model.accepts if name.endswith("_label")), None)  # of the texts of a pair
    return {
        "ForPreTraining": {"labels": words, order: torch.tensor([1, 0, 0, 1])} if order else {"labels": asked.long()},
        "ForMaskedLM": {"labels": words},
        "ForNextSentencePrediction": {"labels": torch.randint(0, 2, (batch,))},
        "ForSequenceClassification": {"labels": torch.randint(0, 3, (batch,))},
        "ForMultipleChoice": {"labels": torch.tensor([2])},
        "ForTokenClassification": {"labels": torch.where(words == -100, -100, words % 3)},
        "LMHeadModel": {"labels": words},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([1, 0, 99, 2]),
            "end_positions": torch.tensor([3, 5, 99, 2]),
        },
    }[head.removesuffix("Simple").removeprefix("With")]


# --- numbers ----------------------------------------------------------------------------------------------------------


@every_class
def test_names_and_shapes_equal(architecture, head):
    model = ours(architecture, head)
    tied = model.tied if model.config.tie_word_embeddings else {}
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
            for name, value in alone.items():
                part = together[name][0, i : i + 1][None] if head == "ForMultipleChoice" else together[name][i : i + 1]
                where = slice(-len(row), None) if side == "left" else slice(len(row))
                part = part[:, where] if value.dim() >= 2 and value.shape[1] == len(row) else part
                assert torch.allclose(part, value, atol=1e-5), (name, i)


@every_class
def test_packed_batch(architecture, head):
    model = ours(architecture, head)
    rows = texts(model)
    together = model(input_ids=torch.cat(rows)[None], attention_mask=Layout.packed(LENGTHS))
    start = 0
    for i, row in enumerate(rows):
        for name, value in model(input_ids=row[None]).items():
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
    for name, parameter in model.named_parameters():
        reached = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(reached, gradients[name], atol=1e-6), name


@every_class
def test_every_parameter_gets_a_gradient(architecture, head):
    model = ours(architecture, head)
    values = model(input_ids=torch.stack(texts(model, [9, 9]))).values()
    torch.stack([value.square().sum() for value in values]).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    spared = ("key.bias", "k_lin.bias", "key_global.bias")  # a bias of all keys changes no weight
    optional = r"\.pooler\.|contact_head|lang_embeddings|longformer.*\.1\.attention\.self"  # only some heads use it
    optional += r"|_global\.|mask_emb|seg_embed|r_s_bias"  # and only some inputs
    optional += r"|funnel\.encoder.*(r_kernel|r_r_bias)"  # and what reads [CLS] alone meets no distances
    assert not {name for name in without if not name.endswith(spared) and not re.search(optional, name)}


@every_class
def test_embeddings_instead_of_ids(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    words = next(table for table in tables(model) if table.num_embeddings == model.config.vocab_size)(ids)
    with_ids, with_words = model(input_ids=ids), model(inputs_embeds=words)
    assert all(torch.equal(with_ids[name], with_words[name]) for name in with_ids.keys())  # noqa: SIM118
    with pytest.raises(InputError, match="exactly one of input_ids, inputs_embeds"):
        model()


@every_class
def test_hidden_states_and_attentions(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    original.set_attn_implementation("eager")
    ids, mask = padded(texts(model, EVEN if (architecture, head) in PADDING_COUNTS else LENGTHS), "right")
    theirs = of_original(original, head, ids, mask, output_hidden_states=True, output_attentions=True)
    mine = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    assert mine.keys() == [name for name in theirs if name not in ("cross_attentions", "global_attentions")]
    keep = mask.bool()
    for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True):
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
    for name, value in model(input_ids=ids, attention_mask=mask).items():
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
    assert not torch.equal(model(ids)[0], model(ids)[0])


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
    assert all(torch.allclose(mine[name], plain[name], atol=1e-5) for name in plain.keys())  # noqa: SIM118


@every_class
def test_copies(architecture, head):
    model = ours(architecture, head)
    ids = torch.stack(texts(model, [9, 9]))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(ids)[0], model(ids)[0])


@pytest.mark.parametrize(
    ("architecture", "head"), [("bert", "ForSequenceClassification"), ("distilbert", "ForMaskedLM")]
)
def test_threads_share_a_model(architecture, head):
    model = ours(architecture, head)
    rows = texts(model, [5 + i for i in range(16)])
    alone = [model(input_ids=row[None]).logits for row in rows]
    wrong = []

    def work(i):
        for step in range(10):
            out = model(input_ids=rows[i][None], output_hidden_states=step % 2 == 0, output_attentions=i % 2 == 0)
            if not torch.allclose(out.logits, alone[i], atol=1e-5) or ("hidden_states" in out) != (step % 2 == 0):
                wrong.append(i)
            if step % 2 == 0 and (len(out.hidden_states) != 3 or out.hidden_states[0].shape[1] != len(rows[i])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- loading and saving -----------------------------------------------------------------------------------------------


@every_class
def test_the_original_loads_what_we_save(architecture, head, tmp_path):
    model = ours(architecture, head)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    back, info = reference_class(architecture, head).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not {name for name in info["missing_keys"] if not name.endswith((*COMPUTED, *model.unread))}
    for name, tensor in reference(architecture, head).state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    assert load_file(tmp_path / "model.safetensors").keys() == stored(architecture, head).keys()


@every_head
def test_backbone_from_headed_file_and_back(architecture, head, tmp_path):
    model = ours(architecture, head)
    inside, kind = getattr(model, model.prefix), our_class(architecture, "Model")
    if type(inside).config_class is kind.config_class:
        kind = type(inside)  # some heads need a part of it alone
    backbone = kind.from_pretrained(checkpoint(architecture, head))
    assert {n: tuple(t.shape) for n, t in backbone.state_dict().items()} == {
        n: tuple(t.shape) for n, t in inside.state_dict().items()
    }
    assert all(torch.equal(t, inside.state_dict()[n]) for n, t in backbone.state_dict().items())
    backbone.save_pretrained(tmp_path)
    tied = model.tied if model.config.tie_word_embeddings else {}
    own = [name for name in model.state_dict() if not name.startswith(f"{model.prefix}.") and name not in tied]
    if own:
        with pytest.raises(WeightsError, match=r"num_labels|tie_word_embeddings"):
            our_class(architecture, head).from_pretrained(tmp_path)
    again = our_class(architecture, head).from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert all(torch.equal(t, getattr(again, model.prefix).state_dict()[n]) for n, t in backbone.state_dict().items())
    assert bool(again.load_report.new) == bool(own) and not again.load_report.ignored


@every_class
def test_missing_extra_and_misshapen_tensors_name_themselves(architecture, head, tmp_path):
    model = ours(architecture, head)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    prefix = f"{model.prefix}." if head != "Model" else ""
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
