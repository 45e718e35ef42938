from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deepseek_cli.compress import refit


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Toys are too small for more, which only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that stay are fitted to little text, by few steps."""
    monkeypatch.setattr(refit, "TOKENS", 2048)
    monkeypatch.setattr(refit, "STEPS", 40)
