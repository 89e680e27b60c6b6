"""generation_config.json as published: read in silence, kept as it is, and beaten by what a call says."""

import json
import shutil
import warnings

import pytest
import torch

from oracle import checkpoint, ours, reference_class
from pellucid import GenerationConfig
from pellucid.errors import ArgumentError, InputError

PUBLISHED = {
    "llama-3": {
        "bos_token_id": 128000, "do_sample": True, "eos_token_id": [128001, 128008, 128009], "temperature": 0.6,
        "top_p": 0.9, "transformers_version": "4.42.3",
    },
    "gemma-3": {
        "_from_model_config": True, "bos_token_id": 2, "cache_implementation": "hybrid", "do_sample": True,
        "eos_token_id": [1, 106], "pad_token_id": 0, "top_k": 64, "top_p": 0.95, "transformers_version": "4.50.0.dev0",
    },
    "qwen": {
        "chat_format": "chatml", "eos_token_id": 151643, "pad_token_id": 151643, "max_window_size": 24000,
        "max_new_tokens": 512, "do_sample": True, "top_k": 0, "top_p": 0.8, "repetition_penalty": 1.1,
        "transformers_version": "4.31.0",
    },
    "llama-2": {
        "bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.6,
        "max_length": 4096, "top_p": 0.9, "transformers_version": "4.31.0.dev0",
    },
    "opt": {"_from_model_config": True, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    "offloaded": {"cache_implementation": "offloaded_static", "trust_remote_code": True, "low_memory": False},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    ours("gpt2", "LMHeadModel").save_pretrained(tmp_path)
    return tmp_path


def model_with(folder, values):
    (folder / "generation_config.json").write_text(json.dumps(values))
    return type(ours("gpt2", "LMHeadModel")).from_pretrained(folder)


def prompt(length=4):
    return torch.randint(5, 99, (1, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name, folder, capfd):
    values = PUBLISHED[name]
    model, plain = model_with(folder, values), ours("gpt2", "LMHeadModel")
    assert model.generation_config.to_dict() == values
    assert json.loads(model.generation_config.to_json_string()) == values
    said = {name: value for name, value in values.items() if name in GenerationConfig.names()}
    said |= {"eos_token_id": values.get("eos_token_id", 2), "max_new_tokens": 5, "seed": 1}
    said.pop("max_length", None)
    if "offloaded" in str(values):
        said.pop("cache_implementation")
    if said.get("bos_token_id", 0) > 99:
        said.pop("bos_token_id")
    assert torch.equal(model.generate(prompt(), max_new_tokens=5, seed=1), plain.generate(prompt(), **said))
    greedy = model.generate(prompt(), max_new_tokens=5, do_sample=False, repetition_penalty=1.0, suppress_tokens=[1, 2])
    assert torch.equal(greedy, plain.generate(prompt(), max_new_tokens=5, suppress_tokens=[1, 2]))
    assert model.generate(prompt(), max_new_tokens=5, num_beams=2, suppress_tokens=[1, 2]).shape == (1, 9)
    assert capfd.readouterr() == ("", "")


def test_how_long(folder):
    model = model_with(folder, {"max_length": 20})
    options = {"suppress_tokens": [2]}
    assert model.generate(prompt(), **options).shape == (1, 20)
    assert model.generate(prompt(), max_new_tokens=30, **options).shape == (1, 34)
    assert model.generate(prompt(), max_length=30, **options).shape == (1, 30)
    assert model.generate(prompt(), max_length=None, **options).shape == (1, 40)  # the context
    assert model.generate(prompt(22), max_new_tokens=3, **options).shape == (1, 25)
    with pytest.raises(InputError, match="The prompt has 22 tokens and max_length is 20, which counts them; pass max_"):
        model.generate(prompt(22))
    model = model_with(folder, {"max_new_tokens": 9})
    assert model.generate(prompt(), max_length=6, **options).shape == (1, 6)
    assert model.generate(prompt(), max_new_tokens=None, **options).shape == (1, 40)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, {"num_beams": 3}),
        ({"penalty_alpha": 0.6, "top_k": 4}, {"do_sample": True, "seed": 1}),
        ({"penalty_alpha": 0.6, "top_k": 4}, {"prompt_lookup_num_tokens": 2}),
        ({"do_sample": True, "temperature": 0.3}, {"penalty_alpha": 0.6, "top_k": 3}),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"num_beams": 1}),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"num_beams": 3}),
        ({"num_beams": 4, "num_return_sequences": 4}, {"num_beams": 2}),
        ({"num_beams": 4}, {"prompt_lookup_num_tokens": 2}),
        ({"cache_implementation": "hybrid"}, {"prompt_lookup_num_tokens": 2}),
        ({"top_k": 5, "top_p": 0.5, "temperature": 0.1}, {"do_sample": True, "seed": 1, "top_k": None, "top_p": None}),
        (
            {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
            {"repetition_penalty": None, "no_repeat_ngram_size": None},
        ),
        ({"eos_token_id": list(range(3, 99))}, {"eos_token_id": None}),
    ],
)
def test_what_a_call_says_beats_a_file(file, said, folder):
    model, options = model_with(folder, file), {"max_new_tokens": 6, "suppress_tokens": [2]}
    alone = dict(said)
    if "temperature" in file and "do_sample" in said:
        alone |= {"temperature": 0.1, "top_k": 0, "top_p": 1.0}
    if file.get("top_k") == 4 and said.get("do_sample"):
        alone["top_k"] = 4
    wanted = ours("gpt2", "LMHeadModel").generate(prompt(), **options, **alone)
    assert torch.equal(model.generate(prompt(), **options, **said), wanted)


def test_none_is_the_same_as_the_originals_none():
    """In the original, too, a None that is given takes back what a file says."""
    from oracle import reference

    model, original = ours("gpt2", "LMHeadModel"), reference("gpt2", "LMHeadModel")
    ids, options = prompt(), {"max_new_tokens": 12, "pad_token_id": 3}
    for said in ({"eos_token_id": None}, {"do_sample": True, "top_k": None}):
        found = []
        for one in (model, original):
            torch.manual_seed(0)
            found.append(one.generate(ids, attention_mask=torch.ones_like(ids), **options, **said))
        assert torch.equal(*found)


def test_settings_that_do_not_exist():
    with pytest.raises(ArgumentError, match="no argument 'max_new_token'; did you mean 'max_new_tokens'"):
        GenerationConfig(max_new_token=3)
    config = GenerationConfig.from_dict({"chat_format": "chatml", "top_k": 3})
    with pytest.raises(AttributeError, match="no setting 'tempreature'; did you mean 'temperature'"):
        config.tempreature = 0.5
    config.chat_format, config.temperature = "raw", 0.5
    with pytest.raises(InputError, match=r"generation_config is a dict; expected a pellucid\.GenerationConfig"):
        ours("gpt2", "LMHeadModel").generate(prompt(), generation_config={"top_k": 3})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": float("nan")}, "temperature is nan; expected a number, 0 or more"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"length_penalty": "long"}, "length_penalty is 'long'; expected a number"),
        ({"do_sample": "no"}, "do_sample is 'no'; expected True or False"),
        ({"use_cache": "yes"}, "use_cache is 'yes'"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"max_length": float("inf")}, "max_length is inf; expected a whole number"),
        ({"eos_token_id": "</s>"}, "eos_token_id holds '</s>'; expected ids of tokens"),
        ({"suppress_tokens": [1.5]}, "suppress_tokens holds 1.5"),
        ({"bad_words_ids": [5]}, r"bad_words_ids is \[5\]; expected a list of words"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids is \[\[\]\]"),
    ],
)
def test_impossible_settings(settings, says):
    with pytest.raises(InputError, match=says):
        GenerationConfig(**settings)


def test_numbers_of_other_libraries():
    import numpy

    config = GenerationConfig(
        max_new_tokens=numpy.int64(3), temperature=numpy.float32(0.5), eos_token_id=numpy.array([2])
    )
    assert config.eos_ids == [2]
    assert GenerationConfig(eos_token_id=torch.tensor([2, 7])).eos_ids == [2, 7]
    assert ours("gpt2", "LMHeadModel").generate(prompt(), max_new_tokens=numpy.int64(3)).shape == (1, 7)


# --- folders from before generation_config.json -----------------------------------------------------------------------

# What config.json says of writing in folders of 2020 and 2021, with ids of a small vocabulary.
EARLIER = {
    "bart-large-cnn": {
        "early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0,
        "max_length": 24, "min_length": 9, "no_repeat_ngram_size": 3, "num_beams": 4,
    },
    "opus-mt": {"bad_words_ids": [[1], [7, 9]], "max_length": 14, "num_beams": 6, "num_return_sequences": 1},
    "pegasus": {"length_penalty": 0.8, "max_length": 18, "num_beams": 8, "do_sample": False, "temperature": 1.0},
    "wmt19": {"early_stopping": False, "length_penalty": 1.15, "max_length": 20, "num_beams": 5, "top_k": 50},
    "led": {"max_length": 16, "min_length": 6, "num_beams": 2, "suppress_tokens": [4, 5], "repetition_penalty": 1.5},
    "dialog": {"encoder_no_repeat_ngram_size": 2, "max_length": 17, "num_beams": 4, "num_beam_groups": 1},
    "sampled": {"do_sample": True, "top_k": 4, "temperature": 0.7, "max_length": 12},
}  # fmt: skip
WRITERS = {"bart": "ForConditionalGeneration", "t5": "ForConditionalGeneration", "marian": "MTModel",
           "fsmt": "ForConditionalGeneration", "encoder_decoder": "Model", "gpt2": "LMHeadModel"}  # fmt: skip


def both_with(tmp_path, architecture, said, beside=None):
    """Return our model and the original's of a folder whose config.json says something, too."""
    head = WRITERS[architecture]
    shutil.copytree(checkpoint(architecture, head), tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").unlink()
    if beside is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(beside))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | said))
    classes = (type(ours(architecture, head)), reference_class(architecture, head))
    return [cls.from_pretrained(tmp_path) for cls in classes]


def written(model, **options):
    """Return what a model writes when a call says nothing about it."""
    ids = torch.randint(5, 99, (3, 7), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the original wants to be told how long
        return model.generate(ids, attention_mask=torch.ones_like(ids), **options)


@pytest.mark.parametrize("name", EARLIER)
@pytest.mark.parametrize("architecture", WRITERS)
def test_same_as_the_original_where_config_json_says_all(tmp_path, architecture, name):
    said = EARLIER[name]
    if architecture == "gpt2":
        said = {key: value for key, value in said.items() if not key.startswith(("encoder", "forced_bos"))}
    if architecture == "encoder_decoder":
        said = {"decoder_start_token_id": 3, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0, **said}
    model, original = both_with(tmp_path, architecture, said)
    limit = {"max_length": 20} if said["max_length"] == 20 else {}  # there, that is what nobody has said
    assert torch.equal(written(model, **limit), written(original, **limit))
    more = {"num_beams": 1, "early_stopping": None, "length_penalty": None, "do_sample": False, "max_length": 13}
    assert torch.equal(written(model, **more), written(original, **more))


def test_a_generation_config_json_takes_the_place_of_what_config_json_says(tmp_path):
    file = {"max_length": 11, "no_repeat_ngram_size": 2, "decoder_start_token_id": 2, "eos_token_id": 2}
    model, original = both_with(tmp_path, "bart", EARLIER["bart-large-cnn"], file)
    assert torch.equal(written(model), written(original)) and written(model).shape[1] <= 11
    (tmp_path / "generation_config.json").write_text('{"max_length": 11}')  # which the original can not write with
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(written(again), written(model, no_repeat_ngram_size=None))
    again.generation_config = GenerationConfig(max_length=9)
    assert written(again).shape[1] <= 9


def test_what_is_changed_is_saved_with_the_rest(tmp_path):
    model, original = both_with(tmp_path / "old", "bart", EARLIER["bart-large-cnn"])
    model.save_pretrained(tmp_path / "same")
    assert not (tmp_path / "same" / "generation_config.json").exists()
    assert torch.equal(written(type(model).from_pretrained(tmp_path / "same")), written(model))
    model.generation_config.num_beams = 2
    model.save_pretrained(tmp_path / "new")
    file = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert file == EARLIER["bart-large-cnn"] | file | {"num_beams": 2} and file["decoder_start_token_id"] == 2
    for cls in (type(model), type(original)):
        assert torch.equal(written(cls.from_pretrained(tmp_path / "new")), written(original, num_beams=2))
