from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek_cli.ops import torch_parts
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import Parts, PartsOps, Spool, product_rate

WEIGHTS = {f"{name}.weight": torch.randn(shape) for name, shape in (("gate", (24, 8)), ("up", (24, 8)), ("down", (8, 24)))}
WINDOWS = torch.randn(6, 3, 8)


def parts(folder: Path, budget: int = 0) -> Parts:
    return Parts(Spool(budget, folder / "spool"), WINDOWS.split(2))


def test_parts_compute_what_the_whole_does(tmp_path: Path) -> None:
    for budget in (0, 1 << 20):
        found = PartsOps(WEIGHTS).gated_mlp(parts(tmp_path, budget), "gate", "up", "down")
        assert torch.allclose(torch.cat(list(found)), TorchOps(WEIGHTS).gated_mlp(WINDOWS, "gate", "up", "down"), atol=1e-5)


def test_an_mlp_lets_its_inner_values_go(tmp_path: Path) -> None:
    files: dict[str, int] = {}

    class Looking(PartsOps):
        def linears(self, x: Parts, names: Any) -> list[Parts]:
            files[names[0]] = len(list(x.spool.folder.iterdir()))
            return super().linears(x, names)

    Looking(WEIGHTS).gated_mlp(parts(tmp_path), "gate", "up", "down")
    assert files == {"gate": 3, "down": 3 + 3}  # the inputs, and the gated values: neither gate's nor up's


def test_what_is_drained_is_given_once_and_in_order(tmp_path: Path) -> None:
    values = parts(tmp_path)
    given: list[Tensor] = [part.clone() for part in values.drain()]
    assert torch.equal(torch.cat(given), WINDOWS)
    assert len(values) == 0
    assert not list(values.spool.folder.iterdir())


def test_a_product_that_had_to_wait_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0, 30.0, 35.0, 40.0, 42.0])
    monkeypatch.setattr(torch_parts, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert product_rate(torch.float32) == 2 * 2048 * 1024**2
