"""Graphs that were written, run by ONNX Runtime, against the PyTorch interpreter on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from deepseek_cli.architectures import find_architecture
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.fields import Fields
from deepseek_cli.ops import Architecture, forward
from deepseek_cli.ops.onnx_graph import PAGE_BYTES
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize.rtn import quantize
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.tensors import BlockTensor, QuantizedTensor, TensorRef, Weight, dense
from tests.toys import DEPLOYABLE, random_settings

EXACT = 1e-5  # of the logits' range: float32 sums in another order
Tensors = dict[str, TensorRef]
LINEAR = "model.layers.0.mlp.down_proj.weight"


def toy(family: str = "llama", seed: int = 0, scheme: str = "", **settings: Any) -> tuple[Architecture, Any, Tensors]:
    """An architecture, a config and random weights in memory, its matrices quantized by `scheme`."""
    architecture = find_architecture(family)
    config = architecture.read_config(Fields({**DEPLOYABLE, **settings}, Path("config.json")))
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in architecture.weights(config):
        value: Weight = torch.randn(shape, generator=draw) * 0.25 + ("norm" in name)
        if scheme and len(shape) == 2:
            value = quantize(value, parse_scheme(scheme))
        tensors[name] = ref(name, value)
    return architecture, config, tensors


def ref(name: str, value: Weight, read: Callable[[], Weight] | None = None) -> TensorRef:
    return TensorRef(name, tuple(value.shape), "f32", 4, read or (lambda: value))


def expected(architecture: Architecture, config: Any, tensors: Tensors, tokens: list[int]) -> np.ndarray:
    weights = {name: dense(ref.read()) for name, ref in tensors.items()}
    return forward(TorchOps(weights), architecture, config, torch.tensor([tokens]))[0].numpy()


def error(architecture: Architecture, config: Any, tensors: Tensors, folder: Path) -> float:
    """The largest difference of any logit over the logits' range, activations not rounded."""
    emit(architecture, config, tensors, folder / "model.onnx", 32)
    tokens = [i % config.vocabulary for i in range(3, 20)]
    found = OnnxSession(folder, config, 32, 1, accuracy_level=0).feed(tokens, keep=0)
    wanted = expected(architecture, config, tensors, tokens)
    return float(np.abs(found - wanted).max() / np.ptp(wanted))


def graph_of(folder: Path) -> Any:
    return onnx.load(folder / "model.onnx", load_external_data=False).graph


def attributes(node: Any) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute}


@pytest.mark.parametrize("seed", range(6))  # one for each rope scaling
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_of_any_config_are_those_of_torch(tmp_path: Path, family: str, seed: int) -> None:
    heads = random_settings(family, seed)["num_attention_heads"]
    assert (
        error(*toy(family, seed, **{**random_settings(family, seed), "hidden_size": 16 * heads, "head_dim": 16}), tmp_path)
        < EXACT
    )


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64-asym", "int4-g128-asym", "int8", "int8-g32-asym"])
@pytest.mark.parametrize("hidden", [64, 80, 160])  # 80 and 160 leave a short last group
def test_quantized_logits_are_those_of_torch(tmp_path: Path, scheme: str, hidden: int) -> None:
    settings = {"hidden_size": hidden, "attention_bias": True, "tie_word_embeddings": hidden != 80}
    assert error(*toy(scheme=scheme, **settings), tmp_path) < EXACT


def test_products_are_matmulnbits_and_attention_is_packed(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int4-g32")
    emit(architecture, config, tensors, tmp_path / "model.onnx", 32)
    nodes = graph_of(tmp_path).node
    kinds = [n.op_type for n in nodes]
    assert (kinds.count("MatMulNBits"), kinds.count("FusedMatMul"), kinds.count("Split")) == (2 * 5 + 1, 0, 0)
    assert kinds.count("SkipSimplifiedLayerNormalization") == 4
    assert all(n.input[1:3] == ["", ""] for n in nodes if n.op_type == "GroupQueryAttention")
    product = next(n for n in nodes if n.op_type == "MatMulNBits")
    assert attributes(product) == {"K": 64, "N": 128, "bits": 4, "block_size": 32, "accuracy_level": 4}
    assert len([name for name in product.input if name]) == 3  # a symmetric weight has no zero points


def test_a_tied_head_points_at_the_bytes_of_the_embedding(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int4-g32", tie_word_embeddings=True)
    emit(architecture, config, tensors, tmp_path / "model.onnx", 32)
    graph = graph_of(tmp_path)
    place = {t.name: {e.key: e.value for e in t.external_data} for t in graph.initializer}
    embedding, head = (next(n for n in graph.node if n.op_type == op) for op in ("GatherBlockQuantized", "MatMulNBits"))
    head = [n for n in graph.node if n.op_type == "MatMulNBits"][-1]
    assert place[embedding.input[0]] == place[head.input[1]]
    assert embedding.input[2] == head.input[2]


def test_large_tensors_start_on_a_page_and_nothing_unused_is_left(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int8", tie_word_embeddings=False)
    emit(architecture, config, tensors, tmp_path / "model.onnx", 32)
    graph = graph_of(tmp_path)
    used = {name for node in graph.node for name in node.input}
    for t in graph.initializer:
        assert t.name in used
        place = {e.key: e.value for e in t.external_data}
        assert int(place.get("length", 0)) < PAGE_BYTES or int(place["offset"]) % PAGE_BYTES == 0


def test_logits_are_given_for_the_positions_that_are_asked_for(tmp_path: Path) -> None:
    architecture, config, tensors = toy()
    emit(architecture, config, tensors, tmp_path / "model.onnx", 32)
    session = OnnxSession(tmp_path, config, 32, 1).session
    feeds: dict[str, Any] = {"input_ids": np.arange(5)[None], "attention_mask": np.ones((1, 5), np.int64)}
    empty = np.zeros((1, config.kv_heads, 0, config.head_dim), np.float32)
    feeds |= {v.name: empty for v in session.get_inputs() if v.name.startswith("past")}
    everything = session.run(["logits"], feeds)[0]
    assert everything.shape == (1, 5, config.vocabulary)
    for keep in (0, 1, 3):
        kept = session.run(["logits"], {**feeds, "num_logits_to_keep": np.array([keep])})[0]
        assert np.allclose(kept, everything[:, -keep:], atol=1e-6)


def test_fused_names_of_different_schemes_become_products_of_their_own(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int4-g32")
    name = "model.layers.0.self_attn.v_proj.weight"
    tensors[name] = ref(name, quantize(dense(tensors[name].read()), parse_scheme("int8")))
    assert error(architecture, config, tensors, tmp_path) < EXACT
    products = [attributes(n)["N"] for n in graph_of(tmp_path).node if n.op_type == "MatMulNBits"]
    assert products[:3] == [64, 32, 32]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (replace(quantize(torch.randn(64, 96), parse_scheme("int4-g32")), offset=torch.randn(64, 3)), "float offset"),
        (QuantizedTensor(torch.zeros(64, 96, dtype=torch.uint8), torch.ones(64, 8), 8, 12), "groups of 12"),
        (BlockTensor("q8_0", torch.zeros(64, 3 * 34, dtype=torch.uint8), (64, 96)), "q8_0"),
    ],
)
def test_what_matmulnbits_cannot_hold_becomes_float_and_is_listed(tmp_path: Path, value: Weight, reason: str) -> None:
    architecture, config, tensors = toy(scheme="int4-g32")
    tensors[LINEAR] = ref(LINEAR, value)
    listed = emit(architecture, config, tensors, tmp_path / "model.onnx", 32)
    assert [name for name, _ in listed] == [LINEAR]
    assert reason in listed[0][1]
    assert error(architecture, config, tensors, tmp_path) < EXACT


def test_an_embedding_with_a_short_last_block_becomes_float(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int4-g64", hidden_size=80)
    assert {name for name, _ in emit(architecture, config, tensors, tmp_path / "model.onnx", 32)} == {"model.embed_tokens.weight"}


def test_groups_of_another_size_become_blocks_with_one_scale(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int8", intermediate_size=96)
    weight = QuantizedTensor(torch.randint(0, 255, (64, 96), dtype=torch.uint8), torch.rand(64, 2) / 99, 8, 48)
    tensors[LINEAR] = ref(LINEAR, weight)
    assert error(architecture, config, tensors, tmp_path) < EXACT
    assert 16 in [attributes(n).get("block_size") for n in graph_of(tmp_path).node]


def test_a_head_dim_that_attention_cannot_rotate_is_refused(tmp_path: Path) -> None:
    architecture, config, tensors = toy(head_dim=24)
    with pytest.raises(ModelUnsupported, match="multiple of 16; this model's is 24"):
        emit(architecture, config, tensors, tmp_path / "model.onnx", 32)
    assert not (tmp_path / "model.onnx").exists()


def test_tensors_are_let_go_one_by_one_and_progress_is_told(tmp_path: Path) -> None:
    architecture, config, tensors = toy(scheme="int4-g32")
    held: list[str] = []
    released: list[str] = []
    most = 0

    def watched(name: str, plain: TensorRef) -> TensorRef:
        def read() -> Weight:
            nonlocal most
            held.append(name)
            most = max(most, len(set(held) - set(released)))
            return plain.read()

        return TensorRef(name, plain.shape, plain.stored, 1, read, lambda: released.append(name))

    steps: list[tuple[int, int]] = []

    class Watcher:
        def note(self, message: str, **facts: object) -> None: ...
        def warn(self, message: str, **facts: object) -> None: ...
        def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
            steps.append((done, total))

    matrices = {n: watched(n, r) if len(r.shape) == 2 else r for n, r in tensors.items()}
    emit(architecture, config, matrices, tmp_path / "model.onnx", 32, Watcher())
    assert most == 3  # q, k and v, which are one product
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
