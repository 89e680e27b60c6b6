"""What `generate` returns when asked for more than ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..outputs import Seq2Seq


@dataclass(kw_only=True)
class GenerateOutput(Seq2Seq):
    """Ids, and what was asked for.

    R is the number of prompts times `num_return_sequences`; with beams, scores and what is recorded have a row for each
    beam.

    Attributes:
        sequences: (R, L), prompts and what was written; padded on the right.
        sequences_scores: (R,), the scores by which beams were ranked.
        scores: for each step (rows, V), as they were chosen by.
        logits: for each step (rows, V), as the model gave them.
        beam_indices: (R, L), the beam from which each token came; -1 after the end.
        past_key_values: the cache of all that was read.
        hidden_states: for each step those of every layer; likewise `decoder_hidden_states`.
        attentions: for each step those of every layer; likewise `decoder_attentions` and `cross_attentions`.
        finish_reason: for each row "stop", at an end token or where a criterion ended it, such as `max_time`, or
            "length".
        written: for each row how many tokens were written; the rest of it is padding.
    """

    sequences: Tensor
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    finish_reason: tuple[str, ...] | None = None
    written: tuple[int, ...] | None = None


def transition_scores(
    sequences: Tensor, scores: Sequence[Tensor], beam_indices: Tensor | None = None, *, normalize_logits: bool = False
) -> Tensor:
    """Return the score of each token that was written, (R, n), as it was chosen by; 0 after a beam's end.

    Args:
        sequences: (R, L), of a `GenerateOutput`, as the others.
        scores: (rows, V) for each step.
        beam_indices: (R, n), with beams.
        normalize_logits: whether to turn scores into log-probabilities.
    """
    rows = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, len(scores))
    rows = rows if beam_indices is None else beam_indices
    found = []
    for row, tokens, step in zip(rows.T, sequences[:, sequences.shape[1] - rows.shape[1] :].T, scores, strict=False):
        chosen = (step.log_softmax(dim=-1) if normalize_logits else step)[row.clamp(min=0), tokens]
        found.append(chosen.masked_fill(row < 0, 0.0))
    return torch.stack(found, dim=1)
