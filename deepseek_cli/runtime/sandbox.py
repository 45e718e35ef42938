"""A Jinja environment for templates that come with a model: they cannot reach anything, run for ever, or fill the memory.

Jinja's own sandbox stops attribute access and mutation. Beyond it, every loop, call, filter and concatenation is charged
against a budget of steps, and no value may grow past MAX_SIZE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS, MAX_SIZE = 1 << 20, 1 << 24
ITEMS_PER_STEP = 64
UNBOUNDED_FILTERS = ("center", "filesizeformat", "format", "pprint", "urlize", "wordwrap", "xmlattr")  # no template needs them


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks an assistant's words for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """For one rendering: its budget is not given back."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
        self.steps = MAX_STEPS
        self.filters |= {"charged": _charged, "counted": _counted}
        for name in UNBOUNDED_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]

    def charge(self, value: Any) -> Any:
        """`value`, unless it is too large or the budget is spent."""
        size = len(value) if isinstance(value, str | list | tuple | dict) else 0
        self.steps -= 1 + size // ITEMS_PER_STEP
        if size > MAX_SIZE or self.steps < 0:
            raise SecurityError("it runs too long or grows too large")
        return value

    def concat(self, pieces: Iterable[str]) -> str:
        text: str = self.charge("".join(pieces))
        return text

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.charge(getattr(__obj, "__self__", None))
        return __self.charge(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        texts = [v for v in (left, right) if isinstance(v, str | list | tuple)]
        if operator == "*" and texts and len(texts[0]) * max(v for v in (left, right, 0) if isinstance(v, int)) > MAX_SIZE:
            raise SecurityError("a repetition is too large")
        numbers = [abs(v) for v in (left, right) if isinstance(v, int)]
        if (operator == "**" and numbers and max(numbers) > 64) or (operator == "*" and numbers and max(numbers) > 1 << 64):
            raise SecurityError("a number is too large")
        if operator == "%" and isinstance(left, str) and ("*" in left or any(c.isdigit() for c in left)):
            raise SecurityError("a format with a width is not allowed")
        return self.charge(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Charging().visit(super()._parse(source, name, filename))
        return tree


class _Charging(NodeTransformer):
    """Puts a charge around what a template loops over, filters and joins."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "counted")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is None:  # a filter block
            return node
        node.node = _filter(node.node, "charged")
        return _filter(node, "charged")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "charged")


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context  # which also keeps Jinja from running it while it compiles
def _charged(context: Context, value: Any) -> Any:
    return context.environment.charge(value)  # type: ignore[attr-defined]


@pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any] | Any:
    charge: Callable[[Any], Any] = context.environment.charge  # type: ignore[attr-defined]
    return _charge_each(charge, values) if hasattr(values, "__iter__") else values


def _charge_each(charge: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        charge(None)
        yield value
