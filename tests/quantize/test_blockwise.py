from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepseek_cli.errors import DiskFull, ModelCorrupt, ResourceError, UsageError
from deepseek_cli.evaluate import cut_windows, evaluate_handle
from deepseek_cli.handle import open_model
from deepseek_cli.quantize.algorithms import ALGORITHMS
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Silent
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from tests.fp8_toys import DEEPSEEK, add_draft
from tests.quantize.killed import killed
from tests.toys import DEPLOYABLE, make_toy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "num_hidden_layers": 3})
    return tmp_path / "toy"


def run(model: Path, out: Path, **options: Any) -> Quantized:
    store = Store(model.parent)
    spec = QuantizeSpec(**{"tokens": 4096, "report": False, **options})
    return quantize(open_model(str(model), store), spec, store, out)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_same_twice_is_the_same_to_the_bit(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "a")
    run(llama, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b", "toy"]


def test_a_killed_run_goes_on_where_it_was_with_the_same_bits(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "whole")
    for blocks in (1, 2):  # killed after so many more of the three
        killed(llama, tmp_path / "q", blocks, tokens=4096)
        assert not (tmp_path / "q").exists()
    kept = sorted(f.name for f in (tmp_path / "q.work").iterdir() if f.name.startswith("codes"))
    assert kept == ["codes-00000", "codes-00001", "codes-00002"]
    run(llama, tmp_path / "q")
    assert digest(tmp_path / "q") == digest(tmp_path / "whole")
    assert not (tmp_path / "q.work").exists()


@pytest.fixture
def unfinished(llama: Path, tmp_path: Path) -> Path:
    killed(llama, tmp_path / "q", 2, tokens=4096)
    return tmp_path / "q.work"


@pytest.mark.parametrize("name", ["hidden-00001", "codes-00000"])
def test_damaged_work_is_not_gone_on_with(llama: Path, tmp_path: Path, unfinished: Path, name: str) -> None:
    file = unfinished / name / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=f"{name}: what was kept of the unfinished work is damaged"):
        run(llama, tmp_path / "q")
    assert quantize_anew(llama, tmp_path / "q").manifest


def test_other_options_do_not_go_on_with_it(llama: Path, tmp_path: Path, unfinished: Path) -> None:
    with pytest.raises(UsageError, match=r"differs in scheme\.") as caught:
        run(llama, tmp_path / "q", group="64")
    assert "--force" in str(caught.value)
    assert unfinished.is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_not_ours_is_never_touched(llama: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "q.work").mkdir()
    (tmp_path / "q.work" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"q\.work is where unfinished work would be kept, and it holds something else"):
        quantize_anew(llama, tmp_path / "q") if force else run(llama, tmp_path / "q")
    assert (tmp_path / "q.work" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("force", [False, True])
def test_two_processes_do_not_share_it(llama: Path, tmp_path: Path, unfinished: Path, force: bool) -> None:
    (unfinished / "pid").write_text(str(os.getppid()))
    with pytest.raises(UsageError, match=rf"Process {os.getppid()} is at work on .*q\.work"):
        quantize_anew(llama, tmp_path / "q") if force else run(llama, tmp_path / "q")


def test_a_full_disk_is_said_and_what_is_done_stays(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Checkpoint, block: int, parts: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Checkpoint, "save_hidden", full)
    with pytest.raises(DiskFull, match=r"The disk of .*q\.work is full"):
        run(llama, tmp_path / "q")
    monkeypatch.undo()
    assert run(llama, tmp_path / "q").manifest


def test_a_place_that_cannot_be_written_is_named(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"q\.work cannot be written: Not a directory"):
        run(llama, tmp_path / "file" / "q")


def quantize_anew(model: Path, out: Path) -> Quantized:
    store = Store(model.parent)
    return quantize(open_model(str(model), store), QuantizeSpec(tokens=4096, report=False), store, out, force=True)


def test_activations_on_disk_change_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(llama, tmp_path / "a")
    monkeypatch.setattr("deepseek_cli.quantize.blockwise.SHARE", 0.0)
    run(llama, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "deepseek_v32"])
def test_every_block_weight_is_calibrated_or_listed(tmp_path: Path, family: str) -> None:
    extra = {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 64} if family == "deepseek_v32" else {}
    make_toy(tmp_path / "toy", family, **{**DEEPSEEK, **extra})
    if family == "deepseek_v3":
        add_draft(tmp_path / "toy")
    done = run(tmp_path / "toy", tmp_path / "q", rule=("*.kv_b_proj=int4", "*.layers.1.self_attn.*=int4"))
    body = {i.name for i in done.plan.items if i.scheme.bits <= 8 and ".layers." in i.name}
    assert done.notes.keys() == body
    rounded = {note["algorithm"] for note in done.notes.values()}
    assert rounded <= {"imatrix", "gptaq"}
    assert "gptaq" in rounded
    assert all(note["gain"] <= 1 for note in done.notes.values())
    experts = [note["tokens"] for name, note in done.notes.items() if ".experts.0.down_proj" in name]
    assert experts and all(tokens < 4096 for tokens in experts)  # those that were routed to it


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str, **facts: object) -> None:
        self.notes.append(message.format(**facts))


def test_calibration_lowers_the_divergence_of_a_real_model(tmp_path: Path) -> None:
    """deepseek-nano: latent attention, experts, FP8, trained weights."""
    store = Store(tmp_path)
    nano = open_model("nano", store)
    windows = cut_windows(open_tokenizer(nano.root), most=4)
    divergence = {}
    for name, options in (("rtn", {"algorithm": "rtn"}), ("fast", {"level": "fast"}), ("gptaq", {"tokens": 8192})):
        quantize(nano, QuantizeSpec(report=False, **options), store, tmp_path / name)  # type: ignore[arg-type]
        divergence[name] = evaluate_handle(nano, open_model(str(tmp_path / name), store), windows)["kl"]
    assert divergence["fast"] < 0.95 * divergence["rtn"]  # type: ignore[operator]
    assert divergence["gptaq"] < 0.6 * divergence["rtn"]  # type: ignore[operator]


def test_eight_bits_are_rounded_as_fast_does_at_every_level(llama: Path, tmp_path: Path) -> None:
    store, said = Store(tmp_path), Said()
    spec = QuantizeSpec(int8=True, level="best", report=False)
    done = quantize(open_model(str(llama), store), spec, store, tmp_path / "q", reporter=said)
    assert any(note.startswith("imatrix on 2048 tokens") for note in said.notes)
    assert {note["algorithm"] for note in done.notes.values()} == {"imatrix"}


def test_eight_bits_are_the_same_beside_fewer(llama: Path, tmp_path: Path) -> None:
    """Only the last weight that text passes has fewer, so that the others meet the same."""
    last = "model.layers.2.mlp.down_proj"
    for name, rule in (("all", ()), ("mixed", (f"{last}=int4-g32",))):
        run(llama, tmp_path / name, level="fast", scheme="int8-g32", rule=rule, tokens=None)
    alone, beside = (load_file(tmp_path / name / "model.safetensors") for name in ("all", "mixed"))
    blocks = [name for name in alone if ".layers." in name and not name.startswith(last)]
    assert any(name.endswith("weight_packed") for name in blocks)
    assert all(torch.equal(alone[name], beside[name]) for name in blocks)


def test_what_looks_at_no_text_takes_no_tokens(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tokens is for algorithms that look at text"):
        run(llama, tmp_path / "q", algorithm="search")


def test_what_will_be_looked_at_is_said_first(llama: Path, tmp_path: Path) -> None:
    store, said = Store(tmp_path), Said()
    spec = QuantizeSpec(tokens=4096, report=False)
    done = quantize(open_model(str(llama), store), spec, store, tmp_path / "q", dry_run=True, reporter=said)
    assert not done.manifest
    assert any(note.startswith("gptaq on 4096 tokens of calibration.txt: about ") for note in said.notes)


def test_long_work_is_agreed_to(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek_cli.quantize.engine.LONG_SECONDS", 0)
    with pytest.raises(UsageError, match="would take about"):
        run(llama, tmp_path / "q")
    store = Store(tmp_path)
    spec = QuantizeSpec(tokens=4096, report=False)
    assert quantize(open_model(str(llama), store), spec, store, tmp_path / "q", agreed=True).manifest


def test_a_nan_in_a_block_names_its_tensor_and_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(llama / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds a NaN"):
        run(llama, tmp_path / "q")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["toy"]


def test_weights_of_zeros_stay_zeros(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(llama / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name].zero_()
    save_file(tensors, llama / "model.safetensors")
    run(llama, tmp_path / "q")
    weight = open_model(str(tmp_path / "q"), Store(tmp_path)).tensors[name].read()
    assert not isinstance(weight, torch.Tensor)
    assert not weight.dequantize().any()


def test_the_record_says_what_was_looked_at(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "q")
    step = json.loads((tmp_path / "q" / "deepseek.json").read_text())["steps"][-1]["resolved"]
    assert (step["level"], step["algorithm"], step["calibration"], step["tokens"]) == (
        "balanced",
        "gptaq",
        "calibration.txt",
        4096,
    )
    assert len(step["calibration_sha256"]) == 64


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "cannot be read"),
        (b"", {}, "is empty"),
        (b" \n\t", {}, "is empty"),
        (b"\x00\xff\xfe" * 999, {}, "is not UTF-8 text"),
        (b"Too short.", {}, "gives 0 windows of 256 tokens, and calibration needs 4"),
        (b"Plain English prose. " * 9999, {"language": "zh"}, "is not in the language zh"),
        ("桃花潭水深千尺，不及汪伦送我情。".encode() * 9999, {"language": "en"}, "is not in the language en"),
    ],
)
def test_a_text_that_does_not_serve(
    llama: Path, tmp_path: Path, content: bytes | None, options: dict[str, Any], message: str
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        run(llama, tmp_path / "q", calibration=str(text), **options)
    assert "text.txt" in str(caught.value)
    assert not (tmp_path / "q.work").exists()


def test_an_unknown_algorithm_lists_those_there_are(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no algorithm named 'magic'") as caught:
        run(llama, tmp_path / "q", algorithm="magic")
    assert all(name in str(caught.value) for name in ALGORITHMS)


def gives_up(weight: torch.Tensor, scheme: object, statistics: object) -> None:
    raise ValueError("no factor")


def test_where_an_algorithm_gives_up_the_plain_one_stands(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek_cli.quantize.gptq.quantize", gives_up)
    done = run(llama, tmp_path / "q")
    assert {note["algorithm"] for note in done.notes.values()} == {"imatrix"}


def test_inputs_that_are_not_finite_are_named(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(llama / "model.safetensors")
    tensors["model.layers.1.input_layernorm.weight"][:] = float("inf")
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=r"inputs of tensor model\.layers\.1\.self_attn\.q_proj\.weight are not finite"):
        run(llama, tmp_path / "q")
