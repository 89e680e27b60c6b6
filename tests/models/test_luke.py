"""LUKE's entities; the promises of `test_models.py` are about texts without any."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import test_models as promises
from cases import CASES, ENCODER_HEADS
from oracle import checkpoint, ours, reference, reference_class, stored_gradients
from pellucid import AutoModel, Layout
from pellucid.errors import InputError
from pellucid.models.luke import LukeConfig, LukeForMaskedLM, LukeModel

BASE = {  # as luke-base's
    "architectures": ["LukeForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bert_model_name": "roberta-base",
    "bos_token_id": 0, "entity_emb_size": 256, "entity_vocab_size": 500000, "eos_token_id": 2,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 514,
    "model_type": "luke", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
    "position_embedding_type": "absolute", "type_vocab_size": 1, "use_entity_aware_attention": True,
    "vocab_size": 50267,
}  # fmt: skip
ENTITY_HEADS = ("ForEntityClassification", "ForEntityPairClassification", "ForEntitySpanClassification")
EVERY_HEAD = (*ENCODER_HEADS, *ENTITY_HEADS)
BOTH = ("luke", "luke:plain")  # with and without entity-aware attention
EVEN, LENGTHS, COUNTS = [9, 9, 9, 9], [9, 11, 5, 7], [2, 4, 3, 2]


def texts(lengths=LENGTHS):
    """Draw texts and their entities: for each its inputs as a batch of one."""
    torch.manual_seed(0)
    rows = []
    for length, count in zip(lengths, COUNTS, strict=True):
        starts = torch.randint(0, length - 2, (1, count))
        ends = starts + torch.randint(0, 3, (1, count))
        words = starts[..., None] + torch.arange(4)  # of an entity, of which it has up to 3
        rows.append({
            "input_ids": torch.randint(5, 99, (1, length)),
            "token_type_ids": torch.randint(0, 2, (1, length)),
            "entity_ids": torch.randint(1, 30, (1, count)),
            "entity_token_type_ids": torch.randint(0, 2, (1, count)),
            "entity_position_ids": words.masked_fill(words > ends[..., None], -1),
            "entity_start_positions": starts,
            "entity_end_positions": ends,
        })  # fmt: skip
    return rows


def batch(rows, words="right", entities="right"):
    """Pad texts on one side, and their entities on the same or the other."""
    fills = {"input_ids": 1, "entity_position_ids": -1}
    columns = {name: [row[name][0] for row in rows] for name in rows[0]}
    columns["attention_mask"] = [torch.ones_like(ids) for ids in columns["input_ids"]]
    columns["entity_attention_mask"] = [torch.ones_like(ids) for ids in columns["entity_ids"]]
    result = {}
    for name, column in columns.items():
        side, longest = entities if name.startswith("entity") else words, max(map(len, column))
        result[name] = torch.full((len(column), longest, *column[0].shape[1:]), fills.get(name, 0))
        for row, x in zip(result[name], column, strict=True):
            row[slice(len(x)) if side == "right" else slice(longest - len(x), longest)] = x
    return result


def fitting(inputs, head):
    """Leave out what a head does not take; multiple choice takes (B, C, ...)."""
    if head == "ForMultipleChoice":
        inputs = {name: x[None] for name, x in inputs.items()}
    spans = head == "ForEntitySpanClassification"
    return {name: x for name, x in inputs.items() if spans or not name.endswith(("start_positions", "end_positions"))}


def labels_for(head, model, inputs):
    torch.manual_seed(1)
    entities = inputs["entity_attention_mask"].bool()
    if head == "ForMaskedLM":
        asked = (torch.rand(entities.shape) < 0.7) & entities
        own = {"entity_labels": torch.where(asked, torch.randint(0, 30, entities.shape), -100)}
        return own | promises.labels_for(head, inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 3), model)
    if head == "ForEntitySpanClassification":
        return {"labels": torch.randint(0, 3, entities.shape).masked_fill(~entities, -100)}
    if head in ENTITY_HEADS:
        return {"labels": torch.randint(0, 3, (len(entities),))}
    return promises.labels_for(head, inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 3), model)


def assert_equal_gradients(model, architecture, head):
    gradients = stored_gradients(architecture, head)
    for name, parameter in model.named_parameters():
        stored_name = name if name in gradients else model.tied[name]
        reached = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(reached, gradients[stored_name], atol=1e-6), name


def test_a_published_config():
    config = LukeConfig.from_dict(BASE)
    assert config.to_dict() == BASE
    assert config.max_tokens == 512


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize("head", EVERY_HEAD)
def test_numbers_equal(architecture, head):
    inputs = batch(texts())
    keep, mine, theirs = inputs["attention_mask"].bool(), ours(architecture, head), reference(architecture, head)
    promises.assert_equal_outputs(mine(**fitting(inputs, head)), theirs(**fitting(inputs, head)), keep)
    for name in ("token_type_ids", "entity_attention_mask", "entity_token_type_ids"):
        del inputs[name]
    promises.assert_equal_outputs(mine(**fitting(inputs, head)), theirs(**fitting(inputs, head)), keep)


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize("head", EVERY_HEAD[1:])
def test_loss_and_gradients_equal(architecture, head):
    model, original = ours(architecture, head), reference(architecture, head)
    inputs = batch(texts(EVEN if head == "ForQuestionAnswering" else LENGTHS))  # its loss has the scores of padding
    labels = labels_for(head, model, inputs)
    original.zero_grad()
    theirs, mine = original(**fitting(inputs, head), **labels), model(**fitting(inputs, head), **labels)
    promises.assert_equal_outputs(mine, theirs, inputs["attention_mask"].bool())
    theirs.loss.backward()
    mine.loss.backward()
    assert_equal_gradients(model, architecture, head)
    aware = [name for name, p in model.named_parameters() if "2e_query" in name and p.grad is not None and p.grad.any()]
    assert bool(aware) == (architecture == "luke")


@pytest.mark.parametrize("head", ENTITY_HEADS)
def test_several_labels_of_an_entity(head):
    model, original, inputs = ours("luke", head), reference("luke", head), batch(texts())
    labels = torch.randint(0, 2, model(**fitting(inputs, head)).logits.shape)
    theirs, mine = (m(**fitting(inputs, head), labels=labels) for m in (original, model))
    assert torch.allclose(mine.loss, theirs.loss, atol=1e-6)


@pytest.mark.parametrize("given", [("labels",), ("entity_labels",), ("labels", "entity_labels")])
def test_the_two_losses_of_masked_words_and_entities(given):
    model, original, inputs = ours("luke", "ForMaskedLM"), reference("luke", "ForMaskedLM"), batch(texts())
    labels = {name: x for name, x in labels_for("ForMaskedLM", model, inputs).items() if name in given}
    theirs, mine = (m(**fitting(inputs, "ForMaskedLM"), **labels) for m in (original, model))
    promises.assert_equal_outputs(mine, theirs, inputs["attention_mask"].bool())
    assert mine.keys()[0] == "loss" and mine.keys()[-2:] == ["logits", "entity_logits"]


@pytest.mark.parametrize("architecture", BOTH)
def test_hidden_states_and_attentions(architecture):
    model, original = ours(architecture, "ForMaskedLM"), reference(architecture, "ForMaskedLM")
    original.set_attn_implementation("eager")
    inputs = batch(texts())
    keep = inputs["attention_mask"].bool()
    both = torch.cat([keep, inputs["entity_attention_mask"].bool()], dim=1)
    asked = fitting(inputs, "ForMaskedLM") | {"output_hidden_states": True, "output_attentions": True}
    mine, theirs = model(**asked), original(**asked)
    for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        assert torch.allclose(a[keep], b[keep], atol=1e-5)
    for a, b in zip(mine.attentions, theirs.attentions, strict=True):
        assert torch.allclose(a.transpose(1, 2)[both], b.transpose(1, 2)[both], atol=1e-5)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", EVERY_HEAD)
@pytest.mark.parametrize(("words", "entities"), [("right", "right"), ("left", "left"), ("left", "right")])
def test_a_row_of_a_batch_is_the_text_alone(head, words, entities):
    model, rows = ours("luke", head), texts()
    together = model(**fitting(batch(rows, words, entities), head))
    for i, row in enumerate(rows):
        for name, alone in model(**fitting(row, head)).items():
            part = together[name][:, i : i + 1] if head == "ForMultipleChoice" else together[name][i : i + 1]
            side = entities if name.startswith("entity") or head == "ForEntitySpanClassification" else words
            if part.shape[1] != alone.shape[1]:
                part = part[:, : alone.shape[1]] if side == "right" else part[:, -alone.shape[1] :]
            assert torch.allclose(part, alone, atol=1e-5), (name, i)


@pytest.mark.parametrize("head", EVERY_HEAD)
def test_compiles_to_one_graph(head):
    model, inputs = ours("luke", head), fitting(batch(texts(), "left"), head)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        mine, plain = compiled(**inputs), model(**inputs)
    assert all(torch.allclose(mine[name], plain[name], atol=1e-5) for name in plain.keys())  # noqa: SIM118


@pytest.mark.parametrize("head", EVERY_HEAD)
def test_half_precision(head):
    model, exact, inputs = ours("luke", head, dtype="bfloat16"), ours("luke", head), fitting(batch(texts()), head)
    for name, value in model(**inputs).items():
        assert value.dtype == torch.bfloat16 and value.isfinite().all()
        similar = torch.nn.functional.cosine_similarity(value.float().flatten(), exact(**inputs)[name].flatten(), dim=0)
        assert similar > 0.99


def test_a_text_without_entities_beside_others():
    model, inputs = ours("luke", "Model"), fitting(batch(texts()), "Model")
    inputs["entity_attention_mask"][2] = 0
    without = {name: x[2:3] for name, x in inputs.items() if not name.startswith("entity")}
    keep = without["attention_mask"].bool()
    together, alone = model(**inputs).last_hidden_state[2:3], model(**without).last_hidden_state
    assert torch.allclose(together[keep], alone[keep], atol=1e-5)
    none = {name: inputs[name][2:3, :0] for name in ("entity_ids", "entity_position_ids")}
    assert torch.equal(model(**without, **none).last_hidden_state, alone)


# --- loading and saving -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ENTITY_HEADS)
def test_entity_heads_load_and_save(head, tmp_path):
    promises.test_names_and_shapes_equal("luke", head)
    promises.test_the_original_loads_what_we_save("luke", head, tmp_path / "saved")
    promises.test_backbone_from_headed_file_and_back("luke", head, tmp_path / "backbone")
    promises.test_missing_extra_and_misshapen_tensors_name_themselves("luke", head, tmp_path / "damaged")


def test_untied(tmp_path):
    config = reference_class("luke", "ForMaskedLM").config_class(**CASES["luke"], tie_word_embeddings=False)
    original = reference_class("luke", "ForMaskedLM")(config).eval()
    torch.nn.init.normal_(original.entity_predictions.decoder.weight)
    original.save_pretrained(tmp_path / "theirs")
    model, inputs = LukeForMaskedLM.from_pretrained(tmp_path / "theirs"), fitting(batch(texts()), "ForMaskedLM")
    promises.assert_equal_outputs(model(**inputs), original(**inputs), inputs["attention_mask"].bool())
    model.save_pretrained(tmp_path / "ours")
    names = [load_file(tmp_path / folder / "model.safetensors").keys() for folder in ("theirs", "ours")]
    assert names[0] == names[1]


def test_what_is_tied_may_be_stored_twice_or_under_its_other_name(tmp_path):
    model = ours("luke", "ForMaskedLM")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["entity_predictions.decoder.weight"] = tensors["luke.entity_embeddings.entity_embeddings.weight"].clone()
    tensors["lm_head.bias"] = tensors.pop("lm_head.decoder.bias")
    save_file(tensors, file)
    again = LukeForMaskedLM.from_pretrained(tmp_path)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())
    assert again.entity_predictions.decoder.weight is again.luke.entity_embeddings.entity_embeddings.weight


def test_the_door_of_any_architecture():
    assert isinstance(AutoModel.from_pretrained(checkpoint("luke", "ForEntityClassification")), LukeModel)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("entity_ids", 30, "entity_ids holds 30; expected 0 to 29"),
        ("entity_token_type_ids", 2, "entity_token_type_ids holds 2; expected 0 to 1"),
        ("entity_position_ids", 42, "entity_position_ids holds 42; expected -1 to 41"),
        ("entity_start_positions", -1, "begins or ends at word -1"),
        ("entity_end_positions", 9, "begins or ends at word 9"),
        ("entity_attention_mask", 2, "holds 2; expected 1 on real tokens"),
    ],
)
def test_impossible_values(name, value, message):
    inputs = batch(texts())
    inputs[name][0, 0] = value
    with pytest.raises(InputError, match=message):
        ours("luke", "ForEntitySpanClassification")(**inputs)


def test_what_does_not_belong_together():
    model, inputs = ours("luke", "Model"), fitting(batch(texts()), "Model")
    for name in ("entity_ids", "entity_position_ids"):
        with pytest.raises(InputError, match="entity_ids and entity_position_ids together"):
            model(**{key: x for key, x in inputs.items() if key != name})
    with pytest.raises(InputError, match=r"entity_position_ids is \(4, 4\); expected \(4, 4, 'M'\)"):
        model(**inputs | {"entity_position_ids": inputs["entity_position_ids"][..., 0]})
    entities = {name: x[:2] for name, x in inputs.items() if name.startswith("entity")}
    with pytest.raises(InputError, match="entity_ids has 2 rows, for 4 texts"):
        model(**inputs | entities)
    with pytest.raises(InputError, match="entity_ids has 2 rows, for a packed batch"):
        model(torch.full((1, 9), 7), Layout.packed([4, 5]), **entities)


@pytest.mark.parametrize("head", ENTITY_HEADS)
def test_entity_heads_need_entities(head):
    with pytest.raises(InputError, match="Give exactly one of entity_ids; got none"):
        ours("luke", head)(torch.full((1, 9), 7))
    with pytest.raises(InputError, match="Give exactly one of entity_ids; got none"):
        ours("luke", "ForMaskedLM")(torch.full((1, 9), 7), entity_labels=torch.ones(1, 2, dtype=torch.long))


def test_a_pair_needs_two_entities():
    inputs = fitting(batch(texts()), "ForEntityPairClassification")
    inputs["entity_attention_mask"][1, 1:] = 0
    with pytest.raises(InputError, match="A text has 1 entities; expected 2 or more"):
        ours("luke", "ForEntityPairClassification")(**inputs)


def test_spans_need_their_ends():
    with pytest.raises(InputError, match="Give exactly one of entity_start_positions; got none"):
        ours("luke", "ForEntitySpanClassification")(**fitting(batch(texts()), "ForEntityPairClassification"))
