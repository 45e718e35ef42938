"""What Prometheus reads of a server, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.queue = Gauge("deepseek_queue_requests", "Requests that wait for a slot", registry=registry)
        self.active = Gauge("deepseek_active_requests", "Requests in a slot", registry=registry)
        self.kv = Gauge("deepseek_kv_reserved_bytes", "KV cache that admitted and kept requests may hold", registry=registry)
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
