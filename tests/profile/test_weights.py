from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_cli.handle import open_any
from deepseek_cli.profile import weights
from deepseek_cli.profile.estimate import estimate
from deepseek_cli.store import Store
from tests.ops.test_onnx_tokens import INPUTS, OUTPUTS, written
from tests.toys import DEPLOYABLE, make_toy


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized product of layer 1, an embedding whose codes serve a second initializer, a norm and an index."""
    folder = tmp_path_factory.mktemp("graph")
    layer = "model.layers.1.mlp.up_proj"
    arrays = {
        f"{layer}.codes": np.zeros((16, 2, 16), np.uint8),
        f"{layer}.scales": np.ones((16, 2), np.float32),
        "model.embed_tokens.codes": np.zeros((10, 64), np.uint8),
        "model.embed_tokens.rows": np.zeros((10, 64), np.uint8),
        "model.embed_tokens.scales": np.ones((10, 2), np.float32),
        "model.norm.weight": np.ones(64, np.float32),
        "integers.1": np.ones(1, np.int64),
    }
    block = {"domain": "com.microsoft", "bits": 4, "block_size": 32}
    nodes = [
        helper.make_node(
            "GatherBlockQuantized",
            ["model.embed_tokens.rows", "ids", "model.embed_tokens.scales"],
            ["x"],
            "embed",
            **{**block, "bits": 8},
        ),
        helper.make_node("MatMulNBits", ["x", f"{layer}.codes", f"{layer}.scales"], ["y"], "MatMulNBits_1", K=64, N=16, **block),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    data = b""
    places: dict[str, int] = {}
    for tensor in tensors[:5]:
        name = tensor.name.replace(".rows", ".codes")  # the same bytes under two names
        if name not in places:
            places[name] = len(data)
            data += tensor.raw_data
        onnx.external_data_helper.set_external_data(tensor, "model.onnx.data", places[name], len(tensor.raw_data))
        tensor.ClearField("raw_data")
    (folder / "model.onnx.data").write_bytes(data)
    value = helper.make_tensor_value_info("ids", TensorProto.INT64, [1])
    (folder / "model.onnx").write_bytes(
        helper.make_model(helper.make_graph(nodes, "g", [value], [], tensors)).SerializeToString()
    )
    return folder / "model.onnx"


def test_initializers_take_the_form_of_their_reader(graph: Path) -> None:
    stored, nodes = weights.of_graph(graph)
    found = {s.name: (s.form, s.layer, s.parameters, s.size_bytes) for s in stored}
    assert found["model.layers.1.mlp.up_proj.codes"] == ("int4-g32", "1", 1024, 512)
    assert found["model.layers.1.mlp.up_proj.scales"] == ("int4-g32", "1", 0, 128)
    assert found["model.norm.weight"] == ("f32", "head", 64, 256)
    assert found["integers.1"] == ("i64", "other", 0, 8)
    assert nodes == {"embed": "embedding", "MatMulNBits_1": "1"}


def test_bytes_under_two_names_count_once(graph: Path) -> None:
    stored, _ = weights.of_graph(graph)
    external = [s for s in stored if s.form.startswith("int")]
    assert {s.form for s in external} == {"int4-g32", "int8-g32"}
    assert sum(s.size_bytes for s in external) == (graph.parent / "model.onnx.data").stat().st_size


def test_rows_by_form_and_by_layer_hold_all_bytes(graph: Path) -> None:
    stored, _ = weights.of_graph(graph)
    total = sum(s.size_bytes for s in stored)
    assert sum(row["bytes"] for row in weights.by_form(stored)) == total
    assert sum(weights.by_layer(stored).values()) == total
    assert list(weights.by_layer(stored)) == ["embedding", "1", "head", "other"]


def test_a_folders_weights_are_its_tensors(tmp_path: Path) -> None:
    model = make_toy(tmp_path, **DEPLOYABLE)
    handle = open_any(str(tmp_path), Store(tmp_path / "home"))
    stored = weights.of_handle(handle)
    assert sum(s.parameters for s in stored) == sum(p.numel() for p in model.parameters())
    assert sum(s.size_bytes for s in stored) == sum(p.nbytes for p in model.parameters())
    assert list(weights.by_layer(stored)) == ["embedding", "0", "1", "head"]


def test_the_estimate_of_a_folder_is_what_runs_it(tmp_path: Path) -> None:
    model = make_toy(tmp_path, **DEPLOYABLE)
    found = estimate(open_any(str(tmp_path), Store(tmp_path / "home")), context=100)
    assert found["weights_bytes"] == sum(p.nbytes for p in model.parameters())
    assert found["kv"]["bytes_per_token"] == 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, channels, float32
    assert found["runtime"] == "PyTorch"
    assert found["total_bytes"] == sum(part["bytes"] for part in found["parts"])
    assert found["parts"][1] == {"part": "kv", "bytes": 100 * found["kv"]["bytes_per_token"]}


def test_products_by_token_are_counted_at_their_codes(tmp_path: Path) -> None:
    stored = [s for s in weights.of_graph(written(tmp_path))[0] if s.form == "int8-channel"]
    assert sum(s.parameters for s in stored) == INPUTS * OUTPUTS
    assert sum(s.size_bytes for s in stored) == INPUTS * OUTPUTS + 4 * OUTPUTS + 4 + 1  # scales, the step and the middle
