from __future__ import annotations

import runpy
from pathlib import Path

import pytest

REFERENCE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_reference.py"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_committed_reference_is_what_the_commands_say(language: str) -> None:
    page = REFERENCE["PAGES"][language]
    assert page.read_text(encoding="utf-8") == REFERENCE["render"](language), f"{page.name} is old: run `make docs`"
