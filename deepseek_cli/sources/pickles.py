"""Repositories that hold their weights as pickles only: fetched beside the result, converted by a confined process, and dropped.

What is entered is a folder of its own with safetensors. Its manifest's step says which pickles they were made of.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_cli import errors
from deepseek_cli.errors import DeepseekError, MemoryShort, ModelError
from deepseek_cli.handle import open_model
from deepseek_cli.manifest import Manifest, list_files, read_manifest, step, write_manifest
from deepseek_cli.reporter import Reporter
from deepseek_cli.sources import fetch
from deepseek_cli.sources.enter import Errand, Pulled, copy_files
from deepseek_cli.sources.fetch import Records
from deepseek_cli.sources.listing import Listing
from deepseek_cli.sources.lock import choosing
from deepseek_cli.store import require_new, require_space, staged

ENDING = ".bin"
# `-P` and these lines instead of `-m`: the folder the user stands in must not lend the child its modules.
BOOT = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from deepseek_cli.formats.pickles import main
main(request)
"""


def only_pickles(listing: Listing) -> bool:
    return not any(file.path.endswith(".safetensors") for file in listing.files)


def were_converted(manifest: Manifest) -> bool:
    return bool(manifest.steps) and manifest.steps[0]["command"] == "pull"


def bring(errand: Errand, name: str, source: dict[str, Any], listing: Listing) -> tuple[Pulled, Records]:
    """Raises what `fetch` and `convert` raise; DiskFull unless there is room for the pickles and what is made of them."""
    final = errand.output or errand.store.models / name
    known = read_manifest(final) if not errand.output else None
    force = errand.force or (known is not None and known.source.get("ref") == source["ref"])  # an older commit of the same model
    require_new(final, force)
    require_space(final, 2 * sum(file.size for file in listing.files))
    with fetch.folder_beside(final, listing) as place:
        records = fetch.fetch(listing, errand.spec, place, errand.reporter)
        done = step("pull", choosing(errand.spec), {"files": list(records), "converted": "pickle to safetensors"})
        try:
            with staged(final, force) as folder:
                _fill(folder, place.folder, [str(record["path"]) for record in records], errand.reporter)
                open_model(str(folder), errand.store)  # refuses what is damaged before it has a name
                write_manifest(folder, Manifest(name, source=source, steps=(done,), files=list_files(folder)))
        except ModelError:
            shutil.rmtree(place.folder.parent)  # nobody will go on with it
            raise
    return Pulled(name, final, open_model(str(final), errand.store), {}), records


def _fill(folder: Path, fetched: Path, paths: Sequence[str], reporter: Reporter) -> None:
    pickled = [fetched / path for path in paths if path.endswith(ENDING)]
    reporter.note(
        "Converting {count} pickles to safetensors, in a process that opens them without running any code of theirs.",
        count=len(pickled),
    )
    convert(pickled, folder, reporter)
    copy_files(fetched, folder, [Path(path) for path in paths if not path.startswith("pytorch_model")])


def convert(files: Sequence[Path], folder: Path, reporter: Reporter) -> None:
    """Write what `files` hold into `folder`.

    Raises what `formats.pickles.convert` raises, MemoryShort for a process that is killed.
    """
    request = {"path": sys.path, "files": [str(file.resolve()) for file in files], "folder": str(folder.resolve())}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([sys.executable, "-P", "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        said: dict[str, Any] = {}
        try:
            assert child.stdin and child.stdout
            with child.stdin as stdin:
                stdin.write(json.dumps(request).encode())
            with child.stdout as stdout:
                for line in stdout:
                    said = json.loads(line) if line.endswith(b"\n") else said
                    if "step" in said:
                        done, total = said["step"]
                        reporter.progress("convert", done, total, "B")
            child.wait()
        finally:
            child.kill()
            child.wait()
        if "error" in said:
            kind, message, hint, facts = said["error"]
            raise getattr(errors, kind)(message, hint=hint, **facts)
        if child.returncode:
            log.seek(0)
            raise _died(child.returncode, log.read().decode(errors="replace"))


def _died(code: int, log: str) -> DeepseekError:
    if code < 0:
        return MemoryShort(
            "The process that converts pickles was killed (signal {signal}).",
            hint="Most often that means that memory ran out.",
            signal=-code,
        )
    reason = (log.strip().splitlines() or ["it left no message"])[-1]
    return DeepseekError("The process that converts pickles failed: {reason}", hint="Please report this.", reason=reason)
