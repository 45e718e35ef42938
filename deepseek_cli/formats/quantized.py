"""Checkpoints that come quantized: the parts of each weight joined into one reference, by the method config.json names.

And the parts of those that are written here: compressed-tensors, or blocks where a scheme is one of ggml's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats import fp8
from deepseek_cli.plugins import load
from deepseek_cli.refs import TensorRef
from deepseek_cli.schemes import Scheme

if TYPE_CHECKING:  # dense and FP8 checkpoints are opened without it
    from torch import Tensor

    from deepseek_cli.formats.safetensors import Planned
    from deepseek_cli.tensors import Quantized

Assemble = Callable[[Mapping[str, TensorRef], Mapping[str, Any], Path], dict[str, TensorRef]]
MLX, BLOCKS = "mlx", "ggml-blocks"
METHODS = {
    "compressed-tensors": "deepseek_cli.formats.compressed:assemble",
    "fp8": "deepseek_cli.formats.fp8:assemble",
    "gptq": "deepseek_cli.formats.gptq:assemble",
    "awq": "deepseek_cli.formats.awq:assemble",
    MLX: "deepseek_cli.formats.mlx:assemble",
    BLOCKS: "deepseek_cli.formats.block_folder:assemble",
}
AUTO_ROUND = {  # its own name for what others' layouts hold
    "auto_round:auto_gptq": {"quant_method": "gptq"},
    "auto_round:gptqmodel": {"quant_method": "gptq", "checkpoint_format": "gptq_v2"},
    "auto_round": {"quant_method": "gptq", "checkpoint_format": "gptq_v2"},
    "auto_round:auto_awq": {"quant_method": "awq", "version": "gemm"},
}


def normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json whose `quantization`, MLX's own field, stands in quantization_config like that of any other method."""
    settings, rest = config.get("quantization"), {k: v for k, v in config.items() if k != "quantization"}
    known = config.get("quantization_config")
    if not isinstance(settings, dict) or (isinstance(known, dict) and "quant_method" in known):
        return rest
    return rest | {"quantization_config": {**settings, "quant_method": MLX}}


def assemble(tensors: Mapping[str, TensorRef], config: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The tensors of a checkpoint, each weight one reference, whatever it lies in. `file` is where `config` was read.

    Raises ModelUnsupported for a method or a variant that is not read, ModelCorrupt for parts that are missing or disagree.
    """
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        fp8.refuse_unscaled(tensors, file)
        return dict(tensors)
    settings = {**settings, **AUTO_ROUND.get(str(settings.get("packing_format")), {})}
    method = settings.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise ModelUnsupported(
            "{file}: quantization {method} is not supported.",
            hint="Supported are {known}.",
            file=file,
            method=settings.get("packing_format") or method,
            known=", ".join(METHODS),
        )
    assembler: Assemble = load(METHODS[method])
    joined = assembler(tensors, settings, file)
    fp8.refuse_unscaled(joined, file)
    return joined


def planned_parts(stem: str, shape: tuple[int, int], scheme: Scheme) -> list[Planned]:
    """What `parts_of` will give for a weight called `stem` (without `.weight`)."""
    from deepseek_cli.formats import block_folder, compressed

    return [block_folder.planned_part(stem, shape, scheme)] if scheme.block else compressed.planned_parts(stem, shape, scheme)


def parts_of(stem: str, weight: Quantized, scheme: Scheme) -> Iterable[tuple[str, Tensor]]:
    """The tensors that hold a quantized weight on disk."""
    from deepseek_cli.formats import compressed
    from deepseek_cli.formats.gguf_writer import encode
    from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor

    if scheme.block:  # a Q8_0 that was read again is codes and scales
        return [(f"{stem}.weight.{scheme.block}", encode(weight, scheme.block))]
    if isinstance(weight, CorrectedTensor):
        return compressed.parts_of(stem, replace(weight, rounded=weight.rounded.with_bits(scheme.bits)))
    assert isinstance(weight, QuantizedTensor)
    return compressed.parts_of(stem, weight.with_bits(scheme.bits))


def quantization_config(schemes: Mapping[str, Scheme], left: list[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json: weights by `schemes`, all blocks or none, and dense ones."""
    from deepseek_cli.formats import compressed

    if any(scheme.block for scheme in schemes.values()):
        return {"quant_method": BLOCKS}
    return compressed.quantization_config(schemes, left)
