"""The dashboard and the alerts with a real Prometheus server that looks at a real gateway."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboard import ALERTS, asked_by, dashboard
from tests.prometheus_server import Prometheus, prometheus, promtool
from tests.watched_gateway import Timed, Watched, ramped, watched_gateway

pytestmark = pytest.mark.service

_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def traffic(one: Watched, seconds: float) -> None:
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until:
        number += 1
        await one.ask(f"prompt {number}" + (" fail" if number % 20 == 0 else ""), chat=number % 2 == 0, **_USAGE)
        if number % 7 == 0:
            await one.ask("one", model="another")


def test_each_panel_has_data_and_no_alert_fires_without_reason(tmp_path: Path) -> None:
    async def run() -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]], str]:
        with_pace = {"champion": Timed(0.02, 0.005), "candidate": Timed(0.01, 0.003, "five")}
        async with watched_gateway(tmp_path, share=0.3, **with_pace) as one:
            with prometheus(tmp_path, one.base.removeprefix("http://"), ALERTS) as server:
                one.gateway.standing.followed(ramped(0.3, 1))
                await traffic(one, 12)
                page = await one.text("/metrics")
                return await asyncio.to_thread(_asked_all, server), await asyncio.to_thread(server.rules), page

    told, rules, page = asyncio.run(run())
    assert {title for title, series in told.items() if not series} == set()
    assert {rule["health"] for rule in rules} == {"ok"}
    assert len(rules) == len(yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"])
    # A twentieth of the requests fails, for less time than an alert waits.
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} == set()
    assert promtool("check", "metrics", stdin=page) == "", "as Prometheus' own rules of names have it"


def _asked_all(server: Prometheus) -> dict[str, list[dict[str, Any]]]:
    return {
        f"{one.panel['title']}: {one.legend}": server.query(one.asked_over("10s"))
        for one in asked_by(dashboard()["panels"])
    }


def test_an_alert_fires_when_the_gateway_is_gone(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    groups = yaml.safe_load(ALERTS.read_text())
    groups["groups"][0]["rules"] = [rule | {"for": "1s"} for rule in groups["groups"][0]["rules"]]
    rules.write_text(json.dumps(groups))
    with prometheus(tmp_path, "127.0.0.1:9", rules) as server:
        for _ in range(100):
            firing = {rule["name"] for rule in server.rules() if rule["state"] == "firing"}
            if firing:
                break
            time.sleep(0.2)
    assert firing == {"GatewayDown"}


def test_the_rules_are_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


def test_each_alert_fires_for_its_reason_and_for_no_other(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("alerts_test.yaml")
    text = cases.read_text().replace("RULES", str(ALERTS))
    (tmp_path / "cases.yaml").write_text(text)
    promtool("test", "rules", "cases.yaml", cwd=tmp_path)
    tried = {
        alert["alertname"]
        for case in yaml.safe_load(text)["tests"]
        for alert in case["alert_rule_test"]
        if alert["exp_alerts"]
    }
    assert tried == {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
