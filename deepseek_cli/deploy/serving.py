"""Files that start a server, from templates in which a model's name means nothing to YAML, to a shell, or to systemd."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from deepseek_cli.handle import ModelHandle

TEMPLATES = Path(__file__).parent / "templates"
PORT = 8000


def write_server_files(handle: ModelHandle, folder: Path, templates: Iterable[str], **facts: Any) -> None:
    """Fill `templates`, files below TEMPLATES, into `folder`, each under its own name."""
    name = re.sub(r"[^\w.-]", "-", handle.name, flags=re.ASCII).strip("-.") or "model"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    for template in templates:
        source = TEMPLATES / template
        text = environment.from_string(source.read_text(encoding="utf-8")).render(name=name, port=PORT, **facts)
        (folder / source.name).write_text(text, encoding="utf-8")


def absent(folder: Path, files: Iterable[str]) -> set[str]:
    """Those of `files`, names or templates, that are not in `folder`."""
    return {name for name in (Path(file).name for file in files) if not (folder / name).exists()}
