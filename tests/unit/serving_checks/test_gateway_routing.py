"""Routes of a gateway: who answers by rules, classes and a classifier, and what a cascade costs a client at worst."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from pydantic import ValidationError

from registry.contracts import RouteRecord
from serving_checks.gateway.asked import CHAT, COMPLETIONS, Asked
from serving_checks.gateway.cascade import with_logprobs, without_logprobs
from serving_checks.gateway.config import PatienceConfig
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.routing import Decision, RoutedRule, Router, RoutingConfig, has_one_answer
from serving_checks.gateway.split import SplitConfig
from serving_checks.gateway.upstream import Answered, Upstream
from tests.unit.serving_checks.test_gateway import ASKED, Behind, Handler, Lab, lab


def record(**rule: Any) -> RouteRecord:
    fields: dict[str, Any] = {
        "source": "a test",
        "cheap": "sha256:c",
        "precise": "sha256:p",
        "quality": "score",
        "loss": 0.01,
        "alpha": 0.05,
        "least_share": 0.1,
        "items": 1,
        "left_out": {},
        "items_digest": "sha256:i",
        "outcomes": [],
        "chosen": next(iter(rule), None),
        "made_at": datetime.now(UTC),
    }
    return RouteRecord.model_validate(fields | rule)


CASCADE = record(cascade={"threshold": -0.5})


def asked(fields: dict[str, Any], path: str = COMPLETIONS) -> Asked:
    body = {"model": "demo", **fields}
    return Asked("id", path, {}, json.dumps(body).encode(), body)


def router(rules: list[dict[str, Any]], found: RouteRecord | None = None, cheap: Arm | None = "candidate") -> Router:
    made = Router([RoutedRule.model_validate(rule) for rule in rules], found, cheap_seconds=0.5)
    made.cheap = cheap if found else None
    return made


def test_the_first_rule_that_fits_decides() -> None:
    made = router(
        [
            {"name": "tools", "tools": True, "arm": "champion"},
            {"name": "long", "at_least_characters": 100, "arm": "champion"},
            {"name": "code", "code": True, "languages": ["en"], "arm": "candidate"},
            {"name": "sums", "pattern": r"\d \+ \d", "at_most_characters": 20, "arm": "candidate"},
            {"name": "english", "languages": ["en"]},
        ]
    )
    code = "What is the fault of this and how is it to be mended?\n```\nx = 1\n```"
    for fields, found in (
        ({"prompt": "1 + 1 =", "tools": [{"type": "function"}]}, Decision("champion", "rule", "tools")),
        ({"prompt": "a" * 100}, Decision("champion", "rule", "long")),
        ({"messages": [{"role": "user", "content": code}]}, Decision("candidate", "rule", "code")),
        ({"prompt": "1 + 1 ="}, Decision("candidate", "rule", "sums")),
        ({"prompt": "What is the name of the city?"}, Decision(None, "", "english")),
        ({"prompt": "None"}, Decision(None)),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, Decision(None)),
    ):
        assert made.decide(asked(fields)) == found, fields


def test_a_pattern_that_takes_too_long_holds_nobody_up() -> None:
    made = router([{"name": "slow", "pattern": r"(a+)+$", "arm": "candidate"}])
    assert made.decide(asked({"prompt": "a" * 5000 + "b"})) == Decision(None), "and not in hours"


def test_classes_of_a_calibrated_route() -> None:
    class_by = {"metadata": "product", "rules": []}
    made = router([], record(classes={"class_by": class_by, "cheap": ["chat"]}))
    for metadata, found in (
        ({"product": "chat"}, Decision("candidate", "class", "chat")),
        ({"product": "code"}, Decision("champion", "class", "code")),
        ({"product": 7}, Decision("champion", "class")),
        ("chat", Decision("champion", "class")),
        (None, Decision("champion", "class")),
    ):
        assert made.decide(asked({"prompt": "a", "metadata": metadata})) == found
    made.cheap = "champion"
    assert made.decide(asked({"prompt": "a", "metadata": {"product": "chat"}})).arm == "champion"
    made.cheap = None
    assert made.decide(asked({"prompt": "a", "metadata": {"product": "chat"}})) == Decision(None), "not followed"


def test_a_classifier() -> None:
    rule = {"threshold": 0.3, "intercept": -2.0, "weights": {"digits": 8.0}, "trained_on": 10}
    made = router([{"name": "mine", "pattern": "mine"}], record(classifier=rule))
    assert made.decide(asked({"prompt": "a word"})) == Decision("candidate", "classifier")
    assert made.decide(asked({"prompt": "1 2 3 4"})) == Decision("champion", "classifier")
    assert made.decide(asked({"prompt": "mine"})) == Decision("candidate", "classifier", "mine"), "the rule's class"
    assert made.decide(asked({"prompt": [1, 2]})) == Decision("champion", "classifier"), "of ids it knows nothing"


@pytest.mark.parametrize(
    ("fields", "one"),
    [
        ({"prompt": "a"}, True),
        ({"prompt": ["a"], "n": 1, "best_of": None}, True),
        ({"messages": []}, True),
        ({"prompt": ["a", "b"]}, False),
        ({"prompt": [1, 2]}, False),
        ({"prompt": "a", "n": 2}, False),
        ({"prompt": "a", "best_of": 2}, False),
        ({"prompt": "a", "echo": True}, False),
        ({"prompt": "a", "prompt_logprobs": 0}, False),
    ],
)
def test_what_a_cascade_can_judge(fields: dict[str, Any], one: bool) -> None:
    assert has_one_answer(asked(fields)) == one
    expected = Decision("candidate", cascade=True) if one else Decision("champion", "unsuited")
    assert router([], CASCADE).decide(asked(fields)) == expected


@pytest.mark.parametrize("rule", [{"cascade": {"threshold": float("nan")}}, {"cascade": {"threshold": 0.1}}])
def test_a_threshold_that_is_none(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        record(**rule)


def test_rules_that_say_nothing_are_refused() -> None:
    for rule in ({"name": "a"}, {"name": "a", "languages": ["xx"]}, {"name": "a", "languages": []}, {"pattern": "("}):
        with pytest.raises(ValidationError):
            RoutingConfig.model_validate({"rules": [{"name": "a", "arm": "champion"} | rule]})
    rules = [{"name": "a", "code": True, "arm": "champion"}]
    found = RoutingConfig.model_validate({"rules": rules}).class_by
    assert found is not None and found["rules"][0]["name"] == "a"
    assert "arm" not in found["rules"][0], "who answers may change, and the classes are the same"
    assert RoutingConfig().class_by is None


def says(text: str, logprobs: list[float] | None = None, *, status: int = 200) -> Handler:
    """A server that tells log-probabilities where it is asked for them, whole or in pieces, as vLLM does."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read())
        chat = request.path == CHAT
        wanted = body.get("logprobs") is True if chat else body.get("logprobs") is not None
        values = logprobs or []
        told = (
            {"content": [{"token": "x", "logprob": value} for value in values]} if chat else {"token_logprobs": values}
        )
        told = told if wanted and values else None  # type: ignore[assignment]
        usage = {"prompt_tokens": 2, "completion_tokens": max(1, len(values))}
        said = {"delta" if body.get("stream") else "message": {"content": text}} if chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": told, "finish_reason": "stop"}
        if not body.get("stream"):
            return web.json_response({"choices": [choice], "usage": usage}, status=status)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"}, status=status)
        await response.prepare(request)
        for event in ({"choices": [choice]}, {"choices": [], "usage": usage}):
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    return answer


def requests(page: str, status: str) -> list[str]:
    """Versions that were asked for a client, and ended so."""
    lines = [line for line in page.splitlines() if line.startswith("quantbench_gateway_requests_total{")]
    return [line.partition('version="')[2].partition('"')[0] for line in lines if f'status="{status}"' in line]


SURE, UNSURE = [-0.1, -0.2], [-0.1, -2.0]


class Cascade(NamedTuple):
    one: Lab
    precise: Behind
    cheap: Behind
    seen: list[Observed]


@asynccontextmanager
async def cascade(cheap_says: Handler, precise_says: Handler | None = None) -> AsyncIterator[Cascade]:
    seen: list[Observed] = []
    precise, cheap = Behind(precise_says or says("precise")), Behind(cheap_says)
    async with (
        lab(precise, seen.append) as one,
        cheap.answering() as endpoint,
        Upstream("2", endpoint, PatienceConfig()) as upstream,
        asyncio.timeout(30),
    ):
        one.gateway.candidate, one.gateway.router = upstream, router([], CASCADE)
        yield Cascade(one, precise, cheap, seen)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(("logprobs", "reason"), [(SURE, "confident"), (UNSURE, "unsure"), (None, "unsure")])
def test_a_sure_answer_is_the_client_s_and_an_unsure_one_nobody_s(
    stream: bool, path: str, logprobs: list[float] | None, reason: str
) -> None:
    async def run() -> None:
        body = ASKED | {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
        async with cascade(says("cheap", logprobs)) as lab_:
            status, headers, answer = await lab_.one.ask(body, path)
            page = lab_.one.gateway.metrics.page()
        sure = reason == "confident"
        assert (status, b"cheap" in answer, b"precise" in answer) == (200, sure, not sure)
        assert headers["x-request-id"] and ("event-stream" in headers["content-type"]) == stream
        assert b'logprob"' not in answer and b"token_logprobs" not in answer, "what was not asked for is not told"
        assert json.loads(lab_.cheap.seen[0][1])["logprobs"] in (True, 0)
        assert len(lab_.precise.seen) == (not sure)
        assert not sure or b'logprobs":null' in answer
        arm = "candidate" if sure else "champion"
        assert (
            f'quantbench_gateway_routed_total{{arm="{arm}",gen_ai_request_model="demo",reason="{reason}"}} 1.0' in page
        )
        version = "2" if sure else "1"
        assert requests(page, "200") == [version], "who answered the client, and nobody else"
        *attempts, one = lab_.seen
        assert (one.by, one.version, one.route) == (arm, version, reason)
        tried = [] if sure else [("candidate", "2", "unsure", True)]
        assert [(one.by, one.version, one.route, one.is_attempt) for one in attempts] == tried, "it was computed"
        assert not sure or b"logprobs" in (one.answered.body or b""), "the pair keeps them"

    asyncio.run(run())


def test_a_client_that_asks_for_log_probabilities_gets_the_very_bytes() -> None:
    async def run() -> None:
        async with cascade(says("cheap", SURE)) as found:
            _, _, answer = await found.one.ask(ASKED | {"logprobs": 0})
            assert json.loads(answer)["choices"][0]["logprobs"] == {"token_logprobs": SURE}
            assert json.loads(found.cheap.seen[0][1]) == ASKED | {"logprobs": 0}

    asyncio.run(run())


async def _dies(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _hangs(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def _breaks_off(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"choices": [{"text": "half"}]}\n\n')
    return response


async def _says_no_json(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="<html>", content_type="application/json")


async def _ends_in_no_json(request: web.BaseRequest) -> web.StreamResponse:
    told = {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.1]}}]}
    body = b"data: " + json.dumps(told).encode() + b"\n\ndata: [DONE]\n\ndata: {\n\n"
    return web.Response(body=body, content_type="text/event-stream")


@pytest.mark.parametrize(
    "fault", [_dies, _hangs, _breaks_off, _says_no_json, _ends_in_no_json, says("cheap", SURE, status=503)]
)
def test_a_cheap_one_that_fails_costs_a_client_nothing_but_time(fault: Handler) -> None:
    async def run() -> None:
        async with cascade(fault) as found:
            status, _, answer = await found.one.ask()
            assert (status, b"precise" in answer) == (200, True)
            assert found.seen[0].route == "failed"
            assert 'reason="failed"} 1.0' in found.one.gateway.metrics.page()
            await asyncio.sleep(0)
            assert found.one.gateway.candidate is not None and found.one.gateway.candidate.in_flight == 0

    asyncio.run(run())


def test_a_precise_one_that_refuses_is_told_as_it_is() -> None:
    async def run() -> None:
        async with cascade(says("cheap", UNSURE), says("no", status=429)) as found:
            status, _, answer = await found.one.ask()
            assert (status, b"no" in answer) == (429, True)
            assert [one.is_attempt for one in found.seen] == [True]
        async with cascade(says("cheap", UNSURE), _dies) as found:
            assert (await found.one.ask())[0] == 502

    asyncio.run(run())


def test_the_champion_may_be_the_cheap_one() -> None:
    async def run() -> None:
        async with cascade(says("precise"), says("cheap", UNSURE)) as found:
            found.one.gateway.router = router([], CASCADE, cheap="champion")
            assert b"precise" in (await found.one.ask())[2]
            assert [(one.by, one.route) for one in found.seen if not one.is_attempt] == [("candidate", "unsure")]
        async with cascade(says("precise"), _dies) as found:
            found.one.gateway.router = router([], CASCADE, cheap="champion")
            assert b"precise" in (await found.one.ask())[2]
            assert [(one.by, one.route) for one in found.seen] == [("candidate", "failed")]
            page = found.one.gateway.metrics.page()
            assert 'routed_total{arm="candidate",gen_ai_request_model="demo",reason="failed"}' in page
        async with cascade(_dies, says("cheap", UNSURE)) as found:
            found.one.gateway.router = router([], CASCADE, cheap="champion")
            assert b"cheap" in (await found.one.ask())[2], "an unsure answer rather than none"
            attempt, one = found.seen
            assert (attempt.by, attempt.is_attempt) == ("champion", True)
            assert (one.by, one.route, one.answered.status) == ("candidate", "failed", 502), "its error is its own"
            assert 'routed_total{arm="champion",gen_ai_request_model="demo",reason="failed"}' in (
                found.one.gateway.metrics.page()
            )

    asyncio.run(run())


def test_a_client_that_hangs_up_ends_the_cheap_answer_too() -> None:
    async def run() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            begun.set()
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
            return web.Response()

        async with cascade(answer) as found:
            asking = asyncio.create_task(found.one.ask())
            await begun.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await ended.wait()
            while requests(found.one.gateway.metrics.page(), "499") != ["2"]:
                await asyncio.sleep(0.01)
            assert not found.precise.seen and not found.seen

    asyncio.run(run())


def test_rules_go_before_the_split_and_are_counted() -> None:
    async def run() -> None:
        async with cascade(says("cheap")) as found:
            gateway = found.one.gateway
            gateway.split = SplitConfig(share=1.0)
            gateway.router = router(
                [{"name": "sums", "pattern": "one", "arm": "champion"}, {"name": "b", "pattern": "b"}]
            )
            assert b"precise" in (await found.one.ask())[2]
            assert b"cheap" in (await found.one.ask(ASKED | {"prompt": "b"}))[2], "by the split"
            told = [(one.by, one.route, one.prompt_class) for one in found.seen]
            assert told == [("champion", "rule", "sums"), ("candidate", "", "b")]
            gateway.candidate = None
            assert b"precise" in (await found.one.ask(ASKED | {"prompt": "b"}))[2]
            page = gateway.metrics.page()
            assert 'reason="rule"} 1.0' in page
            assert page.count("quantbench_gateway_routed_total{") == 1, "the split's are not among them"

    asyncio.run(run())


def test_the_client_s_bytes_but_for_what_it_did_not_ask() -> None:
    whole = {"id": "x", "choices": [{"text": "ä\ud800", "logprobs": {"token_logprobs": [-1]}}], "usage": {"a": 1}}
    body = json.dumps(whole).encode()
    found = without_logprobs(Answered(200, "application/json", body, 0, 0, 0))
    assert json.loads(found) == whole | {"choices": [{"text": "ä\ud800", "logprobs": None}]}
    events = b": comment\n\ndata: " + body + b"\r\n\r\ndata: [DONE]\n\n"
    stripped = without_logprobs(Answered(200, "text/event-stream", events, 0, 0, 0))
    assert stripped.startswith(b": comment\n\ndata: {") and stripped.endswith(b"\r\n\r\ndata: [DONE]\n\n")
    assert b"token_logprobs" not in stripped


@pytest.mark.parametrize(
    ("path", "fields", "wanted"),
    [
        (COMPLETIONS, {}, {"logprobs": 0}),
        (COMPLETIONS, {"logprobs": 0}, {"logprobs": 0}),
        (COMPLETIONS, {"logprobs": 5}, {"logprobs": 5}),
        (COMPLETIONS, {"logprobs": None}, {"logprobs": 0}),
        (CHAT, {}, {"logprobs": True}),
        (CHAT, {"logprobs": False}, {"logprobs": True}),
        (CHAT, {"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_log_probabilities_are_asked_for_as_each_api_has_it(
    path: str, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    found = with_logprobs(asked(fields, path))
    assert found.fields == {"model": "demo"} | wanted == json.loads(found.body)
