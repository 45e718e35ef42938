"""Layers of a PyTorch model while a program runs it: seconds of their forward passes, and the bytes their modules gave out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Layer:
    name: str
    module: torch.nn.Module
    seconds: float = 0.0
    calls: int = 0
    activation_bytes: int = 0  # of the call that gave out most
    started: float = 0.0
    given: int = 0  # bytes of this call so far


class Watched:
    """Hooks on a model's layers, until `stop`. Outputs are counted where they come from, in modules without children."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.layers = [Layer(name or type(module).__name__, module) for name, module in layers_of(model)]
        self.handles: list[Any] = []
        for layer in self.layers:
            self.handles += [
                layer.module.register_forward_pre_hook(self._start(layer)),
                layer.module.register_forward_hook(self._end(layer), always_call=True),
            ]
            leaves = [m for m in layer.module.modules() if not any(m.children())]
            self.handles += [leaf.register_forward_hook(self._give(layer)) for leaf in leaves if leaf is not layer.module]

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _start(self, layer: Layer) -> Any:
        def start(*_: Any) -> None:
            layer.given, layer.started = 0, time.perf_counter()

        return start

    def _give(self, layer: Layer) -> Any:
        def give(module: Any, inputs: Any, output: Any) -> None:
            layer.given += given_bytes(output)

        return give

    def _end(self, layer: Layer) -> Any:
        def end(module: Any, inputs: Any, output: Any) -> None:
            layer.seconds += time.perf_counter() - layer.started
            layer.calls += 1
            layer.activation_bytes = max(layer.activation_bytes, layer.given or given_bytes(output))

        return end

    def rows(self) -> list[dict[str, Any]]:
        """The page's table of layers. What belongs to no layer, such as a parameter of the model itself, is "other"."""
        rows = [_row(layer.name, bytes_of(layer.module.parameters()), layer) for layer in self.layers]
        rest = bytes_of(self.model.parameters()) - sum(row["weights_bytes"] for row in rows)
        return [*rows, _row("other", rest, None)] if rest > 0 else rows

    def tensors(self) -> list[dict[str, Any]]:
        """Each parameter with its layer; one that several modules share comes once."""
        return [
            {
                "name": name,
                "layer": next((row.name for row in self.layers if f"{name}.".startswith(f"{row.name}.")), "other"),
                "form": str(p.dtype).removeprefix("torch."),
                "parameters": p.numel(),
                "bytes": p.nbytes,
            }
            for name, p in self.model.named_parameters()
        ]


def layers_of(model: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """The entries of lists and sequences of modules, and the modules beside those: none lies in another."""
    lists = (torch.nn.ModuleList, torch.nn.Sequential)
    if not isinstance(model, lists) and not any(isinstance(m, lists) for m in model.modules()):
        yield prefix, model
        return
    for name, child in model.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(model, lists):
            yield path, child
        else:
            yield from layers_of(child, path)


def given_bytes(output: Any) -> int:
    if isinstance(output, torch.Tensor):
        return int(output.nbytes)
    if isinstance(output, dict):
        return sum(map(given_bytes, output.values()))
    return sum(map(given_bytes, output)) if isinstance(output, (tuple, list)) else 0


def bytes_of(tensors: Iterator[torch.Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def _row(name: str, weights: int, layer: Layer | None) -> dict[str, Any]:
    return {
        "layer": name,
        "weights_bytes": weights,
        "kv_bytes": 0,
        "prefill_seconds": None,
        "decode_seconds": None,
        "forward_seconds": layer.seconds if layer else None,
        "calls": layer.calls if layer else None,
        "activation_bytes": layer.activation_bytes if layer else None,
    }
