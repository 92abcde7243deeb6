"""From a client's request to a pair in the database: the shadow's copy, its marks, and what a faulty shadow costs."""

import asyncio
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from configs.errors import StageError
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from pipelines.cli import main
from pipelines.execution.shadow_verdict import GATEWAY_FILE, PAIRS_FILE
from pipelines.stage_programs import live_pairs
from pipelines.stage_programs.live_pairs import LivePairs
from registry.contracts import Endpoint, GatewayRecord, Pair
from registry.pair_database import NO_TRIAL, PairDatabase, Trial, read_pair_database
from registry.sealed import write_sealed
from serving_checks.gateway.answer_reader import AnswerReader
from serving_checks.gateway.asked import COMPLETIONS, Asked
from serving_checks.gateway.config import MirrorConfig, PatienceConfig
from serving_checks.gateway.mirror import Mirror
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.tally import Tally
from serving_checks.gateway.upstream import Answered, Upstream
from tests.scripted_server import Scripted, scripted_server
from tests.unit.serving_checks.test_gateway import ASKED, Behind, lab


def nothing_read() -> AnswerReader:
    """Counts answers, and nobody asks for the numbers."""
    return AnswerReader(Tally("demo", None))


def says(text: str) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        usage = {"prompt_tokens": 2, "completion_tokens": len(text.split())}
        return web.json_response({"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage})

    return answer


async def refuses(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"error": {"message": "no"}}, status=503)


def recorded(
    tmp_path: Path, shadow_says: Any, *, keep_prompts: bool = False, asked: Any = ASKED
) -> tuple[list[Pair], Behind]:
    """Three requests through a gateway whose shadow answers so."""
    path, shadow = tmp_path / "pairs.db", Behind(shadow_says, "other name")

    async def run() -> None:
        with PairDatabase(path) as database:
            pairs = LivePairs(database.offer, nothing_read(), MirrorConfig(), keep_prompts=keep_prompts)

            def observe(observed: Observed) -> None:
                if pairs.wants(observed):
                    mirror.offer(observed)

            async with (
                Mirror(MirrorConfig(), pairs.ask_other) as mirror,
                lab(Behind(says("three four")), observe) as one,
                shadow.answering() as endpoint,
                Upstream("2", endpoint, PatienceConfig()) as pairs.candidate,
                asyncio.timeout(30),
            ):
                for number in range(3):
                    status, _, _ = await one.ask(
                        asked, headers={"x-request-id": f"id-{number}", "authorization": "mine"}
                    )
                    assert status == 200
                await mirror.settled()

    asyncio.run(run())
    return [Pair.model_validate(row) for row in read_pair_database(path).to_pylist()], shadow


def test_a_pair_a_request(tmp_path: Path) -> None:
    pairs, shadow = recorded(tmp_path, says("three five six"))
    assert [(pair.id, pair.number, pair.source) for pair in pairs] == [(f"id-{n}", n, "mirror") for n in range(3)]
    assert {pair.same for pair in pairs} == {False}
    assert [(pair.champion.completion_tokens, pair.candidate.completion_tokens) for pair in pairs] == [(2, 3)] * 3
    assert all(pair.prompt == pair.champion.text == "" and pair.champion.text_hash for pair in pairs), "no words"
    headers, body = shadow.seen[0]
    assert json.loads(body) == ASKED | {"model": "other name"}, "all fields, and the shadow's name of the model"
    assert headers["x-quantbench-shadow"] == "1"
    assert "authorization" not in headers
    assert (tmp_path / "pairs.db").stat().st_mode & 0o077 == 0


def test_words_are_kept_where_that_is_allowed(tmp_path: Path) -> None:
    pairs, _ = recorded(tmp_path, says("three four"), keep_prompts=True)
    assert {pair.same for pair in pairs} == {True}
    assert pairs[0].champion.text == "three four"
    assert "one two" in pairs[0].prompt


def test_a_shadow_that_refuses_is_a_failed_side(tmp_path: Path) -> None:
    pairs, _ = recorded(tmp_path, refuses)
    assert [pair.candidate.error for pair in pairs] == ["HTTP 503"] * 3
    assert {pair.same for pair in pairs} == {None}


TRIAL = Trial("now", "sha256:a", "sha256:b")


def asked_beside(
    tmp_path: Path, other: Endpoint, by: Arm = "champion", status: int = 200, moves: bool = False
) -> tuple[list[Pair], list[str]]:
    """One request that `by` answered; the other side is at `other`."""
    kept: list[Pair] = []

    async def run() -> list[str]:
        pairs = LivePairs(
            lambda pair, trial: kept.append(pair),
            nothing_read(),
            MirrorConfig(timeout_seconds=0.3),
            keep_prompts=False,
        )
        pairs.trial = TRIAL
        async with Upstream("2", other, PatienceConfig()) as upstream:
            pairs.champion = pairs.candidate = upstream
            asked = Asked("id-1", COMPLETIONS, {}, json.dumps(ASKED).encode(), ASKED)
            body = b'{"choices": [{"text": "two", "finish_reason": "stop"}]}' if status == 200 else b""
            answered = Answered(status, "application/json", body, 0, 0, 1)
            observed = Observed(asked, answered, by, "1", TRIAL.name)
            assert not pairs.wants(observed._replace(trial="before")), "of another comparison"
            assert pairs.wants(observed)
            asking = asyncio.create_task(pairs.ask_other(observed))
            if moves:
                await asyncio.sleep(0.05)
                pairs.trial = NO_TRIAL
            return [str(error) for error in await asyncio.gather(asking, return_exceptions=True) if error]

    return kept, asyncio.run(run())


@pytest.mark.parametrize(
    ("end", "said"), [("hang", "no answer within 0.3 s"), ("break", "no answer: "), ("gone", "no answer: ")]
)
@pytest.mark.parametrize("moves", [False, True])
def test_that_the_other_side_says_nothing_is_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Any, said: str, moves: bool
) -> None:
    """A candidate that answers only what it can would pass else. But that its server was stopped is no fault of it."""
    monkeypatch.setattr(live_pairs, "_MOVED_SECONDS", 0.1)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(30 if end == "hang" else 0)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    behind = Behind(answer, "other name")

    async def run() -> tuple[list[Pair], list[str]]:
        async with behind.answering() as endpoint:
            gone = endpoint.model_copy(update={"base_url": "http://127.0.0.1:9"})
            return await asyncio.to_thread(
                asked_beside, tmp_path, gone if end == "gone" else endpoint, "champion", 200, moves
            )

    pairs, errors = asyncio.run(run())
    if moves:
        assert (pairs, errors) == ([], ["the other side is gone"])
        return
    (pair,) = pairs
    assert pair.champion.error == "" and pair.candidate.error.startswith(said)
    assert pair.same is None and errors == []


def test_a_candidate_that_had_no_answer_for_its_client_has_none_in_the_pair(tmp_path: Path) -> None:
    said = {"choices": [{"text": "three", "finish_reason": "stop"}]}
    with scripted_server(lambda path, body: Scripted([said])) as (endpoint, _):
        pairs, errors = asked_beside(tmp_path, endpoint, "candidate", 502)
    (pair,) = pairs
    assert (pair.source, pair.candidate.error, pair.champion.error, errors) == ("split", "HTTP 502", "", [])
    assert (pair.champion.version, pair.candidate.version) == ("2", "1")


def test_several_answers_to_one_prompt_are_no_pair(tmp_path: Path) -> None:
    pairs, shadow = recorded(tmp_path, says("three"), asked=ASKED | {"n": 2})
    assert (pairs, shadow.seen) == ([], [])


def a_pair(number: int, at: datetime) -> Pair:
    side = {"status": 200, "characters": 1}
    told = {"prompt_hash": "sha256:p", "prompt_characters": 1, "champion": side, "candidate": side, "same": True}
    return Pair.model_validate({"id": f"id-{number}", "number": 0, "source": "mirror", "at": at} | told)


def test_pairs_are_kept_as_long_as_is_allowed_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.steady_clock.STEADY_SECONDS", 0.0)
    now, path = datetime.now(UTC), tmp_path / "pairs.db"
    for _ in range(2):
        with PairDatabase(path, keep=timedelta(days=1)) as database:
            for number in range(10):
                database.offer(a_pair(number, now - timedelta(hours=6 * number)))
    assert read_pair_database(path)["id"].to_pylist() == [f"id-{n}" for n in range(4)]


def test_a_database_that_refuses_costs_pairs_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "pairs.db"
    with PairDatabase(path) as database:
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE pairs")
        database.offer(a_pair(1, datetime.now(UTC)))
    assert (database.written, database.dropped) == (0, 1)
    assert "no such table" in str(database.failure)
    with pytest.raises(StageError, match="holds no pairs that can be read"):
        read_pair_database(path)
    path.write_text("none at all")
    with pytest.raises(StageError, match="holds no pairs that can be read"):
        read_pair_database(path)


def test_a_verdict_over_live_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = VerdictConfig.model_validate({"metrics": {"errors": 0.05, "same": 0.8}})
    frozen = {"verdict": config.model_dump(mode="json"), "verdict_digest": verdict_digest(config)}
    record = {"name": "live", "model": "demo", "started_at": datetime.now(UTC)}
    write_sealed(tmp_path / GATEWAY_FILE, GatewayRecord.model_validate(record | frozen))
    for pairs, code, said in ((3, 4, "continue"), (300, 0, "pass")):
        with PairDatabase(tmp_path / PAIRS_FILE) as database:
            for number in range(pairs):
                database.offer(a_pair(number, datetime.now(UTC)), Trial("one", "sha256:a", "sha256:b"))
        assert main(["shadow", "verdict", str(tmp_path)]) == code
        assert f"verdict: {said}" in capsys.readouterr().out
