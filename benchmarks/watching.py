"""The profiler against what it promises: every byte named, the estimate near what is measured, and what watching costs.

    python benchmarks/watching.py             # where the bytes are, beside the estimate
    python benchmarks/watching.py --overhead  # what sampling and figures of each node cost

SmolLM2-135M and deepseek-nano in int4, as a folder in PyTorch and as a bundle in ONNX Runtime. To be reached: at most 5 % of the
peak unattributed, weights and KV cache exact, the estimated peak within 5 % or 30 MiB; sampling at most 3 % of the
time, figures of each node 15 %.
Weights are counted anew from the files, the KV cache from config.json.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import DEEPSEEK, arguments, median, run, show, smollm2, spread

MIB = 1 << 20
PROMPTS, NEW_TOKENS = (64, 480, 1900), 16
MOST_UNATTRIBUTED, MOST_ERROR, MOST_MIB = 0.05, 0.05, 30


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", default=["SmolLM2", "nano"])
    args = parser.parse_args()
    if args.overhead:
        headers = ["model", "threads", "sampler's processor time", "sampled", "with nodes", "steps of nodes"]
        show(headers, [*costs(args, subjects(args))])
    else:
        headers = ["model", "threads", "tokens", "estimate, MiB", "measured", "off by", "unattributed", "weights", "KV cache"]
        show(headers, [*accounts(args, subjects(args))])


def subjects(args: argparse.Namespace) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in args.models:
        dense = smollm2(args.work) if name == "SmolLM2" else "nano"
        folder = args.work / f"profile-{name}"
        if not (folder / "bundle").exists():
            run(*DEEPSEEK, "quantize", dense, "--int4", "--algorithm", "rtn", "-o", folder / "model", "--force")
            run(*DEEPSEEK, "deploy", folder / "model", "--target", "cpu", "--verify", "structure", "-o", folder / "bundle")
        found |= {f"{name}, PyTorch": folder / "model", f"{name}, ONNX Runtime": folder / "bundle"}
    return found


def accounts(args: argparse.Namespace, models: dict[str, Path]) -> Iterator[Sequence[object]]:
    for name, model in models.items():
        for threads in args.threads:
            for prompt in PROMPTS:
                found = profiled(model, prompt, NEW_TOKENS, threads)
                peak = found["estimate"]["rows"][-1]
                off = peak["estimated_bytes"] - peak["measured_bytes"]
                is_off = abs(peak["error"]) > MOST_ERROR and abs(off) > MOST_MIB * MIB
                share = abs(found["moments"][0]["parts"][-1]["bytes"]) / found["moments"][0]["bytes"]
                yield [
                    name,
                    threads,
                    prompt + NEW_TOKENS,
                    f"{peak['estimated_bytes'] / MIB:.1f}",
                    f"{peak['measured_bytes'] / MIB:.1f}",
                    f"{off / MIB:+.1f}, {peak['error']:+.1%}{missed(is_off)}",
                    f"{share:.1%}{missed(share > MOST_UNATTRIBUTED)}",
                    exact(sum(form["bytes"] for form in found["weights"]), stored(model)),
                    exact(found["kv"]["used_bytes"], found["kv"]["positions"] * token_bytes(model, found)),
                ]


def costs(args: argparse.Namespace, models: dict[str, Path]) -> Iterator[Sequence[object]]:
    """Wall time and, in brackets, processor time, more than a run that nothing watched. Each round runs the three in turn."""
    for name, model in models.items():
        for threads in args.threads:
            rounds = [profiled(model, 512, 128, threads, "--set", "overhead=true") for _ in range(args.rounds)]
            every = [found["overhead"] for found in rounds]
            yield [
                name,
                threads,
                f"{spread([100 * o['sampling_cpu_seconds'] / o['sampling_seconds'] for o in every])} %",
                more("sampled", every),
                more("profiled", every) if rounds[0]["traced"] else "",
                f"{median([r['traced']['decode_steps'] for r in rounds]):.0f} of 128" if rounds[0]["traced"] else "",
            ]


def more(kind: str, every: list[dict[str, float]]) -> str:
    wall, processor = (
        median([100 * (o[f"{kind}_{clock}"] / o[f"plain_{clock}"] - 1) for o in every]) for clock in ("seconds", "cpu_seconds")
    )
    return f"{wall:+.1f} % ({processor:+.1f})"


def profiled(model: Path, prompt: int, new: int, threads: int, *options: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        sizes = ("--prompt-tokens", prompt, "--new-tokens", new, "--threads", threads)
        run(*DEEPSEEK, "profile", model, *sizes, *options, "--save", file)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found


def missed(is_missed: bool) -> str:
    return " **missed**" if is_missed else ""


def exact(said: int, counted: int) -> str:
    return "exact" if said == counted else f"{said:,} for {counted:,} **missed**"


def stored(folder: Path) -> int:
    """Bytes of all tensors in a folder's safetensors, or of a graph's weights."""
    if not (folder / "model.onnx").exists():
        layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
        drafting = f"model.layers.{layers}."  # a layer that guesses further tokens is not loaded
        found = [t for file in folder.glob("*.safetensors") for t in header(file) if not t[0].startswith((drafting, "__"))]
        return sum(end - start for end, start in (reversed(t["data_offsets"]) for _, t in found))
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    kept = [{e.key: e.value for e in tensor.external_data} for tensor in graph.initializer if tensor.external_data]
    inside = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer if not tensor.external_data)
    return inside + sum({int(place["offset"]): int(place["length"]) for place in kept}.values())


def header(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        yield from json.loads(opened.read(length)).items()


def token_bytes(folder: Path, found: dict[str, Any]) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    latent = config.get("kv_lora_rank") and config["kv_lora_rank"] + config["qk_rope_head_dim"]
    values = latent or 2 * config["num_key_value_heads"] * config["head_dim"]
    return int(config["num_hidden_layers"] * values * found["kv"]["bytes_per_value"])


if __name__ == "__main__":
    main()
