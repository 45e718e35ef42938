"""Shards that only draft further tokens stay away unless they are asked for, and the model is whole without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.formats.headers import draft_shards
from deepseek_cli.handle import open_model
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.fp8_toys import DEEPSEEK, add_draft
from tests.sources.loopback_hub import ID, Hub
from tests.toys import make_toy

Cli = Callable[..., Outcome]
SHARDS = [f"model-{i:05}-of-000003.safetensors" for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A toy DeepSeek-V3 of 3 layers and one that drafts, whose tensors begin in the second shard and fill the third."""
    folder = tmp_path_factory.mktemp("drafting") / "toy"
    make_toy(folder, family="deepseek_v3", **DEEPSEEK)
    add_draft(folder)
    weights = load_file(folder / "model.safetensors")
    drafts = sorted(name for name in weights if ".layers.3." in name)
    own = sorted(weights.keys() - set(drafts))
    for shard, names in zip(SHARDS, (own[:20], own[20:] + drafts[:4], drafts[4:]), strict=True):
        save_file({name: weights[name] for name in names}, folder / shard)
        index = {"weight_map": {}} if shard == SHARDS[0] else json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"] |= dict.fromkeys(names, shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def drafting_hub(hub: Hub, drafting: dict[str, bytes]) -> Hub:
    hub.files = dict(drafting)
    return hub


def test_they_are_left_out_and_that_is_said(drafting_hub: Hub, cli: Cli, store: Store) -> None:
    done = cli("pull", f"hf:{ID}")
    assert done.code == 0
    assert "1 files, " in done.err and "--set mtp=true fetches them" in done.err
    handle = open_model(f"hf:{ID}", store)
    assert not (handle.root / SHARDS[2]).exists() and (handle.root / SHARDS[1]).exists()
    assert handle.draft_weights == {} and not any(".layers.3." in name for name in handle.tensors)
    again = cli("pull", f"hf:{ID}", "--json")
    assert again.json["unchanged"] is True


def test_they_come_when_they_are_asked_for(drafting_hub: Hub, store: Store) -> None:
    pull(ID, PullSpec(), store)
    done = pull(ID, PullSpec(mtp=True), store)
    assert done.handle and not done.unchanged
    assert done.handle.draft_weights
    assert (done.handle.root / SHARDS[2]).read_bytes() == drafting_hub.files[SHARDS[2]]


def test_any_other_shard_is_missed(drafting: dict[str, bytes], tmp_path: Path, store: Store) -> None:
    for name, content in drafting.items():
        if name != SHARDS[1]:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelCorrupt, match=SHARDS[1]):
        open_model(str(tmp_path), store)


def test_which_shards_these_are() -> None:
    index = {"model.layers.60.x": "a", "model.layers.61.x": "a", "model.layers.61.y": "b", "lm_head.weight": "c"}
    assert draft_shards(index, 61) == {"b"}
    assert draft_shards(index, 62) == set()
    assert draft_shards({"visual.layers.61.x": "d", "model.layers.61": "e"}, 61) == set()
