"""Errors in the shape in which OpenAI's API has them, so that its clients raise what they know."""

import json
from typing import Any

from aiohttp import web

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    417: "invalid_request_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_HEADERS = {401: {"www-authenticate": "Bearer"}, 405: {"allow": "POST"}}
"""That HTTP wants beside a status (RFC 9110, sections 11.6.1 and 15.5.6)."""


class Refusal(Exception):
    """What a client is told instead of an answer.

    Args:
        status: Of HTTP.
        message: What is wrong and what to do, without anything of the prompt.
        code: A word that programs look for, such as `model_not_found`.
    """

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    @property
    def asked_nobody(self) -> bool:
        """Whether it is the gateway's own word, and no server's silence (502 and above)."""
        return self.status < 502

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        told = {"message": self.message, "type": _TYPES.get(self.status, "api_error"), "param": None, "code": self.code}
        return {"error": told}

    @property
    def text(self) -> bytes:
        """The body's bytes."""
        return json.dumps(self.body).encode()

    def response(self, request_id: str) -> web.Response:
        """The answer to a request that has none yet."""
        headers = {"x-request-id": request_id, "content-type": "application/json", **_HEADERS.get(self.status, {})}
        return web.Response(body=self.text, status=self.status, headers=headers)

    @property
    def event(self) -> bytes:
        """The last event of a stream that has begun."""
        return b"data: " + self.text + b"\n\n"
