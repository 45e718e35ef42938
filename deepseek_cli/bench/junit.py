"""A bench document in the form of JUnit's reports, which continuous integration shows: a test case per arm and metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from deepseek_cli.bench.gates import SLOWER, UNSURE
from deepseek_cli.bench.markup import indented, legal
from deepseek_cli.bench.metrics import unit


def junit(document: Mapping[str, Any]) -> str:
    """Gates fail their metric's case; one that is not sure skips it; an arm that failed is an error."""
    suites = ElementTree.Element("testsuites", name="deepseek bench")
    checks = {(check.arm, check.metric): check for check in document["gates"]}
    for arm in document["arms"]:
        suite = ElementTree.SubElement(suites, "testsuite", name=legal(arm["name"]), timestamp=document["when"])
        for name, metric in arm["metrics"].items():
            case = _case(suite, arm, name)
            if check := checks.get((arm["name"], name)):
                _judge(case, check)
            ElementTree.SubElement(case, "system-out").text = f"{metric['median']:g} ± {metric['mad']:g} {unit(name)}".strip()
        for name, reason in arm["missing"].items():
            ElementTree.SubElement(_case(suite, arm, name), "skipped", message=legal(reason))
        if arm["error"]:
            ElementTree.SubElement(
                _case(suite, arm, "run"), "error", message=legal(arm["error"]["message"]), type=arm["error"]["code"]
            )
        for key, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
        suite.set("tests", str(len(suite)))
    return indented(suites)


def _case(suite: ElementTree.Element, arm: Mapping[str, Any], name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=legal(arm["name"]), name=name)


def _judge(case: ElementTree.Element, check: Any) -> None:
    if check.verdict == SLOWER:
        low, high = check.interval
        said = f"{check.slowdown:+.1%} ({low:+.1%} to {high:+.1%}) time per token against {check.reference}"
        said += f", at most {check.most:+.1%}"
        ElementTree.SubElement(case, "failure", message=legal(said), type="slowdown")
    elif check.verdict in UNSURE:
        ElementTree.SubElement(case, "skipped", message=legal(f"{check.verdict}: {check.reason}"))
