"""A mixture fitted to outputs that are wanted of it: its projections down by least squares, then all of it by descent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek_cli.compress.inputs import damped
from deepseek_cli.compress.mixture import Mixture
from deepseek_cli.quantize.fake import DECAYS

STEPS, BATCH, WARM_UP = 300, 1024, 5  # of descent
RATE = 0.01  # of a weight's root mean square, a step


@dataclass(frozen=True, slots=True)
class Rows:
    """Of each token what goes into a mixture, what is wanted of it, and what an error counts, [tokens, ...]."""

    inputs: Tensor
    wanted: Tensor
    counts: Tensor

    def error(self, mixture: Mixture) -> float:
        return float(self._error(mixture))

    def _error(self, mixture: Mixture) -> Tensor:
        return ((mixture(self.inputs) - self.wanted) * self.counts[:, None]).square().sum(-1).mean()

    def __getitem__(self, rows: slice | Tensor) -> Rows:
        return Rows(self.inputs[rows], self.wanted[rows], self.counts[rows])


def solved(mixture: Mixture, rows: Rows, ridge: float, sweeps: int = 1) -> Mixture:
    """The projections down with changes that are small (`ridge`) and leave the least squares, in turns, `sweeps` times."""
    left = rows.wanted - mixture(rows.inputs)
    changes = dict[str, Tensor]()
    for _ in range(sweeps):
        for name, seen, channels in mixture.into_down(rows.inputs):
            if not len(seen):
                continue
            without = left[seen] + channels @ changes[name].T if name in changes else left[seen]
            counted = channels * rows.counts[seen, None].square()
            changes[name] = torch.linalg.solve(damped(counted.T @ channels, ridge), counted.T @ without).T
            left[seen] = without - channels @ changes[name].T
    return mixture.having({name: mixture.weights[name] + change for name, change in changes.items()})


@torch.enable_grad()
def learned(mixture: Mixture, rows: Rows, steps: int) -> Mixture:
    """All its weights after `steps` of Adam (arXiv 1412.6980)."""
    values = {name: w.clone().requires_grad_() for name, w in mixture.weights.items() if name.endswith(".weight")}
    sizes = [float(w.detach().square().mean().sqrt()) for w in values.values()]
    adam = torch.optim.Adam([{"params": [w]} for w in values.values()], betas=DECAYS)
    draws = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group, size in zip(adam.param_groups, sizes, strict=True):
            group["lr"] = RATE * size * min((step + 1) / WARM_UP, 1 - step / steps)
        adam.zero_grad()
        rows[torch.randint(len(rows.inputs), (BATCH,), generator=draws)]._error(mixture.having(values)).backward()
        adam.step()
    return mixture.having({name: w.detach() for name, w in values.items()})
