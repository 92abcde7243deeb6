"""A gateway with its real observer, looked at: nothing of a client is told anywhere, and each name exists that the
dashboard and the alerts ask for."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipe.gateway_config import GatewayConfig
from registry.contracts import GatewayStatus
from serving_checks.transport.metrics import parse_metrics
from tests.dashboard import ALERTS, asked_by, dashboard
from tests.watched_gateway import Timed, Watched, ramped, watched_gateway

pytestmark = pytest.mark.slow

CANARY = "canary-7f3a"
"""In prompts, answers, names, keys and wherever else a client may write."""
_NAME = re.compile(r"\b(?:quantbench_gateway|gen_ai|process)_[a-z_]+")
_LABELS = {"gen_ai_token_type", "gen_ai_request_model"}


async def traffic(one: Watched) -> int:
    """Requests of all kinds, with the canary in all that is said; how many have an answer that is read."""
    words = f"repeat {CANARY} please"
    usage = {"stream_options": {"include_usage": True}}
    answered = [
        await one.ask(words, chat=chat, stream=stream, user=CANARY, **(usage if stream else {}))
        for chat in (True, False)
        for stream in (True, False)
        for _ in range(3)
    ]
    assert set(answered) == {200}
    assert await one.ask(f"fail {CANARY}") == 500
    assert await one.ask(words, model=CANARY) == 404
    assert await one.ask(words, n=CANARY, tools=[{"name": CANARY}], metadata={"a": CANARY}) == 200
    headers = {"x-user": CANARY, "cookie": CANARY, "user-agent": CANARY, "authorization": f"Bearer {CANARY}"}
    assert await one.ask(words, headers=headers) == 200
    async with one.session.post(f"{one.base}/v1/completions", data=f'{{"{CANARY}": }}') as answer:
        assert answer.status == 400
    async with one.session.get(f"{one.base}/{CANARY}?{CANARY}={CANARY}") as answer:
        assert answer.status == 404
    return len(answered) + 2


def events_in(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().split("\n") if line]


def test_nothing_of_a_client_is_told_anywhere_and_each_name_that_is_asked_for_is_there(tmp_path: Path) -> None:
    async def run() -> tuple[str, str]:
        async with watched_gateway(tmp_path, share=0.4, keep_prompts=False) as one:
            one.gateway.standing.followed(ramped(0.4, 1))
            await one.read(await traffic(one))
            await asyncio.sleep(1.1)  # the observer's page is told each second
            return await one.text("/metrics"), await one.text("/status")

    pages = asyncio.run(run())
    assert CANARY not in "".join(pages)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or CANARY.encode() not in file.read_bytes(), file
    answers = events_in(tmp_path, "requests.jsonl")
    assert {(one["event"], one["traffic"]) for one in answers} == {("answered", "client"), ("answered", "mirror")}
    assert {one["output_tokens"] for one in answers if one["status"] == 200} == {4}
    assert all(one["seconds"] > 0 for one in answers)
    told = events_in(tmp_path, "events.jsonl")
    assert told[0] | {"at": ""} == {"event": "moved", "at": "", "champion": "1", "candidate": "2"}
    refused = [(one["status"], one.get("code"), "version" in one) for one in told if one["event"] == "refused"]
    others = [(404, "model_not_found", False), (400, "invalid_json", False), (404, "unknown_url", False)]
    assert refused == [(500, None, True), *others]
    there = {sample.name for sample in parse_metrics(pages[0])}
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    expressions = [asked.expression for asked in asked_by(dashboard()["panels"])] + [rule["expr"] for rule in rules]
    asked = {name for expression in expressions for name in _NAME.findall(expression)} - _LABELS
    assert len(asked) > 25
    assert asked <= there


@pytest.mark.slow
def test_a_shadow_that_does_not_answer_is_a_number(tmp_path: Path) -> None:
    async def run() -> tuple[GatewayStatus, str]:
        slow = Timed(first_seconds=30)
        settings = {"mirror": {"timeout_seconds": 0.2}, "log": {"requests": False}}
        async with watched_gateway(tmp_path, candidate=slow, **settings) as one:
            assert await one.ask("one") == 200
            await one.read(1)
            await asyncio.sleep(1.1)
            status = GatewayStatus.model_validate_json(await one.text("/status"))
            return status, await one.text("/metrics")

    status, page = asyncio.run(run())
    assert status.mirror is not None and (status.mirror.done, status.mirror.pairs_written) == (1, 1)
    assert status.agreement is not None and (status.agreement.compared, status.agreement.failed) == (0, 1)
    assert status.candidate is not None and status.candidate.read is not None
    copies = status.candidate.read.mirrored
    assert copies is not None and (copies.requests, copies.failed) == (1, 1)
    assert 'status="504",traffic="mirror",version="2"} 1.0' in page
    assert not (tmp_path / "requests.jsonl").exists()


@pytest.mark.parametrize("wrong", [{"to": "syslog"}, {"file_mib": 0}, {"kept": 0}, {"prompts": True}])
def test_a_log_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GatewayConfig.model_validate({"version": 1, "name": "live", "model": "demo", "log": wrong})
