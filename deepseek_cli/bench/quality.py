"""How far an arm's predictions are from its original's, beside its speed: from its report card, or measured where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_cli.bench.arms import Arm, started
from deepseek_cli.bench.demand import IN_PART
from deepseek_cli.bench.statistics import summary

KEPT = ("against", "kl", "kl_p99", "agreement", "perplexity", "reference_perplexity", "accuracy", "text", "tokens")


def quality_of(arm: Arm, record: dict[str, Any], settings: dict[str, Any]) -> None:
    """Put its quality into an arm's record: the card's figures, or why there are none."""
    if arm.error:
        return
    if IN_PART in arm.about.get("missing", {}).values():
        record["quality"] = {"unmeasured": IN_PART}
        return
    with started(arm.ref, {**settings, "module": __name__, "ref": arm.ref}) as judge:
        found = judge.ready or {"unmeasured": str(judge.error)}
    record["quality"] = found
    if "kl" in found:
        shares = {"kl": found["kl"], "agreement": 100 * found["agreement"], "perplexity": found["perplexity"]}
        record["metrics"] |= {name: summary([value]) for name, value in shares.items()}
    else:
        record["missing"] |= dict.fromkeys(("kl", "agreement", "perplexity"), found["unmeasured"])


def main(settings: dict[str, Any]) -> None:
    """The worker: find or measure, answer, end."""
    from deepseek_cli.bench.worker import speaking
    from deepseek_cli.handle import open_any
    from deepseek_cli.store import Store

    with speaking() as say:
        store = Store(Path(settings["home"]))
        model = open_any(settings["ref"], store)
        card, origin = model.manifest.report or {}, "report card"
        if "kl" not in card:
            from deepseek_cli.eval_engine import evaluate

            card, origin = evaluate(model, None, store, threads=settings["threads"]), "measured"
        say("ready", origin=origin, **{name: card.get(name) for name in KEPT})
