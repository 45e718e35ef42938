"""What only a terminal sees: a conversation, colour, the next command."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from tests.toys import DEPLOYABLE, make_toy


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: str, home: Path) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "DEEPSEEK_HOME": str(home), "TERM": "xterm"}
        command = [sys.executable, "-m", "deepseek_cli", *words]
        self.process = subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave, close_fds=True)
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> None:
        """Read what is shown until `text` has appeared once more."""
        start, deadline = len(self.shown), time.monotonic() + 60
        while text not in self.shown[start:] and time.monotonic() < deadline:
            try:
                self.shown += os.read(self.master, 4096).decode(errors="replace")
            except OSError:  # the command has ended
                break
        assert text in self.shown[start:], self.shown

    def write(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        os.close(self.master)
        return code


def test_a_conversation_remembers_and_ends_at_an_empty_line(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "max_position_embeddings": 1024})
    terminal = Terminal("run", str(tmp_path / "toy"), "--max-tokens", "4", home=tmp_path)
    terminal.read_until("> ")
    terminal.write("Hello\n")
    terminal.read_until("> ")
    terminal.write("And now?\n")
    terminal.read_until("> ")
    terminal.write("\n")
    assert terminal.end() == 0


def test_colour_and_the_next_command_are_for_terminals(tmp_path: Path) -> None:
    terminal = Terminal("list", home=tmp_path)
    terminal.read_until("deepseek pull MODEL")
    assert terminal.end() == 0
    assert "\x1b[" in terminal.shown
    piped = subprocess.run([sys.executable, "-m", "deepseek_cli", "list"], capture_output=True, text=True, check=False)
    assert "next:" not in piped.stderr
    assert "\x1b[" not in piped.stdout + piped.stderr
