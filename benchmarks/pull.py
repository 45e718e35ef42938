"""Fetching from a hub on this machine, beside curl and beside `hf download`; and kills at random moments (--kills 50).

The hub is the tests' own, in a process of its own. Large is one file of --mb megabytes, small are 500 files of 4 kB, resumed is
the large file after a kill at half of it. For the rate beside curl, both times run from the first request to the finished file,
ours with the digest checked; for the arms beside hf, they are of whole commands. Memory is the most that a command had resident.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import DEEPSEEK, WORK, Process, arguments, interleave, median, run, show, spread

ROOT = Path(__file__).parents[1]
WEIGHTS, ID = "model.safetensors", "org/name"
SMALL = 500
FETCH = """
import sys, time
from deepseek_cli.sources.listing import look_up
from deepseek_cli.sources.fetch import fetch
from deepseek_cli.sources.places import Cache
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.reporter import SILENT
spec = PullSpec(include=(sys.argv[1],), exclude=("*.json", "*.jinja", "tokenizer*", "LICENSE*"))
listing = look_up("org/name", spec)
begun = time.perf_counter()
fetch(listing, spec, Cache.of(listing.hub_id, listing.commit, "main"), SILENT)
print(time.perf_counter() - begun)
"""


class Served:
    """The hub over a folder, which says how many bytes of weights it has sent."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, __file__, "--serve", str(folder), *options]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._line()

    def _line(self) -> str:
        assert self.child.stdout
        return self.child.stdout.readline().strip()

    def sent(self) -> int:
        assert self.child.stdin
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        self.child.communicate()


def serve(folder: Path, slow_s: float, cut: float, corrupt: float) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.sources.loopback_hub import Hub, serving

    files = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            files[path.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with serving(Hub(files, slow_s=slow_s, cut=cut, corrupt=corrupt)) as hub:  # type: ignore[arg-type]
        for path in files:
            hub.entry(path)
        print(hub.url, flush=True)
        for _ in sys.stdin:
            print(hub.sent(), flush=True)


def make(folder: Path, size: int) -> None:
    """deepseek-nano, whose weights file holds `size` bytes more that no layer uses; and beside it the small files."""
    shutil.rmtree(folder, ignore_errors=True)
    nano = folder / "nano"
    run(*DEEPSEEK, "pull", "nano", "-o", nano)
    for name in ("large", "small"):
        shutil.copytree(nano, folder / name, ignore=shutil.ignore_patterns("deepseek.json"))
    weights = (nano / WEIGHTS).read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header, data = json.loads(weights[8 : 8 + length]), weights[8 + length :]
    header["padding"] = {"dtype": "U8", "shape": [size], "data_offsets": [len(data), len(data) + size]}
    text = json.dumps(header).encode()
    with (folder / "large" / WEIGHTS).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))
    for index in range(SMALL):
        (folder / "small" / f"tokenizer_{index:03}.txt").write_bytes(os.urandom(4096))


class Arms:
    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.hubs = {name: Served(folder / name) for name in ("large", "small")}
        self.peak_mb = 0.0  # of fetching alone
        self.bytes = (folder / "large" / WEIGHTS).stat().st_size

    def _anew(self, hub: str) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.environ.update(HF_ENDPOINT=self.hubs[hub].url, HF_HUB_CACHE=str(self.out), HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="0")
        shutil.rmtree(WORK / "home" / "models" / "org--name", ignore_errors=True)

    def ours(self, hub: str, half: bool) -> Process:
        return self._command(hub, half, [*DEEPSEEK, "pull", f"hf:{ID}", "-q"])

    def theirs(self, hub: str, half: bool) -> Process:
        return self._command(hub, half, [str(Path(sys.executable).with_name("hf")), "download", ID, "-q"])

    def _command(self, hub: str, half: bool, command: list[str]) -> Process:
        self._anew(hub)
        if half:
            before = self.hubs[hub].sent()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_env())
            while self.hubs[hub].sent() - before < self.bytes / 2 and child.poll() is None:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            child.wait()
        return run("env", "HF_HUB_OFFLINE=0", *command)

    def curl(self) -> float:
        """MB a second, and of `ours_alone` too: of the file, without the start of a process."""
        self._anew("large")
        url = f"{self.hubs['large'].url}/{ID}/resolve/main/{WEIGHTS}"
        done = run("curl", "-sSfL", "-o", self.out / "file", "-w", "%{time_total}", url)
        return self.bytes / 1e6 / float(done.out)

    def ours_alone(self) -> float:
        self._anew("large")
        done = run("env", "HF_HUB_OFFLINE=0", sys.executable, "-c", FETCH, WEIGHTS)
        self.peak_mb = max(self.peak_mb, done.peak_mb)
        return self.bytes / 1e6 / float(done.out)


def _env() -> dict[str, str]:
    return {**os.environ, "DEEPSEEK_HOME": str(WORK / "home")}


def compare(folder: Path, rounds: int) -> None:
    arms = Arms(folder)
    rates = interleave({"curl": arms.curl, "ours": arms.ours_alone}, rounds)
    pairs = [ours / curl for ours, curl in zip(rates["ours"], rates["curl"], strict=True)]
    part, by_round = median(rates["ours"]) / median(rates["curl"]), ", ".join(f"{pair:.2f}" for pair in pairs)
    headers = ["one file, MB", "curl, MB/s", "ours, MB/s", "part of curl's", "by rounds", "our peak, MB"]
    speeds = [spread(rates[arm], 0) for arm in ("curl", "ours")]
    show(headers, [[round(arms.bytes / 1e6), *speeds, f"{part:.2f}", by_round, round(arms.peak_mb)]])
    print()
    rows = []
    for name, hub, half in (("large", "large", False), ("small", "small", False), ("resumed", "large", True)):
        turns: dict[str, Callable[[], Process]] = {
            "ours": lambda hub=hub, half=half: arms.ours(hub, half),  # type: ignore[misc]
            "hf": lambda hub=hub, half=half: arms.theirs(hub, half),  # type: ignore[misc]
        }
        seen = interleave(turns, rounds)
        ours, theirs = ([p.seconds for p in seen[arm]] for arm in ("ours", "hf"))
        peaks = [f"{max(p.peak_mb for p in seen[arm]):.0f}" for arm in ("ours", "hf")]
        rows.append([name, spread(ours), spread(theirs), f"{median(theirs) / median(ours):.2f}", *peaks])
    show(["arm", "deepseek pull, s", "hf download, s", "times faster", "our peak, MB", "its peak, MB"], rows)
    for hub in arms.hubs.values():
        hub.close()


def kill(folder: Path, kills: int, seed: int) -> None:
    """Every kill is followed by a resume; a fetch that was left alone ends the turn, and another begins with an empty cache."""
    chance, workers, chunk, out = random.Random(seed), 4, 8 << 20, folder / "out"
    size = (folder / "large" / WEIGHTS).stat().st_size
    hub = Served(folder / "large", "--slow", "0.0005", "--cut", "0.05", "--corrupt", "0")
    os.environ.update(HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(out), HF_HUB_OFFLINE="0")
    command = [*DEEPSEEK, "pull", f"hf:{ID}", "--workers", str(workers), "-q"]
    turns = alike = done = 0
    most = 0.0
    while done < kills:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(WORK / "home" / "models" / "org--name", ignore_errors=True)
        before, here = hub.sent(), 0
        for share in sorted(chance.uniform(0.02, 0.95) for _ in range(min(10, kills - done))):
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_env())
            while child.poll() is None and hub.sent() - before < share * size:
                time.sleep(0.001)
            here += child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_env())
        turns, done = turns + 1, done + here
        again = (hub.sent() - before - size) / (chunk * workers * max(1, here))
        most = max(most, again)
        fetched = next(out.glob("models--*/snapshots/*")) / WEIGHTS
        alike += subprocess.run(["cmp", "-s", fetched, folder / "large" / WEIGHTS], check=False).returncode == 0
    hub.close()
    show(
        ["kills", "turns", "with the same bits", "fetched twice, of a chunk per worker and kill"],
        [[done, turns, alike, f"{most:.2f}"]],
    )
    if alike != turns or most > 1:
        raise SystemExit(1)


def main() -> None:
    parser = arguments(__doc__, 3)
    parser.add_argument("--mb", type=int, default=512)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("--slow", "--cut", "--corrupt"):
        parser.add_argument(name, type=float, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.slow, args.cut, args.corrupt)
    folder = args.work / "pull"
    make(folder, args.mb * 1_000_000)
    if args.kills:
        kill(folder, args.kills, args.seed)
    else:
        compare(folder, args.rounds)
    return None


if __name__ == "__main__":
    main()
