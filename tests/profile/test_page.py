"""The page in a real browser: it draws itself without a network, without an error, and with the figures it was given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.main import main
from deepseek_cli.profile.report import render_html
from tests.profile.browser import AXE, CHROMIUM, SIZES, browser, opened
from tests.profile.documents import HOSTILE, MIB, document, first_schema, what_if

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
BYTES = re.compile(r"([−\d,]+) B")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def whole() -> str:
    return render_html(document(layers=4), document())


def exact(tab: Any, place: str) -> list[int]:
    """The sizes of a table, to the byte, as its cells' titles have them."""
    titles = tab.eval_on_selector_all(f"{place} [title]", "nodes => nodes.map(n => n.title)")
    return [int(found[1].replace(",", "").replace("−", "-")) for title in titles if (found := BYTES.fullmatch(title))]


def rows(tab: Any, place: str) -> int:
    return int(tab.locator(f"{place} tbody tr").count())


def press(tab: Any, *keys: str) -> None:
    for key in keys:
        tab.keyboard.press(key)


def test_the_page_draws_what_it_was_given(chromium: Any, whole: str, tmp_path: Path) -> None:
    given = document(layers=4)
    with opened(chromium, whole, tmp_path) as tab:
        for i, moment in enumerate(given["moments"]):
            tab.locator("#moments button").nth(i).click()
            assert exact(tab, "#parts") == [*(p["bytes"] for p in moment["parts"]), moment["bytes"]]
            assert sum(exact(tab, "#parts")[:-1]) == moment["bytes"]
        for name in ("phases", "layers", "operators", "estimate"):
            assert rows(tab, f"#{name}") == len(given[name]["rows"] if name == "estimate" else given[name]), name
        assert tab.locator("#advice li").count() == len(given["advice"]) > 3
        assert exact(tab, "#figures")[:2] == [given["peak"]["bytes"], given["phases"][-1]["rss_bytes"]]
        assert "Fits this machine" in tab.inner_text("#fits")
        assert "fits 1, is tight on 1, does not fit 1" in tab.inner_text("#devices-summary")
        assert "No leak" in tab.inner_text("#leak-verdict")
        assert exact(tab, "#compare")[-3:] == [220 * MIB, 220 * MIB, 0]
        assert tab.locator("section:visible").count() == 12
        assert not re.search(r"undefined|NaN|\{\w+\}", tab.inner_text("main").replace("{{ 7*7 }}", ""))


def test_everything_can_be_done_from_the_keyboard(chromium: Any, whole: str, tmp_path: Path) -> None:
    with opened(chromium, whole, tmp_path) as tab:
        tab.focus("#moments [aria-checked=true]")
        press(tab, "ArrowRight")
        assert tab.inner_text("#moments [aria-checked=true]") == "After import"
        tab.focus("#chart")
        press(tab, "End")
        assert tab.inner_text("#readout").startswith("2.99")
        press(tab, "Home", "ArrowRight")
        assert tab.inner_text("#readout").startswith("0.010")
        labels = tab.inner_text("#chart")
        press(tab, "+", "+")
        assert tab.inner_text("#chart") != labels
        press(tab, "Escape")
        assert tab.inner_text("#chart") == labels
        tab.focus("#spans [aria-checked=true]")
        press(tab, "ArrowRight", "ArrowRight")
        assert tab.inner_text("#spans [aria-checked=true]") == "load"
        assert tab.inner_text("#chart") != labels

        heading = tab.locator("#layers thead button").nth(0)
        heading.focus()
        press(tab, "Enter", "Enter")
        assert tab.get_attribute("#layers thead th", "aria-sort") == "descending"
        assert tab.inner_text("#layers tbody tr:first-child th") == "norm and head"
        tab.focus("#layer-search")
        tab.keyboard.type("3")
        assert rows(tab, "#layers") == 1

        tab.focus("#theme")
        press(tab, "Enter")
        assert tab.get_attribute("html", "data-theme") == "dark"
        tab.focus("#language")
        press(tab, "Enter")
        assert tab.get_attribute("html", "lang") == "zh-CN"
        assert "字节都在哪里" in tab.inner_text("#peak-title")


def test_the_weights_are_searched_and_walked_by_keyboard(chromium: Any, whole: str, tmp_path: Path) -> None:
    given = document(layers=4)["tensors"]
    with opened(chromium, whole, tmp_path) as tab:
        tab.focus("#weight-search")
        tab.keyboard.type(r"layers\.[12]\..*q_proj")
        hits = [t for t in given if re.search(r"layers\.[12]\..*q_proj", t["name"])]
        assert tab.inner_text("#weight-found").startswith(f"{len(hits)} tensors, 19.5 KiB")
        assert sum(t["bytes"] for t in hits) == 20_000
        tab.fill("#weight-search", "")
        tab.focus("#icicle")
        press(tab, "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight")
        assert tab.inner_text("#icicle-readout").startswith("model.layers: ")
        press(tab, "Enter")
        assert tab.locator("#crumbs li").all_inner_texts() == ["toy", "model", "layers"]
        assert rows(tab, "#children") == 4
        assert exact(tab, "#children")[-1] == sum(t["bytes"] for t in given if ".layers." in t["name"])
        press(tab, "Escape")
        assert tab.locator("#crumbs li").all_inner_texts() == ["toy", "model"]
        assert tab.evaluate("document.activeElement.id") == "icicle"


def test_a_layer_is_looked_at_alone_by_keyboard(chromium: Any, whole: str, tmp_path: Path) -> None:
    given = document(layers=4)
    own = [tensor for tensor in given["tensors"] if tensor["layer"] == "2"]
    with opened(chromium, whole, tmp_path) as tab:
        tab.focus("#layers button[data-layer='2']")
        press(tab, "Enter")
        assert tab.inner_text("#chosen p") == "Below: weights and operators of layer 2 alone."
        assert tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        assert tab.inner_text("#crumbs li:last-child") == "2"
        assert exact(tab, "#children")[-1] == exact(tab, "#weights")[-1] == sum(tensor["bytes"] for tensor in own)
        assert rows(tab, "#operators") == 2
        assert tab.locator("#operators tbody td:nth-child(2)").all_inner_texts() == ["1", "1"]
        assert rows(tab, "#nodes") == 7
        assert set(tab.locator("#nodes tbody td:nth-child(3)").all_inner_texts()) == {"2"}
        tab.fill("#weight-search", "q_proj")
        assert tab.inner_text("#weight-found").startswith("2 tensors, ")
        tab.focus("#chosen button")
        press(tab, "Enter")
        assert tab.inner_text("#chosen") == ""
        assert tab.evaluate("document.activeElement.dataset.layer") == "2"
        assert tab.inner_text("#weight-found").startswith("8 tensors, ")
        assert exact(tab, "#weights")[-1] == sum(form["bytes"] for form in given["weights"])
        press(tab, "Enter", "Escape")
        assert tab.inner_text("#chosen") == ""


def test_another_language_keeps_the_layer(chromium: Any, whole: str, tmp_path: Path) -> None:
    with opened(chromium, whole, tmp_path) as tab:
        tab.locator("#strip span").nth(2).click()
        assert tab.get_attribute("#layers button[data-layer='1']", "aria-pressed") == "true"
        tab.click("#language")
        assert "第 1 层" in tab.inner_text("#chosen")
        assert rows(tab, "#nodes") == 7


def test_the_sliders_move_by_keyboard(chromium: Any, whole: str, tmp_path: Path) -> None:
    from deepseek_cli.profile.whatif import need

    model = what_if(4)
    with opened(chromium, whole, tmp_path) as tab:
        assert exact(tab, "#w-parts")[-1] == need(model, **model["now"])["total"]
        tab.focus("#w-context")
        press(tab, "End")
        tab.focus("#w-batch")
        press(tab, "ArrowRight")
        tab.select_option("#w-kv", "int8")
        tab.select_option("#w-scheme", "int4-g32")
        assert tab.inner_text("#w-context-value") == "8,192 tokens"
        assert exact(tab, "#w-parts")[-1] == need(model, 8192, 2, "int8", "int4-g32")["total"]
        assert rows(tab, "#w-devices") == len(model["devices"])


def test_a_file_is_compared_with(chromium: Any, tmp_path: Path) -> None:
    before = document(name="earlier")
    before["moments"][0]["parts"][0]["bytes"] -= MIB
    before["moments"][0]["bytes"] -= MIB
    (tmp_path / "before.json").write_text(json.dumps(before))
    (tmp_path / "other.json").write_text("[]")
    with opened(chromium, render_html(document()), tmp_path) as tab:
        assert tab.is_hidden("#compared")
        tab.set_input_files("#compare-file", tmp_path / "other.json")
        tab.locator("#compare-said", has_text="not a memory report").wait_for()
        tab.set_input_files("#compare-file", tmp_path / "before.json")
        tab.wait_for_selector("#compared", state="visible")
        assert exact(tab, "#compare")[:3] == [4 * MIB + 7, 5 * MIB + 7, MIB]
        assert exact(tab, "#compare")[-1] == MIB
        tab.evaluate(
            """text => { const given = new DataTransfer(); given.items.add(new File([text], 'dropped.json'));
            dispatchEvent(new DragEvent('drop', { dataTransfer: given, cancelable: true })); }""",
            json.dumps(document(name="dropped")),
        )
        tab.locator("#compare-lede", has_text="dropped").wait_for()
        with tab.expect_download() as saved:
            tab.click("#download")
        assert json.loads(Path(saved.value.path()).read_text())["moments"] == document()["moments"]


def test_a_part_of_the_timeline_is_chosen_with_the_pointer(chromium: Any, whole: str, tmp_path: Path) -> None:
    with opened(chromium, whole, tmp_path) as tab:
        tab.locator("#chart").scroll_into_view_if_needed()
        labels, box = tab.inner_text("#chart"), tab.locator("#chart").bounding_box()
        tab.mouse.move(box["x"] + 300, box["y"] + 100)
        tab.mouse.down()
        tab.mouse.move(box["x"] + 500, box["y"] + 110, steps=3)
        tab.mouse.up()
        assert tab.inner_text("#chart") != labels
        tab.mouse.dblclick(box["x"] + 300, box["y"] + 100)
        assert tab.inner_text("#chart") == labels


@pytest.mark.skipif(not AXE.is_file(), reason="node and its packages are not installed")
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("wide", {"color_scheme": "light"}),
        ("wide", {"color_scheme": "dark"}),
        ("wide", {"forced_colors": "active"}),
        ("narrow", {"color_scheme": "light"}),
        ("narrow", {"color_scheme": "dark", "locale": "zh-CN"}),
    ],
    ids=str,
)
def test_everyone_can_read_it(chromium: Any, whole: str, tmp_path: Path, size: str, options: dict[str, Any]) -> None:
    with opened(chromium, whole, tmp_path, size, bypass_csp=True, reduced_motion="reduce", **options) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        tab.locator("#layers button.layer").nth(2).click()
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        found = tab.evaluate("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html)]))")
        assert not [violation for violation in found if violation[0] in ("serious", "critical")]


def test_hostile_names_are_shown_as_text(chromium: Any, tmp_path: Path) -> None:
    given = document(name=HOSTILE)
    given["tensors"] += [
        {**given["tensors"][0], "name": name} for name in (HOSTILE, "x" * 300, "...", "", "__proto__", "a.constructor")
    ]
    given["moments"][0]["parts"][0]["part"] = HOSTILE
    given["nodes"][0]["node"] = HOSTILE * 5
    given["phases"][0]["phase"] = "constructor"
    with opened(chromium, render_html(given, document(name=HOSTILE)), tmp_path, "narrow") as tab:
        assert tab.locator("img").count() == 0
        assert tab.locator("script").count() == 2
        assert tab.evaluate("document.documentElement.scrollWidth") <= 320
        assert "onerror=alert(1)" in tab.inner_text("#name")
        tab.fill("#weight-search", "__proto__")
        assert tab.inner_text("#weight-found").startswith("1 tensors")


@pytest.mark.parametrize("layers", [0, 1, 200])
def test_any_number_of_layers_draws_at_once(chromium: Any, tmp_path: Path, layers: int) -> None:
    page = render_html(document(layers, points=50_000))
    with opened(chromium, page, tmp_path) as tab:
        assert rows(tab, "#layers") == layers + 2
        session = tab.context.new_cdp_session(tab)
        session.send("Performance.enable")
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["ProcessTime"] < 4, "seconds of processor time: eight times what the page takes"


@pytest.mark.parametrize(
    "lacking", [(), ("moments", "phases", "layers", "weights", "operators", "tensors", "nodes")], ids=["old", "failed"]
)
def test_what_was_not_measured_is_left_out(chromium: Any, tmp_path: Path, lacking: tuple[str, ...]) -> None:
    given = first_schema()
    if lacking:
        given |= {**{key: [] for key in lacking}, "peak": None, "kv": None, "overhead": None, "arena": None, "estimate": None}
        given["failed"] = {"phase": "load", "code": "memory-short", "message": "Too little memory.", "exit_code": 4}
    with opened(chromium, render_html(given), tmp_path) as tab:
        assert tab.is_hidden("#leak-section") and tab.is_hidden("#whatif") and tab.is_hidden("#icicle-block")
        assert "leak test" in tab.inner_text("#method").lower()
        if lacking:
            assert "The run failed during load: Too little memory." in tab.inner_text("#failed")
            assert tab.locator("main > section:visible").count() == 1
        else:
            assert exact(tab, "#parts")[-1] == given["peak"]["bytes"]


def test_a_recorded_program_names_its_own_phases(chromium: Any, tmp_path: Path) -> None:
    given = document()
    given["run"] = {}
    given["model"] = {"name": "train.py"}
    for phase in given["phases"]:
        phase |= {"phase": f"epoch of {phase['phase']}", "anonymous_bytes": None, "file_bytes": None, "tokens_per_second": None}
    given["peak"]["phase"] = "epoch of load"
    given |= {
        "what_if": None,
        "kv": None,
        "weights": [],
        "layers": [],
        "estimate": None,
        "timeline": {"period_ms": 5, "samples": 0, "points": []},
    }
    with opened(chromium, render_html(given), tmp_path) as tab:
        assert "epoch of load" in tab.inner_text("#phases")
        assert not re.search(r"undefined|NaN", tab.inner_text("body"))


def test_it_prints(chromium: Any, whole: str, tmp_path: Path) -> None:
    with opened(chromium, whole, tmp_path) as tab:
        tab.emulate_media(media="print")
        assert tab.is_hidden("#theme") and tab.is_visible("#parts")
        assert len(tab.pdf()) > 30_000


def test_an_estimate_is_a_page_too(chromium: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, page = Path(__file__).parent / "configs" / "DeepSeek-R1-Distill-Qwen-1.5B.json", tmp_path / "estimate.html"
    asked = ["profile", str(config), "--estimate", "--scheme", "int4-g32", "--context", "2048", "--set", "bandwidth=20GB"]
    assert main([*asked, "--html", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with opened(chromium, page.read_text(encoding="utf-8"), tmp_path) as tab:
        assert exact(tab, "#figures")[:2] == [found["total_bytes"], found["weights_bytes"]]
        assert tab.locator("main > section:visible").count() == 4
        assert rows(tab, "#w-devices") == len(found["devices"])
        words = tab.locator("#w-devices tbody td:nth-child(2)").all_inner_texts()
        assert [word.split("\n")[-1].strip() for word in words] == [device["verdict"] for device in found["devices"]]
        assert exact(tab, "#weights")[-1] == found["weights_bytes"]
        assert not re.search(r"undefined|NaN", tab.inner_text("body"))


def test_a_snapshot_is_a_page_too(chromium: Any, tmp_path: Path) -> None:
    from deepseek_cli.profile import snapshot
    from tests.profile.test_accelerator import snapshot as recorded
    from tests.profile.test_accelerator import written

    made = snapshot.document(written(tmp_path, recorded()), "deepseek profile snapshot.json")
    with opened(chromium, render_html(made), tmp_path) as tab:
        assert exact(tab, "#parts") == [12 * MIB, 10 * MIB, 0, 22 * MIB]
        assert tab.is_hidden("#fits")
        assert "torch’s allocator" in tab.inner_text("#method")
        assert not re.search(r"undefined|NaN|ONNX", tab.inner_text("body"))
