"""Generation: the tokens transformers gives, text that streams, and every way in which it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.runtime.generate import Generation, Timing, generate_text, generate_tokens, longest_overlap
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.runtime.sessions import END, Scripted, plain_tokenizer
from tests.toys import DEPLOYABLE, make_toy

PROMPT = [70, 71, 72, 73, 74]
TOKENIZER = plain_tokenizer()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Any]:
    folder = tmp_path_factory.mktemp("toy")
    oracle = make_toy(folder, "qwen3", 2, **DEPLOYABLE)
    return open_model(str(folder), Store(folder)), oracle


def said(text: str, most: int = 100, stop: tuple[str, ...] = (), context: int = 1000) -> tuple[list[str], Generation]:
    """The pieces in which a session's `text` comes out, and what is recorded of it."""
    made, pieces = Generation(), []
    for piece, generation in generate_text(Scripted(TOKENIZER.encode(text), context), TOKENIZER, PROMPT, most, None, stop):
        pieces.append(piece)
        made = generation
    return pieces, made


# tokens


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_greedy_tokens_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    oracle = make_toy(tmp_path, family, 5, **DEPLOYABLE)
    session = TorchSession(open_model(str(tmp_path), Store(tmp_path)), context=64)
    with torch.inference_mode():
        wanted = oracle.generate(torch.tensor([PROMPT]), max_new_tokens=32, do_sample=False, pad_token_id=0)[
            0, len(PROMPT) :
        ].tolist()
    found = [token for token, _ in generate_tokens(session, PROMPT, 32, Sampling(), frozenset({END}))]
    assert found == [token for token in wanted if token != END]


def test_the_same_seed_says_the_same_and_another_something_else(toy: tuple[ModelHandle, Any]) -> None:
    def drawn(seed: int | None) -> list[int]:
        sampling = Sampling(temperature=1.5, top_k=100, top_p=0.99, seed=seed)
        return [token for token, _ in generate_tokens(TorchSession(toy[0], 64), PROMPT, 24, sampling)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_the_penalty_falls_on_the_prompt_too(toy: tuple[ModelHandle, Any]) -> None:
    plain, penalised = (
        [t for t, _ in generate_tokens(TorchSession(toy[0], 64), PROMPT, 24, Sampling(repetition_penalty=p))] for p in (1.0, 9.9)
    )
    assert plain != penalised
    assert len(set(penalised)) == 24
    assert not set(penalised) & set(PROMPT)


def test_every_token_is_fed_once_and_the_last_one_not_at_all() -> None:
    session = Scripted([10, 11, 12, 13, 14])
    assert [token for token, _ in generate_tokens(session, PROMPT, 3, Sampling())] == [10, 11, 12]
    assert session.fed == [PROMPT, [10], [11]]


# how it ends


@pytest.mark.parametrize(
    ("text", "most", "finish", "new"),
    [
        ("hello", 3, "length", 3),
        ("hello", 5, "length", 5),
        ("hello", 6, "stop", 5),
        ("", 4, "stop", 0),
        ("hello", 0, "length", 0),
    ],
)
def test_it_ends_at_the_most_tokens_or_at_the_end_token(text: str, most: int, finish: str, new: int) -> None:
    pieces, made = said(text, most)
    assert "".join(pieces) == text[:new]
    assert (made.finish, made.timing.new, len(made.tokens), made.timing.prompt) == (finish, new, new, len(PROMPT))


def test_it_ends_where_the_context_does() -> None:
    pieces, made = said("hello there", context=len(PROMPT) + 3)
    assert "".join(pieces) == "hell"  # three are fed, the fourth needs no room
    assert made.finish == "context"


def test_a_prompt_that_fills_the_context_still_gets_one_token() -> None:
    pieces, made = said("hello", context=len(PROMPT))
    assert ("".join(pieces), made.finish) == ("h", "context")


def test_a_prompt_beyond_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="5 tokens do not fit in a context of 4"):
        said("hello", context=4)


# stop strings


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one. two. three.", ("two",), "one. "),
        ("one. two. three.", ("three", "two"), "one. "),
        ("one. two. three.", ("one",), ""),
        ("abcabcabd", ("abd",), "abcabc"),
        ("aaaab", ("aab",), "aa"),
        ("a\nUser: b", ("\nUser:",), "a"),
        ("你好。再见", ("再",), "你好。"),
        ("xab", ("b", "xab"), ""),  # both are complete at once, the earlier beginning counts
    ],
)
def test_a_stop_string_ends_the_text_and_is_not_shown(text: str, stop: tuple[str, ...], wanted: str) -> None:
    pieces, made = said(text, stop=stop)
    assert ("".join(pieces), made.finish) == (wanted, "stop")


def test_what_might_begin_a_stop_string_is_held_back_and_then_shown() -> None:
    pieces, made = said("no STOq, STOP here", stop=("STOP",))
    assert "".join(pieces) == "no STOq, "
    assert not any(piece.endswith(("S", "ST", "STO")) for piece in pieces)
    assert "STOq" in pieces
    assert made.finish == "stop"


def test_what_was_held_back_is_shown_when_nothing_follows() -> None:
    pieces, made = said("wait ST", stop=("STOP",))
    assert "".join(pieces) == "wait ST"
    assert pieces[-1] == "ST"
    assert made.finish == "stop"


@pytest.mark.parametrize(
    ("text", "stop", "length"),
    [("abc", (), 0), ("abc", ("cde",), 1), ("abc", ("bcd", "c!"), 2), ("abc", ("abc",), 0), ("ab", ("abc",), 2), ("", ("a",), 0)],
)
def test_longest_overlap(text: str, stop: tuple[str, ...], length: int) -> None:
    assert longest_overlap(text, stop) == length


# text


def test_a_character_of_several_tokens_comes_whole() -> None:
    pieces, _ = said("a👋b")
    assert pieces == ["a", "", "", "", "👋", "b", ""]


def test_half_a_character_at_the_end_shows_as_such() -> None:
    pieces, made = said("ok👋", most=4)
    assert ("".join(pieces), made.finish) == ("ok\N{REPLACEMENT CHARACTER}", "length")


def test_rates_count_what_they_say() -> None:
    timing = Timing(prompt=100, new=11, prefill_s=0.5, decode_s=2.0)
    assert (timing.prefill_rate, timing.decode_rate) == (200.0, 5.0)
    assert (Timing().prefill_rate, Timing().decode_rate, Timing(new=1, decode_s=1.0).decode_rate) == (0.0, 0.0, 0.0)
