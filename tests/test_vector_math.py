"""Results are the same bits in every process, whichever thread was the first to want a cosine."""

import subprocess
import sys

PROCESSES = 8  # one after another, each with the machine to itself: of those that import torch alone, one in four differs
SCRIPT = """
import torch
import deepseek_cli.tensors
angles = torch.outer(torch.arange(512.0), torch.tensor([100000 ** (-i / 32) for i in range(32)]))
first = angles.cos()
print((first != angles.cos()).sum().item())
"""


def test_the_first_cosines_are_those_of_later_calls() -> None:
    found = [subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True).stdout for _ in range(PROCESSES)]
    assert found == ["0\n"] * PROCESSES
