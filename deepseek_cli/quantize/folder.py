"""Quantizing a model into a folder: one tensor in memory at a time, complete or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, UsageError
from deepseek_cli.formats import compressed
from deepseek_cli.formats.safetensors import Planned, Writer
from deepseek_cli.handle import ModelHandle
from deepseek_cli.manifest import Manifest, list_files, step, write_manifest
from deepseek_cli.quantize import rtn
from deepseek_cli.quantize.plan import Item, Plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.spec import as_record
from deepseek_cli.store import require_space, staged
from deepseek_cli.tensors import DENSE_DTYPES, QuantizedTensor, dense

LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` made: its manifest, and the relative error of each quantized tensor."""

    manifest: Manifest
    errors: Mapping[str, float]


def write(
    handle: ModelHandle, spec: QuantizeSpec, plan: Plan, name: str, final: Path, force: bool = False, reporter: Reporter = SILENT
) -> Written:
    """Quantize `handle` by `plan` into the folder `final`.

    Raises ModelCorrupt for a NaN (naming its tensor), DiskFull before any work, UsageError for an output inside the input.
    """
    if final.resolve().is_relative_to(handle.root.resolve()) and handle.root.is_dir():
        raise UsageError("The output {path} lies inside the model's own folder.", hint="Choose another -o.", path=final)
    planned = [part for item in plan.items for part in _planned(handle, item)]
    require_space(final, sum(part.size for part in planned) + (64 << 20))
    with staged(final, force) as folder:
        errors = _write_tensors(handle, plan, folder, planned, reporter)
        (folder / "config.json").write_text(json.dumps(_config(handle, plan), indent=2) + "\n", encoding="utf-8")
        open_tokenizer(handle.root).save(folder)
        _copy_licence(handle.root, folder)
        manifest = _manifest(handle, spec, plan, name, folder)
        write_manifest(folder, manifest)
    return Written(manifest, errors)


def _write_tensors(handle: ModelHandle, plan: Plan, folder: Path, planned: list[Planned], reporter: Reporter) -> dict[str, float]:
    total, done = handle.size_bytes, 0
    errors: dict[str, float] = {}
    with Writer(folder, planned) as writer:
        for item in plan.items:
            for part, tensor in _parts(handle, item, errors):
                writer.write(part, tensor)
            ref = handle.tensors[item.name]
            ref.release()
            done += ref.size_bytes
            reporter.progress("quantize", done, total, "B")
    return errors


def _planned(handle: ModelHandle, item: Item) -> list[Planned]:
    if item.scheme.bits == 16:
        return [Planned(item.name, _dense_dtype(handle, item), item.shape)]
    return compressed.planned_parts(item.name.removesuffix(".weight"), (item.shape[0], item.shape[1]), item.scheme)


def _parts(handle: ModelHandle, item: Item, errors: dict[str, float]) -> Iterator[tuple[str, Tensor]]:
    weight = dense(handle.tensors[item.name].read())
    if item.scheme.bits == 16:
        if not torch.isfinite(weight).all():
            raise _not_finite(handle, item)
        yield item.name, weight.to(_dense_dtype(handle, item))
        return
    try:
        quantized = rtn.quantize(weight, item.scheme)
    except ValueError:
        raise _not_finite(handle, item) from None
    errors[item.name] = relative_error(weight, quantized)
    yield from compressed.parts_of(item.name.removesuffix(".weight"), quantized)


def relative_error(weight: Tensor, quantized: QuantizedTensor, rows: int = 64) -> float:
    """‖W − Ŵ‖ / ‖W‖ over evenly spaced rows: enough for a table, and a fraction of the work."""
    pick = torch.arange(0, weight.shape[0], max(weight.shape[0] // rows, 1))
    exact = weight[pick].float()
    return float((exact - quantized.rows(pick).dequantize()).norm() / exact.norm().clamp_min(1e-30))


def _dense_dtype(handle: ModelHandle, item: Item) -> torch.dtype:
    """A tensor that is kept keeps its dtype; one that a dense scheme was chosen for, or that comes quantized, is bfloat16."""
    stored = DENSE_DTYPES.get(handle.tensors[item.name].stored)
    return stored if stored and (item.kept or item.reason) else torch.bfloat16


def _not_finite(handle: ModelHandle, item: Item) -> ModelCorrupt:
    return ModelCorrupt(
        "{model}: tensor {tensor} holds a NaN or an infinity.",
        hint="Pull the model again; if it stays, the model is damaged.",
        model=handle.root,
        tensor=item.name,
    )


def _config(handle: ModelHandle, plan: Plan) -> dict[str, Any]:
    """The source's config without what could name code, and with the quantization that was applied."""
    config = clean_config(handle.raw_config)
    schemes = {i.name.removesuffix(".weight"): i.scheme for i in plan.items if i.scheme.bits < 16}
    if schemes:
        left = [i.name.removesuffix(".weight") for i in plan.items if i.scheme.bits == 16 and not i.kept]
        config["quantization_config"] = compressed.quantization_config(schemes, left)
    return config


def clean_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json that names no code and no quantization."""
    return {
        k: v for k, v in raw.items() if not k.startswith("_") and k not in ("auto_map", "quantization_config", "custom_pipelines")
    }


def _copy_licence(root: Path, folder: Path) -> None:
    for file in LICENCES:
        if root.is_dir() and (root / file).is_file():
            shutil.copyfile(root / file, folder / file)


def _manifest(handle: ModelHandle, spec: QuantizeSpec, plan: Plan, name: str, folder: Path) -> Manifest:
    return Manifest(
        name,
        parent=handle.digest,
        source=lineage(handle),
        steps=(*handle.manifest.steps, step("quantize", as_record(spec), resolved_record(spec, plan))),
        files=list_files(folder),
        quantization={i.name: str(i.scheme) for i in plan.items if i.scheme.bits < 16},
        readers=readers(plan),
    )


def lineage(handle: ModelHandle) -> dict[str, Any]:
    """The `source` of what is made from `handle`: the same origin, and where parent and original lie."""
    path = str(handle.root.resolve())
    return {"original_path": path, **handle.manifest.source, "parent": handle.name, "parent_path": path}


def resolved_record(spec: QuantizeSpec, plan: Plan) -> dict[str, Any]:
    """What the options came to; the same record from the same input is the same output."""
    return {
        "scheme": str(plan.scheme),
        "embeddings": spec.embeddings,
        "level": spec.level,
        "algorithm": spec.algorithm,
        "rules": list(spec.rule),
    }


def readers(plan: Plan) -> tuple[str, ...]:
    """Who can load the folder. transformers and vLLM unpack symmetric linears, but no embedding and no packed zero points."""
    quantized = [item for item in plan.items if item.scheme.bits < 16]
    only_ours = any(not i.scheme.symmetric or i.name.endswith("embed_tokens.weight") for i in quantized)
    return ("deepseek",) if only_ours else ("deepseek", "transformers", "vllm")
