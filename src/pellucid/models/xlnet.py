"""XLNet: an encoder that learned to predict words in any order, with relative positions alone.

Paper: Yang et al., 2019, "XLNet: Generalized Autoregressive Pretraining for Language Understanding",
https://arxiv.org/abs/1906.08237

What sets it apart from BERT:
  - positions are relative: a score has a term for the sinusoid of the distance, as in Transformer-XL
  - segments are relative too: another term tells whether two tokens are of the same text of a pair
  - a second stream can predict tokens that the first one must not see, in any order (`perm_mask`, `target_mapping`)
  - [CLS] is the last token of a text, so the vector of a text is that of its last token

Memories of earlier texts (`mems`) are not kept: every text is read alone. Attention unpacks, as segments and distances
are looked up for all pairs of a text.

Shapes: B batch, C choices, T tokens, M targets, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch
is (1, N) tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
from ..errors import InputError
from ..layout import Layout, pick
from ..model import Model
from ..outputs import BeamSpans, Hidden, Logits, Spans

Given = TypeVar("Given", Tensor, Tensor | None, Tensor | Layout | None)

# twin: bert.ACTIVATIONS
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class XLNetConfig(Config):
    """The configuration of XLNet; the defaults are those of xlnet-large-cased."""

    model_type = "xlnet"
    inert = {
        "attn_type": "bi",
        "bi_data": False,
        "untie_r": True,
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "summary_proj_to_labels": False,
    }
    aliases = {
        "n_token": "vocab_size",
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
    }

    vocab_size: int = 32000
    d_model: int = 1024
    n_layer: int = 24
    n_head: int = 16
    d_head: int | None = None  # what d_model and n_head imply
    d_inner: int = 4096
    ff_activation: str = "gelu"
    dropout: float = 0.1
    clamp_len: int = -1  # the distance from which on all are alike; less than 1 for none
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    summary_type: str = "last"
    summary_use_proj: bool = True
    summary_activation: str | None = "tanh"
    summary_last_dropout: float = 0.1
    mem_len: int | None = 512  # of memories, as the next four; they are not kept, and without them these change nothing
    reuse_len: int | None = None
    same_length: bool = False
    use_mems_eval: bool = True
    use_mems_train: bool = False
    start_n_top: int = 5  # beams over the first tokens of answers, and over the last ones for each of them
    end_n_top: int = 5
    pad_token_id: int | None = 5
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def max_tokens(self) -> None:
        """No limit: positions are relative and not learned."""

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.d_model % self.n_head:
            yield f"d_model ({self.d_model}) is not a multiple of n_head ({self.n_head})"
        if self.d_model % 2:
            yield f"d_model is {self.d_model}; expected an even number, half of it sines and half cosines"
        if self.d_head not in (None, self.d_model // self.n_head):
            yield f"d_head is {self.d_head}; expected {self.d_model // self.n_head}, as d_model and n_head imply"
        if self.ff_activation not in ACTIVATIONS:
            yield f"ff_activation is {self.ff_activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        if self.summary_activation not in (None, *ACTIVATIONS):
            known = ", ".join(ACTIVATIONS)
            yield f"summary_activation is {self.summary_activation!r}; expected one of {known}, or null"
        if min(self.start_n_top, self.end_n_top) < 1:
            yield f"start_n_top and end_n_top are {self.start_n_top} and {self.end_n_top}; expected 1 or more"
        if self.summary_type not in ("last", "first", "mean"):
            yield f"summary_type is {self.summary_type!r}; expected 'last', 'first' or 'mean'"


# twin: bert.classification_loss
def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of one label a text, of several, or of numbers; without `problem_type` the labels' form decides."""
    if problem_type is None:
        single = not labels.is_floating_point()
        problem_type = "regression" if logits.shape[-1] == 1 else "single_label" if single else "multi_label"
    if problem_type == "regression":
        return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
    if problem_type.startswith("multi_label"):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels.flatten())


# twin: bert.span_loss
def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over the tokens of a text, (B, T) and (B,); positions outside the text do not count."""
    length = logits.shape[1]
    return F.cross_entropy(logits, positions.flatten().clamp(0, length), ignore_index=length)


# twin: xlm.likeliest
def likeliest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the `count` likeliest tokens, (..., T): probabilities and places; past the last, 0 and the first's place."""
    found, places = F.pad(scores, (0, max(0, count - scores.shape[-1]))).topk(count)
    return found, places.where(found > 0, places[..., :1])


# twin: bert.flatten_choices
def flatten_choices(x: Given) -> Given:
    """(B, C, T, ...) to (B * C, T, ...): each choice a text of its own. What is no tensor stays."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else x


@dataclass(frozen=True)
class Scene:
    """What all layers of one forward pass share.

    Attributes:
        layout: where the tokens sit.
        rows: the same with each text in a row of its own, as attention has them; (B, T) is of these rows.
        waves: sinusoids of the distances T, T - 1, ..., 1 - T, (2T, E).
        types: of the tokens, (B, T); None when all are alike.
        hidden: (B, T, T), true where the first token must not see the second.
        targets: (B, M, T), which token each target is.
    """

    layout: Layout
    rows: Layout
    waves: Tensor
    types: Tensor | None
    hidden: Tensor | None
    targets: Tensor | None


def sinusoids(distances: Tensor, size: int) -> Tensor:
    """Encode distances as sines, then cosines, of ever slower waves: (P,) to (P, E)."""
    slowness = 10000 ** (torch.arange(0, size, 2, device=distances.device) / size)
    angles = distances[:, None] / slowness
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def by_pair(x: Tensor) -> Tensor:
    """Give each pair of tokens what stands at its distance T, ..., 1 - T: (B, H, T, 2T) to (B, H, T, T).

    Row i needs the columns T - i to 2T - i, so that leaving out the first T entries and cutting rows that are one
    shorter puts all of them in place.
    """
    length = x.shape[2]
    return x.flatten(2)[..., length:].unflatten(-1, (length, 2 * length - 1))[..., :length]


class XLNetRelativeAttention(nn.Module):
    """The first half of a layer: attention over content, distance and segment."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        heads, size = config.n_head, config.d_model // config.n_head
        self.heads, self.scale, self.drop = heads, 1 / math.sqrt(size), config.dropout
        self.q, self.k, self.v, self.o, self.r = (
            nn.Parameter(torch.empty(config.d_model, heads, size)) for _ in range(5)
        )
        self.r_r_bias, self.r_s_bias, self.r_w_bias = (nn.Parameter(torch.empty(heads, size)) for _ in range(3))
        self.seg_embed = nn.Parameter(torch.empty(2, heads, size))  # of the same segment, and of another
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, predicted: Tensor | None, scene: Scene) -> tuple[Tensor, Tensor | None]:
        rows = scene.layout.unpack(x)[0]
        k, v = self.split(rows, self.k), self.split(rows, self.v)
        waves = self.split(scene.waves, self.r)  # (H, 2T, D)
        hidden = scene.hidden
        if hidden is not None:
            hidden = hidden & ~torch.eye(hidden.shape[-1], dtype=torch.bool, device=x.device)  # all see themselves
        seen = self.look(self.split(rows, self.q), k, v, waves, hidden, scene).transpose(1, 2)
        out = self.finish(scene.layout.pack(seen), x)
        if predicted is None or scene.targets is None:
            return out, None
        q = torch.einsum("bmt,bhmd->bhtd", scene.targets, self.split(predicted, self.q))
        seen = self.look(q, k, v, waves, scene.hidden, scene)
        return out, self.finish(torch.einsum("bmt,bhtd->bmhd", scene.targets, seen), predicted)

    def split(self, x: Tensor, weight: Tensor) -> Tensor:
        """Project to heads: (..., T, E) to (..., H, T, D)."""
        return (x @ weight.flatten(1)).unflatten(-1, weight.shape[1:]).transpose(-3, -2)

    def look(self, q: Tensor, k: Tensor, v: Tensor, waves: Tensor, hidden: Tensor | None, scene: Scene) -> Tensor:
        """Attend to what is not hidden, (B, H, T, D)."""
        scores = by_pair((q + self.r_r_bias[:, None]) @ waves.transpose(-1, -2))  # (B, H, T, T)
        if scene.types is not None:
            same, other = ((q + self.r_s_bias[:, None]) @ self.seg_embed.permute(1, 2, 0)).split(1, dim=-1)
            differ = scene.types[:, :, None] != scene.types[:, None]  # (B, T, T)
            scores = scores + torch.where(differ[:, None], other, same)
        scores = scores * self.scale
        if hidden is not None:
            unseen = torch.finfo(scores.dtype).min / 2  # not infinite: some tokens see nothing
            scores = scores + unseen * hidden[:, None]
        q, dropout = q + self.r_w_bias[:, None], self.drop if self.training else 0.0
        return attend(q, k, v, scene.rows, scale=self.scale, bias=lambda q, k, apart: scores, dropout=dropout)

    def finish(self, seen: Tensor, residual: Tensor) -> Tensor:
        """Join the heads, (B, T, H, D), and add: (B, T, E)."""
        return self.layer_norm(residual + self.dropout(seen.flatten(2) @ self.o.flatten(1).T))


class XLNetFeedForward(nn.Module):
    """The second half of a layer: a wide, non-linear step."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.layer_1 = nn.Linear(config.d_model, config.d_inner)
        self.layer_2 = nn.Linear(config.d_inner, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = ACTIVATIONS[config.ff_activation]

    def forward(self, x: Tensor) -> Tensor:
        wide = self.dropout(self.activation(self.layer_1(x)))
        return self.layer_norm(x + self.dropout(self.layer_2(wide)))


class XLNetLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward, for one stream or both."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        self.rel_attn = XLNetRelativeAttention(config)
        self.ff = XLNetFeedForward(config)

    def forward(self, x: Tensor, predicted: Tensor | None, scene: Scene) -> tuple[Tensor, Tensor | None]:
        x, predicted = self.rel_attn(x, predicted, scene)
        return self.ff(x), None if predicted is None else self.ff(predicted)


class XLNetPreTrainedModel(Model):
    """What all classes of this file share."""

    config: XLNetConfig
    config_class = XLNetConfig
    prefix = "transformer"
    stack = "layer"


class XLNetModel(XLNetPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.word_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.mask_emb = nn.Parameter(torch.empty(1, 1, config.d_model))
        self.layer = nn.ModuleList(XLNetLayer(config) for _ in range(config.n_layer))
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        perm_mask: Tensor | None = None,
        target_mapping: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), of any length.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            token_type_ids: (B, T), any numbers; they tell the texts of a pair, and [CLS], apart.
            perm_mask: (B, T, T), 1 where the first token must not see the second; None when all see all.
            target_mapping: (B, M, T), a 1 in each row for the token to predict; then the result is of these M tokens,
                (B, M, E), each from what it may see, itself not being among that where `perm_mask` says so.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        if layout.lengths is not None and (perm_mask is not None or target_mapping is not None):
            raise InputError("perm_mask and target_mapping speak of rows of one text each; give a padded batch.")
        x = self.dropout(self.word_embedding(input_ids) if inputs_embeds is None else inputs_embeds)  # (B, T, E)
        scene = self.scene(x, layout, token_type_ids, perm_mask, target_mapping)
        predicted = None
        if scene.targets is not None:
            predicted = self.dropout(self.mask_emb.expand(*scene.targets.shape[:2], -1))  # (B, M, E)
        for layer in self.layer:
            x, predicted = layer(x, predicted, scene)
        return Hidden(last_hidden_state=self.dropout(x if predicted is None else predicted))

    def scene(
        self, x: Tensor, layout: Layout, types: Tensor | None, perm_mask: Tensor | None, targets: Tensor | None
    ) -> Scene:
        """Gather what all layers share."""
        rows, clamp = layout.unpack(layout.positions)[1], self.config.clamp_len
        length = rows.positions.shape[1]
        distances = torch.arange(length, -length, -1, device=x.device)
        if clamp > 0:
            distances = distances.clamp(-clamp, clamp)
        return Scene(
            layout,
            rows,
            self.dropout(sinusoids(distances, self.config.d_model).to(x.dtype)),
            None if types is None else layout.unpack(types)[0],
            None if perm_mask is None else perm_mask.bool(),
            None if targets is None else targets.to(x.dtype),
        )


class XLNetLMHeadModel(XLNetPreTrainedModel):
    """Scores over the vocabulary for every token, or for the targets of `target_mapping`."""

    tied = {"lm_loss.weight": "transformer.word_embedding.weight"}

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = XLNetModel(config)
        self.lm_loss = nn.Linear(config.d_model, config.vocab_size)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        perm_mask: Tensor | None = None,
        target_mapping: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), or (B, M) of targets, the true ids, -100 where there is nothing to learn."""
        x = self.transformer(
            input_ids, attention_mask, token_type_ids, perm_mask, target_mapping, inputs_embeds
        ).last_hidden_state
        logits = self.lm_loss(x)  # (B, T, V) or (B, M, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class XLNetSequenceSummary(nn.Module):
    """One vector a text, by default from its last token, [CLS]."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        self.kind = config.summary_type
        self.summary = nn.Linear(config.d_model, config.d_model) if config.summary_use_proj else nn.Identity()
        self.activation = ACTIVATIONS[config.summary_activation] if config.summary_activation else nn.Identity()
        self.last_dropout = nn.Dropout(config.summary_last_dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        pick = {"last": layout.last, "first": layout.first, "mean": layout.mean}[self.kind]
        return self.last_dropout(self.activation(self.summary(pick(x))))  # (B, E)


class XLNetForSequenceClassification(XLNetPreTrainedModel):
    """Labels a whole text, from the vector of its last token."""

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = XLNetModel(config)
        self.sequence_summary = XLNetSequenceSummary(config)
        self.logits_proj = nn.Linear(config.d_model, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        x = self.transformer(input_ids, layout, token_type_ids, inputs_embeds=inputs_embeds).last_hidden_state
        logits = self.logits_proj(self.sequence_summary(x, layout))  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class XLNetForMultipleChoice(XLNetPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = XLNetModel(config)
        self.sequence_summary = XLNetSequenceSummary(config)
        self.logits_proj = nn.Linear(config.d_model, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices: (B, C, T) gives (B, C), (C, T) or packed texts (1, C); `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        questions = tokens.shape[0] if nested else 1
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, token_type_ids = flatten_choices(attention_mask), flatten_choices(token_type_ids)
        layout = Layout.of(flatten_choices(tokens) if nested else tokens, attention_mask)
        x = self.transformer(input_ids, layout, token_type_ids, inputs_embeds=inputs_embeds).last_hidden_state
        logits = self.logits_proj(self.sequence_summary(x, layout)).view(questions, -1)  # (B, C)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Logits(loss=loss, logits=logits)


class XLNetForTokenClassification(XLNetPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = XLNetModel(config)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.transformer(input_ids, attention_mask, token_type_ids, inputs_embeds=inputs_embeds).last_hidden_state
        logits = self.classifier(x)  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class XLNetForQuestionAnsweringSimple(XLNetPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends, each by itself."""

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = XLNetModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        x = self.transformer(input_ids, attention_mask, token_type_ids, inputs_embeds=inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


# twin: xlm.PairLogits
class PairLogits(nn.Module):
    """Scores two vectors together, with a norm on the way and a bias at its end, or without both."""

    def __init__(self, size: int, eps: float | None = None):
        super().__init__()
        self.dense_0 = nn.Linear(2 * size, size)
        self.LayerNorm = nn.Identity() if eps is None else nn.LayerNorm(size, eps=eps)
        self.dense_1 = nn.Linear(size, 1, bias=eps is not None)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        x = torch.cat(torch.broadcast_tensors(one, other), dim=-1)  # (..., 2E)
        return self.dense_1(self.LayerNorm(torch.tanh(self.dense_0(x)))).squeeze(-1)  # (...)


class XLNetForQuestionAnswering(XLNetPreTrainedModel):
    """Finds the answer to a question in a text: where it begins, where it then ends, and whether there is one."""

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = XLNetModel(config)
        self.start_logits = nn.Sequential(OrderedDict(dense=nn.Linear(config.hidden_size, 1)))
        self.end_logits = PairLogits(config.hidden_size, config.layer_norm_eps)
        self.answer_class = PairLogits(config.hidden_size)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
    ) -> BeamSpans:
        """Search for answers, or learn them.

        An answer is learned from `start_positions` and `end_positions`, (B,), tokens of the row; and whether there is
        one, from `is_impossible`, (B,), 1 if not, and `cls_index`, (B,), the token that tells, by default the last.
        `p_mask`: (B, T), 1 on tokens that no answer begins or ends with, such as the question's.
        """
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        hidden = self.transformer(input_ids, layout, token_type_ids, inputs_embeds=inputs_embeds)
        scene = self.read(hidden.last_hidden_state, layout, cls_index, p_mask)
        if start_positions is None or end_positions is None:
            return self.beams(*scene)
        if is_impossible is not None and cls_index is None:
            raise InputError("is_impossible is learned from the token at cls_index; give both, or neither.")
        return self.loss(*scene, start_positions, end_positions, is_impossible)

    @staticmethod
    # twin: xlm.XLMSQuADHead.read
    def read(x: Tensor, layout: Layout, cls: Tensor | None, p_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Give each text a row, (B, T, E), and say which tokens are `allowed`, (B, T), and what [CLS] is, (B, E)."""
        x, rows = layout.unpack(x)
        allowed = torch.ones_like(rows.positions, dtype=torch.bool) if rows.keep is None else rows.keep
        head = rows.last(x) if cls is None else pick(x, cls.flatten(), allowed, "cls_index")
        return x, allowed if p_mask is None else allowed & ~layout.unpack(p_mask.bool())[0], head

    # twin: xlm.XLMSQuADHead.loss
    def loss(
        self, x: Tensor, allowed: Tensor, cls: Tensor, start: Tensor, end: Tensor, none: Tensor | None
    ) -> BeamSpans:
        """Learn where an answer begins and ends, (B,), and for which texts there is `none`; see `beams`."""
        lowest, start, end = torch.finfo(x.dtype).min, start.flatten(), end.flatten()
        first, _ = pick(x, start, allowed, "start_positions"), pick(x, end, allowed, "end_positions")  # (B, E)
        starts = self.start_logits(x).squeeze(-1).masked_fill(~allowed, lowest)  # (B, T)
        ends = self.end_logits(x, first[:, None]).masked_fill(~allowed, lowest)  # (B, T)
        loss = F.cross_entropy(starts, start) + F.cross_entropy(ends, end)
        if none is not None:
            loss = loss + F.binary_cross_entropy_with_logits(self.answer_class(first, cls), none.flatten().to(x.dtype))
        return BeamSpans(loss=loss / 2)

    # twin: xlm.XLMSQuADHead.beams
    def beams(self, x: Tensor, allowed: Tensor, cls: Tensor) -> BeamSpans:
        """Search in texts, (B, T, E), among the tokens `allowed`, (B, T); `cls`, (B, E), stands for a whole text."""
        lowest = torch.finfo(x.dtype).min
        scores = self.start_logits(x).squeeze(-1).masked_fill(~allowed, lowest).softmax(-1)  # (B, T)
        starts, first = likeliest(scores, self.config.start_n_top)  # (B, S)
        begun = x[torch.arange(len(x), device=x.device)[:, None], first]  # (B, S, E)
        pairs = self.end_logits(x[:, None], begun[:, :, None])  # (B, S, T)
        ends, last = likeliest(pairs.masked_fill(~allowed[:, None], lowest).softmax(-1), self.config.end_n_top)
        return BeamSpans(
            start_top_log_probs=starts,
            start_top_index=first,
            end_top_log_probs=ends.mT.flatten(1),  # (B, N * S)
            end_top_index=last.mT.flatten(1),
            cls_logits=self.answer_class((scores[:, None] @ x)[:, 0], cls),  # (B,)
        )
