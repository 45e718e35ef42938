"""Start-up of the commands that need no model, beyond a bare Python, and which heavy packages they load.

python benchmarks/startup.py
"""

from __future__ import annotations

import sys

from common import DEEPSEEK, arguments, interleave, median, run, show

COMMANDS = {
    "deepseek --help": (["--help"], 0),
    "deepseek --version": (["--version"], 0),
    "deepseek quantize --help": (["quantize", "--help"], 0),
    "deepseek completion bash": (["completion", "bash"], 0),
    "deepseek list": (["list"], 0),
    "deepseek quantize --int5 (usage error)": (["quantize", "--int5"], 2),
    "deepseek quantise (unknown command)": (["quantise"], 2),
    "deepseek bench (no model named)": (["bench"], 2),
}
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "huggingface_hub")
LOADED = """
import sys
from deepseek_cli.main import main
main(sys.argv[1:])
print("\\nloaded:", *(m for m in {heavy!r} if m in sys.modules))
"""


def loaded(argv: list[str]) -> str:
    """The heavy packages that are in `sys.modules` when the command ends."""
    out = run(sys.executable, "-c", LOADED.format(heavy=HEAVY), *argv).out
    return out.rpartition("loaded:")[2].strip() or "none"


def main() -> None:
    args = arguments(__doc__, rounds=15).parse_args()
    arms = {"python -c pass": lambda: run(sys.executable, "-c", "pass").seconds}
    for title, (words, code) in COMMANDS.items():
        arms[title] = lambda words=words, code=code: run(*DEEPSEEK, *words, expect=(code,)).seconds
    interleave(arms, 1)  # compile the byte code
    seen = interleave(arms, args.rounds)
    rows = []
    for title, seconds in seen.items():
        beyond = median([a - b for a, b in zip(seconds, seen["python -c pass"], strict=True)])
        heavy = loaded(COMMANDS[title][0]) if title in COMMANDS else "none"
        rows.append([title, f"{1000 * median(seconds):.0f}", f"{1000 * beyond:.0f}", heavy])
    show(["command", "ms", "ms beyond bare Python", "heavy packages"], rows)


if __name__ == "__main__":
    main()
