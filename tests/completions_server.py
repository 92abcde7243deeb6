"""A completions server whose model is a formula: log-probabilities that a test can compute by itself."""

import json
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VOCABULARY = 64


class FormulaModel:
    """Speaks vLLM's dialect of /v1/completions for single prompts of token ids.

    Args:
        fail_after: Requests that are answered before all others get status 500.
        delay_seconds: How long each answer takes.
    """

    def __init__(self, fail_after: int | None = None, delay_seconds: float = 0.0) -> None:
        self.fail_after, self.delay_seconds = fail_after, delay_seconds
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()

    def log_probability(self, prefix: Sequence[int], token: int) -> float:
        """Of `token` after `prefix`, in nats: from -0.01 down to -10 in steps of a hundredth."""
        return -(1 + zlib.crc32(str((list(prefix), token)).encode()) % 1000) / 100

    def likeliest(self, prefix: Sequence[int]) -> int:
        """As argmax has it: of several, the one with the lowest id."""
        return self.most_likely(prefix, 1)[0]

    def most_likely(self, prefix: Sequence[int], count: int) -> list[int]:
        return sorted(range(VOCABULARY), key=lambda token: -self.log_probability(prefix, token))[:count]

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """What an evaluation has to find."""
        whole = [*context, *continuation]
        places = range(len(context), len(whole))
        values = [self.log_probability(whole[:place], whole[place]) for place in places]
        return sum(values), all(whole[place] == self.likeliest(whole[:place]) for place in places)

    def text(self, prompt: Sequence[int]) -> str:
        return f" text {len(prompt)}"

    def metrics(self) -> str:
        """The page under /metrics."""
        return "vllm:num_requests_running 1\n"

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.bodies.append(body)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            place = len(self.bodies)
        time.sleep(self.delay_seconds)
        with self._lock:
            self.in_flight -= 1
        if self.fail_after is not None and place > self.fail_after:
            return 500, {"error": "ordered to fail"}
        choice: dict[str, Any] = {"index": 0, "text": self.text(body["prompt"])}
        if "logprobs" in body:
            choice["logprobs"] = self._log_probabilities(body)
        return 200, {"choices": [choice]}

    def _log_probabilities(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        values: list[float | None] = []
        likeliest: list[dict[str, float] | None] = []
        if body.get("echo"):
            values.append(None)
            likeliest.append(None)
            for place in range(1, len(prompt)):
                tokens = {prompt[place], *self.most_likely(prompt[:place], body["logprobs"])}
                values.append(self.log_probability(prompt[:place], prompt[place]))
                likeliest.append({f"token_id:{token}": self.log_probability(prompt[:place], token) for token in tokens})
        best = self.likeliest(prompt)
        tokens = {best, *body.get("logprob_token_ids", [])}
        values.append(self.log_probability(prompt, best))
        likeliest.append({f"token_id:{token}": self.log_probability(prompt, token) for token in tokens})
        return {"token_logprobs": values, "top_logprobs": likeliest}


@contextmanager
def completions_server(model: FormulaModel) -> Iterator[str]:
    """Serve `model` on loopback; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.headers.append(dict(self.headers))
            status, content = model.answer(body)
            self._send(status, json.dumps(content).encode())

        def do_GET(self) -> None:
            self._send(200, model.metrics().encode())

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
