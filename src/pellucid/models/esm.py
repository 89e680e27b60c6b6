"""ESM: an encoder of proteins, whose tokens are amino acids.

Papers: Rives et al., 2019 (ESM-1b), https://doi.org/10.1073/pnas.2016239118, and Lin et al., 2022 (ESM-2),
https://doi.org/10.1126/science.ade2574

What sets it apart from BERT:
  - norms before each sub-layer, and once more at the end; one after the embeddings is optional
  - queries and keys are rotated by their place, or positions are learned, counting from after the padding's id
  - masked tokens are embedded as zero, and the others scaled by how many are left, as in training
  - contacts between amino acids are read off the attention weights of all layers

Shapes: B batch, T tokens, E hidden, H heads, D head size, V vocabulary, L labels. A packed batch is (1, N) tokens with
a layout; what is one row a text, (B, ...), is then one row a packed text.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attend
from ..config import Config
from ..layout import Layout
from ..model import Model
from ..outputs import Hidden, Logits

MASKED_IN_TRAINING = 0.15 * 0.8  # of all tokens: those that were to be guessed, less those left or exchanged


class EsmConfig(Config):
    """The configuration of ESM; the defaults are those of the format, with the vocabulary of ESM-2."""

    model_type = "esm"
    inert = {
        "hidden_act": "gelu",
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "pruned_heads": {},
        "is_folding_model": False,
        "add_bias_fnn": True,
    }

    vocab_size: int = 33
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1026
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    rope_theta: float = 10000.0
    emb_layer_norm_before: bool | None = None
    token_dropout: bool = False
    pad_token_id: int | None = 1
    mask_token_id: int | None = 32
    eos_token_id: int | list[int] | None = 2

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model reads at once; positions begin after the padding's id."""
        return self.max_position_embeddings - (self.pad_token_id or 0) - 1

    def faults(self):
        """Yield what is impossible."""
        yield from super().faults()
        size, heads = self.hidden_size, self.num_attention_heads
        if size % (2 * heads):
            yield f"hidden_size ({size}) is not a multiple of twice num_attention_heads ({heads})"
        if self.position_embedding_type not in ("absolute", "rotary"):
            yield f"position_embedding_type is {self.position_embedding_type!r}; expected 'absolute' or 'rotary'"
        for name in ("pad_token_id", *["mask_token_id"] * self.token_dropout):
            if getattr(self, name) is None:
                yield f"{name} is missing; expected an id of the vocabulary"


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


# twin: modernbert.rotations
def rotations(positions: Tensor, size: int, theta: float) -> Tensor:
    """The angles by which the pairs of a head's dimensions are turned at each position, (B, T) to (B, 1, T, D / 2)."""
    speeds = theta ** -(torch.arange(0, size, 2, device=positions.device) / size)  # (D / 2,)
    return positions[:, None, :, None] * speeds


# twin: modernbert.rotate
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn dimension i with dimension i + D / 2, (B, H, T, D)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class EsmEmbeddings(nn.Module):
    """Word embeddings, with positions and a norm where the configuration has them."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        learned = config.position_embedding_type == "absolute"
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, config.hidden_size, padding_idx=config.pad_token_id)
            if learned
            else None
        )
        self.layer_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.emb_layer_norm_before else None
        )

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(positions)
        return x if self.layer_norm is None else self.layer_norm(x)  # (B, T, E)


class EsmSelfAttention(nn.Module):
    """Multi-head attention, without its output projection; `angles` rotate queries and keys where there are any."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        x = attend(q, k, v, layout, dropout=self.dropout if self.training else 0.0)
        return x.transpose(1, 2).flatten(2)  # (B, T, E)


class EsmResidual(nn.Module):
    """What ends both halves of a layer: dense, dropout, residual sum."""

    def __init__(self, config: EsmConfig, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self.dropout(self.dense(x))


class EsmAttention(nn.Module):
    """The first half of a layer."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.self = EsmSelfAttention(config)
        self.output = EsmResidual(config, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor | None) -> Tensor:
        return self.output(self.self(self.LayerNorm(x), layout, angles), residual=x)


class EsmIntermediate(nn.Module):
    """The wide, non-linear step of a layer's second half."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class EsmLayer(nn.Module):
    """One layer: attention, then a position-wise feed-forward."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.attention = EsmAttention(config)
        self.intermediate = EsmIntermediate(config)
        self.output = EsmResidual(config, config.intermediate_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor | None) -> Tensor:
        x = self.attention(x, layout, angles)
        return self.output(self.intermediate(self.LayerNorm(x)), residual=x)


class EsmEncoder(nn.Module):
    """The stack of layers, and a norm."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.layer = nn.ModuleList(EsmLayer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout, angles: Tensor | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, layout, angles)
        return self.emb_layer_norm_after(x)


class EsmPooler(nn.Module):
    """One vector a text, from its first token."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    # twin: bert.BertPooler.forward
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return torch.tanh(self.dense(layout.first(x)))  # (B, E)


class EsmContactPredictionHead(nn.Module):
    """How likely two amino acids touch, from how much they attend to each other in all layers and heads."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.regression = nn.Linear(config.num_hidden_layers * config.num_attention_heads, 1)

    def forward(self, weights: Tensor, real: Tensor) -> Tensor:
        x = (weights + weights.mT) * real[:, None, :, None] * real[:, None, None, :]  # (B, layers * H, T, T)
        rows, columns, whole = x.sum(-1, keepdim=True), x.sum(-2, keepdim=True), x.sum((-1, -2), keepdim=True)
        x = x - rows * columns / whole  # less what the average product of row and column explains
        return torch.sigmoid(self.regression(x.movedim(1, -1)).squeeze(-1))  # (B, T, T)


class EsmPreTrainedModel(Model):
    """What all classes of this file share."""

    config: EsmConfig
    config_class = EsmConfig
    prefix = "esm"
    stack = "encoder.layer"
    optional = ("pooler",)  # checkpoints of token-level tasks have none
    legacy_names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    unread = ("position_ids", "rotary_embeddings.inv_freq", "embeddings.position_embeddings.weight")  # of rotary models

    def predict_contacts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Tell how likely each two amino acids of a protein touch.

        Args:
            input_ids: token ids, (B, T): <cls>, amino acids, <eos>, and padding on the right.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded.

        Returns:
            Probabilities, (B, T - 2, T - 2), between the amino acids; those of padding mean nothing.
        """
        layers = self(input_ids, attention_mask, output_attentions=True).attentions
        ends = -1 if self.config.eos_token_id is None else self.config.eos_token_id
        real = ~torch.isin(input_ids, torch.tensor(ends, device=input_ids.device))
        real = real if attention_mask is None else real & attention_mask.bool()
        weights = torch.cat(layers, dim=1)[..., 1:-1, 1:-1]  # (B, layers * H, T - 2, T - 2)
        return self.base_model.get_submodule("contact_head")(weights, real[:, 1:-1])


class EsmModel(EsmPreTrainedModel):
    """The encoder without a task head."""

    def __init__(self, config: EsmConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = EsmEmbeddings(config)
        self.encoder = EsmEncoder(config)
        self.pooler = EsmPooler(config) if add_pooling_layer else None
        self.contact_head = EsmContactPredictionHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Hidden:
        """Encode a batch.

        Args:
            input_ids: token ids, (B, T), T at most `config.max_tokens` where positions are learned.
            attention_mask: (B, T), 1 for real tokens and 0 for padding; None when nothing is padded; or a layout.
            position_ids: (B, T); None to count from each text's first real token, from `pad_token_id` + 1 on where
                positions are learned.
            inputs_embeds: word embeddings, (B, T, E), instead of `input_ids`; none of them counts as masked.
        """
        tokens = self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        layout = Layout.of(tokens, attention_mask)
        x = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        if self.config.token_dropout:
            x = self.drop_masked(x, input_ids, layout)
        rotary, start = self.config.position_embedding_type == "rotary", (self.config.pad_token_id or 0) + 1
        positions = layout.positions + (0 if rotary else start) if position_ids is None else position_ids
        size = self.config.hidden_size // self.config.num_attention_heads
        angles = rotations(positions, size, self.config.rope_theta) if rotary else None
        x = self.encoder(self.embeddings(x, positions), layout, angles)
        return Hidden(last_hidden_state=x, pooler_output=None if self.pooler is None else self.pooler(x, layout))

    def drop_masked(self, x: Tensor, input_ids: Tensor | None, layout: Layout) -> Tensor:
        """Zero masked tokens, (B, T, E), and scale the others as if as many were masked as in training."""
        if input_ids is None:
            return x * (1 - MASKED_IN_TRAINING)
        masked = input_ids == self.config.mask_token_id  # (B, T)
        left = layout.spread(1 - layout.mean(masked.float()))
        scale = (1 - MASKED_IN_TRAINING) / left.clamp(min=1e-6)
        return x * (scale * ~masked)[..., None].to(x.dtype)


class EsmLMHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word embedding's."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(x)))) + self.bias


class EsmForMaskedLM(EsmPreTrainedModel):
    """Scores over the vocabulary for every token, to fill in masked ones."""

    tied = {"lm_head.decoder.weight": "esm.embeddings.word_embeddings.weight"}

    def __init__(self, config: EsmConfig):
        super().__init__(config)
        self.esm = EsmModel(config, add_pooling_layer=False)
        self.lm_head = EsmLMHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score words; `labels`: (B, T), the true ids, -100 where there is nothing to learn."""
        logits = self.lm_head(self.esm(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)  # (B, T, V)


class EsmClassificationHead(nn.Module):
    """Scores of labels, from the first token of a text."""

    def __init__(self, config: EsmConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = torch.tanh(self.dense(self.dropout(layout.first(x))))  # (B, E)
        return self.out_proj(self.dropout(x))


class EsmForSequenceClassification(EsmPreTrainedModel):
    """Labels a whole text, from its first token."""

    def __init__(self, config: EsmConfig):
        super().__init__(config)
        self.esm = EsmModel(config, add_pooling_layer=False)
        self.classifier = EsmClassificationHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels; `labels`: (B,) ids, (B, L) of 0 and 1 for several, or (B,) or (B, L) targets to regress."""
        layout = Layout.of(self.one_of(input_ids=input_ids, inputs_embeds=inputs_embeds), attention_mask)
        logits = self.classifier(self.esm(input_ids, layout, position_ids, inputs_embeds).last_hidden_state, layout)
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return Logits(loss=loss, logits=logits)  # (B, L)


class EsmForTokenClassification(EsmPreTrainedModel):
    """Labels every token, for example as part of a helix."""

    def __init__(self, config: EsmConfig):
        super().__init__(config)
        self.esm = EsmModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Layout | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Logits:
        """Score the labels of each token; `labels`: (B, T), -100 where there is nothing to learn."""
        x = self.esm(input_ids, attention_mask, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, L)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Logits(loss=loss, logits=logits)
