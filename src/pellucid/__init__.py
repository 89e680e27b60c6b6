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
    from .model import Model as Model
    from .outputs import ModelOutput as ModelOutput
    from .pipelines import pipeline as pipeline
    from .tokenizer import AutoTokenizer as AutoTokenizer
    from .tokenizer import BatchEncoding as BatchEncoding
    from .tokenizer import Tokenizer as Tokenizer

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
    "AutoModelForTokenClassification": "auto",
    "AutoTokenizer": "tokenizer",
    "BatchEncoding": "tokenizer",
    "Cache": "cache",
    "Config": "config",
    "GenerationConfig": "generation_config",
    "Layout": "layout",
    "Model": "model",
    "ModelOutput": "outputs",
    "PellucidError": "errors",
    "TextIteratorStreamer": "generation",
    "TextStreamer": "generation",
    "Tokenizer": "tokenizer",
    "generate": "generation",
    "pipeline": "pipelines",
    "stream": "generation",
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
    else:
        auto = import_module(".auto", __name__)
        architecture = auto.architecture_of_class(name)
        classes = vars(auto.module_of(architecture)) if architecture else {}
        value, known = classes.get(name), [*HOME, *classes]
    if value is None:
        from .errors import did_you_mean

        raise AttributeError(f"pellucid has no {name!r}{did_you_mean(name, known)}.")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
