"""What a step of so many answers costs in the bundle's own codes and in int8, and a chunk of a prompt: `serve.py --steps`."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

from common import WORK, interleave, median, show

from deepseek_cli.handle import open_any
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.onnx_session import GRAPH, load, session_options
from deepseek_cli.runtime.packed_session import packed_for_batches
from deepseek_cli.serve.slots import CHUNK, Slots
from deepseek_cli.spec import PACKED_CACHE
from deepseek_cli.store import Store

DEPTH = 100  # tokens that each slot holds
STEPS = 8  # a turn


def measure(options: argparse.Namespace) -> None:
    """Wall and processor time of the same rows through both forms, in turns."""
    store = Store(WORK / "home")
    bundle: Any = open_any(options.bundle, store)
    wide = packed_for_batches(bundle.root, MachineCache(store.packed, PACKED_CACHE))
    forms = {}
    for name, folder in {"int4": bundle.root, "int8": wide}.items():
        slots = Slots(bundle.root, bundle.config, options.clients, options.context, options.threads)
        if folder is wide:
            slots.session = slots.wide = load(wide / GRAPH, session_options(options.threads))
        forms[name] = slots
    draw = random.Random(0)
    prompts = [[draw.randrange(bundle.config.vocabulary) for _ in range(CHUNK)] for _ in range(options.clients)]
    rows = [count for count in (1, 2, 4, 6, 8, 12, 16, 32, 64) if count <= options.clients]
    arms: dict[str, Callable[[], tuple[float, float]]] = {
        f"{name}, {count}": lambda slots=slots, count=count: _steps(slots, prompts[:count])
        for name, slots in forms.items()
        for count in rows
    }
    arms |= {f"{name}, prompt": lambda slots=slots: _chunk(slots, prompts[0]) for name, slots in forms.items()}
    found = interleave(arms, options.rounds)
    table = []
    for what in [*rows, "prompt"]:
        turns = [found[f"{name}, {what}"] for name in forms]
        walls, spent = ([median([turn[i] for turn in of]) for of in turns] for i in (0, 1))
        ratio = median([own[1] / other[1] for own, other in zip(*turns, strict=True)])
        table.append([what, *(f"{ms:.1f}" for ms in (*walls, *spent)), f"{ratio:.2f}"])
    show(("rows", "int4, ms", "int8, ms", "int4, processor ms", "int8, processor ms", "int4 / int8"), table)


def _steps(slots: Slots, prompts: list[list[int]]) -> tuple[float, float]:
    """ms a step, by the clock and of the processor"""
    for slot, prompt in enumerate(prompts):
        slots.lengths[slot] = 0
        slots.extend(slot, prompt[:DEPTH])
    return _timed(lambda: slots.step({slot: prompt[-1] for slot, prompt in enumerate(prompts)}), STEPS)


def _chunk(slots: Slots, prompt: list[int]) -> tuple[float, float]:
    slots.lengths[0] = 0
    return _timed(lambda: slots.extend(0, prompt), 1)


def _timed(work: Callable[[], object], times: int) -> tuple[float, float]:
    wall, spent = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return 1e3 * (time.perf_counter() - wall) / times, 1e3 * (time.process_time() - spent) / times
