"""The document as one offline page, as Markdown, or as JSON; written whole or not at all.

The page holds everything it needs. Its policy lets nothing run or load but the one style and the one script whose
digests it names; the figures lie in a JSON block, in which no character can end the block.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from deepseek_cli.errors import ResourceError, UsageError
from deepseek_cli.profile.pack import pack
from deepseek_cli.profile.parts import ESTIMATED, PARTS

TEMPLATES = Path(__file__).parent / "templates"
MARK = "deepseek.profile/"  # stands near the start of everything written here
SCRIPTS = (  # one after the other they are the page's script; the first four draw nothing
    *("format", "data", "whatif", "icicle", "dom", "chart", "state", "verdict", "memory", "layers", "chosen", "weights"),
    *("reckon", "health", "compare", "method", "page"),
)
MIB = 1 << 20


def render_html(document: dict[str, Any], baseline: dict[str, Any] | None = None) -> str:
    """The page, of at most 2 MB. `baseline` is an earlier document to compare with."""
    read = lambda name: (TEMPLATES / name).read_text(encoding="utf-8")  # noqa: E731
    style = read("report.css")
    script = '(() => {\n"use strict";\n' + "".join(read(f"scripts/{name}.js") for name in SCRIPTS) + "})();\n"
    data = {**pack(document, baseline), "texts": json.loads(read("texts.json"))}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(read("report.html")).render(
        title=document["model"].get("name", ""),
        schema=document["schema"],
        policy=f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data=Markup(json_block(data)),
    )


def digest(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def json_block(data: Any) -> str:
    """JSON that may stand inside <script>: plain ASCII, and nothing that could be read as markup."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def render_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def render_markdown(document: dict[str, Any]) -> str:
    """A short summary for a pull request."""
    model, failed = document["model"], document["failed"]
    lines = [f"<!-- {document['schema']} -->", f"### Memory of {plain(model['name'])} ({model['runtime']})", ""]
    if failed:
        lines += [f"**The run failed during {failed['phase']}:** {plain(failed['message'])}", ""]
    if document["moments"]:
        peak = document["moments"][0]
        lines += [f"| at the peak ({peak['phase']}) | MiB | share |", "|---|--:|--:|"]
        lines += [
            f"| {PARTS.get(p['part'], p['part'])} | {mib(p['bytes'])} | {p['bytes'] / peak['bytes']:.1%} |"
            for p in peak["parts"]
            if p["bytes"]
        ]
        lines += [
            f"| **all** | **{mib(peak['bytes'])}** | 100.0% |",
            "",
            "| phase | s | tok/s | resident MiB | peak MiB |",
            "|---|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {p['phase']} | {p['seconds']:.2f} | {rate(p)} | {mib(p['rss_bytes'])} | {mib(p['peak_bytes'])} |"
            for p in document["phases"]
        ]
    if document["estimate"]:
        lines += ["", "| against its estimate | estimated MiB | measured MiB | error |", "|---|--:|--:|--:|"]
        lines += [
            f"| {ESTIMATED[r['part']]} | {mib(r['estimated_bytes'])} | {mib(r['measured_bytes'])} | {r['error']:+.1%} |"
            for r in document["estimate"]["rows"]
        ]
    return "\n".join([*lines, ""])


def plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def mib(size: int | None) -> str:
    return "–" if size is None else f"{size / MIB:,.1f}"


def rate(phase: dict[str, Any]) -> str:
    return f"{phase['tokens_per_second']:.1f}" if phase["tokens_per_second"] else "–"


def check_writable(path: Path, force: bool, mark: str = MARK) -> None:
    """Raise before the work what would be raised after it.

    A report replaces an earlier one of ours; anything else only with `force`.
    """
    if path.exists() and not force and not is_ours(path, mark):
        raise UsageError("{path} exists and is not a report.", hint="Name another file, or add --force.", path=path)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise cannot_write(path, error) from None


def is_ours(path: Path, mark: str = MARK) -> bool:
    try:
        with path.open("rb") as file:
            return mark.encode() in file.read(4096)
    except OSError:
        return False


def write(path: Path, text: str) -> None:
    """The file appears whole, under its name, at the end. Raises ResourceError naming it."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        "{path} cannot be written: {reason}.",
        hint="Name another place with --html or --save.",
        path=path,
        reason=error.strerror or error,
    )
