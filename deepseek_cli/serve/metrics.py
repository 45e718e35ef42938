"""What Prometheus reads of a server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.queue = Gauge("deepseek_queue_requests", "Requests that wait for a slot", registry=registry)
        self.active = Gauge("deepseek_active_requests", "Requests in a slot", registry=registry)
        self.kv = Gauge("deepseek_kv_reserved_bytes", "KV cache that admitted and kept requests may hold", registry=registry)
        self.peak = Gauge("deepseek_kv_peak_bytes", "The most of it so far", registry=registry)
        self.budget = Gauge("deepseek_kv_budget_bytes", "The most of it that there may be", registry=registry)
        self.most = 0
        self.batch = Histogram("deepseek_batch_size", "Answers in one step", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry)
        self.steps = Histogram("deepseek_step_seconds", "One step of all answers", buckets=SECONDS, registry=registry)
        self.queued = Histogram("deepseek_queue_seconds", "Time before a slot was free", buckets=SECONDS, registry=registry)
        self.first = Histogram("deepseek_first_token_seconds", "Time to the first token", buckets=SECONDS, registry=registry)
        self.between = Histogram("deepseek_inter_token_seconds", "Time between tokens", buckets=SECONDS, registry=registry)
        self.prompt = Counter("deepseek_prompt_tokens", "Tokens of prompts that were computed", registry=registry)
        self.new = Counter("deepseek_new_tokens", "Tokens of answers", registry=registry)
        self.requests = Counter("deepseek_requests", "Requests by path and status", ["path", "status"], registry=registry)

    def sizes(self, queued: int, active: int, kv_bytes: int) -> None:
        self.queue.set(queued)
        self.active.set(active)
        self.kv.set(kv_bytes)
        if kv_bytes > self.most:
            self.most = kv_bytes
            self.peak.set(kv_bytes)

    def waited(self, seconds: float) -> None:
        self.queued.observe(seconds)

    def read(self, tokens: int) -> None:
        self.prompt.inc(tokens)

    def stepped(self, answers: int, seconds: float) -> None:
        self.batch.observe(answers)
        self.steps.observe(seconds)

    def token(self, seconds: float, *, first: bool) -> None:
        (self.first if first else self.between).observe(seconds)
        self.new.inc()

    def answered(self, path: str, status: int) -> None:
        self.requests.labels(path, str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def totals(self) -> dict[str, int]:
        """What was done, for the end."""
        read = self.registry.get_sample_value
        totals = {"prompt_tokens": read("deepseek_prompt_tokens_total"), "new_tokens": read("deepseek_new_tokens_total")}
        requests = sum(s.value for m in self.requests.collect() for s in m.samples if s.name.endswith("_total"))
        return {"requests": int(requests), **{name: int(value or 0) for name, value in totals.items()}}


def merged(front: Metrics, replicas: Iterable[tuple[str, Iterable[Metric]]]) -> bytes:
    """What Prometheus reads of several engines behind one gate: requests of the gate's, all else by replica."""
    found = {family.name: family for family in front.requests.collect()}
    for name, families in replicas:
        for family in families:
            if family.samples:
                kept = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                kept.samples += [sample._replace(labels={**sample.labels, "replica": name}) for sample in family.samples]
    return generate_latest(_Collected(tuple(found.values())))


@dataclass(frozen=True, slots=True)
class _Collected:
    """As a registry is read."""

    families: tuple[Any, ...]

    def collect(self) -> Iterator[Any]:
        return iter(self.families)
