"""Answers /v1/completions from the model in this folder, one request at a time: python serve.py --port 8000"""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import onnxruntime_genai as og

HERE = Path(__file__).parent
NAME = json.loads((HERE / "deepseek.json").read_text(encoding="utf-8"))["name"]
CONFIG = json.loads((HERE / "genai_config.json").read_text(encoding="utf-8"))["model"]
LONGEST_BODY = 1 << 22  # bytes
BUSY = threading.Lock()


def load() -> og.Model:
    """The model, on the providers that genai_config.json names."""
    if any("NvTensorRtRtx" in provider for provider in CONFIG["decoder"]["session_options"].get("provider_options", [])):
        import onnxruntime_ep_nv_tensorrt_rtx as provider  # type: ignore[import-not-found]

        og.register_execution_provider_library("NvTensorRTRTXExecutionProvider", provider.get_library_path())
    return og.Model(str(HERE))


def complete(model: og.Model, tokenizer: og.Tokenizer, prompt: str, most: int) -> dict[str, object]:
    """What OpenAI's protocol calls a text completion of at most so many tokens. Raises ValueError for what does not fit."""
    tokens = tokenizer.encode(prompt)
    if most < 1 or not 0 < len(tokens) < CONFIG["context_length"]:
        raise ValueError
    options = og.GeneratorParams(model)
    options.set_search_options(max_length=min(len(tokens) + most, CONFIG["context_length"]), do_sample=False)
    generator, new = og.Generator(model, options), []
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
        new.append(generator.get_next_tokens()[0])
    end = "stop" if new[-1] in tokenizer.eos_token_ids else "length"
    choice = {"index": 0, "text": tokenizer.decode(new), "finish_reason": end}
    usage = {"prompt_tokens": len(tokens), "completion_tokens": len(new), "total_tokens": len(tokens) + len(new)}
    return {"object": "text_completion", "model": NAME, "choices": [choice], "usage": usage}


class Server(ThreadingHTTPServer):
    model: og.Model
    tokenizer: og.Tokenizer


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer(200, {"status": "ok"})
        return self.answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/v1/completions":
            return self.answer(404, {"error": "not found"})
        if length > LONGEST_BODY:
            return self.answer(413, {"error": "too long"})
        try:
            body = json.loads(self.rfile.read(length))
            with BUSY:
                found = complete(self.server.model, self.server.tokenizer, str(body["prompt"]), int(body.get("max_tokens", 16)))
        except (ValueError, TypeError, KeyError):
            return self.answer(400, {"error": "wanted is JSON with a prompt that fits the context, and max_tokens from 1"})
        return self.answer(200, found)

    def answer(self, status: int, value: dict[str, object]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args()
    server = Server((chosen.host, chosen.port), Handler)
    server.model = load()
    server.tokenizer = og.Tokenizer(server.model)
    sys.stdout.write(f"{NAME} at http://{chosen.host}:{server.server_port}/v1\n")
    sys.stdout.flush()
    server.serve_forever()
