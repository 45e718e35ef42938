"""`deepseek completion SHELL`: the script that teaches a shell our commands and options."""

from __future__ import annotations

from deepseek_cli.commands._call import Call, NoOptions
from deepseek_cli.completion import SHELLS, script
from deepseek_cli.output import Result

ARGUMENTS = (f"shell={'|'.join(SHELLS)}",)
EXAMPLES = [
    'eval "$(deepseek completion bash)"',
    "deepseek completion zsh > ~/.zfunc/_deepseek",
    "deepseek completion fish > ~/.config/fish/completions/deepseek.fish",
]
SPEC = NoOptions


def run(call: Call) -> Result:
    shell = call.arguments["shell"]
    text = script(shell).rstrip("\n")
    return Result({"shell": shell, "script": text}, [text], text)
