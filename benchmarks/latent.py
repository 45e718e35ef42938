"""Latent attention and experts in a stack of DeepSeek-V2-Lite's real dimensions with random weights.

    python benchmarks/latent.py [--peers]

Decoding: our int4 bundle beside the PyTorch interpreter in bfloat16, beside the bytes that a token touches over the memory
bandwidth of the same rounds; the cache in float32, in float16, and in GroupQueryAttention's form. Attention alone: latents
attended as they lie (absorbed) beside keys and values expanded from them, for one new token and for many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from common import arguments, interleave, median, show, spread

from deepseek_cli.architectures import find_architecture
from deepseek_cli.fields import Fields
from deepseek_cli.ops import Architecture, LatentSpec, onnx_latent
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.tensors import QuantizedTensor, TensorRef, Weight

V2_LITE: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_shared_experts": 2,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "topk_method": "greedy",
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 32000,
    "max_position_embeddings": 16384,
}
ATTENTION_ONLY = {"n_routed_experts": None, "intermediate_size": 64, "vocab_size": 1024, "num_hidden_layers": 3}
GROUP, CONTEXT, THREADS = 32, 9216, 2
DEPTHS = (0, 2048, 8192)
CODES = torch.randint(0, 256, (1 << 26,), dtype=torch.uint8)  # weights are pieces of it
STEPS = 12  # tokens a round decodes
PROMPTS = ((16, 0), (128, 0), (512, 0), (16, 2048), (64, 2048), (128, 2048), (256, 2048), (512, 2048))  # new tokens, depth


@dataclass(frozen=True)
class Model:
    """What a session wants of a handle."""

    architecture: Architecture
    config: Any
    weights: Mapping[str, TensorRef]

    @property
    def token_bytes(self) -> int:
        """Bytes of the weights that one token touches, as the bundle holds them: float32 scales, one row of the embedding."""
        gate = self.config.gate
        share = lambda name: gate.top_k / gate.experts if ".experts." in name else 0 if "embed" in name else 1  # noqa: E731
        return round(sum(ref.size_bytes * share(name) for name, ref in self.weights.items()))


def stack(group: int = GROUP, **settings: Any) -> Model:
    architecture = find_architecture("deepseek_v2")
    config = architecture.read_config(Fields({**V2_LITE, **settings}, Path("config.json")))
    shapes = enumerate(architecture.weights(config))
    return Model(architecture, config, {name: random_weight(name, shape, i, group) for i, (name, shape) in shapes})


def random_weight(name: str, shape: tuple[int, ...], seed: int, group: int) -> TensorRef:
    """int4 in groups and int8 for the latents' projection, as `quantize` plans by default; dense as it protects."""
    if len(shape) == 1 or "kv_b_proj" in name or "gate.weight" in name:
        size = 4 * int(np.prod(shape))
        return TensorRef(
            name, shape, "f32", size, lambda: torch.randn(shape, generator=seeded(seed)) * shape[-1] ** -0.5 + (len(shape) == 1)
        )
    bits = 8 if "kv_a_proj" in name else 4

    def read() -> Weight:
        size = shape[0] * shape[1] * bits // 8
        start = 4099 * seed % (len(CODES) - size)
        codes = CODES[start : start + size].reshape(shape[0], -1)
        scale = torch.full((shape[0], -(-shape[1] // group)), shape[1] ** -0.5 * 3.5 / 2**bits).bfloat16().float()
        return QuantizedTensor(codes, scale, bits, group)

    return TensorRef(name, shape, f"int{bits}-g{group}", shape[0] * shape[1] * bits // 8 + 4 * shape[0] * shape[1] // group, read)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Forced(onnx_latent.Step):
    """A graph that knows only one form: "absorbed" or "expanded"."""

    form = ""

    def __init__(self, ops: Any) -> None:
        super().__init__(ops)
        if self.form:
            self.one = self.node("Less", [self.new, ops._integers(0)])  # never: one token is no exception

    def few(self, spec: LatentSpec) -> ir.Value:
        if not self.form:
            return super().few(spec)
        return self.node("GreaterOrEqual" if self.form == "absorbed" else "Less", [self.new, self.ops._integers(0)])


def bundle(work: Path, model: Model, name: str, form: str = "", threads: int = THREADS, **options: Any) -> OnnxSession:
    folder = work / f"latent-{name}-{model.config.layers}"
    if not (folder / "model.onnx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        Forced.form, step, onnx_latent.Step = form, onnx_latent.Step, Forced
        emit(model.architecture, model.config, model.weights, folder / "model.onnx", CONTEXT, **options)
        onnx_latent.Step = step
    return OnnxSession(folder, model.config, CONTEXT, threads)


def decode(session: Any, depth: int, steps: int = STEPS) -> float:
    """Milliseconds a token, the best of `steps`, behind `depth` rows of whatever the cache holds."""
    times = []
    for _ in range(steps):
        place(session, depth)
        start = time.perf_counter()
        session.feed([7])
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def prefill(session: Any, new: int, depth: int) -> float:
    place(session, depth)
    session.chunk, session.tokens = new, np.empty(new, np.int64)
    start = time.perf_counter()
    session.feed([7] * new)
    return 1e3 * (time.perf_counter() - start)


def place(session: Any, depth: int) -> None:
    if isinstance(session, TorchSession):
        session.cache.length = depth
    else:
        session.position = depth


def bandwidth(block: torch.Tensor) -> float:
    """GB/s of reading, the best of three."""
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - start) / 1e9)
    return best


def whole(work: Path, layers: int, rounds: int) -> None:
    model = stack(num_hidden_layers=layers)
    ours = bundle(work, model, "stack")
    narrow, grouped = bundle(work, model, "fp16", kv="fp16"), bundle(work, model, "gqa", latent_cache="gqa")
    dense = TorchSession(model, CONTEXT, THREADS, dtype=torch.bfloat16, device="cpu")  # type: ignore[arg-type]
    block = torch.ones(1 << 27)
    sessions = {"int4 bundle": ours, "cache in fp16": narrow, "GroupQueryAttention": grouped, "PyTorch bf16": dense}
    arms: dict[str, Callable[[], float]] = {"bandwidth": lambda: bandwidth(block)}
    for name, session in sessions.items():
        for depth in DEPTHS if session is not dense else DEPTHS[:2]:
            arms[f"{name} at {depth}"] = lambda session=session, depth=depth: decode(session, depth)
    seen = interleave(arms, rounds)
    show(["decoding", "ms a token"], [[name, spread(times)] for name, times in seen.items() if name != "bandwidth"])
    floor = [model.token_bytes / 1e6 / speed for speed in seen["bandwidth"]]
    ratio = lambda a, b: median([x / y for x, y in zip(a, b, strict=True)])  # noqa: E731
    start = seen["int4 bundle at 0"]
    print(f"\n{model.token_bytes / 1e6:.0f} MB a token at {spread(seen['bandwidth'])} GB/s: {spread(floor)} ms")
    print(f"time over that: {ratio(start, floor):.2f} in the median round, {min(start) / min(floor):.2f} best over best")
    print(f"PyTorch bf16 over ours, at 0: {ratio(seen['PyTorch bf16 at 0'], start):.2f}")


def forms(work: Path, rounds: int) -> None:
    model = stack(**ATTENTION_ONLY)
    sessions = {form: bundle(work, model, form, form) for form in ("absorbed", "expanded")}
    sessions["chosen"] = bundle(work, model, "chosen")
    arms: dict[str, Callable[[], float]] = {}
    for name, session in sessions.items():
        for depth in (512, 2048, 8192):
            arms[f"{name}, 1 behind {depth}"] = lambda s=session, d=depth: decode(s, d, 3)
        for new, depth in PROMPTS:
            arms[f"{name}, {new} behind {depth}"] = lambda s=session, n=new, d=depth: prefill(s, n, d)
    seen = interleave(arms, rounds)
    cases = [name.partition(", ")[2] for name in seen if name.startswith("chosen")]
    layers = model.config.layers
    best = lambda form, case: f"{min(seen[f'{form}, {case}']) / layers:.2f}"  # noqa: E731
    show(["new tokens", *(f"{form}, ms a layer" for form in sessions)], [[c, *(best(f, c) for f in sessions)] for c in cases])


def main() -> None:
    parser = arguments(__doc__, rounds=8)
    parser.add_argument("--layers", type=int, default=5, help="1.2 GB each while PyTorch holds them too")
    parser.add_argument("--only", choices=["whole", "forms"])
    parser.add_argument("--peers", action="store_true", help="beside llama.cpp alone")
    parser.add_argument("--threads", type=int, default=THREADS, help="with --peers")
    parser.add_argument("--group", type=int, default=GROUP, help="with --peers: ours; a file of llama.cpp repeats wider scales")
    parser.add_argument("--clock", default="perf_counter", help="with --peers: process_time for processor time, of one thread")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.peers:
        from latent_peers import beside, written

        model = stack(args.group, num_hidden_layers=args.layers)
        file = written(args.work / f"latent-gguf-{args.layers}", model, {"model_type": "deepseek_v2", **V2_LITE})
        name = "stack" if args.group == GROUP else f"stack-g{args.group}"
        beside(bundle(args.work, model, name, threads=args.threads), file, args.threads, args.clock, args.rounds)
        return
    if args.only != "forms":
        whole(args.work, args.layers, args.rounds)
    if args.only != "whole":
        forms(args.work, args.rounds)


if __name__ == "__main__":
    main()
