"""The real `openai` client against the real server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import jsonschema
import numpy as np
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from deepseek_cli.handle import Bundle
from deepseek_cli.runtime.chat_session import open_chat
from deepseek_cli.runtime.sampling import Sampling
from tests.serve.conftest import Running, running

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}


def test_a_chat_says_what_run_says(server: Running, toy: Bundle) -> None:
    run = open_chat(toy, Sampling(), 12, threads=1)
    text = "".join(run.ask("Hello"))
    done = server.client.chat.completions.create(model=toy.name, messages=HELLO, max_tokens=12, temperature=0)
    choice, used = done.choices[0], done.usage
    assert (choice.message.content, choice.finish_reason) == (text, run.last.finish)
    assert used and (used.prompt_tokens, used.completion_tokens) == (run.last.timing.prompt, 12)


def test_a_stream_says_the_same(server: Running, toy: Bundle) -> None:
    ask = {"model": toy.name, "messages": HELLO, "max_tokens": 12, "seed": 4, "temperature": 0.8}
    whole = server.client.chat.completions.create(**ask)
    chunks = list(server.client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 12
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_many_at_once_hear_what_each_hears_alone(server: Running, toy: Bundle) -> None:
    def ask(i: int) -> str:
        done = server.client.completions.create(
            model=toy.name, prompt="word " * i + "end", max_tokens=10, seed=i, temperature=1, logprobs=0
        )
        return done.choices[0].text

    alone = [ask(i) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_several_answers_differ_by_seed_and_stand_in_order(server: Running, toy: Bundle) -> None:
    ask = {"model": toy.name, "prompt": "abc", "max_tokens": 8, "temperature": 1}
    many = server.client.completions.create(**ask, n=3, seed=7)
    single = [server.client.completions.create(**ask, seed=7 + i).choices[0].text for i in range(3)]
    assert [choice.text for choice in many.choices] == single
    assert len(set(single)) == 3


def test_stop_strings_are_not_shown(server: Running, toy: Bundle) -> None:
    ask = {"model": toy.name, "prompt": "abc", "max_tokens": 20, "temperature": 0}
    text = server.client.completions.create(**ask).choices[0].text
    stop = text[5:7]
    choice = server.client.completions.create(**ask, stop=[stop]).choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")


def test_logprobs_are_those_of_pytorch(server: Running, toy_folder: Path, toy: Bundle) -> None:
    done = server.client.completions.create(model=toy.name, prompt=[70, 71, 72], max_tokens=1, temperature=0, logprobs=5)
    model = AutoModelForCausalLM.from_pretrained(toy_folder).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[70, 71, 72]])).logits[0, -1].log_softmax(-1)
    found = done.choices[0].logprobs
    assert found and found.token_logprobs and found.top_logprobs
    assert found.token_logprobs[0] == pytest.approx(float(expected.max()), abs=1e-4)
    top = {server.service.tokenizer.token(int(i)): float(expected[i]) for i in reversed(expected.topk(5).indices)}
    assert found.top_logprobs[0].keys() == top.keys()
    assert max(found.top_logprobs[0].values()) == pytest.approx(max(top.values()), abs=1e-4)


def test_embeddings_are_those_of_pytorch(server: Running, toy_folder: Path, toy: Bundle) -> None:
    prompts = [[70, 71, 72, 73], list(range(3, 240))]
    done = [server.client.embeddings.create(model=toy.name, input=p).data[0].embedding for p in prompts]
    model = AutoModelForCausalLM.from_pretrained(toy_folder).eval()
    for prompt, found in zip(prompts, done, strict=True):
        with torch.no_grad():
            mean = model.model(torch.tensor([prompt])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(found, mean / mean.norm(), atol=1e-4)


def test_several_embeddings_and_both_forms(server: Running, toy: Bundle) -> None:
    body = {"input": ["one", "two"], "encoding_format": "base64"}
    coded = httpx.post(f"{server.url}/v1/embeddings", json=body).json()["data"]
    plain = httpx.post(f"{server.url}/v1/embeddings", json={"input": ["one", "two"]}).json()["data"]
    assert [np.frombuffer(base64.b64decode(d["embedding"]), "<f4").tolist() for d in coded] == [d["embedding"] for d in plain]


def test_generate(server: Running, toy: Bundle) -> None:
    run = open_chat(toy, Sampling(), 9, raw=True, threads=1)
    found = httpx.post(f"{server.url}/generate", json={"prompt": "Once", "max_length": 9}).json()
    assert found == {"output": "".join(run.ask("Once"))}


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_follows_its_schema(server: Running, toy: Bundle, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    done = server.client.chat.completions.create(
        model=toy.name, messages=HELLO, max_tokens=100, seed=seed, temperature=1.5, response_format=form
    )
    assert done.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(done.choices[0].message.content), SCHEMA)


def test_penalties_and_bias(server: Running, toy: Bundle) -> None:
    ask = {"model": toy.name, "prompt": "abc", "max_tokens": 6, "temperature": 0}
    biased = server.client.completions.create(**ask, logit_bias={"70": 100}).choices[0].text
    assert biased == server.service.tokenizer.decode([70] * 6)
    varied = server.client.completions.create(**ask, logit_bias={"70": 1e1, "71": 1e1}, frequency_penalty=2).choices[0].text
    assert len(set(varied)) > 1


def test_the_end_can_be_ignored(server: Running, toy: Bundle) -> None:
    (end,) = server.service.tokenizer.eos
    ask = {"model": toy.name, "prompt": "abc", "max_tokens": 7, "logit_bias": {str(end): 100}}
    done = server.client.completions.create(**ask)
    assert (done.choices[0].finish_reason, done.usage.completion_tokens) == ("stop", 1)
    done = server.client.completions.create(**ask, extra_body={"ignore_eos": True})
    assert (done.choices[0].finish_reason, done.usage.completion_tokens) == ("length", 7)


def test_thinking_is_told_from_the_answer(nano: Callable[[str], Bundle]) -> None:
    """nano thinks where its template is told so; the reader of a bundle's own text is that of `run`."""
    bundle = nano("gqa")
    question = [{"role": "user", "content": "What is 3 + 4?"}]
    with running(bundle) as server:
        run = open_chat(bundle, Sampling(), 60, threads=1)
        text = "".join(run.ask(question[0]["content"]))
        done = server.client.chat.completions.create(model=bundle.name, messages=question, max_tokens=60, temperature=0)
        message = done.choices[0].message
        assert message.content == text
        assert getattr(message, "reasoning_content", None) == run.splitter.thinking


def test_whoever_hangs_up_frees_the_slot(server: Running, toy: Bundle) -> None:
    ask = {"model": toy.name, "prompt": "abc", "max_tokens": 200, "temperature": 0, "logit_bias": {"2": -100}}
    stream = server.client.completions.create(**ask, stream=True)
    next(iter(stream))
    stream.response.close()
    server.until(lambda: not server.service.engine.seats.taken)
    with pytest.raises(openai.APITimeoutError):
        server.client.with_options(timeout=0.03).completions.create(**{**ask, "n": 4})
    server.until(lambda: not (server.service.engine.seats.taken or server.service.engine.queued))
    server.until(lambda: server.log and server.log[-1]["status"] in (0, 200, 499))


def test_state_and_metrics(server: Running, toy: Bundle) -> None:
    assert [model.id for model in server.client.models.list()] == [toy.name]
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").status_code == 200
    server.client.completions.create(model=toy.name, prompt="abc", max_tokens=4)
    lines = httpx.get(f"{server.url}/metrics").text
    for name in ("queue_requests", "active_requests", "kv_reserved_bytes", "batch_size_count", "first_token_seconds_count",
                 "inter_token_seconds_count", "prompt_tokens_total", "new_tokens_total"):  # fmt: skip
        assert f"\ndeepseek_{name} " in lines


def test_the_page_runs_nothing_but_its_own_script(server: Running) -> None:
    page = httpx.get(server.url)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.text.count("<script>") == page.text.count("<script") == 1
    assert "http://" not in page.text and "https://" not in page.text


def test_the_log_holds_no_text(server: Running, toy: Bundle) -> None:
    secret = "a very private sentence"
    server.client.chat.completions.create(model=toy.name, messages=[{"role": "user", "content": secret}], max_tokens=2)
    server.until(lambda: server.log[-1]["path"] == "/v1/chat/completions")
    assert server.log[-1].keys() >= {"time", "client", "method", "path", "status", "seconds", "prompt_tokens", "new_tokens"}
    assert "private" not in json.dumps(server.log)
