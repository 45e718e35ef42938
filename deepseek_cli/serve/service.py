"""Between the clients' side, which is asynchronous, and the engine's thread: requests become jobs, and their events come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.tokenizer import Tokenizer
from deepseek_cli.serve.engine import Engine
from deepseek_cli.serve.failures import Refused
from deepseek_cli.serve.grammar import Grammars
from deepseek_cli.serve.job import End, Event, Failed, Job, Picker, Writer
from deepseek_cli.serve.metrics import Metrics
from deepseek_cli.serve.slots import Slots
from deepseek_cli.serve.tools import form_of

SECONDS_A_REQUEST = 2.0  # said to whoever finds the queue full, for each request before them in one slot


@dataclass(frozen=True, slots=True)
class Rules:
    """What one request may ask for: tokens where it does not say how many, seconds in all, and how many may wait."""

    new_tokens: int = 512
    seconds: float = 600.0
    queue: int = 256


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of the model behind a prompt, whichever way it was asked."""

    sampling: Sampling
    most: int | None = None
    count: int = 1  # answers
    stop: Sequence[str] = ()
    frequency: float = 0.0
    presence: float = 0.0
    bias: dict[int, float] | None = None
    scores: int | None = None
    schema: Any = None
    shown: frozenset[int] = frozenset()
    endless: bool = False  # until `most`, whatever ends answers otherwise


class Answers:
    """Events of some jobs as they come, each with the job's place. Leaving the loop early gives their slots back."""

    def __init__(self, service: Service, jobs: list[Job]) -> None:
        self.service, self.jobs = service, jobs
        self.queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        for place, job in enumerate(jobs):
            job.sink = partial(self._heard, place)
        for job in jobs:
            service.engine.submit(job)

    def _heard(self, place: int, event: Event) -> None:
        self.queue.put_nowait((place, event))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Raises Refused where the time is over, and what a job failed with."""
        running = len(self.jobs)
        try:
            while running:
                place, event = await self.queue.get()
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, End):
                    running -= 1
                    if event.reason == "timeout":
                        raise Refused(408, "The request took too long.", code="request_timeout")
                yield place, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        for job in self.jobs:
            job.cancelled = True
        self.service.engine.wake.set()


class Service:
    def __init__(self, name: str, tokenizer: Tokenizer, slots: Slots, budget: int, metrics: Metrics, rules: Rules) -> None:
        self.name, self.tokenizer, self.metrics, self.rules = name, tokenizer, metrics, rules
        self.engine = Engine(slots, budget, self._deliver, metrics)
        self.grammars = Grammars(tokenizer, slots.vocabulary)
        self.form = form_of(tokenizer)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ready, self.created = False, int(time.time())

    def start(self) -> None:
        """From the loop that events are to come to."""
        self.loop = asyncio.get_running_loop()
        self.engine.start()
        self.ready = True

    def stop(self) -> None:
        self.ready = False
        self.engine.close()

    def _deliver(self, batch: Sequence[tuple[Job, Event]]) -> None:
        """One crossing for all that a round brought."""
        assert self.loop
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_hand_over, batch)

    def check_model(self, name: str) -> None:
        if name not in ("", self.name):
            raise Refused(404, f"There is no model {name!r} here, but {self.name!r}.", code="model_not_found", param="model")

    async def answer(self, prompt: Sequence[int], wish: Wish, client: str, param: str) -> Answers:
        """Raises Refused where the prompt does not fit, or too many wait."""
        room = self._room(prompt, wish.count, param)
        if max(wish.bias or (0,)) >= self.engine.slots.vocabulary:
            raise Refused(400, "The model has no such token.", param="logit_bias", code="unknown_token")
        most = min(wish.most or self.rules.new_tokens, room)
        jobs = [await self._job(tuple(prompt), most, wish, i, client) for i in range(wish.count)]
        return Answers(self, jobs)

    async def read(self, prompts: Sequence[Sequence[int]], client: str) -> Answers:
        """Of hidden states alone."""
        for prompt in prompts:
            self._room(prompt, len(prompts), "input")
        deadline = time.monotonic() + self.rules.seconds
        return Answers(self, [Job(tuple(p), 0, _nowhere, client=client, deadline=deadline) for p in prompts])

    def _room(self, prompt: Sequence[int], count: int, param: str) -> int:
        """Tokens that may follow."""
        if not prompt:
            raise Refused(400, "The prompt is empty.", param=param, code="empty_prompt")
        if max(prompt) >= self.engine.slots.vocabulary:
            raise Refused(400, "The model has no such token.", param=param, code="unknown_token")
        longest = self.engine.seats.longest
        if len(prompt) >= longest:
            words = f"The prompt has {len(prompt)} tokens, and the context holds {longest} with the answer."
            raise Refused(400, words, param=param, code="context_length_exceeded")
        if self.engine.queued + count > self.rules.queue:
            wait = SECONDS_A_REQUEST * self.engine.queued / self.engine.slots.count
            raise Refused(429, "Too many requests wait.", code="overloaded", retry_after=wait)
        return int(longest) - len(prompt)

    async def _job(self, prompt: tuple[int, ...], most: int, wish: Wish, place: int, client: str) -> Job:
        seed = wish.sampling.seed
        sampling = replace(wish.sampling, seed=None if seed is None else abs(seed) + place)
        grammar = await asyncio.to_thread(self.grammars.follow, wish.schema) if wish.schema is not None else None
        picker = Picker(
            sampling,
            prompt,
            frequency=wish.frequency,
            presence=wish.presence,
            bias=wish.bias,
            grammar=grammar,
            scores=wish.scores,
        )
        writer = Writer(self.tokenizer, wish.stop, wish.shown)
        deadline = time.monotonic() + self.rules.seconds
        eos = frozenset() if wish.endless else self.tokenizer.eos
        return Job(prompt, most, _nowhere, picker, writer, client, eos, deadline)


def _hand_over(batch: Sequence[tuple[Job, Event]]) -> None:
    for job, event in batch:
        job.sink(event)


def _nowhere(event: Event) -> None: ...
