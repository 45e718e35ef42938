"""`deepseek plugins`: what other packages add, and whether it can be loaded."""

from __future__ import annotations

from deepseek_cli.commands._call import Call, NoOptions
from deepseek_cli.errors import AnswerIsNo, UsageError
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.plugins import GROUPS, Plugin, find, installed
from deepseek_cli.settings import require_known

ARGUMENTS = ("action?=list|check", "name?")
EXAMPLES = ["deepseek plugins", "deepseek plugins check my-target"]
SPEC = NoOptions


def run(call: Call) -> Result:
    action, name, plugins = call.arguments["action"] or "list", call.arguments["name"], installed()
    if action == "check":
        return _check(call, name, plugins)
    if name:
        raise UsageError("plugins list takes no name.", hint="To load one: deepseek plugins check {name}", name=name)
    if not plugins:
        none = Line("No plug-ins are installed. They come through the entry points {groups}.", groups=", ".join(GROUPS))
        return Result({"plugins": []}, [none])
    table = Table(("name", "adds", "distribution"), [(plugin.name, plugin.kind, plugin.distribution) for plugin in plugins])
    return Result({"plugins": [_data(plugin) for plugin in plugins]}, [table], "\n".join(plugin.name for plugin in plugins))


def _check(call: Call, name: str | None, plugins: list[Plugin]) -> Result:
    if not name:
        raise UsageError("plugins check needs a NAME.", hint="See: deepseek plugins")
    require_known(name, [plugin.name for plugin in plugins], "plugins")
    plugin = next(plugin for plugin in plugins if plugin.name == name)
    if find(plugin.group, name, call.reporter) is None:
        raise AnswerIsNo(
            "The plug-in {name} does not work.",
            hint="Tell the makers of {distribution}.",
            name=name,
            distribution=plugin.distribution,
        )
    return Result(_data(plugin), [Line("{name} of {distribution} loads.", name=name, distribution=plugin.distribution)], name)


def _data(plugin: Plugin) -> dict[str, str]:
    return {"name": plugin.name, "group": plugin.group, "distribution": plugin.distribution}
