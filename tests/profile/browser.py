"""A real browser on a page that was written to a file: without a network, and where any word on its console fails the test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseek_cli.runtime.node_packages import FOLDER

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
AXE_VERSION = "4.14.1"
AXE = FOLDER.parent / "test" / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {"wide": (1280, 900), "narrow": (320, 700)}


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@contextmanager
def opened(
    browser: Any, page: str, folder: Path, size: str = "wide", ready: str = "html[data-ready='1']", **options: Any
) -> Iterator[Any]:
    """The page as a file alone in a folder, drawn once it has what is `ready`; `options` are Playwright's of a context."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **{"locale": "en-US", **options})
    tab, words = context.new_page(), []
    tab.on("console", lambda message: words.append(message.text))
    tab.on("pageerror", lambda error: words.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "blob:")) or words.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_selector(ready, timeout=15_000)
    yield tab
    context.close()
    assert not words


if __name__ == "__main__":  # what the Makefile installs
    sys.stdout.write(f"{AXE.parents[2]} axe-core@{AXE_VERSION}\n")
