"""Quantizing a model into a folder: a tensor in memory for each thread, complete or not there at all."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, ModelError, UsageError
from deepseek_cli.formats import quantized as layouts
from deepseek_cli.formats.safetensors import Planned, Writer
from deepseek_cli.handle import ModelHandle
from deepseek_cli.manifest import Manifest, list_files, step, write_manifest
from deepseek_cli.quantize import rtn
from deepseek_cli.quantize.algorithms import Algorithm
from deepseek_cli.quantize.blockwise import quantize_blocks
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.distill import distill, require_memory
from deepseek_cli.quantize.fold import folded
from deepseek_cli.quantize.low_rank import corrected
from deepseek_cli.quantize.method import Method
from deepseek_cli.quantize.plan import Item, Plan
from deepseek_cli.quantize.spec import EMBEDDINGS, QuantizeSpec
from deepseek_cli.quantize.spread import LOCAL, Engine
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.spec import as_record
from deepseek_cli.store import WORK, filling, require_new, require_space, staged
from deepseek_cli.tensors import DENSE_DTYPES, Quantized, TensorRef, Weight, dense, take_rows

RELEASE_CHUNKS = 256  # of rtn.CHUNK_VALUES
# What transformers has no model for, and where vLLM fuses a dense projection (the indexer's) with one that is packed here
NOT_READ = {"deepseek": ("transformers",), "deepseek_v32": ("vllm",)}
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


@dataclass(frozen=True, slots=True)
class Written:
    """What `write` made: its manifest, the relative error of each quantized tensor, and how calibrated ones were rounded."""

    manifest: Manifest
    errors: Mapping[str, float]
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor, and all that it takes to make it ready to be written."""

    item: Item
    ref: TensorRef
    dtype: torch.dtype  # where it is dense
    rounding: Algorithm
    calibrated: TensorRef | None  # its codes, where calibration made them
    root: Path  # of the model, for errors to name


@dataclass(frozen=True, slots=True)
class Made:
    """One tensor as it will be written; `error` is None where it is dense."""

    item: Item
    parts: tuple[tuple[str, Tensor], ...]
    error: float | None = None


def write(
    handle: ModelHandle,
    spec: QuantizeSpec,
    plan: Plan,
    method: Method,
    name: str,
    final: Path,
    force: bool = False,
    reporter: Reporter = SILENT,
    engine: Engine = LOCAL,
) -> Written:
    """Quantize `handle` by `plan` into the folder `final`; what calibration makes is kept beside it until all is done.

    Raises ModelCorrupt for a NaN (naming its tensor), DiskFull before any work, UsageError for an output inside the input.
    """
    if final.resolve().is_relative_to(handle.root.resolve()) and handle.root.is_dir():
        raise UsageError("The output {path} lies inside the model's own folder.", hint="Choose another -o.", path=final)
    tokenizer = open_tokenizer(handle.root)
    planned = [part for item in plan.items for part in _planned(handle, item)]
    require_space(final, sum(part.size for part in planned) + method.kept_bytes(handle.config.hidden) + (64 << 20))
    ready, notes, work = _calibrated(handle, spec, plan, method, final, force, reporter, engine)
    source = folded(handle, ready)
    with staged(final, force) as folder:
        jobs = [_job(source, method, ready.get(item.name), item) for item in plan.items]
        made = (LOCAL if ready else engine).one_thread(_made, jobs)  # what is ready is only copied
        errors = _write_tensors(source, folder, planned, made, reporter)
        (folder / "config.json").write_text(json.dumps(_config(handle, plan), indent=2) + "\n", encoding="utf-8")
        tokenizer.save(folder)
        copy_licence(handle.root, folder)
        manifest = _manifest(handle, spec, plan, method, name, folder)
        write_manifest(folder, manifest)
    if work:
        work.remove()
    return Written(manifest, errors, notes)


def _calibrated(
    handle: ModelHandle,
    spec: QuantizeSpec,
    plan: Plan,
    method: Method,
    final: Path,
    force: bool,
    reporter: Reporter,
    engine: Engine,
) -> tuple[dict[str, TensorRef], dict[str, Any], Checkpoint | None]:
    """What calibration makes, read from where it is kept."""
    if method.calibration is None:
        return {}, {}, None
    require_new(final, force)
    if method.steps:
        require_memory(handle, method)
    asked = {"parent": handle.digest, "threads": torch.get_num_threads(), **resolved_record(spec, plan, method)}
    work = Checkpoint(final.with_name(final.name + WORK), asked, force)
    try:
        with filling(work.folder):
            codes, notes = quantize_blocks(handle, method, work, reporter, engine)
            return distill(handle, method, codes, work, reporter) if method.steps else codes, notes, work
    except ModelError:
        work.remove()  # of a model that is damaged there is nothing to go on with
        raise


def _write_tensors(
    handle: ModelHandle, folder: Path, planned: list[Planned], results: Generator[Made, None, None], reporter: Reporter
) -> dict[str, float]:
    total, done = sum(ref.size_bytes for ref in handle.stored.values()), 0
    errors: dict[str, float] = {}
    with Writer(folder, planned) as writer, contextlib.closing(results):
        for made in results:
            ref = handle.tensors[made.item.name]
            for part, tensor in made.parts:
                writer.write(part, tensor, ref.release)
            if made.error is not None:
                errors[ref.name] = made.error
            ref.release()
            done += ref.size_bytes
            reporter.progress("quantize", done, total, "B")
    return errors


def _planned(handle: ModelHandle, item: Item) -> list[Planned]:
    if item.scheme.bits == 16:
        return [Planned(item.name, _dense_dtype(handle, item), item.shape)]
    return layouts.planned_parts(item.name.removesuffix(".weight"), (item.shape[0], item.shape[1]), item.scheme)


def _job(handle: ModelHandle, method: Method, calibrated: TensorRef | None, item: Item) -> Job:
    return Job(item, handle.tensors[item.name], _dense_dtype(handle, item), method.rounding(item), calibrated, handle.root)


def _made(job: Job) -> Made:
    item, calibrated = job.item, job.calibrated
    weight, passed = job.ref.read(), _now_and_then(job.ref.release)
    try:
        if item.scheme.bits == 16:
            return Made(item, ((item.name, _densely(weight, job.dtype, passed)),))
        quantized = calibrated.read() if calibrated else _rounded(job, weight, passed)
        assert isinstance(quantized, Quantized)
    except ValueError:
        raise ModelCorrupt(
            "{model}: tensor {tensor} holds a NaN or an infinity.",
            hint="Pull the model again; if it stays, the model is damaged.",
            model=job.root,
            tensor=item.name,
        ) from None
    parts = layouts.parts_of(item.name.removesuffix(".weight"), quantized, item.scheme)
    return Made(item, tuple(parts), relative_error(weight, quantized))


def _rounded(job: Job, weight: Weight, passed: Callable[[], None]) -> Quantized:
    """By itself, no text looked at."""
    quantized: Quantized = job.rounding.quantize(weight, job.item.scheme, None, passed)
    return corrected(weight, quantized, job.item.scheme.rank)


def _now_and_then(release: Callable[[], None]) -> Callable[[], None]:
    """`release` every so many calls: what was read of a large tensor goes before the rest is read."""
    calls = itertools.count(1)
    return lambda: release() if next(calls) % RELEASE_CHUNKS == 0 else None


def _densely(weight: Weight, dtype: torch.dtype, passed: Callable[[], None]) -> Tensor:
    """The values in `dtype`; the tensor itself where it has them. Raises ValueError when one is not finite."""
    same = isinstance(weight, Tensor) and weight.dtype == dtype
    values = weight if same and isinstance(weight, Tensor) else torch.empty(weight.shape, dtype=dtype)
    step = max(rtn.CHUNK_VALUES // max(math.prod(weight.shape[1:]), 1), 1)
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        part = dense(take_rows(weight, rows))
        if part.numel() and not (part.amax().isfinite() and part.amin().isfinite()):
            raise ValueError("not finite")
        if not same:
            values[rows] = part
        passed()
    return values


def relative_error(weight: Weight, quantized: Quantized, rows: int = 64) -> float:
    """‖W − Ŵ‖ / ‖W‖ over evenly spaced rows: enough for a table, and a fraction of the work."""
    pick = torch.arange(0, weight.shape[0], max(weight.shape[0] // rows, 1))
    exact = dense(take_rows(weight, pick)).float()
    return float((exact - quantized.rows(pick).dequantize()).norm() / exact.norm().clamp_min(1e-30))


def _dense_dtype(handle: ModelHandle, item: Item) -> torch.dtype:
    """A tensor that is kept keeps its dtype; one that a dense scheme was chosen for, or that comes quantized, is bfloat16."""
    stored = DENSE_DTYPES.get(handle.tensors[item.name].stored)
    return stored if stored and (item.kept or item.reason) else torch.bfloat16


def _config(handle: ModelHandle, plan: Plan) -> dict[str, Any]:
    """The source's config without what could name code, and with the quantization that was applied."""
    config = clean_config(handle.raw_config)
    schemes = {i.name.removesuffix(".weight"): i.scheme for i in plan.items if i.scheme.bits < 16}
    if schemes:
        left = [i.name.removesuffix(".weight") for i in plan.items if i.scheme.bits == 16 and len(i.shape) == 2]
        config["quantization_config"] = layouts.quantization_config(schemes, left)
    return config


def clean_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json that names no code and no quantization."""
    return {
        k: v for k, v in raw.items() if not k.startswith("_") and k not in ("auto_map", "quantization_config", "custom_pipelines")
    }


def copy_licence(root: Path, folder: Path) -> None:
    for file in LICENCES:
        if root.is_dir() and (root / file).is_file():
            shutil.copyfile(root / file, folder / file)


def _manifest(handle: ModelHandle, spec: QuantizeSpec, plan: Plan, method: Method, name: str, folder: Path) -> Manifest:
    return Manifest(
        name,
        parent=handle.digest,
        source=lineage(handle),
        steps=(*handle.manifest.steps, step("quantize", as_record(spec), resolved_record(spec, plan, method))),
        files=list_files(folder),
        quantization={i.name: str(i.scheme) for i in plan.items if i.scheme.bits < 16},
        readers=readers(plan, handle.architecture.name),
    )


def lineage(handle: ModelHandle) -> dict[str, Any]:
    """The `source` of what is made from `handle`: the same origin, and where parent and original lie."""
    path = str(handle.root.resolve())
    return {"original_path": path, **handle.manifest.source, "parent": handle.name, "parent_path": path}


def resolved_record(spec: QuantizeSpec, plan: Plan, method: Method) -> dict[str, Any]:
    """What the options came to; the same record from the same input is the same output."""
    as_body = plan.scheme.block and spec.embeddings == EMBEDDINGS
    return {
        "scheme": str(plan.scheme),
        "embeddings": str(plan.scheme) if as_body else spec.embeddings,
        "level": spec.level,
        **method.record(),
        "rules": list(spec.rule),
        **({"goal": plan.goal} if plan.goal else {}),
    }


def readers(plan: Plan, family: str) -> tuple[str, ...]:
    """Who can load the folder. transformers and vLLM unpack symmetric linears: no embedding, zero points, blocks, corrections."""
    quantized = [item for item in plan.items if item.scheme.bits < 16]
    schemes = [item.scheme for item in quantized]
    only_ours = any(not s.symmetric or s.block or s.rank for s in schemes)
    only_ours = only_ours or any(item.name.endswith("embed_tokens.weight") for item in quantized)
    others = () if only_ours else ("transformers", "vllm")
    return ("deepseek", *(reader for reader in others if reader not in NOT_READ.get(family, ())))
