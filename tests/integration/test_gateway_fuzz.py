"""A short run of what `make fuzz` runs as long as it is told, and requests made out of the surface's description."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from aiohttp import web
from hypothesis import HealthCheck, settings

from tests.fuzz.gateway_fuzz import FUZZERS
from tests.fuzz.surface import SURFACE
from tests.unit.serving_checks.test_gateway import Behind, lab

schemathesis = pytest.importorskip("schemathesis", reason="requests out of a description are made by schemathesis")

pytestmark = pytest.mark.environment

SCHEMA = schemathesis.openapi.from_dict(SURFACE)


@pytest.mark.parametrize("name", FUZZERS)
def test_bytes_against_a_gateway(name: str) -> None:
    FUZZERS[name](100 if name != "answers" else 1000, 1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway in a thread of its own."""

    async def answers(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"choices": []})

    told: list[str] = []
    ready, over = threading.Event(), threading.Event()

    async def run() -> None:
        async with lab(Behind(answers)) as one:
            told.append(one.base)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(60)
    yield told[0]
    over.set()
    thread.join()


@SCHEMA.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_requests_of_the_description(case, url) -> None:  # type: ignore[no-untyped-def] # schemathesis' own
    response = case.call(base_url=url, timeout=30)
    assert response.status_code != 500
    case.validate_response(
        response,
        checks=[
            schemathesis.checks.not_a_server_error,
            *(check for check in schemathesis.checks.CHECKS.get_all() if check.__name__.endswith("_conformance")),
        ],
    )
