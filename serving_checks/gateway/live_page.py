"""The gateway's page for people and the numbers that it shows."""

from typing import NamedTuple

from aiohttp import web

from serving_checks.gateway.standing import Standing

LIVE_PATHS = ("/", "/live")


class LivePage(NamedTuple):
    """A page that asks for /status by itself. It holds no number, so it needs no key; /status does."""

    html: bytes
    policy: str
    """Of its content (Content-Security-Policy, level 3): what it may load and run."""


def page_response(page: LivePage, request_id: str) -> web.Response:
    """The page, which no other site may show within its own."""
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": page.policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "x-request-id": request_id,
    }
    return web.Response(body=page.html, headers=headers)


def status_response(standing: Standing, request_id: str) -> web.Response:
    """A GatewayStatus as JSON."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", "x-request-id": request_id}
    return web.Response(text=standing.status().model_dump_json(), content_type="application/json", headers=headers)
