"""A training loop under DeepSeekProfiler: what PyTorch itself says of its tensors is the oracle."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.errors import ResourceError, UsageError
from deepseek_cli.profile import DeepSeekProfiler
from deepseek_cli.profile.recorded import leak

MIB = 1 << 20


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(256, 512)
        self.layers = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU()) for _ in range(2))
        self.scale = torch.nn.Parameter(torch.ones(512))
        self.register_buffer("mean", torch.zeros(1024, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) * self.scale
        for layer in self.layers:
            x = layer(x)
        return x


def train(profile: DeepSeekProfiler, steps: int = 12, kept: list[torch.Tensor] | None = None) -> Net:
    with profile.phase("build"):
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters())
    profile.watch(model)
    with profile.phase("epoch 1"):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(16, 256)).sum().backward()
            optimizer.step()
            if kept is not None:
                kept.append(torch.ones(MIB))
            profile.step()
    return model


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("recorded")
    with DeepSeekProfiler("training", html=folder / "page.html", json=folder / "page.json") as profile:
        train(profile)
    assert (folder / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    return json.loads((folder / "page.json").read_text(encoding="utf-8"))


def parts(document: dict[str, Any], moment: str) -> dict[str, int]:
    (found,) = (m for m in document["moments"] if m["moment"] == moment)
    return {part["part"]: part["bytes"] for part in found["parts"]}


def test_parts_sum_exactly_and_tensors_are_what_pytorch_has(document: dict[str, Any]) -> None:
    for moment in document["moments"]:
        assert sum(part["bytes"] for part in moment["parts"]) == moment["bytes"]
        assert moment["parts"][-1]["part"] == "unattributed"
    weights = sum(p.nbytes for p in Net().parameters())
    before, after = parts(document, "build"), parts(document, "epoch 1")
    assert before["parameters"] >= weights
    assert after["gradients"] >= weights
    assert after["optimizer_state"] >= 2 * weights
    assert after["buffers"] >= 1024 * 256 * 4
    assert abs(after["unattributed"]) < 0.25 * document["moments"][0]["bytes"]


def test_phases_are_those_that_were_named(document: dict[str, Any]) -> None:
    assert [p["phase"] for p in document["phases"] if p["phase"] != "training"] == ["build", "epoch 1"]
    assert all(p["peak_bytes"] >= p["rss_bytes"] for p in document["phases"])
    assert document["schema"] == "deepseek.profile/2"
    assert document["failed"] is None
    assert document["overhead"]["sampled_seconds"] >= document["overhead"]["plain_seconds"] >= 0


def test_layers_are_told_apart_and_add_up(document: dict[str, Any]) -> None:
    rows = {row["layer"]: row for row in document["layers"]}
    assert list(rows) == ["embed", "layers.0", "layers.1", "other"]
    assert sum(row["weights_bytes"] for row in rows.values()) == sum(p.nbytes for p in Net().parameters())
    assert rows["layers.0"]["calls"] == 12
    assert rows["layers.0"]["activation_bytes"] == 2 * 16 * 512 * 4
    assert rows["layers.0"]["forward_seconds"] > 0
    assert document["tensors"][0] == {
        "name": "scale",
        "layer": "other",
        "form": "float32",
        "parameters": 512,
        "bytes": 2048,
    }


def test_a_leak_is_found_by_its_slope() -> None:
    kept: list[torch.Tensor] = []
    with DeepSeekProfiler("leaky") as profile:
        train(profile, 20, kept)
    assert profile.document
    found = profile.document["leak"]
    assert found["leaks"]
    assert 3 * MIB < found["slope_bytes"] < 6 * MIB  # a million floats a step, and what the allocator does beside them
    assert found["low_bytes"] <= found["slope_bytes"] <= found["high_bytes"]


def test_steady_steps_do_not_leak() -> None:
    found = leak([100 * MIB, 150 * MIB, *(160 * MIB + (i % 3) * 4096 for i in range(30))])
    assert found and not found["leaks"]
    assert leak([1, 2, 3]) is None


def test_a_peak_belongs_to_its_phase() -> None:
    """Memory of the system's own: what an allocator takes back may stay resident."""
    with DeepSeekProfiler("peaks") as profile:
        with profile.phase("high"), mmap.mmap(-1, 80 * MIB) as big:
            for page in range(0, len(big), mmap.PAGESIZE):
                big[page] = 1
        with profile.phase("low"):
            pass
    high, low = profile.phases[-2:]
    assert (high.name, low.name) == ("high", "low")
    assert high.peak_bytes and low.peak_bytes
    if low.peak_reset:
        assert high.peak_bytes - low.peak_bytes > 60 * MIB


def test_what_raises_still_gets_its_page_and_goes_on(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(ValueError, match="no more"), DeepSeekProfiler("broken", html=page) as profile, profile.phase("second"):
        raise ValueError("no more")
    assert profile.document
    assert profile.document["failed"]["phase"] == "second"
    assert profile.document["failed"]["message"] == "ValueError: no more"
    assert "no more" in page.read_text(encoding="utf-8")


def test_an_error_that_was_handled_is_none() -> None:
    with DeepSeekProfiler("handled") as profile:
        try:
            with profile.phase("try"):
                raise ValueError
        except ValueError:
            pass
    assert profile.document and profile.document["failed"] is None


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be written"):
        DeepSeekProfiler("x", html=tmp_path / "missing" / "page.html")
    other = tmp_path / "notes.html"
    other.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a report"):
        DeepSeekProfiler("x", html=other)


def test_hooks_end_with_the_recording() -> None:
    with DeepSeekProfiler("hooks") as profile:
        model = train(profile, 1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_importing_the_package_stays_light() -> None:
    code = "import sys, deepseek_cli.profile; print(*(set(sys.modules) & {'torch', 'numpy', 'jinja2', 'psutil'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_memory_of_started_processes_counts_with_family() -> None:
    code = "import time; x = bytearray(b'x') * (60 << 20); print(1, flush=True); time.sleep(20)"
    with DeepSeekProfiler("parent", family=True) as profile, profile.phase("child"):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        with child:
            assert child.stdout and child.stdout.readline()
            profile.begin("held")
            child.kill()
    held = {p.name: {part["part"]: part["bytes"] for part in p.now.parts} for p in profile.phases}
    assert held["child"]["other_processes"] > 60 * MIB
