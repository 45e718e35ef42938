"""What the work needs at least, counted from shapes and files: bytes to read and operations, for the limits of this machine."""

from __future__ import annotations

from typing import Any

from deepseek_cli.bench.metrics import decodings
from deepseek_cli.errors import DeepseekError
from deepseek_cli.handle import Bundle, ModelHandle

IN_PART = "it attends to a part of its keys"
IN_FLOAT32 = ("cpu",)  # targets whose dense weights are computed with in float32


def demand(
    model: ModelHandle | Bundle, prompts: tuple[int, ...], news: tuple[int, ...], depths: tuple[int, ...], *, sparse: bool
) -> dict[str, Any]:
    """`needs` of each rate: its tokens, and bytes and operations for all of them; `matrix`, the kind of products.

    Where they cannot be counted, `missing` says why.
    """
    from deepseek_cli.profile.estimate import kv_bytes, read_bytes
    from deepseek_cli.profile.sketch import sketch_of

    if sparse:
        return _uncounted(IN_PART, news, depths)
    try:
        sketch = sketch_of(model)
        weights, token = sketch.weights, kv_bytes(sketch, sketch.kv)
    except (DeepseekError, OSError) as error:
        return _uncounted(str(error), news, depths)
    needs = {
        f"prefill@{n}": {
            "tokens": n,
            "bytes": read_bytes(sketch, weights, batch=n) + token * n,
            "operations": sketch.count(n).flops,
        }
        for n in prompts
    }
    step = read_bytes(sketch, weights, batch=1)
    for depth in depths:
        for where, new in decodings(depth, news).items():
            middle = depth + new // 2
            needs[f"decode@{where}"] = {
                "tokens": 1,
                "bytes": step + token * middle,
                "operations": sketch.count(1, past=middle).flops,
            }
    return {"needs": needs, "matrix": matrix(model), "missing": {}}


def matrix(model: ModelHandle | Bundle) -> str:
    """The kind of matrix products that bounds it: bundles of quantized weights round activations to int8 too."""
    if not isinstance(model, Bundle):
        return "fp32"
    if any(str(scheme).startswith(("int", "q")) for scheme in model.manifest.quantization.values()):
        return "int8"
    return "fp32" if model.target in IN_FLOAT32 else "bf16"


def _uncounted(reason: str, news: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, Any]:
    places = [where for depth in depths for where in decodings(depth, news)]
    return {"needs": {}, "matrix": None, "missing": {f"touched@{where}": reason for where in places}}
