"""How much of the front each sampler finds in equally many trials, against the scheduler that mixes them.

python benchmarks/tune.py [MODEL] [--trials 24] [--seeds 3]

Every recipe of a small space is measured once, when a sampler first proposes it: then a trial costs next to nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from deepseek_cli.handle import open_model
from deepseek_cli.store import Store
from deepseek_cli.tune import engine, trial
from deepseek_cli.tune.front import hypervolume, pareto_front
from deepseek_cli.tune.spec import TuneSpec

SPACE = """
scheme = ["int4-g128", "int4-g64", "int4-g32", "int4-g32-asym", "int8-channel", "int8-g32"]
embeddings = ["int4-g64", "int4-g32", "int8"]
algorithm = ["rtn", "search"]
[rules]
"*.o_proj" = ["body", "int8-channel"]
"""
WAYS = ("auto", "tpe", "cmaes", "nsga2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    known: dict[tuple[Any, ...], Any] = {}
    measured = trial.run_trial

    def once(handle: Any, parts: Any, recipe: Any, others: Any, *rest: Any) -> Any:
        key = tuple(sorted(recipe.items()))
        if key not in known:
            known[key] = measured(handle, parts, recipe, [], *rest)
        return known[key]

    engine.run_trial = once
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "space.toml").write_text(SPACE, encoding="utf-8")
        store = Store(place)
        handle = open_model(asked.model, store)
        for way in WAYS:
            found = []
            for seed in range(asked.seeds):
                spec = TuneSpec(
                    objective="size,kl,speed",
                    space=str(place / "space.toml"),
                    trials=asked.trials,
                    study=place / f"{way}{seed}.journal",
                    sampler=way,
                    windows=2,
                    prune=False,
                )
                done = engine.tune(handle, spec, store, seed=seed)
                halfway = pareto_front(done.trials[: asked.trials // 2], spec.objectives)
                found.append((hypervolume([t.point for t in halfway if t.point]), done.hypervolume))
            half, all_ = (statistics.mean(column) for column in zip(*found, strict=True))
            each = " ".join(f"{volume:.4f}" for _, volume in found)
            print(
                f"{way:6} half the trials {half:.4f}, all {all_:.4f} ({each}); {len(known)} recipes measured so far", flush=True
            )


if __name__ == "__main__":
    main()
