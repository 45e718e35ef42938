"""Rotary position embeddings and their scalings, resolved to one table of inverse frequencies."""

from __future__ import annotations

import math

from deepseek_cli.fields import Fields
from deepseek_cli.ops import Rope


def read_rope(fields: Fields, head_dim: int, context: int) -> Rope:
    """The rotary embedding of a config, old style (rope_theta beside rope_scaling) or new (rope_parameters).

    Raises ModelUnsupported for a scaling that is not one of SCALINGS, ModelCorrupt for a damaged one.
    """
    scaling = fields.object("rope_parameters") or fields.object("rope_scaling")
    theta = fields.number("rope_theta", 10000.0, low=1.0)
    if scaling is None:
        return Rope(plain(theta, head_dim))
    theta = scaling.number("rope_theta", theta, low=1.0)
    kind = scaling.choice("rope_type", SCALINGS, scaling.text("type", "default"))
    return SCALINGS[kind](scaling, plain(theta, head_dim), theta, context)


def softmax_factor(fields: Fields) -> float:
    """What YaRN multiplies attention scores with where a config has `mscale_all_dim`: its magnitude, for queries and for keys."""
    scaling = fields.object("rope_parameters") or fields.object("rope_scaling")
    if scaling is None or scaling.text("rope_type", scaling.text("type", "default")) == "default":
        return 1.0
    weight = scaling.number("mscale_all_dim", 0.0)
    return magnitude(scaling.number("factor", low=1e-6), weight) ** 2 if weight else 1.0


def magnitude(scale: float, weight: float = 1.0) -> float:
    """YaRN's attention temperature (arXiv 2309.00071, equation 22), weighted."""
    return 0.1 * weight * math.log(scale) + 1.0 if scale > 1 else 1.0


def plain(theta: float, head_dim: int) -> tuple[float, ...]:
    return tuple(theta ** (-2 * j / head_dim) for j in range(head_dim // 2))


def default(_: Fields, inverse: tuple[float, ...], theta: float, context: int) -> Rope:
    return Rope(inverse)


def linear(scaling: Fields, inverse: tuple[float, ...], theta: float, context: int) -> Rope:
    """Position interpolation (arXiv 2306.15595)."""
    factor = scaling.number("factor", low=1e-6)
    return Rope(tuple(f / factor for f in inverse))


def frequency_factors(scaling: Fields, inverse: tuple[float, ...], theta: float, context: int) -> Rope:
    """One divisor per frequency, as GGUF files carry them in `rope_freqs.weight`, and a factor on cos and sin."""
    factors = scaling.floats("factors")
    if len(factors) != len(inverse) or min(factors) <= 0:
        raise scaling.wrong("factors", f"a list of {len(inverse)} positive numbers")
    return Rope(tuple(f / s for f, s in zip(inverse, factors, strict=True)), scaling.number("attention_factor", 1.0))


def llama3(scaling: Fields, inverse: tuple[float, ...], theta: float, context: int) -> Rope:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended."""
    factor = scaling.number("factor", low=1e-6)
    low, high = scaling.number("low_freq_factor", low=1e-6), scaling.number("high_freq_factor", low=1e-6)
    original = scaling.integer("original_max_position_embeddings")

    def scaled(frequency: float) -> float:
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            return frequency
        if wavelength > original / low:
            return frequency / factor
        blend = (original / wavelength - low) / (high - low)
        return (1 - blend) * frequency / factor + blend * frequency

    return Rope(tuple(map(scaled, inverse)))


def yarn(scaling: Fields, inverse: tuple[float, ...], theta: float, context: int) -> Rope:
    """YaRN (arXiv 2309.00071, section 3): a ramp from interpolated to kept frequencies, and a factor on cos and sin."""
    original = scaling.integer("original_max_position_embeddings", context)
    factor = scaling.number("factor", context / original, low=1e-6)
    dim = 2 * len(inverse)

    def dimension_of(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(scaling.number("beta_fast", 32.0)), dimension_of(scaling.number("beta_slow", 1.0))
    if scaling.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = [min(max((j - low) / (high - low), 0.0), 1.0) for j in range(len(inverse))]
    blended = tuple(f / factor * r + f * (1 - r) for f, r in zip(inverse, ramp, strict=True))
    return Rope(blended, _yarn_factor(scaling, factor))


def _yarn_factor(scaling: Fields, factor: float) -> float:
    if scaling.values.get("attention_factor") is not None:
        return scaling.number("attention_factor")
    if scaling.values.get("mscale") and scaling.values.get("mscale_all_dim"):
        return magnitude(factor, scaling.number("mscale")) / magnitude(factor, scaling.number("mscale_all_dim"))
    return magnitude(factor)


SCALINGS = {
    "default": default,
    "linear": linear,
    "llama3": llama3,
    "yarn": yarn,
    "frequency_factors": frequency_factors,
}
