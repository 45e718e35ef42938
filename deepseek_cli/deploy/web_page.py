"""What a web bundle holds beside the model: the page, the library that it needs, and what it tests itself with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.deploy.cpu import write_json
from deepseek_cli.errors import MissingExtra
from deepseek_cli.handle import ModelHandle
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.node_packages import LIBRARY, RUNTIME, VERSION, package
from deepseek_cli.runtime.onnx_session import load, session_options
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.runtime.web_session import graph_files

TEMPLATES = Path(__file__).parent / "templates" / "web"
CHAT = "chat.json"  # what the page has to know
LIB = "lib"  # the folder of what others wrote
FILES = (*(file.name for file in TEMPLATES.iterdir()), f"{LIB}/index.js")
CDN = f"https://cdn.jsdelivr.net/npm/{LIBRARY}@{VERSION}"
SCRIPT, WASM = "transformers.min.js", "ort-wasm-simd-threaded.asyncify"  # which that script loads, as .mjs and .wasm
COUNT = "One, two, three, four, five, six, seven, eight, nine, ten. One, two, three, four,"  # goes on as any model is sure of
MOST_TOKENS = 16
SURE = 0.01  # of the logits' range: a larger margin is no matter of rounding


ONLINE = f"""
The page loads transformers.js from {CDN}: npm's package was not installed when this folder was made.
"""


def write_page(
    handle: ModelHandle, folder: Path, context: int, threads: int | None, reporter: Reporter, *, tested: bool = True
) -> None:
    """The page's files. Without the library in npm's packages the page will load it from a public server.

    Where it is to be `tested`, the model is run for the tokens that the page will expect of a browser.
    """
    offline = _write_library(folder / LIB, reporter)
    name = re.sub(r"[^\w.+@ -]", "-", handle.name)
    for template in TEMPLATES.iterdir():
        if template.name == "README.md":
            text = template.read_text(encoding="utf-8").replace("{name}", name)
            (folder / template.name).write_text(text + ("" if offline else ONLINE), encoding="utf-8")
        else:
            shutil.copyfile(template, folder / template.name)
    tokenizer = open_tokenizer(handle.root)
    tokens = sure_tokens(handle, folder, tokenizer, threads) if tested else []
    self_test = {"prompt": tokenizer.encode(COUNT), "tokens": tokens}
    write_json(folder / CHAT, {"name": handle.name, "context": context, "self_test": self_test})


def _write_library(folder: Path, reporter: Reporter) -> bool:
    """Whether the page does without a network."""
    folder.mkdir()
    try:
        library, runtime = package() / "dist" / SCRIPT, package(RUNTIME) / "dist"
    except MissingExtra:
        (folder / "index.js").write_text(f'export * from "{CDN}/dist/{SCRIPT}";\nexport const wasm = null;\n', encoding="utf-8")
        reporter.warn(
            "The page will load {package} from {server}: it is not installed here.", package=LIBRARY, server="cdn.jsdelivr.net"
        )
        return False
    files = (library, *(runtime / f"{WASM}.{kind}" for kind in ("mjs", "wasm")))
    for file in files:
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(package() / "LICENSE", folder / "LICENSE-transformers.js")
    index = f"""export * from "./{SCRIPT}";
const beside = (name) => new URL(name, import.meta.url).href;
export const wasm = {{ mjs: beside("{WASM}.mjs"), wasm: beside("{WASM}.wasm") }};
"""
    (folder / "index.js").write_text(index, encoding="utf-8")
    return True


def sure_tokens(handle: ModelHandle, folder: Path, tokenizer: Tokenizer, threads: int | None) -> list[int]:
    """Greedy tokens behind COUNT, up to the first that rounding could change, or that ends the text."""
    session, config = load(graph_files(folder)[0], session_options(threads)), handle.config
    empty = np.zeros((1, config.kv_heads, 0, config.head_dim), np.float32)
    names = [f"{i}.{kind}" for i in range(config.layers) for kind in ("key", "value")]
    feeds: dict[str, Any] = {f"past_key_values.{name}": empty for name in names}
    feeds["num_logits_to_keep"] = np.array(1, np.int64)
    fed, seen, tokens = tokenizer.encode(COUNT), 0, list[int]()
    while len(tokens) < MOST_TOKENS:
        seen += len(fed)
        feeds |= {"input_ids": np.array([fed], np.int64), "attention_mask": np.ones((1, seen), np.int64)}
        logits, *present = session.run(["logits", *(f"present.{name}" for name in names)], feeds)
        feeds |= {f"past_key_values.{name}": value for name, value in zip(names, present, strict=True)}
        best, token = logits[0, -1], int(logits[0, -1].argmax())
        second, first = np.partition(best, -2)[-2:]
        if first - second < SURE * np.ptp(best) or token in tokenizer.eos:
            break
        tokens.append(token)
        fed = [token]
    return tokens
