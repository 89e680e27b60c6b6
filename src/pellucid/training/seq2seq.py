"""`Seq2SeqTrainer`: evaluates models that write by what they write."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..generation_config import GenerationConfig
from .arguments import TrainingArguments
from .distributed import unwrapped
from .evaluator import Evaluator
from .predictions import PredictionOutput
from .trainer import Trainer

READ = ("input_ids", "attention_mask", "inputs_embeds", "position_ids", "token_type_ids")  # what a text is written from


class Seq2SeqTrainingArguments(TrainingArguments):
    """How to train a model that reads one text and writes another.

    Attributes:
        predict_with_generate: whether predictions are what the model writes instead of scores.
        generation_max_length: tokens of a prediction, by default as the model's generation_config says.
        generation_num_beams: how many beams write it.
        generation_config: further settings.
        sortish_sampler: whether to bring texts of similar lengths together, as `group_by_length` does.
    """

    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    generation_config: GenerationConfig | None = None
    sortish_sampler: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.sortish_sampler:
            self.train_sampling_strategy = "group_by_length"
        super().__post_init__()


class Seq2SeqTrainer(Trainer):
    """Trains as `Trainer` does; with `predict_with_generate`, predictions are the tokens that the model writes.

    What differs in length is filled up with the padding token, and labels with -100.
    """

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **settings: Any,
    ) -> dict[str, float]:
        """Evaluate; `settings` are those of `generate`, such as `max_length` and `num_beams`, for this once."""
        self._settings = settings
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test", **settings: Any
    ) -> PredictionOutput:
        """Predict; `settings` are those of `generate`, such as `max_length` and `num_beams`, for this once."""
        self._settings = settings
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    _settings: Mapping[str, Any] = {}
    args: Any

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the mean loss, what the model writes, and the labels of a batch."""
        writes = self.args.predict_with_generate and not prediction_loss_only
        loss, predictions, labels = Evaluator.prediction_step(self, model, inputs, not writes and prediction_loss_only)
        if not writes:
            return loss, predictions, labels
        writer = unwrapped(model)
        if not hasattr(writer, "generate"):
            raise InputError(f"predict_with_generate asks {type(writer).__name__} to write, which it can not.")
        given = {name: value for name, value in inputs.items() if name in READ}
        with torch.no_grad(), self._autocast():
            written = writer.generate(generation_config=self.args.generation_config, **given, **self._generation())
        return loss, written, labels

    def _generation(self) -> dict[str, Any]:
        """Return the settings of the arguments and of this call, which count more."""
        args = self.args
        own = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
        settings = {name: value for name, value in own.items() if value is not None} | dict(self._settings)
        if "max_new_tokens" in settings:
            settings.pop("max_length", None)
        return settings
