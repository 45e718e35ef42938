"""Bytes through bad weather: whatever a connection, a server or a kill does, the result is the same to the bit."""

from __future__ import annotations

import errno
import functools
import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_cli.errors import DiskFull, ModelCorrupt, NetworkError, UsageError
from deepseek_cli.sources import parts, wire
from deepseek_cli.sources.pull import Pulled, pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.sources.conftest import CHUNK
from tests.sources.loopback_hub import ID, Hub, serving
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(wire.Patience, silent_s=0.4, window_s=0.2, low_bytes=500, first_wait_s=0.01, longest_wait_s=0.05)
    monkeypatch.setattr(wire, "Patience", quick)


def same(done: Pulled, hub: Hub) -> bool:
    assert done.handle
    return {f.name: f.read_bytes() for f in done.handle.root.iterdir()} == hub.files


# connections


def test_several_ranges_of_one_file_at_once(hub: Hub, store: Store) -> None:
    assert same(pull(ID, PullSpec(workers=3), store), hub)
    ranges = [a.headers["range"] for a in hub.asked if a.origin == "cdn"]
    assert len(ranges) == len(set(ranges)) == -(-len(hub.files[WEIGHTS]) // CHUNK)


def test_connections_that_break_are_taken_up_where_they_broke(hub: Hub, store: Store) -> None:
    hub.cut = 0.4
    assert same(pull(ID, PullSpec(workers=2), store), hub)
    assert hub.sent() == len(hub.files[WEIGHTS])


def test_a_connection_that_stalls_is_left(hub: Hub, store: Store) -> None:
    hub.stall_after = 20_000
    begun = time.monotonic()
    assert same(pull(ID, PullSpec(workers=1), store), hub)
    assert time.monotonic() - begun < 2.5  # the server sleeps for 3 s


def test_a_connection_that_drips_is_left(hub: Hub, store: Store) -> None:
    hub.slow_s = 0.25  # for each 16 kB: more than the silence that is borne, less than low_bytes would be

    low = functools.partial(wire.Patience, silent_s=5, window_s=0.1, low_bytes=1 << 20, attempts=2, first_wait_s=0.01)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(NetworkError, match=r"gives no more of .*: stalled"),
    ):
        patch.setattr(wire, "Patience", low)
        patch.setattr("tests.sources.loopback_hub.PIECE", 10)
        pull(ID, PullSpec(workers=1), store)


def test_a_server_that_knows_no_ranges(hub: Hub, store: Store) -> None:
    hub.ranges = False
    assert same(pull(ID, PullSpec(workers=2), store), hub)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 403])  # 403: a signed address that ran out
def test_answers_that_are_better_next_time(hub: Hub, store: Store, status: int) -> None:
    hub.cdn_answers = deque([(status, {})] * 3)
    assert same(pull(ID, PullSpec(), store), hub)


@pytest.mark.parametrize("order", [{"retry-after": "1"}, {"ratelimit": '"resolvers";r=0;t=0'}])
def test_a_hub_that_asks_for_a_pause_gets_it(hub: Hub, store: Store, order: dict[str, str]) -> None:
    hub.cdn_answers = deque([(429, order)])
    begun = time.monotonic()
    assert same(pull(ID, PullSpec(workers=1), store), hub)
    assert time.monotonic() - begun > 1


def test_a_server_that_never_recovers(hub: Hub, cli: Cli, store: Store) -> None:
    hub.cdn_answers = deque([(503, {})] * 1000)
    done = cli("pull", "hf:org/name", "--json")
    assert done.code == 5
    assert "gives no more of model.safetensors: HTTP 503" in done.json["error"]["message"]
    assert "it goes on where it stopped" in done.json["error"]["hint"]
    assert "signature" not in done.out + done.err
    hub.cdn_answers.clear()
    assert same(pull(ID, PullSpec(), store), hub)


def test_a_rate_is_kept(hub: Hub, store: Store) -> None:
    begun = time.monotonic()
    pull(ID, PullSpec(max_rate=400_000), store)
    assert 0.8 < time.monotonic() - begun < 4


# wrong bytes


@pytest.mark.parametrize("seed", range(3))
def test_chunks_that_arrive_damaged_are_fetched_again(hub: Hub, store: Store, seed: int) -> None:
    hub.corrupt, hub.cut, hub.random = 0.1, 0.1, random.Random(seed)
    assert same(pull(ID, PullSpec(), store), hub)


def test_only_as_far_as_needed(hub: Hub, store: Store) -> None:
    hub.corrupt_once = {CHUNK}  # the second
    assert same(pull(ID, PullSpec(), store), hub)
    assert hub.sent() == len(hub.files[WEIGHTS]) + 3 * CHUNK  # the first again, the second twice: two must agree


def test_a_source_that_is_always_wrong_is_refused(hub: Hub, store: Store, cache: Path) -> None:
    hub.tree = {WEIGHTS: {"lfs": {"oid": "0" * 64, "size": len(hub.files[WEIGHTS]), "pointerSize": 134}}}
    with pytest.raises(ModelCorrupt, match=r"serves bytes of model\.safetensors that do not have the digest it announces"):
        pull(ID, PullSpec(), store)
    assert not store.home.exists()
    assert list(cache.glob("models--*/snapshots/*/*")) == list(cache.glob("models--*/refs/*")) == []
    assert [f for f in cache.glob("models--*/blobs/*") if "deepseek" in f.name] == []


def test_a_small_file_is_checked_too(hub: Hub, store: Store) -> None:
    hub.tree = {"config.json": {"oid": "1" * 40}}
    with pytest.raises(ModelCorrupt, match=r"bytes of config\.json"):
        pull(ID, PullSpec(), store)


# what stays for the next run


def test_what_arrived_before_an_end_is_not_fetched_again(hub: Hub, store: Store) -> None:
    hub.random, hub.cut = random.Random(3), 0.0
    answers: deque[tuple[int, dict[str, str]]] = deque()
    hub.cdn_answers = answers
    watcher = threading.Thread(target=lambda: fail_after(hub, 3 * CHUNK, answers))
    watcher.start()
    hub.slow_s = 0.01
    with pytest.raises(NetworkError):
        pull(ID, PullSpec(workers=1), store)
    watcher.join()
    answers.clear()
    assert same(pull(ID, PullSpec(workers=1), store), hub)
    assert len(hub.files[WEIGHTS]) <= hub.sent() <= len(hub.files[WEIGHTS]) + CHUNK


def fail_after(hub: Hub, count: int, answers: deque[tuple[int, dict[str, str]]]) -> None:
    while hub.sent() < count:
        time.sleep(0.002)
    answers.extend([(503, {})] * 100)


def test_after_a_restart_of_the_machine_only_what_was_synced_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK_BYTES", 10)
    first = parts.Parts(tmp_path / "file", 95, "d")
    first.start()
    for index in (0, 4, 9):
        first.record(index)
    first.sync()
    first.record(7)
    first.close()
    again = parts.Parts(tmp_path / "file", 95, "d")
    assert (again.done, again.missing_bytes()) == ({0, 4, 7, 9}, 60)
    monkeypatch.setattr(parts, "BOOT_ID", tmp_path / "none")
    assert parts.Parts(tmp_path / "file", 95, "d").done == {0, 4, 9}


@pytest.mark.parametrize("damage", [b"", b"12", b"95 10 other boot\n1\n", b"95 10 d boot\nx\n", b"\xff\xfe\n"])
def test_a_log_that_does_not_fit_means_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setattr(parts, "CHUNK_BYTES", 10)
    (tmp_path / "file.deepseek-part").write_bytes(bytes(95))
    (tmp_path / "file.deepseek-log").write_bytes(damage)
    assert parts.Parts(tmp_path / "file", 95, "d").done == set()


def test_a_record_that_was_cut_off_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK_BYTES", 10)
    unfinished = parts.Parts(tmp_path / "file", 950, "d")
    unfinished.start()
    unfinished.record(12)
    unfinished.close()
    unfinished.log.write_bytes(unfinished.log.read_bytes()[:-2])
    assert parts.Parts(tmp_path / "file", 950, "d").done == set()


def test_more_files_than_a_process_may_hold_open(hub: Hub, store: Store) -> None:
    import resource

    hub.files |= {f"tokenizer_{index}.txt": bytes([index]) for index in range(150)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 100, hard))
    try:
        assert same(pull(ID, PullSpec(), store), hub)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_empty_file(hub: Hub, store: Store) -> None:
    hub.files["NOTICE"] = b""
    assert same(pull(ID, PullSpec(), store), hub)


def test_a_full_disk_is_not_taken_for_a_bad_connection(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deepseek_cli.sources.download.write_all", full)
    with pytest.raises(DiskFull):
        pull(ID, PullSpec(workers=1), store)
    assert len([a for a in hub.asked if a.origin == "cdn"]) <= 1


KILLED = f"""
import sys
from deepseek_cli.sources import parts
from deepseek_cli.main import main
parts.CHUNK_BYTES = {CHUNK}
sys.exit(main(["pull", "hf:org/name", "--workers", "4", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("where", [[], ["-o", "out"]], ids=["cache", "folder"])
def test_kills_at_random_instants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: list[str]) -> None:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "num_hidden_layers": 8, "intermediate_size": 2048})
    files = {f.name: f.read_bytes() for f in (tmp_path / "toy").iterdir()}
    kills, size, chance = 5 if not where else 1, len(files[WEIGHTS]), random.Random(len(where))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Hub(files, slow_s=0.003)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for share in sorted(chance.uniform(0.05, 0.9) for _ in range(kills)):
            running = start(tmp_path, where)
            while running.poll() is None and hub.sent() < share * size:
                time.sleep(0.001)
            running.send_signal(signal.SIGKILL)
            running.communicate()
            assert running.returncode == -signal.SIGKILL, "it should have been at work"
            assert list(tmp_path.glob("cache/models--*/refs/*")) == list(tmp_path.glob("home/models/*/deepseek.json")) == []
            assert not (tmp_path / "out").exists()
        hub.slow_s = 0
        last = start(tmp_path, where)
        _, said = last.communicate(timeout=120)
        assert last.returncode == 0, said
        assert "Going on with" in said
        assert hub.sent() <= size + kills * 4 * CHUNK
    folder = tmp_path / "out" if where else next(tmp_path.glob("cache/models--*/snapshots/*"))
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).digest() == hashlib.sha256(files[WEIGHTS]).digest()
    assert [f for f in tmp_path.rglob("*") if "deepseek-part" in f.name or f.name.endswith(".work")] == []


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_do_not_fetch_the_same_model(hub: Hub, store: Store, cache: Path) -> None:
    from filelock import FileLock

    lock = cache / ".locks" / "models--org--name" / "deepseek.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(UsageError, match="Another process is fetching org/name"):
        pull(ID, PullSpec(), store)
    assert same(pull(ID, PullSpec(), store), hub)


# verify --repair


def test_a_repair_fetches_what_is_wrong(hub: Hub, cli: Cli, cache: Path) -> None:
    assert cli("pull", "hf:org/name").code == 0
    blob = (next(cache.glob("models--*/snapshots/*")) / WEIGHTS).resolve()
    good = blob.read_bytes()
    blob.write_bytes(good[:CHUNK] + bytes([good[CHUNK] ^ 1]) + good[CHUNK + 1 :])
    assert cli("verify", "hf:org/name").code == 1
    before = hub.sent()
    assert cli("verify", "hf:org/name", "--repair").code == 0
    assert (blob.read_bytes() == good, hub.sent() - before) == (True, 3 * CHUNK)
    blob.write_bytes(good[: 2 * CHUNK])
    before = hub.sent()
    assert cli("verify", "hf:org/name", "--repair").code == 0
    assert (blob.read_bytes() == good, hub.sent() - before) == (True, len(good) - 2 * CHUNK)


def test_a_repair_of_a_folder(hub: Hub, cli: Cli) -> None:
    assert cli("pull", "hf:org/name", "-o", "copy").code == 0
    Path("copy/tokenizer.json").unlink()
    Path("copy/config.json").write_text("{}")
    before = {f.name for f in Path("copy").iterdir()}
    assert cli("verify", "copy", "--repair", "--json").json["ok"] is True
    assert {f.name for f in Path("copy").iterdir()} == before | {"tokenizer.json"}


def test_what_was_not_pulled_cannot_be_repaired(cli: Cli, toy_files: dict[str, bytes]) -> None:
    Path("mine").mkdir()
    for name, content in toy_files.items():
        (Path("mine") / name).write_bytes(content)
    assert cli("pull", "mine", "-o", "copy").code == 0
    Path("copy/tokenizer.json").unlink()
    done = cli("verify", "copy", "--repair", "--json")
    assert (done.code, done.json["error"]["code"]) == (2, "usage-error")


# what is said meanwhile


class Listener:
    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[int, int]]] = {}

    def note(self, message: str, **facts: object) -> None: ...

    warn = note

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        self.steps.setdefault(step, []).append((done, total))


def test_bytes_never_go_backwards(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek_cli.sources.download.WATCH_S", 0.005)
    hub.cut, hub.corrupt, hub.slow_s, heard = 0.2, 0.1, 0.002, Listener()
    pull(ID, PullSpec(workers=2), store, reporter=heard)
    assert {WEIGHTS, "fetch", "sha256"} <= set(heard.steps)
    for step, said in heard.steps.items():
        assert said == sorted(said), step
        assert [done == total for done, total in said] == [False] * (len(said) - 1) + [True], step
