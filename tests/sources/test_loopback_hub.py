"""The hub's own client downloads from the loopback hub: what our tests stand on is the real protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tests.sources.loopback_hub import COMMIT, ID, TOKEN, Hub


def test_a_snapshot(hub: Hub, cache: Path) -> None:
    hub.page = 2
    folder = Path(snapshot_download(ID, endpoint=hub.url, cache_dir=cache))
    assert folder.name == COMMIT
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == hub.files


def test_one_file_of_a_tag(hub: Hub, cache: Path) -> None:
    path = hf_hub_download(ID, "model.safetensors", revision="v1", endpoint=hub.url, cache_dir=cache)
    assert Path(path).read_bytes() == hub.files["model.safetensors"]


def test_refusals(hub: Hub, cache: Path) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/other")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(ID, revision="v9")
    hub.gated = True
    with pytest.raises(GatedRepoError):
        hf_hub_download(ID, "config.json", endpoint=hub.url, token=False, cache_dir=cache)
    assert hf_hub_download(ID, "config.json", endpoint=hub.url, token=TOKEN, cache_dir=cache)
