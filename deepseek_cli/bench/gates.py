"""What a run is held against, an earlier run or its own first arm; and when that is an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepseek_cli.bench.arms import Arm
from deepseek_cli.bench.metrics import MORE_IS_BETTER, base
from deepseek_cli.bench.record import SCHEMA
from deepseek_cli.bench.statistics import LEAST, interval, interval_of_quotient, pairs, summary
from deepseek_cli.errors import UsageError
from deepseek_cli.profile.gates import read_document
from deepseek_cli.reporter import Reporter

GATED = ("prefill", "decode")
SAME_MACHINE = ("processor", "flags", "cores", "threads")
SAME_SETTINGS = ("prompt_tokens", "new_tokens", "depths", "context", "device", "sparse_attention")
PASSED, SLOWER, INCONCLUSIVE, TOO_FEW = "passed", "slower", "inconclusive", "n/a"
UNSURE = (INCONCLUSIVE, TOO_FEW)
SAVE = "Make one with: deepseek bench MODEL --save baseline.json"


@dataclass(frozen=True, slots=True)
class Check:
    """One rate of one arm beside its reference. Slowdowns are of the time for a token: 0.05 is 5 % slower."""

    arm: str
    metric: str
    reference: str
    slowdown: float
    interval: tuple[float, float] | None
    most: float | None  # --max-slowdown
    verdict: str  # PASSED, SLOWER, INCONCLUSIVE or TOO_FEW; "" where nothing is asked for
    reason: str = ""


def read_baseline(path: Path, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier run, from --save or --json.

    Raises UsageError where it is none, or cannot be compared with a run of these settings here, naming what differs.
    """
    found = read_document(path, (SCHEMA,), SAVE)
    try:
        theirs = {key: found["environment"].get(key) for key in SAME_MACHINE} | {
            key: found["settings"][key] for key in SAME_SETTINGS
        }
        whole = all(
            _is_whole(metric["samples"]) for arm in found["arms"] for n, metric in arm["metrics"].items() if base(n) in GATED
        )
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UsageError("{file} is damaged: its settings or its samples are missing.", hint=SAVE, file=path)
    ours = {**{key: environment.get(key) for key in SAME_MACHINE}, **{key: settings[key] for key in SAME_SETTINGS}}
    ours["threads"] = settings["threads"]
    differing = [f"{key} {shown(theirs[key])} / {shown(ours[key])}" for key in ours if theirs[key] != ours[key]]
    if differing:
        raise UsageError(
            "{file} cannot be compared with this run (there / here): {differing}.",
            hint="Measure the baseline here, with the same options.",
            file=path,
            differing="; ".join(differing),
        )
    return found


def _is_whole(samples: Any) -> bool:
    """Whether these can be the samples of a rate."""
    return bool(samples) and all(isinstance(s, (int, float)) and 0 < s < float("inf") for s in samples)


def shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def require_known(arms: Sequence[Arm], baseline: Mapping[str, Any], reporter: Reporter) -> None:
    """Warns of arms that the baseline has not. Raises UsageError where it has not one of them."""
    loaded = [arm for arm in arms if not arm.error]
    unknown = [arm for arm in loaded if not counterpart(arm.name, arm.about.get("digest"), baseline)]
    for arm in unknown:
        reporter.warn("{model} is not in the baseline, neither by name nor by digest.", model=arm.name)
    if loaded and unknown == loaded:
        raise UsageError(
            "The baseline has none of these models by name or digest; it has {names}.",
            hint="Name one of them, or measure the baseline again.",
            names=", ".join(arm["name"] for arm in baseline["arms"]),
        )


def counterpart(name: str, digest: str | None, baseline: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The baseline's arm of this name, or else of these very files."""
    by_name = (arm for arm in baseline["arms"] if arm["name"] == name)
    by_digest = (arm for arm in baseline["arms"] if digest and arm.get("digest") == digest)
    return next(by_name, None) or next(by_digest, None)


def judge(document: Mapping[str, Any], baseline: Mapping[str, Any] | None, most: float | None) -> list[Check]:
    """Every rate of every arm that has a counterpart: in the baseline, or else in the first arm, paired round by round."""
    checks = []
    first = document["arms"][0]
    for arm in document["arms"]:
        other = counterpart(arm["name"], arm["digest"], baseline) if baseline else None if arm is first else first
        if other is None:
            continue
        for name in arm["metrics"]:
            if base(name) in GATED and name in other["metrics"]:
                checks.append(_check(arm, other, name, most, paired=baseline is None))
    return checks


def _check(arm: Mapping[str, Any], other: Mapping[str, Any], name: str, most: float | None, *, paired: bool) -> Check:
    now, before = (_times(one["metrics"][name]["samples"], name) for one in (arm, other))
    if paired:
        ratios = pairs(now, before)
        middle, found = summary(ratios)["median"], interval(ratios)
    else:
        middle, found = summary(now)["median"] / summary(before)["median"], interval_of_quotient(now, before)
    bounds = (found[0] - 1, found[1] - 1) if found else None
    verdict, reason = _verdict(bounds, most)
    return Check(arm["name"], name, other["name"], middle - 1, bounds, most, verdict, reason)


def _times(samples: Sequence[float], name: str) -> list[float]:
    return [1 / s for s in samples] if base(name) in MORE_IS_BETTER else list(samples)


def _verdict(bounds: tuple[float, float] | None, most: float | None) -> tuple[str, str]:
    if most is None:
        return "", ""
    if bounds is None:
        return TOO_FEW, f"fewer than {LEAST} rounds here or there"
    if bounds[0] > most:
        return SLOWER, ""
    return (PASSED, "") if bounds[1] <= most else (INCONCLUSIVE, "the interval holds the threshold")


def confirmed(first: Sequence[Check], second: Sequence[Check]) -> list[Check]:
    """What both passes say is so; what only the first one says is not sure. The second one's figures stand."""
    again = {(check.arm, check.metric): check for check in second}
    return [_both(check, again.get((check.arm, check.metric))) for check in first]


def _both(check: Check, again: Check | None) -> Check:
    if check.verdict != SLOWER:
        return check
    if again is None:
        return replace(check, verdict=INCONCLUSIVE, reason="the second pass failed")
    if again.verdict == SLOWER:
        return replace(again, reason="in both passes")
    return replace(again, verdict=INCONCLUSIVE, reason="a second pass did not confirm it")
