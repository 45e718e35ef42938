"""What the arms answered, as one document: samples, statistics, ratios to the first arm, shares of this machine's limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from deepseek_cli.bench import roofline
from deepseek_cli.bench.arms import Figures
from deepseek_cli.bench.environment import environment, load_average
from deepseek_cli.bench.metrics import METRICS, STATISTICS
from deepseek_cli.bench.statistics import LEAST, LEAST_GAPS, noise, paired_ratio, rank, summary

SCHEMA = "deepseek.bench/2"
TOO_FEW_GAPS = "{count} gaps were measured, and a 99th percentile needs {least}"


def document(
    arms: Sequence[Figures], settings: dict[str, Any], load_before: list[float] | None, roof: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All figures, in the units of METRICS; ratios are to the first arm."""
    return {
        "schema": SCHEMA,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "environment": {
            **environment(),
            "threads": settings["threads"],
            "load_before": load_before,
            "load_after": load_average(),
        },
        "metrics": {name: {"unit": unit, "formula": formula} for name, (unit, formula) in METRICS.items()},
        "statistics": {**STATISTICS, "least_samples": LEAST},
        "roofline": roof,
        "noise": {name: noise(samples) for name, samples in samples_of(arms[0]).items() if len(samples) > 1},
        "arms": [arm_record(arm, arms[0], roof) for arm in arms],
        "gates": [],
        "second_pass": None,
    }


def arm_record(arm: Figures, first: Figures, roof: Mapping[str, Any] | None) -> dict[str, Any]:
    samples, others = samples_of(arm), samples_of(first)
    metrics = {name: summary(values) for name, values in samples.items()}
    shared = [name for name in samples if name in others and arm is not first]
    return {
        "ref": arm.ref,
        "name": arm.name,
        "digest": arm.about.get("digest"),
        **{key: arm.ready.get(key) for key in ("kind", "bytes", "quantization", "memory_plan")},
        "error": arm.error and {"code": arm.error.code, "message": str(arm.error), "exit_code": arm.error.exit_code},
        "warm_up": arm.warmed or None,
        "metrics": metrics,
        "missing": missing_of(arm),
        "limits": limits_of(arm, roof, {name: metric["median"] for name, metric in metrics.items()}),
        "ratios": {name: paired_ratio(samples[name], others[name]) for name in shared},
        "quality": None,
    }


def samples_of(arm: Figures) -> dict[str, list[float]]:
    """Samples by metric, one a round; of load and start times one a start. What the system does not tell is left out."""
    names = arm.rounds[0]["values"] if arm.rounds else ()
    known = [name for name in names if all(r["values"].get(name) is not None for r in arm.rounds)]
    loads = {"load": [arm.ready["load"]]} if "load" in arm.ready else {}
    return {
        **loads,
        **arm.starts,
        **{name: [r["values"][name] for r in arm.rounds] for name in known},
        **{f"gap_p99@{where}": [1000 * rank(gaps, 0.99)] for where, gaps in all_gaps(arm).items() if len(gaps) >= LEAST_GAPS},
        **{f"touched@{name.partition('@')[2]}": [size] for name, size in _touched(arm).items()},
    }


def all_gaps(arm: Figures) -> dict[str, list[float]]:
    """Seconds of the gaps of all rounds, by where they were taken."""
    places = arm.rounds[0].get("gaps", {}) if arm.rounds else {}
    return {where: [gap for r in arm.rounds for gap in r["gaps"][where]] for where in places}


def missing_of(arm: Figures) -> dict[str, str]:
    """Why metrics are not there."""
    few = {w: len(gaps) for w, gaps in all_gaps(arm).items() if len(gaps) < LEAST_GAPS}
    return {
        **arm.missing,
        **(arm.rounds[0]["missing"] if arm.rounds else {}),
        **{f"gap_p99@{where}": TOO_FEW_GAPS.format(count=count, least=LEAST_GAPS) for where, count in few.items()},
        **arm.about.get("missing", {}),
    }


def limits_of(arm: Figures, roof: Mapping[str, Any] | None, medians: Mapping[str, float]) -> dict[str, Any]:
    needs = arm.about.get("needs")
    return roofline.limits(needs, arm.about["matrix"], roof, medians) if roof and needs else {}


def _touched(arm: Figures) -> dict[str, float]:
    return {name: need["bytes"] / 1e6 for name, need in arm.about.get("needs", {}).items() if name.startswith("decode")}
