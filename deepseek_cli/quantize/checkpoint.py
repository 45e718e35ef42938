"""What a long run keeps beside its result, so that the next one goes on where it was stopped.

The folder `<result>.work` holds `work.json`, which says what was asked for, and two folders a block: `codes-N`, the block's
quantized weights, and `hidden-N`, the activations behind it. Distillation adds `learned-N`, its state after N steps. Each
comes into being by one rename, with its digest in it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.formats import quantized, safetensors
from deepseek_cli.manifest import sha256
from deepseek_cli.ops.torch_parts import Parts, Spool
from deepseek_cli.schemes import Scheme
from deepseek_cli.store import OWNER, RECORD, making_room, require_idle
from deepseek_cli.tensors import Quantized, TensorRef

FILE, DIGEST, NOTES = "model.safetensors", "sha256", "notes.json"


class Checkpoint:
    """Raises UsageError when the folder is somebody else's, or belongs to other work; ResourceError when it cannot be made.

    What is damaged in it is ModelCorrupt when it is wanted.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], force: bool = False) -> None:
        self.folder, self.record = folder, folder / RECORD
        self._refuse_strangers()
        if force:
            self.remove()
        with making_room(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not self.record.is_file():
                _write(self.record, json.dumps(asked, indent=1, sort_keys=True).encode())
            _write(folder / OWNER, str(os.getpid()).encode())
        if changed := _changed(read_json(self.record), json.loads(json.dumps(asked))):
            raise UsageError(
                "{folder} holds unfinished work that differs in {fields}.",
                hint="Give what was given then to continue it, or --force to start anew.",
                folder=folder,
                fields=", ".join(changed),
            )

    def _refuse_strangers(self) -> None:
        """Files that are not ours are never touched, nor those of a process that is still at work."""
        if self.folder.exists() and not self.record.is_file() and any(f.name != f"{RECORD}.new" for f in self.folder.iterdir()):
            raise UsageError(
                "{folder} is where unfinished work would be kept, and it holds something else.",
                hint="Move that away, or use another -o.",
                folder=self.folder,
            )
        require_idle(self.folder)

    @property
    def blocks(self) -> int:
        """How many are finished."""
        return max((int(f.name.removeprefix("hidden-")) + 1 for f in self.folder.glob("hidden-*[0-9]")), default=0)

    def save_codes(
        self,
        block: int,
        weights: Mapping[str, tuple[Quantized, Scheme]],
        norms: Mapping[str, Tensor],
        notes: Mapping[str, Any],
    ) -> None:
        """`weights` and changed `norms` by name, without `.weight`; `notes` is what else there is to know of the weights."""
        planned = [part for name, (w, scheme) in weights.items() for part in quantized.planned_parts(name, w.shape, scheme)]
        parts = [part for name, (w, scheme) in weights.items() for part in quantized.parts_of(name, w, scheme)]
        planned += [safetensors.Planned(f"{name}.weight", norm.dtype, tuple(norm.shape)) for name, norm in norms.items()]
        parts += [(f"{name}.weight", norm) for name, norm in norms.items()]
        settings = quantized.quantization_config({name: scheme for name, (_, scheme) in weights.items()}, [])
        self._save(f"codes-{block:05}", planned, parts, {"settings": settings, "weights": dict(notes)})

    def save_hidden(self, block: int, parts: Parts) -> None:
        """The activations behind a block; those before it are not needed any more."""
        planned = [safetensors.Planned(f"{i:05}", part.dtype, tuple(part.shape)) for i, part in enumerate(parts)]
        self._save(f"hidden-{block:05}", planned, ((f"{i:05}", part) for i, part in enumerate(parts)), {})
        for older in self.folder.glob("hidden-*[0-9]"):
            if older.name < f"hidden-{block:05}":
                shutil.rmtree(older)

    def hidden(self, block: int, spool: Spool) -> Parts:
        """The activations behind a block."""
        refs = self._open(f"hidden-{block:05}")
        return Parts(spool, (_tensor(refs[name]) for name in sorted(refs)))

    def save_learned(self, steps: int, state: Mapping[str, Tensor]) -> None:
        """What distillation has come to after so many steps; what it was before is not needed any more."""
        planned = [safetensors.Planned(name, value.dtype, tuple(value.shape)) for name, value in state.items()]
        self._save(f"learned-{steps:06}", planned, state.items(), {})
        for older in self.folder.glob("learned-*[0-9]"):
            if older.name < f"learned-{steps:06}":
                shutil.rmtree(older)

    def learned(self) -> tuple[int, dict[str, TensorRef]]:
        """The steps of distillation that are done, and what they came to."""
        last = max((f.name for f in self.folder.glob("learned-*[0-9]")), default="")
        if not last:
            return 0, {}
        return int(last.removeprefix("learned-")), self._open(last)

    def codes(self) -> tuple[dict[str, TensorRef], dict[str, Any]]:
        """The quantized weights and changed norms of all finished blocks, by name with `.weight`, and the notes on them."""
        weights: dict[str, TensorRef] = {}
        notes: dict[str, Any] = {}
        for folder in sorted(self.folder.glob("codes-*[0-9]")):
            refs = self._open(folder.name)
            known = read_json(folder / NOTES)
            weights |= quantized.assemble(refs, {"quantization_config": known["settings"]}, folder / FILE)
            notes |= known["weights"]
        return weights, notes

    @staticmethod
    def discard(folder: Path) -> None:
        """Where there is one, whatever it was for; a stranger's folder stays."""
        if (folder / RECORD).is_file():
            require_idle(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """The record goes last: it says that the folder is ours."""
        for entry in self.folder.glob("*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != self.record:
                entry.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(
        self, name: str, planned: list[safetensors.Planned], parts: Iterable[tuple[str, Tensor]], notes: Mapping[str, Any]
    ) -> None:
        folder, staging = self.folder / name, self.folder / f"{name}.new"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        with safetensors.Writer(staging, planned, shard_bytes=1 << 62) as writer:
            for part, tensor in parts:
                writer.write(part, tensor)
        _write(staging / NOTES, json.dumps(notes).encode())
        _write(staging / DIGEST, sha256(staging / FILE).encode())
        with (staging / FILE).open("rb") as file:
            os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        staging.replace(folder)

    def _open(self, name: str) -> dict[str, TensorRef]:
        folder = self.folder / name
        digest = folder / DIGEST
        if not digest.is_file() or not (folder / FILE).is_file() or sha256(folder / FILE) != digest.read_text():
            raise ModelCorrupt(
                "{folder}: what was kept of the unfinished work is damaged.", hint="Start anew with --force.", folder=folder
            )
        return safetensors.read_file(folder / FILE)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(field for field in {*before, *now} if before.get(field) != now.get(field))


def _tensor(ref: TensorRef) -> Tensor:
    value = ref.read()
    assert isinstance(value, Tensor)
    copy = value.clone()
    ref.release()
    return copy


def _write(file: Path, content: bytes) -> None:
    """Complete or not there at all."""
    staging = file.with_name(f"{file.name}.new")
    with staging.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    staging.replace(file)
