"""`Bridge`: a model of another framework, as pipelines, whose tensors are PyTorch's, run it."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..errors import InputError
from ..foreign import FRAMEWORKS, dtype_named, to_torch
from ..generation_config import GenerationConfig
from ..layout import Layout
from ..model import Model
from ..outputs import ModelOutput

if TYPE_CHECKING:
    from ..generation.output import GenerateOutput

SMALLEST = 16  # tokens that programs are compiled for


class Bridge:
    """A model of Flax or Keras behind the door of a PyTorch one.

    Batches are filled up to sizes that are powers of two, since each size is a program of its own to be compiled.

    Args:
        model: with `run`, `write` and `twin`, as a `FlaxModel`.
    """

    def __init__(self, model: Any):
        self.model = model
        self.twin: type[Model] = model.twin()
        self.config: Config = model.config
        self.generation_config: GenerationConfig = model.generation_config
        self.accepts: tuple[str, ...] = model.accepts
        self.source_stack: str = self.twin.source_stack
        self.device = torch.device("cpu")  # of what comes and goes

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return dtype_named(str(self.model.dtype))

    def __call__(
        self, *, attention_mask: Tensor | Layout, output_hidden_states: bool = False, **inputs: Tensor
    ) -> ModelOutput:
        """Run a batch, packed or padded; the result is padded, and without hidden states, whoever asks for them."""
        if isinstance(attention_mask, Layout):
            layout = attention_mask
            inputs = {name: layout.unpack(tensor)[0] for name, tensor in inputs.items()}
            attention_mask = layout.unpack(torch.ones_like(layout.positions))[0]
        rows, length = attention_mask.shape
        wide = max(SMALLEST, 1 << (length - 1).bit_length())
        limit = self.config.max_tokens
        wide = wide if limit is None else max(length, min(wide, limit))
        full = (0, wide - length, 0, (1 << (rows - 1).bit_length()) - rows)
        inputs = {"attention_mask": attention_mask, **inputs}
        arrays = {name: torch.nn.functional.pad(tensor, full).int().numpy() for name, tensor in inputs.items()}
        arrays["attention_mask"][rows:, 0] = 1  # a row of padding alone would have no first token
        if self.twin.__name__.endswith("ForMultipleChoice"):  # a row is a question of one choice: only scores are asked
            arrays = {name: array[:, None] for name, array in arrays.items()}
        output = self.model.run(**arrays)
        parts = {name: to_torch(part)[:rows] for name, part in output.items() if hasattr(part, "shape")}
        of_tokens = [name for name, part in parts.items() if part.dim() == 3 or name in ("start_logits", "end_logits")]
        cut = {name: part[:, :length] if name in of_tokens else part for name, part in parts.items()}
        return type(output)(**cut)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        tokenizer: Any = None,
        return_dict_in_generate: bool = True,
        **settings: Any,
    ) -> "GenerateOutput":
        """Continue prompts, by the settings that the framework's loop knows; others raise."""
        from ..generation.output import GenerateOutput

        mask = None if attention_mask is None else attention_mask.numpy()
        ids, counts = self.model.write(input_ids.numpy(), mask, **settings)
        return GenerateOutput(sequences=to_torch(np.asarray(ids)).long(), written=tuple(np.asarray(counts).tolist()))

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write the model into a folder."""
        self.model.save_pretrained(path)


def check_framework(framework: str | None, **unknown: Any) -> str:
    """Return the framework that is asked for, and refuse what is PyTorch's alone.

    Raises:
        InputError: naming the frameworks, or what can not be told to another one.
    """
    framework = framework or "pt"
    if framework not in ("pt", *FRAMEWORKS):
        raise InputError(f"framework is {framework!r}; expected 'pt', {' or '.join(map(repr, FRAMEWORKS))}.")
    if framework != "pt" and (told := [f"{name}={value!r}" for name, value in unknown.items() if value is not None]):
        raise InputError(f"{', '.join(told)} is for PyTorch; framework={framework!r} decides that by itself.")
    return framework
