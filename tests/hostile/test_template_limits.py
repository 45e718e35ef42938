"""A chat template that would run for ever or fill the memory ends as a corrupt model, and soon."""

from __future__ import annotations

import pytest

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.runtime.chat import render

DOUBLING = "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = STEP %}{% endfor %}"
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set s = 'x' * 100 %}" + "".join(f"{{% for {c} in s %}}" for c in "abcdefgh") + "{% endfor %}" * 8,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
    "{{ lipsum(n=1000000) }}",
    "{{ ('x' * 10 ** 10) | length }}",
    "{{ ([1] * 10 ** 10) | length }}",
    "{{ (10 ** 10 * 'x') | length }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (9999999999, 1) }}",
    "{{ 'x' | center(10 ** 10) }}",
    *(
        DOUBLING.replace("STEP", step)
        for step in ("n.x ~ n.x", "n.x + n.x", "[n.x, n.x] | join", "''.join([n.x, n.x])", "n.x * 2")
    ),
    "{% set x = 'x' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
]


@pytest.mark.parametrize("template", ENDLESS, ids=lambda template: template[:60])
def test_what_would_not_end_is_stopped(template: str) -> None:
    with pytest.raises(ModelCorrupt, match="chat template fails"):
        render(template, [], None, None)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/3,2/3,3/3"),
        (
            "{% for m in messages %}{% if not loop.first %}{{ loop.previtem.content }}{% endif %}{{ loop.revindex }}{% endfor %}",
            "3a2b1",
        ),
        ("{% for m in messages if m.content != 'b' %}{{ m.content }}{% else %}none{% endfor %}", "ac"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }} {% endfor %}", "role=user content=a "),
        ("{% for m in missing %}x{% else %}none{% endfor %}", "none"),
        ("{{ 7 % 4 }} {{ 2 ** 10 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ '%s!' % 'a' }}", "3 1024 ababab [1, 2] a!"),
        ("{% filter upper %}a{% endfilter %}{{ messages | map(attribute='content') | join('-') }}", "Aa-b-c"),
        ("{% generation %}a{{ messages[1].content }}{% endgeneration %}", "ab"),
        ("{{ {'b': 'é<', 'a': 1} | tojson }}", '{"b": "é<", "a": 1}'),
        ("{{ {'b': 1, 'a': [2]} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":[2],"b":1}'),
    ],
)
def test_what_templates_do_every_day_is_let_through(template: str, text: str) -> None:
    messages = [{"role": "user", "content": content} for content in "abc"]
    assert render(template, messages, None, None) == text


def test_a_long_conversation_is_within_the_limits() -> None:
    messages = [{"role": "user", "content": "word " * 2000} for _ in range(500)]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ '\n' ~ eos_token }}{% endfor %}"
    assert len(render(template, messages, None, "</s>")) > 4_000_000


def test_a_template_takes_what_it_calls_its_own() -> None:
    template = "{{ thinking }}{% if add_generation_prompt %}A:{% endif %}"
    assert render(template, [], None, None, thinking="yes", answer=False) == "yes"
