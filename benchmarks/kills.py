"""Kill `quantize` or `compress` at random moments, run it again, and compare: the result must be that of a run left alone.

The model is deepseek-nano: latent attention, experts, FP8. Each kill is a SIGKILL of the whole process; work goes on in the
same output until a run ends, whose weights are then compared bit for bit, and the next run starts from nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from common import DEEPSEEK, WORK, show

QUANTIZE = ("quantize", "nano", "--int4", "--tokens", "4096", "--set", "report=false", "-q")
COMPRESS = ("compress", "nano", "--to-size", "4MB", "--steps", "width=25%", "--level", "fast", "-q")


def start(options: tuple[str, ...], out: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "DEEPSEEK_HOME": str(WORK / "home")}
    return subprocess.Popen([*DEEPSEEK, *options, "-o", str(out)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def finished(child: subprocess.Popen[bytes]) -> None:
    _, said = child.communicate()
    if child.returncode:
        raise SystemExit(f"a run that was left alone ended with {child.returncode}:\n{said.decode()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compress", action="store_true", help="instead of quantize")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random_, options = random.Random(args.seed), COMPRESS if args.compress else QUANTIZE
    place = WORK / "kills"
    shutil.rmtree(place, ignore_errors=True)
    began = time.perf_counter()
    finished(start(options, place / "whole"))
    whole, seconds = digest(place / "whole"), time.perf_counter() - began
    kills = complete = alike = resumed = 0
    while kills < args.kills:
        child = start(options, place / "q")
        try:
            child.wait(random_.uniform(0.2, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
            resumed += any((place / "q.work").rglob("codes-*"))
            assert not (place / "q").exists() or digest(place / "q") == whole
            continue
        finished(child)
        complete += 1
        alike += digest(place / "q") == whole
        shutil.rmtree(place / "q")
    finished(start(options, place / "q"))
    alike, complete = alike + (digest(place / "q") == whole), complete + 1
    left = [f.name for f in place.iterdir() if f.name not in ("whole", "q")]
    show(
        ["kills", "behind a finished block", "runs that ended", "with the same bits", "left behind"],
        [[kills, resumed, complete, alike, left]],
    )
    if alike != complete or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
