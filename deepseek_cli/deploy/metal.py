"""The metal target: a folder of MLX safetensors, which mlx-lm loads unchanged."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_cli.architectures.llama import EMBEDDING, HEAD
from deepseek_cli.deploy.cpu import report
from deepseek_cli.deploy.mlx_config import mlx_config
from deepseek_cli.deploy.mlx_folder import Plan, pair_order, plan, unties, write
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target, require
from deepseek_cli.errors import UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.formats import mlx
from deepseek_cli.formats.safetensors import NAMES, read_folder
from deepseek_cli.handle import ModelHandle
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.mlx_session import open_folder
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import Weight

CONFIG, README = "config.json", "README.md"
FILES = ("tokenizer.json", "tokenizer_config.json", README)
HOW_TO_RUN = """---
library_name: mlx
---
# {name}

```sh
pip install mlx-lm                      # on Linux: pip install 'mlx-lm[cpu]'
mlx_lm.generate --model . --prompt "Hello" --max-tokens 64
mlx_lm.server --model .                 # or: an HTTP server that speaks OpenAI's protocol
```
"""


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write weights, tokenizer, config and README into `folder`; the context is the model's own.

    Raises ModelUnsupported for what mlx-lm does not compute, UsageError for options that do not concern it.
    """
    if (spec.kv, spec.latent_cache) != ("fp32", "plain"):
        raise UsageError("mlx-lm chooses its own cache.", hint="Leave --kv and latent_cache out.")
    config, found = mlx_config(handle), plan(handle)
    report(list(found.dense), reporter)
    write(found, folder, reporter)
    _write_json(folder / CONFIG, with_quantization(config, found))
    open_tokenizer(handle.root).save(folder)
    (folder / README).write_text(HOW_TO_RUN.format(name=handle.name), encoding="utf-8")
    return {"readers": ["deepseek", "mlx-lm"], "dense_fallbacks": [name for name, _ in found.dense]}


def with_quantization(config: dict[str, Any], found: Plan) -> dict[str, Any]:
    """mlx-lm reads `quantization`, hubs `quantization_config`."""
    settings = found.quantization
    return config | ({"quantization": settings, "quantization_config": settings} if settings else {})


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """Tensors by name, dtype and shape, fields of config.json, and files that are not as they would be written now."""
    found = plan(handle)
    wanted = {part.name: (NAMES[part.dtype].lower(), part.shape) for part in found.planned}
    held = {name: (ref.stored, ref.shape) for name, ref in read_folder(folder).items()}
    tensors = [name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name)]
    config, said = with_quantization(mlx_config(handle), found), read_json(folder / CONFIG)
    fields = [f"{CONFIG}: {key}" for key in config.keys() | said.keys() if config.get(key) != said.get(key)]
    return sorted(tensors) + sorted(fields) + [file for file in FILES if not (folder / file).is_file()]


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    """Through our own reader of MLX folders, experts one by one."""
    settings, order = read_json(folder / CONFIG).get("quantization", {}), pair_order(handle)
    for name, ref in mlx.assemble(read_folder(folder), settings, folder / CONFIG).items():
        held = f"{EMBEDDING}.weight" if name == f"{HEAD}.weight" and unties(handle) else name
        yield held, (ref.with_rows(order[name]) if name in order else ref).read()
        ref.release()


def runtime() -> str:
    """mlx-lm, and where it computes."""
    found = require("mlx-lm", "metal")
    import mlx.core as mx

    return f"{found} ({'GPU' if mx.default_device() == mx.gpu else 'CPU, in float32'})"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


TARGET = Target(
    "metal",
    emit_bundle,
    unexpected,
    read_back,
    open_folder,
    runtime,
    precisions=("fp32", "fp16", "bf16"),
    slowness=1.0 if platform.system() == "Darwin" else 20.0,
)
