"""The judge's process: it says what it finds, is started again when it is killed, and ends with its gateway."""

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop

from evals.judging.verdict_config import VerdictConfig
from pipelines.execution.judging import JUDGE, Judging
from pipelines.stage_programs.live_judge import JudgeJob
from registry.contracts import JudgeSaid
from registry.pair_database import PairDatabase, Trial
from tests.shadow_pairs import pair

pytestmark = pytest.mark.slow  # two processes that import what a verdict takes, niced


def job(path: Path) -> JudgeJob:
    config = VerdictConfig.model_validate({"metrics": {"same": 0.5}})
    return JudgeJob(database=path, config=config, look_seconds=0.02)


def written(path: Path, trial: str, pairs: int) -> None:
    with PairDatabase(path) as database:
        for number in range(pairs):
            one = pair(number).model_copy(update={"at": datetime.now(UTC)})
            database.offer(one, Trial(trial, "sha256:a", "sha256:b"))


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def test_it_judges_one_trial_after_the_other_through_a_kill(tmp_path: Path) -> None:
    path, told = tmp_path / "pairs.db", list[str]()

    async def run() -> None:
        async with Judging(job(path), tmp_path / "judge.log", told.append) as judging:
            judging.watch("one")
            # It looks before there is a database, and goes on.
            await until(lambda: any("pairs are not judged" in text for text in told))
            written(path, "one", 3)
            await until(lambda: judging.latest[1])
            trial, verdict = judging.latest
            assert verdict and (trial, verdict.outcome, verdict.pairs, verdict.frozen) == ("one", "continue", 3, True)
            assert judging._process is not None
            os.kill(judging._process.pid, signal.SIGKILL)
            judging.watch("two")
            assert judging.latest == ("two", None), "what was said of another trial is none of this one's"
            written(path, "two", 40)
            await until(lambda: judging.latest[1])
            assert judging.latest[1] and judging.latest[1].outcome == "pass"
            judging.watch("")
            assert judging.latest == ("", None)

    # As in the gateway: its pipes are another implementation's.
    uvloop.run(run())
    assert any("the judge of the pairs ended, and is started again" in text for text in told)
    assert len([text for text in told if "pairs are not judged" in text]) == 1, "once, and not at each look"


def test_it_ends_when_the_gateway_is_gone(tmp_path: Path) -> None:
    written(tmp_path / "pairs.db", "one", 40)

    async def run() -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*JUDGE, stdin=pipe, stdout=pipe)
        assert process.stdin and process.stdout
        process.stdin.write(job(tmp_path / "pairs.db").model_dump_json().encode() + b"\none\n")
        said = JudgeSaid.model_validate_json(await process.stdout.readline())
        assert said.verdict and said.verdict.outcome == "pass"
        process.stdin.close()
        async with asyncio.timeout(20):
            assert await process.wait() == 0

    asyncio.run(run())
