"""What steps leave opens like any model: it deploys, its own runtimes say the same tokens, and ids mean what they meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from deepseek_cli.deploy import outputs
from deepseek_cli.fields import read_json
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.handle import open_any, open_model
from deepseek_cli.main import main
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.compress.texts import short_text
from tests.conftest import Outcome
from tests.deploy.test_deepseek import OWN, TOY
from tests.fp8_toys import add_draft, change
from tests.toys import DEPLOYABLE, byte_tokenizer, make_toy

Cli = Callable[..., Outcome]
TARGETS = ("cpu", "gguf", "metal")
STEPS = {  # and a size that mixed schemes reach, some of 4 bits
    "llama": ("depth=50%,width=30%,heads=50%,vocabulary=20%", "60kB"),
    "deepseek_v3": ("experts=50%,mtp,depth=33%", "190kB"),
}
ROWS = 400  # of embeddings: more than tokens
BEGIN, END, TURN = "<begin>", "<end>", "<turn>"
TEMPLATE = "<begin>{% for m in messages %}{{ m.role }}: {{ m.content }}<turn>{% endfor %}assistant:"
TALK = [{"role": "user", "content": "Which river is it?"}]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By family a toy, and behind "-small" what is left of it."""
    folder = tmp_path_factory.mktemp("everywhere")
    make_toy(folder / "llama", "llama", 1, **DEPLOYABLE | {"vocab_size": ROWS, "tie_word_embeddings": True})
    make_toy(folder / "deepseek_v3", "deepseek_v3", 1, **TOY | OWN["deepseek_v3"] | {"vocab_size": ROWS, "num_hidden_layers": 3})
    add_draft(folder / "deepseek_v3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSEEK_HOME", str(folder / "home"))
        for family, (steps, size) in STEPS.items():
            chat_tokenizer(folder / family)
            small = folder / f"{family}-small"
            line = ["compress", folder / family, "--to-size", size, "--steps", steps, "--calibration", short_text(folder)]
            assert main([str(word) for word in (*line, "-o", small, "-q")]) == 0
            assert {"int4", "int8"} <= {ref.stored[:4] for ref in open_model(str(small), Store(folder)).weights.values()}
    return folder


def chat_tokenizer(folder: Path) -> None:
    """Merges, of which text uses some, and special tokens behind all others, so that their numbers change with any that goes."""
    tokenizer = byte_tokenizer()
    vocabulary = tokenizer.get_vocab()
    letters = [*"etaoinshr", "\u0120"]
    pairs = [(a, b) for a in letters for b in letters]
    vocabulary |= {a + b: len(vocabulary) + i for i, (a, b) in enumerate(pairs)}
    tokenizer.model = models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (BEGIN, END, TURN)])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in (BEGIN, END, TURN)}
    change(folder, bos_token_id=ids[BEGIN], eos_token_id=[ids[END], ids[TURN]], pad_token_id=ids[END])
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": ids[BEGIN], "eos_token_id": [ids[END], ids[TURN]]})
    )
    named = {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}))


def texts(tokenizer: Tokenizer, ids: object) -> list[str | None]:
    return [tokenizer.fast.id_to_token(i) for i in (ids if isinstance(ids, list) else [ids])]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", STEPS)
def test_it_deploys_and_its_runtime_says_the_same_tokens(cli: Cli, folders: Path, family: str, target: str) -> None:
    words = ("deploy", folders / f"{family}-small", "--target", target, "--verify", "tokens", "-o", "bundle", "--json")
    done = cli(*words, "--threads", 1)
    assert done.code == 0, done.out
    assert done.json["verification"]["level"] == "L3"
    before, after = (open_tokenizer(open_any(str(f), Store(folders)).root) for f in (folders / family, Path("bundle")))
    text = before.chat(TALK)
    assert after.chat(TALK) == text
    assert after.decode(after.encode_chat(text), special=True) == text
    assert texts(after, sorted(after.eos)) == texts(before, sorted(before.eos)) == [END, TURN]


def test_numbers_of_tokens_change_together(cli: Cli, folders: Path) -> None:
    small = folders / "llama-small"
    tokenizer = open_tokenizer(small)
    decided = read_json(small / "deepseek.json")["report"]["decisions"]
    dropped = next(d["dropped"] for d in decided if d["step"] == "vocabulary")
    config, generation = read_json(small / "config.json"), read_json(small / "generation_config.json")
    assert dropped >= ROWS // 5 and config["vocab_size"] == ROWS - dropped == tokenizer.vocabulary
    assert texts(tokenizer, config["bos_token_id"]) == [BEGIN] and texts(tokenizer, config["pad_token_id"]) == [END]
    assert texts(tokenizer, config["eos_token_id"]) == texts(tokenizer, generation["eos_token_id"]) == [END, TURN]

    theirs, ids = AutoTokenizer.from_pretrained(small), tokenizer.encode_chat(tokenizer.chat(TALK))
    assert theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False) == ids
    assert (
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(small)).generation_config.eos_token_id
        == config["eos_token_id"]
    )

    assert cli("deploy", small, "--target", "gguf", "-o", "gguf", "-q").code == 0
    metadata = read_gguf(Path("gguf/model.gguf")).metadata
    names = metadata["tokenizer.ggml.tokens"]
    assert (
        names[metadata["tokenizer.ggml.eos_token_id"]] in (END, TURN) and names[metadata["tokenizer.ggml.bos_token_id"]] == BEGIN
    )
    assert names == [tokenizer.fast.id_to_token(i) for i in range(tokenizer.vocabulary)]


def test_a_token_that_is_left_has_the_row_that_it_had(folders: Path) -> None:
    before, after = (open_model(str(folders / name), Store(folders)) for name in ("llama", "llama-small"))
    old, new = (open_tokenizer(model.root) for model in (before, after))
    rows = [dense(model.weights["model.embed_tokens.weight"].read()).float() for model in (before, after)]
    for token, i in new.fast.get_vocab(with_added_tokens=True).items():
        was = rows[0][old.fast.token_to_id(token)]
        assert (rows[1][i] - was).norm() < 0.2 * was.norm(), token
