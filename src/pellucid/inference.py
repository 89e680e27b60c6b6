"""`prepare`: make a model run as fast as the CPU can, from outside; its file and its checkpoint stay what they are.

Linear layers are exchanged for ones that hold their weights in the order in which oneDNN's kernels read them, or
rounded to 8 bits; those that read the same, as a layer's queries, keys and values do, are multiplied at once. Nothing
else of a model changes, `state_dict()` least of all, and `restore` undoes it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from .errors import InputError
from .model import Model, read_dtype

DTYPES = (torch.float32, torch.bfloat16)  # that the kernels know
ROWS = 2048  # tokens for which an order of the weight is chosen; it is a good one for any number
AT_ONCE = 256  # tokens whose products in float32 stay in a core's cache
TINY = 1e-12  # instead of a step of 0, where all is 0
SMALL = 2**23  # weights of a layer up to which kernels that take bfloat16 are the quicker ones
FEW = 2  # tokens up to which reading less counts more than multiplying faster

# Layers of a module that read the same tensor.
TOGETHER = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
TOGETHER += (("gate_proj", "up_proj"), ("wi_0", "wi_1"))
APART = ("cross", "encoder_attn", "EncDec", "TransientGlobal")  # parts of the names of modules that read two texts
# Layers whose output goes to the `activation` of the module that they are in, and to nothing else.
ACTIVATED = ("dense", "lin1", "fc1", "c_fc", "fc_in", "dense_h_to_4h", "vocab_transform", "linear_1", "layer_1")


def prepare(
    model: Model, *, dtype: "str | torch.dtype | None" = None, quantize: str | None = None, compile: bool = False
) -> Model:
    """Exchange a model's linear layers for quicker ones, in place.

    Numbers stay what they were, up to rounding, unless `dtype` or `quantize` ask for less. Nothing is exchanged on a
    GPU, or where the CPU's kernels do not know the dtype.

    Args:
        model: in evaluation mode.
        dtype: to compute in; `"auto"` for bfloat16 on a CPU with instructions for it, else what the model has.
        quantize: `"int8"` for weights of 8 bits, scaled by output. Models that only read multiply whole numbers, for
            which they round their inputs, too, where that is quicker; those that write do not.
        compile: whether `generate` makes one program of all that a token takes, on a CPU with a compiler of C++. That
            takes half a minute or more when it first writes, and again for each other number of texts and each doubling
            of their length, and as much memory as the weights; it is for long work.

    Returns:
        The model.

    Raises:
        InputError: for a model in training mode, or another `quantize`; with `compile`, for a model that does not
            write after a prompt, or without a compiler.
    """
    if model.training:
        raise InputError("The model is in training mode; call model.eval() before prepare(model).")
    if quantize not in (None, "int8"):
        raise InputError(f"quantize is {quantize!r}; expected 'int8', or None.")
    restore(model)
    wanted = fastest_dtype() if dtype == "auto" else read_dtype(dtype)
    for name, parameter in model.named_parameters():
        if wanted is not None and not name.endswith(model.exact):
            parameter.data = parameter.data.to(wanted)
    if model.device.type == "cpu" and has_kernels(model.dtype):
        _exchange(model, quantize, keep=compile)
    if compile and model.device.type == "cpu":
        from .compiling import Steps

        model.forward = Steps(model)
    return model


def restore(model: Model) -> Model:
    """Undo what `prepare` exchanged, in place."""
    vars(model).pop("forward", None)
    for parent in list[Any](model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Prepared):
                setattr(parent, name, layer.plain())
                if layer.activation is not None:
                    parent.activation = layer.activation
    return model


def fastest_dtype() -> torch.dtype | None:
    """Return bfloat16 where the CPU has instructions for it; None where nothing is faster than what there is."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and has_kernels(torch.bfloat16) else None


@cache
def has_kernels(dtype: torch.dtype) -> bool:
    """Try whether oneDNN's kernels, which torch uses in compiled models, are there and right for a dtype."""
    if dtype not in DTYPES or not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = (torch.linspace(-1, 1, n, dtype=dtype) for n in (3 * 32, 16 * 32, 16))
    x, weight = x.view(3, 32), weight.view(16, 32)
    try:
        found = OneDNN(weight, bias)(x)
    except (RuntimeError, AttributeError):  # not in this build of torch, or not for this CPU
        return False
    return torch.allclose(found.float(), F.linear(x, weight, bias).float(), rtol=0.02, atol=0.02)


# --- exchanging -------------------------------------------------------------------------------------------------------


def _exchange(model: Model, quantize: str | None, *, keep: bool) -> None:
    """Put a `Prepared` in the place of every linear layer; keep what it was, too, if it is to be compiled."""
    uses: dict[int, int] = {}  # by identity: held here, all weights would be there twice
    writes = "cache" in model.accepts
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for path, parent in list(model.named_modules()):
        linear: dict[str, Any] = {name: layer for name, layer in parent.named_children() if _is_linear(layer)}
        for names in _groups(path, linear):
            layers = [linear[name] for name in names]
            weights = [_matrix(layer) for layer in layers]
            weight, bias = torch.cat(weights), _joined([layer.bias for layer in layers])
            kind = OneDNN if quantize is None else Int8Weight if writes else Int8 if _pays(*weight.shape) else OneDNN
            kernel, sizes = kind(weight, bias), tuple(len(weight) for weight in weights)
            for part, (name, layer) in enumerate(zip(names, layers, strict=True)):
                kept = keep or kind is not OneDNN or uses[id(layer.weight)] > 1
                setattr(parent, name, Prepared(layer, kernel, sizes, part, keep=kept))
            if (
                isinstance(kernel, OneDNN)
                and names[0] in ACTIVATED
                and (fused := _fused(getattr(parent, "activation", None))) is not None
            ):
                of_parent: Any = parent
                kernel.activation, getattr(parent, names[0]).activation = fused, of_parent.activation
                of_parent.activation = _done


def _is_linear(layer: Any) -> bool:
    return (type(layer).forward is nn.Linear.forward or type(layer).__name__ == "Conv1D") and layer.weight.numel() > 0


def _pays(outer: int, inner: int) -> bool:
    """Tell whether rounding a layer's inputs, which takes a time of its own, costs less than its product gains."""
    return 300 / outer + 400 / inner < 1


def _matrix(layer: Any) -> Tensor:
    """Return a layer's weight as (out, in)."""
    return layer.weight.detach() if isinstance(layer, nn.Linear) else layer.weight.detach().t()


def _groups(path: str, linear: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Part a module's linear layers into those that are multiplied at once."""
    left = dict(linear)
    for names in TOGETHER:
        layers = [left[name] for name in names if isinstance(left.get(name), nn.Linear)]
        if len(layers) < len(names) or any(part in path for part in APART):
            continue
        if len({(layer.weight.shape[1], layer.weight.dtype, layer.bias is None) for layer in layers}) == 1:
            yield names
            left = {name: layer for name, layer in left.items() if name not in names}
    yield from ((name,) for name in left)


def _fused(activation: Any) -> tuple[str, str] | None:
    """Return what kernels call an activation, and its variant; None for one they do not know."""
    if isinstance(activation, partial) and activation.func is F.gelu:
        return "gelu", activation.keywords["approximate"]
    return {F.gelu: ("gelu", "none"), F.relu: ("relu", ""), F.silu: ("swish", ""), torch.tanh: ("tanh", "")}.get(
        activation
    )


def _done(x: Tensor) -> Tensor:
    """Stand where an activation was that a kernel has done."""
    return x


def _joined(biases: Sequence[Tensor | None]) -> Tensor | None:
    given = [bias.detach() for bias in biases if bias is not None]
    return torch.cat(given) if given else None


_latest = threading.local()  # what several layers made at once and not all have taken yet


class Prepared(nn.Module):
    """A linear layer whose product is a kernel's, or a part of it.

    Args:
        plain: the layer as it was; it gives its weight away.
        kernel: of this layer and those that are multiplied with it.
        sizes: the number of outputs of each of these.
        part: which of them it is.
        keep: whether its weight is needed as it was, too.
    """

    def __init__(self, plain: Any, kernel: "OneDNN | Int8", sizes: tuple[int, ...], part: int, *, keep: bool):
        super().__init__()
        self.kernel, self.sizes, self.part = kernel, sizes, part
        self.kept: Parameter | None = plain.weight if keep else None
        self.bias: Parameter | None = plain.bias
        self.trains: bool = plain.weight.requires_grad
        self.turned = not isinstance(plain, nn.Linear)  # as GPT-2 holds it
        self.activation: Callable[[Tensor], Tensor] | None = None  # that follows, if the kernel does it, too
        self._plain = (plain,)  # no part of the model
        plain.weight = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, (..., in) to (..., out), or take the part of what was multiplied for another layer."""
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad):  # kernels have no way back
            x = self.traced(x)
            return x if self.activation is None else self.activation(x)
        if len(self.sizes) == 1:
            return self.kernel.forward(x)
        made = getattr(_latest, "made", None)
        if made is None or made[0] is not self.kernel or made[1] is not x or made[2][self.part] is None:
            made = _latest.made = (self.kernel, x, [*self.kernel.forward(x).split(self.sizes, dim=-1)])
        out, made[2][self.part] = made[2][self.part], None
        if not any(part is not None for part in made[2]):
            _latest.made = None
        return out

    def traced(self, x: Tensor) -> Tensor:
        """Multiply by what a compiler, and what finds gradients, can look into."""
        if torch.compiler.is_compiling() and isinstance(self.kernel, Int8Weight) and self.kernel.few is not None:
            begin = sum(self.sizes[: self.part])
            return self.kernel.traced(x, slice(begin, begin + self.sizes[self.part]))
        return F.linear(x, self.weight.t() if self.turned else self.weight, self.bias)

    def train(self, mode: bool = True) -> "Prepared":
        """Refuse to be trained, which would leave the weight as it is."""
        if mode:
            raise InputError("The model is prepared for inference; call restore(model) before it is trained.")
        return super().train(mode)

    @property
    def weight(self) -> Tensor:
        """The weight as the layer had it."""
        if self.kept is not None:
            return self.kept
        whole: Any = self.kernel.weight  # of a kernel that rounds, layers keep theirs
        rows = whole.split(self.sizes)[self.part]
        return rows.t() if self.turned else rows

    def plain(self) -> nn.Module:
        """Return the layer as it was."""
        (plain,) = self._plain
        weight = self.weight.detach().clone() if self.kept is None else self.kept
        plain.weight = weight if isinstance(weight, Parameter) else Parameter(weight, self.trains)
        return plain

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in ("weight", "bias"):
            if (value := getattr(self, name)) is not None:
                destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        raise InputError("The model is prepared for inference; call restore(model) before it takes other weights.")


class OneDNN(nn.Module):
    """A linear map whose weight, (out, in), lies in the order in which the CPU's kernels read it.

    It may be moved to where there are no such kernels, and is an ordinary one there.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: tuple[str, str] = ("none", "")):
        super().__init__()
        self.bias, self.activation = bias, activation
        if weight.device.type == "cpu" and weight.dtype in DTYPES:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        self.packed = Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, (..., in) to (..., out)."""
        if self.packed.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, self.activation[0], [], self.activation[1]
            )
        return F.linear(x, self.packed, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weight as it was, (out, in)."""
        return self.packed.to_dense() if self.packed.is_mkldnn else self.packed.detach()

    def __reduce__(self) -> Any:
        return OneDNN, (self.weight, self.bias, self.activation)  # what can be copied and written

    def _apply(self, fn: Any, recurse: bool = True) -> "OneDNN":
        self.__init__(fn(self.weight), None if self.bias is None else fn(self.bias), self.activation)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        pass  # the layers do


class Int8(nn.Module):
    """A linear map of whole numbers of 8 bits: weights scaled by output, and inputs scaled by token.

    A token's inputs may lie anywhere: they are rounded as steps from the middle of their range, which is not rounded.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.scale = (weight.abs().amax(dim=1).float() / 127).clamp(min=TINY)
        rounded = (weight.float() / self.scale[:, None]).round().to(torch.int8)
        self.sums = rounded.sum(dim=1) * self.scale
        self.bias = None if bias is None else bias.float()
        self.packed: Any = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, (..., in) to (..., out)."""
        rows = x.flatten(0, -2)
        out = x.new_empty(len(rows), len(self.scale))
        for some, into in zip(rows.split(AT_ONCE), out.split(AT_ONCE), strict=True):
            into.copy_(self.rounded(some.float()))
        return out.unflatten(0, x.shape[:-1])

    def rounded(self, rows: Tensor) -> Tensor:
        """Multiply rows, (N, in) to (N, out), after rounding them."""
        whole = torch.ops.quantized.embedding_bag_byte_prepack(rows)  # a row's steps from its lowest number on
        step, low = whole[:, -8:].clone().flatten().view(torch.float32).view(-1, 2).split(1, dim=1)
        step = step + rows.sum(dim=-1, keepdim=True) * 0  # rounding hides what is not a number
        middle = torch.add(low, step, alpha=128)
        out = middle * self.sums if self.bias is None else torch.addcmul(self.bias, middle, self.sums)
        return out.addcmul_(self.multiply(whole[:, :-8]), step)

    def __getstate__(self) -> dict[str, Any]:
        packed = None if self.packed is None else self.packed.to_dense().t()  # what can be copied and written
        return self.__dict__ | {"packed": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.packed is not None:
            self.packed = torch.ops.onednn.qlinear_prepack(self.packed.contiguous(), None)

    def _apply(self, fn: Any, recurse: bool = True) -> "Int8":
        if fn(torch.empty(0)).device.type != "cpu":
            raise InputError("A model rounded to 8 bits runs on the CPU; call restore(model) before it is moved.")
        return self

    def multiply(self, rows: Tensor) -> Tensor:
        """Multiply rows of whole numbers from 0 to 255, after taking 128 away."""
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )


class Int8Weight(Int8):
    """A linear map of weights of 8 bits, scaled by output; inputs have 16.

    A large one rounds inputs to 8 bits, what that leaves to 8 bits again, and multiplies both at once: while few tokens
    are read, it is reading the weights that takes the time. For small ones, there are kernels that take bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__(weight, bias)
        self.few: Any  # Tensor | None
        self.register_buffer("few", None, persistent=False)
        self.many: OneDNN | None = None
        if weight.numel() <= SMALL and weight.shape[0] % 16 == 0 and weight.shape[1] % 64 == 0:  # else it reads beyond
            self.few = few = self.packed.to_dense().t().contiguous()
            self.many = OneDNN((few * self.scale[:, None]).bfloat16(), None if bias is None else bias.bfloat16())
            self.packed = None  # they do it all

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, (..., in) to (..., out)."""
        rows = x.flatten(0, -2)
        if self.few is None or self.many is None:
            out = self.twice(rows.float())
        elif len(rows) > FEW:
            out = self.many.forward(rows.bfloat16())
        else:
            out = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.few, self.scale.to(torch.bfloat16))
            out = out if self.many.bias is None else out + self.many.bias
        return out.to(x.dtype).unflatten(0, x.shape[:-1])

    def traced(self, x: Tensor, part: slice) -> Tensor:
        """Multiply, (..., in) to (..., part of out), so that a compiler can look into it."""
        few, scale, rows = self.few[part], self.scale[part], x.flatten(0, -2)
        if len(rows) <= FEW and len(few) % 16 == 0:
            out = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), few, scale.bfloat16())
        else:
            out = F.linear(rows.bfloat16(), (few * scale[:, None]).bfloat16())
        out = out if self.bias is None else out + self.bias[part]
        return out.to(x.dtype).unflatten(0, x.shape[:-1])

    def twice(self, rows: Tensor) -> Tensor:
        """Multiply what inputs are rounded to, and what that leaves."""
        step = rows.abs().amax(dim=-1, keepdim=True).div_(127).clamp_(min=TINY)
        rows = rows / step
        near = rows.round()
        whole = torch.cat([near, (rows - near).mul_(254)]).add_(128.5).to(torch.uint8)  # which cuts off
        near, rest = self.multiply(whole).chunk(2)
        out = torch.add(near, rest, alpha=1 / 254)
        return out.mul_(step) if self.bias is None else torch.addcmul(self.bias, out, step)
