from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from deepseek_cli.i18n import cells, language, say, t, wrap
from deepseek_cli.messages_zh import AREAS, MESSAGES
from tests.cli import templates
from tests.conftest import Outcome

CATALOGUE_IS_COMPLETE = True

Cli = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "de_DE.UTF-8"}, "en"),
        ({"LC_MESSAGES": "en_US", "LC_ALL": "zh_TW"}, "zh"),
        ({"LC_ALL": "zh_CN", "DEEPSEEK_LANG": "en"}, "en"),
        ({"DEEPSEEK_LANG": "ZH"}, "zh"),
        ({"DEEPSEEK_LANG": "", "LANG": "zh"}, "zh"),
    ],
    ids=str,
)
def test_the_language_is_the_first_that_is_said(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == wanted


def test_what_the_catalogue_lacks_stays_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_LANG", "zh")
    assert t("never said") == "never said"
    assert say("Did you mean {close}?", {"close": "{odd}"}) == MESSAGES["Did you mean {close}?"].replace("{close}", "{odd}")


def test_mistakes_and_help_are_chinese_but_names_are_not(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_LANG", "zh")
    done = cli("doctor", "--forse")
    assert "--force" in done.err and "Did you mean" not in done.err
    text = cli("--help").out
    assert "quantize" in text and "--json" in text and "用法" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_json_keys_and_codes_are_never_translated(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    english = cli("nope", "--json").json
    monkeypatch.setenv("DEEPSEEK_LANG", "zh")
    chinese = cli("nope", "--json").json
    assert chinese["error"]["message"] != english["error"]["message"]
    assert (chinese.keys(), chinese["error"]["code"]) == (english.keys(), "usage-error")


@pytest.mark.parametrize("width", range(10, 40))
def test_no_line_begins_with_a_closing_mark(width: int) -> None:
    text = "词嵌入和输出层的方案，除非另有规则（默认 int8）。退出码：0 完成，1 答案为否。"
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(cells, lines)) <= width
    assert not any(line[0] in "，。）：" or line[-1] == "（" for line in lines)


def test_translations_name_the_same_facts() -> None:
    assert templates.mismatched() == {}


def test_chinese_is_punctuated_as_chinese() -> None:
    beside = re.compile(r"[\u4e00-\u9fff][,:;?!()]|[,:;?!()][\u4e00-\u9fff]")
    assert [text for text in MESSAGES.values() if beside.search(text) or text.endswith(".")] == []


def test_a_message_is_translated_once() -> None:
    assert [text for text, times in Counter(text for area in AREAS for text in area).items() if times > 1] == []


def test_messages_are_literals() -> None:
    assert templates.not_literal() == []


if CATALOGUE_IS_COMPLETE:

    def test_every_message_has_its_translation() -> None:
        assert templates.missing() == {}

    def test_no_translation_is_left_over() -> None:
        assert templates.stale() == set()
