"""An OpenAI-compatible server whose every answer a test writes: pieces, refusals, silence, ends that come too soon."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

from registry.contracts.serving import Endpoint


class Scripted(NamedTuple):
    """One answer."""

    events: Sequence[dict[str, Any]] = ()
    """Of the stream, or the only body where the request is not streamed."""
    status: int = 200
    headers: Mapping[str, str] = {}
    end: Literal["done", "finish", "break", "hang"] = "done"
    """`done` says [DONE], `finish` only ends, `break` closes the connection amid an answer, `hang` says no more."""
    pause_seconds: float = 0.0
    """Before each piece."""


Answering = Callable[[str, dict[str, Any]], Scripted]
"""What is answered to a body sent to a path."""


def text_events(*pieces: str, chat: bool = False, finish: str = "stop", **usage: Any) -> list[dict[str, Any]]:
    """The events of an answer in pieces, and its usage where there is one."""
    events: list[dict[str, Any]] = []
    for place, piece in enumerate(pieces):
        said = {"delta": {"content": piece}} if chat else {"text": piece}
        events.append({"choices": [said | {"finish_reason": finish if place + 1 == len(pieces) else None}]})
    return [*events, {"choices": [], "usage": usage}] if usage else events


def echo(path: str, body: dict[str, Any]) -> Scripted:
    """Says the prompt's length, in two pieces."""
    chat = path.endswith("/chat/completions")
    prompt = "".join(str(message["content"]) for message in body["messages"]) if chat else body["prompt"]
    return Scripted(text_events("length ", str(len(prompt)), chat=chat, prompt_tokens=3, completion_tokens=2))


class ScriptedServer:
    """What was asked so far."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()
        self.die_after: int | None = None
        """Prompts that are answered before the server is gone."""
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()

    def asked(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Scripted:
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.answering(path, body)

    def answered(self) -> None:
        with self._lock:
            self.in_flight -= 1


class _Handler(BaseHTTPRequestHandler):
    script: ScriptedServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.script.asked(self.path, body, dict(self.headers))
        if self.script.die_after is not None and len(self.script.bodies) > self.script.die_after:
            self.close_connection = True
            self.server.socket.close()
            return
        try:
            self._stream(answer) if body.get("stream") and answer.status == 200 else self._whole(answer)
        finally:
            self.script.answered()

    def do_GET(self) -> None:
        self._whole(Scripted([{"data": [{"id": "model"}]}]))

    def _whole(self, answer: Scripted) -> None:
        data = json.dumps(answer.events[0] if answer.events else {}).encode()
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, answer: Scripted) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in answer.events:
            time.sleep(answer.pause_seconds)
            self._chunk(f"data: {json.dumps(event)}\n\n")
        if answer.end == "hang":
            self.script.over.wait(30)
        if answer.end in ("hang", "break"):
            self.close_connection = True
            return
        self._chunk("data: [DONE]\n\n" if answer.end == "done" else "")
        if answer.end == "done":
            self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no fault of the server's."""


@contextmanager
def scripted_server(answering: Answering = echo, port: int = 0) -> Iterator[tuple[Endpoint, ScriptedServer]]:
    """Serve on loopback until the end of the block, on any free port for 0."""
    script = ScriptedServer(answering)
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"script": script}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        base_url = f"http://127.0.0.1:{server.server_port}"
        yield Endpoint(base_url=base_url, served_model_name="model", model_path="", max_model_len=2048), script
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()
