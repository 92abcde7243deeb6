"""What answers is not always a server as it should be: bodies are bounded, and faults are those that callers expect."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from configs.reading.text import MalformedError
from serving_checks.transport import http_json
from serving_checks.transport.http_json import get_text, post, post_json


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that says `content` to whoever comes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def http(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) if length is None else length, body)


def test_a_sound_answer_is_read() -> None:
    with answering(http(b'{"a": [1, NaN]}')) as url:
        assert str(post_json(url, {})) == "{'a': [1, nan]}"
    with answering(b"HTTP/1.1 200 OK\r\n\r\nuntil the end \xff") as url:
        assert get_text(url) == "until the end \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("body", [b"{", b"[" * 10_000, b'{"a": 1, "a": 2}', b"9" * 10_000, b"\xff\xfe", b""])
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    with answering(http(body)) as url, pytest.raises(MalformedError):
        post_json(url, {})


@pytest.mark.parametrize("answer", [b"no HTTP\r\n", b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, b""])
def test_what_speaks_no_http_is_an_os_error(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(OSError):
        post(url)


def test_a_body_that_breaks_off_is_an_os_error() -> None:
    with answering(http(b"abc", length=10)) as url, pytest.raises(OSError, match="broke off 7 bytes before its end"):
        get_text(url)


def test_a_body_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_json, "ANSWER_BYTES", 1 << 20)
    body = b"x" * ((1 << 20) + 1)
    with answering(http(body)) as url, pytest.raises(ValueError, match="the answer is larger than 1 MiB"):
        get_text(url)
