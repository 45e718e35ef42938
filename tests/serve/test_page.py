"""The chat page in a real browser, which says when the page breaks its own content policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deepseek_cli.handle import Bundle
from deepseek_cli.serve.service import Rules
from tests.profile.browser import CHROMIUM, browser
from tests.serve.conftest import Running, running

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@contextmanager
def talking(chromium: Any, server: Running) -> Iterator[Any]:
    """The page, its model's name shown; an error or a warning on its console fails the test."""
    context, words = chromium.new_context(), []
    tab = context.new_page()
    tab.on("console", lambda message: message.type in ("error", "warning") and words.append(message.text))
    tab.on("pageerror", lambda error: words.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(server.url) or words.append(request.url))
    tab.goto(server.url)
    tab.locator("#name", has_text="+cpu").wait_for()
    yield tab
    context.close()
    assert not words


def idle(tab: Any) -> None:
    tab.locator("#send", has_text="Send").wait_for()


def test_it_shows_what_the_server_answers_by_keyboard_alone(chromium: Any, toy: Bundle) -> None:
    with running(toy, rules=Rules(new_tokens=8)) as server, talking(chromium, server) as tab:
        sent = []
        tab.on("request", lambda request: sent.append(request.post_data))
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        assert tab.locator("#text:focus").count() == 1
        tab.keyboard.type("Hello")
        tab.keyboard.press("Shift+Enter")
        tab.keyboard.type("<b>you</b>")
        tab.keyboard.press("Enter")
        idle(tab)
        (body,) = (json.loads(words) for words in sent)
        assert body["messages"] == [{"role": "user", "content": "Hello\n<b>you</b>"}]
        assert tab.locator(".user").text_content() == "Hello\n<b>you</b>"
        said = tab.locator(".assistant").text_content()
        tab.keyboard.type("More")
        tab.keyboard.press("Enter")
        idle(tab)
        assert [m["content"] for m in json.loads(sent[1])["messages"][1:]] == [said, "More"]
    done = server.log[-2:]
    assert [(record["path"], record["status"]) for record in done] == [("/v1/chat/completions", 200)] * 2


def test_a_new_talk_begins_empty_while_an_answer_runs(chromium: Any, toy: Bundle) -> None:
    """What the stopped answer had said belongs to the old one."""
    with running(toy) as server, talking(chromium, server) as tab:
        sent = []
        tab.on("request", lambda request: sent.append(request.post_data))
        tab.fill("#text", "First")
        tab.evaluate("document.getElementById('ask').requestSubmit(); document.getElementById('new').click()")
        idle(tab)
        tab.fill("#text", "Second")
        tab.keyboard.press("Enter")
        idle(tab)
        assert [m["content"] for m in json.loads(sent[-1])["messages"]] == ["Second"]
        assert tab.locator(".user").count() == 1
        server.until(lambda: not server.service.engine.seats.taken)
