"""Packages of npm, kept in the Python environment that we run in: what runs web bundles, and what their page is made with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from deepseek_cli.errors import MissingExtra, fill

FOLDER = Path(sys.prefix) / "share" / "deepseek-cli" / "web"
LIBRARY, VERSION = "@huggingface/transformers", "4.3.1"
RUNTIME = "onnxruntime-web"  # which comes with the library, in the version that it was built with
INSTALL = "npm install --ignore-scripts --prefix '{folder}' {package}@{version}"
OLDEST_NODE = 20


def package(name: str = LIBRARY) -> Path:
    """The folder of an installed package. Raises MissingExtra, also where the library is of another version."""
    if (found := version(LIBRARY)) != VERSION:
        raise MissingExtra(
            "{package} {version} is not installed{instead}.",
            hint="Install it: {command}. A bundle can be written without: deploy --verify weights",
            package=LIBRARY,
            version=VERSION,
            instead=f" ({found})" if found else "",
            command=INSTALL.format(folder=FOLDER, package=LIBRARY, version=VERSION),
        )
    return FOLDER / "node_modules" / name


def version(name: str) -> str:
    """Empty where it is not installed."""
    try:
        return str(json.loads((FOLDER / "node_modules" / name / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        return ""


def node() -> tuple[str, str]:
    """Path and version of Node. Raises MissingExtra where there is none, or an old one."""
    path = shutil.which("node")
    found = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.strip() if path else ""
    if path is None or not found.removeprefix("v").split(".")[0].isdecimal():
        raise MissingExtra(
            "Node is not installed.", hint="Install Node {oldest} or newer: https://nodejs.org", oldest=OLDEST_NODE
        )
    if int(found.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        raise MissingExtra(
            "Node is {found}, which is too old.",
            hint="Install Node {oldest} or newer: https://nodejs.org",
            found=found,
            oldest=OLDEST_NODE,
        )
    return path, found


def runtime() -> str:
    """What runs web bundles, with versions. Raises MissingExtra."""
    package()
    return f"{RUNTIME} {version(RUNTIME)} (WebAssembly, Node {node()[1]})"


def verifier() -> str:
    """The same, or how to install it."""
    try:
        return runtime()
    except MissingExtra as missing:
        return str(missing.facts.get("command") or fill(missing.message, missing.facts))
