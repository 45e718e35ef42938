"""A pytest plug-in: a skip whose reason is not listed in tests/allowed_skips.txt is a failure."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
ALLOWED = pytest.StashKey[frozenset[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("allowed_skips", "file with the reasons for which a test may be skipped, one a line", default=None)


def pytest_configure(config: pytest.Config) -> None:
    name = config.getini("allowed_skips")
    lines = (config.rootpath / name).read_text(encoding="utf-8").splitlines() if name else []
    config.stash[ALLOWED] = frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return gate((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return gate((yield), collector.config)


def gate(report: Report, config: pytest.Config) -> Report:
    """The report, failed if it is a skip (or an expected failure) for a reason that is not listed."""
    if report.outcome == "skipped":
        reason = skip_reason(report)
        if reason not in config.stash[ALLOWED]:
            report.outcome = "failed"
            report.longrepr = f"Skipped for a reason that {config.getini('allowed_skips')} does not list: {reason}"
    return report


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    expected_failure = getattr(report, "wasxfail", None)
    if expected_failure is not None:
        return str(expected_failure)
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
