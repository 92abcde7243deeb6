"""The few HTTP calls that the checks make to a server."""

import http.client
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from configs.errors import RequestError
from configs.reading.json_text import parse_json
from configs.reading.text import ANSWER_BYTES, too_long

# Proxies of the environment are for the world outside; a server under test is never behind one.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SHOWN_CHARACTERS = 300
"""Of what a server says when it refuses."""


def get_text(url: str, timeout_seconds: float = 10.0, api_key_variable: str | None = None) -> str:
    """GET; the body as text.

    Args:
        api_key_variable: Name of the environment variable that holds the server's key, where it wants one.

    Raises:
        OSError: No answer, or a status of 400 and above (urllib.error.HTTPError).
        ValueError: The answer is too large.
    """
    with _answered(_request(url, api_key_variable), timeout_seconds) as body:
        return body.decode(errors="replace")


def post_json(
    url: str, body: dict[str, Any], timeout_seconds: float = 120.0, api_key_variable: str | None = None
) -> Any:
    """POST a JSON body; the JSON answer.

    Raises:
        OSError: No answer, or a status of 400 and above.
        ValueError: The answer is not JSON, or too large.
    """
    request = _request(url, api_key_variable, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with _answered(request, timeout_seconds) as answer:
        return parse_json(answer, of_model=True)


def post(url: str, timeout_seconds: float = 120.0) -> None:
    """POST without a body, for orders whose answer says nothing.

    Raises:
        OSError: No answer, or a status of 400 and above.
    """
    with _answered(_request(url, None, b""), timeout_seconds):
        pass


def authorization(api_key_variable: str | None) -> dict[str, str]:
    """The header that carries a server's key; none for None.

    Raises:
        RequestError: The variable is not set.
    """
    if api_key_variable is None:
        return {}
    key = os.environ.get(api_key_variable)
    if not key:
        raise RequestError(
            f"the environment variable {api_key_variable} is not set", remedy="set it to the server's key"
        )
    return {"Authorization": f"Bearer {key}"}


def refusal(status: int, reason: str | None, body: str, headers: Mapping[str, str]) -> str:
    """A server's refusal in one line, such as `HTTP 422 Unprocessable Entity: {"detail": ...}`.

    Args:
        body: Of the answer.
        headers: That were sent: a key that the server repeats is taken out.
    """
    told = " ".join(body.split())
    for value in headers.values():
        told = told.replace(value.removeprefix("Bearer "), "***")
    return f"HTTP {status} {reason or ''}".strip() + (f": {told[:_SHOWN_CHARACTERS]}" if told else "")


def refused_with(told: str) -> int | None:
    """The status in what `refusal` told; None for other texts."""
    match = re.match(r"HTTP (\d{3})\b", told)
    return int(match[1]) if match else None


@contextmanager
def _answered(request: urllib.request.Request, timeout_seconds: float) -> Iterator[bytes]:
    """The answer's body; a server that sends it drop by drop has no more time than one that is silent."""
    until = time.monotonic() + timeout_seconds
    parts, size = [], 0
    try:
        with _OPENER.open(request, timeout=timeout_seconds) as answer:
            while part := answer.read1(1 << 16):
                size += len(part)
                if size > ANSWER_BYTES:
                    raise too_long(ANSWER_BYTES)
                if time.monotonic() > until:
                    raise TimeoutError(f"the answer was not complete within {timeout_seconds:g} s")
                parts.append(part)
            if answer.length:
                raise OSError(f"the answer broke off {answer.length} bytes before its end")
    except http.client.HTTPException as error:
        raise OSError(f"what answers does not speak HTTP: {error!r}") from error
    yield b"".join(parts)


def _request(url: str, api_key_variable: str | None, body: bytes | None = None) -> urllib.request.Request:
    request = urllib.request.Request(url, body)  # noqa: S310 - addresses come from configs and from ourselves
    for name, value in authorization(api_key_variable).items():
        # Not sent on when the server redirects elsewhere.
        request.add_unredirected_header(name, value)
    return request
