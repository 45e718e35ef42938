"""What a model would take here, from its config.json alone, against the estimate that sees its weights."""

from __future__ import annotations

import json
from collections.abc import Callable

import psutil
import pytest

from deepseek_cli.profile.devices import memory_here
from deepseek_cli.profile.preflight import preflight
from deepseek_cli.sources.embedded import DATA
from tests.conftest import Outcome

GIB = 1 << 30
NANO = json.loads((DATA / "nano" / "config.json").read_text())


LLAMA = {
    "model_type": "llama",
    "vocab_size": 1000,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def test_it_agrees_with_the_estimate_that_sees_the_weights(cli: Callable[..., Outcome]) -> None:
    as_it_is, small, quantizing = preflight("nano", NANO)
    sparse = cli("profile", "nano", "--estimate", "--scheme", "int4", "--json").json
    assert small.needed_bytes == sparse["total_bytes"]
    weights = sum(p["bytes"] for p in cli("profile", "nano", "--estimate", "--kv", "fp16", "--json").json["weights"])
    assert as_it_is.needed_bytes - small.needed_bytes == pytest.approx(weights - sparse["weights_bytes"], rel=0.05)
    assert [(f.work, f.verdict) for f in (as_it_is, small, quantizing)] == [
        ("run", "fits"),
        ("run", "fits"),
        ("quantize", "fits"),
    ]
    assert (as_it_is.scheme, small.scheme, quantizing.scheme) == ("fp8", "int4-g32", "int4-g32")


def test_a_model_that_is_larger_than_the_machine() -> None:
    beyond = psutil.virtual_memory().total // (3 * 256 * (1 << 20))  # layers of 3 matrices of 1,024 × 131,072 in bf16
    large = LLAMA | {"num_hidden_layers": min(beyond, 4000), "hidden_size": 1024, "intermediate_size": 1 << 17}
    as_it_is, small, quantizing = preflight("large", large)
    assert as_it_is.verdict == "does not fit"
    assert small.needed_bytes < as_it_is.needed_bytes / 3
    assert quantizing.needed_bytes < 3 * GIB  # a weight at a time


def test_what_a_config_does_not_say_is_not_guessed() -> None:
    assert preflight("x", NANO | {"quantization_config": {"quant_method": "gptq", "bits": 4}}) == ()


def test_the_memory_is_this_machines() -> None:
    here = memory_here()
    assert 0 < here.memory_bytes <= psutil.virtual_memory().total
    assert here.bandwidth is None
