"""The page's pure functions under Node; the sliders' formula against Python's on a grid, and Python's against the estimate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.profile import estimate, report, whatif
from deepseek_cli.profile.sketch import Sketch, open_sketch
from deepseek_cli.store import Store
from tests.profile.documents import what_if

HERE = Path(__file__).parent
CONFIGS = ("DeepSeek-V3", "DeepSeek-R1-Distill-Qwen-1.5B")
NODE = shutil.which("node")


def sketch_of(name: str, folder: Path) -> Sketch:
    return open_sketch(str(HERE / "configs" / f"{name}.json"), Store(folder))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("store")
    made = {name: whatif.what_if(sketch_of(name, folder)) for name in CONFIGS}
    window = what_if(4)
    window["kinds"].append({**window["kinds"][0], "kind": "sliding", "window": 512})
    return {**made, "made up": what_if(3), "windows": window}


@pytest.mark.skipif(NODE is None, reason="node and its packages are not installed")
def test_the_scripts_compute_what_they_should(models: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    grid = tmp_path / "grid.json"
    grid.write_text(
        json.dumps({"models": models, "cases": [case for name, model in models.items() for case in cases(name, model)]})
    )
    ran = subprocess.run(
        [NODE or "", "--test", str(HERE / "js" / "page.test.mjs")],
        env={**os.environ, "DEEPSEEK_GRID": str(grid), "DEEPSEEK_SCRIPTS": str(report.TEMPLATES / "scripts")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout


def cases(name: str, model: dict[str, Any]) -> list[dict[str, Any]]:
    longest = model["longest_context"]
    found = []
    for context, batch, kv, scheme in product((1, 500, 4096, longest), (1, 7), model["kv"], list(model["schemes"])[:3]):
        choice = {"context": context, "batch": batch, "kv": kv, "scheme": scheme}
        parts = whatif.need(model, **choice)
        found.append(
            {
                "model": name,
                "choice": choice,
                "parts": parts,
                "verdicts": [whatif.verdict(model, parts["total"], device) for device in model["devices"]],
                "largest": [largest(model, choice, device["usable_bytes"]) for device in model["devices"]],
            }
        )
    return found


def largest(model: dict[str, Any], choice: dict[str, Any], usable: int) -> int:
    """By halving what is left, from the other end than the page does."""
    low, high = 0, model["longest_context"]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if whatif.need(model, **{**choice, "context": middle})["total"] <= usable else (low, middle - 1)
        )
    return low


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("context", "batch", "kv", "scheme"), [(4096, 1, "fp16", None), (8192, 3, "int8", "int4-g64")])
def test_the_formula_is_the_estimates_own(
    name: str, context: int, batch: int, kv: estimate.Kv, scheme: str | None, tmp_path: Path
) -> None:
    sketch = sketch_of(name, tmp_path)
    found = estimate.estimate(sketch, context, batch, kv, scheme, bandwidth=10**10)
    model = whatif.what_if(sketch, context, batch, kv, scheme)
    parts = whatif.need(model, **model["now"])
    assert parts["kv"] == found["kv"]["full_bytes"]
    assert parts["weights"] == found["weights_bytes"]
    assert [whatif.verdict(model, parts["total"], device) for device in model["devices"]] == [
        d["verdict"] for d in found["devices"]
    ]
    assert [largest(model, model["now"], device["usable_bytes"]) for device in model["devices"]] == [
        d["largest_context"] for d in found["devices"]
    ]
