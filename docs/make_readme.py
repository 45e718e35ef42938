"""Fill the marked parts of README.md and README.zh-CN.md with what was really seen and measured.

python docs/make_readme.py             # from docs/transcript.txt and benchmarks/results/*.json
python docs/make_readme.py --record    # run `deepseek demo` first, some minutes, and write docs/transcript.txt anew
python docs/make_readme.py --check     # exit with 1 unless both pages are current
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
TRANSCRIPT = ROOT / "docs" / "transcript.txt"
RESULTS = ROOT / "benchmarks" / "results"
PROGRESS = re.compile(r"\w[\w ]*: .*( to do| in [\d.]+ s|, \d+ %)")  # what progress.py says off a terminal
RATES = ("prefill@512", "decode@0", "decode@512")
WORDS = {
    "en": {
        "head": ("scheme", "output head", "MB", "KL divergence", "prefill 512", "decode at 0", "decode at 512"),
        "rates": "Prefill and decode in tokens/s: medians of {rounds} interleaved rounds, {threads} threads, on {processor}. "
        "KL divergence from the bf16 model, of each file in its own runtime.",
    },
    "zh": {
        "head": ("方案", "输出层", "MB", "KL 散度", "预填充 512", "解码（深度 0）", "解码（深度 512）"),
        "rates": "预填充和解码的单位是词元/秒：{rounds} 轮交替测量的中位数，{threads} 个线程，处理器为 {processor}。"
        "KL 散度以 bf16 模型为参照，由各个文件在自己的运行时中测得。",
    },
}


def record() -> str:
    """What a user sees of `deepseek demo`, without its progress: run in a folder of its own, whatever the settings here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DEEPSEEK_")}
    with tempfile.TemporaryDirectory() as folder:
        environment = kept | {"DEEPSEEK_LANG": "en", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "XDG_CONFIG_HOME": folder}
        done = subprocess.run(
            [sys.executable, "-m", "deepseek_cli", "demo"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        if done.returncode:
            raise SystemExit(done.stdout)
        return clean(done.stdout, Path(folder))


def clean(text: str, folder: Path) -> str:
    """Without progress, and with paths as they are seen from `folder`."""
    for path in (str(folder.resolve()), str(folder)):  # the longer first, where one ends in the other
        text = text.replace(f"{path}/", "").replace(path, ".")
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if not PROGRESS.fullmatch(line))


def transcript() -> str:
    return f"```console\n{TRANSCRIPT.read_text(encoding='utf-8')}```" if TRANSCRIPT.is_file() else ""


def figures(language: str) -> str:
    """A table for each file of results."""
    files = sorted(RESULTS.glob("*.json"))
    return "\n\n".join("\n".join(table(f.stem, json.loads(f.read_text(encoding="utf-8")), WORDS[language])) for f in files)


def table(model: str, document: Mapping[str, Any], words: Mapping[str, Any]) -> Iterator[str]:
    """What benchmarks/speed.py saves: arms, and their KL divergences by name."""
    yield f"| {' | '.join((model, *words['head']))} |"
    yield "|---|---|---|" + "---:|" * (len(words["head"]) - 2)
    for arm in document["arms"]:
        yield f"| {' | '.join(row(arm, document['kl'].get(arm['name'])))} |"
    yield ""
    yield words["rates"].format(**document["settings"], processor=document["environment"]["processor"])


def row(arm: Mapping[str, Any], kl: float | None) -> list[str]:
    """Our arms are named by their scheme; of a peer's name the scheme is what follows the program."""
    program, _, scheme = arm["name"].partition(" ") if arm["kind"] == "peer" else ("**deepseek**", "", arm["name"])
    size, loss = f"{arm['bytes'] / 1e6:.0f}", "-" if kl is None else f"{kl:.3f}"
    return [program, scheme.split(", head")[0], arm["head"], size, loss, *(rate(arm["metrics"], name) for name in RATES)]


def rate(metrics: Mapping[str, Any], name: str) -> str:
    """Results of the schema deepseek.bench/1 have one prefill, of the same 512 tokens."""
    return f"{(metrics.get(name) or metrics[name.partition('@')[0]])['median']:,.0f}"


def filled(language: str) -> str:
    """The whole page, current."""
    text = PAGES[language].read_text(encoding="utf-8")
    for part, content in (("transcript", transcript()), ("figures", figures(language))):
        inner = f"\n\n{content}\n\n" if content else "\n"
        pattern = rf"(?s)(<!-- {part} -->).*?(<!-- /{part} -->)"
        text = re.sub(pattern, lambda match, inner=inner: match[1] + inner + match[2], text)
    return text


def main() -> int:
    if "--record" in sys.argv:
        TRANSCRIPT.write_text(record(), encoding="utf-8")
    pages = {path: filled(language) for language, path in PAGES.items()}
    if "--check" in sys.argv:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
