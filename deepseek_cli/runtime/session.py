"""A model that can be fed tokens: one interface over PyTorch and the runtimes of bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deepseek_cli import plugins
from deepseek_cli.errors import MemoryShort, MissingExtra, ModelUnsupported, UsageError
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.manifest import FILE
from deepseek_cli.ops import SparseSpec
from deepseek_cli.ops.drafting import DRAFT
from deepseek_cli.runtime.context import DEFAULT_CONTEXT, check_context
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.memory_plan import MemoryPlan, read_plan

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

# By target, what opens its bundles: (folder, config, context, threads, exact) -> Session. `exact` leaves activations as they are.
SESSIONS = {
    "cpu": "deepseek_cli.runtime.onnx_session:open_folder",
    "cuda": "deepseek_cli.runtime.onnx_half_session:open_fastest",
    "gguf": "deepseek_cli.runtime.gguf_session:open_folder",
    "metal": "deepseek_cli.runtime.mlx_session:open_folder",
    "mobile": "deepseek_cli.runtime.executorch_session:open_folder",
    "openvino": "deepseek_cli.runtime.openvino_session:open_folder",
    "rocm": "deepseek_cli.runtime.rocm_session:open_folder",
    "tensorrt": "deepseek_cli.runtime.onnx_half_session:open_fastest",
    "vllm": "deepseek_cli.runtime.transformers_session:open_folder",
    "web": "deepseek_cli.runtime.web_session:open_folder",
}


class Session(Protocol):
    context: int  # the most tokens the KV cache holds

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache that hold tokens."""

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        """Append tokens; float32 logits [keep, vocabulary] of the last `keep` of them, of all where `keep` is 0.

        The array is only valid until the next call. Raises UsageError beyond `context`.
        """

    def rewind(self, position: int) -> None:
        """Forget the tokens behind `position`."""


def open_session(
    model: ModelHandle | Bundle,
    *,
    context: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    drafts: bool = False,
    sparse: SparseSpec | None = None,
    plan: MemoryPlan | None = None,
    cache: MachineCache | None = None,
    fast_prefill: bool = False,
) -> Session:
    """A session over a bundle (ONNX Runtime) or a model folder (PyTorch); one that `drafts` guesses a token further, where the
    model has a layer for it. A cpu bundle's `plan` is the one that its manifest holds, if there is no other. Without one its
    weights may come from the `cache`, as a second form of them does that `fast_prefill` runs prompts through: these give no
    hidden states, which that layer would need.

    Raises UsageError for a context beyond what the model was made for, for a bundle that cannot attend sparsely, for one
    that should draft meanwhile, and for heads that cannot be left out.
    """
    check_context(model, context)
    if drafts and sparse:
        raise UsageError(
            "Guesses are checked several at once, for which sparse attention would choose other keys.",
            hint="Leave out --draft or --sparse-attention.",
        )
    if isinstance(model, Bundle):
        plan = plan or planned(model)
    context = context or (plan and plan.context) or min(model.config.context, DEFAULT_CONTEXT)
    if fast_prefill:
        _require_second_form(model, sparse, plan, cache)
    if isinstance(model, Bundle):
        if sparse and sparse.heads:
            raise UsageError("Bundles compute every head.", hint="Use --sparse-attention tokens=N.")
        if sparse and sparse.tokens:
            _require_onnx(model)
            from deepseek_cli.runtime.sparse_session import SparseSession

            return SparseSession(model.root, model.config, context, threads, most=sparse.tokens)
        if drafts and not fast_prefill and model.target == "cpu" and (model.root / DRAFT).exists():
            from deepseek_cli.runtime.onnx_draft import DraftingSession

            return DraftingSession(model.root, model.config, context, threads, plan=plan)
        if plan:
            from deepseek_cli.runtime.onnx_session import OnnxSession

            return OnnxSession(model.root, model.config, context, threads, plan=plan)
        if cache and model.target == "cpu":
            from deepseek_cli.runtime.packed_session import open_packed

            return open_packed(model.root, model.config, context, threads, cache, fast_prefill)
        return open_folder(model.target, model.root, model.config, context, threads)
    if sparse and sparse.heads and getattr(model.config, "latent", None):
        raise UsageError(
            "{model} keeps all its heads: they share one latent.", hint="Use --sparse-attention tokens=N.", model=model.name
        )
    from deepseek_cli.runtime.torch_session import TorchSession

    _require_memory(model)
    return TorchSession(model, context, threads, device=device, drafts=drafts and bool(model.draft_weights), sparse=sparse)


def planned(bundle: Bundle) -> MemoryPlan | None:
    """What a cpu bundle's manifest says of its memory."""
    steps = bundle.manifest.steps
    return read_plan(steps[-1]["resolved"], bundle.root / FILE) if steps and bundle.target == "cpu" else None


def open_folder(target: str, folder: Path, config: Any, context: int, threads: int | None, *, exact: bool = False) -> Session:
    """A session over what `deploy` wrote for `target`. Raises MissingExtra where its runtime is not installed."""
    path = SESSIONS.get(target)
    found = plugins.load(path) if path else getattr(plugins.find("deepseek.targets", target), "open_folder", None)
    if found is None:
        raise ModelUnsupported(
            "{folder} is a bundle for {target}, which nothing here can run.",
            hint="Install what made it, or run the model it was made from.",
            folder=folder,
            target=target,
        )
    session: Session = found(folder, config, context, threads, exact)
    return session


def _require_second_form(
    model: ModelHandle | Bundle, sparse: SparseSpec | None, plan: MemoryPlan | None, cache: MachineCache | None
) -> None:
    """Raises UsageError where prompts can run through no other weights."""
    if not (isinstance(model, Bundle) and model.target == "cpu"):
        raise UsageError(
            "--fast-prefill is for cpu bundles, and {model} is none.", hint="Use: deepseek deploy --target cpu", model=model.name
        )
    if sparse or plan:
        raise UsageError(
            "--fast-prefill runs neither with sparse attention nor by a memory plan.", hint="Leave --fast-prefill out."
        )
    if not cache:
        raise UsageError("--fast-prefill keeps its weights in the cache, and packed_cache is 0.", hint="Allow it some bytes.")


def _require_onnx(bundle: Bundle) -> None:
    if bundle.target != "cpu":
        raise UsageError(
            "Bundles for {target} attend to all tokens.", hint="Use --sparse-attention on a cpu bundle.", target=bundle.target
        )


def _require_memory(handle: ModelHandle) -> None:
    """Raises MemoryShort where PyTorch's float32 weights would not fit in what this machine has free."""
    from deepseek_cli.memory import free_bytes

    needed, free = 4 * handle.parameters, free_bytes()
    if needed > free:
        raise MemoryShort(
            "{model} needs {needed} MB in PyTorch, and {free} MB are free.",
            hint="Make it small first: deepseek quantize {model} --int4, then deepseek deploy.",
            model=handle.name,
            needed=needed // 1_000_000,
            free=free // 1_000_000,
        )


def check_room(position: int, new: int, context: int) -> None:
    """Raises UsageError when `new` more tokens do not fit."""
    if position + new > context:
        raise UsageError(
            "{count} tokens do not fit in a context of {context}.",
            hint="Use a larger --context, or a shorter prompt.",
            count=position + new,
            context=context,
        )


def in_chunks(tokens: Sequence[int], keep: int, most: int) -> Iterator[tuple[Sequence[int], int]]:
    """At most `most` tokens to feed at once, and of how many of them, the last, logits are wanted: `keep` in all, 0 for all."""
    skipped = len(tokens) - (min(keep, len(tokens)) or len(tokens))
    for start in range(0, len(tokens), most):
        chunk = tokens[start : start + most]
        yield chunk, min(max(start + len(chunk) - skipped, 0), len(chunk))


def require(
    distribution: str,
    extra: str,
    hint: str = "Install it: pip install 'deepseek-cli[{extra}]'. A bundle can be written without: deploy --verify weights",
) -> str:
    """Name and version of an installed distribution. Raises MissingExtra, where it is another version than needed too."""
    import importlib.metadata

    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra(
            "{distribution} is not installed.",
            hint=hint,
            distribution=distribution,
            extra=extra,
        ) from None
    needed = needed_versions(distribution)
    if not needed.contains(found, prereleases=True):
        raise MissingExtra(
            "{distribution} {found} is installed, and {needed} is needed.",
            hint="Install it: pip install 'deepseek-cli[{extra}]'",
            distribution=distribution,
            found=found,
            needed=needed,
            extra=extra,
        )
    return f"{distribution} {found}"


def needed_versions(distribution: str) -> SpecifierSet:
    """What this package's own metadata asks for; any version where it asks for none."""
    import importlib.metadata

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wanted = map(Requirement, importlib.metadata.requires("deepseek-cli") or ())
    return next((each.specifier for each in wanted if each.name == distribution), SpecifierSet())
