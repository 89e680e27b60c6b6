"""The reference: the original's model of the same class, tiny, with every parameter moved off its initial value."""

import copy
import functools
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cases import CASES
from pellucid import auto
from pellucid.weights import same_bits

COMPUTED = ("inv_freq", "embed_positions.weight")  # what the original stores, though config.json says it


@functools.cache
def reference_class(architecture: str, head: str) -> Any:
    import transformers

    mend()
    return getattr(transformers, our_class(architecture, head).__name__)


@functools.cache
def mend() -> None:
    """Undo what 5.23 broke."""
    from transformers.models.bigbird_pegasus.modeling_bigbird_pegasus import BigBirdPegasusForCausalLM
    from transformers.models.data2vec.modeling_data2vec_text import Data2VecTextForCausalLM
    from transformers.models.fsmt.modeling_fsmt import FSMTModel, SinusoidalPositionalEmbedding
    from transformers.models.megatron_bert.modeling_megatron_bert import MegatronBertSelfAttention
    from transformers.models.mvp.modeling_mvp import MvpEncoder
    from transformers.models.prophetnet.modeling_prophetnet import ProphetNetNgramSelfAttention
    from transformers.models.rembert.modeling_rembert import RemBertSelfAttention
    from transformers.models.roberta.modeling_roberta import RobertaForCausalLM
    from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormForCausalLM
    from transformers.models.xlm_roberta_xl.modeling_xlm_roberta_xl import XLMRobertaXLForCausalLM

    build = MvpEncoder.__init__  # it takes the word that there are prompts for embeddings, and makes none
    MvpEncoder.__init__ = lambda self, config, prompt=False: build(self, config, use_prompt=prompt)
    BigBirdPegasusForCausalLM._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    run = FSMTModel.forward  # with a cache, it lets tokens look at later ones, too
    FSMTModel.forward = lambda self, *args, **inputs: run(self, *args, **cacheless(inputs))
    look = ProphetNetNgramSelfAttention.get_predict_relative_pos_embeddings
    ProphetNetNgramSelfAttention.get_predict_relative_pos_embeddings = one_by_one(look)
    for cls in (RobertaForCausalLM, Data2VecTextForCausalLM, RobertaPreLayerNormForCausalLM, XLMRobertaXLForCausalLM):
        cls.prepare_inputs_for_generation = placeless(cls.prepare_inputs_for_generation)
    MegatronBertSelfAttention.forward = RemBertSelfAttention.forward  # it takes a source to be as long as the target
    place = SinusoidalPositionalEmbedding.__init__  # what it computes would be learned

    def place_for_good(self: Any, *args: Any) -> None:
        place(self, *args)
        self.weight.requires_grad_(False)

    SinusoidalPositionalEmbedding.__init__ = place_for_good


def one_by_one(look: Any) -> Any:
    """Let ProphetNet's streams look from one token at a time: it mixes up the heads of several."""

    def looking(self: Any, x: Any, weights: Any, places: Any, buckets: Any) -> Any:
        rows = [slice(None)] if buckets is None else [slice(t, t + 1) for t in range(x.shape[1])]
        looked = [
            look(self, x[:, row], weights[..., row, :], places, None if buckets is None else buckets[:, row])
            for row in rows
        ]
        return torch.cat(looked, dim=3)

    return looking


def placeless(feed: Any) -> Any:
    """Keep an original that writes from counting positions from 0, where its texts do not begin."""
    return lambda self, *args, **kwargs: {
        name: x for name, x in feed(self, *args, **kwargs).items() if name != "position_ids"
    }


def cacheless(inputs: dict[str, Any]) -> dict[str, Any]:
    """Keep an original from making a cache by itself."""
    return inputs if inputs.get("past_key_values") is not None else {**inputs, "use_cache": False}


@functools.cache
def reference(architecture: str, head: str) -> Any:
    """Return the original's model with dropout and every weight, bias and norm perturbed."""
    cls = reference_class(architecture, head)
    config = cls.config_class(**CASES[architecture], num_labels=3 if "Classification" in head else 2)
    torch.manual_seed(zlib.crc32(f"{architecture}{head}".encode()))
    return stay_sparse(perturbed(cls(config)).eval())


def stay_sparse(model: Any) -> Any:
    """Choose BigBird's attention anew each time: a short text would end that in blocks for good."""
    for module in model.modules():
        if hasattr(module, "set_attention_type") and hasattr(module, "base_model_prefix"):
            module.register_forward_pre_hook(lambda part, _: part.set_attention_type(part.config.attention_type))
    return model


@torch.no_grad()
def perturbed(model: Any) -> Any:
    """Move all that a model of the original learns off its initial value."""
    for parameter in model.parameters():
        if parameter.requires_grad:  # else it is computed from the configuration
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # learned, though not by gradients
            buffer.add_(torch.randn_like(buffer) * 0.1)
    return model


@functools.cache
def checkpoint(architecture: str, head: str) -> Path:
    """Return a folder that the original wrote."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"]))
    reference(architecture, head).save_pretrained(folder)
    return folder


def stored(architecture: str, head: str, folder: Path | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors that the original wrote, under the names that the Hub has today."""
    tensors = load_file((folder or checkpoint(architecture, head)) / "model.safetensors")
    unread = (*COMPUTED, *our_class(architecture, head).unread)  # unless this very model reads it
    for old, new in our_class(architecture, head).legacy_names.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    read = names(architecture, head)
    return {name: tensor for name, tensor in tensors.items() if name in read or not name.endswith(unread)}


@functools.cache
def names(architecture: str, head: str) -> frozenset[str]:
    """Return the names of our model's tensors."""
    return frozenset(ours(architecture, head).state_dict())


def stored_gradients(architecture: str, head: str) -> dict[str, torch.Tensor]:
    """Return the original's gradients as it would store them: in memory it names and splits some tensors otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        of_gradients(reference(architecture, head)).save_pretrained(folder)
        return stored(architecture, head, Path(folder))


def of_gradients(model: Any) -> Any:
    """Return a copy of a model that has its gradients for weights."""
    for module in model.modules():
        for name in ("recurrent_states", "conv1d_state"):
            if hasattr(module, name):
                setattr(module, name, None)  # RecurrentGemma leaves it there, and its graph can not be copied
    twin = copy.deepcopy(model)
    for parameter, source in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.data = torch.zeros_like(source) if source.grad is None else source.grad
    for buffer in twin.buffers():
        buffer.zero_()
    return twin


def our_class(architecture: str, head: str) -> Any:
    return auto.heads_of(architecture.partition(":")[0])[head]


def is_pair(architecture: str, head: str) -> bool:
    """Tell whether a class has an encoder and a decoder."""
    return bool(our_class(architecture, head).source_stack) and CASES[architecture].get("is_encoder_decoder", True)


def ours(architecture: str, head: str, **options: Any) -> Any:
    """Return our model, freshly loaded from the original's folder."""
    return our_class(architecture, head).from_pretrained(checkpoint(architecture, head), **options)


def assert_same_weights(model: Any, other: Any) -> None:
    """Compare two of our models, bit for bit."""
    theirs = other.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    assert all(same_bits(tensor, theirs[name]) for name, tensor in model.state_dict().items())
