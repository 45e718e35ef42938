from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepseek_cli import open_model
from deepseek_cli.quantize.algorithms import LEVELS
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

README = Path(__file__).parents[1] / "README.md"


def test_the_verbs_chain(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    model = open_model(tmp_path / "toy", Store(tmp_path / "home"))
    bundle = model.quantize(int4=True, report=False).deploy(target="cpu")
    assert bundle.path == tmp_path / "home" / "models" / "toy@int4-g32-balanced+cpu"
    text = "".join(bundle.generate("Hello", max_tokens=8))
    assert text == "".join(bundle.generate("Hello", max_tokens=8))
    assert model.compress(to_size=1_000_000, output=tmp_path / "small").path == tmp_path / "small"
    assert bundle.evaluate(str(tmp_path / "toy"))["kl"] > 0


@pytest.mark.usefixtures("all_cores")
def test_the_readmes_lines_run_on_the_real_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path))
    lines = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert lines
    monkeypatch.setitem(LEVELS, "balanced", LEVELS["fast"])  # a minute less
    exec(compile(lines[1], "README.md", "exec"), {})
    assert "Paris" in capsys.readouterr().out
