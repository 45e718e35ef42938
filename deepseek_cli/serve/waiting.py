"""Who is next: clients in turn, each client's requests in their order."""

from __future__ import annotations

from collections import deque

from deepseek_cli.serve.job import Job


class Waiting:
    def __init__(self) -> None:
        self.clients: dict[str, deque[Job]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return sum(map(len, self.clients.values()))

    def add(self, job: Job) -> None:
        self.clients.setdefault(job.client, deque()).append(job)

    def first(self) -> Job | None:
        return next((jobs[0] for jobs in self.clients.values()), None)

    def take(self) -> Job:
        """The first; its client goes to the end of the turns."""
        client = next(iter(self.clients))
        jobs = self.clients.pop(client)
        job = jobs.popleft()
        if jobs:
            self.clients[client] = jobs
        return job

    def drop(self, over: set[Job]) -> None:
        for client, jobs in list(self.clients.items()):
            self.clients[client] = deque(job for job in jobs if job not in over)
            if not self.clients[client]:
                del self.clients[client]

    def all(self) -> list[Job]:
        return [job for jobs in self.clients.values() for job in jobs]
