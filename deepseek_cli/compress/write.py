"""A `Shape` into an ordinary model folder: complete, or not there at all. One tensor is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_cli.compress.shape import Shape, dense_dtype, picked
from deepseek_cli.formats.safetensors import Planned, Writer
from deepseek_cli.handle import ModelHandle
from deepseek_cli.manifest import Manifest, list_files, write_manifest
from deepseek_cli.quantize.folder import clean_config, copy_licence, lineage
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.store import require_space, staged
from deepseek_cli.tensors import dense


def write(
    shape: Shape, source: ModelHandle, steps: Sequence[Mapping[str, Any]], final: Path, reporter: Reporter = SILENT
) -> Manifest:
    """`shape`, which was made from `source`, as the folder `final`. `steps` are recorded behind the source's own.

    Raises DiskFull before any work.
    """
    stored = shape.handle.stored
    planned = [Planned(name, dense_dtype(ref), ref.shape) for name, ref in stored.items()]
    total = sum(part.size for part in planned)
    require_space(final, total + (64 << 20))
    with staged(final, force=True) as folder:
        done = 0
        with Writer(folder, planned) as writer:
            for part, (name, ref) in zip(planned, stored.items(), strict=True):
                writer.write(name, dense(picked(ref).read()), ref.release)
                ref.release()
                done += part.size
                reporter.progress("write", done, total, "B")
        (folder / "config.json").write_text(json.dumps(clean_config(shape.handle.raw_config), indent=2) + "\n", encoding="utf-8")
        shape.tokenizer.save(folder)
        copy_licence(source.root, folder)
        manifest = Manifest(
            source.name,
            parent=source.digest,
            source=lineage(source),
            steps=(*source.manifest.steps, *map(dict, steps)),
            files=list_files(folder),
            readers=source.manifest.readers or ("deepseek", "transformers", "vllm"),
        )
        write_manifest(folder, manifest)
    return manifest
