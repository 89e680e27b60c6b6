"""What config.json says about a model, as a checked dataclass.

A key of config.json is one of three kinds. *Known* fields are the annotations of the architecture's class. *Bookkeeping*
(who wrote the file, how to generate) is kept and written back. A key that some architecture gives a *meaning* and this one
does not implement raises, unless its value is the one at which it changes nothing (`inert`). Keys that nobody knows are kept
and mentioned once in the log.
"""

import copy
import dataclasses
import functools
import json
import logging
import os
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from typing_extensions import Self, dataclass_transform

from .errors import ArgumentError, ConfigError, did_you_mean
from .folder import Folder, rewrite
from .hub import HubOptions, locate, push

log = logging.getLogger(__name__)

MAX_LAYERS = 10_000

# Keys that change no number of a forward pass: provenance, training and generation habits of the original library.
BOOKKEEPING = frozenset(
    """
    _attn_implementation_autoset _commit_hash _name_or_path _num_labels adapters add_prefix_space attn_implementation auto_map
    bad_words_ids base_model_prefix begin_suppress_tokens bos_token_id chunk_size_feed_forward custom_pipelines directionality
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing initializer_factor language length_penalty
    max_length min_length model_max_length model_type name no_repeat_ngram_size num_beam_groups num_beams num_labels
    num_return_sequences output_attentions output_hidden_states output_past output_scores pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type prefix remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sentence_transformers sep_token_id cls_token_id mask_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_weights_ tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id use_bfloat16 use_cache
    use_flash_attn vocab_file
    """.split()
)

# Keys to which some Transformer gives a meaning that changes its numbers.
MEANINGFUL = frozenset(
    """
    activation activation_function add_cross_attention alibi apply_residual_connection_post_layernorm attention_bias
    attention_multiplier attention_out_bias attention_type attention_types attention_window attn_config attn_logit_softcapping
    attn_type block_size block_sizes block_types causal clamp_len classifier_activation classifier_bias classifier_pooling clip_qkv
    conv_bias conv_kernel_size cross_attention_hidden_size d_head d_inner d_kv d_model decoder_layers dense_act_fn dim
    do_layer_norm_before emb_layer_norm_before embedding_multiplier embedding_size encoder_layers expert_capacity
    feed_forward_proj ffn_dim ffn_hidden_size final_logit_softcapping first_k_dense_replace gelu_activation
    global_attn_every_n_layers global_rope_theta head_dim hidden_act hidden_activation hidden_dim hidden_size inner_group_num
    intermediate_size is_decoder is_encoder_decoder k_groups kv_lora_rank layer_norm_eps layer_norm_epsilon layer_types
    learned_pos_emb lm_head_bias local_attention local_rope_theta logit_scale logits_scaling logits_soft_cap max_relative_positions
    max_window_layers mlp_bias mlp_only_layers moe_intermediate_size multi_query n_embd n_head n_heads n_inner n_layer n_layers
    new_decoder_architecture no_rope_layers norm_bias norm_eps norm_epsilon norm_topk_prob norm_type num_attention_heads num_buckets
    num_experts num_experts_per_tok num_feedforward_networks num_global_tokens num_heads num_hidden_groups num_hidden_layers
    num_key_value_heads num_kv_heads num_layers num_local_experts parallel_attn partial_rotary_factor pos_att_type
    position_biased_input position_embedding_type pre_norm pruned_heads q_groups q_lora_rank qk_layernorm qkv_bias quant_mode
    quantization_config query_pre_attn_scalar relative_attention relative_attention_max_distance relative_attention_num_buckets
    residual_multiplier rms_norm_eps rope_interleave rope_parameters rope_scaling rope_theta rotary_dim rotary_emb_base
    rotary_emb_fraction rotary_value routed_scaling_factor scale_attention_softmax_in_fp32 scale_attn_by_inverse_layer_idx
    scale_attn_weights scale_embedding share_att_key sinusoidal_embeddings sinusoidal_pos_embds sliding_window
    sliding_window_pattern state_size swiglu_limit token_dropout topk_group topk_method trigram_input true_hidden_size
    type_vocab_size unpad_inputs use_bidirectional_attention use_bottleneck use_mems_eval use_parallel_residual use_qk_norm use_qkv_bias
    use_sliding_window v_head_dim window_size word_embed_proj_dim
    """.split()
)

# Spellings of other versions of the format.
SPELLINGS = {"torch_dtype": "dtype"}


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
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) != float("inf") and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def _says(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


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
    inert: ClassVar[dict[str, Any]] = {}  # keys with a meaning that is not implemented, at the value that changes nothing
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

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)

    def __init__(self, **values: Any) -> None:
        self._read: dict[str, Any] = {}  # what the file said, to be written back
        self._fill(values, strict=True, where=type(self).__name__)

    @classmethod
    @functools.cache
    def fields(cls) -> dict[str, "dataclasses.Field[Any]"]:
        """Return the known fields by name, the shared ones first."""
        return {field.name: field for field in dataclasses.fields(cls)}

    # --- filling and checking -----------------------------------------------------------------------------------------

    def _fill(self, values: dict[str, Any], *, strict: bool, where: str) -> None:
        """Set every field from `values` and the defaults; collect all faults before raising."""
        values = self.modernize(dict(values))
        faults = []
        for name, field in self.fields().items():
            value = values.pop(name, dataclasses.MISSING)
            if value is dataclasses.MISSING:
                value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            elif not _fits(value, _hints(type(self))[name]):
                faults.append(f"{name} is {value!r}; expected {_says(_hints(type(self))[name])}")
            object.__setattr__(self, name, value)
        self._extra = {name: values.pop(name) for name in list(values) if name in BOOKKEEPING}
        if strict and (unknown := [name for name in values if name not in self.inert and name not in MEANINGFUL]):
            known = [*self.fields(), "num_labels", *self.aliases]
            raise ArgumentError(f"{where} has no field " + ", nor ".join(f"{n!r}{did_you_mean(n, known)}" for n in unknown) + ".")
        for name, value in values.items():
            if name in self.inert or name in MEANINGFUL:
                harmless = [self.inert[name]] if name in self.inert else []
                if value is not None and value not in harmless:
                    only = f"only {harmless[0]!r} is implemented" if harmless else f"{type(self).__name__} does not implement it"
                    faults.append(f"{name} is {value!r}, which changes the model's numbers; {only}")
            else:
                log.info("%s: unknown key %r is kept and has no effect.", where, name)
        self._extra |= values
        if not faults:
            faults = list(self.faults())
        if faults:
            raise ConfigError(f"{where}: " + "; ".join(faults) + ".")

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each value that is impossible; architectures add their own."""
        for name in self.fields():
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                layers = name.endswith("layers") or name == "n_layer"
                if layers and not 0 <= value <= MAX_LAYERS:
                    yield f"{name} is {value}; expected 0 to {MAX_LAYERS}"
                elif not layers and name.endswith(("_size", "_heads", "dim", "_embeddings")) and not 1 <= value < 2**40:
                    yield f"{name} is {value}; expected at least 1"
            elif isinstance(value, float) and ("dropout" in name or name == "dropout") and not 0 <= value < 1:
                yield f"{name} is {value}; expected a probability, 0 <= p < 1"
        if sorted(self.id2label) != list(range(len(self.id2label))):
            yield f"id2label has the ids {sorted(self.id2label)}; expected 0 to {len(self.id2label) - 1} without a gap"
        kinds = ("single_label_classification", "multi_label_classification", "regression")
        if self.problem_type not in (None, *kinds):
            yield f"problem_type is {self.problem_type!r}; expected one of {', '.join(kinds)}, or null"

    def modernize(self, values: dict[str, Any]) -> dict[str, Any]:
        """Bring other versions' spellings of the format to ours; `values` may be changed."""
        for old, new in (SPELLINGS | self.aliases).items():
            if old in values and (value := values.pop(old)) is not None:
                values.setdefault(new, value)
        if (dtype := values.get("dtype")) is not None:
            values["dtype"] = str(dtype).removeprefix("torch.")
        count = values.pop("num_labels", None)
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 10**7):
            raise ConfigError(f"num_labels is {count!r}; expected a whole number of at least 1.")
        if (labels := values.get("id2label")) is not None:
            values["id2label"] = self._int_keys(labels)
            if count is not None and count != len(labels):
                raise ConfigError(f"num_labels is {count}, but id2label names {len(labels)} labels; give one of them.")
            if "label2id" not in values:
                values["label2id"] = {label: i for i, label in values["id2label"].items()}
        elif count is not None:
            values["id2label"] = {i: f"LABEL_{i}" for i in range(count)}
            values["label2id"] = {f"LABEL_{i}": i for i in range(count)}
        else:
            values.pop("id2label", None)
            if values.get("label2id") is None:
                values.pop("label2id", None)
            elif isinstance(values["label2id"], dict):
                values["id2label"] = {i: label for label, i in values["label2id"].items()}
        return values

    @staticmethod
    def _int_keys(labels: Any) -> Any:
        if isinstance(labels, list | tuple):
            return dict(enumerate(labels))
        if not isinstance(labels, Mapping):
            return labels
        try:
            return {int(key): label for key, label in labels.items()}
        except (TypeError, ValueError):
            raise ConfigError(f"id2label has the keys {list(labels)!r}; expected whole numbers.") from None

    # --- reading and writing ------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config.json", **overrides: Any) -> Self:
        """Build from the content of a config.json; `overrides` are fields by keyword and win.

        Raises:
            ConfigError: naming every value that is impossible or not implemented.
            ArgumentError: for an override that is not a field.
        """
        kind = values.get("model_type")
        if cls.model_type and kind not in (None, cls.model_type):
            raise ConfigError(f"{where}: model_type is {kind!r}, but {cls.__name__} reads {cls.model_type!r}; use AutoConfig.")
        config = cls.__new__(cls)
        config._read = copy.deepcopy(dict(values))
        config._fill(config._read, strict=False, where=where)
        config._as_read = {name: copy.deepcopy(getattr(config, name)) for name in cls.fields()}
        return config.replace(**overrides) if overrides else config

    @classmethod
    def from_folder(cls, folder: Folder, **overrides: Any) -> Self:
        """Read config.json of an open folder."""
        return cls.from_dict(folder.read_json("config.json"), where=f"{folder.path}/config.json", **overrides)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options: Any) -> Self:
        """Read the configuration of a folder or a model on the Hub.

        Args:
            name: a folder, or a name such as `"google-bert/bert-base-uncased"`.
            options: those of the Hub (`revision`, `token`, `cache_dir`, `subfolder`, `force_download`, `local_files_only`);
                every other keyword overrides a field.
        """
        with locate(name, HubOptions.take(options), want="config") as folder:
            return cls.from_folder(folder, **options)

    def replace(self, **overrides: Any) -> Self:
        """Return a copy with some fields changed, checked anew."""
        changed = copy.copy(self)
        known = {name: getattr(self, name) for name in self.fields()} | self._extra
        spelled = {SPELLINGS.get(n, self.aliases.get(n, n)) for n in overrides}
        if spelled & {"num_labels", "id2label", "label2id"}:
            known = {k: v for k, v in known.items() if k not in ("id2label", "label2id")}
        allowed = [*self.fields(), "num_labels", *self.aliases, *SPELLINGS, *BOOKKEEPING, *self.inert, *MEANINGFUL]
        if unknown := [n for n in overrides if n not in allowed and n not in self._extra]:
            raise ArgumentError(
                f"{type(self).__name__} has no field " + ", nor ".join(f"{n!r}{did_you_mean(n, allowed)}" for n in unknown) + "."
            )
        known = {name: value for name, value in known.items() if name not in spelled}
        changed._fill(copy.deepcopy(known) | overrides, strict=False, where=type(self).__name__)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json will hold: what was read, in its order and spelling, and what has changed since."""
        as_read = getattr(self, "_as_read", {})
        result: dict[str, Any] = copy.deepcopy(self._read)
        for name in self.fields():
            value = getattr(self, name)
            if as_read and value == as_read[name]:
                continue
            for old, new in SPELLINGS.items():
                if new == name:
                    result.pop(old, None)
            if as_read or value is not None or self.fields()[name].default is not None:
                result[name] = value
        if as_read and self.id2label != as_read["id2label"]:
            result.pop("num_labels", None)
            result.pop("_num_labels", None)
        result |= {name: value for name, value in self._extra.items() if name not in SPELLINGS and name != "num_labels"}
        return {"model_type": self.model_type, **result} if self.model_type else result

    def to_json_string(self) -> str:
        """Return config.json as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, path: str | os.PathLike, *, push_to_hub: bool = False, **options: Any) -> None:
        """Write config.json into a folder, all or nothing."""
        with rewrite(path) as staging:
            (staging / "config.json").write_text(self.to_json_string(), encoding="utf-8")
        if push_to_hub:
            push(path, options.pop("repo_id", os.path.basename(os.path.abspath(path))), **options)

    # --- reading attributes -------------------------------------------------------------------------------------------

    @property
    def num_labels(self) -> int:
        """The number of labels of a classification head."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        self.id2label = {i: f"LABEL_{i}" for i in range(count)}
        self.label2id = {f"LABEL_{i}": i for i in range(count)}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        spelled = SPELLINGS.get(name, type(self).aliases.get(name))
        if spelled is not None:
            return getattr(self, spelled)
        if name in (extra := self.__dict__.get("_extra", {})):
            return extra[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}{did_you_mean(name, self.fields())}.")

    def __setattr__(self, name: str, value: Any) -> None:
        name = SPELLINGS.get(name, type(self).aliases.get(name, name))
        if name[0] == "_" or name in self.fields() or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            self._extra[name] = value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == typing.cast(Config, other).to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"
