"""A gateway that follows a calibrated route as long as its artifacts are served. Servers are stand-ins."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.errors import RequestError
from pipelines.execution.gateway import open_gateway, run_gateway
from registry.contracts import GatewayRecord, RouteRecord
from registry.sealed import read_sealed, write_sealed
from tests.unit.pipelines.test_gateway import Lab


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Version 2 answers every prompt in the place of version 1."""
    lab = Lab(tmp_path, monkeypatch)
    class_by = {"rules": [{"name": "any", "at_least_characters": 1}]}
    record = RouteRecord(
        source="a test",
        cheap=lab.artifacts["2"],
        precise=lab.artifacts["1"],
        quality="score",
        loss=0.01,
        alpha=0.05,
        least_share=0.1,
        items=1,
        left_out={},
        items_digest="sha256:i",
        outcomes=[],
        chosen="classes",
        classes={"class_by": class_by, "cheap": ["any"]},  # type: ignore[arg-type] # as JSON has it
        made_at=datetime.now(UTC),
    )
    write_sealed(tmp_path / "route.json", record)
    lab.config_file.write_text(lab.config_file.read_text() + f"routing: {{calibration: {tmp_path / 'route.json'}}}\n")
    lab.move("champion", "1")
    return lab


def test_a_route_is_followed_while_its_artifacts_are_served(one: Lab) -> None:
    async def run() -> None:
        one.move("shadow", "2")
        async with one.running() as session:
            await one.until(lambda: "version 2 sees what clients ask" in one.told)
            assert await one.ask(session) == (200, "from 2")
            # The same two, the other way round: the cheap one is the champion now.
            one.move("champion", "2")
            await one.until(lambda: "version 2 answers clients" in one.told)
            one.move("shadow", "1")
            await one.until(lambda: "version 1 sees what clients ask" in one.told)
            assert await one.ask(session) == (200, "from 2")
            one.move("shadow", "3")
            away = "the calibrated route is of other artifacts than those served now: it is not followed"
            await one.until(lambda: "version 3 sees what clients ask" in one.told)
            assert away in one.told
            assert await one.ask(session) == (200, "from 2")
            one.move("champion", "1")
            await one.until(lambda: "version 1 answers clients" in one.told)
            assert await one.ask(session) == (200, "from 1"), "nobody but the champion"

    asyncio.run(run())


@pytest.mark.parametrize("shadow", [None, "3"])
def test_a_route_of_other_artifacts_is_refused_at_start(one: Lab, shadow: str | None) -> None:
    if shadow:
        one.move("shadow", shadow)
    with pytest.raises(RequestError, match="is a route between"):
        open_gateway(one.config_file, [], one.workspace)


def test_classes_are_frozen_with_the_first_pair(one: Lab, tmp_path: Path) -> None:
    one.move("shadow", "2")
    folder = one.workspace.replay_dir("live")
    frozen = {"verdict": {}, "started_at": datetime.now(UTC)}
    opened = open_gateway(one.config_file, ['routing.rules=[{"name": "a", "code": true}]'], one.workspace)
    with pytest.raises(RequestError) as raised:
        record = GatewayRecord(name="live", model="demo", verdict_digest="sha256:v", **frozen)  # type: ignore[arg-type]
        write_sealed(folder / "gateway.json", record)
        run_gateway(opened, one.workspace, one.told.append)
    assert "verdict" in raised.value.what, "judged otherwise comes first"
    from evals.judging.verdict_config import verdict_digest

    digest = verdict_digest(opened.config.verdict)
    write_sealed(folder / "gateway.json", record.model_copy(update={"verdict_digest": digest}))
    with pytest.raises(RequestError, match=r"classes by other `routing.rules`"):
        run_gateway(opened, one.workspace, one.told.append)
    assert read_sealed(folder / "gateway.json", GatewayRecord).class_by is None
