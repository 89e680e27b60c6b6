"""Sparse embedding: the words of the vocabulary that a text is about, with weights (SPLADE)."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..hub import HubOptions
from ..outputs import ModelOutput
from .base import Pipeline, check_count, token_rows
from .sentence_folder import read_sentence_folder
from .windows import Piece, cut, tokenize


class SparseEmbeddingPipeline(Pipeline):
    """Weighs the words of the vocabulary by how much a text is about them: `{word: weight}`, heaviest first.

    A word's weight is log(1 + x), with x the largest score that a masked language model gives it at any token, or 0.
    Words of weight 0, nearly all, are left out. Of a text of any length, all overlapping windows count.

    Paper: Formal et al., 2021, "SPLADE v2", https://arxiv.org/abs/2109.10086

    Options:
        top_k: how many words at most; by default all.
    """

    task = "sparse-embedding"
    options = {"top_k": None}

    def __init__(self, model: Any, tokenizer: Any, *, dampings: int = 1, **options: Any):
        self.dampings = dampings  # how often log(1 + x) is taken
        super().__init__(model, tokenizer, **options)

    @classmethod
    def read_beside(cls, name: str | os.PathLike, hub: HubOptions) -> tuple[dict[str, Any], HubOptions]:
        """Read how a folder of the sentence-transformers library pools."""
        sentence, hub = read_sentence_folder(name, hub)
        config = sentence.pooling.config if sentence else {}
        activation, strategy = config.get("activation_function", "relu"), config.get("pooling_strategy", "max")
        if sentence and (sentence.pooling.kind != "SpladePooling" or len(sentence.parts) > 2):
            raise ConfigError(f"{name} gives dense vectors; run it with pipeline('embedding', ...).")
        if strategy != "max" or activation not in ("relu", "log1p_relu"):
            raise ConfigError(f"{name} pools by {strategy!r} of {activation!r}; only 'max' of 'relu' is implemented.")
        return {"dampings": 2 if activation == "log1p_relu" else 1}, hub

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check the number."""
        settings = super().read_options(defaults, given)
        check_count("top_k", settings["top_k"])
        return settings

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize; cut what is too long into windows."""
        self.check(item, "the input", options)
        limit = self.limit
        return cut(tokenize(self.tokenizer, item), 0, limit=limit, overlap=(limit or 0) // 8)

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[Tensor]:
        """The largest score of each word, (V,), in each piece."""
        return [self.finite(row.amax(0)) for row in token_rows(output["logits"], pieces)]

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> dict[str, float]:
        """Name the words that have a weight."""
        weights = torch.stack(rows).amax(0)[: len(self.tokenizer)].relu()  # (V,)
        for _ in range(self.dampings):
            weights = weights.log1p()
        best = weights.topk(min(int(weights.count_nonzero()), options.get("top_k") or len(weights)))
        words = self.tokenizer.convert_ids_to_tokens(best.indices.tolist())
        return dict(zip(words, best.values.tolist(), strict=True))
