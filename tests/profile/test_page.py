"""The page in a real browser: it draws itself without a network, without an error, and with the figures it was given."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deepseek_cli.profile.report import render_html
from tests.profile.documents import HOSTILE, document

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def draw(folder: Path, page: str, *flags: str) -> str:
    """The document after the page's script ran; fails on any word on the console."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [
        CHROMIUM or "",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'browser'}",
        "--virtual-time-budget=4000",
        "--dump-dom",
        *flags,
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


def section(dom: str, name: str) -> str:
    found = re.search(rf'id="{name}".*?</(?:section|table)>', dom, re.S)
    assert found
    return found[0]


def test_the_page_draws_what_it_was_given(tmp_path: Path) -> None:
    given = document(layers=4)
    dom = draw(tmp_path, render_html(given, document()))
    assert 'data-ready="1"' in dom
    peak = given["moments"][0]
    sizes = [int(text.replace(",", "")) for text in re.findall(r'title="(-?[\d,]+) B"', section(dom, "parts"))]
    assert sizes == [*(p["bytes"] for p in peak["parts"] if p["bytes"] or p["part"] == "unattributed"), peak["bytes"]]
    assert section(dom, "layers").count("<tr") == 1 + len(given["layers"]) + 1
    assert section(dom, "phases").count("<tr") == 1 + len(given["phases"])
    assert section(dom, "operators").count("<tr") == 1 + len(given["operators"])
    assert "Against the baseline" in dom
    assert dom.count("<path") == 4


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    dom = draw(tmp_path, render_html(document(name=HOSTILE)))
    assert 'data-ready="1"' in dom
    assert not re.search(r"<img", dom.replace("&lt;img", ""))


def test_the_page_speaks_chinese_to_who_reads_it(tmp_path: Path) -> None:
    dom = draw(tmp_path, render_html(document()), "--accept-lang=zh-CN")
    assert '<html lang="zh-CN"' in dom
    assert "字节都在哪里" in dom


def test_a_run_that_failed_still_draws(tmp_path: Path) -> None:
    failed = {**document(), "failed": {"phase": "load", "code": "memory-short", "message": "Too little memory.", "exit_code": 4}}
    failed |= {
        "phases": [],
        "moments": [],
        "peak": None,
        "weights": [],
        "kv": None,
        "layers": [],
        "operators": [],
        "overhead": None,
    }
    dom = draw(tmp_path, render_html(failed))
    assert 'data-ready="1"' in dom
    assert "The run failed during load: Too little memory." in dom
