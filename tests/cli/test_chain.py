"""The whole chain, as a script in continuous integration and as a person in a project folder would run it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys import DEPLOYABLE, make_toy

SCRIPT = Path(__file__).parent / "chain.sh"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH on which `deepseek` is this checkout, and a store of its own."""
    shim = tmp_path / "bin" / "deepseek"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deepseek_cli "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "max_position_embeddings": 1024})
    return {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())}


def test_a_script_chains_every_command(tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["sh", str(SCRIPT), str(tmp_path / "toy")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    root, quantized, compressed, bundle, saved, page = done.stdout.splitlines()
    assert root == str(tmp_path / "toy")
    assert quantized == "toy@int4-g32-balanced"
    assert compressed.startswith("toy@int8-g32-")
    assert bundle == f"{compressed}+cpu"
    assert (tmp_path / saved).is_file()
    assert (tmp_path / page).read_text(encoding="utf-8").startswith("<!doctype html>")


LINES = [
    ("deepseek pull", 0),
    ("deepseek quantize --int4", 0),
    ("deepseek deploy --target metal", 0),
    ("deepseek profile --memory-profile", 0),
]


def test_four_lines_work_as_typed_in_a_project_folder(tmp_path: Path, environment: dict[str, str]) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "deepseek.toml").write_text('model = "../toy"\n')
    said = []
    for line, code in LINES:
        done = subprocess.run(
            line.split(), cwd=project, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == code, f"{line}: {done.stderr}"
        said.append(done.stderr)
    assert "for metal" in said[2]
    assert "Using toy@int4-g32-balanced+metal, the newest result of ../toy" in said[3]
    assert list(project.glob("*-memory.html"))


def test_without_a_model_both_ways_to_name_one_are_said(tmp_path: Path, environment: dict[str, str]) -> None:
    for command in ("pull", "quantize", "deploy", "profile", "run", "show", "verify", "eval"):
        done = subprocess.run(
            ["deepseek", command], cwd=tmp_path, env=environment, capture_output=True, text=True, input="prompt", check=False
        )
        assert done.returncode == 2, done.stderr
        assert "deepseek.toml" in done.stderr
        assert f"deepseek {command} MODEL" in done.stderr
