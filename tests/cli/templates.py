"""Every English template that a user can meet, found by reading the source.

python -m tests.cli.templates        # lists those without 中文, as lines for the catalogue
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

from deepseek_cli import errors
from deepseek_cli.commands._app import PANELS
from deepseek_cli.messages_zh import MESSAGES
from deepseek_cli.profile.estimate import AS_IT_IS
from deepseek_cli.profile.fit import VERDICTS
from deepseek_cli.profile.measure import PHASES
from deepseek_cli.profile.optimize import CHOICES
from deepseek_cli.profile.parts import ESTIMATED, PARTS
from deepseek_cli.profile.runtimes import RUNTIMES
from deepseek_cli.serve.foreign import CPU_BUNDLE, ELSEWHERE
from deepseek_cli.settings import EXPECTED, VARIABLES
from deepseek_cli.sources.catalogue import OBSTACLES

IN_PAGES = '{{ t("'  # how a page's template says something in the reader's language
PACKAGE = Path(errors.__file__).parent
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.DeepseekError)}
FIRST = {*ERRORS, "note", "warn", "confirm", "progress", "Line", "t"}  # their first argument is a template
FIRST |= {"corrupt", "_corrupt", "_missing"}  # and so it is of what makes an error for them


def templates() -> dict[str, str]:
    """Each template with the first place that uses it."""
    tables = [*PANELS, *VARIABLES.values(), *EXPECTED.values(), *PHASES, *PARTS.values(), *ESTIMATED.values()]
    tables += [CPU_BUNDLE, *ELSEWHERE.values()]
    found = dict.fromkeys(
        [*tables, *VERDICTS, AS_IT_IS, *OBSTACLES.values(), *CHOICES.values(), *(runtime.help for runtime in RUNTIMES.values())],
        "a table",
    )
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assigned = _assigned(tree)
        for node in _messages(tree):
            for text in _literals(node, assigned):
                if any(character.isalpha() for character in re.sub(r"{.*?}", "", text)):
                    found.setdefault(text, f"{file.relative_to(PACKAGE)}:{node.lineno}")
    for page in sorted(PACKAGE.rglob("*.html")):
        if IN_PAGES in (content := page.read_text(encoding="utf-8")):
            found |= dict.fromkeys(re.findall(r'\bt\("([^"]+)"', content), str(page.relative_to(PACKAGE)))
    return found


def missing(catalogue: Mapping[str, str] = MESSAGES) -> dict[str, str]:
    """Templates without a translation."""
    return {text: place for text, place in templates().items() if text not in catalogue}


def stale(catalogue: Mapping[str, str] = MESSAGES) -> set[str]:
    """Translations of what nobody says any more."""
    return set(catalogue) - set(templates())


def mismatched(catalogue: Mapping[str, str] = MESSAGES) -> dict[str, str]:
    """Translations that name other facts than their template."""
    return {text: chinese for text, chinese in catalogue.items() if placeholders(text) != placeholders(chinese)}


def placeholders(template: str) -> set[tuple[str, str | None, str | None]]:
    """Name, format and conversion of each fact."""
    return {(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template) if name is not None}


def not_literal() -> list[str]:
    """Places where an f-string or a sum is passed as a template: no catalogue can hold those."""
    places = []
    for file in sorted(PACKAGE.rglob("*.py")):
        bad = (ast.JoinedStr, ast.BinOp)
        places += [
            f"{file.relative_to(PACKAGE)}:{n.lineno}"
            for n in _messages(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(n, bad)
        ]
    return places


def _messages(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if (name in FIRST and node.args) or (name == "say" and len(node.args) == 2):
            yield node.args[0]
        if name == "Command" and len(node.args) > 2:
            yield node.args[2]
        if name == "Table" and node.args and isinstance(node.args[0], (ast.List, ast.Tuple)):
            yield from node.args[0].elts
        if name == "option":
            yield keywords["help"]
        if "hint" in keywords:  # an error, whatever it is called here
            yield from (keywords["hint"], keywords.get("message", node.args[0] if node.args else keywords["hint"]))


def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """What each variable of the file is set to, wherever that is, and what each parameter is given in the same file."""
    values: dict[str, list[ast.expr]] = {}
    functions = {node.name: node.args for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for arguments in functions.values():
        given = arguments.args[len(arguments.args) - len(arguments.defaults) :]
        for parameter, default in zip(given, arguments.defaults, strict=True):
            values.setdefault(parameter.arg, []).append(default)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values.setdefault(name, []).append(value)
            case ast.Call(func=ast.Name(id=name), args=given) if name in functions:
                for parameter, value in zip(functions[name].args, given, strict=False):
                    values.setdefault(parameter.arg, []).append(value)
    return values


def _literals(node: ast.expr, assigned: Mapping[str, list[ast.expr]], depth: int = 3) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from _literals(body, assigned, depth)
            yield from _literals(orelse, assigned, depth)
        case ast.BoolOp(values=values):
            for value in values:
                yield from _literals(value, assigned, depth)
        case ast.Name(id=name) if depth:
            for value in assigned.get(name, []):
                yield from _literals(value, assigned, depth - 1)


if __name__ == "__main__":
    for text, place in missing().items():
        print(f"    {text!r}: '',  # {place}")
