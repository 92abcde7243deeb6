"""A stand-in for an engine's OpenAI-compatible server, with failures to order. For tests; it computes nothing.

python -P -m serving_checks.fake_server --port 8000 --mode ok
"""

import argparse
import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = ("ok", "die", "hang", "die-half-way", "errors", "empty", "grandchild")

_RANK = {
    "pid": os.getpid(),
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 1,
    "tensor_bytes": {"weight": 900, "norm": 100},
    "kernels": {"nothing": 1},
    "dtype": "float32",
    "eager": True,
    "prefix_caching": True,
    "max_num_seqs": 32,
}


class _Handler(BaseHTTPRequestHandler):
    mode = "ok"
    delay_seconds = 0.0
    die_after = 3
    answered = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send("", 503 if self.mode == "hang" else 200)
        elif self.path == "/v1/models":
            self._send({"object": "list", "data": [{"id": "model", "object": "model"}]})
        elif self.path == "/metrics":
            self._send(
                'vllm:cache_config_info{kv_cache_memory_bytes="1048576",kv_cache_size_tokens="4096",'
                'kv_cache_max_concurrency="2.0"} 1.0\n'
            )
        else:
            self._send({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        _Handler.answered += 1
        if self.mode == "die-half-way" and _Handler.answered > self.die_after:
            os._exit(9)
        if self.path == "/collective_rpc":
            self._send({"results": [_RANK | {"rank": rank} for rank in (0, 1)]})
        elif self.path != "/v1/completions":
            self._send({"error": "not found"}, 404)
        elif self.mode == "errors":
            self._send({"error": "ordered to fail"}, 500)
        else:
            time.sleep(self.delay_seconds)
            self._complete(body)

    def _complete(self, body: dict[str, Any]) -> None:
        words = [] if self.mode == "empty" else [f" w{place}" for place in range(body.get("max_tokens", 16))]
        if not body.get("stream"):
            self._send({"choices": [self._choice(body, words)], "usage": self._usage(body, words)})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in words:
            self._event({"choices": [{"index": 0, "text": word, "finish_reason": None}]})
        self._event({"choices": [], "usage": self._usage(body, words)})
        self.wfile.write(b"data: [DONE]\n\n")

    @staticmethod
    def _choice(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
        tokens = [*(str(body["prompt"]).split() if body.get("echo") else []), *words]
        values = [-1.0] * len(tokens)
        logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": [{token: -1.0} for token in tokens]}
        return {
            "index": 0,
            "text": "".join(tokens),
            "finish_reason": "length",
            "logprobs": logprobs if "logprobs" in body else None,
        }

    @staticmethod
    def _usage(body: dict[str, Any], words: list[str]) -> dict[str, int]:
        prompt = len(str(body.get("prompt", "")).split())
        return {"prompt_tokens": prompt, "completion_tokens": len(words), "total_tokens": prompt + len(words)}

    def _event(self, body: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()

    def _send(self, body: Any, status: int = 200) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing per request."""


def main(arguments: list[str]) -> int:
    """Serve until killed; the exit code of the mode `die`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mode", choices=MODES, default="ok")
    parser.add_argument("--delay-seconds", type=float, default=0.0)
    parser.add_argument("--die-after", type=int, default=3, help="requests that are answered before `die-half-way`")
    options = parser.parse_args(arguments)
    if options.mode == "die":
        print(
            "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ValueError: ordered to die, out of memory", flush=True
        )
        return 1
    if options.mode == "grandchild":
        subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607
    _Handler.mode, _Handler.delay_seconds = options.mode, options.delay_seconds
    _Handler.die_after = options.die_after
    print(f"fake server, mode {options.mode}, port {options.port}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", options.port), _Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
