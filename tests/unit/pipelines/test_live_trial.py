"""Gateways on one ledger agree on a ramp: who begins it, who lets it pass, what a person says, and where it ends."""

import asyncio
import threading
from pathlib import Path

import pytest

from configs.errors import StageError
from pipelines.decision.ramp import following_word
from pipelines.execution.live_trial import told
from registry.ledger import Ledger, faults_of
from registry.tracking.address import sqlite_uri
from tests.live_ramp import MODEL, FollowingGateway, moved, up_the_ramp


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return sqlite_uri(tmp_path / "ledger.db")


def promoted(uri: str) -> Ledger:
    ledger = Ledger(uri)
    moved(ledger, "champion", "1")
    moved(ledger, "shadow", "2")
    return ledger


def test_two_gateways_go_up_together_through_a_restart(uri: str) -> None:
    asyncio.run(up_the_ramp(uri))
    rows = Ledger(uri).entries(MODEL, "ramp:shadow")
    assert faults_of(rows, projected=4) == []
    assert faults_of(rows[:-1], projected=Ledger(uri).projected(MODEL, "ramp:shadow")), (
        "a row that is cut off is missed"
    )


def test_a_fail_at_any_gateway_takes_the_candidate_from_all(uri: str) -> None:
    async def run() -> None:
        promoted(uri)
        one, other = FollowingGateway(uri, "one"), FollowingGateway(uri, "other")
        await one.look()
        await other.look()
        other.judged.says("fail")
        assert (await other.look()).share == 0
        standing = await one.look()
        assert standing.record is not None and (standing.share, standing.record.state) == (0, "failed")
        # It stays there, whatever comes later, until something is promoted to be tried.
        one.judged.says("pass")
        moved(Ledger(uri), "champion", "3")
        assert (await one.look()).share == 0
        moved(Ledger(uri), "shadow", "4")
        again = await one.look()
        assert again.record is not None
        assert (again.share, again.record.candidate, again.record.champion) == (0.01, "sha256:4", "sha256:3")

    asyncio.run(run())


def test_of_two_that_begin_at_once_one_does(uri: str) -> None:
    promoted(uri)
    gateways = [FollowingGateway(uri, f"g{number}") for number in range(6)]
    barrier, found = threading.Barrier(len(gateways)), []

    def look(gateway: FollowingGateway) -> None:
        barrier.wait()
        found.append(asyncio.run(gateway.look()))

    threads = [threading.Thread(target=look, args=(gateway,)) for gateway in gateways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({standing.trial.name for standing in found}) == 1
    assert [row.kind for row in Ledger(uri).entries(MODEL, "ramp:shadow")] == ["begin"]


def test_a_gateway_that_is_behind_writes_nothing_and_has_pairs_of_nothing(uri: str) -> None:
    async def run() -> None:
        ledger = promoted(uri)
        one, behind = FollowingGateway(uri, "one"), FollowingGateway(uri, "behind")
        champion, shadow = (behind.aliases.target(role) for role in ("champion", "shadow"))
        assert champion and shadow
        moved(ledger, "champion", "3")
        await one.look()
        # Its new champion's server has not answered yet.
        standing = await behind.trial.standing(champion, shadow)
        assert (standing.share, standing.trial.name) == (0.01, "")
        assert behind.rows == []
        moved(ledger, "shadow", "4")
        await one.look()
        assert (await behind.trial.standing(champion, shadow)).share == 0, "what is tried now, it does not serve"

    asyncio.run(run())


def test_inconclusive_pauses_and_somebody_goes_on(uri: str) -> None:
    async def run() -> None:
        promoted(uri)
        one = FollowingGateway(uri, "one")
        first = await one.look()
        one.judged.says("inconclusive")
        paused = await one.look()
        assert paused.record is not None and (paused.record.state, paused.share) == ("paused", 0.01)
        said = told(paused, MODEL, *(one.aliases.target(role) for role in ("champion", "shadow")))  # type: ignore[arg-type]
        assert (said.outcome, said.state) == ("inconclusive", "paused")
        assert said.reason == "paused at 1 %, step 1 of 3: so it is"
        row = one.ramp.last()
        assert row is not None
        one.ramp.write(following_word(row.record, "resume"), row, "a person", "look again")
        again = await one.look()
        assert again.record is not None and again.record.state == "running"
        assert again.trial.name not in ("", first.trial.name), "with new pairs"
        assert again.verdict is None, "of which none was judged yet"
        kinds = [(entry.kind, entry.who) for entry in Ledger(uri).entries(MODEL, "ramp:shadow")]
        assert kinds == [
            ("begin", "gateway one"),
            ("pause", "gateway one"),
            ("resume", "a person"),
            ("begin", "gateway one"),
        ]

    asyncio.run(run())


def test_promoted_and_taken_back_it_answers_nobody(uri: str) -> None:
    async def run() -> None:
        ledger = promoted(uri)
        one = FollowingGateway(uri, "one", [1.0])
        await one.look()
        one.judged.says("pass")
        assert (await one.look()).share == 1
        moved(ledger, "champion", "2")
        # Meanwhile it is both, and nothing is tried; then it is taken back.
        moved(ledger, "champion", "1")
        standing = await one.look()
        assert standing.record is not None and (standing.share, standing.record.state) == (0, "stopped")
        assert one.rows[-1].why == "it was champion and was taken back"
        await one.look()
        assert len(one.rows) == 3, "and once"

    asyncio.run(run())


def test_a_pass_says_what_is_to_be_done(uri: str) -> None:
    async def run() -> None:
        promoted(uri)
        one = FollowingGateway(uri, "one", [1.0])
        champion, shadow = (one.aliases.target(role) for role in ("champion", "shadow"))
        assert champion and shadow
        before = told(await one.look(), MODEL, champion, shadow)
        assert (before.outcome, before.next, before.pairs) == ("continue", "", 0)
        one.judged.says("pass")
        said = told(await one.look(), MODEL, champion, shadow)
        assert (said.outcome, said.next) == ("pass", "quantbench registry promote model-2 --to champion")
        assert (said.share, said.pairs, said.verdict and said.verdict.outcome) == (1, 1200, "pass")

    asyncio.run(run())


def test_a_ledger_that_was_edited_is_no_ramp(uri: str, tmp_path: Path) -> None:
    import sqlite3

    async def run() -> None:
        promoted(uri)
        one = FollowingGateway(uri, "one")
        await one.look()
        with sqlite3.connect(tmp_path / "ledger.db") as connection:
            connection.execute("UPDATE quantbench_verdicts SET verdict = replace(verdict, '0.01', '0.91')")
        with pytest.raises(StageError, match="does not hold what a row of it was decided by"):
            await one.look()

    asyncio.run(run())
