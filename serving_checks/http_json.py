"""The few HTTP calls that the checks make to a server."""

import json
import os
import urllib.request
from typing import Any

from configs.errors import RequestError

# Proxies of the environment are for the world outside; a server under test is never behind one.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_text(url: str, timeout_seconds: float = 10.0, api_key_variable: str | None = None) -> str:
    """GET; the body as text.

    Args:
        api_key_variable: Name of the environment variable that holds the server's key, where it wants one.

    Raises:
        OSError: No answer, or a status of 400 and above (urllib.error.HTTPError).
    """
    with _OPENER.open(_request(url, api_key_variable), timeout=timeout_seconds) as answer:
        return str(answer.read().decode())


def post_json(
    url: str, body: dict[str, Any], timeout_seconds: float = 120.0, api_key_variable: str | None = None
) -> Any:
    """POST a JSON body; the JSON answer.

    Raises:
        OSError: No answer, or a status of 400 and above.
        ValueError: The answer is not JSON.
    """
    request = _request(url, api_key_variable, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with _OPENER.open(request, timeout=timeout_seconds) as answer:
        return json.loads(answer.read())


def post(url: str, timeout_seconds: float = 120.0) -> None:
    """POST without a body, for orders whose answer says nothing.

    Raises:
        OSError: No answer, or a status of 400 and above.
    """
    with _OPENER.open(_request(url, None, b""), timeout=timeout_seconds) as answer:
        answer.read()


def _request(url: str, api_key_variable: str | None, body: bytes | None = None) -> urllib.request.Request:
    request = urllib.request.Request(url, body)  # noqa: S310 - addresses come from configs and from ourselves
    if api_key_variable is not None:
        key = os.environ.get(api_key_variable)
        if not key:
            raise RequestError(
                f"the environment variable {api_key_variable} is not set", remedy="set it to the server's key"
            )
        # Not sent on when the server redirects elsewhere.
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    return request
