"""A ramp from the first share to the promotion, with the real processes beside a gateway and clients that keep asking.

The models' servers are stand-ins that answer at once; tests/integration/test_gateway.py has real ones.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from registry.contracts.live_verdict import LiveVerdict
from registry.ledger import faults_of
from registry.pair_database import read_pair_database, read_pairs_of, read_trial
from serving_checks.gateway.split import drawn
from serving_checks.server import free_port
from tests.postgresql import postgresql
from tests.unit.pipelines.test_gateway import Lab

pytestmark = pytest.mark.slow

RAMP = ("split.ramp=[0.5, 1.0]", "verdict.metrics={same: 0.5}")
STORES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)]
USERS = [f"user-{number}" for number in range(12)]


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


@pytest.fixture(params=STORES)
def shared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """With a ledger that several gateways use."""
    if request.param == "sqlite":
        yield Lab(tmp_path, monkeypatch)
        return
    with postgresql() as server:
        server.database("team")
        yield Lab(tmp_path, monkeypatch, server.uri("team"))


class Clients:
    """Ask all the time, each as a user."""

    def __init__(self, lab: Lab, port: int | None = None) -> None:
        self._lab, self._port = lab, port
        self.answers: list[tuple[str, int, str]] = []

    async def ask(self, session: aiohttp.ClientSession, user: str) -> None:
        while True:
            status, text = await self._lab.ask(session, user, self._port)
            self.answers.append((user, status, text))
            # Not faster than the copies are asked: what finds no room in the mirror's queue makes no pair.
            await asyncio.sleep(0.02)

    def answered_by(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for user, _, text in self.answers:
            found.setdefault(user, set()).add(text)
        return found


@asynccontextmanager
async def asking(lab: Lab, session: aiohttp.ClientSession, port: int | None = None) -> AsyncIterator[Clients]:
    clients = Clients(lab, port)
    tasks = [asyncio.create_task(clients.ask(session, user)) for user in USERS]
    try:
        yield clients
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
        assert {status for _, status, _ in clients.answers} == {200}, "no request failed"


async def verdict_of(lab: Lab, session: aiohttp.ClientSession, port: int | None = None) -> LiveVerdict:
    async with session.get(f"http://127.0.0.1:{port or lab.port}/verdict") as answer:
        assert answer.status == 200
        return LiveVerdict.model_validate_json(await answer.read())


def kinds(lab: Lab) -> list[str]:
    return [row.kind for row in lab.ledger.entries(lab.model, "ramp:shadow")]


def alike(lab: Lab) -> None:
    """The candidate says what the champion says, but for the sign by which a test knows it."""
    lab.says |= {"1": "the same", "2": "the same", "3": "the same"}


def test_from_the_first_share_to_the_promotion_and_back(one: Lab) -> None:
    alike(one)

    async def run() -> None:
        one.move("champion", "1")
        async with one.running(*RAMP) as session, asking(one, session) as clients:
            assert (await verdict_of(one, session)).outcome == "continue"
            one.move("shadow", "2")
            await one.until(lambda: kinds(one) == ["begin", "advance", "pass"])
            while (said := await verdict_of(one, session)).outcome != "pass":
                await asyncio.sleep(0.02)
            assert (said.share, said.state, said.step, said.pairs >= 7) == (1.0, "passed", 1, True)
            assert said.next == "quantbench registry promote NAME --to champion"
            before = len(clients.answers)
            one.move("champion", "2")
            await one.until(lambda: "version 2 answers clients" in one.told and one.up == ["2"])
            one.move("champion", "1")
            await one.until(lambda: "version 1 answers clients" in one.told)
            await one.until(lambda: kinds(one)[-1] == "stop")
            assert (await verdict_of(one, session)).share == 0, "what was taken back answers nobody"
            await one.until(lambda: len(clients.answers) > before + 50)
        assert one.started == ["1", "2", "1"], "what was the shadow is not started again as the champion"

    asyncio.run(run())
    rows = one.ledger.entries(one.model, "ramp:shadow")
    assert faults_of(rows, one.ledger.projected(one.model, "ramp:shadow")) == []
    assert all("surely within their limits" in row.why for row in rows[1:3])
    path = one.workspace.root / "shadow" / "live" / "pairs.db"
    pairs = read_pair_database(path).to_pylist()
    assert {pair["source"] for pair in pairs} == {"mirror", "split"}
    assert all({pair["champion"]["version"], pair["candidate"]["version"]} == {"1", "2"} for pair in pairs)


def test_users_keep_their_model_and_a_fail_takes_it_away(one: Lab) -> None:
    """The candidate's words differ always: it fails, and stays away."""

    async def run() -> None:
        one.move("champion", "1")
        one.move("shadow", "2")
        async with one.running("split.ramp=[0.3, 1.0]", RAMP[1]) as session, asking(one, session) as clients:
            await one.until(lambda: kinds(one) == ["begin", "fail"])
            while (said := await verdict_of(one, session)).outcome != "fail":
                await asyncio.sleep(0.02)
            assert said.share == 0
            inside = {user for user in USERS if drawn(user) < 0.3}
            found = clients.answered_by()
            assert {user for user in found if "from 2" in found[user]} <= inside
            for _ in range(2):
                # Twice, since some were asked before.
                clients.answers.clear()
                await one.until(lambda: len(clients.answers) > 50)
            assert set.union(*clients.answered_by().values()) == {"from 1"}
            assert kinds(one) == ["begin", "fail"]
            one.move("shadow", "3")
            await one.until(lambda: kinds(one)[:3] == ["begin", "fail", "begin"])

    asyncio.run(run())


def test_started_again_amid_a_step_it_goes_on_with_its_pairs(one: Lab) -> None:
    alike(one)
    # What takes thousands of pairs.
    config = ("split.ramp=[0.5, 1.0]", "verdict.metrics={same: 0.99}")
    path = one.workspace.root / "shadow" / "live" / "pairs.db"

    async def until_pairs(session: aiohttp.ClientSession, least: int) -> None:
        async with asking(one, session):
            while (trial := read_trial(path)) is None or trial.pairs < least:
                await asyncio.sleep(0.05)

    async def run() -> None:
        one.move("champion", "1")
        one.move("shadow", "2")
        async with one.running(*config) as session:
            await until_pairs(session, 10)
        first = read_trial(path)
        assert first is not None
        async with one.running(*config) as session:
            while (said := await verdict_of(one, session)).verdict is None:
                await asyncio.sleep(0.02)
            assert (said.outcome, said.pairs, said.state, said.share) == ("continue", first.pairs, "running", 0.5)
            await until_pairs(session, first.pairs + 5)
            second = read_trial(path)
            assert second is not None and second.trial == first.trial
            assert kinds(one) == ["begin"]
        places = read_pairs_of(path, first.trial.name)["number"].to_pylist()
        assert places == list(range(len(places)))

    asyncio.run(run())


def test_a_budget_that_is_used_up_pauses(one: Lab) -> None:
    alike(one)
    config = ("split.ramp=[0.5, 1.0]", "verdict={metrics: {same: 0.9}, alpha: 0.000001, budget_pairs: 10}")

    async def run() -> None:
        one.move("champion", "1")
        one.move("shadow", "2")
        async with one.running(*config) as session, asking(one, session):
            await one.until(lambda: kinds(one) == ["begin", "pause"])
            while (said := await verdict_of(one, session)).outcome != "inconclusive":
                await asyncio.sleep(0.02)
            assert (said.share, said.pairs) == (0.5, 10)

    asyncio.run(run())


def test_two_gateways_on_one_ledger_swap_under_load(shared: Lab) -> None:
    alike(shared)
    port = free_port(None)
    other = ("name=other", f"listen.port={port}")

    async def run() -> None:
        shared.move("champion", "1")
        async with (
            shared.running(*RAMP) as session,
            shared.running(*RAMP, *other),
            asking(shared, session) as here,
            asking(shared, session, port) as there,
        ):
            shared.move("shadow", "2")
            await shared.until(lambda: kinds(shared) == ["begin", "advance", "pass"])
            standings: list[Any] = []
            while not standings or {one.state for one in standings} != {"passed"}:
                standings = [await verdict_of(shared, session, one) for one in (None, port)]
            assert [one.share for one in standings] == [1.0, 1.0]
            for version in ("2", "1", "3"):
                shared.told.clear()
                shared.move("champion", version)
                await shared.until(lambda version=version: shared.told.count(f"version {version} answers clients") == 2)
            for clients in (here, there):
                before = len(clients.answers)
                await shared.until(lambda clients=clients, before=before: len(clients.answers) > before + 20)
        assert shared.up == []

    asyncio.run(run())
    rows = shared.ledger.entries(shared.model, "ramp:shadow")
    assert len({row.who for row in rows[:3]}) == 1, "one of them is the judge"
    assert faults_of(rows, shared.ledger.projected(shared.model, "ramp:shadow")) == []
    assert json.dumps([row.model_dump(mode="json") for row in rows])
