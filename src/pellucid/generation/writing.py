"""Writing token by token: the same whether the whole is wanted at the end or every token as it comes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import InputError
from ..generation_config import GenerationConfig
from ..model import Model
from .contrastive import contrastive_search
from .decoding import Rows, Step, decode
from .processors import Processor
from .reader import Guidance, Reader
from .request import Request, prepare
from .speculative import Draft, decode_ahead, draft_of
from .stopping import Criterion
from .structured import KINDS, Constraint

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

# Models that write now: what was in training mode, and for how many writers it is not.
_evaluated: dict[Model, tuple[list[nn.Module], int]] = {}
_lock = Lock()


class Writing:
    """A request as it is written, step by step, on demand.

    Attributes:
        request: what is to be written.
        rows: what each row has.
        reader: the model and its cache.
    """

    def __init__(self, request: Request, draft: Draft | None):
        self.request, self.draft = request, draft
        self.rows, self.reader = Rows(request), Reader(request, **wanted_of(request))

    def steps(self) -> Iterator[Step]:
        """Write; nothing runs between two steps."""
        if self.draft is not None:
            yield from decode_ahead(self.request, self.rows, self.reader, self.draft)
        else:
            search = decode if self.request.config.penalty_alpha is None else contrastive_search
            yield from search(self.request, self.rows, self.reader)
        self.request.check(self.rows.history[:, -self.rows.count :])


def begin(
    model: Model,
    inputs: Tensor | None,
    *,
    generation_config: GenerationConfig | None = None,
    tokenizer: "Tokenizer | None" = None,
    logits_processor: Sequence[Processor] | None = None,
    stopping_criteria: Sequence[Criterion] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    assistant_model: Model | None = None,
    negative_prompt_ids: Tensor | None = None,
    seed: int | None = None,
    **options: Any,
) -> tuple[Request, Draft | None]:
    """Check all that `generate` is asked for; return the request, and who guesses ahead.

    Raises:
        InputError: for settings that are impossible or contradict each other, and prompts that do not fit.
        ArgumentError: for a keyword that is neither a setting nor an input of the model.
    """
    form = {kind: options.pop(kind) for kind in KINDS if kind in options}
    form = {kind: value for kind, value in form.items() if value is not None}
    request = prepare(
        model,
        inputs,
        generation_config,
        options,
        tokenizer=tokenizer,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        seed=seed,
        ahead=assistant_model is not None,
    )
    _guide(request, negative_prompt_ids)
    if form:
        eos, prompt = request.config.eos_ids, request.given.shape[1]
        request.constraint = Constraint(form, tokenizer, model.config.vocab_size, eos, prompt)
        request.processors.append(request.constraint)
    draft = draft_of(request, assistant_model)
    if sum([request.says("num_beams") > 1, draft is not None, request.config.penalty_alpha is not None]) > 1:
        raise InputError("num_beams, penalty_alpha and guessing ahead can not be combined; choose one of them.")
    return request, draft


def _guide(request: Request, negative: Tensor | None) -> None:
    """Put guidance before all processors, if it is asked for."""
    scale = request.config.guidance_scale
    if negative is not None and scale in (None, 1):
        raise InputError("negative_prompt_ids would do nothing without a guidance_scale above 1.")
    if scale in (None, 1):
        return
    if request.model.source_stack:
        raise InputError("guidance_scale is for models without an encoder.")
    if request.says("num_beams") > 1:
        raise InputError("guidance_scale is for texts that are written token by token; leave num_beams out.")
    request.processors.insert(0, Guidance(request, negative))


def wanted_of(request: Request) -> dict[str, bool]:
    """Return what the model has to record in each step."""
    return {name: True for name in ("output_attentions", "output_hidden_states") if request.says(name)}


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Turn dropout off inside the block, and on again where it was when the last of all threads leaves it."""
    with _lock:
        trained, writers = _evaluated.get(model, ([part for part in model.modules() if part.training], 0))
        _evaluated[model] = trained, writers + 1
        for part in trained:
            part.training = False
    try:
        yield
    finally:
        with _lock:
            trained, writers = _evaluated.pop(model)
            if writers > 1:
                _evaluated[model] = trained, writers - 1
            else:
                for part in trained:
                    part.training = True
