from __future__ import annotations

import pytest

from deepseek_cli.compress import refit


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that stay are fitted to little text, by few steps."""
    monkeypatch.setattr(refit, "TOKENS", 2048)
    monkeypatch.setattr(refit, "STEPS", 40)
