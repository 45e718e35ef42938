from __future__ import annotations

import torch

from deepseek_cli.profile.activations import Allocations


def test_the_most_that_is_alive_is_counted_by_layer() -> None:
    weight, at = torch.ones(1000, 1000), "a"
    with torch.inference_mode(), Allocations(lambda: at, [weight]) as counted:
        x = torch.ones(1, 1000)
        for _ in range(5):
            x = (x @ weight) * 1e-3
        at = "b"
        kept = [x + i for i in range(10)]
        views = [k[:, :500] for k in kept]
    assert counted.peaks["a"] == 3 * 4000  # what is read, the product, what is written
    assert counted.peaks["b"] == 11 * 4000
    assert len(views) == 10


def test_nothing_is_left_alive() -> None:
    with Allocations(lambda: "", []) as counted:
        torch.ones(8) + 1
    assert counted.now == 0
    assert counted.alive == {}
