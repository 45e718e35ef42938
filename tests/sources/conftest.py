"""A loopback hub with a toy model on it, and a cache of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from deepseek_cli.sources import parts
from deepseek_cli.store import Store
from tests.sources.loopback_hub import Hub, serving
from tests.toys import DEPLOYABLE, make_toy

CHUNK = 1 << 16


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    make_toy(folder, **DEPLOYABLE)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(toy_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that HF_ENDPOINT names, with chunks so small that a toy has many."""
    monkeypatch.setattr(parts, "CHUNK_BYTES", CHUNK)
    with serving(Hub(dict(toy_files))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")
