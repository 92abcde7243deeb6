"""The few HTTP calls that the checks make to a server on this machine."""

import json
import urllib.request
from typing import Any

# Proxies of the environment are for the world outside; a loopback server is never behind one.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_text(url: str, timeout_seconds: float = 10.0) -> str:
    """GET; the body as text.

    Raises:
        OSError: No answer, or a status of 400 and above (urllib.error.HTTPError).
    """
    with _OPENER.open(url, timeout=timeout_seconds) as answer:
        return str(answer.read().decode())


def post_json(url: str, body: dict[str, Any], timeout_seconds: float = 120.0) -> Any:
    """POST a JSON body; the JSON answer.

    Raises:
        OSError: No answer, or a status of 400 and above.
        ValueError: The answer is not JSON.
    """
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with _OPENER.open(request, timeout=timeout_seconds) as answer:
        return json.loads(answer.read())


def post(url: str, timeout_seconds: float = 120.0) -> None:
    """POST without a body, for orders whose answer says nothing.

    Raises:
        OSError: No answer, or a status of 400 and above.
    """
    with _OPENER.open(urllib.request.Request(url, b"", method="POST"), timeout=timeout_seconds) as answer:  # noqa: S310
        answer.read()
