"""Models in GGUF files: the same numbers as in a folder, and as the original reads them."""

import struct

import gguf
import numpy as np
import pytest
import torch

from pellucid import AutoConfig, AutoModelForCausalLM, AutoTokenizer, auto
from pellucid.errors import ConfigError, MissingFileError, NotFoundError, TokenizerError, WeightsError
from pellucid.gguf import ARCHITECTURES, GGUFFolder
from perturbing import perturb

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
    "rope_theta": 1000.0,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN = {
    "gemma2": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 8},
    "gemma3": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 8, "num_hidden_layers": 6},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},  # the original reads no other vocabulary
    "granite": {
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 3.0,
    },
    "phi3": {"head_dim": None},
    "qwen3moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "head_dim": 128,
    },
    "qwen3": {"head_dim": 128},
    "qwen2": {"head_dim": 16},
}
AS_THE_ORIGINAL = ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "qwen3moe"]  # what that reads, too


def model_of(kind):
    """A random model of an architecture, with every parameter perturbed."""
    config_class = auto.config_class(ARCHITECTURES[kind].model_type)
    sizes = {name: value for name, value in SIZES.items() if name in config_class.fields()}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config_class(**(sizes if kind != "gpt2" else {}) | OWN.get(kind, {}))
    ).eval()
    perturb(model, 0.1)
    return model


def names_of(kind, layers):
    """The file's name of each tensor of a folder."""
    known, before = ARCHITECTURES[kind].names, ARCHITECTURES[kind].layers
    outside = {"token_embd", "position_embd", "output_norm", "output"}
    names = {
        f"{place}.{leaf}": f"{stem}.{leaf}"
        for stem, place in known.items()
        for leaf in ("weight", "bias")
        if stem in outside
    }
    for layer in range(layers):
        for stem, place in known.items():
            for leaf in ("weight", "bias"):
                if stem not in outside:
                    names[f"{before}.{layer}.{place}.{leaf}"] = f"blk.{layer}.{stem}.{leaf}"
    return names


def write(path, kind, model, form=gguf.GGMLQuantizationType.F32, **metadata):
    """Write a model as llama.cpp's converter does."""
    config, architecture = model.config, ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(path, kind)
    for name, field in architecture.fields.items():
        value = getattr(config, field, None)
        if field == "head_dim":
            value = config.head_dim or config.hidden_size // config.num_attention_heads
        if isinstance(value, float) or field == "rope_theta":
            writer.add_float32(f"{kind}.{name}", config.rope_theta if field == "rope_theta" else value)
        elif isinstance(value, int):
            writer.add_uint32(f"{kind}.{name}", value)
    if kind != "gpt2":
        writer.add_uint32(
            f"{kind}.rope.dimension_count", config.head_dim or config.hidden_size // config.num_attention_heads
        )
    for name, value in metadata.items():
        writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    names = names_of(kind, config.num_hidden_layers)
    tensors = model.state_dict()
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    stacks = {}
    for name, tensor in tensors.items():
        parts = name.split(".experts.")
        if len(parts) == 2:
            number, rest = parts[1].split(".", 1)
            stacks.setdefault(f"{parts[0]}.experts.{{}}.{rest}", []).append((int(number), tensor))
            continue
        own = names[name]
        for stem, heads in (
            ("attn_q.", config.num_attention_heads),
            ("attn_k.", getattr(config, "num_key_value_heads", 0)),
        ):
            if architecture.turned and stem in own:
                tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        if any(own.endswith(name) for name in architecture.transposed):
            tensor = tensor.T
        if architecture.norms_plus_one and own.endswith("norm.weight"):
            tensor = tensor + 1
        add(writer, own, tensor, form)
    for name, parts in stacks.items():
        add(writer, names[name], torch.stack([tensor for _, tensor in sorted(parts, key=lambda part: part[0])]), form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, name, tensor, form):
    data = np.ascontiguousarray(tensor.detach().numpy())
    form = form if data.ndim > 1 else gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quants.quantize(data, form), raw_dtype=form)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_the_same_model(kind, tmp_path):
    model = model_of(kind)
    again = AutoModelForCausalLM.from_pretrained(write(tmp_path / "model.gguf", kind, model))
    assert type(again) is type(model)
    tensors = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, tensors[name], atol=1e-6), name
    ids = torch.randint(5, 90, (2, 9))
    assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-4)
    again.save_pretrained(tmp_path / "folder")
    assert torch.equal(type(model).from_pretrained(tmp_path / "folder")(ids).logits, again(ids).logits)


def test_loading_in_the_mode_of_inference(tmp_path):
    model = model_of("llama")
    with torch.inference_mode():
        again = AutoModelForCausalLM.from_pretrained(write(tmp_path / "model.gguf", "llama", model))
    ids = torch.randint(5, 90, (2, 9))
    again(ids, labels=ids).loss.backward()  # an ordinary model, which can be trained
    assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-4)


@pytest.mark.parametrize("kind", AS_THE_ORIGINAL)
def test_as_the_original_reads_it(kind, tmp_path):
    import transformers

    model, path = model_of(kind), write(tmp_path / "model.gguf", kind, model_of(kind))
    original = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ids = torch.randint(5, 90, (2, 9))
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(path)(ids).logits, original(ids).logits, atol=1e-4)
    assert model.num_parameters() == original.num_parameters()


@pytest.mark.parametrize("form", ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1"])
def test_quantised_weights(form, tmp_path):
    model, form = model_of("llama"), gguf.GGMLQuantizationType[form]
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=write(tmp_path / "m.gguf", "llama", model, form).name
    )
    ids = torch.randint(5, 90, (2, 9))
    near = torch.nn.functional.cosine_similarity(model(ids).logits.flatten(), again(ids).logits.flatten(), dim=0)
    assert near > (0.94 if form.name.startswith("Q4") else 0.98)


@pytest.mark.parametrize("form", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256(form, tmp_path):
    form = gguf.GGMLQuantizationType[form]
    _, nbytes = gguf.GGML_QUANT_SIZES[form]
    model = model_of("llama")
    head = np.random.default_rng(0).integers(0, 60, (96, nbytes), dtype=np.uint8)
    wide = type(model).from_config(model.config.replace(hidden_size=256, head_dim=64, tie_word_embeddings=True))
    with torch.no_grad():
        wide.model.embed_tokens.weight.zero_()
    writer_add, path = add, tmp_path / "m.gguf"
    try:
        globals()["add"] = lambda writer, name, tensor, _: (
            writer.add_tensor(name, head, raw_dtype=form)
            if name == "token_embd.weight"
            else writer_add(writer, name, tensor, gguf.GGMLQuantizationType.F32)
        )
        write(path, "llama", wide)
    finally:
        globals()["add"] = writer_add
    wanted = torch.from_numpy(gguf.quants.dequantize(head, form))
    assert torch.equal(AutoModelForCausalLM.from_pretrained(path).model.embed_tokens.weight, wanted)


def test_rotary_factors_that_are_tensors(tmp_path):
    model = model_of("llama")
    path = tmp_path / "m.gguf"
    model.state_dict()
    writer_names = names_of
    factors = torch.linspace(1, 4, 16)
    try:
        globals()["names_of"] = lambda kind, layers: writer_names(kind, layers) | {"rope": "rope_freqs.weight"}
        model.state_dict = lambda: {**type(model).state_dict(model), "rope": factors}
        write(path, "llama", model)
    finally:
        globals()["names_of"] = writer_names
        del model.state_dict
    config = AutoConfig.from_pretrained(path)
    assert config.rope_scaling["short_factor"] == pytest.approx(factors.tolist())
    plain, _ = model.model.rope._speeds(None, torch.zeros(1, 1))
    from pellucid import Layout
    from pellucid.rope import Rope

    stretched, _ = Rope.of(config, 32)._speeds(Layout(torch.zeros(1, 1)), torch.zeros(1, 1))
    assert torch.allclose(stretched[0, 0], plain / factors)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def tokens_of(pairs):
    return {f"tokenizer.ggml.{name}": value for name, value in pairs.items()}


def test_byte_level_vocabularies(tmp_path):
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<end>", *letters, "he", "ll", "hell", "Ġw"]
    path = write(
        tmp_path / "m.gguf",
        "llama",
        model_of("llama"),
        **tokens_of(
            {
                "model": "gpt2",
                "pre": "smollm",
                "tokens": tokens,
                "token_type": [3, 3] + [1] * (len(tokens) - 2),
                "merges": ["h e", "l l", "he ll", "Ġ w"],
                "bos_token_id": 0,
                "eos_token_id": 1,
                "add_bos_token": True,
            }
        ),
        **{"tokenizer.chat_template": "{{ messages[0].content }}<end>"},
    )
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer("hello w12<end>").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "hell", "o", "Ġw", "1", "2", "<end>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello w12"
    assert tokenizer.bos_token == "<s>" and tokenizer.eos_token == "<end>" and tokenizer.model_max_length == 40
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("hello w12<end>").input_ids == ids
    assert again.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi<end>"


def test_sentencepiece_vocabularies(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 5
    scores = [0.0] * 259 + [-4.0, -5.0, -6.0, -1.0, -2.0]
    listed = {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores, "bos_token_id": 1}
    path = write(tmp_path / "m.gguf", "llama", model_of("llama"), **tokens_of({**listed, "eos_token_id": 2}))
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer("ab abé").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁ab", "▁ab", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab abé"


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ({"tokens": 5}, "is no list of texts"),
        ({"tokens": ["a"], "model": "bert"}, "of the kind 'bert'; expected 'gpt2' or 'llama'"),
        ({"tokens": ["a"], "model": "gpt2", "pre": "odd"}, "in the way 'odd'"),
        ({"tokens": ["a"], "model": "gpt2", "merges": ["b c"]}, "do not fit together"),
        ({"tokens": ["a"], "model": "llama"}, "no score for each"),
    ],
)
def test_vocabularies_that_are_none(listed, says, tmp_path):
    path = write(tmp_path / "m.gguf", "llama", model_of("llama"), **tokens_of(listed))
    with pytest.raises(TokenizerError, match=says):
        AutoTokenizer.from_pretrained(path)


def test_no_vocabulary(tmp_path):
    with pytest.raises(MissingFileError, match="has no vocabulary"):
        AutoTokenizer.from_pretrained(write(tmp_path / "m.gguf", "llama", model_of("llama")))


# --- broken files -----------------------------------------------------------------------------------------------------


def test_files_that_are_cut_short(tmp_path):
    whole = write(tmp_path / "m.gguf", "llama", model_of("llama")).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (3, 10, 40, 200, 900, len(whole) // 2, len(whole) - 40):
        cut.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut short|is no GGUF file"):
            AutoModelForCausalLM.from_pretrained(cut)


def test_files_that_lie(tmp_path):
    path = tmp_path / "m.gguf"
    head = b"GGUF" + struct.pack("<I", 3)
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    for content, says in [
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "GGUF version 9"),
        (head + struct.pack("<QQ", 2**60, 1), "announces"),
        (head + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**50), "a text has"),
        (head + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 4, 2**40), "a list has"),
        (head + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<I", 77), "of the type 77"),
        (head + struct.pack("<QQ", 1, 0) + text(b"a") + struct.pack("<I", 9) + b"\0" * 99, "9 dimensions"),
        (head + struct.pack("<QQ", 1, 0) + text(b"a") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), "has the shape"),
    ]:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=says):
            GGUFFolder(path)


def test_what_is_not_known(tmp_path):
    model = model_of("llama")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "lama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="the architecture 'lama'; did you mean 'llama'"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m.gguf")
    path = write(tmp_path / "n.gguf", "llama", model)
    content = path.read_bytes()
    place = content.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    path.write_bytes(content[:place] + struct.pack("<I", 999) + content[place + 4 :])
    with pytest.raises(WeightsError, match=r"token_embd.weight is of the GGUF type 999; known are 0, 1"):
        AutoModelForCausalLM.from_pretrained(path)
    with pytest.raises(NotFoundError, match=r"none\.gguf"):
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="none.gguf")
