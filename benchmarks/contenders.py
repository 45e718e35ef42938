"""The peers as contenders: their artefacts of one model, the settings each is fastest with, and what differs between them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from common import PEER, PEERS, median, run

from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.bench.metrics import MORE_IS_BETTER, base

OPENVINO = PEERS / "ov/bin"
WORKER = Path(__file__).with_name("peer_worker.py")
TRIED_ROUNDS = 3  # of each setting; of one alone a slow moment decides
EXPORT = ("--task", "text-generation-with-past", "--weight-format", "int4", "--group-size", "32", "--sym", "--ratio", "1.0")


@dataclass(frozen=True, slots=True)
class Peer:
    """`tried` are the settings that are tried, the first as it comes; `scheme` and `rounding` say how it computes."""

    name: str
    kind: str  # of peer_worker.py
    python: Path
    tested: str  # the version that this was written against
    scheme: str
    rounding: str
    tried: tuple[dict[str, Any], ...]


def contenders(threads: int) -> tuple[Peer, ...]:
    """All peers, and what is tried on so many threads."""
    ort, ov = {"intra_op_num_threads": threads}, {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    python = Path(PEER[0])
    return (
        Peer(
            *("llama.cpp Q4_0", "llama", python, "llama-cpp-python 0.3.36", "groups of 32, float16 scale"),
            "int8 in blocks of 32; cache fp16",
            ({}, {"flash_attn_type": 0}, {"flash_attn_type": 1}, {"n_ubatch": 128}),
        ),
        Peer(
            *("onnxruntime-genai int4", "genai", python, "onnxruntime-genai 0.18.0", "groups of 32, float32 scale"),
            "int8 in blocks of 32 (accuracy_level 4); cache fp32",
            ({}, ort, {**ort, "session.intra_op.allow_spinning": "0"}),
        ),
        Peer(
            *("openvino-genai int4", "openvino", OPENVINO / "python", "openvino-genai 2026.4.1.0", "groups of 32, float16 scale"),
            "by the plugin: int8 in groups, the rest in bf16 where the processor has it; cache u8",
            ({}, ov, {**ov, "ATTENTION_BACKEND": "SDPA"}, {**ov, "ATTENTION_BACKEND": "SDPA", "KV_CACHE_PRECISION": "f16"}),
        ),
    )


def obstacle(peer: Peer) -> str:
    """Why a peer cannot run; "" where it can."""
    return "" if peer.python.exists() else f"{peer.name} is left out: there is no {peer.python}. See benchmarks/README.md."


def artefact(peer: Peer, work: Path, model: Path) -> Path:
    """What the peer's own tools make of the model, made once."""
    folder = work / f"{model.name}-peers"
    folder.mkdir(exist_ok=True)
    path = folder / {"llama": "q4_0.gguf", "genai": "genai", "openvino": "openvino"}[peer.kind]
    if not path.exists():
        {"llama": _gguf, "genai": _genai, "openvino": _openvino}[peer.kind](model, path)
    return path


def _gguf(model: Path, path: Path) -> None:
    dense = path.with_name("bf16.gguf")
    run(*PEER, "convert", model, dense)
    run(*PEER, "quantize", dense, path)
    dense.unlink()


def _genai(model: Path, path: Path) -> None:
    run(*PEER, "genai", model, path, "int4")


def _openvino(model: Path, path: Path) -> None:
    unfinished = path.with_name("openvino-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    os.environ["PATH"] = f"{OPENVINO}{os.pathsep}{os.environ['PATH']}"  # its converter calls another of its commands
    run(OPENVINO / "optimum-cli", "export", "openvino", "-m", model, *EXPORT, unfinished)
    unfinished.rename(path)


def command(peer: Peer, own: Mapping[str, Any]) -> list[str]:
    return [str(peer.python), str(WORKER), peer.kind, json.dumps(own)]


def fastest(peer: Peer, path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings that are tried those of the greatest product of rates, the median of warm rounds; the first if all fail."""
    rates = {}
    for index, own in enumerate(peer.tried):
        with started(str(path), {**settings, "ref": str(path), "name": peer.name}, command(peer, own)) as arm:
            ask(arm, {"do": "warm-up"})
            answers = [ask(arm, {"do": "round"}).get("values", {}) for _ in range(TRIED_ROUNDS)]
        rates[index] = median([product_of_rates(values) for values in answers])
    return peer.tried[max(rates, key=lambda index: rates[index])]


def product_of_rates(values: Mapping[str, float]) -> float:
    """0 where the round failed."""
    return prod(value for name, value in values.items() if base(name) in MORE_IS_BETTER) if values else 0.0


HEADERS = ("arm", "version", "settings", "weights", "embedding", "head", "activations, KV cache", "MB", "KL")


def differences(peer: Peer, own: Mapping[str, Any], arm: Arm, kl: float | None) -> list[str]:
    """One row of HEADERS."""
    version = arm.ready["version"]
    version += "" if version == peer.tested else f" (written against {peer.tested})"
    said = ", ".join(f"{name}={value}" for name, value in own.items()) or "as it comes"
    embedding, head = OUTER[peer.kind](Path(arm.ref))
    size = f"{arm.ready['bytes'] / 1e6:.0f}"
    return [peer.name, version, said, peer.scheme, embedding, head, peer.rounding, size, divergence(kl)]


def divergence(kl: float | None) -> str:
    return "-" if kl is None else f"{kl:.3f}"


def _outer_gguf(path: Path) -> tuple[str, str]:
    from deepseek_cli.formats.gguf_model import open_gguf

    forms = {name: ref.stored for name, ref in open_gguf(path)[1].items()}
    embedding = forms["model.embed_tokens.weight"]
    return embedding, forms.get("lm_head.weight", f"{embedding}, shared")


def _outer_genai(path: Path) -> tuple[str, str]:
    """What the graph's two ends read: the largest initializer of each."""
    from deepseek_cli.profile.weights import of_graph

    stored = of_graph(path / "model.onnx")[0]
    largest = {layer: max(_of(stored, layer), key=lambda s: s.size_bytes, default=None) for layer in ("embedding", "head")}
    return tuple(each.form if each else "shared" for each in largest.values())  # type: ignore[return-value]


def _of(stored: Sequence[Any], layer: str) -> list[Any]:
    return [s for s in stored if s.layer == layer]


def _outer_openvino(path: Path) -> tuple[str, str]:
    """The element types of the constants that the graph file names after the two."""
    text = (path / "openvino_model.xml").read_text()
    found = []
    for part in ("embed_tokens", "lm_head"):
        kinds = re.findall(
            rf'<layer [^>]*name="[^"]*{part}[^"]*" type="Const"[^>]*>\s*<data element_type="(\w+)" shape="\d+, ?\d+', text
        )
        found.append(max(set(kinds), key=kinds.count) if kinds else "shared")
    return found[0], found[1]


OUTER = {"llama": _outer_gguf, "genai": _outer_genai, "openvino": _outer_openvino}
