"""GGUF: a model in one file, as llama.cpp has it, seen as the folder that it would be.

A file begins with numbers, texts and lists under names, then says of each tensor where its bytes are. `GGUFFolder`
turns the names into a config.json that exists in memory only, so that everything else loads it like any folder.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import os
import stat
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from .errors import ConfigError, NotFoundError, UnsafeFileError, WeightsError, did_you_mean
from .folder import Folder

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
MAX_LIST = 2**22  # items of a list; the largest vocabularies have 300,000
F32 = 0  # the number of the format of plain floats
# The metadata's name of a size -> the field of config.json. Where a name has several fields, an architecture has one.
COMMON = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
GPT2 = {
    "block_count": "n_layer",
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
SCALES = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}
SOFTCAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


@dataclass(frozen=True)
class Architecture:
    """How an architecture's file differs from its folder.

    Attributes:
        model_type: in config.json.
        fields: the metadata's names -> fields of config.json.
        names: the file's names of tensors -> the folder's, inside a layer and outside.
        layers: what stands before a layer's number.
        turned: whether rows of queries and keys are in the order of the other way to rotate, and go back.
        norms_plus_one: whether norms are stored with the 1 that the model adds.
        transposed: names of matrices that the folder has as they are multiplied, (in, out).
        set: fields that follow from the architecture alone.
    """

    model_type: str
    fields: dict[str, str]
    names: dict[str, str]
    layers: str = "model.layers"
    turned: bool = False
    norms_plus_one: bool = False
    transposed: tuple[str, ...] = ()
    set: tuple[tuple[str, Any], ...] = ()


PLAIN = {**OUTSIDE, **LAYERS}
GEMMA = {**PLAIN, **FOUR_NORMS}
ARCHITECTURES = {
    "gemma": Architecture("gemma", COMMON, PLAIN, norms_plus_one=True),
    "gemma2": Architecture("gemma2", COMMON | SOFTCAPS, GEMMA, norms_plus_one=True),
    "gemma3": Architecture("gemma3_text", COMMON | SOFTCAPS, GEMMA, norms_plus_one=True),
    "gpt2": Architecture(
        "gpt2",
        GPT2,
        GPT2_NAMES,
        layers="transformer.h",
        transposed=("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
    ),
    "granite": Architecture("granite", COMMON | SCALES, PLAIN, turned=True),
    "llama": Architecture("llama", COMMON, PLAIN, turned=True),
    "phi3": Architecture("phi3", COMMON, {**PLAIN, "ffn_up": "mlp.gate_up_proj"}),
    "qwen2": Architecture("qwen2", COMMON, PLAIN),
    "qwen3": Architecture("qwen3", COMMON, PLAIN),
    "qwen3moe": Architecture("qwen3_moe", COMMON | EXPERTS, PLAIN, set=(("norm_topk_prob", True),)),
    "smollm3": Architecture("smollm3", COMMON, PLAIN, turned=True),
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: the file's own.
        shape: as torch has it, the dimension that varies fastest last.
        kind: the number of the format that its numbers are in.
        begin: bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int


class GGUFFolder(Folder):
    """A GGUF file as a folder of one weight file, with config.json and tokenizer files made from its metadata.

    Attributes:
        metadata: what the file says, by name.
        entries: its tensors.
        weights: the name of the file.
        architecture: how it differs from a folder.

    Args:
        path: the file.

    Raises:
        NotFoundError: if there is no such file.
        WeightsError: if it is broken or cut short.
        ConfigError: if its architecture is not one of `ARCHITECTURES`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._files: dict[str, int | str] = {}
        self._closed = False
        self.path = Path(path)
        self.weights = self.path.name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise NotFoundError(f"the file {str(path)!r} can not be opened: {error.strerror}.") from None
        self._files[self.weights] = descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafeFileError(f"{path} is not a regular file.")
        self.metadata, self.entries = _Header(descriptor, str(path)).read()
        kind = self.metadata.get("general.architecture")
        if kind not in ARCHITECTURES:
            raise ConfigError(
                f"{path} holds the architecture {kind!r}{did_you_mean(str(kind), ARCHITECTURES) or '.'} "
                f"From GGUF files there are: {', '.join(ARCHITECTURES)}."
            )
        self.architecture = ARCHITECTURES[kind]
        made = {"config.json": self._config(), "tokenizer_config.json": self._tokenizer_config()}
        self._made = {name: json.dumps(values).encode() for name, values in made.items()}

    def names(self) -> list[str]:
        """Return the names of the files, those that exist in memory too."""
        return sorted([*self._made, self.weights])

    def __contains__(self, name: str) -> bool:
        return name in self._made or name == self.weights

    def read_bytes(self, name: str, *, limit: int = 2**28) -> bytes:
        """Return the content of a file, see `Folder`."""
        return self._made[name] if name in self._made else super().read_bytes(name, limit=limit)

    def place_of(self, entry: Entry) -> str | None:
        """Return the name of a tensor in the folder; None for what config.json says, and `{}` for experts' numbers."""
        parts = entry.name.split(".")
        if parts[0] in ("rope_freqs", "rope_factors_long", "rope_factors_short"):
            return None
        layer = parts[0] == "blk" and len(parts) == 4
        stem, leaf = (parts[2], parts[3]) if layer else (parts[0], parts[-1])
        known = self.architecture.names.get(stem)
        if known is None:
            return entry.name  # which no model has, and which is refused with its name
        name = f"{self.architecture.layers}.{parts[1]}.{known}" if layer else known
        return f"{name}.{leaf}"

    def says(self, name: str) -> Any:
        """Return what the metadata says about the architecture under a name without it."""
        return self.metadata.get(f"{self.metadata['general.architecture']}.{name}")

    def _config(self) -> dict[str, Any]:
        """Return what config.json would say."""
        shape = {entry.name: entry.shape for entry in self.entries}
        values: dict[str, Any] = {"model_type": self.architecture.model_type}
        for name, field in self.architecture.fields.items():
            if (value := self.says(name)) is not None:
                values[field] = value[0] if isinstance(value, list) and len(set(value)) == 1 else value
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if embedding := shape.get("token_embd.weight"):
            values["vocab_size"] = embedding[0]
        elif isinstance(tokens, list):
            values["vocab_size"] = len(tokens)
        values |= dict(self.architecture.set) | {"tie_word_embeddings": "output.weight" not in shape}
        if "blk.0.attn_q.bias" in shape and self.architecture.model_type == "llama":
            values["attention_bias"] = True
        if self.architecture.model_type in ("gemma2", "gemma3_text"):  # the largest of each scales otherwise
            largest = {"gemma2": (46, 144), "gemma3_text": (62, 168)}[self.architecture.model_type]
            size = values.get("head_dim", 256)
            values["query_pre_attn_scalar"] = largest[1] if self.says("block_count") == largest[0] else size
        values |= self._rope()
        for name, field in {"bos": "bos", "eos": "eos", "padding": "pad"}.items():
            values[f"{field}_token_id"] = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return values

    def _rope(self) -> dict[str, Any]:
        """Return how rotary positions are stretched."""
        if any(entry.name.startswith("rope_f") for entry in self.entries):
            return {"rope_scaling": self._rope_factors()}
        kind, factor = self.says("rope.scaling.type"), self.says("rope.scaling.factor")
        if kind in (None, "none") or not factor or factor == 1:
            return {}
        trained = self.says("rope.scaling.original_context_length")
        scaling = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": trained}
        return {"rope_scaling": {name: value for name, value in scaling.items() if value is not None}}

    def _rope_factors(self) -> dict[str, Any]:
        """Return how much each pair is stretched, which tensors say: for all texts, or for short and long ones."""
        lists = {}
        for entry in self.entries:
            if entry.name.startswith("rope_f") and entry.kind == F32 and len(entry.shape) == 1:
                content = os.pread(int(self._files[self.weights]), 4 * entry.shape[0], entry.begin)
                if len(content) != 4 * entry.shape[0]:
                    raise WeightsError(f"{self.path} is cut short: {entry.name} ends after it. Fetch it again.")
                lists[entry.name] = list(struct.unpack(f"<{entry.shape[0]}f", content))
        both = lists.get("rope_freqs.weight")
        return {
            "rope_type": "longrope",
            "short_factor": lists.get("rope_factors_short.weight", both),
            "long_factor": lists.get("rope_factors_long.weight", both),
            "attention_factor": self.says("rope.scaling.attn_factor") or 1.0,
            "original_max_position_embeddings": self.says("rope.scaling.original_context_length")
            or self.says("context_length"),
        }

    def _tokenizer_config(self) -> dict[str, Any]:
        """Return what tokenizer_config.json would say."""
        tokens = self.metadata.get("tokenizer.ggml.tokens") or []
        values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "separator": "sep", "mask": "mask"}
        for name, role in roles.items():
            id = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
            if isinstance(id, int) and id < len(tokens):
                values[f"{role}_token"] = tokens[id]
        if isinstance(limit := self.says("context_length"), int):
            values["model_max_length"] = limit
        if template := self.metadata.get("tokenizer.chat_template"):
            values["chat_template"] = template
        return values


class _Header:
    """Reads the front of a file; every count is checked against the bytes there are before it is believed."""

    def __init__(self, descriptor: int, path: str):
        self.descriptor, self.path = descriptor, path
        self.size = os.fstat(descriptor).st_size
        self.place = 0  # of the first byte that is not in the buffer
        self.buffer, self.used = b"", 0

    def read(self) -> tuple[dict[str, Any], list[Entry]]:
        """Return the metadata and the tensors."""
        if self._take(4) != b"GGUF":
            raise WeightsError(f"{self.path} is no GGUF file; expected it to begin with the letters GGUF.")
        (version,) = self._numbers("I", 1)
        if version not in (2, 3):
            raise WeightsError(f"{self.path} is of GGUF version {version}; expected 2 or 3. Convert it again.")
        tensors, pairs = self._numbers("Q", 2)
        if tensors * 24 + pairs * 12 > self.size:
            self._refuse(f"it announces {tensors} tensors and {pairs} settings")
        metadata = {}
        for _ in range(pairs):
            name = self._text()
            metadata[name] = self._value(self._numbers("I", 1)[0])
        found = [self._entry() for _ in range(tensors)]
        step = metadata.get("general.alignment", 32)
        if not isinstance(step, int) or step < 1:
            self._refuse(f"its alignment is {step!r}")
        data = -(-(self.place - len(self.buffer) + self.used) // step) * step
        return metadata, [Entry(e.name, e.shape, e.kind, data + e.begin) for e in found]

    def _refuse(self, what: str) -> None:
        raise WeightsError(f"{self.path} is broken or cut short ({self.size:,} bytes): {what}. Fetch it again.")

    def _take(self, count: int) -> bytes:
        if self.used + count > len(self.buffer):
            rest = self.buffer[self.used :]
            more = os.pread(self.descriptor, max(2**20, count), self.place)
            self.buffer, self.used, self.place = rest + more, 0, self.place + len(more)
            if count > len(self.buffer):
                self._refuse("it ends inside its header")
        self.used += count
        return self.buffer[self.used - count : self.used]

    def _numbers(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(f"<{code}")))

    def _text(self) -> str:
        (length,) = self._numbers("Q", 1)
        if length > self.size:
            self._refuse(f"a text has {length} bytes")
        return self._take(length).decode(errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == TEXT:
            return self._text()
        if kind in NUMBERS:
            return self._numbers(NUMBERS[kind], 1)[0]
        if kind != LIST:
            self._refuse(f"a value is of the type {kind}")
        item, count = *self._numbers("I", 1), *self._numbers("Q", 1)
        if count > MAX_LIST or count * (8 if item == TEXT else 1) > self.size:
            self._refuse(f"a list has {count} items")
        if item == TEXT:
            return [self._text() for _ in range(count)]
        if item not in NUMBERS:
            self._refuse(f"a list is of the type {item}")
        return list(self._numbers(NUMBERS[item], count))

    def _entry(self) -> Entry:
        name, (dims,) = self._text(), self._numbers("I", 1)
        if not 1 <= dims <= 4:
            self._refuse(f"{name} has {dims} dimensions")
        shape = self._numbers("Q", dims)
        kind, begin = *self._numbers("I", 1), *self._numbers("Q", 1)
        if prod(shape) > 64 * self.size or begin > self.size:
            self._refuse(f"{name} has the shape {shape} and begins at byte {begin}")
        return Entry(name, shape[::-1], kind, begin)
