from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\naddopts = -p tests.skip_gate\nallowed_skips = allowed.txt\n")
    pytester.path.joinpath("allowed.txt").write_text("# a comment\nno browser here\n", encoding="utf-8")
    return pytester


@pytest.mark.parametrize(("reason", "outcome"), [("no browser here", {"skipped": 1}), ("not done yet", {"failed": 1})])
def test_only_a_listed_reason_skips_a_test(project: pytest.Pytester, reason: str, outcome: dict[str, int]) -> None:
    project.makepyfile(f"import pytest\n\ndef test_it():\n    pytest.skip({reason!r})\n")
    project.runpytest_inprocess().assert_outcomes(**outcome)


@pytest.mark.parametrize(("reason", "outcome"), [("no browser here", {"skipped": 1}), ("not done yet", {"errors": 1})])
def test_the_mark_is_held_to_the_list_too(project: pytest.Pytester, reason: str, outcome: dict[str, int]) -> None:
    project.makepyfile(f"import pytest\n\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_it(): ...\n")
    project.runpytest_inprocess().assert_outcomes(**outcome)


def test_a_whole_module_skipped_for_another_reason_fails_the_run(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest\n\npytest.importorskip('no_such_module')\n")
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a reason that allowed.txt does not list: could not import*"])


def test_an_expected_failure_is_a_skip_by_another_name(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest\n\n@pytest.mark.xfail(reason='later')\ndef test_it():\n    raise AssertionError\n")
    project.runpytest_inprocess().assert_outcomes(failed=1)
