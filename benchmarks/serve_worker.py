"""A peer under many requests at once, in the language of deepseek_cli/bench/server.py. Runs under $PEERS/xl or $PEERS/ov.

    serve_worker.py llama|openvino

llama.cpp's own server listens on loopback and says where. OpenVINO GenAI has no server: its continuous batching is given all
requests at once, in this process, and nothing of HTTP is in its time.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def llama(settings: dict[str, Any]) -> tuple[dict[str, Any], None]:
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path = settings["ref"]
    options.hostnames, options.port = ["127.0.0.1"], 0
    options.n_parallel = settings["slots"]
    options.n_ctx = settings["slots"] * settings["context"]  # which its slots share
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = settings["threads"]
    options.verbosity, options.ui = 1, False
    server = xllamacpp.Server(options)
    llama.server = server  # type: ignore[attr-defined]  # it stops where nothing holds it
    return {"url": server.listening_address, "version": version("xllamacpp")}, None


def openvino(settings: dict[str, Any]) -> tuple[dict[str, Any], Callable[[list[dict[str, Any]]], dict[str, Any]]]:
    import openvino_genai as og

    scheduler = og.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size = settings["slots"], 1
    scheduler.enable_prefix_caching = True
    own = {"INFERENCE_NUM_THREADS": settings["threads"]}
    pipeline = og.ContinuousBatchingPipeline(settings["ref"], scheduler, "CPU", own)

    def answer(bodies: list[dict[str, Any]]) -> dict[str, Any]:
        """All at once; the gaps are those between steps in which an answer grew."""
        handles = []
        start = time.perf_counter()
        for number, body in enumerate(bodies):
            config = og.GenerationConfig()
            config.max_new_tokens = config.min_new_tokens = body["max_tokens"]
            config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
            handles.append(pipeline.add_request(number, body["prompt"], config))
        came: list[list[float]] = [[] for _ in bodies]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter()
            for handle, moments in zip(handles, came):  # noqa: B905
                if handle.can_read():
                    moments += [now] * sum(len(output.generated_ids) for output in handle.read().values())
        seconds = time.perf_counter() - start
        gaps = [b - a for moments in came for a, b in zip(moments, moments[1:])]  # noqa: B905, RUF007
        return {"seconds": seconds, "gaps": gaps, "new": sum(map(len, came))}

    return {"version": version("openvino-genai")}, answer


def version(distribution: str) -> str:
    return f"{distribution} {importlib.metadata.version(distribution)}"


def main(open_peer: Callable[[dict[str, Any]], tuple[dict[str, Any], Any]]) -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    facts, answer = open_peer(json.loads(sys.stdin.readline()))
    say("ready", **facts)
    for line in sys.stdin:
        request = json.loads(line)
        say(request["do"], **(answer(request["bodies"]) if request["do"] == "answer" else spent()))


def spent() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))
    return {"processor": time.process_time(), "rss": resident}


if __name__ == "__main__":
    main({"llama": llama, "openvino": openvino}[sys.argv[1]])
