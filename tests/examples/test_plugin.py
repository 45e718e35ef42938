"""The example plug-in is read by the same code as our own architectures."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import tomli

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.fields import Fields
from deepseek_cli.ops import Architecture

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
CONFIG = {
    "model_type": "mistral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "vocab_size": 100,
}


@pytest.fixture(scope="module")
def mistral() -> Architecture:
    project = tomli.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["deepseek.architectures"]["mistral"].partition(":")
    return runpy.run_path(str(PLUGIN / f"{module}.py"))[name]


def read(mistral: Architecture, **changes: Any) -> Any:
    return mistral.read_config(Fields(CONFIG | changes, Path("config.json")))


def test_it_reads_a_config_and_names_the_weights(mistral: Architecture) -> None:
    shapes = dict(mistral.weights(read(mistral)))
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (32, 64)
    assert "lm_head.weight" in shapes


def test_it_refuses_the_version_with_a_sliding_window(mistral: Architecture) -> None:
    with pytest.raises(ModelUnsupported, match=r"config\.json: sliding-window"):
        read(mistral, sliding_window=4096)
