"""What config.json says about a model, as a checked dataclass.

A key of config.json is one of three kinds. *Known* fields are the annotations of an architecture's class. *Bookkeeping*
(who wrote the file, how to generate) is kept and written back. A key that some architecture gives a *meaning* and this
one does not implement raises, unless its value is the one at which it changes nothing (`inert`). Keys that nobody knows
are kept and mentioned once in the log.
"""

import copy
import dataclasses
import functools
import json
import logging
import math
import os
import reprlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from typing_extensions import Self, dataclass_transform

from .errors import ArgumentError, ConfigError, did_you_mean, refuse_unknown
from .folder import Folder, rewrite
from .hub import HubOptions, locate, push

log = logging.getLogger(__name__)

MAX_LAYERS = 10_000
CONFIG_LIMIT = 2**24  # bytes of config.json; one of 10,000 labels has less than a million
DEEPEST = 100  # objects and lists of config.json inside each other; those in use have four
MAX_SIZE = 10**8  # of a dimension, a vocabulary, a count of labels; the largest in use have a few million

# Keys that change no number of a forward pass: provenance, training and generation habits of the original library.
BOOKKEEPING = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels adapters
    add_prefix_space attn_implementation auto_map bad_words_ids base_model_prefix begin_suppress_tokens
    cache_implementation chunk_size_feed_forward cls_token_id custom_pipelines decoder_start_token_id directionality
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing initializer_factor language
    length_penalty mask_token_id max_length min_length model_max_length name no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_past output_scores pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type prefix pretraining_tp remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sentence_transformers sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_weights_ tokenizer_class top_k top_p
    torchscript transformers.js_config transformers_version typical_p unk_token_id unpad_inputs use_bfloat16
    use_flash_attn use_memory_efficient_attention vocab_file xla_device
    """.split()  # noqa: SIM905
)

# Keys to which some Transformer gives a meaning that changes its numbers.
MEANINGFUL = frozenset(
    """
    activation activation_function add_cross_attention alibi apply_residual_connection_post_layernorm attention_bias
    attention_multiplier attention_out_bias attention_type attention_types attention_window attn_config
    attn_logit_softcapping attn_type block_size block_sizes block_types causal clamp_len classifier_activation
    classifier_bias classifier_pooling clip_qkv conv_bias conv_kernel_size cross_attention_hidden_size d_head
    d_inner d_kv d_model decoder_layers dense_act_fn dim do_layer_norm_before emb_layer_norm_before
    embedding_multiplier embedding_size encoder_layers expert_capacity feed_forward_proj ffn_dim ffn_hidden_size
    final_logit_softcapping first_k_dense_replace gelu_activation global_attn_every_n_layers global_rope_theta
    head_dim hidden_act hidden_activation hidden_dim hidden_size inner_group_num intermediate_size is_decoder
    is_encoder_decoder k_groups kv_lora_rank layer_norm_eps layer_norm_epsilon layer_types learned_pos_emb
    lm_head_bias local_attention local_rope_theta logit_scale logits_scaling logits_soft_cap max_relative_positions
    max_window_layers mlp_bias mlp_only_layers moe_intermediate_size multi_query n_embd n_head n_heads n_inner
    n_layer n_layers new_decoder_architecture no_rope_layers norm_bias norm_eps norm_epsilon norm_topk_prob
    norm_type num_attention_heads num_buckets num_experts num_experts_per_tok num_feedforward_networks
    num_global_tokens num_heads num_hidden_groups num_hidden_layers num_key_value_heads num_kv_heads num_layers
    num_local_experts parallel_attn partial_rotary_factor pos_att_type position_biased_input position_embedding_type
    pre_norm pruned_heads q_groups q_lora_rank qk_layernorm qkv_bias quant_mode quantization_config
    query_pre_attn_scalar relative_attention relative_attention_max_distance relative_attention_num_buckets
    residual_multiplier rms_norm_eps rope_interleave rope_parameters rope_scaling rope_theta rotary_dim
    rotary_emb_base rotary_emb_fraction rotary_value routed_scaling_factor scale_attention_softmax_in_fp32
    scale_attn_by_inverse_layer_idx scale_attn_weights scale_embedding share_att_key sinusoidal_embeddings
    sinusoidal_pos_embds sliding_window sliding_window_pattern state_size swiglu_limit token_dropout topk_group
    topk_method trigram_input true_hidden_size type_vocab_size use_bidirectional_attention
    use_bottleneck use_mems_eval use_parallel_residual use_qk_norm use_qkv_bias use_sliding_window v_head_dim
    window_size word_embed_proj_dim
    """.split()  # noqa: SIM905
)

# Spellings of other versions of the format.
SPELLINGS = {"torch_dtype": "dtype"}

shorten = reprlib.repr  # a stranger's value in a message, however large it is


def read_values(folder: Folder) -> dict[str, Any]:
    """Return the content of config.json, unchecked."""
    return folder.read_json("config.json", limit=CONFIG_LIMIT, infinity=True)  # the greatest time step of a Mamba-2


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not ClassVar and name[0] != "_"}


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a JSON value is of the annotated type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if hint is Any:
        return True
    if hint is float:
        return _fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def _nests_deeper(value: Any, most: int) -> bool:
    """Tell whether more than some objects and lists stand inside each other; without recursion, which has a limit."""
    inner = [value]
    for _ in range(most + 1):
        inner = [x for outer in inner for x in (outer.values() if isinstance(outer, Mapping) else outer)]
        inner = [x for x in inner if isinstance(x, Mapping | list | tuple)]
        if not inner:
            return False
    return True


def _are_unnamed(labels: Any) -> bool:
    return isinstance(labels, dict) and all(label == f"LABEL_{i}" for i, label in labels.items())


def _says(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _expects(name: str, value: Any, hint: Any, least: int) -> str | None:
    """Return what a field should be instead of `value`; its name tells a count, a size, a probability or an epsilon."""
    if not _fits(value, hint):
        return _says(hint)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if name.endswith("layers") or name == "n_layer":
        return None if 0 <= value <= MAX_LAYERS else f"0 to {MAX_LAYERS}"
    if name.endswith(("_size", "_heads", "dim", "_embeddings")) or name in (
        "n_head",
        "n_embd",
        "n_positions",
        "d_model",
    ):
        return None if least <= value <= MAX_SIZE else f"{least} to {MAX_SIZE}"
    if "dropout" in name:
        return None if 0 <= value < 1 else "a probability, 0 <= p < 1"
    if name.endswith(("_eps", "_range")):
        return None if value >= 0 else "a number that is not negative"
    return None


class _NoField(AttributeError):
    """Looks for the nearest name only when it is read: a getattr with a default raises it, too."""

    def __str__(self) -> str:
        config, name = self.args
        return f"{type(config).__name__} has no field {name!r}{did_you_mean(name, config.fields()) or '.'}"


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
@dataclasses.dataclass(init=False, repr=False, eq=False)
class Config:
    """The base of every architecture's configuration.

    Build one with keywords (`BertConfig(num_hidden_layers=2)`), or read one with `from_pretrained` / `from_dict`.

    Raises:
        ConfigError: naming every value that is impossible or not implemented, and the file it came from.
        ArgumentError: for a keyword that does not exist.
    """

    model_type: ClassVar[str] = ""
    inert: ClassVar[dict[str, Any]] = {}  # keys with a meaning not implemented here, at the value that changes nothing
    optional: ClassVar[tuple[str, ...]] = ()  # sizes that may be 0, when there is no such part
    aliases: ClassVar[dict[str, str]] = {}  # other architectures' names of the same field, e.g. hidden_size -> dim

    architectures: list[str] | None = None
    dtype: str | None = None
    id2label: dict[int, str] = dataclasses.field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    label2id: dict[str, int] = dataclasses.field(default_factory=lambda: {"LABEL_0": 0, "LABEL_1": 1})
    problem_type: str | None = None
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    output_hidden_states: bool = False  # what a call does when it does not say
    output_attentions: bool = False
    use_cache: bool = True

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)

    def __init__(self, **values: Any) -> None:
        self._read: dict[str, Any] = {}  # what the file said, to be written back
        self._extra: dict[str, Any] = {}  # keys that are no fields
        self._refuse_unknown(values)
        self._fill(values, where=type(self).__name__)

    @classmethod
    @functools.cache
    def fields(cls) -> dict[str, "dataclasses.Field[Any]"]:
        """Return the known fields by name, the shared ones first."""
        return {field.name: field for field in dataclasses.fields(cls)}

    # --- filling and checking -----------------------------------------------------------------------------------------

    def _fill(self, values: Mapping[str, Any], *, where: str) -> None:
        """Set every field from `values` and the defaults, keep the other keys, and check all of them."""
        values, faults = dict(values), []
        faults += self.modernize(values)
        faults += self._read_labels(values)
        for name, field in self.fields().items():
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            object.__setattr__(self, name, values.pop(name, default))
        self._extra = values
        known = {*BOOKKEEPING, *MEANINGFUL, *self.inert, *self._read}
        if unknown := [name for name in values if name not in known]:
            log.info("%s: unknown keys are kept and have no effect: %s.", where, ", ".join(map(shorten, unknown)))
        self.check(where, faults)

    def check(self, where: str | None = None, faults: Iterable[str] = ()) -> None:
        """Raise unless every field is possible and every key implemented; fields can be set after they were checked.

        Args:
            where: the file, for the message.
            faults: sentences on what is already known to be wrong.

        Raises:
            ConfigError: naming all that is wrong.
        """
        faults = list(faults)
        hints = _hints(type(self))
        for name in self.fields():
            value, least = getattr(self, name), 0 if name in self.optional else 1
            if (expected := _expects(name, value, hints[name], least)) is not None:
                faults.append(f"{name} is {shorten(value)}; expected {expected}")
        for name, value in self._extra.items():
            if name in self.inert and value is not None and value != self.inert[name]:
                faults.append(f"{name} is {shorten(value)}; only {self.inert[name]!r} is implemented")
            elif name == "quantization_config" and value is not None:
                method = shorten(value.get("quant_method")) if isinstance(value, dict) else "it"
                faults.append(
                    f"{name} is {shorten(value)}; weights quantized by {method} can not be read, load the model that "
                    "they were made from"
                )
            elif name in MEANINGFUL and name not in self.inert and value is not None:
                faults.append(f"{name} is {shorten(value)}, which {type(self).__name__} does not implement")
        if not faults:
            faults = list(self.faults())
        if faults:
            raise ConfigError(f"{where or type(self).__name__}: {'; '.join(faults)}.")

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each contradiction between fields that are possible by themselves."""
        if sorted(self.id2label) != list(range(len(self.id2label))):
            ids = shorten(sorted(self.id2label))
            yield f"id2label has the ids {ids}; expected 0 to {len(self.id2label) - 1} without a gap"
        kinds = ("single_label_classification", "multi_label_classification", "regression")
        if self.problem_type not in (None, *kinds):
            yield f"problem_type is {shorten(self.problem_type)}; expected one of {', '.join(kinds)}, or null"
        size = getattr(self, "vocab_size", None)
        if size and self.pad_token_id is not None and not -size <= self.pad_token_id < size:
            yield f"pad_token_id is {self.pad_token_id}; expected an id of the vocabulary, less than {size}"

    def modernize(self, values: dict[str, Any]) -> list[str]:
        """Bring other spellings of the format to ours, inside `values`; return a sentence for each contradiction."""
        faults = []
        kind = values.pop("model_type", None)
        if self.model_type and kind not in (None, self.model_type):
            faults.append(
                f"model_type is {shorten(kind)}, {type(self).__name__} reads {self.model_type!r}; use AutoConfig"
            )
        for old, new in (SPELLINGS | self.aliases).items():
            value, other = values.pop(old, None), values.get(new)
            if value is not None and other is not None and value != other:
                faults.append(f"{old} is {shorten(value)}, but {new}, the same field, is {shorten(other)}")
            elif value is not None:
                values[new] = value
        if type(values.get("dtype")).__name__ == "dtype":  # of torch, which is not imported here
            values["dtype"] = str(values["dtype"])
        if isinstance(values.get("dtype"), str):
            values["dtype"] = values["dtype"].removeprefix("torch.")
        return faults

    @staticmethod
    def _read_labels(values: dict[str, Any]) -> Iterator[str]:
        """Complete num_labels, id2label and label2id from each other, inside `values`; yield what contradicts."""
        count, labels, ids = (values.pop(name, None) for name in ("num_labels", "id2label", "label2id"))
        if isinstance(labels, Mapping):
            given = list(labels)
            with suppress(TypeError, ValueError):
                labels = {int(key): label for key, label in labels.items()}
            if len(labels) < len(given) or not _fits(labels, dict[int, Any]):
                yield f"id2label has the keys {shorten(given)}; expected whole numbers, each once"
                return
        elif isinstance(labels, list | tuple):
            labels = dict(enumerate(labels))
        elif labels is None and ids and _fits(ids, dict[str, int]):
            labels = {i: label for label, i in ids.items()}
            if len(labels) < len(ids):
                yield f"label2id is {shorten(ids)}; expected every id once"
        if count is not None and not (_fits(count, int) and 1 <= count <= MAX_SIZE):
            yield f"num_labels is {shorten(count)}; expected 1 to {MAX_SIZE}"
        elif count is not None and (not labels or (len(labels) != count and _are_unnamed(labels))):
            labels, ids = {i: f"LABEL_{i}" for i in range(count)}, None
        elif count is not None and isinstance(labels, dict) and count != len(labels):
            yield f"num_labels is {count}, but there are {len(labels)} labels; give one of them"
        if labels:
            values["id2label"] = labels
            if ids is None and _fits(labels, dict[int, str]):
                ids = {label: i for i, label in labels.items()}
        if ids:
            values["label2id"] = ids

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        known = [*self.fields(), "num_labels", *self.aliases]
        allowed = {"model_type", *known, *SPELLINGS, *BOOKKEEPING, *self.inert, *MEANINGFUL, *self._extra}
        if unknown := [f"{name!r}{did_you_mean(name, known)}" for name in names if name not in allowed]:
            said = f"{type(self).__name__} has no field {', nor '.join(unknown)}"
            raise ArgumentError(said if said[-1] == "?" else f"{said}.")

    # --- reading and writing ------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config.json", **overrides: Any) -> Self:
        """Build from the content of a config.json; `overrides` are fields by keyword and win.

        Raises:
            ConfigError: naming every value that is impossible or not implemented.
            ArgumentError: for an override that is not a field.
        """
        if _nests_deeper(values, DEEPEST):
            raise ConfigError(f"{where} nests too deep to be a model's configuration.")
        config = cls.__new__(cls)
        config._read = {}
        config._fill(copy.deepcopy(dict(values)), where=where)
        config._read = copy.deepcopy(dict(values))
        config._as_read = {name: copy.deepcopy(getattr(config, name)) for name in cls.fields()}
        return config.replace(**overrides) if overrides else config

    @classmethod
    def from_folder(cls, folder: Folder, **overrides: Any) -> Self:
        """Read config.json of an open folder."""
        return cls.from_dict(read_values(folder), where=f"{folder.path}/config.json", **overrides)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options: Any) -> Self:
        """Read the configuration of a folder or a model on the Hub.

        Args:
            name: a folder, or a name such as `"google-bert/bert-base-uncased"`.
            options: those of the Hub (`revision`, `token`, `cache_dir`, `subfolder`, `force_download`,
                `local_files_only`); every other keyword overrides a field.
        """
        with locate(name, HubOptions.take(options), want="config") as folder:
            return cls.from_folder(folder, **options)

    def replace(self, **overrides: Any) -> Self:
        """Return a copy with some fields changed, checked anew."""
        self._refuse_unknown(overrides)
        changed = copy.copy(self)
        known = {name: getattr(self, name) for name in self.fields()} | self._extra
        spelled = {SPELLINGS.get(name, self.aliases.get(name, name)) for name in overrides}
        if overrides.get("num_labels") == self.num_labels:
            spelled.discard("num_labels")  # so that the labels keep their names
        if spelled & {"num_labels", "id2label", "label2id"}:
            spelled |= {"id2label", "label2id"}
        known = {name: value for name, value in known.items() if name not in spelled}
        changed._fill(copy.deepcopy(known) | overrides, where=type(self).__name__)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json will hold: what was read, in its order and spelling, and what has changed since."""
        as_read = getattr(self, "_as_read", {})
        result: dict[str, Any] = copy.deepcopy(self._read)
        for name in self.fields():
            value = getattr(self, name)
            if as_read and value == as_read[name]:
                continue
            for old, new in (SPELLINGS | self.aliases).items():
                if new == name:
                    result.pop(old, None)
            if as_read or value is not None or self.fields()[name].default is not None:
                result[name] = value.to_dict() if isinstance(value, Config) else value
        if as_read and self.id2label != as_read["id2label"]:
            result.pop("num_labels", None)
            result.pop("_num_labels", None)
        result |= copy.deepcopy(self._extra)
        return result if "model_type" in result or not self.model_type else {"model_type": self.model_type, **result}

    def to_json_string(self) -> str:
        """Return config.json as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, path: str | os.PathLike, *, push_to_hub: bool = False, **options: Any) -> None:
        """Write config.json into a folder, all or nothing."""
        repo_id = options.pop("repo_id", os.path.basename(os.path.abspath(path)))
        if not push_to_hub:
            refuse_unknown("save_pretrained", options, ["push_to_hub"])
        with rewrite(path) as staging:
            (staging / "config.json").write_text(self.to_json_string(), encoding="utf-8")
        if push_to_hub:
            push(path, repo_id, **options)

    # --- reading attributes -------------------------------------------------------------------------------------------

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of a text that the model reads at once; None when there is no limit."""
        return getattr(self, "max_position_embeddings", None)

    @property
    def end_ids(self) -> list[int]:
        """The ids of the tokens that end a text.

        Raises:
            ConfigError: if the config names none.
        """
        ends = self.eos_token_id
        if ends is None or ends == []:
            raise ConfigError(
                f"eos_token_id is {ends}, but this model looks for the last end token of each text; set "
                "config.eos_token_id to its id, which tokenizer.eos_token_id tells."
            )
        return ends if isinstance(ends, list) else [ends]

    @property
    def num_labels(self) -> int:
        """The number of labels of a classification head."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if count != self.num_labels:
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
            self.label2id = {f"LABEL_{i}": i for i in range(count)}

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("_extra", {})
        if name in extra or name in type(self).inert:
            return extra.get(name, type(self).inert.get(name))
        spelled = SPELLINGS.get(name, type(self).aliases.get(name))
        if spelled is not None:
            return getattr(self, spelled)
        raise _NoField(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        name = SPELLINGS.get(name, type(self).aliases.get(name, name))
        if name in self.fields() or name in ("_read", "_extra", "_as_read", "num_labels"):
            object.__setattr__(self, name, value)
        elif name in self._extra or name in BOOKKEEPING or name in MEANINGFUL or name in self.inert:
            self._extra[name] = value
        else:
            raise AttributeError(
                f"{type(self).__name__} has no field {name!r}{did_you_mean(name, self.fields()) or '.'}"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config) or type(self) is not type(other):
            return NotImplemented
        return self._extra == other._extra and all(
            getattr(self, name) == getattr(other, name) for name in self.fields()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"
