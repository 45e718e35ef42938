"""Chat templates are programs from a stranger: they may fail, or make odd text, and do nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.runtime.chat import MAX_TEMPLATE_CHARACTERS, render

REACHING = [  # what they end with would reach out of the sandbox
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
    "{{ lipsum.__globals__['os'].popen('touch pwned').read() }}",
    "{{ namespace.__init__.__globals__['os'].system('touch pwned') }}",
    "{{ raise_exception.__globals__['__builtins__'].open('pwned', 'w') }}",
    "{{ strftime_now.__globals__['__builtins__'].exec('open(\"pwned\", \"w\")') }}",
    "{{ strftime_now.__code__.co_consts[0] }}",
    "{{ strftime_now.__closure__[0] }}",
    "{{ self._TemplateReference__context.environment.from_string('x') }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{0.__globals__[os]}'.format(raise_exception) }}",
    "{{ ('' | attr('__class__')).__mro__ }}",
    "{{ messages | map(attribute='__class__.__mro__.0') | first | attr('__subclasses__') | list }}",
    "{{ (1).__add__(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch pwned') }}",
    "{% extends 'base' %}",
    "{{ open('pwned', 'w') }}",
    "{{ __import__('os').system('touch pwned') }}",
]
FAILING = [
    "{{ raise_exception('roles must alternate') }}",
    "{{ missing.attribute }}",
    "{{ missing() }}",
    "{{ messages[0].content.missing() }}",
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ [1, 'a'] | sort }}",
    "{{ 'é'.encode('ascii') }}",
    "{{ 2 ** 20000 }}",
    "{{ 'a' | truncate(-5) }}",
    "{{ 1e999 | int }}",
    "{{ raise_exception | tojson }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for i in range(100001) %}x{% endfor %}",
    "{% for i in range(10 ** 12) %}x{% endfor %}",
    "{{ range(1 << 62) | list }}",
    # what does not even compile
    "{% if %}",
    "{{",
    "{% endfor %}",
    "{% for m in messages %}",
    "{{ 'a' | no_such_filter }}",
    "{% no_such_tag %}",
    "{% break %}",
    "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 500 + "]" * 500 + " }}",
    "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "{{ " + "-" * 3000 + "1 }}",
]
CHANGING = [
    "{{ messages.append({}) }}",
    "{{ messages.clear() }}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({'content': 'changed'}) }}",
    "{{ messages[0].pop('content') }}",
    "{{ messages[0].setdefault('x', 1) }}",
    "{{ messages.__setitem__(0, 1) }}",
    "{% set messages.content = 1 %}",
    "{% do messages.append(1) %}",
]
HARMLESS = {
    "{{ ''.__class__ }}": "",
    "{{ raise_exception.__globals__ }}": "",
    "{{ '' | attr('__class__') }}": "",
    "{{ missing }}": "",
    "{{ messages[7] }}": "",
    "{% set messages = [] %}{{ messages | length }}": "0",
    "{{ range(100000) | length }}": "100000",
    "{{ '{{ 1 + 1 }}' }}": "{{ 1 + 1 }}",
    "{# {{ raise_exception('no') }} #}x": "x",
}


def messages() -> list[dict[str, str]]:
    return [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("template", REACHING + FAILING + CHANGING, ids=lambda template: template[:60])
def test_a_template_that_fails_is_a_corrupt_model_and_nothing_happens(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = messages()
    with pytest.raises(ModelCorrupt, match=r"chat template fails: .*Use --raw"):
        render(template, said, "<s>", "</s>")
    assert said == messages()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("template", "text"), HARMLESS.items())
def test_what_the_sandbox_hides_is_empty(template: str, text: str) -> None:
    assert render(template, messages(), "<s>", "</s>") == text


def test_what_a_template_refuses_is_said_in_its_own_words() -> None:
    with pytest.raises(ModelCorrupt, match=r"fails: roles must alternate\. Use --raw"):
        render("{{ raise_exception('roles must alternate.') }}", messages(), None, None)


def test_a_huge_template_is_not_even_parsed() -> None:
    with pytest.raises(ModelCorrupt, match="it is too long"):
        render("x" * (MAX_TEMPLATE_CHARACTERS + 1), messages(), None, None)
    assert len(render("x" * MAX_TEMPLATE_CHARACTERS, messages(), None, None)) == MAX_TEMPLATE_CHARACTERS


def test_text_of_a_message_is_never_a_template() -> None:
    content = "{{ 7 * 7 }}{% raw %}{{ raise_exception('x') }}"
    assert render("{{ messages[0].content }}", [{"role": "user", "content": content}], None, None) == content
    assert render("", [{"role": "{{ 1 }}", "content": content}], None, None).startswith("{{ 1 }}: {{ 7 * 7 }}")


def test_renderings_do_not_share_state() -> None:
    once: Any = "{% set ns = namespace(n=1) %}{% set cycler.x = 1 %}"
    with pytest.raises(ModelCorrupt):
        render(once, messages(), None, None)
    assert render("{{ ns is defined }} {{ cycler.x is defined }}", messages(), None, None) == "False False"
