"""Write docs/reference.md and docs/reference.zh-CN.md from the commands themselves: `make docs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from deepseek_cli import commands
from deepseek_cli.commands import _app
from deepseek_cli.messages_zh import MESSAGES
from deepseek_cli.settings import VARIABLES
from deepseek_cli.spec import Field

Translate = Callable[[str], str]
DOCS = Path(__file__).parent
PAGES = {"en": DOCS / "reference.md", "zh": DOCS / "reference.zh-CN.md"}
GENERATED = "`make docs` writes this page from what the commands say of themselves; do not edit it."
RARE = "These have no flag: `--set NAME=VALUE` or `deepseek.toml` set them."
WORDS = {
    "Command reference": "命令参考",
    GENERATED: "本页由 `make docs` 根据命令自身的描述生成，请勿手工修改。",
    RARE: "以下选项没有命令行开关，用 `--set NAME=VALUE` 或 `deepseek.toml` 设置。",
    "Every command": "所有命令",
    "These options every command takes.": "以下选项每个命令都有。",
    "Environment": "环境变量",
    "variable": "变量",
    "option": "选项",
    "default": "默认值",
    "meaning": "含义",
}


def render(language: str) -> str:
    """The whole page in "en" or "zh"."""
    return "\n".join(page((lambda text: text) if language == "en" else translate)) + "\n"


def translate(text: str) -> str:
    return WORDS.get(text) or MESSAGES.get(text, text)


def page(t: Translate) -> Iterator[str]:
    yield from (
        f"# {t('Command reference')}",
        "",
        t(GENERATED),
    )
    modules = {name: commands.load(name) for name in commands.COMMANDS}
    for panel in _app.PANELS:
        yield from ("", f"## {t(panel)}")
        for name, module in modules.items():
            if commands.COMMANDS[name].panel == panel:
                yield from command(name, module, t)
    yield from ("", f"## {t('Every command')}", "", t("These options every command takes."), "")
    yield from options(everywhere(modules.values()), t)
    yield from ("", f"## {t('Environment')}", "")
    yield from table((t("variable"), t("meaning")), ((f"`{name}`", t(help)) for name, help in VARIABLES.items()))


def command(name: str, module: ModuleType, t: Translate) -> Iterator[str]:
    usage = " ".join(["deepseek", name, *(a.metavar for a in _app.arguments_of(module))])
    yield from ("", f"### {name}", "", t(commands.COMMANDS[name].help), "", "```", usage, "")
    yield from (f"$ {example}" for example in module.EXAMPLES)
    yield "```"
    shared = [f for n, f in _app.common_fields(module).items() if n not in _app.EVERYWHERE]
    fields = [*_app.own_fields(module).values(), *shared]
    if fields:
        yield ""
        yield from options([f for f in fields if not f.option.rare], t)
    rare = [f for f in fields if f.option.rare]
    if rare:
        yield from ("", t(RARE), "")
        yield from options(rare, t)


def everywhere(modules: Iterable[ModuleType]) -> list[Field]:
    shared = _app.common_fields(next(iter(modules)))
    return [shared[name] for name in _app.EVERYWHERE]


def options(fields: Iterable[Field], t: Translate) -> Iterator[str]:
    rows = ((f"`{spelling(f)}`", default(f), t(f.option.help)) for f in fields)
    return table((t("option"), t("default"), t("meaning")), rows)


def spelling(field: Field) -> str:
    names = field.name if field.option.rare else ", ".join(field.flags)
    return names if field.kind is bool or field.name == "verbose" else f"{names} {field.metavar}"


def default(field: Field) -> str:
    return (
        ""
        if field.default in (None, False, 0, ())
        else f"`{str(field.default).lower() if field.kind is bool else field.default}`"
    )


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def main() -> None:
    for language, path in PAGES.items():
        path.write_text(render(language), encoding="utf-8")


if __name__ == "__main__":
    main()
