"""Sends a record to a webhook: one POST, followed nowhere, and given up on in time. No text holds address or secret."""

import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from pipelines.recipe.notify_config import SecretHeader, WebhookNotice, checked_address

_ANSWER_BYTES = 1 << 16
"""Read of an answer, so that the other side sees its connection used to the end; what it says is not looked at."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """Whoever answers with another address would be given a record, and choose the scheme and machine for it."""
        return


class UnsendableError(Exception):
    """Why nothing is sent, in words."""


def check_webhook(notice: WebhookNotice, variables: Mapping[str, str] = os.environ) -> str | None:
    """Why nothing could be sent, as far as that is known before; None where nothing stands against it."""
    try:
        _request(notice, b"", variables)
    except UnsendableError as error:
        return str(error)
    return None


def tell_webhook(notice: WebhookNotice, text: str, variables: Mapping[str, str] = os.environ) -> str | None:
    """POST `text`; why it was not told, in words, or None.

    Args:
        notice: Where to, and how long to wait in all: names that resolve to nothing and answers that drip included.
        text: JSON.
        variables: Hold the address and the header's value, where the notice names some.
    """
    try:
        request = _request(notice, text.encode(), variables)
    except UnsendableError as error:
        return str(error)
    answers: list[str | None] = []
    # A look-up of a name knows no time limit; a thread that nobody waits for ends with the process.
    sender = threading.Thread(target=lambda: answers.append(_sent(request, notice.timeout_seconds)), daemon=True)
    sender.start()
    sender.join(notice.timeout_seconds)
    return answers[0] if answers else f"it did not answer within {notice.timeout_seconds:g} s"


def _request(notice: WebhookNotice, body: bytes, variables: Mapping[str, str]) -> urllib.request.Request:
    url = notice.url or _address(str(notice.url_variable), variables)
    request = urllib.request.Request(url, body, method="POST")  # noqa: S310 - the scheme was checked
    request.add_header("Content-Type", "application/json")
    request.add_header("User-Agent", "quantbench")
    if notice.header:
        request.add_unredirected_header(notice.header.name, _secret(notice.header, variables))
    return request


def _address(variable: str, variables: Mapping[str, str]) -> str:
    value = variables.get(variable, "").strip()
    if not value:
        raise UnsendableError(f"the environment variable {variable} is not set: it holds the webhook's address")
    try:
        return checked_address(value)
    except ValueError as error:
        raise UnsendableError(f"the environment variable {variable}: {error}") from None


def _secret(header: SecretHeader, variables: Mapping[str, str]) -> str:
    value = variables.get(header.variable, "").strip()
    if not value:
        raise UnsendableError(f"the environment variable {header.variable} is not set: it holds the header's value")
    if not (value.isascii() and value.isprintable()):
        raise UnsendableError(f"what the environment variable {header.variable} holds is no value of a header")
    return value


def _sent(request: urllib.request.Request, timeout_seconds: float) -> str | None:
    # Proxies of the environment are for the world outside.
    proxies: dict[str, str] | None = {} if request.type == "http" else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)
    try:
        with opener.open(request, timeout=timeout_seconds) as answer:
            answer.read(_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            redirects = ", which is a redirect and is not followed" if 300 <= error.code < 400 else ""
            return f"it answered HTTP {error.code}{redirects}"
    except TimeoutError:
        return f"it did not answer within {timeout_seconds:g} s"
    except urllib.error.URLError as error:
        return f"it does not answer: {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer as a web server does: {type(error).__name__}"
    return None
