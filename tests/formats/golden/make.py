"""The checkpoints in this folder: weights packed, and values given back, by the formats' own libraries.

    python tests/formats/golden/make.py gptq FOLDER     # gptqmodel 7.7
    python tests/formats/golden/make.py awq FOLDER      # auto-round 0.16, which carries AutoAWQ's layer
    python tests/formats/golden/make.py mlx FOLDER      # mlx[cpu] 0.32

Each in an environment of its own with numpy and safetensors; the tests need none of them. In FOLDER/FORMAT.safetensors a case
`name` is a linear with the format's own parts, `name.values` [out, in] what its library computes with, and the metadata hold
the case's quantization_config.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OUT, INPUTS = 16, 128
Case = tuple[dict[str, Any], dict[str, Any]]  # tensors, and what stands in config.json


def weights(seed: int) -> np.ndarray:
    """float32 [out, in], the first rows without a sign: their zero points lie at an end."""
    values = np.random.default_rng(seed).normal(size=(OUT, INPUTS)).astype(np.float32)
    values[0], values[1] = abs(values[0]), -abs(values[1])
    return values


def grid(values: np.ndarray, bits: int, group: int, sym: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points [out, groups]."""
    blocks = values.reshape(OUT, -1, group)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    if sym:
        scale = np.maximum(-low, high) / (2 ** (bits - 1) - 1)
        return scale.astype(np.float16).astype(np.float32), np.full_like(scale, 2 ** (bits - 1))
    scale = ((high - low) / (2**bits - 1)).astype(np.float16).astype(np.float32)
    return scale, (-low / scale).round().clip(0, 2**bits - 1)


def gptq() -> dict[str, Case]:
    import torch
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    def case(seed: int, bits: int, group: int, sym: bool, version: str, desc_act: bool = False) -> Case:
        values, size = weights(seed), INPUTS if group == -1 else group
        order = np.random.default_rng(seed).permutation(INPUTS) if desc_act else np.arange(INPUTS)  # in which groups are runs
        scale, zero = (torch.from_numpy(t) for t in grid(values[:, order], bits, size, sym))
        index = torch.from_numpy((order.argsort() // size).astype(np.int32))
        linear = torch.nn.Linear(INPUTS, OUT, bias=False)
        linear.weight.data = torch.from_numpy(values)
        layer = TorchLinear(
            bits=bits, group_size=group, sym=sym, desc_act=desc_act, in_features=INPUTS, out_features=OUT, bias=False,
            register_buffers=True,
        )  # fmt: skip
        layer.pack_original(linear, scale, zero, index)
        config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": desc_act}
        config |= {"checkpoint_format": version, "lm_head": False, "pack_dtype": "int32"}
        layer._init_wf_unsqueeze_buffers()
        dequantized = layer.dequantize_weight().T.contiguous().float()
        assert (dequantized - linear.weight).abs().max() < 2 * scale.max()
        if version == "gptq":
            convert_gptq_v2_to_v1_format_module(layer, type("Config", (), {"bits": bits, "pack_dtype": torch.int32}))
        parts = {part: getattr(layer, part).contiguous() for part in ("qweight", "qzeros", "scales", "g_idx")}
        return {k: t.numpy() for k, t in {**parts, "values": dequantized.half()}.items()}, config

    return {
        "v1-sym": case(0, 4, 32, True, "gptq"),
        "v1-asym": case(1, 4, 32, False, "gptq"),
        "v2-asym": case(2, 4, 64, False, "gptq_v2"),
        "v1-int8": case(3, 8, 32, False, "gptq"),
        "v2-int8-channel": case(4, 8, -1, True, "gptq_v2"),
        "act-order": case(5, 4, 32, False, "gptq", desc_act=True),
        "act-order-int8": case(6, 8, 64, True, "gptq", desc_act=True),
    }


def awq() -> dict[str, Case]:
    import torch
    from auto_round.export.export_to_awq.utils import WQLinear_GEMM, dequantize_gemm

    def case(seed: int, group: int, sym: bool) -> Case:
        values = weights(seed)
        linear = torch.nn.Linear(INPUTS, OUT, bias=False)
        linear.weight.data = torch.from_numpy(values)
        scale, zero = (torch.from_numpy(t).T.contiguous() for t in grid(values, 4, group, sym))
        codes = (linear.weight / scale.T.repeat_interleave(group, 1) + zero.T.repeat_interleave(group, 1)).round().clamp(0, 15)
        on_grid = (codes - zero.T.repeat_interleave(group, 1)) * scale.T.repeat_interleave(group, 1)
        linear.weight.data = on_grid  # the layer itself clamps nothing
        layer = WQLinear_GEMM.from_linear(linear, 4, group, scales=scale, zeros=zero)
        parts = {part: getattr(layer, part) for part in ("qweight", "qzeros", "scales")}
        parts["values"] = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, group).T.contiguous().half()
        assert (parts["values"] - on_grid).abs().max() < 1e-2
        config = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": group, "zero_point": not sym}
        return {k: t.detach().numpy() for k, t in parts.items()}, config | {"modules_to_not_convert": ["lm_head"]}

    return {"asym": case(0, 32, False), "asym-g128": case(1, 128, False), "sym": case(2, 64, True)}


def mlx() -> dict[str, Case]:
    import mlx.core as mx

    def case(seed: int, bits: int, group: int, dtype: Any, whole: bool = False) -> Case:
        """`whole` weights lie on a grid whose offsets are integer multiples of the scales."""
        values = weights(seed)
        if whole:
            codes = np.random.default_rng(seed).integers(0, 2**bits, size=(OUT, INPUTS // group, group))
            codes[..., :2] = 0, 2**bits - 1  # the ends of the grid, so that it is the one that is found
            values = ((codes - 2.0 ** (bits - 1)) * 0.03125).reshape(OUT, INPUTS).astype(np.float32)
        packed, scales, biases = mx.quantize(mx.array(values).astype(dtype), group_size=group, bits=bits)
        wide = (scales.astype(mx.float32), biases.astype(mx.float32))
        found = mx.dequantize(packed, *wide, group_size=group, bits=bits)
        parts = {"weight": np.array(packed), "values": np.array(found)}
        kind = np.float16  # both are given in a dtype that numpy has
        held = {name: np.array(t) for name, t in zip(("scales", "biases"), wide, strict=True)}
        if dtype == mx.float16:
            held = {name: t.astype(kind) for name, t in held.items()}
        return {**parts, **held}, {"group_size": group, "bits": bits, "mode": "affine"}

    return {
        "g64": case(0, 4, 64, mx.float16),
        "g32": case(1, 4, 32, mx.float32),
        "int8": case(2, 8, 128, mx.float16),
        "whole": case(3, 4, 64, mx.float16, whole=True),
        "whole-int8": case(4, 8, 64, mx.float16, whole=True),
    }


MAKERS: dict[str, Callable[[], dict[str, Case]]] = {"gptq": gptq, "awq": awq, "mlx": mlx}


if __name__ == "__main__":
    from safetensors.numpy import save_file

    kind, folder = sys.argv[1:]
    cases = MAKERS[kind]()
    tensors = {f"{name}.{part}": np.ascontiguousarray(t) for name, (parts, _) in cases.items() for part, t in parts.items()}
    configs = {name: json.dumps(config) for name, (_, config) in cases.items()}
    save_file(tensors, Path(folder) / f"{kind}.safetensors", configs)
