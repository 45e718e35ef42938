from __future__ import annotations

import pytest

from deepseek_cli.compress import experts, refit


@pytest.fixture(autouse=True)
def fitted_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that stay are left as they are; tests of how they are fitted say otherwise, by a fixture of this name."""
    monkeypatch.setattr(experts, "TRIED", 2)
    monkeypatch.setattr(refit, "fit", lambda *_: {})
