"""Move a model's weights off the 4-bit grid they were stored on, so that no quantizer's own grid looks lossless.

    python benchmarks/off_grid.py MODEL OUT

Adds seeded uniform noise of at most 0.3 quantization steps (per row and 32 inputs, a step is (max - min) / 15) to every
projection of every block. MODEL is a bf16 folder; the result is still a working language model.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NOISE, GROUP, STEPS = 0.3, 32, 15


def move(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """[out, in], in a multiple of 32"""
    groups = weight.float().reshape(weight.shape[0], -1, GROUP)
    step = (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / STEPS
    noise = 2 * torch.rand(groups.shape, generator=generator) - 1
    return (groups + NOISE * step * noise).reshape(weight.shape).to(weight.dtype)


def main(source: Path, out: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    out.mkdir(parents=True)
    for file in sorted(f for f in source.iterdir() if f.is_file()):
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            for name in sorted(n for n in tensors if re.search(r"layers\.\d+\..*proj\.weight$", n)):
                tensors[name] = move(tensors[name], generator)
            save_file(tensors, out / file.name, {"format": "pt"})
        elif file.name != "deepseek.json":  # its digests are those of the source
            shutil.copy(file, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
