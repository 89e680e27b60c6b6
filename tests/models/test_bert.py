"""BERT as a decoder: what makes it one, and what refuses to be one."""

import pytest
import torch

import pellucid
from cases import BERT
from oracle import checkpoint, ours
from pellucid import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from pellucid.errors import ConfigError, WeightsError
from test_models import texts

DECODERS = [
    ("bert:decoder", "LMHeadModel"),
    ("roberta:decoder", "ForCausalLM"),
    ("electra:decoder", "ForCausalLM"),
    ("ernie:decoder", "ForCausalLM"),
    ("megatron_bert:decoder", "ForCausalLM"),
    ("rembert:decoder", "ForCausalLM"),
    ("roformer:decoder", "ForCausalLM"),
    ("data2vec_text:decoder", "ForCausalLM"),
    ("roberta_prelayernorm:decoder", "ForCausalLM"),
    ("xlm_roberta_xl:decoder", "ForCausalLM"),
    ("big_bird:decoder", "ForCausalLM"),
]
every_encoder = pytest.mark.parametrize("architecture", [case.partition(":")[0] for case, _ in DECODERS])


@pytest.mark.parametrize(("architecture", "head"), DECODERS)
def test_decoders_are_found(architecture, head):
    folder = checkpoint(architecture, head)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is type(ours(architecture, head)) is getattr(pellucid, type(model).__name__)
    for auto in (AutoModel, AutoModelForMaskedLM):
        with pytest.raises(
            ConfigError, match=r"is_decoder is True, but .* looks to both sides; .*AutoModelForCausalLM"
        ):
            auto.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, is_decoder=False) if not model.config.add_cross_attention else None
    assert encoder is None or torch.equal(
        encoder.embeddings.word_embeddings.weight, model.base_model.embeddings.word_embeddings.weight
    )


@every_encoder
def test_a_decoder_from_an_encoders_file(architecture):
    folder = checkpoint(architecture, "ForMaskedLM")
    with pytest.raises(ConfigError, match=r"is_decoder is False, .*pass is_decoder=True .*AutoModelForMaskedLM"):
        AutoModelForCausalLM.from_pretrained(folder)
    model, encoder = AutoModelForCausalLM.from_pretrained(folder, is_decoder=True), ours(architecture, "ForMaskedLM")
    assert not model.load_report.new
    assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in model.state_dict().items())
    ids = torch.stack(texts(model, [9, 9]))
    one, other = model(ids).logits, model(torch.cat([ids[:, :5], ids[:, 5:].flip(1)], dim=1)).logits
    assert torch.allclose(one[:, :5], other[:, :5], atol=1e-6) and not torch.allclose(one, encoder(ids).logits)


@every_encoder
def test_heads_of_another_task_are_no_decoder(architecture):
    with pytest.raises(WeightsError, match=r"missing in the checkpoint: (cls\.|generator_|lm_head\.)"):
        AutoModelForCausalLM.from_pretrained(checkpoint(architecture, "ForTokenClassification"), is_decoder=True)


def test_a_source_needs_a_decoder():
    with pytest.raises(ConfigError, match="add_cross_attention is True, but is_decoder is False"):
        pellucid.BertConfig(**BERT, add_cross_attention=True)
