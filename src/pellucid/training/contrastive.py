"""Learning of embeddings: texts of like meaning are to have vectors of like direction.

Papers: Reimers and Gurevych, 2019, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
https://arxiv.org/abs/1908.10084; the losses name theirs.

Shapes: B rows, C texts a row (an anchor, a positive, perhaps a negative), T tokens, E hidden.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..pipelines.embedding import POOLING
from ..pipelines.sentence_folder import Normalize, Part, SentenceFolder
from .predictions import EvalPrediction
from .trainer import Trainer

SCALE = 20.0  # of cosines, as logits
MARGIN = 0.5  # the distance beyond which two texts are unlike enough
ROWS = 1024  # anchors that are compared with all candidates at once


def new_sentence_folder(size: int, limit: int) -> SentenceFolder:
    """Return the modules of an encoder that has none: the mean over tokens, brought to length 1.

    Args:
        size: of the hidden states.
        limit: tokens of a text at most.
    """
    pooling = {"word_embedding_dimension": size, "pooling_mode_mean_tokens": True}
    parts = (
        Part("Transformer", ""),
        Part("Pooling", "1_Pooling", pooling),
        Part("Normalize", "2_Normalize", module=Normalize()),
    )
    return SentenceFolder(parts, {"max_seq_length": limit, "do_lower_case": False}, {"similarity_fn_name": "cosine"})


def pool(hidden: Tensor, mask: Tensor, modes: tuple[str, ...]) -> Tensor:
    """Make a vector of each text: of a mean, (N, E).

    Args:
        hidden: states of padded texts, (N, T, E).
        mask: 1 on their tokens, (N, T).
        modes: names in `POOLING`, whose vectors are joined.
    """
    if modes == ("mean",):
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    texts = [x[row.bool()] for x, row in zip(hidden, mask, strict=True)]
    places = [torch.arange(1, len(x) + 1, device=x.device)[:, None] for x in texts]
    pooled = zip(texts, places, strict=True)
    return torch.stack([torch.cat([POOLING[mode](x, place) for mode in modes]) for x, place in pooled])


def rivals(anchors: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
    """Tell which candidates are wrong for which anchors: all but an anchor's own text and its positives, (N, M).

    Args:
        anchors: the numbers of their texts, (N,); equal texts have equal numbers.
        rows: the numbers of the texts of all rows, which say what is right, (B, C).
        numbers: of the candidates, (M,).
    """
    right: defaultdict[int, set[int]] = defaultdict(set)
    for anchor, positive, *_ in rows.tolist():
        right[anchor] |= {anchor, positive}
    known = [torch.tensor([*right[anchor]], device=numbers.device) for anchor in anchors.tolist()]
    return ~torch.stack([torch.isin(numbers, texts) for texts in known])


def ranking_loss(vectors: Tensor, numbers: Tensor) -> Tensor:
    """The mean cross-entropy of each anchor's positive among all other positives and negatives of the batch.

    Paper: Henderson et al., 2017, "Efficient Natural Language Response Suggestion for Smart Reply",
    https://arxiv.org/abs/1705.00652, section 4.4

    Args:
        vectors: (B, C, E).
        numbers: of the texts, (B, C); a candidate that is right for an anchor is no negative of it.
    """
    vectors = F.normalize(vectors, dim=-1)
    candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)  # (M, E): the positives come first
    scores = vectors[:, 0] @ candidates.T * SCALE
    wrong = rivals(numbers[:, 0], numbers, numbers[:, 1:].T.flatten())
    own = torch.arange(len(scores), device=scores.device)
    wrong[own, own] = True  # the row's own positive stays among the scores
    return F.cross_entropy(scores.masked_fill(~wrong, -torch.inf), own)


def similarity_loss(vectors: Tensor, scores: Tensor) -> Tensor:
    """The mean squared difference between the cosines of pairs, (B, 2, E), and their scores, (B,): Sentence-BERT."""
    return F.mse_loss(F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1), scores)


def contrastive_loss(vectors: Tensor, alike: Tensor) -> Tensor:
    """Half the mean square of the distance of pairs that are alike, and of what others lack to a margin.

    The distance is 1 - cosine. Paper: Hadsell, Chopra and LeCun, 2006, "Dimensionality Reduction by Learning an
    Invariant Mapping", https://doi.org/10.1109/CVPR.2006.100

    Args:
        vectors: (B, 2, E).
        alike: 1 or 0, (B,).
    """
    distance = 1 - F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1)
    return 0.5 * (alike * distance**2 + (1 - alike) * F.relu(MARGIN - distance) ** 2).mean()


class ContrastiveTrainer(Trainer):
    """Trains a backbone to embed texts.

    A batch holds `input_ids`, (B, C, T), and `labels`: the numbers of its texts, (B, C), or a score of each pair, (B,).
    A step's loss is the mean over its rows, as always; but the wrong answers that a row is compared with are those of
    its own batch, on its own process. So four accumulated batches of 16 rows are not one of 64.

    Args:
        model: the backbone.
        args: how to train.
        sentence: what makes a vector of a text; its learned layers are used as they are.
        is_binary: whether scores are 0 or 1.
        more: further arguments of `Trainer`.

    Raises:
        InputError: for settings that can not be used here.
    """

    def __init__(self, model: nn.Module, args: Any, *more: Any, sentence: SentenceFolder, is_binary: bool, **rest: Any):
        if args.label_smoothing_factor or args.class_weights is not None:
            raise InputError("label_smoothing_factor and class_weights are for labels that are classes.")
        args.label_names = ["labels"]
        if isinstance(pooler := getattr(model, "pooler", None), nn.Module):
            pooler.requires_grad_(False)  # which pools in its own way, and is not asked
        super().__init__(model, args, *more, **rest)
        self.sentence, self.is_binary = sentence, is_binary
        self.after = sentence.after.to(self.world.device).requires_grad_(False)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, and with `return_outputs` the vectors, (B, C, E)."""
        inputs, labels = dict(inputs), inputs["labels"]
        rows, texts = inputs["input_ids"].shape[:2]
        vectors = self.embed(model, {name: x.flatten(0, 1) for name, x in inputs.items() if name != "labels"})
        vectors = vectors.unflatten(0, (rows, texts)).float()
        if not labels.is_floating_point():
            loss = ranking_loss(vectors, labels)
        else:
            loss = (contrastive_loss if self.is_binary else similarity_loss)(vectors, labels)
        return (loss, {"vectors": vectors}) if return_outputs else loss

    def embed(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors of padded texts, (N, E)."""
        options: dict[str, Any] = {"use_cache": False} if "cache" in getattr(self.model, "accepts", ()) else {}
        hidden = model(**inputs, **options)["last_hidden_state"]
        return self.after(pool(hidden, inputs["attention_mask"], self.sentence.modes))


# --- how good vectors are ---------------------------------------------------------------------------------------------


def retrieval(found: EvalPrediction) -> dict[str, float]:
    """Measure how high among all candidates each anchor's positive ranks; one that is no nearer than another is behind.

    Args:
        found: vectors, (N, C, E), and the numbers of the texts, (N, C).

    Returns:
        `accuracy@1`, the share of anchors whose positive is the nearest; and `mrr`, the mean of 1 / rank.
    """
    vectors, rows = F.normalize(torch.from_numpy(found.predictions), dim=-1), torch.from_numpy(found.label_ids)
    numbers, candidates = rows[:, 1:].flatten(), vectors[:, 1:].flatten(0, 1)
    _, inverse = numbers.unique(return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(numbers)).scatter_reduce(
        0, inverse, torch.arange(len(numbers)), "amin"
    )
    numbers, candidates = numbers[first], candidates[first]  # each text once
    ranks = []
    for part, own in zip(rows.split(ROWS), vectors.split(ROWS), strict=True):
        scores, right = own[:, 0] @ candidates.T, (own[:, 0] * own[:, 1]).sum(-1, keepdim=True)
        ranks.append(1 + ((scores >= right) & rivals(part[:, 0], rows, numbers)).sum(-1))
    rank = torch.cat(ranks).float()
    return {"accuracy@1": float((rank == 1).float().mean()), "mrr": float((1 / rank).mean())}


def rank_correlation(found: EvalPrediction) -> dict[str, float]:
    """Return `spearman`: how alike pairs are ordered by their cosines and by their scores, from -1 to 1.

    Args:
        found: vectors, (N, 2, E), and scores, (N,).
    """
    vectors, scores = torch.from_numpy(found.predictions), torch.from_numpy(found.label_ids)
    cosines = F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1)
    ranks = torch.stack([_ranks(cosines), _ranks(scores)])
    ranks = ranks - ranks.mean(-1, keepdim=True)
    spread = ranks.norm(dim=-1).prod()
    return {"spearman": float((ranks[0] * ranks[1]).sum() / spread) if spread else 0.0}


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, (N,); equal ones share the mean of theirs."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[place]
