"""What Prometheus reads of a gateway: names and labels, and that nothing of a client can become one of them."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from serving_checks.gateway.metrics_page import joined
from serving_checks.gateway.observed import Counts
from serving_checks.gateway.served_metrics import MOST_VERSIONS, Served, ServedMetrics, told_status
from serving_checks.transport.metrics import Sample, parse_metrics
from tests.unit.serving_checks.test_gateway import ASKED, Behind, Lab, lab, whole
from tests.watched_gateway import ramped
from tests.watched_gateway import told as nobody_judged


def samples_of(page: str, name: str, **labels: str) -> list[Sample]:
    return [one for one in parse_metrics(page) if one.name == name and labels.items() <= one.labels.items()]


def value_of(page: str, name: str, **labels: str) -> float:
    (one,) = samples_of(page, name, **labels)
    return one.value


async def page_of(one: Lab) -> str:
    async with one.session.get(f"{one.base}/metrics") as answer:
        return await answer.text()


def test_numbers_by_the_field_s_names() -> None:
    async def run() -> None:
        async with lab(Behind(whole)) as one:
            counts = Counts(mirrored=2, unwritten=3, page="# HELP of_the_observer x\nof_the_observer 1.0\n")
            observer = SimpleNamespace(counts=counts, unobserved=4, is_up=True)
            one.gateway.standing.observer = cast("Any", observer)
            for _ in range(2):
                await one.ask()
            await one.ask(ASKED | {"stream": True}, "/v1/chat/completions")
            await one.ask(b"{")
            page = await page_of(one)
        served = {
            "gen_ai_operation_name": "text_completion",
            "gen_ai_provider_name": "quantbench",
            "gen_ai_request_model": "demo",
            "arm": "champion",
            "version": "1",
            "traffic": "client",
        }
        assert value_of(page, "quantbench_gateway_requests_total", status="200", **served) == 2
        assert value_of(page, "gen_ai_server_request_duration_seconds_count", **served) == 2
        chat = served | {"gen_ai_operation_name": "chat"}
        assert value_of(page, "gen_ai_server_time_to_first_token_seconds_count", **chat) == 1
        assert not samples_of(page, "gen_ai_server_time_to_first_token_seconds_count", **served), "it was not streamed"
        assert value_of(page, "quantbench_gateway_refused_total", status="400") == 1
        assert value_of(page, "quantbench_gateway_mirror_done_total") == 2
        assert value_of(page, "quantbench_gateway_pairs_dropped_total") == 3
        assert value_of(page, "quantbench_gateway_unobserved_total") == 4
        assert value_of(page, "quantbench_gateway_arm", arm="champion", version="1") == 1
        assert value_of(page, "quantbench_gateway_requests_in_flight", arm="champion") == 0
        assert value_of(page, "of_the_observer") == 1
        assert value_of(page, "process_resident_memory_bytes") > 1e6
        assert "_created" not in page

    asyncio.run(run())


def test_what_nobody_told_has_no_sample() -> None:
    async def run() -> None:
        async with lab(Behind(whole)) as one:
            before = await page_of(one)
            one.gateway.standing.followed(ramped(0.5, 1, "fail", pairs=77))
            one.gateway.standing.not_followed(["the ledger is gone"])
            told = await page_of(one)
            one.gateway.standing.followed(nobody_judged())
            after = await page_of(one)
        for name in ("verdict", "verdict_pairs", "step", "steps", "ledger_followed_timestamp_seconds"):
            assert not samples_of(before, f"quantbench_gateway_{name}")
        outcomes = {one.labels["outcome"]: one.value for one in samples_of(told, "quantbench_gateway_verdict")}
        assert outcomes == {"pass": 0, "fail": 1, "continue": 0, "inconclusive": 0}
        assert value_of(told, "quantbench_gateway_verdict_pairs") == 77
        assert value_of(told, "quantbench_gateway_step") == 2
        assert value_of(told, "quantbench_gateway_ledger_fault") == 1
        assert value_of(after, "quantbench_gateway_ledger_fault") == 0
        assert value_of(after, "quantbench_gateway_ledger_followed_timestamp_seconds") > 1.7e9
        assert not samples_of(after, "quantbench_gateway_verdict"), "another candidate has none yet"

    asyncio.run(run())


def test_what_a_client_sends_is_no_label() -> None:
    async def run() -> None:
        sent = {"x-request-id": "mine-mine", "authorization": "Bearer mine-mine", "user-agent": "mine-mine"}
        async with lab(Behind(whole)) as one:
            await one.ask(ASKED | {"user": "mine-mine", "prompt": "mine-mine"}, headers=sent)
            await one.ask(ASKED | {"model": "mine-mine"}, headers=sent)
            for method, path in (("GET", "/mine-mine"), ("POST", "/mine-mine"), ("MINE-MINE", "/")):
                async with one.session.request(method, one.base + path, headers=sent):
                    pass
            assert "mine-mine" not in (await page_of(one)).casefold()

    asyncio.run(run())


def test_a_server_s_own_statuses_are_few_labels() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=int(request.headers["user-agent"]))

    async def run() -> None:
        async with lab(Behind(answer)) as one:
            for status in range(402, 420):
                await one.ask(headers={"user-agent": str(status)})
            page = await page_of(one)
        told = {one.labels["status"] for one in samples_of(page, "quantbench_gateway_requests_total")}
        assert told == {"403", "404", "408", "409", "413", "4xx"}

    asyncio.run(run())
    assert {told_status(status) for status in (200, 502, 599, 204)} == {"200", "502", "5xx", "2xx"}


def test_of_many_versions_the_last_ones_are_kept() -> None:
    registry = CollectorRegistry()
    metrics = ServedMetrics("demo", "client", registry)
    for version in range(40):
        for other in (0, version):  # version 0 answers all the time
            metrics.answered(Served("champion", str(other), "/v1/completions"), 200, 0.1, 0.05)
            metrics.failed(Served("candidate", str(other), "/v1/completions"), 502)
    page = generate_latest(registry).decode()
    versions = {one.labels["version"] for one in parse_metrics(page) if "version" in one.labels}
    assert versions == {"0", *map(str, range(40 - MOST_VERSIONS + 1, 40))}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_pages_are_joined_family_by_family(order: tuple[int, int]) -> None:
    pages = (
        '# HELP a_total An a.\n# TYPE a_total counter\na_total{x="1"} 1.0\n# HELP b B.\n# TYPE b gauge\nb 2.0\n',
        '# HELP a_total An a.\n# TYPE a_total counter\na_total{x="2"} 3.0\n# HELP a_created A.\na_created 4.0\n',
    )
    page = joined(pages[place] for place in order)
    assert page.count("# TYPE a_total counter\n") == page.count("# HELP a_total") == 1
    assert "_created" not in page
    lines = page.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("# HELP a_total"))
    assert {line.partition("}")[0] for line in lines[first + 2 : first + 4]} == {'a_total{x="1"', 'a_total{x="2"'}
    assert {sample.value for sample in parse_metrics(page)} == {1.0, 2.0, 3.0}
    assert joined(["", page, ""]) == page
