"""How llama.cpp is told to rotate: a linear or YaRN scaling as keys, any other one as a tensor of divisors where it reads one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.architectures.rope import plain, yarn
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.fields import Fields
from deepseek_cli.handle import ModelHandle

DIVIDED = ("llama",)  # architectures of llama.cpp's that read divisors
TOLERANCE = 1e-5  # of a ratio of two frequencies


@dataclass(frozen=True, slots=True)
class Rotation:
    """`keys` stand behind the architecture's name; `factors` divide the plain frequencies, as `rope_freqs.weight`."""

    keys: dict[str, Any]
    factors: list[float] | None = None


def rotation(handle: ModelHandle, family: str) -> Rotation:
    """What a file of llama.cpp's architecture `family` says. Raises ModelUnsupported for what it has no place for."""
    rope, base, scaling = handle.config.rope, *_stated(handle)
    ratios = [p / f for p, f in zip(plain(base, 2 * len(rope.inverse_frequency)), rope.inverse_frequency, strict=True)]
    keys: dict[str, Any] = {"rope.freq_base": base}
    if max(ratios) - min(ratios) <= TOLERANCE * max(ratios) and rope.factor == 1:
        if math.isclose(ratios[0], 1, rel_tol=TOLERANCE):
            return Rotation(keys | _scores(handle, 1.0, 1.0))
        stretch = {"rope.scaling.type": "linear", "rope.scaling.factor": ratios[0]}
        return Rotation(keys | stretch | _scores(handle, ratios[0], 1 + 0.1 * math.log(ratios[0])))
    if family in DIVIDED:
        return Rotation(keys | {"rope.scaling.type": "none", "rope.scaling.attn_factor": rope.factor}, ratios)
    found = _yarn(handle, base, scaling)
    if found is None:
        raise ModelUnsupported(
            "{model}: a GGUF file of the architecture {family} does not hold its rotary scaling.",
            hint="Deploy it with --target cpu.",
            model=handle.name,
            family=family,
        )
    return Rotation(keys | found)


def _stated(handle: ModelHandle) -> tuple[float, dict[str, Any]]:
    """The rotary base, and what the config says of a scaling; it was checked when it was opened."""
    raw = handle.raw_config
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return float(scaling.get("rope_theta", raw.get("rope_theta", 10000.0))), scaling


def _yarn(handle: ModelHandle, base: float, scaling: dict[str, Any]) -> dict[str, Any] | None:
    """The keys of a YaRN scaling, if llama.cpp comes to the same frequencies: it always rounds the ramp's ends."""
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        return None
    rope, context = handle.config.rope, handle.config.context
    original = int(scaling.get("original_max_position_embeddings") or context)
    factor = float(scaling.get("factor") or context / original)
    fast, slow = (float(scaling.get(key) or usual) for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)))
    said = {"factor": factor, "original_max_position_embeddings": original, "beta_fast": fast, "beta_slow": slow}
    theirs = yarn(Fields(said, Path()), plain(base, 2 * len(rope.inverse_frequency)), base, context).inverse_frequency
    pairs = zip(theirs, rope.inverse_frequency, strict=True)
    if factor <= 1 or not all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs):
        return None
    keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
        "rope.scaling.yarn_beta_fast": fast,
        "rope.scaling.yarn_beta_slow": slow,
    }
    magnitude = 1 + 0.1 * math.log(factor)
    if getattr(handle.config, "latent", None):
        return keys | {"rope.scaling.attn_factor": rope.factor} | _scores(handle, factor, rope.factor)
    return keys | {"rope.scaling.attn_factor": rope.factor / magnitude}  # what llama.cpp multiplies with of its own


def _scores(handle: ModelHandle, factor: float, before: float) -> dict[str, Any]:
    """What makes llama.cpp scale the scores of latent attention as the model does.

    It multiplies them by (before * (1 + multiplier * ln(factor))) ** 2, `before` being its own factor on cos and sin. A
    multiplier of zero would change that factor, so it is one that is lost in float32.
    """
    latent = getattr(handle.config, "latent", None)
    if latent is None or factor == 1:
        return {}
    wanted = math.sqrt(latent.scale * math.sqrt(latent.nope_dim + latent.rope_dim))
    return {"rope.scaling.yarn_log_multiplier": (wanted / before - 1) / math.log(factor) or 1e-30}
