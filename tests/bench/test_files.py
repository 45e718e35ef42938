"""The picture and JUnit's form: what others' readers get."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from deepseek_cli.bench import arms
from deepseek_cli.bench.chart import chart, shortened
from deepseek_cli.bench.gates import Check
from deepseek_cli.bench.junit import junit
from deepseek_cli.bench.measure import bench
from deepseek_cli.bench.report import csv_text, markdown
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.bench.statistics import summary
from tests.bench import scripted

HOSTILE = "</text><script>alert(1)</script>|\x00\ud800&\"'\n"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def document(monkeypatch, tmp_path):
    arm = {"values": {"decode@0": [100.0, 101.0], "prefill@512": [9.0]}, "bytes": 50_000_000}
    slow = {"values": {"decode@0": [20.0]}, "bytes": 500_000_000}
    monkeypatch.setattr(arms, "BOOT", scripted.boot({"fast": arm, "slow": slow, "gone": {"dies_after": 0}}))
    found, _ = bench(["fast", "slow", "gone"], BenchSpec(rounds=2, starts=0, roofline=False), home=tmp_path)
    found["arms"][1]["metrics"]["kl"] = summary([0.2])
    return found


def test_the_picture_places_arms_by_size_and_speed(document):
    root = ElementTree.fromstring(chart(document))
    fast, slow = root.findall(f"{SVG}circle")
    assert float(fast.get("cx")) < float(slow.get("cx"))
    assert float(fast.get("cy")) < float(slow.get("cy"))
    assert (fast.get("class"), slow.get("class")) == ("unknown", "arm")
    assert float(slow.get("r")) > float(fast.get("r"))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"fast", "slow", "quality not measured", "KL 0.2"} <= set(texts)
    assert "gone" not in texts


def test_labels_do_not_cover_each_other(document):
    document["arms"] = [document["arms"][0]] * 4
    root = ElementTree.fromstring(chart(document))
    places = sorted(float(e.get("y")) for e in root.iter(f"{SVG}text") if e.text == "fast")
    assert all(b - a >= 34 for a, b in pairwise(places))


def test_long_names_keep_their_ends():
    name = "SmolLM2-135M-Instruct@int4-g32-fast+cpu #2"
    assert len(shortened(name)) == 34
    assert shortened(name).startswith("SmolLM2") and shortened(name).endswith("fast+cpu #2")
    assert shortened("short") == "short"


def test_a_picture_of_nothing_is_still_one(document):
    document["arms"] = document["arms"][2:]
    assert ElementTree.fromstring(chart(document)).findall(f"{SVG}circle") == []


@pytest.mark.parametrize("render", [chart, junit])
def test_hostile_names_stay_text(document, render):
    document["arms"][0]["name"] = HOSTILE
    document["arms"][2]["error"]["message"] = HOSTILE
    root = ElementTree.fromstring(render(document).encode("utf-8"))
    assert not [element for element in root.iter() if element.tag.endswith("script")]


def test_hostile_names_leave_tables_whole(document):
    document["arms"][0]["name"] = "a|b\nc"
    header, rule = markdown(document).splitlines()[2:4]
    assert header.replace("\\|", "").count("|") == rule.count("|")
    assert csv_text(document)


def test_the_picture_needs_no_network_and_runs_nothing(document):
    text = chart(document).replace("http://www.w3.org/2000/svg", "")
    assert not any(word in text for word in ("http", "href", "<script", "url(", "@import"))
    assert "prefers-color-scheme: dark" in text


def test_junit_has_a_case_per_metric_and_what_gates_say(document):
    bounds = (0.2, 0.4)
    document["gates"] = [
        Check("slow", "decode@0", "fast", 0.3, bounds, 0.05, "slower"),
        Check("fast", "prefill@512", "fast", 0.0, bounds, 0.05, "inconclusive", "why"),
    ]
    fast, slow, gone = ElementTree.fromstring(junit(document))
    case = slow.find("testcase[@name='decode@0']")
    assert "+30.0% (+20.0% to +40.0%)" in case.find("failure").get("message")
    assert (slow.get("failures"), fast.get("failures"), gone.get("errors")) == ("1", "0", "1")
    assert fast.find("testcase[@name='prefill@512']/skipped").get("message") == "inconclusive: why"
    assert fast.find("testcase[@name='decode@0']/system-out").text == "100.5 ± 0.5 tok/s"
    assert "out of luck" in gone.find("testcase/error").get("message")
