"""`Model`: an `nn.Module` that can be loaded from a checkpoint and saved as one, and nothing more."""

import inspect
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from . import weights
from .adapters import FILES as ADAPTER_FILES
from .adapters import Adaptable
from .cache import Cache
from .config import Config
from .errors import ArgumentError, InputError, WeightsError, did_you_mean, refuse_unknown
from .folder import Folder, rewrite
from .generation_config import FILE as GENERATION_FILE
from .generation_config import GenerationConfig
from .hub import HubOptions, locate, push
from .layout import Layout
from .loading import LoadReport, check_depth, check_memory, load
from .outputs import Seq2Seq
from .recording import record, recording

DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
}
# Arguments of the original's forward that ask for nothing when None.
NOTHING = frozenset(
    {"past_key_values", "head_mask", "encoder_hidden_states", "encoder_attention_mask", "cache_position"}
)

PAIRED = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "labels")  # a source, its target

_inside: ContextVar[bool] = ContextVar("inside", default=False)  # the call of another model


class Model(Adaptable):
    """The base of every architecture's classes.

    Attributes:
        config_class: the class of `config`.
        prefix: the attribute under which headed classes hold the backbone; its names in a checkpoint begin with it.
        stack: where the backbone keeps its layers, as a dotted name.
        source_stack: where it keeps those of its encoder, when `stack` is its decoder's.
        optional: parts of the backbone that checkpoints may lack.
        heads: parts that are the head, where no prefix tells them from the backbone.
        tied: parameters that are another's under a second name, {name: source}, where the config gives them one.
        legacy_names: old spellings in checkpoints, {old part: new part}.
        unread: ends of the names of tensors that checkpoints hold and no class reads.
        exact: ends of the names of parameters that are loaded in float32 even where the others are of less precision.
        wide: ends of the names of parameters that are loaded in float32 in place of float16, whose range is too small.
        uncalled: ends of the names of modules of which only the weights are read; no adapter can change them.
        load_report: what `from_pretrained` did; None for a model that was not loaded.
    """

    config_class: ClassVar[type[Config]] = Config
    prefix: ClassVar[str] = ""
    stack: ClassVar[str] = ""
    source_stack: ClassVar[str] = ""
    optional: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]] = ()
    tied: ClassVar[dict[str, str]] = {}
    legacy_names: ClassVar[dict[str, str]] = {}
    unread: ClassVar[tuple[str, ...]] = ("position_ids",)  # of old versions, which only count from 0
    exact: ClassVar[tuple[str, ...]] = ()
    wide: ClassVar[tuple[str, ...]] = ()
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
        self.generation_config = GenerationConfig.unsaid()

    @property
    def base_model(self) -> "Model":
        """The model without its head; itself when it has none."""
        return getattr(self, self.prefix, self)

    @property
    def ties(self) -> dict[str, str]:
        """Those of the names in `tied` that are, with this config."""
        return self.tied if self.config.tie_word_embeddings else {}

    # --- calling ------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        *args: Any,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> Any:
        """Run `forward`, and do what every architecture can be asked for.

        Args:
            args: those of `forward`.
            output_hidden_states: whether to record the embeddings and every layer's output.
            output_attentions: whether to record every layer's attention weights.
            use_cache: whether a model with a cache returns one, as `past_key_values`; by default as the config says,
                except in training.
            return_dict: False to return a plain tuple.
            inputs: those of `forward`; `past_key_values` is another name of `cache`.

        Raises:
            ArgumentError: for an argument that `forward` does not have.
            InputError: for ids outside the vocabulary, texts longer than the model's positions, and targets that are
                not as many for each source.
        """
        inputs = {name: value for name, value in inputs.items() if not self._asks_nothing(name, value)}
        if torch.compiler.is_compiling() or recording() or _inside.get():
            return super().__call__(*args, **inputs)
        if self.source_stack:
            self._check_rows(dict(zip(self.accepts, args, strict=False)) | inputs)
        cache = self._take_cache(args, inputs, use_cache) if "cache" in self.accepts else None
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        token = _inside.set(True)
        try:
            if hidden or attentions:
                output = self._recorded(args, inputs, hidden, attentions)
            else:
                output = super().__call__(*args, **inputs)
        except IndexError as error:
            raise self.explain_index(error, dict(zip(self.accepts, args, strict=False)) | inputs) from error
        finally:
            _inside.reset(token)
        output.past_key_values = cache
        return output.to_tuple() if return_dict is False else output

    @staticmethod
    def _check_rows(inputs: dict[str, Any]) -> None:
        """Raise unless there is a target for each source, or equally many; labels may be targets."""
        rows = {name: len(x) for name, x in inputs.items() if name in PAIRED and isinstance(x, Tensor) and x.dim()}
        sources = rows.pop("input_ids", None) or rows.pop("inputs_embeds", None)
        for name, count in rows.items():
            if sources and (count % sources or not count):
                raise InputError(f"{name} has {count} row(s), the source {sources}; expected as many for each source.")

    def _take_cache(self, args: tuple[Any, ...], inputs: dict[str, Any], use_cache: bool | None) -> Cache | None:
        """Put the cache that a call needs into its inputs; return the one that it gives back."""
        if (given := inputs.pop("past_key_values", None)) is not None:
            inputs["cache"] = given
        place = self.accepts.index("cache")
        cache = args[place] if len(args) > place else inputs.get("cache")
        if cache is not None and not isinstance(cache, Cache):
            raise InputError(f"cache is a {type(cache).__name__}; expected a pellucid.Cache, as a call returns it.")
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        mask = inputs.get("attention_mask", args[1] if len(args) > 1 else None)
        if cache is None and wanted and len(args) <= place and not isinstance(mask, Layout):
            cache = inputs["cache"] = Cache()
        return cache if wanted else None

    def _asks_nothing(self, name: str, value: Any) -> bool:
        if name in self.accepts or (name == "past_key_values" and "cache" in self.accepts):
            return False
        if name in NOTHING and value is None:
            return True
        known = [*self.accepts, "output_hidden_states", "output_attentions", "use_cache", "return_dict"]
        raise ArgumentError(
            f"{type(self).__name__} has no argument {name!r}{did_you_mean(name, known) or '.'} "
            f"It takes: {', '.join(known)}."
        )

    def _recorded(self, args: tuple[Any, ...], inputs: dict[str, Any], hidden: bool, attentions: bool) -> Any:
        base = self.base_model
        if base.source_stack:
            return self._recorded_twice(args, inputs, hidden, attentions)
        with record(base, base.recorded_layers(), attentions=attentions) as seen:
            output = super().__call__(*args, **inputs)
        output.hidden_states = tuple(seen.hidden_states) if hidden else None
        output.attentions = tuple(seen.attentions.own) or None if attentions else None
        return output

    def _recorded_twice(self, args: tuple[Any, ...], inputs: dict[str, Any], hidden: bool, attentions: bool) -> Any:
        """Record an encoder and a decoder."""
        (encoder, read), (decoder, written) = self.base_model.recorded_halves()
        with (
            record(encoder, read, attentions=attentions) as source,
            record(decoder, written, attentions=attentions) as target,
        ):
            output = super().__call__(*args, **inputs)
        if not isinstance(output, Seq2Seq):  # a head that shows nothing of its encoder
            output.hidden_states = tuple(target.hidden_states) if hidden else None
            output.attentions = tuple(target.attentions.own) if attentions else None
            return output
        if hidden:
            output.encoder_hidden_states = tuple(source.hidden_states) or None
            output.decoder_hidden_states = tuple(target.hidden_states)
        if attentions:
            output.encoder_attentions = tuple(source.attentions.own) or None
            output.decoder_attentions = tuple(target.attentions.own)
            output.cross_attentions = tuple(target.attentions.cross) or None
        return output

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any:
        """Continue prompts; see `pellucid.generate`, which this is."""
        from .generation import generate

        return generate(self, inputs, **options)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """Return the score of each token that `generate` wrote; see `transition_scores`."""
        from .generation.output import transition_scores

        return transition_scores(sequences, scores, beam_indices, normalize_logits=normalize_logits)

    def recorded_layers(self) -> Iterable[nn.Module]:
        """Return the modules of a backbone whose outputs are the hidden states."""
        return self.get_submodule(self.stack).children()

    def recorded_halves(self) -> list[tuple[nn.Module, Iterable[nn.Module]]]:
        """Return the encoder and the decoder, each with the modules whose outputs are its hidden states."""
        names = (self.source_stack, self.stack)
        return [(self.get_submodule(name.rpartition(".")[0]), self.get_submodule(name).children()) for name in names]

    def explain_index(self, error: IndexError, inputs: dict[str, Any]) -> Exception:
        """Turn a kernel's "index out of range" into the input, its value and the limit."""
        length = self._longest(inputs)
        limit = self.config.max_tokens
        if limit is not None and length > limit and inputs.get("position_ids") is None:
            return InputError(
                f"The text has {length} tokens, this model reads {limit}; tokenize with truncation=True, "
                "or use a pipeline, which reads long texts in windows."
            )
        words = "Does the tokenizer belong to this model?"
        limits = {
            "input_ids": (("src_vocab_size", "vocab_size"), words),
            "decoder_input_ids": (("decoder_vocab_size", "vocab_size"), words),
            "position_ids": (("max_position_embeddings",), "Positions count from 0 in every text."),
            "token_type_ids": (("type_vocab_size",), "They tell the texts of a pair apart."),
            "langs": (("n_langs",), "They number the languages that the model knows."),
            "labels": (("decoder_vocab_size", "vocab_size"), "-100 stands where nothing is to be learned."),
        }
        for name, (fields, hint) in limits.items():
            ids, sizes = inputs.get(name), [getattr(self.config, field, None) for field in fields]
            limit = next((size for size in sizes if size), None)
            if name == "labels" and isinstance(ids, Tensor):
                ids = ids[ids != -100]
            if isinstance(ids, Tensor) and limit and len(wrong := ids[(ids < 0) | (ids >= limit)]):
                return InputError(f"{name} holds {int(wrong[0])}; expected 0 to {limit - 1}. {hint}")
        if str(error).startswith("Target"):
            return InputError(f"labels: {error} Expected classes that the head has, or -100 where nothing is to learn.")
        return error

    def _longest(self, inputs: dict[str, Any]) -> int:
        """Count the tokens of the longest text of a call, those before it in a cache included."""
        longest = 0
        for side in ("", "decoder_"):
            ids, words = inputs.get(f"{side}input_ids"), inputs.get(f"{side}inputs_embeds")
            length = ids.shape[-1] if isinstance(ids, Tensor) else words.shape[-2] if isinstance(words, Tensor) else 0
            if isinstance(layout := inputs.get(f"{side}attention_mask"), Layout):
                length = int(layout.spans.max())  # a packed row holds several texts
            longest = max(longest, length)
        return max(longest, len(cache)) if isinstance(cache := inputs.get("cache"), Cache) else longest

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
    @torch.inference_mode(False)  # a mode of the thread, which those that read the files do not have
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
                `local_files_only`) and `gguf_file`; every other keyword overrides a field of the config. `num_labels`,
                `id2label` or `label2id` allow a new head.

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
            if checkpoint.is_packed:
                config = config.replace(quantization_config=None)  # the model's weights are plain
            config = cls.settle(config, checkpoint)
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
            model.generation_config = GenerationConfig.from_folder(folder)
            model.load_own_adapter(folder)
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

    @classmethod
    def settle(cls, config: Any, checkpoint: weights.Checkpoint) -> Config:
        """Return the config that a checkpoint was made with, where an architecture's files do not tell it exactly."""
        return config

    def is_unread(self, name: str) -> bool:
        """Tell whether a tensor of a checkpoint is one that no class reads."""
        return name.endswith(self.unread)

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
            path: the folder; made if it does not exist. Files in it that are not weights or config.json stay. A model
                with an adapter writes that, too, and `from_pretrained` loads both.
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
        with rewrite(path, replaces=lambda name: weights.is_weight_file(name) or name in ADAPTER_FILES) as staging:
            (staging / "config.json").write_text(config.to_json_string(), encoding="utf-8")
            settings = self.generation_config.for_file(self.config)
            if settings.to_dict():
                (staging / GENERATION_FILE).write_text(settings.to_json_string(), encoding="utf-8")
            weights.write(staging, tensors, max_shard_size=max_shard_size)
            self.write_own_adapter(staging)
        if push_to_hub:
            push(path, repo_id, **options)

    def _to_write(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check that tensors are this model's, and leave out those that are tied to others."""
        tied = self.ties
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
        own = dict(self.named_parameters(remove_duplicate=False))
        for name, source in self.ties.items():
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
