"""What is left of a toy learns from the whole toy; a run that is killed goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from deepseek_cli.compress import recover, teach
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.errors import MemoryShort, UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.student import divergence
from deepseek_cli.reporter import SILENT, Reporter, Silent
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.compress.test_steps import MIXTURE, logits, open_toy
from tests.toys import DEPLOYABLE

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS, TOKENS = 16, 1024
KILLED = f"""
import os, sys
from pathlib import Path
import torch
from deepseek_cli.compress import experts, refit, teach
from deepseek_cli.handle import open_model
from deepseek_cli.quantize import distill
from deepseek_cli.reporter import Silent
from deepseek_cli.store import Store
from tests.compress.test_recover import smaller, values
torch.set_num_threads(1)
experts.TRIED, refit.fit = 2, lambda *_: dict()
teach.MOST_STEPS, teach.TOKENS, distill.SAVE_SECONDS = {STEPS}, {TOKENS}, 0.0
class Killer(Silent):
    def progress(self, step, done, total, unit=""):
        if step == "distill" and done > 5:
            os.kill(os.getpid(), 9)
folder = Path(sys.argv[1])
values(smaller(open_model(sys.argv[2], Store(folder)), sys.argv[3], folder, Killer()))
"""


@dataclass(frozen=True)
class Heard(Silent):
    notes: list[str] = field(default_factory=list)

    def note(self, message: str, **facts: object) -> None:
        self.notes.append(message.format(**facts))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teach, "MOST_STEPS", STEPS)
    monkeypatch.setattr(teach, "TOKENS", TOKENS)


def smaller(handle: ModelHandle, steps: str, folder: Path, reporter: Reporter = SILENT) -> Shape:
    ((_, shape),) = Steps(handle, steps, "builtin", folder, reporter, folder / "work").plans()
    return shape


def values(shape: Shape) -> dict[str, torch.Tensor]:
    return {name: dense(ref.read()) for name, ref in shape.handle.stored.items()}


def mixture(folder: Path) -> ModelHandle:
    return open_toy(folder, "deepseek_v3", **MIXTURE, n_group=2, topk_group=2)


@pytest.mark.parametrize(("amount", "most"), [("1h", 0.95), ("1h+lora4", 0.995), ("1h+hidden1", 0.95)])
def test_half_the_experts_learn_what_all_of_them_predicted(tmp_path: Path, amount: str, most: float) -> None:
    handle = mixture(tmp_path / "toy")
    cut = smaller(handle, "experts=50%", tmp_path / "a")
    learned = smaller(handle, f"experts=50%,recover={amount}", tmp_path / "a")
    wanted = logits(handle, cut.windows)
    before, after = (divergence(wanted, logits(shape.handle, cut.windows)) for shape in (cut, learned))
    assert after < most * before


@pytest.mark.parametrize("amount", ["1h+hidden1", "1h+lora4"])
def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path, amount: str) -> None:
    handle, steps = mixture(tmp_path / "toy"), f"experts=50%,recover={amount}"
    whole = values(smaller(handle, steps, tmp_path / "a"))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "b"), str(tmp_path / "toy"), steps], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [f.name for f in (tmp_path / "b/work").glob("recover-*/learned-*")] == ["learned-000005"]
    heard = Heard()
    resumed = values(smaller(handle, steps, tmp_path / "b", heard))
    assert heard.notes[-1].startswith("Recovery: KL")
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_what_was_learned_with_other_words_is_not_gone_on_with(tmp_path: Path) -> None:
    shape = smaller(mixture(tmp_path / "toy"), "experts=50%", tmp_path)
    context = Context(tmp_path, original=shape.handle)
    amounts = [recover.parse_amount(text) for text in ("1h", "1h+lora4", "1h+hidden1", "2h")]
    folders = {teach._checkpoint(shape, amount, context, "text").folder for amount in amounts}
    folders.add(teach._checkpoint(shape, amounts[0], replace(context, seed=1), "text").folder)
    folders.add(teach._checkpoint(shape, amounts[0], context, "another").folder)
    assert len(folders) == 6


@pytest.mark.parametrize(
    "text",
    ["soon", "0m", "-5m", "5", "m", "1e3s", "20m+lora", "20m+lora0", "20m+lora-4", "20m+hidden", "20m+lora8+lora8", "20m "],
)
def test_an_amount_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="recover="):
        recover.parse_amount(text)


def test_what_an_amount_says() -> None:
    assert recover.parse_amount("20m") == teach.Amount(1200.0, None, recover.HIDDEN)
    assert recover.parse_amount("1.5h+lora16+hidden0.5") == teach.Amount(5400.0, 16, 0.5)


def test_what_does_not_fit_is_refused_and_less_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = mixture(tmp_path / "toy")
    monkeypatch.setattr(teach, "free_bytes", lambda: 100_000)
    with pytest.raises(MemoryShort, match="recover needs") as caught:
        smaller(handle, "recover=1h", tmp_path)
    assert "recover=20m+lora16" in str(caught.value.hint)


def test_adapters_need_less_memory(tmp_path: Path) -> None:
    handle = mixture(tmp_path / "toy")
    names = [name for name in handle.weights if recover.LEARNED.fullmatch(name)]
    whole, adapted = (teach.needed_bytes(handle, names, teach.Amount(60.0, rank, 0.0), handle) for rank in (None, 4))
    assert adapted < whole


def test_blocks_are_matched_with_those_that_they_were(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **{**DEPLOYABLE, "num_hidden_layers": 8})
    shape = Shape(handle, None, torch.zeros(1, 1), decisions=({"step": "depth", "layer": 2}, {"step": "width", "layer": 5}))  # type: ignore[arg-type]
    assert teach.matched(shape, handle) == {1: 1, 2: 3, 4: 5, 5: 6}


def test_the_teacher_says_what_the_whole_model_computes(tmp_path: Path) -> None:
    handle = mixture(tmp_path / "toy")
    windows = torch.randint(0, 200, (3, 32), generator=torch.Generator().manual_seed(0))
    teacher = teach.Teacher(handle, windows, {1: 1}, torch.float32)
    last, within = teacher(torch.tensor([2, 0]))
    head = handle.architecture.head(teach.TorchOps(teacher.weights), handle.config, last)
    torch.testing.assert_close(
        head, torch.stack([logits(handle, windows[2:]), logits(handle, windows[:1])]), atol=1e-5, rtol=1e-4
    )
    assert within[1].shape == last.shape
    again, _ = teach.Teacher(handle, windows, {}, torch.float32)(torch.tensor([0, 1, 2]))
    assert torch.equal(last, again[[2, 0]])


def test_of_more_text_the_teacher_remembers_a_part_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, windows = mixture(tmp_path / "toy"), torch.randint(0, 200, (3, 32), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(teach, "REMEMBERED", 64)
    teacher = teach.Teacher(handle, windows, {0: 1}, torch.float32)
    said = [teacher(torch.tensor(chosen)) for chosen in ([2, 0], [2, 0, 1], [1, 2, 0])]
    assert sorted(teacher.known) == [0, 2]
    for (last, within), order in zip(said[1:], ([0, 1], [1, 2]), strict=True):
        assert torch.equal(last[order], said[0][0]) and torch.equal(within[0][order], said[0][1][0])


def test_it_is_told_now_and_then_how_far_learning_came(tmp_path: Path) -> None:
    heard = Heard()
    tell = teach._told(lambda: 0.5, 2.0, Context(tmp_path, reporter=heard))
    for part in (0.05, 0.12, 0.15, 0.45, 0.9, 1.0):
        tell(part)
    assert heard.notes == [f"Recovery, {part} % of the time: KL divergence 2 → 0.5 on held-out text." for part in (12, 45)]


def test_a_store_is_not_needed_to_learn_nothing(tmp_path: Path) -> None:
    """A plan that is only weighed reads no weight, so nothing learns."""
    heard = Heard()
    smaller(open_model("nano", Store(tmp_path)), "recover=1h", tmp_path, heard)
    assert not heard.notes
    assert not list(tmp_path.glob("**/recover-*"))
