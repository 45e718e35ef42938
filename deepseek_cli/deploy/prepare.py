"""What `deploy` does in passing: fetch a model that is not here, quantize one that is dense."""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelNotFound, UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store


@dataclass(frozen=True, slots=True)
class Prepared:
    """`handle` is None under `dry_run`, where the model would first have to be fetched or quantized."""

    name: str
    handle: ModelHandle | None


def prepare(
    ref: str,
    spec: DeploySpec,
    store: Store,
    *,
    offline: bool = False,
    dry_run: bool = False,
    agreed: bool = False,
    fetching: PullSpec | None = None,
    reporter: Reporter = SILENT,
) -> Prepared:
    """The model to deploy, fetched as `fetching` says.

    Raises what `pull` and `quantize` raise, and UsageError for a model that is quantized already.
    """
    fetched = _fetched(ref, spec, store, fetching or PullSpec(), offline, dry_run, reporter)
    if fetched.handle is None or not spec.scheme:
        return fetched
    if any(weight.quantized for weight in fetched.handle.weights.values()):
        raise UsageError("{name} is quantized already.", hint="Leave --{scheme} out.", name=fetched.name, scheme=spec.scheme)
    options = QuantizeSpec(int4=spec.int4, int8=spec.int8)
    done = quantize(fetched.handle, options, store, dry_run=dry_run, agreed=agreed, reporter=reporter)
    return Prepared(done.name, None if dry_run else open_model(str(done.path), store))


def _fetched(
    ref: str, spec: DeploySpec, store: Store, fetching: PullSpec, offline: bool, dry_run: bool, reporter: Reporter
) -> Prepared:
    try:
        handle = open_model(ref, store)
    except ModelNotFound:
        if not spec.pull:
            raise
        found = pull(ref, fetching, store, offline=offline, dry_run=dry_run, reporter=reporter)
        if found.handle is None:
            size = sum(found.plan.values())
            reporter.note("{count} files to fetch, {mb} MB.", count=len(found.plan), mb=round(size / 1e6))
            return Prepared(found.name, None)
        handle = open_model(str(found.path), store)
    return Prepared(handle.name, handle)
