"""`deploy` from handle to bundle: emit for the target, verify in the target's own runtime, record both."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.deploy import find_target
from deepseek_cli.deploy.auto import concrete
from deepseek_cli.deploy.precision import in_precision, require_precision
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.verify import needs_runtime, runtime_of, verify
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.manifest import Manifest, list_files, step, write_manifest
from deepseek_cli.quantize.engine import unchanged
from deepseek_cli.quantize.folder import lineage
from deepseek_cli.refs import TensorRef
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.context import check_context
from deepseek_cli.runtime.memory_plan import KEY, MemoryPlan
from deepseek_cli.spec import as_record
from deepseek_cli.store import Store, require_space, result_name, staged

CHECK = Path(__file__).parent / "templates" / "check.py"  # goes into every bundle
CARRIED = ("int3", "int4", "int8", "q4_0", "q8_0")  # what a bundle holds as it lies; other formats become float32
CORRECTED = ("", "cpu", "cuda", "rocm", "web")  # targets that compute low-rank corrections beside codes
CARRIED_BY = {"gguf": (*CARRIED, "q4_1", "q5_", "q4_k", "q6_k")}


@dataclass(frozen=True, slots=True)
class Deployed:
    """`verification` as the manifest records it; `manifest` is None under `dry_run`."""

    name: str
    path: Path
    target: str
    context: int | None  # None where the model is not here yet, and so not known
    manifest: Manifest | None = None
    unchanged: bool = False

    @property
    def memory_plan(self) -> dict[str, Any] | None:
        return self.manifest.steps[-1]["resolved"].get(KEY) if self.manifest else None

    @property
    def verification(self) -> dict[str, Any]:
        return (self.manifest.verification if self.manifest else None) or {}


def deploy(
    handle: ModelHandle,
    spec: DeploySpec,
    store: Store,
    output: Path | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    plan: MemoryPlan | None = None,
    reporter: Reporter = SILENT,
) -> Deployed:
    """Build a bundle for `spec.target`, into `output` or the store, and verify it. It will run by `plan`, if there is one.

    Raises UsageError for an unknown target or an impossible context; a failed verification is not raised but recorded.
    """
    spec = concrete(spec, reporter)
    target = find_target(spec.target)
    name = target.name
    if spec.precision:
        require_precision(name, target.precisions, spec.precision)
        handle = in_precision(handle, spec.precision)
    check_context(handle, context)
    context = within_index(handle, context or min(handle.config.context, target.longest_context), reporter)
    bundle_name = result_name(handle.name, target=name)
    final = output or store.models / bundle_name
    if output and handle.root.is_dir() and final.resolve().is_relative_to(handle.root.resolve()):
        raise UsageError("The output {path} lies inside the model's own folder.", hint="Choose another -o.", path=final)
    resolved = spec.record | {"target": name, "context": context, "verify": spec.verify}
    if plan:
        resolved[KEY] = plan.as_record()
    reporter.note("{name} for {target}, up to {context} tokens.", name=handle.name, target=name, context=context)
    if dry_run:
        return Deployed(bundle_name, final, name, context)
    if not force and (known := unchanged(final, "deploy", resolved, handle)):
        return Deployed(bundle_name, final, name, context, known, unchanged=True)
    runtime_of(target, needed=needs_runtime(target, spec.verify, handle))  # before the work, not behind it
    require_space(final, bundle_bytes(handle, name) * (1 + len(target.parts)))
    with staged(final, force) as folder:
        shutil.copyfile(CHECK, folder / CHECK.name)
        record = target.emit(handle, spec, folder, context, threads, reporter)
        with ThreadPoolExecutor(1) as beside:
            files = beside.submit(list_files, folder, deep=True)
            verification = verify(target, handle, folder, spec.verify, threads, reporter)
        verification["dense_fallbacks"] = record.get("dense_fallbacks", [])  # all of them, where a warning names a few
        manifest = Manifest(
            bundle_name,
            "bundle",
            parent=handle.digest,
            source=lineage(handle),
            steps=(*handle.manifest.steps, step("deploy", as_record(spec), resolved)),
            files=files.result(),
            quantization=handle.manifest.quantization,
            readers=tuple(record.get("readers", ())),
            report=handle.manifest.report,
            verification=verification,
        )
        write_manifest(folder, manifest)
    return Deployed(bundle_name, final, name, context, manifest)


def within_index(handle: ModelHandle, context: int, reporter: Reporter) -> int:
    """`context`, cut to what a sparse attention's indexer would choose anyway: bundles attend to all keys."""
    index = getattr(handle.config, "index", None)
    if index is None or context <= index.top_k:
        return context
    reporter.warn(
        "The bundle holds at most {context} tokens: beyond them {name} chooses keys, which bundles cannot do yet.",
        context=index.top_k,
        name=handle.name,
    )
    return int(index.top_k)


def bundle_bytes(handle: ModelHandle, target: str = "") -> int:
    """An upper bound: codes with float32 scales, and four bytes for each value of what is dense or becomes it."""
    refs, carried = {**handle.weights, **handle.draft_weights}.values(), CARRIED_BY.get(target, CARRIED)

    def held(ref: TensorRef) -> bool:
        return ref.stored.startswith(carried) and (target in CORRECTED or "-r" not in ref.stored)  # as in int4-g64-r16

    return sum(2 * ref.size_bytes if held(ref) else 4 * ref.values for ref in refs)


def verify_again(bundle: Bundle, handle: ModelHandle, threads: int | None, reporter: Reporter = SILENT) -> dict[str, Any]:
    """The verification that the bundle's manifest records, done again against the model it was made from."""
    resolved = bundle.manifest.steps[-1]["resolved"]
    level = str(resolved.get("verify") or "tokens")
    handle = in_precision(handle, resolved.get("precision"))
    return verify(find_target(bundle.target), handle, bundle.root, level, threads, reporter)
