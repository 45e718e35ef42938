"""Checks the files of this bundle against the digests in deepseek.json: python check.py. It needs Python alone."""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
WRONG = []
for entry in json.loads((HERE / "deepseek.json").read_text(encoding="utf-8"))["files"]:
    path, digest = HERE / entry["path"], hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    if digest.hexdigest() != entry["sha256"]:
        WRONG.append(entry["path"])
if WRONG:
    sys.exit(f"not as they were written: {', '.join(WRONG)}")
sys.stdout.write("all files are as they were written\n")
