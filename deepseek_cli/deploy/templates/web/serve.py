"""Serve this folder to this machine, on http://localhost:8000 or another port that is given."""

import functools
import http.server
import pathlib
import sys

TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm"}  # which not every system knows


class Isolated(http.server.SimpleHTTPRequestHandler):
    """With the headers that let the page use several threads."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | TYPES

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    handler = functools.partial(Isolated, directory=pathlib.Path(__file__).parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    sys.stdout.write(f"http://localhost:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
