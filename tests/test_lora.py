"""Adapters give PEFT's numbers, both ways through its files, and leave the model's own weights alone."""

import copy
import json
import os
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import pellucid
from cases import CASES
from oracle import checkpoint, reference
from pellucid import LoraConfig, PeftModel, auto, get_peft_model
from pellucid.errors import ArgumentError, ConfigError, InputError, WeightsError
from pellucid.lora import ends_with, is_adaptable, layer_of
from threads import in_threads

HEAD = {
    "bert": "ForSequenceClassification",
    "gpt2": "LMHeadModel",
    "llama": "ForCausalLM",
    "t5": "ForConditionalGeneration",
    "distilbert": "ForTokenClassification",
}


@pytest.fixture
def peft():
    pytest.importorskip("peft", reason="peft is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft

        yield peft


def inputs(architecture):
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "decoder_input_ids": ids[:, :4]} if architecture == "t5" else {"input_ids": ids}


def model(architecture="gpt2", head=None):
    return auto_class(architecture, head).from_pretrained(checkpoint(architecture, head or HEAD[architecture]))


def auto_class(architecture, head=None):
    name = head or HEAD[architecture]
    return next(c for c in auto.heads_of(architecture).values() if c.__name__.endswith(name))


@torch.no_grad()
def logits(model, architecture="gpt2"):
    return model(**inputs(architecture)).logits


def shake(parameters, seed=0):
    """Move what is trained off its initial value."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def adapted(architecture="gpt2", seed=0, name="default", to=None, **settings):
    to = to or model(architecture)
    to.add_adapter(LoraConfig(**{"r": 3, "lora_alpha": 5} | settings), name)
    shake(to.parameters(), seed)
    return to


# --- as PEFT has it ---------------------------------------------------------------------------------------------------

CONFIGS = [
    ("bert", {"task_type": "SEQ_CLS"}),
    ("bert", {"target_modules": ["query", "dense"], "bias": "lora_only", "use_rslora": True}),
    ("bert", {"bias": "all"}),
    ("bert", {"layers_to_transform": [1], "target_modules": ["query", "key"], "exclude_modules": ["key"]}),
    ("bert", {"rank_pattern": {"layer.1.attention.self.query": 5}, "alpha_pattern": {"value": 9, "query": 2}}),
    ("bert", {"target_modules": ["word_embeddings", "query"], "init_lora_weights": "gaussian"}),
    ("distilbert", {"task_type": "TOKEN_CLS", "target_modules": ["q_lin", "v_lin"]}),
    ("gpt2", {"fan_in_fan_out": True}),
    ("gpt2", {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}),
    ("gpt2", {"target_modules": ["c_attn", "wte"]}),
    ("gpt2", {"target_modules": ["c_attn", "lm_head"]}),
    ("gpt2", {"modules_to_save": ["lm_head", "wte"]}),
    ("llama", {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}),
    ("llama", {"modules_to_save": ["embed_tokens"], "layers_to_transform": 0, "layers_pattern": "layers"}),
    ("t5", {"task_type": "SEQ_2_SEQ_LM"}),
    ("t5", {"target_modules": ["wi_0", "wi_1", "wo", "q"]}),
]


def of_peft(peft, architecture, settings, folder):
    """Return PEFT's model with a trained adapter, which it also writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(
            copy.deepcopy(reference(architecture, HEAD[architecture])), peft.LoraConfig(r=3, lora_alpha=5, **settings)
        ).eval()
        shake(theirs.parameters())
        theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("architecture, settings", CONFIGS)
def test_an_adapter_of_peft_gives_its_logits(peft, architecture, settings, tmp_path):
    theirs = of_peft(peft, architecture, settings, tmp_path)
    ours = model(architecture)
    plain = logits(ours, architecture)
    ours.load_adapter(tmp_path)
    expected = logits(theirs, architecture)
    assert torch.allclose(logits(ours, architecture), expected, atol=1e-6 * float(expected.abs().max().clamp(min=1)))
    assert not torch.allclose(plain, expected, atol=1e-3)
    with ours.adapter(None):
        assert torch.equal(logits(ours, architecture), plain)


@pytest.mark.parametrize("architecture, settings", CONFIGS)
def test_peft_reads_what_we_write(peft, architecture, settings, tmp_path):
    settings = {name: value for name, value in settings.items() if name != "fan_in_fan_out"}
    ours = adapted(architecture, **settings)
    ours.save_adapter(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]
    base = copy.deepcopy(reference(architecture, HEAD[architecture]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    expected = logits(ours, architecture)
    assert torch.allclose(logits(theirs, architecture), expected, atol=1e-6 * float(expected.abs().max().clamp(min=1)))
    again = model(architecture)
    again.load_adapter(tmp_path)
    assert torch.equal(logits(again, architecture), expected)


@pytest.mark.parametrize("architecture, settings", CONFIGS)
def test_the_same_parameters_learn(peft, architecture, settings, tmp_path):
    theirs = of_peft(peft, architecture, settings, tmp_path)
    settings = {name: value for name, value in settings.items() if name != "fan_in_fan_out"}
    ours = adapted(architecture, **settings)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    own = {f"base_model.model.{name}": tensor.shape for name, tensor in ours.get_adapter_state_dict().items()}
    extra = {name for name in stored if name.endswith(".base_layer.weight")}  # copies that PEFT writes for nothing
    tied = {"base_model.model.cls.predictions.bias"}
    assert own == {name: tensor.shape for name, tensor in stored.items() if name not in extra | tied}
    assert ours.num_parameters(only_trainable=True) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


def test_gradients_equal_pefts(peft, tmp_path):
    theirs = of_peft(peft, "gpt2", {"target_modules": ["c_attn", "c_fc", "wte"]}, tmp_path)
    ours = model()
    ours.load_adapter(tmp_path, is_trainable=True)
    ids = inputs("gpt2")["input_ids"]
    for made in (ours, theirs):
        made(input_ids=ids, labels=ids).loss.backward()
    grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    own = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert len(own) == len(grads)
    for name, grad in own.items():
        module, _, part = name.partition(".adapters.default.lora.")
        theirs_of = next(g for n, g in grads.items() if f"model.{module}.lora_" in n and f"_{part}." in n)
        assert torch.allclose(grad, theirs_of, atol=1e-6), name


def test_the_original_reads_a_folder_of_both(peft, tmp_path):
    ours = adapted("bert", task_type="SEQ_CLS")
    ours.save_pretrained(tmp_path)
    expected = logits(ours, "bert")
    again = auto_class("bert").from_pretrained(tmp_path)
    assert torch.equal(logits(again, "bert"), expected) and again.active_adapters() == ["default"]
    import transformers

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.allclose(logits(theirs, "bert"), expected, atol=1e-5)


# --- beside the weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
def test_the_checkpoint_stays_the_models_own(architecture, tmp_path):
    ours = model(architecture)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    adapted(architecture, to=ours, task_type="SEQ_CLS" if architecture == "bert" else None)
    assert list(ours.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    assert ours.load_state_dict(ours.state_dict()).missing_keys == []
    ours.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(before) - set(ours.ties)
    ours.unload().save_pretrained(tmp_path)
    assert "adapter_config.json" not in os.listdir(tmp_path)


def test_only_the_adapter_learns():
    ours = model("bert").train()
    ours.bert.embeddings.requires_grad_(False)
    learning = {name for name, p in ours.named_parameters() if p.requires_grad}
    adapted("bert", to=ours, task_type="SEQ_CLS")
    assert {name.split(".adapters.")[-1] for name, p in ours.named_parameters() if p.requires_grad} == {
        *("default.lora.A", "default.lora.B", "default.whole.weight", "default.whole.bias")
    }
    loss = ours(**inputs("bert"), labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in ours.parameters())
    ours.delete_adapter("default")
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == learning


def test_a_new_adapter_changes_nothing():
    for architecture in ("gpt2", "bert"):
        ours = model(architecture)
        before = logits(ours, architecture)
        ours.add_adapter(LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", bias="lora_only"))
        assert torch.equal(logits(ours, architecture), before)


def test_several_adapters_and_none():
    ours = adapted(name="a")
    plain = logits(model())
    a = logits(ours)
    adapted(name="b", seed=1, to=ours, target_modules=["c_fc"])
    b = logits(ours)
    assert ours.active_adapters() == ["b"] and not torch.allclose(a, b)
    ours.set_adapter("a")
    assert torch.equal(logits(ours), a)
    assert {p.requires_grad for n, p in ours.named_parameters() if ".adapters.b." in n} == {False}
    ours.set_adapter(["a", "b"])
    both = logits(ours)
    ours.merge_adapter()
    assert torch.allclose(logits(ours), both, atol=1e-5)
    ours.unmerge_adapter()
    ours.disable_adapters()
    assert torch.equal(logits(ours), plain) and ours.active_adapters() == []
    with ours.adapter("b"):
        assert torch.equal(logits(ours), b)
        with ours.adapter(None):
            assert torch.equal(logits(ours), plain)
        assert torch.equal(logits(ours), b)
    ours.enable_adapters()
    assert torch.equal(logits(ours), both)
    ours.delete_adapter("b")
    assert torch.equal(logits(ours), a)
    assert torch.equal(logits(ours.unload()), plain)
    assert type(ours.transformer.h[0].attn.c_attn).__name__ == "Conv1D"


def test_threads_choose_for_themselves():
    ours = adapted(name="a")
    adapted(name="b", seed=1, to=ours)
    expected = {}
    for name in ("a", "b", None):
        with ours.adapter(name):
            expected[name] = logits(ours)

    def work(name):
        for _ in range(25):
            if name == "default":
                assert torch.equal(logits(ours), expected["b"])
            else:
                with ours.adapter(name):
                    assert torch.equal(logits(ours), expected[name])

    in_threads(work, ["a", "b", None, "default"])


def test_a_copy_is_on_its_own():
    ours = adapted(name="a")
    adapted(name="b", seed=1, to=ours)
    b = logits(ours)
    other = copy.deepcopy(ours)
    other.set_adapter("a")
    assert torch.equal(logits(ours), b) and not torch.allclose(logits(other), b)
    shake(other.parameters())
    assert torch.equal(logits(ours), b)


def test_generation_and_compiling_go_through_adapters():
    ours = adapted()
    ids = inputs("gpt2")["input_ids"]
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(ids, use_cache=False).logits, logits(ours), atol=1e-6)
    written = ours.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(ours.merge_and_unload().generate(ids, max_new_tokens=4, do_sample=False), written)


def test_half_precision_keeps_the_adapter_exact():
    ours = model().to(torch.bfloat16)
    adapted(to=ours)
    assert {p.dtype for p in ours.parameters() if p.requires_grad} == {torch.float32}
    assert logits(ours).dtype == torch.bfloat16


def test_the_pefts_spellings(tmp_path, capsys):
    ours = get_peft_model(model(), LoraConfig(r=2, init_lora_weights=False))
    ours.print_trainable_parameters()
    assert "trainable params: " in capsys.readouterr().out
    ours.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(model(), tmp_path)), logits(ours))


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture, settings",
    [
        *CONFIGS,
        ("t5", {"target_modules": ["q", "lm_head"]}),
        ("gpt2", {"target_modules": ["wte", "lm_head"]}),
    ],
)
def test_merging_gives_the_same_logits_and_goes_back(architecture, settings, tmp_path):
    settings = {name: value for name, value in settings.items() if name != "fan_in_fan_out"}
    ours = adapted(architecture, **settings)
    values, before = ours.config.to_dict(), {n: t.clone() for n, t in ours.state_dict().items()}
    expected = logits(ours, architecture)
    close = {"atol": 1e-5 * float(expected.abs().max().clamp(min=1))}
    ours.merge_adapter()
    assert torch.allclose(logits(ours, architecture), expected, **close)
    ours.save_pretrained(tmp_path)
    ours.unmerge_adapter()
    assert torch.equal(logits(ours, architecture), expected) and ours.config.to_dict() == values
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    merged = auto_class(architecture).from_pretrained(tmp_path)
    assert torch.allclose(logits(merged, architecture), expected, **close)
    ours.merge_and_unload()
    assert torch.allclose(logits(ours, architecture), expected, **close) and not ours.switch.configs


@pytest.mark.parametrize("architecture", ["deepseek_v3", "mixtral", "mamba", "falcon_mamba", "bart"])
def test_every_linear_map_is_called(architecture):
    """An adapter on a module whose weight is only read would be silently without effect."""
    made = auto_class(architecture, {"bart": "ForConditionalGeneration"}.get(architecture, "ForCausalLM"))
    torch.manual_seed(0)
    ours = made.from_config(auto.config_class(architecture)(**CASES[architecture])).eval()
    shake(ours.parameters())
    modules = [n for n, m in ours.named_modules() if isinstance(m, nn.Linear) and is_adaptable(m)]
    ours.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=modules))
    ids = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 4, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    on = ours.generate(ids, **settings)
    ours.merge_adapter()
    merged = ours.generate(ids, **settings)
    for a, b in zip(on.scores, merged.scores, strict=True):
        seen = b.isfinite()
        assert torch.allclose(a[seen], b[seen], atol=1e-4 * float(b[seen].abs().max().clamp(min=1)))


# --- names ------------------------------------------------------------------------------------------------------------


@given(parts=st.lists(st.sampled_from(["layers", "h", "attn", "q", "3", "12"]), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_names_end_at_dots(parts):
    name = ".".join(parts)
    assert all(ends_with(name, ".".join(parts[i:])) for i in range(len(parts)))
    assert not ends_with(name, f"x{parts[-1]}") and not ends_with(f"{name}x", name)
    layer = layer_of(name)
    assert layer is None or str(layer) in parts[1:-1]


def test_what_a_layers_number_is():
    assert layer_of("model.layers.11.self_attn.q_proj") == 11
    assert layer_of("h.1.mlp.experts.4.w1") == 4 and layer_of("h.1.mlp.experts.4.w1", ["h"]) == 1
    assert layer_of("classifier.0") is None and layer_of("q") is None


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"r": 0}, "the rank r is 0"),
        ({"rank_pattern": {"q": 1.5}}, "the rank q is 1.5"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"task_type": "CLS"}, "'CLS'"),
        ({"alpha_pattern": {".*q": 3}}, "regular expression"),
        ({"exclude_modules": "q"}, "a list of names"),
    ],
)
def test_impossible_configs(settings, words):
    with pytest.raises(ConfigError, match=words):
        LoraConfig(**settings)


@pytest.mark.parametrize(
    "architecture, settings, words",
    [
        ("gpt2", {"target_modules": ["c_atn"]}, "did you mean 'c_attn'"),
        ("gpt2", {"target_modules": "c_.*"}, "Regular expressions are not read"),
        ("gpt2", {"target_modules": ["ln_1"]}, "LoRA changes linear maps"),
        ("gpt2", {"layers_to_transform": [9]}, "leave no module"),
        ("gpt2", {"modules_to_save": ["lm_haed"]}, "did you mean 'lm_head'"),
    ],
)
def test_names_that_no_module_has(architecture, settings, words):
    ours = model(architecture)
    with pytest.raises(InputError, match=words):
        ours.add_adapter(LoraConfig(**settings))
    assert not ours.switch.configs and all(p.requires_grad for p in ours.parameters())


def test_wrong_calls(tmp_path):
    ours = adapted(name="a")
    for call, words in [
        (lambda: ours.add_adapter(LoraConfig(), "a"), "already"),
        (lambda: ours.add_adapter(LoraConfig(), "a.b"), "without dots"),
        (lambda: ours.add_adapter({"r": 3}), "LoraConfig"),  # type: ignore[arg-type]
        (lambda: ours.set_adapter("aa"), "did you mean 'a'"),
        (lambda: ours.adapter("x"), "There are: 'a'"),
        (lambda: ours.delete_adapter("x"), "There are: 'a'"),
        (lambda: model().save_adapter(tmp_path), "none; say which"),
        (lambda: ours.transformer.add_adapter(LoraConfig()), "add all to the whole model"),
    ]:
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(ArgumentError, match="is_trainable"):
        ours.load_adapter(tmp_path, "b", is_trainabel=True)
    adapted(name="b", seed=1, to=ours, modules_to_save=["lm_head"])
    adapted(name="c", seed=2, to=ours, modules_to_save=["lm_head"])
    with pytest.raises(InputError, match="both replace"):
        ours.set_adapter(["b", "c"])
    with pytest.raises(InputError, match="save_adapter"):
        ours.save_pretrained(tmp_path)
    ours.merge_adapter()
    for call in (lambda: ours.adapter("a"), ours.merge_adapter, lambda: ours.delete_adapter("a")):
        with pytest.raises(InputError, match="merged"):
            call()


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"peft_type": "IA3"}, ConfigError, "'IA3'"),
        ({"use_dora": True}, ConfigError, "use_dora=True"),
        ({"init_lora_weights": "pissa"}, ConfigError, "'pissa'"),
        ({"some_new_thing": [1]}, ConfigError, "some_new_thing"),
        ({"some_new_thing": None, "loftq_config": {}, "megatron_core": "megatron.core"}, None, ""),
        ({"target_modules": ".*(c_attn)"}, None, ""),
        ({"r": 4}, WeightsError, "has rank 3"),
        ({"r": "3"}, ConfigError, "the rank r is '3'"),
        ({"target_modules": ["c_attn", "c_fc"]}, WeightsError, "nothing for transformer.h.0.mlp.c_fc"),
    ],
)
def test_files_of_another_kind(change, error, words, tmp_path):
    adapted().save_adapter(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    ours = model()
    if error is None:
        ours.load_adapter(tmp_path)
        assert torch.equal(logits(ours), logits(adapted()))
    else:
        with pytest.raises(error, match=words):
            ours.load_adapter(tmp_path)
        assert not ours.switch.configs and all(p.requires_grad for p in ours.parameters())


def test_files_that_lack_or_add_something(tmp_path):
    adapted().save_adapter(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    first = min(whole)
    for tensors, words in [
        ({name: t for name, t in whole.items() if name != first}, "nothing for|" + first.rpartition(".")[0][17:]),
        (whole | {"base_model.model.transformer.h.9.attn.c_attn.lora_A.weight": torch.zeros(3, 32)}, "h.9"),
        (whole | {first.replace("_A", "_B"): torch.zeros(2, 3)}, "another shape"),
        (whole | {"base_model.model.lm_head.base_layer.weight": torch.zeros(99, 32)}, "lm_head.base_layer"),
    ]:
        save_file(tensors, file)
        with pytest.raises(WeightsError, match=words):
            model().load_adapter(tmp_path)
    with pytest.raises(WeightsError, match="another class"):
        adapted("bert").save_adapter(tmp_path / "bert")
        model().load_adapter(tmp_path / "bert")


def test_an_adapter_of_another_model_beside_weights_is_not_loaded(tmp_path):
    adapted().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "some/base"}))
    assert torch.equal(logits(auto_class("gpt2").from_pretrained(tmp_path)), logits(model()))


def test_public_names():
    assert pellucid.LoraConfig is LoraConfig
