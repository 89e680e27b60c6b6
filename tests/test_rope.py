"""Rotary positions are implemented as a config says, or refused."""

import sys

import pytest

from cases import CASES, HEADS
from oracle import our_class
from pellucid.errors import ConfigError
from pellucid.rope import switch_of


def config_of(name):
    return our_class(name, "Model").config_class


TURNING = [
    name
    for name in HEADS
    if ":" not in name
    and hasattr(sys.modules[config_of(name).__module__], "Rope")
    and "rope_parameters" in config_of(name).fields()
]


@pytest.mark.parametrize("architecture", TURNING)
def test_a_share_of_each_head(architecture):
    """Files that turn whole heads say so."""
    kind = config_of(architecture)
    values = {name: value for name, value in CASES[architecture].items() if not name.startswith("rope_")}
    partial = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    if "partial_rotary_factor" in kind.fields():
        kind.from_dict(values | {"rope_parameters": partial})
    else:
        with pytest.raises(ConfigError, match=r"partial_rotary_factor is 0\.5; .* implements 1\.0 alone"):
            kind.from_dict(values | {"rope_parameters": partial})
        kind.from_dict(values | {"rope_parameters": partial | {"partial_rotary_factor": 1.0}})


@pytest.mark.parametrize("share", ["half", 0, -0.5, float("nan"), [0.5]])
def test_a_share_that_is_none(share):
    with pytest.raises(ConfigError, match="partial_rotary_factor"):
        config_of("llama").from_dict({**CASES["llama"], "rope_parameters": {"partial_rotary_factor": share}})


def test_where_a_longer_text_is_turned_otherwise():
    assert switch_of(config_of("phi3").from_dict(CASES["phi3:longrope"])) == 10
    assert switch_of(config_of("llama").from_dict(CASES["llama:linear"])) is None
    assert switch_of(config_of("gpt2").from_dict(CASES["gpt2"])) is None
