from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deepseek_cli.compress import experts, refit


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Toys are too small for more, which only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fitted_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that stay are left as they are; tests of how they are fitted say otherwise, by a fixture of this name."""
    monkeypatch.setattr(experts, "TRIED", 2)
    monkeypatch.setattr(refit, "fit", lambda *_: {})
