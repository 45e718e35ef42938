"""What the products of a step of decoding cost in ONNX Runtime, and in a prototype of our own: native/gemv.c.

    python benchmarks/gemv.py --threads 1 2

All int4 products of SmolLM2-135M (or of the 1.46 B shape) with random codes, one row of activations, rounded alike: MatMulNBits
in one graph, and the prototype, in turns. Needs a C compiler and a processor with AVX-512 VNNI.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, median, show

SOURCE = Path(__file__).with_name("native") / "gemv.c"
IDLE = 0.2  # seconds before each turn: ONNX Runtime's threads look for work a while behind their last
SHAPES = {  # layers, hidden, outputs of q, k and v together, intermediate, vocabulary
    "SmolLM2-135M": (30, 576, 960, 1536, 49_152),
    "1.46 B": (28, 2048, 3072, 5632, 49_152),
}


@dataclass(frozen=True, slots=True)
class Weight:
    codes: np.ndarray  # uint8 [out, in], 8 being zero
    scales: np.ndarray  # float32 [out, in / group]
    group: int

    @property
    def shape(self) -> tuple[int, int]:
        out, inputs = self.codes.shape
        return out, inputs

    def dequantized(self) -> np.ndarray:
        return (self.codes.astype(np.float32) - 8) * self.scales.repeat(self.group, 1)


def weights_of(shape: str, group: int) -> list[Weight]:
    layers, hidden, qkv, inner, vocabulary = SHAPES[shape]
    draw = np.random.default_rng(0)
    layer = [(qkv, hidden), (hidden, hidden), (inner, hidden), (inner, hidden), (hidden, inner)]

    def weight(out: int, inputs: int) -> Weight:
        scales = draw.uniform(0.01, 0.02, (out, inputs // group)).astype(np.float32)
        return Weight(draw.integers(0, 16, (out, inputs), np.uint8), scales, group)

    return [weight(*size) for _ in range(layers) for size in layer] + [weight(vocabulary, hidden)]


class Product(ctypes.Structure):
    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("out", "inputs", "group")),
    )


class Ours:
    def __init__(self, weights: list[Weight], x: np.ndarray, folder: Path) -> None:
        library = folder / "gemv.so"
        subprocess.run(["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", library, SOURCE, "-lm", "-lpthread"], check=True)
        self.call = ctypes.CDLL(str(library)).run
        self.x, self.y = x, np.zeros(max(w.shape[0] for w in weights), np.float32)
        self.held = [(laid_out(w.codes), in_tiles(w.scales)) for w in weights]
        parts = [
            Product(codes.ctypes.data, scales.ctypes.data, *w.shape, w.group)
            for w, (codes, scales) in zip(weights, self.held, strict=True)
        ]
        self.products, self.count = (Product * len(parts))(*parts), len(parts)

    def run(self, threads: int, repeats: int) -> np.ndarray:
        pointers = (ctypes.c_void_p(self.x.ctypes.data), ctypes.c_void_p(self.y.ctypes.data))
        self.call(self.products, self.count, *pointers, threads, repeats)
        return self.y


def laid_out(codes: np.ndarray) -> np.ndarray:
    """[out / 16, in / 8, 64]: of each of 16 outputs four inputs in the low halves, and the next four in the high ones."""
    out, inputs = codes.shape
    tiles = codes.reshape(out // 16, 16, inputs // 8, 2, 4).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(tiles[:, :, 0] | tiles[:, :, 1] << 4)


def in_tiles(scales: np.ndarray) -> np.ndarray:
    """[out / 16, groups, 16]"""
    return np.ascontiguousarray(scales.reshape(len(scales) // 16, 16, -1).transpose(0, 2, 1))


class Theirs:
    """The same as one graph of MatMulNBits nodes."""

    def __init__(self, weights: list[Weight], x: np.ndarray, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(graph_of(weights), options, providers=["CPUExecutionProvider"])
        self.inputs = {f"x{w.shape[1]}": x[None, : w.shape[1]] for w in weights}
        self.names = [self.session.get_outputs()[-1].name]

    def run(self, repeats: int) -> np.ndarray:
        for _ in range(repeats):
            found = self.session.run(None, self.inputs)
        last: np.ndarray = found[-1][0]
        return last


def graph_of(weights: list[Weight]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes, held, outputs = [], [], []
    for i, w in enumerate(weights):
        out, inputs = w.shape
        packed = (w.codes[:, 0::2] | w.codes[:, 1::2] << 4).reshape(out, -1, w.group // 2)
        held += [numpy_helper.from_array(packed, f"w{i}"), numpy_helper.from_array(w.scales.reshape(-1), f"s{i}")]
        fields = {"K": inputs, "N": out, "bits": 4, "block_size": w.group, "accuracy_level": 4}
        nodes.append(
            helper.make_node("MatMulNBits", [f"x{inputs}", f"w{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft", **fields)
        )
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, out]))
    sizes = sorted({w.shape[1] for w in weights})
    inputs_of = [helper.make_tensor_value_info(f"x{size}", TensorProto.FLOAT, [1, size]) for size in sizes]
    graph = helper.make_graph(nodes, "products", inputs_of, outputs, held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    found: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return found


def spent(work: Callable[[], Any], repeats: int, threads: int) -> float:
    """Milliseconds of a step: processor time of one thread, the clock's of several."""
    clock = time.process_time if threads == 1 else time.perf_counter
    time.sleep(IDLE)
    start = clock()
    work()
    return 1000 * (clock() - start) / repeats


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--shape", choices=list(SHAPES), default="SmolLM2-135M")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    rows = []
    for group in args.groups:
        weights = weights_of(args.shape, group)
        x = np.random.default_rng(1).standard_normal(max(w.shape[1] for w in weights)).astype(np.float32)
        size = sum(w.codes.size / 2 + 4 * w.scales.size for w in weights) / 1e6
        with tempfile.TemporaryDirectory() as folder:
            ours = Ours(weights, x, Path(folder))
            for threads in args.threads:
                theirs = Theirs(weights, x, threads)
                apart = np.abs(ours.run(threads, 1)[: weights[-1].shape[0]] - theirs.run(1)).max()
                wanted = weights[-1].dequantized() @ x[: weights[-1].shape[1]]
                times: dict[str, list[float]] = {"theirs": [], "ours": []}
                for _ in range(args.rounds):
                    times["theirs"].append(spent(lambda: theirs.run(args.repeats), args.repeats, threads))  # noqa: B023
                    times["ours"].append(spent(lambda: ours.run(threads, args.repeats), args.repeats, threads))  # noqa: B023
                best, mid = ({name: how(found) for name, found in times.items()} for how in (min, median))
                rows.append(
                    [
                        *(f"g{group}", threads, f"{size:.0f}"),
                        *(f"{mid[name]:.2f} ({best[name]:.2f})" for name in times),
                        f"{mid['theirs'] / mid['ours']:.2f} ({best['theirs'] / best['ours']:.2f})",
                        f"{size / best['ours']:.1f}",
                        f"{apart / np.abs(wanted).max():.1e}",
                    ]
                )
    headers = ["group", "threads", "MB", "MatMulNBits, ms (best)", "prototype, ms (best)", "times faster", "GB/s", "apart"]
    show(headers, rows)


if __name__ == "__main__":
    main()
