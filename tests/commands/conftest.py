"""A store with a pulled toy, its int4 folder and that folder's bundle, made once; and golden texts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deepseek_cli.main import main
from tests.toys import DEPLOYABLE, make_toy

GOLDEN = Path(__file__).parents[1] / "golden"
UPDATE = os.environ.get("UPDATE_GOLDEN", "") not in ("", "0")  # UPDATE_GOLDEN=1 pytest tests/commands writes them anew
FIGURE = re.compile(r"(?<![\w.@-])\d[\d,]*(?:\.\d+)*(?:e[+-]?\d+)?(?![\w-])")
QUANTIZED, BUNDLE = "toy@int4-g32-balanced", "toy@int4-g32-balanced+cpu"


@dataclass(frozen=True)
class Stock:
    home: Path
    toy: Path

    def folder(self, name: str) -> Path:
        return self.home / "models" / name

    def names(self) -> set[str]:
        return {f.name for f in (self.home / "models").iterdir()}

    def tree(self) -> dict[str, int]:
        """Every file of the store, and when it was last written."""
        return {f.relative_to(self.home).as_posix(): f.stat().st_mtime_ns for f in self.home.rglob("*") if f.is_file()}


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Toys are too small for more, which only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    make_toy(folder, "llama", 1, **DEPLOYABLE, eos_token_id=271)  # its tokens do not reach the end by chance
    return folder


@pytest.fixture(scope="session")
def stocked(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSEEK_HOME", str(home))
        assert main(["pull", str(toy), "-q"]) == 0
        assert main(["quantize", "toy", "--int4", "-q"]) == 0
        assert main(["deploy", QUANTIZED, "--target", "cpu", "--threads", "1", "-q"]) == 0
    return home


@pytest.fixture
def stock(stocked: Path, toy: Path, tmp_path: Path) -> Stock:
    """A store of the test's own, which it may change."""
    home = shutil.copytree(stocked, tmp_path / "home")
    for manifest in home.glob("models/*/deepseek.json"):
        stat = manifest.stat()
        manifest.write_text(manifest.read_text(encoding="utf-8").replace(str(stocked), str(home)), encoding="utf-8")
        os.utime(manifest, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # by which entries are ordered
    return Stock(home, toy)


@pytest.fixture
def golden(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], None]:
    """`golden("show", text)` compares text, its paths and figures aside, with tests/golden/show.txt."""

    def compare(name: str, text: str) -> None:
        found, file = normal(text, tmp_path, tmp_path_factory.getbasetemp()), GOLDEN / f"{name}.txt"
        if UPDATE:
            file.parent.mkdir(exist_ok=True)
            file.write_text(found, encoding="utf-8")
        assert found == file.read_text(encoding="utf-8")

    return compare


def normal(text: str, own: Path, base: Path) -> str:
    """Paths without what differs from run to run, figures as #, columns without their padding."""
    text = text.replace(str(own), "<tmp>")
    text = re.sub(re.escape(str(base)) + r"/\D+\d+/", "<tmp>/", text)
    text = FIGURE.sub("#", text)
    text = text.replace(", # others within noise", "")  # as a machine's arithmetic has it
    return re.sub(r" {3,}", "  ", text)
