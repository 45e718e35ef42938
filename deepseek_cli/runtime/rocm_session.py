"""A session over a rocm bundle: llama.cpp on its file or, where it holds none, transformers on its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_cli.runtime import gguf_session, transformers_session
from deepseek_cli.runtime.session import Session

PART = "gguf"  # the subfolder


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> Session:
    if (folder / PART).is_dir():
        return gguf_session.open_folder(folder / PART, config, context, threads, exact)
    return transformers_session.open_folder(folder, config, context, threads, exact)
