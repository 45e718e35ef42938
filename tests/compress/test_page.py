"""The page of a result in a real browser: what was measured, without a network, a script, or a pointer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.compress.engine import compress
from deepseek_cli.compress.page import render
from deepseek_cli.compress.result import Compressed
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.i18n import say
from deepseek_cli.profile.devices import Device
from deepseek_cli.store import Store
from tests.compress.texts import short_text
from tests.profile.browser import AXE, CHROMIUM, SIZES, browser, opened
from tests.profile.documents import HOSTILE
from tests.toys import DEPLOYABLE, make_toy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
DEVICE = Device("a phone of <b>ours</b>", "phone", 200 << 20, 0.5, None)


@dataclasses.dataclass(frozen=True)
class Made:
    done: Compressed
    original: ModelHandle
    small: ModelHandle

    def page(self, name: str = "toy", language: str = "en") -> str:
        done = dataclasses.replace(self.done, result=dataclasses.replace(self.done.result, name=name))
        return render(done, dataclasses.replace(self.original, name=name), self.small, DEVICE, say, language)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, threads = tmp_path_factory.mktemp("page"), torch.get_num_threads()
    torch.set_num_threads(1)
    make_toy(folder / "toy", "llama", 1, **DEPLOYABLE)
    store = Store(folder / "home")
    handle = open_model(str(folder / "toy"), store)
    spec = CompressSpec(to_size=75_000, steps="depth=50%,heads=50%", calibration=str(short_text(folder)))  # type: ignore[arg-type]
    done = compress(handle, spec, store, folder / "small")
    torch.set_num_threads(threads)
    return Made(done, handle, open_model(str(folder / "small"), store))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


def cells(tab: Any, place: str) -> list[list[str]]:
    rows = tab.locator(f"{place} tbody tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


def test_it_shows_what_was_planned_cut_and_measured(made: Made, chromium: Any, tmp_path: Path) -> None:
    frontier, report = made.done.frontier, made.done.result.manifest.report  # type: ignore[union-attr]
    assert report is not None
    with opened(chromium, made.page(), tmp_path, ready="main") as tab:
        assert tab.locator("svg a circle").count() == sum((c.kl is not None) + (c.measured_kl is not None) for c in frontier)
        assert tab.locator("svg a circle.chosen").count() == tab.locator("#candidates tr.chosen").count() == 1
        assert [row[5] for row in cells(tab, "#candidates")] == ["–" if c.kl is None else f"{c.kl:.4f}" for c in frontier]
        assert [row[0] for row in cells(tab, "#decisions")] == [d["step"] for d in made.done.decisions]
        stored = {name: ref.stored for name, ref in made.small.weights.items()}
        names = tab.locator("#schemes thead th").all_inner_texts()
        row = dict(zip(names, next(r for r in cells(tab, "#schemes") if r[0] == "0"), strict=True))
        assert row["q_proj"] == stored["model.layers.0.self_attn.q_proj.weight"]
        assert row["down_proj"] == stored["model.layers.0.mlp.down_proj.weight"]
        weights = next(r for r in cells(tab, "#footprint") if r[0] == "weights")
        assert weights[2] == f"{sum(ref.size_bytes for ref in made.small.weights.values()) / 1e6:.1f}"
        said = [report["sanity"]["samples"][0][k] for k in ("original", "result")]
        assert tab.locator(".said").all_inner_texts()[:2] == [text.replace("\r", "\n") for text in said]  # as HTML reads it


def test_points_lead_to_their_rows_from_the_keyboard(made: Made, chromium: Any, tmp_path: Path) -> None:
    with opened(chromium, made.page(), tmp_path, ready="main") as tab:
        tab.locator("nav a").last.focus()
        tab.keyboard.press("Tab")
        first = tab.evaluate("document.activeElement.getAttribute('href')")
        tab.keyboard.press("Enter")
        assert first.startswith("#candidate-") and tab.evaluate("location.hash") == first
        assert tab.locator(f"{first}:target").count() == 1
        assert tab.locator(".scroll:not([tabindex='0'])").count() == 0


def test_a_name_is_only_a_name(made: Made, chromium: Any, tmp_path: Path) -> None:
    name = f"<script>alert(1)</script>{HOSTILE}"
    page = made.page(name)
    assert "<script" not in page and "style=" not in page
    with opened(chromium, page, tmp_path, ready="main") as tab:
        assert tab.locator("h1").text_content() == name
        assert tab.locator("script, img").count() == 0


def test_it_speaks_chinese_and_follows_the_system_into_the_dark(
    made: Made, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_LANG", "zh")
    page = made.page(language="zh")
    colours = []
    for scheme in ("light", "dark"):
        with opened(chromium, page, tmp_path, ready="main", color_scheme=scheme) as tab:
            assert tab.inner_text("#frontier") == "大小与质量"
            assert tab.get_attribute("html", "lang") == "zh-CN"
            colours.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] == "rgb(255, 255, 255)" != colours[1]


@pytest.mark.parametrize("size", SIZES)
def test_it_never_scrolls_sideways_as_a_whole(made: Made, chromium: Any, tmp_path: Path, size: str) -> None:
    with opened(chromium, made.page(), tmp_path, size, ready="main") as tab:
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.skipif(not AXE.is_file(), reason="node and its packages are not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(made: Made, chromium: Any, tmp_path: Path, scheme: str) -> None:
    with opened(chromium, made.page(), tmp_path, ready="main", color_scheme=scheme, bypass_csp=True) as tab:
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        found = tab.evaluate("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html)]))")
        assert found == []
