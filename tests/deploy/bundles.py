"""What tests of bundles do with any of them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import onnxruntime_genai
import pytest

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.readback import GraphWeights
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import Bundle, ModelHandle, open_any
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store

PROMPT = [70, 71, 72, 73, 74]


def built_from(handle: ModelHandle, folder: Path, spec: DeploySpec) -> tuple[ModelHandle, Bundle]:
    """The model, and its bundle at `folder`/bundle."""
    deploy(handle, spec, Store(folder), folder / "bundle", threads=1)
    bundle = open_any(str(folder / "bundle"), Store(folder))
    assert isinstance(bundle, Bundle)
    return handle, bundle


def assert_genai_generates_our_tokens(bundle: Bundle, new: int = 24) -> None:
    """Greedy tokens behind PROMPT, in onnxruntime-genai and in our own session."""
    loaded = onnxruntime_genai.Model(str(bundle.root))
    options = onnxruntime_genai.GeneratorParams(loaded)
    options.set_search_options(max_length=len(PROMPT) + new, do_sample=False)
    generator = onnxruntime_genai.Generator(loaded, options)
    generator.append_tokens(np.array(PROMPT, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    theirs = [int(token) for token in generator.get_sequence(0)]
    session = open_session(bundle, threads=1)
    ours, fed = list(PROMPT), PROMPT
    while len(ours) < len(theirs):
        fed = [int(session.feed(fed)[-1].argmax())]
        ours += fed
    assert ours == theirs


def hide(monkeypatch: pytest.MonkeyPatch, distribution: str) -> None:
    """As if it were not installed."""
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == distribution:
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def flip_bit(bundle: Path, initializer: str, graph: str = "model.onnx") -> None:
    """Change the first bit of an initializer in the data file."""
    weights = GraphWeights(bundle / graph)
    offset = next(int(e.value) for e in weights.initializers[initializer].external_data if e.key == "offset")
    del weights
    with (bundle / "model.onnx.data").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
