"""A run of `quantize` in a process of its own, on one thread, that is killed when it reports a certain step."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CODE = """
import json, os, sys
from pathlib import Path
import torch
from deepseek_cli.handle import open_model
from deepseek_cli.quantize import distill
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.store import Store
torch.set_num_threads(1)
distill.SAVE_SECONDS = 0.0
model, out, step, left, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5])
class Killer:
    def note(self, message, **facts): pass
    warn = note
    def progress(self, name, done, total, unit=""):
        global left
        left -= name == step or not step
        if left == 0:
            os.kill(os.getpid(), 9)
store = Store(out.parent)
quantize(open_model(model, store), QuantizeSpec(report=False, **options), store, out, reporter=Killer())
"""


def killed(model: Path, out: Path, reports: int, step: str = "", **options: Any) -> None:
    """Killed at so many reports, of a step or of any."""
    arguments = [sys.executable, "-c", CODE, str(model), str(out), step, str(reports), json.dumps(options)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
