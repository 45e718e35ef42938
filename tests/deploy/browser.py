"""Chromium without a window, over the pipe of its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Page:
    """One page, in a profile of its own in `folder`. It reaches this machine and nothing else."""

    def __init__(self, folder: Path, *flags: str) -> None:
        ours, theirs = os.pipe(), os.pipe()
        command = [CHROMIUM or "", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", OFFLINE]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'browser'}", *flags, "about:blank"]

        def as_three_and_four() -> None:
            read, write = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=as_three_and_four, stdout=subprocess.DEVNULL
        )
        os.close(ours[0])
        os.close(theirs[1])
        self.writes, self.reads = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb")
        self.count, self.session, self.console = 0, "", list[str]()
        pages = [info for info in self.ask("Target.getTargets")["targetInfos"] if info["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self.session = attached["sessionId"]
        self.ask("Log.enable")
        self.ask("Runtime.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.writes.close()
        self.reads.close()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        request = {"id": self.count, "method": method, "params": parameters}
        self.writes.write(json.dumps(request | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._note(answer)

    def evaluate(self, script: str) -> Any:
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def open(self, address: str) -> None:
        self.ask("Page.navigate", url=address)

    @property
    def text(self) -> str:
        return str(self.evaluate("document.body.innerText"))

    def wait_for(self, *states: str, seconds: float = 120) -> str:
        """Until the document is in one of these states."""
        end = time.monotonic() + seconds
        while (state := self.evaluate("document.documentElement?.dataset.state")) not in states:
            assert time.monotonic() < end, (state, self.text, self.console)
            time.sleep(0.1)
        return str(state)

    def save_picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.reads.read(1)) != b"\0":
            assert byte, "the browser ended"
            text += byte
        return dict(json.loads(text))

    def _note(self, event: dict[str, Any]) -> None:
        """What the console says."""
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.console.append(json.dumps(event["params"])[:400])
