"""What a gateway says of itself under /status, and the page that shows it."""

import asyncio
import base64
import hashlib
import json
import re

import pytest
from aiohttp import web

from pipelines.report.live_page import live_page
from registry.contracts import GatewayStatus
from serving_checks.gateway.config import PatienceConfig
from serving_checks.gateway.split import SplitConfig
from serving_checks.gateway.upstream import Upstream
from tests.unit.serving_checks.test_gateway import ASKED, Behind, Lab, lab, told, whole
from tests.watched_gateway import ramped

KEY = "sha256:" + hashlib.sha256(b"word").hexdigest()


async def status_of(one: Lab, **headers: str) -> GatewayStatus:
    async with one.session.get(f"{one.base}/status", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["cache-control"] == "no-store"
        return GatewayStatus.model_validate_json(await answer.read())


def test_who_answers_and_how() -> None:
    async def run() -> None:
        candidate = Behind(whole)
        async with (
            lab(Behind(whole)) as one,
            candidate.answering() as endpoint,
            Upstream("2", endpoint, PatienceConfig()) as upstream,
        ):
            nothing = await status_of(one)
            assert (nothing.champion.version, nothing.candidate, nothing.verdict, nothing.mirror) == (
                "1",
                None,
                None,
                None,
            )
            assert (nothing.champion.clients.requests, nothing.champion.clients.p50_seconds) == (0, None)
            one.gateway.candidate, one.gateway.split = upstream, SplitConfig(share=1.0)
            await one.ask()
            one.gateway.split = SplitConfig(share=0.25)
            one.gateway.standing.followed(ramped(0.25, 1, pairs=12))
            one.gateway.standing.not_followed(["no ledger there"])
            now = await status_of(one)
        assert now.candidate is not None
        assert (now.candidate.version, now.candidate.clients.requests, now.candidate.clients.failed) == ("2", 1, 0)
        assert (now.share, now.step, now.steps, now.ramp, now.faults) == (0.25, 2, 4, "running", ["no ledger there"])
        assert now.verdict is not None and (now.verdict.outcome, now.verdict.pairs) == ("continue", 12)

    asyncio.run(run())


def test_a_new_version_begins_with_nothing() -> None:
    async def run() -> None:
        async with (
            lab(Behind(whole)) as one,
            Behind(whole).answering() as endpoint,
            Upstream("2", endpoint, PatienceConfig()) as upstream,
        ):
            await one.ask()
            one.gateway.champion = upstream
            assert (await status_of(one)).champion.clients.requests == 0
            await one.ask()
            now = await status_of(one)
            assert (now.champion.version, now.champion.clients.requests) == ("2", 1)

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/status", "/metrics"])
def test_numbers_are_for_those_who_have_a_key(path: str) -> None:
    async def run() -> None:
        async with lab(Behind(whole), api_keys=[KEY]) as one:
            async with one.session.get(one.base + path) as answer:
                assert (answer.status, "API key" in told(await answer.read())) == (401, True)
            async with one.session.get(one.base + path, headers={"authorization": "Bearer word"}) as answer:
                assert answer.status == 200

    asyncio.run(run())


def test_the_page_is_there_without_a_key_and_holds_no_number() -> None:
    async def run() -> None:
        async with lab(Behind(whole), api_keys=[KEY]) as one:
            async with one.session.get(f"{one.base}/live") as answer:
                assert answer.status == 401, "there is none yet"
            page = one.gateway.live_page = live_page("demo")
            for path in ("/", "/live"):
                async with one.session.get(one.base + path) as answer:
                    assert (answer.status, await answer.read()) == (200, page.html)
                    assert answer.headers["content-security-policy"] == page.policy
                    assert answer.headers["x-content-type-options"] == "nosniff"
            async with one.session.post(f"{one.base}/", json=ASKED) as answer:
                assert answer.status == 401

    asyncio.run(run())


def test_only_the_page_s_own_script_runs_and_nothing_is_loaded() -> None:
    page = live_page("</title><script>alert(1)</script>")
    html = page.html.decode()
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 1, "a model's name is text"
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page.policy
    assert "default-src 'none'" in page.policy and "frame-ancestors 'none'" in page.policy
    assert "'unsafe-inline'" not in page.policy.partition("script-src")[2].partition(";")[0]
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", html), "nothing from elsewhere"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|cookie", html)


def test_the_page_reads_fields_that_the_status_has() -> None:
    """Names in the script that look like a record's are one's."""
    html = live_page("demo").html.decode()
    known: set[str] = set(json.dumps(GatewayStatus.model_json_schema()).split('"'))
    script = html.partition("<script>")[2]
    read = set(re.findall(r"\.([a-z]+_[a-z0-9_]+)\b", script)) | set(re.findall(r'"([a-z0-9]+_[a-z0-9_]+)"', script))
    assert len(read) > 15
    assert read <= known


def test_a_server_s_error_is_a_failed_request() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({}, status=503)

    async def run() -> None:
        async with lab(Behind(answer)) as one:
            await one.ask()
            clients = (await status_of(one)).champion.clients
            assert (clients.requests, clients.failed, clients.p50_seconds) == (1, 1, None)

    asyncio.run(run())
