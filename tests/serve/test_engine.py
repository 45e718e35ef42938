"""The loop: every answer is what it is alone, memory stays within the budget, nobody is forgotten."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from deepseek_cli.handle import Bundle
from deepseek_cli.runtime.generate import generate_tokens
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.serve.engine import BESIDE, Engine
from deepseek_cli.serve.job import End, Event, Failed, Job, Picker, Piece, Writer
from deepseek_cli.serve.metrics import Metrics
from deepseek_cli.serve.seats import rows
from deepseek_cli.serve.slots import Slots
from deepseek_cli.serve.waiting import Waiting

NEW = 12


class Bench:
    """An engine that runs round by round in this thread, and what it delivered."""

    def __init__(self, bundle: Bundle, slots: int = 3, budget: int | None = None, context: int = 128) -> None:
        self.tokenizer = open_tokenizer(bundle.root)
        opened = Slots(bundle.root, bundle.config, slots, context, 1)
        budget = budget or slots * rows(context)
        self.engine = Engine(opened, budget, lambda batch: [job.sink(event) for job, event in batch], Metrics())
        self.order: list[Job] = []

    def job(self, prompt: Sequence[int], sampling: Sampling | None = None, new: int = NEW, client: str = "") -> Job:
        heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        picker, writer = Picker(sampling or Sampling(), prompt, scores=0), Writer(self.tokenizer)
        job = Job(tuple(prompt), new, heard.put, picker, writer, client)
        job.heard = heard  # type: ignore[attr-defined]
        return job

    def run(self, *jobs: Job, each: Callable[[], object] = lambda: None) -> list[list[int]]:
        for job in jobs:
            self.engine.submit(job)
        while self.engine.queued or self.engine.seats.taken:
            self.round()
            each()
        return [tokens(job) for job in jobs]

    def round(self) -> None:
        self.engine.round()
        self.engine._flush()


def events(job: Job) -> list[Event]:
    heard = job.heard  # type: ignore[attr-defined]
    return [heard.get() for _ in range(heard.qsize())]


def tokens(job: Job) -> list[int]:
    found = events(job)
    assert not [event for event in found if isinstance(event, Failed)]
    return [event.scored.token for event in found if isinstance(event, Piece) and event.scored]


def prompts(vocabulary: int, shared: int = 40) -> list[list[int]]:
    """Of many lengths, every other one with the same beginning."""
    draw = np.random.default_rng(5)
    system = draw.integers(3, vocabulary, shared).tolist()
    return [system * (i % 2) + draw.integers(3, vocabulary, n).tolist() for i, n in enumerate([1, 30, 70, 3, 17, 40, 9, 33])]


def samplings(count: int) -> list[Sampling]:
    return [Sampling(temperature=0.9 * (i % 2), top_k=20, seed=i) for i in range(count)]


def test_every_answer_is_that_of_run(toy: Bundle) -> None:
    asked, session = prompts(250), open_session(toy, context=128, threads=1)
    expected = []
    for prompt, sampling in zip(asked, samplings(8), strict=True):
        session.rewind(0)
        expected.append([token for token, _ in generate_tokens(session, prompt, NEW, sampling)])
    bench = Bench(toy)
    assert bench.run(*(bench.job(*pair) for pair in zip(asked, samplings(8), strict=True))) == expected


@pytest.mark.parametrize("cache", ["plain", "gqa"])
def test_answers_of_latents_and_experts_are_those_alone(nano: Callable[[str], Bundle], cache: str) -> None:
    bench, other = Bench(nano(cache)), Bench(nano(cache), slots=1)
    pairs = list(zip(prompts(4000, shared=66), samplings(8), strict=True))[:5]
    together = bench.run(*(bench.job(*pair) for pair in pairs))
    assert together == [other.run(other.job(*pair))[0] for pair in pairs]
    assert bench.engine.slots.batches == (cache == "gqa")


def test_a_shared_beginning_is_computed_once(toy: Bundle) -> None:
    bench = Bench(toy)
    jobs = [bench.job(prompt) for prompt in prompts(250)[1::2]]
    for job in jobs:
        bench.engine.submit(job)
    while bench.engine.queued or bench.engine.seats.taken:
        bench.round()
    reused = [event.reused for job in jobs for event in events(job) if isinstance(event, End)]
    assert sorted(reused) == [0, 40, 40, 40]


def test_the_budget_is_never_exceeded_and_used(toy: Bundle) -> None:
    budget = 2 * rows(60) + rows(0) + 20
    bench, seen = Bench(toy, budget=budget), []
    bench.run(
        *(bench.job(prompt[-40:]) for prompt in prompts(250)),
        each=lambda: seen.append((bench.engine.seats.reserved, len(bench.engine.seats.taken))),
    )
    assert max(reserved for reserved, _ in seen) <= budget
    assert max(taken for _, taken in seen) >= 2


def test_what_is_cut_gives_its_memory_back(toy: Bundle) -> None:
    slots = Slots(toy.root, toy.config, 2, 256, 1)
    slots.extend(0, list(range(3, 103)))
    assert slots.cache[:, :, 0, :, 64:100].any()
    slots.cut(0, 0)
    held = slots.cache[:, :, 0]  # 16 channels: a page of memory holds 64 rows
    assert not held[..., 64:192, :].any()


def test_who_leaves_frees_the_slot_at_the_next_round(toy: Bundle) -> None:
    bench = Bench(toy, slots=1)
    first, second = bench.job([5, 6, 7], new=100), bench.job([8, 9])
    bench.engine.submit(first)
    bench.engine.submit(second)
    bench.round()
    assert [seat.job for seat in bench.engine.seats.taken.values()] == [first]
    first.cancelled = True
    bench.round()
    assert [seat.job for seat in bench.engine.seats.taken.values()] == [second]


def test_a_long_prompt_stops_no_answer(toy: Bundle) -> None:
    """Each round reads one chunk and takes the answer one token further."""
    bench = Bench(toy)
    short, long = bench.job([5, 6, 7], new=30), bench.job([9] * 100)
    bench.engine.submit(short)
    bench.round()
    bench.engine.submit(long)
    before = len(tokens(short))
    reading = 0
    while not events(long):
        bench.round()
        reading += 1
        assert len(tokens(short)) == 1
    assert (before, reading) == (2, -(-100 // BESIDE))


def test_tokens_are_handed_over_before_the_next_step(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, given, runs = Bench(toy), list[Event](), list[int]()
    bench.engine.deliver = lambda batch: given.extend(event for _, event in batch)
    session = bench.engine.slots.session

    class Watched:
        io_binding = session.io_binding

        def run_with_iobinding(self, binding: object) -> None:
            runs.append(len(given))
            session.run_with_iobinding(binding)

    monkeypatch.setattr(bench.engine.slots, "session", Watched())
    monkeypatch.setattr(bench.engine.slots, "wide", bench.engine.slots.session)
    bench.engine.submit(bench.job([5, 6, 7], new=4))
    bench.engine.start()
    while not any(isinstance(event, End) for event in given):
        time.sleep(0.002)
    bench.engine.close()
    assert runs == [0, 1, 2, 3]


def test_clients_take_turns() -> None:
    waiting = Waiting()
    for client in "aaabbc":
        waiting.add(Job((1,), 1, print, client=client))
    assert [waiting.take().client for _ in range(6)] == ["a", "b", "c", "a", "b", "a"]


def test_who_fails_fails_alone(toy: Bundle) -> None:
    bench = Bench(toy)
    good, bad = bench.job([5, 6, 7]), bench.job([5, 6, 8])
    bad.picker.bias = {10**6: 1.0}  # type: ignore[union-attr]
    bench.engine.submit(bad)
    bench.engine.submit(good)
    while bench.engine.queued or bench.engine.seats.taken:
        bench.round()
    assert isinstance(events(bad)[-1], Failed)
    alone = Bench(toy)
    assert tokens(good) == alone.run(alone.job([5, 6, 7]))[0]


def test_gaps_are_closed_without_a_change(toy: Bundle) -> None:
    bench, alone = Bench(toy), Bench(toy, slots=1)
    jobs = [bench.job([20 + i] * 5, new=new) for i, new in enumerate((30, 4, 30))]
    said = bench.run(*jobs, each=lambda: _assert_dense(bench))
    assert said == [alone.run(alone.job([20 + i] * 5, new=new))[0] for i, new in enumerate((30, 4, 30))]


def _assert_dense(bench: Bench) -> None:
    bench.engine.seats.close_gap()
    taken = bench.engine.seats.taken
    assert not taken or max(taken) - min(taken) + 1 == len(taken)
