"""XLM and FlauBERT: encoders for one or many languages, whose tokens carry the language they are of.

Papers: Lample and Conneau, 2019, "Cross-lingual Language Model Pretraining", https://arxiv.org/abs/1901.07291
and Le et al., 2019, "FlauBERT: Unsupervised Language Model Pre-training for French", https://arxiv.org/abs/1912.05372

What sets them apart from BERT:
  - a language embedding a token, where the checkpoint knows several languages
  - no pooled vector, and no token types of their own: `token_type_ids` are looked up among the words
  - each kind of part (attentions, norms, feed-forwards) is in a list of its own, and the names are their own throughout
  - FlauBERT can normalise before each sub-layer, and drops whole layers in training

Shapes: B batch, C choices, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N)
tokens with a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Any, TypeVar

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


class XLMConfig(Config):
    """The configuration of XLM; the defaults are what a missing key of config.json means."""

    model_type = "xlm"
    inert = {
        "causal": False,
        "is_encoder": True,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "asm": False,
        "pre_norm": False,
        "layerdrop": 0.0,
        "summary_use_proj": True,
        "summary_proj_to_labels": True,
    }
    aliases = {
        "hidden_size": "emb_dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "n_words": "vocab_size",
    }

    vocab_size: int = 30145
    emb_dim: int = 2048
    n_layers: int = 12
    n_heads: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    gelu_activation: bool = True  # false for ReLU
    sinusoidal_embeddings: bool = False  # how new position embeddings are drawn; a checkpoint has its own
    n_langs: int = 1
    use_lang_emb: bool = True
    max_position_embeddings: int = 512
    embed_init_std: float = 2048**-0.5
    init_std: float = 0.02
    layer_norm_eps: float = 1e-12
    summary_type: str = "first"
    summary_activation: str | None = None
    summary_first_dropout: float = 0.1
    summary_last_dropout: float = 0.0
    start_n_top: int = 5  # beams over the first tokens of answers, and over the last ones for each of them
    end_n_top: int = 5
    pad_token_id: int | None = 2
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        if self.emb_dim % self.n_heads:
            yield f"emb_dim ({self.emb_dim}) is not a multiple of n_heads ({self.n_heads})"
        if self.n_langs < 1:
            yield f"n_langs is {self.n_langs}; expected 1 or more"
        if min(self.start_n_top, self.end_n_top) < 1:
            yield f"start_n_top and end_n_top are {self.start_n_top} and {self.end_n_top}; expected 1 or more"
        if self.summary_type not in ("first", "last", "mean"):
            yield f"summary_type is {self.summary_type!r}; only first, last and mean are implemented"
        if self.summary_activation not in (None, "tanh"):
            yield f"summary_activation is {self.summary_activation!r}; only tanh, or null for none, is implemented"


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


def likeliest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the `count` likeliest tokens, (..., T): probabilities and places; past the last, 0 and the first's place."""
    found, places = F.pad(scores, (0, max(0, count - scores.shape[-1]))).topk(count)
    return found, places.where(found > 0, places[..., :1])


# twin: bert.flatten_choices
def flatten_choices(x: Given) -> Given:
    """(B, C, T, ...) to (B * C, T, ...): each choice a text of its own. What is no tensor stays."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else x


# twin: distilbert.sinusoids
def sinusoids(rows: int, dim: int) -> Tensor:
    """The fixed position table of Vaswani et al., 2017: sines in even columns, cosines in odd ones, (rows, dim)."""
    angles = torch.arange(rows)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)  # (rows, dim / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim]


class XLMAttention(nn.Module):
    """Multi-head attention with its output projection."""

    def __init__(self, config: XLMConfig):
        super().__init__()
        self.heads, self.head_size = config.n_heads, config.emb_dim // config.n_heads
        self.dropout = config.attention_dropout
        self.q_lin, self.k_lin, self.v_lin, self.out_lin = (nn.Linear(config.emb_dim, config.emb_dim) for _ in range(4))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.q_lin, self.k_lin, self.v_lin)
        )
        x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return self.out_lin(x.transpose(1, 2).flatten(2))  # (B, T, E)


class XLMFeedForward(nn.Module):
    """The wide, non-linear half of a layer."""

    def __init__(self, config: XLMConfig):
        super().__init__()
        self.lin1 = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.lin2 = nn.Linear(4 * config.emb_dim, config.emb_dim)
        self.activation = F.gelu if config.gelu_activation else F.relu
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class XLMLayer(nn.Module):
    """One layer, over parts that the checkpoint keeps in lists of their own."""

    def __init__(self, config: XLMConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, layout: Layout, attention: nn.Module, norm1: nn.Module, ffn: nn.Module, norm2: nn.Module
    ) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(attention(norm1(x), layout))
            return x + ffn(norm2(x))
        x = norm1(x + self.dropout(attention(x, layout)))
        return norm2(x + ffn(x))


class XLMPreTrainedModel(Model):
    """What all classes of this file share."""

    config: XLMConfig
    config_class = XLMConfig
    prefix = "transformer"
    stack = "layer"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.accepts += ("lengths",)

    def __call__(self, *args: Any, lengths: Tensor | None = None, **inputs: Any) -> Any:
        """Run `forward`; `lengths`, (B,), says instead of a mask how many tokens from the left of a row are its text.

        Raises:
            InputError: for lengths that do not fit the input, or beside a mask.
        """
        if lengths is not None:
            inputs, args = dict(zip(self.accepts, args, strict=False)) | inputs, args[len(self.accepts) :]
            if inputs.get("attention_mask") is not None:
                raise InputError("attention_mask and lengths both say what is padding; give one of them.")
            ids, words = inputs.get("input_ids"), inputs.get("inputs_embeds")
            *batch, length = self.one_of(input_ids=ids, inputs_embeds=words).shape[: None if words is None else -1]
            inputs["attention_mask"] = mask = (torch.arange(length, device=lengths.device) < lengths[..., None]).long()
            if list(lengths.shape) != batch or not (torch.compiler.is_compiling() or mask.sum(-1).equal(lengths)):
                raise InputError(f"lengths is {lengths}; expected one number a text, 0 to {length}.")
        return super().__call__(*args, **inputs)

    @torch.no_grad()
    def init_module(self, module: nn.Module, only: Collection[str] | None = None) -> None:
        """Draw the parameters that a module holds itself; embeddings and other weights have a spread each."""
        super().init_module(module, only)
        if only is None and isinstance(module, nn.Linear):  # else it is a new head
            module.weight.normal_(0.0, self.config.init_std)
        elif only is None and isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, self.config.embed_init_std)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()


class XLMModel(XLMPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        size, eps, count = config.emb_dim, config.layer_norm_eps, config.n_layers
        several = config.n_langs > 1 and config.use_lang_emb
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.lang_embeddings = nn.Embedding(config.n_langs, size) if several else None
        self.embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.layer_norm_emb = nn.LayerNorm(size, eps=eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layer = nn.ModuleList(XLMLayer(config) for _ in range(count))
        self.attentions = nn.ModuleList(XLMAttention(config) for _ in range(count))
        self.layer_norm1 = nn.ModuleList(nn.LayerNorm(size, eps=eps) for _ in range(count))
        self.ffns = nn.ModuleList(XLMFeedForward(config) for _ in range(count))
        self.layer_norm2 = nn.ModuleList(nn.LayerNorm(size, eps=eps) for _ in range(count))
        self.init_weights()
        positions = self.position_embeddings.weight
        if config.sinusoidal_embeddings and not positions.is_meta:
            positions.data.copy_(sinusoids(*positions.shape))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_position_embeddings`.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            langs: (B, T), the number of each token's language in `config.lang2id`; None for tokens of no language.
                Without effect where the checkpoint knows one language, or was trained without.
            token_type_ids: (B, T), ids of words that are added to the tokens; None for none.
            position_ids: (B, T); None to count from each text's first real token.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        words = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        x = words + self.position_embeddings(layout.positions if position_ids is None else position_ids)
        if langs is not None and self.lang_embeddings is not None:
            x = x + self.lang_embeddings(langs)
        if token_type_ids is not None:
            x = x + self.embeddings(token_type_ids)
        x = self.dropout(self.layer_norm_emb(x))  # (B, T, E)
        parts = zip(self.layer, self.attentions, self.layer_norm1, self.ffns, self.layer_norm2, strict=True)
        for layer, attention, norm1, ffn, norm2 in parts:
            if self.training and self.config.layerdrop and torch.rand(()) < self.config.layerdrop:
                continue
            x = layer(x, layout, attention, norm1, ffn, norm2)
        return Hidden(last_hidden_state=x)


class XLMWithLMHeadModel(XLMPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"pred_layer.proj.weight": "transformer.embeddings.weight"}

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        self.transformer = XLMModel(config)
        self.pred_layer = nn.Sequential(OrderedDict(proj=nn.Linear(config.emb_dim, config.vocab_size)))
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        hidden = self.transformer(input_ids, attention_mask, langs, token_type_ids, position_ids, inputs_embeds)
        logits = self.pred_layer(hidden.last_hidden_state)  # (B, T, V)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class XLMSequenceSummary(nn.Module):
    """Scores of labels from one vector a text, by default that of its first token."""

    def __init__(self, config: XLMConfig):
        super().__init__()
        self.kind = config.summary_type
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.summary = nn.Linear(config.emb_dim, config.num_labels)
        self.activation = torch.tanh if config.summary_activation else nn.Identity()
        self.last_dropout = nn.Dropout(config.summary_last_dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        pick = {"first": layout.first, "last": layout.last, "mean": layout.mean}[self.kind]
        return self.last_dropout(self.activation(self.summary(self.first_dropout(pick(x)))))  # (B, L)


class XLMForSequenceClassification(XLMPreTrainedModel):
    """Labels a whole text, by default from its first token."""

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        self.transformer = XLMModel(config)
        self.sequence_summary = XLMSequenceSummary(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) numbers to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        hidden = self.transformer(input_ids, layout, langs, token_type_ids, position_ids, inputs_embeds)
        logits = self.sequence_summary(hidden.last_hidden_state, layout)  # (B, L)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)


class XLMForMultipleChoice(XLMPreTrainedModel):
    """Picks one of several continuations; each choice is a text of its own."""

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        self.transformer = XLMModel(config)
        self.sequence_summary = XLMSequenceSummary(config)
        self.logits_proj = nn.Linear(config.num_labels, 1)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the choices: (B, C, T) gives (B, C), (C, T) or packed texts (1, C); `labels`: (B,), the right ones."""
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        nested = tokens.dim() == (3 if inputs_embeds is None else 4)
        if nested:
            input_ids, inputs_embeds = flatten_choices(input_ids), flatten_choices(inputs_embeds)
            attention_mask, langs = flatten_choices(attention_mask), flatten_choices(langs)
            token_type_ids, position_ids = flatten_choices(token_type_ids), flatten_choices(position_ids)
        layout = Layout.of(flatten_choices(tokens) if nested else tokens, attention_mask)
        hidden = self.transformer(input_ids, layout, langs, token_type_ids, position_ids, inputs_embeds)
        scores = self.logits_proj(self.sequence_summary(hidden.last_hidden_state, layout))  # (B * C, 1)
        logits = scores.view(tokens.shape[0] if nested else 1, -1)  # (B, C)
        return Logits(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class XLMForTokenClassification(XLMPreTrainedModel):
    """Labels every token, for example as part of a name."""

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        self.transformer = XLMModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.emb_dim, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        hidden = self.transformer(input_ids, attention_mask, langs, token_type_ids, position_ids, inputs_embeds)
        logits = self.classifier(self.dropout(hidden.last_hidden_state))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)


class XLMForQuestionAnsweringSimple(XLMPreTrainedModel):
    """Finds the answer to a question in a text: where it begins and where it ends, each by itself."""

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        self.transformer = XLMModel(config)
        self.qa_outputs = nn.Linear(config.emb_dim, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Spans:
        """Score each token as beginning and end; `start_positions`, `end_positions`: (B,), beyond T for no answer."""
        hidden = self.transformer(input_ids, attention_mask, langs, token_type_ids, position_ids, inputs_embeds)
        start, end = self.qa_outputs(hidden.last_hidden_state).unbind(-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start, start_positions) + span_loss(end, end_positions)) / 2
        return Spans(loss=loss, start_logits=start, end_logits=end)


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


class XLMSQuADHead(nn.Module):
    """Scores tokens as the first of an answer, as its last when the first is known, and texts as without an answer."""

    def __init__(self, config: XLMConfig):
        super().__init__()
        self.config = config
        self.start_logits = nn.Sequential(OrderedDict(dense=nn.Linear(config.hidden_size, 1)))
        self.end_logits = PairLogits(config.hidden_size, config.layer_norm_eps)
        self.answer_class = PairLogits(config.hidden_size)

    @staticmethod
    def read(x: Tensor, layout: Layout, cls: Tensor | None, p_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Give each text a row, (B, T, E), and say which tokens are `allowed`, (B, T), and what [CLS] is, (B, E)."""
        x, rows = layout.unpack(x)
        allowed = torch.ones_like(rows.positions, dtype=torch.bool) if rows.keep is None else rows.keep
        head = rows.last(x) if cls is None else pick(x, cls.flatten(), allowed, "cls_index")
        return x, allowed if p_mask is None else allowed & ~layout.unpack(p_mask.bool())[0], head

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


class XLMForQuestionAnswering(XLMPreTrainedModel):
    """Finds the answer to a question in a text: where it begins, where it then ends, and whether there is one."""

    def __init__(self, config: XLMConfig):
        super().__init__(config)
        self.transformer = XLMModel(config)
        self.qa_outputs = XLMSQuADHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
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
        hidden = self.transformer(input_ids, layout, langs, token_type_ids, position_ids, inputs_embeds)
        scene = self.qa_outputs.read(hidden.last_hidden_state, layout, cls_index, p_mask)
        if start_positions is None or end_positions is None:
            return self.qa_outputs.beams(*scene)
        if is_impossible is not None and cls_index is None:
            raise InputError("is_impossible is learned from the token at cls_index; give both, or neither.")
        return self.qa_outputs.loss(*scene, start_positions, end_positions, is_impossible)


# --- FlauBERT: the same network, trained on French --------------------------------------------------------------------


class FlaubertConfig(XLMConfig):
    """The configuration of FlauBERT; see XLMConfig."""

    model_type = "flaubert"

    pre_norm: bool = False  # whether norms come before the sub-layers
    layerdrop: float = 0.0  # the probability of leaving out a layer in training


class FlaubertModel(XLMModel):
    """The encoder without a task head; see XLMModel."""

    config_class = FlaubertConfig


class FlaubertWithLMHeadModel(XLMWithLMHeadModel):
    """See XLMWithLMHeadModel."""

    config_class = FlaubertConfig


class FlaubertForSequenceClassification(XLMForSequenceClassification):
    """See XLMForSequenceClassification."""

    config_class = FlaubertConfig


class FlaubertForMultipleChoice(XLMForMultipleChoice):
    """See XLMForMultipleChoice."""

    config_class = FlaubertConfig


class FlaubertForTokenClassification(XLMForTokenClassification):
    """See XLMForTokenClassification."""

    config_class = FlaubertConfig


class FlaubertForQuestionAnsweringSimple(XLMForQuestionAnsweringSimple):
    """See XLMForQuestionAnsweringSimple."""

    config_class = FlaubertConfig


class FlaubertForQuestionAnswering(XLMForQuestionAnswering):
    """See XLMForQuestionAnswering."""

    config_class = FlaubertConfig
