from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.runtime import chat_session
from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome
from tests.runtime.sessions import END, Scripted, plain_tokenizer

Cli = Callable[..., Outcome]
Pipe = Callable[[str], None]
KEYS = {
    "schema",
    "ok",
    "text",
    "thinking",
    "finish",
    "prompt_tokens",
    "new_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "warnings",
}


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """`pipe("text")` is what `echo text | deepseek ...` sends."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_answer_and_nothing_else_is_on_stdout(cli: Cli, stock: Stock) -> None:
    done = cli("run", BUNDLE, "Hello", "--max-tokens", "6")
    assert (done.code, done.out[-1], done.err) == (0, "\n", "")
    assert done.out.strip()
    assert cli("run", BUNDLE, "Hello", "--max-tokens", "6", "-q") == done


def test_a_model_and_its_bundle_say_the_same(cli: Cli, stock: Stock) -> None:
    words = ("Hello there", "--max-tokens", "5", "--threads", "1", "--json")
    model, bundle = (cli("run", name, *words).json for name in (QUANTIZED, BUNDLE))
    assert (model["text"], model["new_tokens"]) == (bundle["text"], 5)


def test_json(cli: Cli, stock: Stock) -> None:
    document = cli("run", BUNDLE, "Hello", "--max-tokens", "4", "--json").json
    assert document.keys() == KEYS
    assert (document["schema"], document["finish"], document["new_tokens"]) == ("deepseek.run/1", "length", 4)
    assert document["prompt_tokens"] == len("User: Hello\n\nAssistant:")


def test_rates_are_told_on_stderr_when_asked_for(cli: Cli, stock: Stock, golden: Callable[[str, str], None]) -> None:
    golden("run-verbose", cli("run", BUNDLE, "Hello", "--max-tokens", "4", "-v").err)


@pytest.mark.parametrize("model", [QUANTIZED, BUNDLE])
def test_sparse_attention_leaves_keys_out(cli: Cli, stock: Stock, model: str) -> None:
    words = ("run", model, "Hello, how are you? " * 7, "--raw", "--max-tokens", "4", "-v")
    done = cli(*words, "--sparse-attention", "tokens=64")
    assert re.search(r"Queries attended to \d+ of \d+ keys", done.err)
    some, every = (int(n) for n in re.findall(r"attended to (\d+) of (\d+)", done.err)[0])
    assert 0 < some < every
    assert cli(*words, "--sparse-attention", "tokens=256").out == cli(*words).out
    assert "attended" not in cli(*words).err


@pytest.mark.parametrize("model", [QUANTIZED, BUNDLE])
def test_guesses_leave_the_text_as_it_is(cli: Cli, stock: Stock, model: str) -> None:
    words = ("run", model, "Hello, how are you? " * 4, "--raw", "--max-tokens", "48", "--json")
    plain, drafted = cli(*words).json, cli(*words, "--draft").json
    assert drafted["text"] == plain["text"]
    assert plain["drafted_tokens"] == 0 <= drafted["accepted_tokens"] <= drafted["drafted_tokens"]


def test_a_prompt_comes_through_a_pipe(cli: Cli, stock: Stock, pipe: Pipe) -> None:
    pipe("Hello\n")
    plain = ("--max-tokens", "4")
    assert cli("run", BUNDLE, *plain) == cli("run", BUNDLE, "Hello", *plain)


def test_an_empty_pipe_is_a_mistake(cli: Cli, stock: Stock, pipe: Pipe) -> None:
    pipe("\n")
    done = cli("run", BUNDLE)
    assert (done.code, done.out) == (2, "")
    assert "standard input is empty" in done.err


@pytest.mark.parametrize("words", [[""], ["", "--raw"]], ids=["chat", "raw"])
def test_an_empty_prompt_is_no_crash(cli: Cli, stock: Stock, words: list[str]) -> None:
    assert cli("run", BUNDLE, *words, "--max-tokens", "2").code == (2 if "--raw" in words else 0)


def test_a_project_needs_only_the_prompt(cli: Cli, stock: Stock) -> None:
    Path("deepseek.toml").write_text(f'model = "{stock.toy}"\n[run]\nmax_tokens = 4\n')
    done = cli("run", "Hello")
    assert (done.code, done.out) == (0, cli("run", BUNDLE, "Hello").out)
    assert f"Using {BUNDLE}, the newest result" in done.err


def test_a_projects_prompt_may_come_through_a_pipe_too(cli: Cli, stock: Stock, pipe: Pipe) -> None:
    Path("deepseek.toml").write_text(f'model = "{stock.toy}"\n[run]\nmax_tokens = 4\n')
    pipe("Hello")
    assert cli("run").out == cli("run", "Hello").out


def test_in_a_project_another_model_may_still_be_named(cli: Cli, stock: Stock, pipe: Pipe) -> None:
    Path("deepseek.toml").write_text(f'model = "{stock.toy}"\n')
    pipe("Hello")
    done = cli("run", QUANTIZED, "--max-tokens", "2")
    assert done.code == 0 and "Using" not in done.err


def test_raw_continues_the_prompt(cli: Cli, stock: Stock) -> None:
    assert cli("run", BUNDLE, "Once", "--raw", "--max-tokens", "3", "--json").json["prompt_tokens"] == len("Once")


def test_a_system_message_is_part_of_the_prompt(cli: Cli, stock: Stock) -> None:
    plain, system = (
        cli("run", BUNDLE, "Hi", "--max-tokens", "1", "--json", *more).json for more in ((), ("--system", "Be brief."))
    )
    assert system["prompt_tokens"] - plain["prompt_tokens"] == len("System: Be brief.\n\n")


def test_stop_strings_end_the_answer(cli: Cli, stock: Stock) -> None:
    whole = cli("run", BUNDLE, "Hello", "--max-tokens", "12", "--json").json["text"]
    stop = next(c for c in whole if whole.index(c) > 0)
    done = cli("run", BUNDLE, "Hello", "--max-tokens", "12", "--stop", "never", "--stop", stop, "--json").json
    assert (done["text"], done["finish"]) == (whole.split(stop)[0], "stop")


def test_a_seed_makes_sampling_repeatable(cli: Cli, stock: Stock) -> None:
    words = ("run", BUNDLE, "Hello", "--max-tokens", "12", "--temperature", "2", "--top-k", "100", "--json", "--seed")
    one, again, other = (cli(*words, seed).json["text"] for seed in (1, 1, 2))
    assert one == again != other


def test_the_context_ends_an_answer(cli: Cli, stock: Stock) -> None:
    done = cli("run", BUNDLE, "Hello", "--context", "24", "--json").json
    assert (done["finish"], done["prompt_tokens"] + done["new_tokens"]) == ("context", 25)


def test_a_conversation_on_a_terminal(cli: Cli, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("Hello\nMore\n\nnever read\n"))
    done = cli("run", BUNDLE, "--max-tokens", "3", "--json")
    assert (done.code, "An empty line ends" in done.err) == (0, True)
    turns = [turn["prompt"] for turn in _document(done)["turns"]]
    assert turns == ["Hello", "More"]


def test_the_end_of_input_ends_a_conversation(cli: Cli, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("Hello\n"))
    done = cli("run", BUNDLE, "--max-tokens", "3")
    assert done.code == 0
    assert done.out.count("> ") == 2


def _document(done: Outcome) -> dict[str, list[dict[str, Any]]]:
    import json

    return dict(json.loads(done.out[done.out.index("{") :]))  # behind the prompts


@pytest.fixture
def thinker(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bundle whose answers begin with thinking."""
    script = [token for text in ("<think>\nHm.\n</think>\n\nParis.", "Yes.") for token in (*plain_tokenizer().encode(text), END)]
    monkeypatch.setattr(chat_session, "open_session", lambda *_, **__: Scripted(script))
    return BUNDLE


def test_thinking_goes_to_stderr_and_the_answer_to_stdout(cli: Cli, thinker: str) -> None:
    assert cli("run", thinker, "Where?") == Outcome(0, "Paris.\n", "Hm.\n\n")


def test_thinking_is_dimmed_where_there_are_colours(cli: Cli, thinker: str) -> None:
    done = cli("run", thinker, "Where?", "--color", "always")
    assert done.out == "Paris.\n"
    assert "".join(re.findall("\x1b\\[2m([^\x1b]*)\x1b\\[0m", done.err)) == "Hm.\n\n"


def test_quiet_gives_the_answer_alone(cli: Cli, thinker: str) -> None:
    assert cli("run", thinker, "Where?", "-q") == Outcome(0, "Paris.\n", "")


def test_json_holds_the_thinking_in_a_field_of_its_own(cli: Cli, thinker: str) -> None:
    done = cli("run", thinker, "Where?", "--json")
    assert (done.json["text"], done.json["thinking"], done.err) == ("Paris.", "Hm.", "")


def test_each_turn_of_a_conversation_has_its_thinking(cli: Cli, thinker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("Where?\nSure?\n"))
    turns = _document(cli("run", thinker, "--json"))["turns"]
    assert [(turn["text"], turn["thinking"]) for turn in turns] == [("Paris.", "Hm."), ("Yes.", None)]


def test_an_answer_that_was_all_thinking_is_a_warning(cli: Cli, thinker: str) -> None:
    done = cli("run", thinker, "Where?", "--max-tokens", "10", "--json")
    assert (done.json["text"], done.json["thinking"], done.json["finish"]) == ("", "Hm", "length")
    assert "ended in the model's thinking, after 10 tokens" in done.json["warnings"][0]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere", "Hello"], 3, "no model nowhere"),
        ([BUNDLE, "Hello", "--context", "257"], 2, "--context 257 is more than"),
        ([BUNDLE, "Hello", "--context", "8"], 2, "do not fit in a context of 8"),
        ([BUNDLE, "Hello", "--temperature", "-1"], 2, "--temperature must lie from 0 to 10"),
        ([BUNDLE, "Hello", "--top-p", "2"], 2, "--top-p must lie"),
        ([BUNDLE, "Hello", "--set", "think=on"], 2, "no switch for thinking"),
        ([BUNDLE, "Hello", "--set", "think=maybe"], 2, "think"),
        ([BUNDLE, "Hello", "--sparse-attention", "heads=0.5"], 2, "Bundles compute every head"),
        ([BUNDLE, "Hello", "--sparse-attention", "tokens=64", "--draft"], 2, "Guesses are checked several at once"),
        ([QUANTIZED, "Hello", "--sparse-attention", "256"], 2, "--sparse-attention cannot be '256'"),
        ([BUNDLE, "Hello", "--max-tokens", "many"], 2, "--max-tokens cannot be 'many'"),
        ([BUNDLE, "Hello", "world"], 2, "takes no argument"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_mistakes(cli: Cli, stock: Stock, words: list[str], code: int, says: str) -> None:
    done = cli("run", *words, "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"]


def test_an_argument_that_is_not_utf8_is_a_prompt_like_any_other(cli: Cli, stock: Stock) -> None:
    assert cli("run", BUNDLE, "caf\udce9", "--max-tokens", "1").code == 0


def test_a_second_run_packs_and_says_so(cli: Cli, stock: Stock) -> None:
    words = ("run", BUNDLE, "Hello", "--max-tokens", "4", "--set", "packed_cache=1GB")
    first, second, third = (cli(*words) for _ in range(3))
    assert first.out == second.out == third.out
    assert ["Packing weights" in run.err for run in (first, second, third)] == [False, True, False]


def test_prompts_may_be_read_in_int8(cli: Cli, stock: Stock) -> None:
    done = cli("run", BUNDLE, "Hello, and welcome to all of you", "--max-tokens", "4", "--fast-prefill")
    assert done.code == 0
    assert list((stock.home / "packed").glob("prefill-*"))


def test_fast_prefill_wants_a_cpu_bundle(cli: Cli, stock: Stock) -> None:
    done = cli("run", str(stock.toy), "Hello", "--fast-prefill")
    assert done.code == 2
    assert "deepseek deploy --target cpu" in done.err
