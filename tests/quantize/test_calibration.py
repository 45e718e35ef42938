"""What calibration looks at: windows over the text, and conversations in the model's own template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepseek_cli.quantize.calibration import BUILTIN, read_calibration
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from tests.toys import byte_tokenizer

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"


def tokenizer(folder: Path, template: str) -> Tokenizer:
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    return open_tokenizer(folder)


@pytest.mark.parametrize(("windows", "spoken"), [(4, [3]), (8, [7]), (20, [3, 11, 19]), (32, [7, 15, 23, 31])])
def test_every_eighth_window_holds_conversations(tmp_path: Path, windows: int, spoken: list[int]) -> None:
    speaks = tokenizer(tmp_path, TEMPLATE)
    found = read_calibration(speaks, "builtin", windows * 512, 4096)
    texts = [speaks.decode(ids.tolist()) for ids in found.windows]
    assert [i for i, text in enumerate(texts) if "</user><assistant>" in text] == spoken
    assert found.conversations == len(spoken)
    assert len({*texts}) == windows


@pytest.mark.parametrize("template", ["", "{{ raise_exception('no') }}"])
def test_a_model_that_does_not_converse_sees_the_text_alone(tmp_path: Path, template: str) -> None:
    found = read_calibration(tokenizer(tmp_path, template), "builtin", 16 * 512, 4096)
    assert found.conversations == 0
    assert found.sha256 != read_calibration(tokenizer(tmp_path, TEMPLATE), "builtin", 16 * 512, 4096).sha256


def test_the_users_own_text_stands_alone(tmp_path: Path) -> None:
    speaks = tokenizer(tmp_path, TEMPLATE)
    found = read_calibration(speaks, str(BUILTIN), 16 * 512, 4096)
    assert (found.conversations, found.name) == (0, "calibration.txt")
    assert not any("<assistant>" in speaks.decode(ids.tolist()) for ids in found.windows)


def test_every_seed_takes_other_stretches_of_the_text(tmp_path: Path) -> None:
    speaks = tokenizer(tmp_path, "")
    taken = [read_calibration(speaks, "builtin", 16 * 512, 4096, seed=seed) for seed in range(4)]
    assert [found.seed for found in taken] == [0, 1, 2, 3]
    assert len({ids.tobytes() for found in taken for ids in found.windows.numpy()}) == 4 * 16 - 3  # all end with the text's end
    again = read_calibration(speaks, "builtin", 16 * 512, 4096, seed=1)
    assert again.windows.equal(taken[1].windows)
