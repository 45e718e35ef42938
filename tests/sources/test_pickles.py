"""Repositories of pickles: refused by name, converted where that is allowed, and never run."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from deepseek_cli.errors import DeepseekError
from deepseek_cli.formats import pickles
from deepseek_cli.handle import open_model
from deepseek_cli.manifest import read_manifest
from deepseek_cli.store import Store
from tests.cli.processes import start
from tests.conftest import Outcome
from tests.sources.loopback_hub import COMMIT, Hub

Cli = Callable[..., Outcome]
WORDS = ("pull", "hf:org/name", "--allow-pickle", "--json")


class Evil:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def pickled(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.fixture
def weights(hub: Hub) -> dict[str, torch.Tensor]:
    """Of the hub's model, which has them as two pickles now."""
    tensors = load(hub.files.pop("model.safetensors"))
    names = sorted(tensors)
    for i, part in enumerate((names[:5], names[5:]), 1):
        hub.files[f"pytorch_model-{i:05}-of-00002.bin"] = pickled({name: tensors[name] for name in part})
    hub.files["pytorch_model.bin.index.json"] = b"{}"
    return tensors


def test_pickles_are_converted_bit_for_bit(
    weights: dict[str, torch.Tensor], hub: Hub, cli: Cli, store: Store, cache: Path
) -> None:
    done = cli(*WORDS, "--lock", "lock.json")
    assert done.code == 0
    assert "Converting 2 pickles to safetensors" in done.err
    handle = open_model("hf:org/name", store)
    assert {name: ref.read().tolist() for name, ref in handle.tensors.items()} == {n: t.tolist() for n, t in weights.items()}  # type: ignore[union-attr]
    assert {f.name for f in handle.root.iterdir()} == {f for f in hub.files if "pytorch_model" not in f} | {
        "model.safetensors",
        "deepseek.json",
    }
    assert [f.name for f in store.models.iterdir()] == ["org--name"] and not list(cache.rglob("*.bin"))
    manifest = read_manifest(handle.root)
    assert manifest and manifest.source == {"ref": "hf:org/name", "revision": COMMIT}
    locked = {f["path"] for f in json.loads(Path("lock.json").read_text())["files"]}
    assert {f["path"] for f in manifest.steps[0]["resolved"]["files"]} == locked == hub.files.keys()
    again = cli(*WORDS)
    assert (again.code, again.json["unchanged"]) == (0, True)
    assert cli("verify", "org--name", "--repair").code == 0  # nothing is wrong
    (handle.root / "model.safetensors").write_bytes(b"x")
    assert "cannot be repaired" in cli("verify", "org--name", "--repair").err


def test_a_malicious_pickle_is_refused_and_not_run(weights: object, hub: Hub, cli: Cli, store: Store, tmp_path: Path) -> None:
    hub.files["pytorch_model-00002-of-00002.bin"] = pickled({"model.norm.weight": Evil(tmp_path / "owned")})
    done = cli(*WORDS)
    assert (done.code, done.json["error"]["code"]) == (3, "model-unsupported")
    assert "00002-of-00002.bin wants to call posix.system when it is opened: refused" in done.json["error"]["message"]
    assert not (tmp_path / "owned").exists()
    assert list(store.models.iterdir()) == []
    torch.load(io.BytesIO(hub.files["pytorch_model-00002-of-00002.bin"]), weights_only=False)
    assert (tmp_path / "owned").exists()  # so it would have been


def test_safetensors_come_before_pickles(hub: Hub, cli: Cli) -> None:
    hub.files["pytorch_model.bin"] = b"x"
    assert cli(*WORDS).code == 0
    assert not any("pytorch_model" in asked.path for asked in hub.asked)


def squeezed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"0" * 1000)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: pickled({"a": torch.zeros(1).expand(10**6, 10**6)}), "tensor a is larger than what is stored of it"),
        (lambda: pickled({"a": torch.eye(2).to_sparse()}), "a is no plain tensor"),
        (lambda: pickled({"a": torch.zeros(2, dtype=torch.complex64)}), r"a has dtype torch\.complex64"),
        (lambda: pickled({"model": {"a": torch.zeros(2)}}), "model is no plain tensor"),
        (lambda: pickled([torch.zeros(2)]), "does not hold tensors by name, but a list"),
        (lambda: pickled({"a": Evil(Path("x"))}, _use_new_zipfile_serialization=False), r"wants to call posix\.system"),
        (lambda: b"cos\nsystem\n(S'true'\ntR.", r"wants to call os\.system"),
        (squeezed, "has compressed parts"),
        (lambda: b"PK\5\6" + b"\xff" * 18, "is no pickle of tensors"),
        (lambda: b"", "is no pickle of tensors that can be read"),
    ],
)
def test_what_else_is_refused(tmp_path: Path, content: Callable[[], bytes], says: str) -> None:
    (tmp_path / "x.bin").write_bytes(content())
    with pytest.raises(DeepseekError, match=rf"^x\.bin.* {says}|^x\.bin: {says}"):
        pickles._load(tmp_path / "x.bin")


CONFINED = """
import os, socket, subprocess, sys
from pathlib import Path
from deepseek_cli.formats.pickles import confine
folder = Path(sys.argv[1])
confine(folder)
(folder / "inside").write_text("x")
attempts = [
    lambda: os.system("true"),
    lambda: subprocess.run(["true"]),
    lambda: os.fork(),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: open(folder / ".." / "outside", "w"),
    lambda: os.open(folder.parent / "outside", os.O_CREAT | os.O_WRONLY),
    lambda: os.remove(folder / "inside"),
]
for attempt in attempts:
    try:
        attempt()
    except PermissionError as error:
        print(error)
"""


def test_a_process_that_converts_can_do_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = start(str(tmp_path / "folder"), code=CONFINED)
    refused = [line.split(" ")[0] for line in done.stdout.splitlines()]
    assert refused == ["os.system", "subprocess.Popen", "os.fork", "os.exec", "socket.getaddrinfo", "open", "open", "os.remove"]
    assert done.returncode == 0, done.stderr
    assert {f.name for f in tmp_path.iterdir()} == {"folder"}
