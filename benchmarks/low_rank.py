"""Low-rank corrections against finer groups, by bytes. python benchmarks/low_rank.py [--model MODEL] [--schemes NAME …]"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from common import WORK, show

from deepseek_cli.evaluate import HandlePredictor, compare, cut_windows
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.method import inner_linears
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store

SCHEMES = ("int4-g128", "int4-g64", "int4-g64-r8", "int4-g64-r32", "int4-g32")


def measure(arguments: argparse.Namespace) -> None:
    """Bits a weight of the linears within blocks, which alone have corrections, and the divergence of the whole model."""
    torch.set_num_threads(arguments.threads)
    store = Store(WORK / "home")
    original = open_model(arguments.model, store)
    windows = cut_windows(open_tokenizer(original.root), most=arguments.windows)
    reference, rows = HandlePredictor(original, windows.tokens), []
    for scheme in arguments.schemes:
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            spec = QuantizeSpec(scheme=scheme, level=arguments.level, embeddings="bf16", tokens=arguments.tokens, report=False)
            quantize(original, spec, store, Path(folder, "out"))
            seconds = time.process_time() - began
            made = open_model(str(Path(folder, "out")), store)
            found = compare(reference, HandlePredictor(made, windows.tokens), windows)
        rows.append([scheme, f"{bits(made):.3f}", f"{found['kl']:.4f}", f"{found['agreement']:.3f}", f"{seconds:.0f}"])
    show(["scheme", "bits a weight", "KL", "top-1 agreement", "processor s"], rows)


def bits(handle: ModelHandle) -> float:
    refs = [handle.tensors[f"{name}.weight"] for name in inner_linears(handle) if f"{name}.weight" in handle.tensors]
    return 8 * sum(ref.size_bytes for ref in refs) / sum(ref.values for ref in refs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(WORK / "smollm2-off-grid"))
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--level", default="fast")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--windows", type=int, default=4, help="of each evaluation text")
    parser.add_argument("--threads", type=int, default=1)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
