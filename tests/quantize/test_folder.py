from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from deepseek_cli.errors import ModelCorrupt, UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.manifest import read_manifest, sha256
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.rtn import quantize as round_to_nearest
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor
from tests.quantize.killed import killed
from tests.toys import DEPLOYABLE, make_toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_toy(tmp_path / "toy", dtype=torch.bfloat16, **{**DEPLOYABLE, "tie_word_embeddings": False})
    return tmp_path / "toy"


def run(folder: Path, out: Path, **options: object) -> Quantized:
    store = Store(folder.parent)
    return quantize(open_model(str(folder), store), QuantizeSpec(**{"report": False, "algorithm": "rtn", **options}), store, out)  # type: ignore[arg-type]


def test_what_is_written_is_what_the_algorithm_gave(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q", int4=True)
    source, written = load_file(folder / "model.safetensors"), open_model(str(tmp_path / "q"), Store(tmp_path))
    name = "model.layers.1.mlp.up_proj.weight"
    found, wanted = written.tensors[name].read(), round_to_nearest(source[name], parse_scheme("int4-g32"))
    assert isinstance(found, QuantizedTensor)
    assert torch.equal(found.packed, wanted.packed)
    assert torch.equal(found.scale, wanted.scale)
    assert torch.equal(written.tensors["model.norm.weight"].read(), source["model.norm.weight"])


def test_the_manifest_tells_lineage_options_and_digests(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q", int8=True, group="64")
    manifest = read_manifest(tmp_path / "q")
    assert manifest is not None
    assert manifest.steps[-1]["given"] == {"int8": True, "group": "64", "algorithm": "rtn", "report": False}
    assert manifest.steps[-1]["resolved"]["scheme"] == "int8-g64"
    assert manifest.parent == open_model(str(folder), Store(tmp_path)).digest
    assert manifest.source["parent"] == "toy"
    assert {f["path"]: f["sha256"] for f in manifest.files} == {
        f.name: sha256(f) for f in (tmp_path / "q").iterdir() if f.name != "deepseek.json"
    }


@pytest.mark.parametrize("options", [{"int4": True}, {"int8": True}, {"int4": True, "rule": ("*.down_proj=int8",)}])
def test_transformers_reads_the_same_weights(folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    done = run(folder, tmp_path / "q", embeddings="bf16", **options)
    assert done.manifest is not None
    assert "transformers" in done.manifest.readers
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32)
    tokens = torch.arange(3, 60)[None]
    with torch.inference_mode():
        wanted = oracle(tokens).logits[0]
    found = torch.from_numpy(TorchSession(open_model(str(tmp_path / "q"), Store(tmp_path)), 64).feed(tokens[0].tolist(), keep=0))
    assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())


def test_packed_embeddings_and_zero_points_are_ours_alone(folder: Path, tmp_path: Path) -> None:
    for out, options in (("a", {"int4": True}), ("b", {"scheme": "int4-g32-asym", "embeddings": "bf16"})):
        done = run(folder, tmp_path / out, **options)
        assert done.manifest is not None
        assert done.manifest.readers == ("deepseek",)


def test_bf16_writes_a_dense_folder_from_any_source(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q", int4=True)
    run(tmp_path / "q", tmp_path / "dense", scheme="bf16")
    written = open_model(str(tmp_path / "dense"), Store(tmp_path))
    assert {ref.stored for ref in written.tensors.values()} == {"bf16"}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "dense").num_parameters() == written.parameters


def test_the_same_input_and_options_are_up_to_date(folder: Path, tmp_path: Path) -> None:
    assert not run(folder, tmp_path / "q", int4=True).unchanged
    before = (tmp_path / "q" / "deepseek.json").stat().st_mtime_ns
    assert run(folder, tmp_path / "q", int4=True).unchanged
    assert (tmp_path / "q" / "deepseek.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="--force"):
        run(folder, tmp_path / "q", int8=True)
    (tmp_path / "q" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="--force"):
        run(folder, tmp_path / "q", int4=True)


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_nan_names_its_tensor_and_leaves_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[7] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=name.replace(".", r"\.")):
        run(folder, tmp_path / "q", int4=True)
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_an_output_inside_the_input_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="inside the model's own folder"):
        run(folder, folder / "q", int4=True)


def test_a_killed_run_leaves_nothing_under_the_final_name(folder: Path, tmp_path: Path) -> None:
    for steps in (1, 8, 15):
        killed(folder, tmp_path / "q", steps, algorithm="rtn")
        assert not (tmp_path / "q").exists()
    assert not run(folder, tmp_path / "q", int4=True).unchanged
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q", "toy"]


def test_a_report_card_that_was_cut_short_is_measured_by_the_next_run(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q", int4=True)
    store = Store(tmp_path)
    again = quantize(open_model(str(folder), store), QuantizeSpec(int4=True, algorithm="rtn"), store, tmp_path / "q")
    assert again.unchanged
    manifest = read_manifest(tmp_path / "q")
    assert manifest is not None
    assert manifest.report is not None
    assert manifest.report["kl"] > 0


def test_force_replaces_a_damaged_result(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "q", int4=True)
    (tmp_path / "q" / "deepseek.json").write_text("{")
    store = Store(tmp_path)
    quantize(open_model(str(folder), store), QuantizeSpec(report=False), store, tmp_path / "q", force=True)
    assert read_manifest(tmp_path / "q") is not None
