"""Rounding as tasks of Ray, on a cluster of this machine with two processors: the same bits, and the same errors."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepseek_cli import cluster as ray_cluster
from deepseek_cli.errors import MissingExtra, ModelCorrupt, NetworkError, ResourceError, UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.quantize import rounding, spread
from deepseek_cli.quantize.algorithms import ALGORITHMS, find_algorithm
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.spread import LOCAL, Cluster, Engine, find_engine
from deepseek_cli.reporter import SILENT
from deepseek_cli.store import Store
from deepseek_cli.tensors import TensorRef
from tests.conftest import Outcome
from tests.fp8_toys import DEEPSEEK, to_fp8
from tests.quantize.ray_tasks import die, die_once, is_even
from tests.toys import DEPLOYABLE, make_toy

pytestmark = pytest.mark.usefixtures("one_thread")
PLUGIN = """
from deepseek_cli.quantize.rtn import quantize as rounded
def nearest(weight, scheme, statistics=None, passed=lambda: None):
    return rounded(weight, scheme, None, passed)
nearest.needs = "nothing"
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An installed distribution with one algorithm; workers look for packages where PYTHONPATH says."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "acme_nearest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-nearest\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[deepseek.algorithms]\nnearest = acme_nearest:nearest\n", encoding="utf-8")
    (folder / "acme_nearest.py").write_text(PLUGIN, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parents[2])]))
        yield


@pytest.fixture(scope="module")
def cluster(plugin: None) -> Iterator[Cluster]:
    """Ray as a script of the user's may have started it: what it finds, the engine uses and leaves alone."""
    ray = ray_cluster.quiet_ray()
    ray.init("local", num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False)
    yield Cluster()
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_toy(folder / "llama", **DEPLOYABLE)
    make_toy(folder / "deepseek", "deepseek_v3", **{**DEEPSEEK, "num_hidden_layers": 2})
    to_fp8(folder / "deepseek", shards=False)
    return folder


def run(model: Path, out: Path, engine: Engine, **options: Any) -> Quantized:
    store = Store(out.parent)
    return quantize(open_model(str(model), store), QuantizeSpec(report=False, **options), store, out, engine=engine)


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", {"algorithm": "rtn"}),
        ("llama", {"algorithm": "nearest"}),
        ("llama", {"tokens": 2048}),
        ("deepseek", {"algorithm": "search", "scheme": "int4-asym"}),
        ("deepseek", {"tokens": 2048}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_ray_gives_the_bits_of_the_local_run(
    cluster: Cluster, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(rounding, "TOGETHER", 1)  # so that even weights of a toy are several batches
    local = run(models / model, tmp_path / "local", LOCAL, **options)
    there = run(models / model, tmp_path / "ray", cluster, **options)
    assert digests(tmp_path / "local") == digests(tmp_path / "ray")
    assert (local.errors, local.notes) == (there.errors, there.notes)
    assert run(models / model, tmp_path / "local", cluster, **options).unchanged
    assert local.manifest and there.manifest
    assert local.manifest.steps[-1]["resolved"] == there.manifest.steps[-1]["resolved"]
    assert sorted(f.name for f in tmp_path.iterdir() if f.name != "config") == ["local", "ray"]


def test_a_nan_is_the_error_that_it_is_here(cluster: Cluster, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "llama", tmp_path / "toy")
    tensors = load_file(tmp_path / "toy" / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(tensors, tmp_path / "toy" / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds a NaN") as caught:
        run(tmp_path / "toy", tmp_path / "q", cluster, algorithm="rtn")
    assert type(caught.value) is ModelCorrupt
    assert caught.value.hint
    assert sorted(f.name for f in tmp_path.iterdir()) == ["toy"]


def test_a_dead_worker_is_tried_again_and_then_said(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spread, "RETRIES", 1)  # a new worker takes seconds
    with cluster.started(SILENT) as engine:
        assert list(engine.one_thread(die_once, [tmp_path / "died"])) == [1]
        with pytest.raises(ResourceError, match="Ray could not finish a task: The worker died unexpectedly") as caught:
            list(engine.one_thread(die, [1]))
    assert caught.value.exit_code == 4
    assert capfd.readouterr() == ("", "")


def test_results_come_in_order_and_few_are_under_way(cluster: Cluster) -> None:
    numbers = iter(range(100))
    with cluster.started(SILENT) as engine:
        found = engine.all_threads(is_even, numbers)
        assert [next(found), next(found)] == [True, False]
        assert next(numbers) <= 2 * spread.AHEAD + 2
        with pytest.raises(ZeroDivisionError):
            list(found)


def test_tasks_that_fit_no_machine_are_refused(cluster: Cluster) -> None:
    torch.set_num_threads(3)
    with pytest.raises(UsageError, match="No machine of the Ray cluster has 3 processors"), cluster.started(SILENT):
        pass


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3),
        torch.arange(12.0).view(4, 3)[::2],
        torch.arange(6).view(2, 3).T,
        torch.ones(3, dtype=torch.bfloat16).expand(2, 3),
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.ones(2, 4).to(torch.float8_e4m3fn),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}-{t.stride()}",
)
def test_a_tensor_lies_there_as_it_lies_here(tensor: torch.Tensor) -> None:
    arrived = spread._arrived(spread._sent(tensor))
    assert arrived.dtype == tensor.dtype
    assert arrived.tolist() == tensor.tolist()
    assert arrived.data_ptr() % 64 == 0
    assert 0 in tensor.stride() or arrived.stride() == tensor.stride()


def test_what_is_sent_takes_its_values_along_and_algorithms_go_by_name() -> None:
    import pickle

    ref = TensorRef("w", (2,), "f32", 8, lambda: torch.ones(2))
    copy = pickle.loads(pickle.dumps(ref))
    assert (copy.name, copy.shape, copy.stored, copy.size_bytes) == ("w", (2,), "f32", 8)
    assert copy.read().tolist() == [1, 1]
    for name in ALGORITHMS:
        assert pickle.loads(pickle.dumps(find_algorithm(name))) == find_algorithm(name)


def test_without_ray_the_line_that_installs_it(
    models: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    done = cli("quantize", models / "llama", "--engine", "ray", "--json")
    assert (done.code, done.json["error"]["code"]) == (4, "missing-extra")
    assert "pip install 'deepseek-cli[ray]'" in done.json["error"]["hint"]
    with pytest.raises(MissingExtra):
        find_engine("ray")


def test_an_address_is_for_ray(cli: Callable[..., Outcome]) -> None:
    done = cli("quantize", "anything", "--address", "10.0.0.1:6379")
    assert done.code == 2
    assert "--address is for --engine ray" in done.err
    with pytest.raises(UsageError, match="no engine named 'dask'"):
        find_engine("dask")


@pytest.mark.parametrize(("address", "error"), [("127.0.0.1:9", NetworkError), ("nonsense", UsageError)])
def test_an_address_where_nobody_answers(monkeypatch: pytest.MonkeyPatch, address: str, error: type[Exception]) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda address, **options: int(address))  # its own refusal is a ValueError too
    with pytest.raises(error, match=address), Cluster(address).started(SILENT):
        pass
