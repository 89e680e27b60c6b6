"""Load, run, train and save any Transformer checkpoint: small, strict, fast, readable.

```python
from pellucid import pipeline

pipeline("sentiment-analysis", model="pellucid/sentiment")("We are very happy.")
```

Names are imported on first use: `import pellucid` loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .adapters import PeftModel as PeftModel
    from .adapters import get_peft_model as get_peft_model
    from .auto import AutoConfig as AutoConfig
    from .auto import AutoModel as AutoModel
    from .auto import AutoModelForCausalLM as AutoModelForCausalLM
    from .auto import AutoModelForMaskedLM as AutoModelForMaskedLM
    from .auto import AutoModelForMultipleChoice as AutoModelForMultipleChoice
    from .auto import AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction
    from .auto import AutoModelForPreTraining as AutoModelForPreTraining
    from .auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from .auto import AutoModelForSeq2SeqLM as AutoModelForSeq2SeqLM
    from .auto import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from .auto import AutoModelForTextEncoding as AutoModelForTextEncoding
    from .auto import AutoModelForTokenClassification as AutoModelForTokenClassification
    from .cache import Cache as Cache
    from .config import Config as Config
    from .errors import PellucidError as PellucidError
    from .generation import TextIteratorStreamer as TextIteratorStreamer
    from .generation import TextStreamer as TextStreamer
    from .generation import generate as generate
    from .generation import stream as stream
    from .generation_config import GenerationConfig as GenerationConfig
    from .layout import Layout as Layout
    from .lora import LoraConfig as LoraConfig
    from .model import Model as Model
    from .outputs import ModelOutput as ModelOutput
    from .pipelines import pipeline as pipeline
    from .tokenizer import AutoTokenizer as AutoTokenizer
    from .tokenizer import BatchEncoding as BatchEncoding
    from .tokenizer import Tokenizer as Tokenizer
    from .training.arguments import TrainingArguments as TrainingArguments
    from .training.callbacks import EarlyStoppingCallback as EarlyStoppingCallback
    from .training.callbacks import PrinterCallback as PrinterCallback
    from .training.callbacks import ProgressCallback as ProgressCallback
    from .training.callbacks import TrainerCallback as TrainerCallback
    from .training.callbacks import TrainerControl as TrainerControl
    from .training.callbacks import TrainerState as TrainerState
    from .training.collators import DataCollatorForLanguageModeling as DataCollatorForLanguageModeling
    from .training.collators import DataCollatorForMultipleChoice as DataCollatorForMultipleChoice
    from .training.collators import DataCollatorForSeq2Seq as DataCollatorForSeq2Seq
    from .training.collators import DataCollatorForTokenClassification as DataCollatorForTokenClassification
    from .training.collators import DataCollatorForWholeWordMask as DataCollatorForWholeWordMask
    from .training.collators import DataCollatorWithFlattening as DataCollatorWithFlattening
    from .training.collators import DataCollatorWithPadding as DataCollatorWithPadding
    from .training.collators import DefaultDataCollator as DefaultDataCollator
    from .training.collators import default_data_collator as default_data_collator
    from .training.predictions import EvalPrediction as EvalPrediction
    from .training.run import train as train
    from .training.schedules import get_scheduler as get_scheduler
    from .training.seeds import set_seed as set_seed
    from .training.seq2seq import Seq2SeqTrainer as Seq2SeqTrainer
    from .training.seq2seq import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from .training.trainer import Trainer as Trainer

HOME = {
    "AutoConfig": "auto",
    "AutoModel": "auto",
    "AutoModelForCausalLM": "auto",
    "AutoModelForMaskedLM": "auto",
    "AutoModelForMultipleChoice": "auto",
    "AutoModelForNextSentencePrediction": "auto",
    "AutoModelForPreTraining": "auto",
    "AutoModelForQuestionAnswering": "auto",
    "AutoModelForSeq2SeqLM": "auto",
    "AutoModelForSequenceClassification": "auto",
    "AutoModelForTextEncoding": "auto",
    "AutoModelForTokenClassification": "auto",
    "AutoTokenizer": "tokenizer",
    "BatchEncoding": "tokenizer",
    "Cache": "cache",
    "Config": "config",
    "DataCollatorForLanguageModeling": "training.collators",
    "DataCollatorForMultipleChoice": "training.collators",
    "DataCollatorForSeq2Seq": "training.collators",
    "DataCollatorForTokenClassification": "training.collators",
    "DataCollatorForWholeWordMask": "training.collators",
    "DataCollatorWithFlattening": "training.collators",
    "DataCollatorWithPadding": "training.collators",
    "DefaultDataCollator": "training.collators",
    "EarlyStoppingCallback": "training.callbacks",
    "EvalPrediction": "training.predictions",
    "GenerationConfig": "generation_config",
    "Layout": "layout",
    "LoraConfig": "lora",
    "Model": "model",
    "ModelOutput": "outputs",
    "PeftModel": "adapters",
    "PellucidError": "errors",
    "PrinterCallback": "training.callbacks",
    "ProgressCallback": "training.callbacks",
    "Seq2SeqTrainer": "training.seq2seq",
    "Seq2SeqTrainingArguments": "training.seq2seq",
    "TextIteratorStreamer": "generation",
    "TextStreamer": "generation",
    "Tokenizer": "tokenizer",
    "Trainer": "training.trainer",
    "TrainerCallback": "training.callbacks",
    "TrainerControl": "training.callbacks",
    "TrainerState": "training.callbacks",
    "TrainingArguments": "training.arguments",
    "default_data_collator": "training.collators",
    "generate": "generation",
    "get_peft_model": "adapters",
    "get_scheduler": "training.schedules",
    "pipeline": "pipelines",
    "set_seed": "training.seeds",
    "stream": "generation",
    "train": "training.run",
}

__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    """Find a public name; a class such as BertModel or BertTokenizer by the file it lives in."""
    value, known = None, list(HOME)
    if name in HOME:
        value = getattr(import_module(f".{HOME[name]}", __name__), name)
    elif not name[0].isupper():
        raise AttributeError(f"pellucid has no {name!r}.")  # a submodule, which Python then imports
    elif name.endswith(("Tokenizer", "TokenizerFast")):
        value = import_module(".tokenizer", __name__).tokenizer_class(name)
    elif name.startswith(("Flax", "TF")):
        value = import_module(".auto", __name__).class_in(name)
    else:
        auto = import_module(".auto", __name__)
        architecture = auto.architecture_of_class(name)
        classes = vars(auto.module_of(architecture)) if architecture else {}
        value, known = classes.get(name), [*HOME, *classes]
    if value is None:
        from .errors import did_you_mean

        raise AttributeError(f"pellucid has no {name!r}{did_you_mean(name, known) or '.'}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
