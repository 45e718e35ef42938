"""--memory-profile on commands that work in this process: a page of each one's own run, and nothing where it is absent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


def document(page: str) -> dict[str, Any]:
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', Path(page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return rows(json.loads(found[1])["document"])


def rows(data: Any) -> Any:
    """What the page's script makes of the columns that tables are packed in."""
    if isinstance(data, dict) and "$columns" in data:
        return [dict(zip(data["$columns"], map(rows, row), strict=True)) for row in data["rows"]]
    if isinstance(data, dict):
        return {key: rows(value) for key, value in data.items()}
    return [rows(value) for value in data] if isinstance(data, list) else data


def phases(page: str) -> list[str]:
    return [phase["phase"] for phase in document(page)["phases"]]


def test_run(cli: Cli, stock: Stock, monkeypatch: Any) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(stock.home))
    done = cli("run", BUNDLE, "Hello", "--max-tokens", 3, "--threads", 1, "--memory-profile", "--json")
    assert done.code == 0
    page = done.json["memory_profile"]
    assert page == f"{BUNDLE}-memory.html"
    assert [p for p in phases(page) if p != "run"] == ["load", "prefill", "decode"]
    parts = {p["part"]: p["bytes"] for p in document(page)["moments"][-1]["parts"]}
    assert parts["kv"] > 0


def test_quantize_names_its_steps(cli: Cli, stock: Stock, monkeypatch: Any) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(stock.home))
    done = cli("quantize", "toy", "--int8", "--set", "level=fast", "--memory-profile")
    assert done.code == 0
    assert "toy-memory.html is written." in done.out
    assert "quantize" in phases("toy-memory.html")


def test_a_dry_run_names_the_page_and_writes_none(cli: Cli, stock: Stock, monkeypatch: Any) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(stock.home))
    done = cli("deploy", QUANTIZED, "--target", "cpu", "--memory-profile", "--dry-run")
    assert done.code == 0
    assert f"{QUANTIZED}-memory.html would be written." in done.out
    assert not list(Path().iterdir())


def test_a_page_that_cannot_be_written_is_refused_before_the_work(cli: Cli, stock: Stock, monkeypatch: Any) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(stock.home))
    Path("toy-memory.html").mkdir()
    before = stock.names()
    assert cli("quantize", "toy", "--int8", "--memory-profile").code in (2, 4)
    assert stock.names() == before


def test_a_run_that_fails_leaves_a_page_that_says_so(cli: Cli, stock: Stock, monkeypatch: Any) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(stock.home))
    done = cli("run", BUNDLE, "Hello " * 3000, "--max-tokens", 3, "--threads", 1, "--context", 16, "--memory-profile")
    assert done.code == 2
    assert "holds what was measured until then" in done.err
    failed = document(f"{BUNDLE}-memory.html")["failed"]
    assert (failed["phase"], failed["exit_code"]) == ("prefill", 2)


def test_without_it_nothing_is_imported(stock: Stock) -> None:
    code = (
        "import sys; from deepseek_cli.main import main; main(['list', '-q']); "
        "main(['run', sys.argv[1], 'Hi', '--raw', '--max-tokens', '1', '--threads', '1', '-q']); "
        "print([m for m in sys.modules if m.startswith('deepseek_cli.profile')])"
    )
    folder = str(stock.folder(BUNDLE))
    shown = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
