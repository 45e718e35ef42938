"""--optimize-memory: the plan that keeps a bundle within --memory, said before the run and held against it behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.errors import UsageError
from deepseek_cli.i18n import t
from deepseek_cli.spec import format_size

if TYPE_CHECKING:
    from deepseek_cli.handle import Bundle, ModelHandle
    from deepseek_cli.profile.optimize import Optimized


def plan_run(call: Call, model: ModelHandle | Bundle) -> Optimized | None:
    """Of a bundle that is about to run; None where nobody asked. Raises UsageError for what only computes in one way."""
    if not call.common.optimize_memory:
        return None
    if call.spec.sparse_attention:
        raise UsageError("--optimize-memory is not for sparse attention.", hint="Leave one of them out.")
    require_cpu(model.name, getattr(model, "target", ""))
    from deepseek_cli.profile.optimize import optimize_apart

    made = optimize_apart(model.root, call.settings.home, call.common.memory or 0, call.common.context, call.common.threads)
    announce(call, made)
    return made


def plan_deploy(call: Call, handle: ModelHandle, target: str, kv: str) -> Optimized | None:
    """Of a bundle that is about to be written; one that `run` makes in passing is planned when it runs."""
    if not call.common.optimize_memory or call.command != "deploy":
        return None
    require_cpu(handle.name, target)
    from deepseek_cli.profile.optimize import as_bundle, optimize
    from deepseek_cli.profile.sketch import sketch_of

    made = optimize(as_bundle(sketch_of(handle), kv), call.common.memory or 0, call.common.context, may_narrow=True)
    announce(call, made)
    return made


def require_cpu(name: str, target: str) -> None:
    if target != "cpu":
        raise UsageError(
            "--optimize-memory is for cpu bundles, and {model} is none.", hint="Use: deepseek deploy --target cpu", model=name
        )


def announce(call: Call, made: Optimized) -> None:
    from deepseek_cli.profile.optimize import CHOICES

    for name, saved in made.choices:
        call.reporter.note("To save {size}: {choice}.", size=format_size(saved), choice=t(CHOICES[name]))
    call.reporter.note(
        "Memory: at most {predicted} predicted for {tokens} tokens, {plain} without a plan.",
        predicted=format_size(made.predicted_bytes),
        tokens=made.plan.context,
        plain=format_size(made.plain_bytes),
    )


def record(made: Optimized) -> dict[str, Any]:
    return {
        **made.plan.as_record(),
        "predicted_bytes": made.predicted_bytes,
        "plain_bytes": made.plain_bytes,
        "choices": [{"choice": name, "saves_bytes": saved} for name, saved in made.choices],
    }


def outcome(call: Call, made: Optimized | None, session: Any) -> dict[str, Any]:
    """What the run took, for --json; nothing where there was no plan."""
    if made is None:
        return {}
    from deepseek_cli.profile.memory import peak

    measured = None if call.common.memory_profile else peak()  # whose page has peaks of its own, each set back
    released = getattr(session, "released_bytes", 0)
    if measured is not None:
        call.reporter.note(
            "Memory: {measured} measured at most, {predicted} predicted; {released} let go after loading.",
            measured=format_size(measured),
            predicted=format_size(made.predicted_bytes),
            released=format_size(released),
        )
    return {"memory_plan": {**record(made), "measured_peak_bytes": measured, "released_bytes": released}}
