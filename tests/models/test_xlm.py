"""XLM's languages, lengths and words as token types, its beams over spans, and FlauBERT's norms before the sub-layers.

The head that searches by beams has a twin in XLNet, which is tested with it.
"""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import pellucid
from cases import CASES, HEADS
from oracle import checkpoint, our_class, ours, reference
from pellucid import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForQuestionAnswering, Layout
from pellucid.errors import ArgumentError, ConfigError, InputError, WeightsError
from pellucid.models.xlm import FlaubertConfig, FlaubertModel, XLMConfig, XLMModel, likeliest
from perturbing import perturb

ENGLISH = {  # xlm-mlm-en-2048's
    "architectures": ["XLMWithLMHeadModel"], "asm": False, "attention_dropout": 0.1, "bos_index": 0, "causal": False,
    "dropout": 0.1, "emb_dim": 2048, "embed_init_std": 0.02209708691207961, "end_n_top": 5, "eos_index": 1,
    "gelu_activation": True, "id2lang": {"0": "en"}, "init_std": 0.02, "is_encoder": True, "lang2id": {"en": 0},
    "layer_norm_eps": 1e-12, "mask_index": 5, "max_position_embeddings": 512, "model_type": "xlm", "n_heads": 16,
    "n_langs": 1, "n_layers": 12, "pad_index": 2, "pad_token_id": 2, "sinusoidal_embeddings": False, "start_n_top": 5,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "first",
    "summary_use_proj": True, "unk_index": 3, "vocab_size": 30145,
}  # fmt: skip
FRENCH = {  # flaubert_large_cased's
    **ENGLISH, "architectures": ["FlaubertWithLMHeadModel"], "emb_dim": 1024, "id2lang": {"0": "fr"},
    "lang2id": {"fr": 0}, "layer_norm_eps": 1e-06, "layerdrop": 0.2, "model_type": "flaubert", "n_layers": 24,
    "pre_norm": True, "vocab_size": 68729,
}  # fmt: skip


def ids():
    return torch.randint(5, 99, (2, 7), generator=torch.Generator().manual_seed(0))


def test_published_configs():
    assert XLMConfig.from_dict(ENGLISH).to_dict() == ENGLISH
    config = FlaubertConfig.from_dict(FRENCH)
    assert config.to_dict() == FRENCH
    assert config.pre_norm and config.hidden_size == 1024


@pytest.mark.parametrize(
    ("name", "value"), [("causal", True), ("asm", True), ("pre_norm", True), ("summary_type", "attn"), ("n_langs", 0)]
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("xlm", **{name: value})


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_the_heads_have_names_of_their_own(kind):
    config = AutoConfig.for_model(kind, **CASES[kind])
    assert type(AutoModelForMaskedLM.from_config(config)).__name__.endswith("WithLMHeadModel")
    assert type(AutoModelForPreTraining.from_config(config)).__name__.endswith("WithLMHeadModel")
    assert type(AutoModelForQuestionAnswering.from_config(config)).__name__.endswith("ForQuestionAnsweringSimple")


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_languages_and_added_words(kind):
    inputs = {"input_ids": ids(), "langs": ids() % 3, "token_type_ids": ids().flip(1)}
    theirs, mine = reference(kind, "Model")(**inputs), ours(kind, "Model")(**inputs)
    assert torch.allclose(mine[0], theirs[0], atol=1e-5)
    assert not torch.allclose(mine[0], ours(kind, "Model")(ids())[0], atol=1e-2)


def test_an_unknown_language_is_explained():
    with pytest.raises(InputError, match="langs holds 3; expected 0 to 2"):
        ours("xlm", "Model")(ids(), langs=torch.full((2, 7), 3))


def test_norms_before_the_sub_layers(monkeypatch):
    """The original fails here, asking its cache for a layer; told that there is none, it gives the numbers."""
    monkeypatch.setattr(transformers.EncoderDecoderCache, "__getitem__", lambda cache, layer: None, raising=False)
    settings = CASES["flaubert"] | {"pre_norm": True}
    original = transformers.FlaubertModel(transformers.FlaubertConfig(**settings)).eval()
    model = FlaubertModel(FlaubertConfig(**settings)).eval()
    torch.manual_seed(0)
    perturb(original, 0.1)
    model.load_state_dict(original.state_dict())
    theirs, mine = original(ids(), output_hidden_states=True), model(ids(), output_hidden_states=True)
    for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_layers_are_dropped_in_training_only():
    config = FlaubertConfig(**CASES["flaubert"] | {"layerdrop": 0.999999, "dropout": 0.0, "attention_dropout": 0.0})
    model = FlaubertModel(config)
    embedded = model.eval()(ids(), output_hidden_states=True).hidden_states[0]
    assert torch.equal(model.train()(ids())[0], embedded)
    assert not torch.equal(model.eval()(ids())[0], embedded)


def test_new_embeddings():
    model = XLMModel(XLMConfig(**CASES["xlm"] | {"sinusoidal_embeddings": True, "embed_init_std": 3.0}))
    assert model.position_embeddings.weight[1, :2].tolist() == pytest.approx([0.8415, 0.5403], abs=1e-4)
    assert model.embeddings.weight.std().item() == pytest.approx(3, abs=0.3)
    assert model.get_parameter("ffns.0.lin1.weight").std().item() == pytest.approx(0.02, abs=0.003)
    assert not model.get_parameter("embeddings.weight")[2].any()


# --- lengths instead of a mask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS["xlm"])
@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_lengths(kind, head):
    model, inputs = ours(kind, head), {"input_ids": ids(), "lengths": torch.tensor([4, 7])}
    words = {"inputs_embeds": model.base_model.embeddings(ids()), "lengths": inputs["lengths"]}
    mask = (torch.arange(7) < inputs["lengths"][:, None]).long()
    if head == "ForMultipleChoice":  # for which the original does not take them
        inputs, words, mask = ({k: x[None] for k, x in given.items()} for given in (inputs, words, {"mask": mask}))
        mask = mask["mask"]
    mine = model(**inputs)
    for other in (
        model(inputs["input_ids"], mask),
        model(inputs["input_ids"], None, None, lengths=inputs["lengths"]),
        model(**words),
    ):
        assert all(torch.equal(mine[name], other[name]) for name in mine.keys())  # noqa: SIM118
    assert not torch.allclose(mine[0], model(inputs["input_ids"])[0], atol=1e-3)
    if head in ("Model", "WithLMHeadModel", "ForTokenClassification"):
        assert torch.allclose(mine[0][mask.bool()], reference(kind, head)(**inputs)[0][mask.bool()], atol=1e-5)


def test_lengths_compile():
    model, inputs = ours("xlm", "Model"), {"input_ids": ids(), "lengths": torch.tensor([4, 7])}
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(**inputs)[0], model(**inputs)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": torch.tensor([4, 8])}, "one number a text, 0 to 7"),
        ({"lengths": torch.tensor([-1, 7])}, "one number a text, 0 to 7"),
        ({"lengths": torch.tensor([4])}, "one number a text"),
        ({"lengths": torch.tensor(4)}, "one number a text"),
        ({"lengths": torch.tensor([4, 7]), "attention_mask": torch.ones(2, 7)}, "give one of them"),
    ],
)
def test_lengths_that_do_not_fit(given, message):
    with pytest.raises(InputError, match=message):
        ours("xlm", "Model")(ids(), **given)


def test_lengths_are_an_argument():
    with pytest.raises(ArgumentError, match=r"did you mean 'lengths'\?.*It takes: input_ids, .*lengths"):
        ours("flaubert", "ForTokenClassification")(ids(), lenghts=torch.tensor([4, 7]))
    with pytest.raises(ArgumentError, match="no argument 'cache'"):
        ours("xlm", "Model")(ids(), cache={})


# --- beams over spans -------------------------------------------------------------------------------------------------

HEAD = "ForQuestionAnswering"
beams = pytest.mark.parametrize("kind", ["xlm", "flaubert", "xlnet"])
NAMES = ("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index", "cls_logits")
FIRST, LAST = torch.tensor([3, 0]), torch.tensor([5, 0])
LEARNED = {
    "answers": {},
    "a class without its label": {"cls_index": torch.tensor([6, 2])},
    "whether there is one": {"cls_index": torch.tensor([6, 2]), "is_impossible": torch.tensor([0, 1])},
    "a question": {"p_mask": torch.tensor([[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]])},
    "all": {
        "cls_index": torch.tensor([0, 0]),
        "is_impossible": torch.tensor([1, 1]),
        "p_mask": torch.tensor([[0.0, 1, 1, 0, 0, 0, 1]] * 2),
    },
}


@beams
@pytest.mark.parametrize("given", LEARNED.values(), ids=LEARNED)
def test_loss_and_gradients_of_beams(kind, given):
    model, original = ours(kind, HEAD), reference(kind, HEAD)
    inputs = {"input_ids": ids(), "start_positions": FIRST, "end_positions": LAST} | given
    mine, column = model(**inputs), {n: x[:, None] if x.dim() == 1 else x for n, x in inputs.items()}
    original.zero_grad()
    if "is_impossible" in given:
        inputs = inputs | {"is_impossible": given["is_impossible"].float()}  # the original takes no whole numbers
    theirs = original(**inputs)
    mine.loss.backward()
    theirs.loss.backward()
    assert mine.keys() == ["loss"] and torch.allclose(mine.loss, theirs.loss, atol=1e-6)
    assert torch.equal(model(**column).loss, mine.loss)  # as data sets that were batched twice have it
    gradients = {name: parameter.grad for name, parameter in original.named_parameters()}
    for name, parameter in model.named_parameters():
        wanted, reached = gradients[name], parameter.grad
        assert (wanted is None or not wanted.any()) if reached is None else torch.allclose(reached, wanted, atol=1e-6)


@beams
@pytest.mark.parametrize("given", [{}, *({n: x} for g in LEARNED.values() for n, x in g.items())])
def test_beams(kind, given):
    mine, theirs = ours(kind, HEAD)(ids(), **given), reference(kind, HEAD)(ids(), **given)
    for name in NAMES:
        assert torch.allclose(mine[name], theirs[name], atol=1e-5), name


@beams
@settings(max_examples=20, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), side=st.sampled_from(["left", "right", "packed"]))
def test_padding_is_no_answer(kind, lengths, side):
    """However short a text is beside others, its beams are those it has alone, and all of its own tokens."""
    model = ours(kind, HEAD)
    longest, rows = max(lengths), [torch.arange(5, 5 + n) * 7 % 90 + 5 for n in lengths]
    barred = [torch.arange(n) == 1 for n in lengths]
    given = {"cls_index": torch.tensor([(n - 1) // 2 for n in lengths])}
    shifts = [longest - n if side == "left" else 0 for n in lengths]
    if side == "packed":
        inputs = {"input_ids": torch.cat(rows)[None], "attention_mask": Layout.packed(lengths)}
        given["p_mask"] = torch.cat(barred)[None]
    else:
        places = [slice(shift, shift + n) for shift, n in zip(shifts, lengths, strict=True)]
        inputs = {name: torch.zeros(len(lengths), longest, dtype=int) for name in ("input_ids", "attention_mask")}
        given["p_mask"] = torch.zeros(len(lengths), longest, dtype=bool)
        given["cls_index"] = given["cls_index"] + torch.tensor(shifts)
        for i, place in enumerate(places):
            inputs["input_ids"][i, place], inputs["attention_mask"][i, place] = rows[i], 1
            given["p_mask"][i, place] = barred[i]
    together = model(**inputs, **given)
    for i, row in enumerate(rows):
        own = {"cls_index": given["cls_index"][i : i + 1] - shifts[i], "p_mask": barred[i][None]}
        alone = model(row[None], **own)
        for name in NAMES:
            shift = shifts[i] if name.endswith("index") else 0
            assert torch.allclose(together[name][i] - shift, alone[name][0], atol=1e-5), name
        assert alone.start_top_index.shape == (1, 3) and alone.end_top_index.shape == (1, 6)
        assert (alone.start_top_index < len(row)).all() and (alone.end_top_index < len(row)).all()
        assert alone.start_top_log_probs.sum() <= 1 + 1e-5
        assert int((alone.start_top_log_probs > 0).sum()) == min(3, int((~barred[i]).sum()))


@beams
def test_packed_answers_are_learned(kind):
    model, rows = ours(kind, HEAD), [ids()[0], ids()[1, :5]]
    given = {"start_positions": FIRST, "end_positions": torch.tensor([5, 4]), "is_impossible": torch.tensor([0, 1])}
    given["cls_index"] = torch.tensor([6, 4])
    packed = model(torch.cat(rows)[None], Layout.packed([7, 5]), **given).loss
    alone = [model(row[None], **{n: x[i : i + 1] for n, x in given.items()}).loss for i, row in enumerate(rows)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    assert torch.allclose(packed, torch.stack(alone).mean(), atol=1e-6)
    assert torch.allclose(packed, model(padded, mask, **given).loss, atol=1e-6)


def test_more_beams_than_tokens():
    scores, places = likeliest(torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]), 5)
    assert scores.tolist() == [[0.75, 0.25, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert places.tolist() == [[2, 0, 2, 2, 2], [1] * 5]


@beams
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start_positions": torch.tensor([7, 0])}, "start_positions holds 7; expected a token of the row, 0 to 6"),
        ({"start_positions": torch.tensor([-1, 0])}, "start_positions holds -1"),
        ({"end_positions": torch.tensor([3, 6])}, "end_positions holds 6; .* no padding"),
        ({"end_positions": torch.tensor([3, 4]), "p_mask": torch.tensor([[0] * 7, [0, 0, 0, 0, 1, 0, 0]])}, "p_mask"),
        ({"cls_index": torch.tensor([0, 6])}, "cls_index holds 6"),
        ({"is_impossible": torch.tensor([0, 1])}, "is_impossible is learned from the token at cls_index"),
    ],
)
def test_answers_that_are_not_in_the_text(kind, given, message):
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    with pytest.raises(InputError, match=message):
        ours(kind, HEAD)(ids(), mask, **{"start_positions": FIRST, "end_positions": LAST} | given)


@beams
def test_learning_answers_compiles(kind):
    model = ours(kind, HEAD)
    inputs = {"input_ids": ids(), "start_positions": FIRST, "end_positions": LAST} | LEARNED["all"]
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(**inputs).loss, model(**inputs).loss, atol=1e-6)


@beams
def test_beams_have_a_class_of_their_own(kind):
    folder, cls = checkpoint(kind, HEAD), our_class(kind, HEAD)
    assert getattr(pellucid, cls.__name__) is cls
    with pytest.raises(WeightsError, match=f"qa_outputs.weight[\\s\\S]*config.json says {cls.__name__}"):
        AutoModelForQuestionAnswering.from_pretrained(folder)
    for name in ("start_n_top", "end_n_top"):
        with pytest.raises(ConfigError, match=name):
            cls.config_class(**CASES[kind] | {name: 0})
