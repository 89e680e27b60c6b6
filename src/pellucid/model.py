"""`Model`: an `nn.Module` that can be loaded from a checkpoint and saved as one, and nothing more."""

import inspect
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from . import weights
from .config import Config
from .errors import ArgumentError, InputError, WeightsError, did_you_mean, refuse_unknown
from .folder import Folder, rewrite
from .hub import HubOptions, locate, push
from .loading import LoadReport, check_depth, check_memory, load
from .outputs import ModelOutput
from .recording import record, recording

DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
}
# Arguments of the original's forward that ask for nothing when None (or, for use_cache, in a model without a cache).
NOTHING = frozenset(
    {"past_key_values", "head_mask", "encoder_hidden_states", "encoder_attention_mask", "cache_position", "use_cache"}
)


class Model(nn.Module):
    """The base of every architecture's classes.

    Attributes:
        config_class: the class of `config`.
        prefix: the attribute under which headed classes hold the backbone; its names in a checkpoint begin with it.
        stack: where the backbone keeps its layers, as a dotted name.
        optional: parts of the backbone that checkpoints may lack.
        tied: parameters that are another's under a second name, {name: source}, where the config gives them one.
        legacy_names: old spellings in checkpoints, {old part: new part}.
        unread: ends of the names of tensors that checkpoints hold and no class reads.
        load_report: what `from_pretrained` did; None for a model that was not loaded.
    """

    config_class: ClassVar[type[Config]] = Config
    prefix: ClassVar[str] = ""
    stack: ClassVar[str] = ""
    optional: ClassVar[tuple[str, ...]] = ()
    tied: ClassVar[dict[str, str]] = {}
    legacy_names: ClassVar[dict[str, str]] = {}
    unread: ClassVar[tuple[str, ...]] = ("position_ids",)  # of old versions, which only count from 0
    accepts: ClassVar[tuple[str, ...]] = ()  # the arguments of forward
    load_report: LoadReport | None = None

    def __init_subclass__(cls) -> None:
        cls.accepts = tuple(inspect.signature(cls.forward).parameters)[1:]

    def __init__(self, config: Config):
        super().__init__()
        if not isinstance(config, self.config_class):
            raise InputError(
                f"{type(self).__name__} takes a {self.config_class.__name__}; got {type(config).__name__}."
            )
        config.check()  # fields may have been set since it was built
        self.config = config

    @property
    def backbone(self) -> "Model":
        """The model without its head; itself when it has none."""
        return getattr(self, self.prefix, self)

    # --- calling ------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        *args: Any,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> Any:
        """Run `forward`, and on request record hidden states and attentions, or return a plain tuple.

        Raises:
            ArgumentError: for an argument that `forward` does not have.
            InputError: for ids outside the vocabulary or texts longer than the model's positions.
        """
        inputs = {name: value for name, value in inputs.items() if not self._asks_nothing(name, value)}
        if torch.compiler.is_compiling() or recording():
            return super().__call__(*args, **inputs)
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        try:
            if hidden or attentions:
                output = self._recorded(args, inputs, hidden, attentions)
            else:
                output = super().__call__(*args, **inputs)
        except IndexError as error:
            raise self.explain_index(error, dict(zip(self.accepts, args, strict=False)) | inputs) from error
        return output.to_tuple() if return_dict is False else output

    def _asks_nothing(self, name: str, value: Any) -> bool:
        if name in self.accepts:
            return False
        if name in NOTHING and (value is None or name == "use_cache"):
            return True
        known = [*self.accepts, "output_hidden_states", "output_attentions", "return_dict"]
        raise ArgumentError(
            f"{type(self).__name__} has no argument {name!r}{did_you_mean(name, known)}. It takes: {', '.join(known)}."
        )

    def _recorded(self, args: tuple[Any, ...], inputs: dict[str, Any], hidden: bool, attentions: bool) -> ModelOutput:
        with record(self.backbone, self.backbone.recorded_layers(), attentions=attentions) as seen:
            output = super().__call__(*args, **inputs)
        output.hidden_states = tuple(seen.hidden_states) if hidden else None
        output.attentions = tuple(seen.attentions) or None if attentions else None
        return output

    def recorded_layers(self) -> Iterable[nn.Module]:
        """Return the modules of a backbone whose outputs are the hidden states."""
        return self.get_submodule(self.stack).children()

    def explain_index(self, error: IndexError, inputs: dict[str, Any]) -> Exception:
        """Turn a kernel's "index out of range" into the input, its value and the limit."""
        ids, words = inputs.get("input_ids"), inputs.get("inputs_embeds")
        length = ids.shape[-1] if isinstance(ids, Tensor) else words.shape[-2] if isinstance(words, Tensor) else 0
        limit = self.config.max_tokens
        if limit is not None and length > limit and inputs.get("position_ids") is None:
            return InputError(
                f"The text has {length} tokens, this model reads {limit}; tokenize with truncation=True, "
                "or use a pipeline, which reads long texts in windows."
            )
        limits = {
            "input_ids": ("vocab_size", "Does the tokenizer belong to this model?"),
            "position_ids": ("max_position_embeddings", "Positions count from 0 in every text."),
            "token_type_ids": ("type_vocab_size", "They tell the texts of a pair apart."),
            "langs": ("n_langs", "They number the languages that the model knows."),
        }
        for name, (field, hint) in limits.items():
            ids, limit = inputs.get(name), getattr(self.config, field, None)
            if isinstance(ids, Tensor) and limit and len(wrong := ids[(ids < 0) | (ids >= limit)]):
                return InputError(f"{name} holds {int(wrong[0])}; expected 0 to {limit - 1}. {hint}")
        if str(error).startswith("Target"):
            return InputError(f"labels: {error} Expected classes that the head has, or -100 where nothing is to learn.")
        return error

    @staticmethod
    def one_of(**tensors: Tensor | None) -> Tensor:
        """Return the one tensor that is given.

        Raises:
            InputError: if none or several are given, or it is not a tensor.
        """
        given = {name: value for name, value in tensors.items() if value is not None}
        if len(given) != 1:
            raise InputError(f"Give exactly one of {', '.join(tensors)}; got {', '.join(given) or 'none'}.")
        ((name, value),) = given.items()
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}; expected a tensor: tokenize with return_tensors='pt'."
            )
        if name.endswith("_ids") and (value.is_floating_point() or value.dtype == torch.bool):
            raise InputError(f"{name} is of {value.dtype}; expected whole numbers, such as torch.long.")
        return value

    # --- loading ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike | Folder,
        *,
        config: Config | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | int | torch.device | None = None,
        ignore_mismatched_sizes: bool = False,
        use_safetensors: bool | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Self:
        """Load a checkpoint, in evaluation mode.

        Args:
            name: a folder, by its path or open, or a name such as `"google-bert/bert-base-uncased"`.
            config: instead of the one beside the weights.
            dtype: of the parameters: `"float32"`, `"bfloat16"`, ..., or `"auto"` for what config.json says, else the
                files.
            device: where the parameters go; the CPU by default.
            ignore_mismatched_sizes: whether head tensors that do not fit may be drawn at random instead.
            use_safetensors: True refuses pytorch_model.bin.
            output_loading_info: whether to return `(model, report)`.
            options: those of the Hub (`revision`, `token`, `cache_dir`, `subfolder`, `force_download`,
                `local_files_only`); every other keyword overrides a field of the config. `num_labels`, `id2label` or
                `label2id` allow a new head.

        Raises:
            HubError: if the files can not be had.
            ConfigError: if the configuration is impossible or not implemented.
            WeightsError: if the tensors are not exactly those of the model.
            ArgumentError: for a keyword that is no option and no field.
        """
        if config is not None and not isinstance(config, cls.config_class):
            raise InputError(f"config is a {type(config).__name__}; expected a {cls.config_class.__name__}.")
        dtype, device = options.pop("torch_dtype", dtype), options.pop("device_map", device)
        options.pop("attn_implementation", None)  # attend chooses the kernel; all give the same numbers
        options.pop("low_cpu_mem_usage", None)  # it always is
        device, wanted, hub = read_device(device), read_dtype(dtype), HubOptions.take(options)
        relabelled = bool(options.keys() & {"num_labels", "id2label", "label2id"})
        new_head = ignore_mismatched_sizes or config is not None or relabelled
        with nullcontext(name) if isinstance(name, Folder) else locate(name, hub, want="weights") as folder:
            if config is None:
                config = cls.config_class.from_folder(folder, **options)
            elif options:
                config = config.replace(**options)
            checkpoint = weights.Checkpoint(folder, safetensors_only=bool(use_safetensors))
            check_depth(config, len(checkpoint.tensors))
            with torch.device("meta"), Skeleton():
                model = cls(config)
            wanted = wanted or _natural_dtype(config, checkpoint)
            model.load_report = load(
                model,
                checkpoint,
                dtype=wanted,
                device=device,
                new_head=new_head,
                reshape_head=ignore_mismatched_sizes,
            )
        model.eval()
        return (model, model.load_report) if output_loading_info else model  # type: ignore[return-value]

    @classmethod
    def from_config(cls, config: Config, *, dtype: str | torch.dtype | None = None) -> Self:
        """Build with random weights, in training mode.

        Args:
            config: of this class's architecture.
            dtype: of the parameters; `"float32"` by default.

        Raises:
            ConfigError: if the parameters would not fit into memory.
        """
        wanted = read_dtype(dtype) or torch.float32
        with torch.device("meta"), Skeleton():
            skeleton = cls(config)
        check_memory(skeleton.num_parameters() * max(4, wanted.itemsize), type(config).__name__)
        return cls(config).to(wanted)

    # --- saving -------------------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        path: str | os.PathLike,
        *,
        max_shard_size: int | str = "5GB",
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Write config.json and model.safetensors (or shards) into a folder, which changes at once or not at all.

        Args:
            path: the folder; made if it does not exist. Files in it that are not weights or config.json stay.
            max_shard_size: bytes, or a text such as `"500MB"`; larger models are written as shards with an index.
            state_dict: tensors to write instead of the model's own, under the same names.
            push_to_hub: whether to upload the folder too.
            options: those of the method `push_to_hub`, and `repo_id`, by default the folder's name.

        Raises:
            SaveError: if the folder could not be written; what was there before still is.
            WeightsError: if the disk does not give back what was written.
        """
        if options.pop("is_main_process", True) is False:
            return
        if options.pop("safe_serialization", True) is False:
            raise ArgumentError(
                "safe_serialization=False would write a pickle; leave it out to write model.safetensors."
            )
        repo_id = options.pop("repo_id", os.path.basename(os.path.abspath(path)))
        if not push_to_hub:
            refuse_unknown("save_pretrained", options, ["max_shard_size", "state_dict", "push_to_hub"])
        tensors = self._to_write(self.state_dict() if state_dict is None else state_dict)
        config = self.config.replace(architectures=[type(self).__name__], dtype=str(self.dtype))
        with rewrite(path, replaces=weights.is_weight_file) as staging:
            (staging / "config.json").write_text(config.to_json_string(), encoding="utf-8")
            weights.write(staging, tensors, max_shard_size=max_shard_size)
        if push_to_hub:
            push(path, repo_id, **options)

    def _to_write(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check that tensors are this model's, and leave out those that are tied to others."""
        tied = self.tied if self.config.tie_word_embeddings else {}
        own = {name: tensor.shape for name, tensor in self.state_dict().items() if name not in tied}
        wrong = [f"{name}{did_you_mean(name, own)}" for name in tensors if name not in own and name not in tied]
        wrong += [name for name in own if name not in tensors or tensors[name].shape != own[name]]
        if wrong:
            raise WeightsError(
                f"state_dict does not fit {type(self).__name__}; foreign, missing or of another shape: "
                + ", ".join(wrong[:6])
                + (f" and {len(wrong) - 6} more." if len(wrong) > 6 else ".")
            )
        return {name: tensors[name] for name in own}

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload config and weights; options are `private`, `commit_message`, `token`, `revision`, `create_pr`."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(folder, repo_id, **options)

    # --- weights ------------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Draw this model's weights as its paper does; a backbone inside it has drawn its own."""
        if any(parameter.is_meta for parameter in self.parameters()):
            return
        stack: list[nn.Module] = [self]
        while stack:
            module = stack.pop()
            self.init_module(module)
            stack.extend(child for child in module.children() if not isinstance(child, Model))
        self.tie_weights()

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself: normal weights, zero biases, norms that change nothing."""
        for name, parameter in module.named_parameters(recurse=False):
            if only is not None and name not in only:
                continue
            if name == "bias":
                parameter.zero_()
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, getattr(self.config, "initializer_range", 0.02))
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    parameter[module.padding_idx].zero_()

    def tie_weights(self) -> None:
        """Make each tied name the same parameter as its source."""
        if not self.config.tie_word_embeddings:
            return
        own = dict(self.named_parameters(remove_duplicate=False))
        for name, source in self.tied.items():
            if name not in own:
                continue
            module, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(module), leaf, self.get_parameter(source))

    def num_parameters(self, *, only_trainable: bool = False) -> int:
        """Count the parameters; tied ones once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device


def _natural_dtype(config: Config, checkpoint: weights.Checkpoint) -> torch.dtype:
    """Return the dtype that config.json names, else that of the files, if it is one to compute in."""
    stored = {str(tensor.dtype).removeprefix("torch."): None for tensor in checkpoint.tensors.values()}
    return next((DTYPES[name] for name in (config.dtype, *stored) if name in DTYPES), torch.float32)


class Skeleton(TorchFunctionMode):
    """While active, modules are built without drawing weights, which on the meta device is slow and for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skip what torch.nn.init does."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Read a dtype by name; None for "auto"."""
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; expected 'auto', {', '.join(map(repr, DTYPES))}, or such a torch.dtype.")
    return DTYPES[name]


def read_device(device: Any) -> torch.device:
    """Read where to run: a torch device or its name, a GPU's number, -1 for the CPU, or "auto" for the best."""
    place = device[""] if isinstance(device, dict) and set(device) == {""} else device
    if place is None or place == -1:
        place = "cpu"
    elif place == "auto":
        place = "cuda" if torch.cuda.is_available() else "cpu"
    elif isinstance(place, int) and not isinstance(place, bool):
        place = f"cuda:{place}"
    try:
        result = torch.device(place)  # type: ignore[arg-type]
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device is {device!r}; expected a name such as 'cpu' or 'cuda:0' ({str(error).splitlines()[0]})."
        ) from None
    if result.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device!r}, but this machine has no usable CUDA device; use 'cpu'.")
    return result
