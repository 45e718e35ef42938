from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepseek_cli.errors import ResourceError, UsageError
from deepseek_cli.profile import report
from tests.profile.documents import HOSTILE, document


class Tags(HTMLParser):
    """What a browser sees: every tag with its attributes, and what scripts and styles hold."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {"script": [], "style": []}
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.text:
            self.text[self.inside].append(data)

    def attribute(self, tag: str, **where: str) -> list[dict[str, str | None]]:
        return [a for name, a in self.tags if name == tag and all(a.get(k.replace("_", "-")) == v for k, v in where.items())]


@pytest.fixture(scope="module")
def page() -> str:
    return report.render_html(document(name=HOSTILE), document())


@pytest.fixture(scope="module")
def tags(page: str) -> Tags:
    return Tags(page)


def test_the_policy_allows_the_one_style_and_the_one_script(tags: Tags) -> None:
    policy = tags.attribute("meta", http_equiv="Content-Security-Policy")[0]["content"] or ""
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    (style,) = tags.text["style"]
    data, script = tags.text["script"]
    assert report.digest(style) in policy
    assert report.digest(script) in policy
    assert report.digest(data) not in policy


def test_the_page_names_no_address(page: str, tags: Tags) -> None:
    assert not re.search(r"https?://|[\"'(]//\w", page)
    assert not [t for t, a in tags.tags if t in ("link", "img", "iframe", "base", "object") or a.get("src")]
    assert not re.findall(r"url\((.)", tags.text["style"][0])
    assert all((a.get("href") or "#").startswith("#") for _, a in tags.tags)


def test_hostile_names_stay_text(page: str, tags: Tags) -> None:
    assert "onerror=alert" not in "".join(str(a) for _, a in tags.tags)
    assert "{{ 7*7 }}" in page
    loaded = json.loads(tags.text["script"][0])
    assert loaded["document"]["model"]["name"] == HOSTILE
    assert any(row["operator"] == HOSTILE for row in loaded["document"]["operators"])
    assert "<" not in tags.text["script"][0]


def test_no_tag_carries_a_style_or_a_handler(tags: Tags) -> None:
    assert not [name for _, a in tags.tags for name in a if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("layers", [0, 1, 100, 200])
def test_the_page_stays_small(layers: int) -> None:
    budget = 400_000 if layers <= 100 else 500_000
    assert len(report.render_html(document(layers, points=9000)).encode()) < budget


def texts() -> dict[str, dict[str, str]]:
    return json.loads((report.TEMPLATES / "texts.json").read_text(encoding="utf-8"))


def test_both_languages_say_the_same_things() -> None:
    found = texts()
    assert list(found) == ["en", "zh"]
    assert list(found["en"]) == list(found["zh"])
    for key, english in found["en"].items():
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", found["zh"][key])), key


def test_every_text_that_is_asked_for_is_there() -> None:
    known = set(texts()["en"])
    html = (report.TEMPLATES / "report.html").read_text(encoding="utf-8")
    script = "".join((report.TEMPLATES / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in report.SCRIPTS)
    asked = set(re.findall(r'data-(?:t|label)="([\w.]+)"', html)) | set(re.findall(r'\bt\("([\w.]+)"', script))
    assert len(asked) > 150
    assert asked <= known
    for part in report.PARTS:
        assert {f"part.{part}", f"how.{part}"} <= known


def test_every_script_is_part_of_the_page() -> None:
    assert {path.stem for path in (report.TEMPLATES / "scripts").glob("*.js")} == set(report.SCRIPTS)


def test_a_page_is_never_above_2_mb() -> None:
    huge = document(100)
    huge["tensors"] = [
        {"name": f"model.layers.{i}.{'<' * 300}.{j}.weight", "layer": str(i), "form": "f32", "parameters": 1, "bytes": 4}
        for i in range(100)
        for j in range(100)
    ]
    page = report.render_html(huge)
    assert len(page.encode()) < 2_000_000
    loaded = json.loads(Tags(page).text["script"][0])
    assert loaded["aggregated"] == ["tensors"]
    columns = loaded["document"]["tensors"]
    kept = [dict(zip(columns["$columns"], row, strict=True)) for row in columns["rows"]]
    assert sum(tensor["bytes"] for tensor in kept) == 4 * 10_000


def test_markdown_is_short_and_its_names_stay_text() -> None:
    text = report.render_markdown(document(name="a|b\n<script>"))
    assert text.startswith(f"<!-- {document()['schema']} -->\n### Memory of a\\|b &lt;script> (ONNX Runtime)\n")
    assert "| **all** | **220.0** | 100.0% |" in text
    assert len(text.splitlines()) < 30


def test_a_failed_run_says_so_in_every_form() -> None:
    failed = document()
    failed |= {
        "failed": {"phase": "load", "code": "memory-short", "message": "There is too little.", "exit_code": 4},
        "moments": [],
        "peak": None,
    }
    assert "**The run failed during load:** There is too little." in report.render_markdown(failed)
    assert "There is too little." in report.render_html(failed)
    assert json.loads(report.render_json(failed))["failed"]["code"] == "memory-short"


def test_a_report_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    report.write(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for path in (tmp_path / "missing" / "r.html", blocked / "r.html"):
        for attempt in (lambda p=path: report.check_writable(p, False), lambda p=path: report.write(p, "x")):
            with pytest.raises(ResourceError) as caught:
                attempt()
            assert str(path) in str(caught.value)
            assert caught.value.exit_code == 4


def test_only_reports_are_replaced_unasked(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours.html", tmp_path / "other.html"
    ours.write_text(report.render_html(document()))
    other.write_text("<p>mine</p>")
    report.check_writable(ours, force=False)
    report.check_writable(other, force=True)
    with pytest.raises(UsageError, match=r"other\.html"):
        report.check_writable(other, force=False)
    for text in (report.render_json(document()), report.render_markdown(document())):
        other.write_text(text)
        report.check_writable(other, force=False)
