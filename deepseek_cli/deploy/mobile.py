"""The mobile target: a program for ExecuTorch with XNNPACK, and beside it the ONNX bundle for ONNX Runtime's mobile packages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.deploy import cpu
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target
from deepseek_cli.errors import MemoryShort, ModelUnsupported
from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops.executorch_constants import common_group
from deepseek_cli.ops.executorch_ops import GROUP, emit, methods
from deepseek_cli.ops.order import order_of_use
from deepseek_cli.quantize.folder import clean_config, copy_licence
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.executorch_session import PROGRAM, load, open_folder, read, runtime
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor, Weight

FAMILIES = ("llama", "qwen2", "qwen3")
LONGEST_CONTEXT = 2048  # whose KV cache is reserved at once, unless --context says more
ONNX, README = "onnx", Path(__file__).parent / "templates" / "mobile" / "README.md"
LAYER_BYTES = 40_000_000  # what ExecuTorch holds of a layer's graph while it lowers it, whatever the layer's size
NOTHING = torch.ones(0)  # equals no weight
FILES = (PROGRAM, "config.json", "tokenizer.json", "tokenizer_config.json", README.name)


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write program, tokenizer, README, and the ONNX bundle, into `folder`, for up to `context` tokens.

    Raises MissingExtra without ExecuTorch, ModelUnsupported for what it cannot hold, and MemoryShort where its graph would not
    fit, which ExecuTorch has in memory at once. Weights are streamed.
    """
    runtime()
    check_fits(handle)
    require_memory(handle)
    (folder / ONNX).mkdir()
    found = cpu.emit_bundle(handle, spec, folder / ONNX, context, threads, reporter)
    (folder / ONNX / README.name).unlink()  # the one for both says how it runs
    reporter.progress("export", 0, 1)
    emit(handle.architecture, handle.config, handle.weights, folder / PROGRAM, context)
    reporter.progress("export", 1, 1)
    open_tokenizer(handle.root).save(folder)
    cpu.write_json(folder / "config.json", clean_config(handle.raw_config))
    copy_licence(handle.root, folder)
    text = README.read_text(encoding="utf-8").replace("{name}", handle.name).replace("{context}", str(context))
    (folder / README.name).write_text(text, encoding="utf-8")
    return {"readers": ["deepseek", "executorch", "onnxruntime"], "dense_fallbacks": found["dense_fallbacks"]}


def check_fits(handle: ModelHandle) -> None:
    """Raises ModelUnsupported for another family, and for codes that ExecuTorch cannot hold: none is rounded anew unasked."""
    if handle.architecture.name not in FAMILIES:
        raise ModelUnsupported(
            "{model}: programs for ExecuTorch are not written for the architecture {family} yet.",
            hint="Written are {known}. Deploy it with --target cpu.",
            model=handle.name,
            family=handle.architecture.name,
            known=", ".join(FAMILIES),
        )
    for name, ref in handle.weights.items():
        if ref.quantized and (reason := unfit(ref.read())):
            raise ModelUnsupported(
                "{model} cannot be carried to ExecuTorch as it is: {tensor}: {reason}.",
                hint="Round it anew, and deploy the result: deepseek quantize {source} --scheme int4-g32-pos",
                model=handle.name,
                tensor=name,
                reason=reason,
                source=handle.manifest.source.get("original_path", handle.name),
            )
        ref.release()


def unfit(weight: Weight) -> str:
    """Why XNNPACK has no kernel for the codes of a weight; "" where it has."""
    if isinstance(weight, CorrectedTensor):
        return "XNNPACK has no place for its low-rank correction"
    if not isinstance(weight, QuantizedTensor):
        return "its format has no counterpart in XNNPACK"
    if weight.zero is not None or weight.offset is not None:
        return "its groups have zero points"
    if weight.permutation is not None:
        return "its groups do not follow the order of its inputs (act-order)"
    if not bool((weight.scale > 0).all()):
        return "it has negative scales"
    group = common_group(weight)
    if weight.bits == 8 and group < weight.shape[1]:
        return "XNNPACK has int8 with one scale for a row, not in groups"
    if weight.bits == 4 and group % GROUP:
        return f"groups of {group} are no multiple of {GROUP}"
    if weight.bits == 4 and not torch.equal(weight.scale.bfloat16().float(), weight.scale):
        return "bfloat16 does not hold its scales"
    return ""


def require_memory(handle: ModelHandle) -> None:
    """Raises MemoryShort where the export would take more than what is free."""
    needed, free = LAYER_BYTES * handle.config.layers, free_bytes()
    if needed > free:
        raise MemoryShort(
            "Exporting {model} for ExecuTorch needs {needed} MB, and {free} MB are free.",
            hint="Use a smaller model, or --target cpu, which streams.",
            model=handle.name,
            needed=needed // 1_000_000,
            free=free // 1_000_000,
        )


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """The program loads in ExecuTorch's runtime, and says of itself what a runner asks; the ONNX graph is that of the model."""
    program = load(folder / PROGRAM)
    longest = int(program.load_method("get_max_context_len").execute([])[0])
    wanted = methods(handle.config, longest)
    names = {"forward", *wanted} ^ program.method_names
    said = {name: program.load_method(name).execute([]) for name in wanted.keys() & program.method_names}
    names |= {name for name, value in said.items() if value != (wanted[name] if name == "get_eos_ids" else [wanted[name]])}
    return sorted(names) + [file for file in (*FILES, ONNX) if not (folder / file).exists()]


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    """The program's weights, told apart by when they are used. One that it lacks is empty."""
    order = order_of_use(handle.architecture, handle.config, handle.weights)
    program = read(folder / PROGRAM)
    yield from paired(order.products, program.products())
    yield from paired(order.factors, program.factors())


def paired(names: list[str], weights: Iterator[Weight]) -> Iterator[tuple[str, Weight]]:
    for name, weight in zip_longest(names, weights):
        yield name or "one weight too many", NOTHING if weight is None else weight


TARGET = Target(
    "mobile",
    emit_bundle,
    unexpected,
    read_back,
    open_folder,
    runtime,
    parts={ONNX: cpu.TARGET},
    longest_context=LONGEST_CONTEXT,
)
