"""`generate`: the front door of writing."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..generation_config import GenerationConfig
from ..model import Model
from .beams import beam_search
from .output import GenerateOutput
from .processors import Processor
from .reader import Reader
from .request import Request
from .stopping import Criterion
from .streamers import TextIteratorStreamer
from .writing import Writing, begin, evaluating, wanted_of

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer


@torch.no_grad()
def generate(
    model: Model,
    inputs: Tensor | None = None,
    *,
    generation_config: GenerationConfig | None = None,
    tokenizer: "Tokenizer | None" = None,
    logits_processor: Sequence[Processor] | None = None,
    stopping_criteria: Sequence[Criterion] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    assistant_model: Model | None = None,
    streamer: Any = None,
    negative_prompt_ids: Tensor | None = None,
    seed: int | None = None,
    **options: Any,
) -> Any:
    """Continue prompts.

    What counts, in this order: `options`, `generation_config`, the model's own generation_config.json, and defaults. A
    prompt's answer is the same alone and in any batch, padded on either side.

    Args:
        model: that predicts the next token.
        inputs: the prompts' ids, (B, P); also as `input_ids`.
        generation_config: settings.
        tokenizer: for `stop_strings`.
        logits_processor: calls `(ids, scores) -> scores` that change scores, (R, V), before a token is chosen.
        stopping_criteria: calls `(ids, scores) -> bool or (R,)` that end rows.
        prefix_allowed_tokens_fn: `(row of the batch, ids so far) -> ids` that may come next.
        assistant_model: a smaller model of the same vocabulary that guesses ahead; the answer does not change.
        streamer: an object whose `put` gets the prompt and then each token, and whose `end` is called at the end.
        negative_prompt_ids: what `guidance_scale` moves away from; by default the prompt's last token alone.
        seed: of the random numbers of this call; without, torch's own go on.
        options: settings, see `GenerationConfig`, where None takes back what a file says; inputs of the model:
            `attention_mask`, `inputs_embeds`, `past_key_values`, a cache from which the tokens that a prompt begins
            with are not read again, ...; and, with a tokenizer, the form that the text must have: `schema`, a JSON
            schema, pydantic model or dataclass, `regex`, `choices`, a list of texts, or `grammar`, in the notation of
            Lark.

    Returns:
        Ids, (B num_return_sequences, L): prompts and what was written, padded on the right; or a `GenerateOutput` with
        `return_dict_in_generate=True`.

    Raises:
        InputError: for settings that are impossible or contradict each other, and prompts that do not fit.
        ArgumentError: for a keyword that is neither a setting nor an input of the model.
        NonFiniteError: if the model's scores are NaN or infinite.
    """
    try:
        request, draft = begin(
            model,
            inputs,
            generation_config=generation_config,
            tokenizer=tokenizer,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            negative_prompt_ids=negative_prompt_ids,
            seed=seed,
            **options,
        )
        if streamer is not None and len(request.given) * request.rows != 1:
            what = "beams" if request.says("num_beams") > 1 else "texts"
            raise InputError(f"A streamer shows one text; there are {len(request.given) * request.rows} {what}.")
        with evaluating(model):
            output = _search(request) if request.says("num_beams") > 1 else _write(Writing(request, draft), streamer)
    except BaseException as error:
        if isinstance(streamer, TextIteratorStreamer):
            streamer.fail(error)  # or its reader would wait for ever
        raise
    return output if request.says("return_dict_in_generate") else output.sequences


STEPWISE = ("hidden_states", "attentions", "decoder_hidden_states", "decoder_attentions", "cross_attentions")
ONCE = ("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions")


def _write(writing: Writing, streamer: Any) -> GenerateOutput:
    """Write token by token."""
    request, rows = writing.request, writing.rows
    if streamer is not None:
        streamer.put(request.given.cpu())
    kept = any(request.says(f"output_{name}") for name in ("scores", "logits", "attentions", "hidden_states"))
    steps = []
    for step in writing.steps():
        if streamer is not None:
            streamer.put(step.tokens.cpu())
        if kept or not steps:
            steps.append((step.logits, step.scores, step.output))
    if streamer is not None:
        streamer.end()
    return GenerateOutput(
        sequences=rows.text,
        past_key_values=writing.reader.cache,
        finish_reason=tuple(rows.reasons),
        written=tuple(rows.written.tolist()),
        **_recorded(request, steps),
    )


def _recorded(request: Request, steps: Sequence[tuple[Tensor, Tensor, Any]]) -> dict[str, Any]:
    """Return what was asked for of each step."""
    logits, scores, outputs = zip(*steps, strict=True)
    found: dict[str, Any] = {name: tuple(out.get(name) for out in outputs) for name in STEPWISE}
    found = {name: layers for name, layers in found.items() if layers[0] is not None}
    found |= {name: outputs[0].get(name) for name in ONCE}
    found |= {"logits": logits} if request.says("output_logits") else {}
    return found | ({"scores": scores} if request.says("output_scores") else {})


def _search(request: Request) -> GenerateOutput:
    """Write with beams."""
    reader = Reader(request, **wanted_of(request))
    found = beam_search(request, reader)
    rows = found.tokens.flatten(0, 1)
    given = request.given.repeat_interleave(found.tokens.shape[1], dim=0)
    eos = torch.tensor(request.config.eos_ids, device=rows.device)
    full = request.room.repeat_interleave(found.tokens.shape[1])
    own = found.parents.flatten(0, 1) >= 0
    request.check(torch.where(own, rows, -1))
    written = own.sum(dim=1)
    ended = torch.isin(rows, eos).any(dim=1) | (written < full)
    return GenerateOutput(
        sequences=torch.cat([given, rows], dim=1),
        sequences_scores=found.scores.flatten(),
        beam_indices=found.parents.flatten(0, 1),
        past_key_values=reader.cache,
        finish_reason=tuple("stop" if stop else "length" for stop in ended.tolist()),
        written=tuple(written.tolist()),
        **_recorded(request, found.steps),
    )
