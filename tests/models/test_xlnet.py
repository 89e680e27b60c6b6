"""XLNet's segments, its second stream, and published configurations."""

import pytest
import torch
import torch.nn.functional as F

from oracle import ours, reference
from pellucid import AutoModelForPreTraining, AutoModelForQuestionAnswering, Layout
from pellucid.errors import ConfigError, InputError
from pellucid.models.xlnet import XLNetConfig, by_pair

BASE = {  # xlnet-base-cased's
    "architectures": ["XLNetLMHeadModel"], "attn_type": "bi", "bi_data": False, "bos_token_id": 1, "clamp_len": -1,
    "d_head": 64, "d_inner": 3072, "d_model": 768, "dropout": 0.1, "end_n_top": 5, "eos_token_id": 2,
    "ff_activation": "gelu", "initializer_range": 0.02, "layer_norm_eps": 1e-12, "mem_len": None,
    "model_type": "xlnet", "n_head": 12, "n_layer": 12, "pad_token_id": 5, "reuse_len": None, "same_length": False,
    "start_n_top": 5, "summary_activation": "tanh", "summary_last_dropout": 0.1, "summary_type": "last",
    "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 250}},
    "untie_r": True, "vocab_size": 32000,
}  # fmt: skip


def test_published_configs():
    for values in (BASE, BASE | {"output_past": True, "use_mems_eval": True, "use_mems_train": False}):
        config = XLNetConfig.from_dict(values)
        assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (768, 12, None)
        assert config.to_dict() == values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_type", "uni"),
        ("bi_data", True),
        ("untie_r", False),
        ("d_head", 32),
        ("n_head", 7),
        ("summary_type", "cls_index"),
        ("summary_activation", "glu"),
        ("ff_activation", "glu"),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        XLNetConfig(**BASE | {name: value})


def test_auto_classes_find_its_heads():
    config = ours("xlnet", "Model").config
    assert type(AutoModelForPreTraining.from_config(config)).__name__ == "XLNetLMHeadModel"
    assert type(AutoModelForQuestionAnswering.from_config(config)).__name__ == "XLNetForQuestionAnsweringSimple"


@pytest.mark.parametrize("length", [1, 2, 5])
def test_pairs_find_their_distance(length):
    columns = torch.arange(length, -length, -1).expand(1, 1, length, -1)  # what distance each column stands for
    places = torch.arange(length)
    assert torch.equal(by_pair(columns)[0, 0], places[:, None] - places)


@pytest.mark.parametrize("architecture", ["xlnet", "xlnet:mean"])
def test_segments_of_long_texts(architecture):
    """[CLS] is a segment of its own, and padding may be called anything."""
    model, original = (
        ours(architecture, "ForSequenceClassification"),
        reference(architecture, "ForSequenceClassification"),
    )
    types = [torch.tensor([3] * pads + [0] * 90 + [1] * 60 + [2]) for pads in (0, 7)]
    ids = [torch.randint(5, 99, (len(row),)) for row in types]
    alone = [original(i[None], token_type_ids=t[None]).logits for i, t in zip(ids, types, strict=True)]
    for i, t, logits in zip(ids, types, alone, strict=True):
        assert torch.allclose(model(i[None], token_type_ids=t[None]).logits, logits, atol=1e-5)
    together = model(torch.cat(ids)[None], Layout.packed([151, 158]), torch.cat(types)[None])
    assert torch.allclose(together.logits, torch.cat(alone), atol=1e-5)


def predictions(model):
    """Of three tokens, the second may see the first, the third both, and the first nothing but what is not hidden."""
    torch.manual_seed(0)
    ids, types = torch.randint(5, 99, (2, 12)), torch.randint(0, 2, (2, 12))
    hidden, targets = torch.zeros(2, 12, 12), torch.zeros(2, 3, 12)
    order = [4, 9, 2]
    for step, token in enumerate(order):
        hidden[:, :, token] = 1
        for later in order[step + 1 :]:
            hidden[:, later, token] = 0
        targets[:, step, token] = 1
    return {"input_ids": ids, "token_type_ids": types, "perm_mask": hidden, "target_mapping": targets}


@pytest.mark.parametrize("head", ["Model", "LMHeadModel"])
def test_the_second_stream(head):
    model, original = ours("xlnet", head), reference("xlnet", head)
    inputs = predictions(model)
    mine, theirs = model(**inputs), original(**inputs)
    assert mine[0].shape[:2] == (2, 3) and torch.allclose(mine[0], theirs[0], atol=1e-5)
    mask = torch.tensor([[1] * 12, [1] * 10 + [0] * 2])
    mine, theirs = model(**inputs, attention_mask=mask), original(**inputs, attention_mask=mask)
    assert torch.allclose(mine[0], theirs[0], atol=1e-5)
    del inputs["target_mapping"]
    assert torch.allclose(model(**inputs)[0], original(**inputs)[0], atol=1e-5)


def test_loss_and_gradients_of_the_second_stream():
    model, original = ours("xlnet", "LMHeadModel"), reference("xlnet", "LMHeadModel")
    inputs = predictions(model) | {"labels": torch.randint(5, 99, (2, 3))}
    original.zero_grad()
    mine, theirs = model(**inputs), original(**inputs)
    mine.loss.backward()
    theirs.loss.backward()
    assert torch.allclose(mine.loss, theirs.loss, atol=1e-6)
    gradients = {name: parameter.grad for name, parameter in original.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad.any() and torch.allclose(parameter.grad, gradients[name], atol=1e-6), name


def test_a_token_that_sees_nothing():
    model = ours("xlnet", "LMHeadModel")
    inputs = predictions(model) | {"perm_mask": torch.ones(2, 12, 12)}
    logits = model(**inputs).logits
    assert torch.allclose(logits, reference("xlnet", "LMHeadModel")(**inputs).logits, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        half = ours("xlnet", "LMHeadModel", dtype=dtype)(**inputs).logits
        assert F.cosine_similarity(half.float().flatten(), logits.flatten(), dim=0) > 0.99


def test_permutations_are_of_rows():
    with pytest.raises(InputError, match="give a padded batch"):
        ours("xlnet", "Model")(torch.ones(1, 9, dtype=int), Layout.packed([4, 5]), perm_mask=torch.ones(1, 9, 9))
