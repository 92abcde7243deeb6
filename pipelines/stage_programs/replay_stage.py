"""The replay stage: a log's prompts through champion and candidate, a pair kept for each as soon as both have answered.

One after the other, the champion's replies are kept in a journal until the candidate has answered: they hold its words,
so the journal is its owner's to read only, and it is removed with the last pair.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from configs.errors import RequestError
from pipelines.recipe.replay_config import JudgeConfig, ReplayConfig, ReplayedModelConfig
from pipelines.stage_programs.engine_server import served
from pipelines.stage_programs.pair_making import Answered, pair_of, preferred, scored, scorer_of
from registry.contracts import FilesJob, ReplayRecord, Reply, StageJob, StageResult
from registry.contracts.base import Device, Record
from registry.journal import opened_journal, read_journal
from registry.pairs import PairWriter, read_pair_table
from registry.stage_process import StageClock, main
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import LaunchedEngine, ServerRequest
from serving_checks.engines.table import engine_of
from serving_checks.replay.asking import ReplayClient
from serving_checks.replay.config import AskingConfig
from serving_checks.replay.prompts import Prompt, read_prompts
from serving_checks.replay.schedule import ask_all
from serving_checks.server import RunningServer

CHAMPION_FILE = "champion.jsonl"
Side = Literal["champion", "candidate"]


class ReplaySide(Record):
    """Where one side's model is, and what its server is forked from."""

    model_dir: Path
    """Of no meaning for a server that runs already."""
    fork_server: Path | None = None
    """Address of a fork server of its engine; it is started in the plain way without."""


class ReplayJob(FilesJob):
    """Ask two models what a log asked."""

    config: ReplayConfig
    opened: ReplayRecord
    """As it was begun."""
    champion: ReplaySide
    candidate: ReplaySide
    device: Device
    threads: int


def replay(job: StageJob, clock: StageClock) -> StageResult:
    """Ask what is missing in `job.output_dir`, and say what all of it came to."""
    assert isinstance(job, ReplayJob)  # noqa: S101 - the table below says so
    folder, config = job.output_dir, job.config
    with clock.part("prompts"):
        read = read_prompts(config.prompts, config.class_by, config.answers.field if config.answers else None)
        if read.record != job.opened.prompts:
            raise RequestError(
                f"{config.prompts.file} was changed since the replay began: it reads otherwise",
                remedy="copy a log that is still written to, and replay the copy; where it was not changed, raise"
                " class_by.timeout_seconds: a search that is done now and not then changes what is asked",
            )
    sitting = _Sitting(job, clock, read.prompts)
    with PairWriter(folder) as writer:
        sitting.ask_missing(writer)
    # Only here, where the last pair is in a part.
    (folder / CHAMPION_FILE).unlink(missing_ok=True)
    table = read_pair_table(folder)
    failed = {side: sum(one["error"] != "" for one in table[side].to_pylist()) for side in ("champion", "candidate")}
    record = job.opened.model_copy(
        update={
            "finished_at": datetime.now(UTC),
            "pairs": table.num_rows,
            "champion_errors": failed["champion"],
            "candidate_errors": failed["candidate"],
            "seconds": clock.timings_seconds,
            "warnings": [*_doubts(config), *sitting.warnings],
        }
    )
    return StageResult(stage=job.stage, record=record.model_dump(mode="json"))


class _Sitting:
    """One attempt to ask all that is missing."""

    def __init__(self, job: ReplayJob, clock: StageClock, prompts: Sequence[Prompt]) -> None:
        self._job, self._clock, self._prompts = job, clock, prompts
        self._asking = job.config.asking
        self._score = scorer_of(job.config, prompts)
        self.warnings: list[str] = []

    def ask_missing(self, writer: PairWriter) -> None:
        known = set(read_pair_table(self._job.output_dir)["id"].to_pylist())
        missing = [prompt for prompt in self._prompts if prompt.id not in known]
        if not missing:
            return
        if self._job.config.asks_together:
            self._ask_together(missing, writer)
        else:
            self._ask_champion(missing)
            self._ask_candidate(missing, writer)

    def _ask_together(self, missing: Sequence[Prompt], writer: PairWriter) -> None:
        with ExitStack() as serving:
            champion, candidate = (serving.enter_context(self._served(side)) for side in ("champion", "candidate"))
            with self._clock.part("answers"):
                asyncio.run(self._both(missing, champion, candidate, writer))

    async def _both(
        self, missing: Sequence[Prompt], champion: RunningServer, candidate: RunningServer, writer: PairWriter
    ) -> None:
        async with AsyncExitStack() as clients:
            of_champion = await clients.enter_async_context(_client(champion, self._asking))
            of_candidate = await clients.enter_async_context(_client(candidate, self._asking))
            judge = await self._judge(clients)
            progress = _Progress(self._clock, "both models", len(self._prompts), len(missing))

            async def ask(prompt: Prompt) -> Answered:
                # Where both share a machine, the first one has it to itself for a moment.
                order = (of_champion, of_candidate) if prompt.number % 2 == 0 else (of_candidate, of_champion)
                replies = await asyncio.gather(*(client.ask(prompt) for client in order))
                one, other = replies if order[0] is of_champion else reversed(replies)
                return await self._compared(prompt, one, other, of_candidate, judge)

            def keep(prompt: Prompt, answered: Answered) -> None:
                writer.write(pair_of(prompt, answered, self._score, keep_prompts=self._job.config.keep_prompts))
                progress.add(answered.champion, answered.candidate)

            await ask_all(missing, ask, _failure_of_either, keep, self._asking.concurrency)

    def _ask_champion(self, missing: Sequence[Prompt]) -> None:
        path = self._job.output_dir / CHAMPION_FILE
        answered = {reply.id for reply in read_journal(path, Reply)}
        left = [prompt for prompt in missing if prompt.id not in answered]
        if not left:
            return
        with (
            self._served("champion") as server,
            opened_journal(path, Reply) as journal,
            self._clock.part("champion_answers"),
        ):
            progress = _Progress(self._clock, "champion", len(self._prompts), len(left))

            def keep(prompt: Prompt, reply: Reply) -> None:
                journal.append(reply)
                progress.add(reply)

            async def work() -> None:
                async with _client(server, self._asking) as client:
                    await ask_all(left, client.ask, _failure_of, keep, self._asking.concurrency)

            asyncio.run(work())

    def _ask_candidate(self, missing: Sequence[Prompt], writer: PairWriter) -> None:
        replies = {reply.id: reply for reply in read_journal(self._job.output_dir / CHAMPION_FILE, Reply)}
        with self._served("candidate") as server, self._clock.part("candidate_answers"):
            progress = _Progress(self._clock, "candidate", len(self._prompts), len(missing))

            def keep(prompt: Prompt, answered: Answered) -> None:
                writer.write(pair_of(prompt, answered, self._score, keep_prompts=self._job.config.keep_prompts))
                progress.add(answered.candidate)

            async def work() -> None:
                async with AsyncExitStack() as clients:
                    client = await clients.enter_async_context(_client(server, self._asking))
                    judge = await self._judge(clients)

                    async def ask(prompt: Prompt) -> Answered:
                        return await self._compared(prompt, replies[prompt.id], await client.ask(prompt), client, judge)

                    await ask_all(missing, ask, _failure_of_candidate, keep, self._asking.concurrency)

            asyncio.run(work())

    async def _compared(
        self, prompt: Prompt, champion: Reply, candidate: Reply, client: ReplayClient, judge: ReplayClient | None
    ) -> Answered:
        """What is asked once both have answered: of the candidate, and of the judge."""
        score = await scored(champion, candidate, client) if self._asking.score_answers else None
        config = self._job.config.judge
        preference = await preferred(prompt, champion, candidate, config, judge) if config and judge else None
        return Answered(champion, candidate, score, preference)

    async def _judge(self, clients: AsyncExitStack) -> ReplayClient | None:
        config: JudgeConfig | None = self._job.config.judge
        if config is None:
            return None
        engine = engine_of(config.serving)
        request = ServerRequest(config.serving, Path(), "float32", self._job.device, None)
        with served(request, self._job.output_dir / "judge.log") as server:
            # A server that runs already goes on when the block ends.
            asking = AskingConfig(timeout_seconds=self._asking.timeout_seconds)
            return await clients.enter_async_context(ReplayClient(server.endpoint, engine, asking))

    @contextmanager
    def _served(self, side: Side) -> Iterator[RunningServer]:
        """The server of one side, once it answers."""
        job = self._job
        config: ReplayedModelConfig = getattr(job.config, side)
        where: ReplaySide = getattr(job, side)
        serving, dtype = config.serving or job.config.serving, getattr(job.opened, side).dtype
        request = ServerRequest(serving, where.model_dir, dtype, job.device, job.threads)
        starting = ExitStack()
        with self._clock.part(f"{side}_start"):
            server = starting.enter_context(
                served(
                    request,
                    job.output_dir / f"{side}-server.log",
                    fork_server=where.fork_server,
                    patience=job.config.deadlines.of_server,
                )
            )
        with starting:
            if isinstance(server.engine, LaunchedEngine):
                # The first answer takes longer than all others: it is no prompt's.
                smoke_answer(server.endpoint, with_logprobs=False, remedy_for=server.engine.remedy_for)
            yield server
            self.warnings += [f"{side}: {warning}" for warning in server.facts.warnings]


class _Progress:
    """Tells how far a sitting is, how fast, and how many errors there were."""

    def __init__(self, clock: StageClock, who: str, total: int, missing: int) -> None:
        self._clock, self._who, self._total = clock, who, total
        self._done, self._tokens, self._errors = total - missing, 0, 0
        self._start = time.monotonic()
        self.add()

    def add(self, *replies: Reply) -> None:
        """Count one prompt's replies, none at the beginning."""
        self._done += bool(replies)
        self._tokens += sum(reply.completion_tokens or 0 for reply in replies)
        self._errors += sum(bool(reply.error) for reply in replies)
        rate = self._tokens / max(time.monotonic() - self._start, 1e-3)
        told = f"{self._who}: {rate:.0f} tokens/s, {self._errors} errors, prompts"
        self._clock.progress(told, self._done, self._total)


def _doubts(config: ReplayConfig) -> list[str]:
    """Why latencies of the two sides do not compare."""
    told = []
    if config.asking.score_answers:
        told.append("latencies do not compare: the candidate also scored the champion's answers while it gave its own")
    if config.asks_together and not (config.champion.runs_already or config.candidate.runs_already):
        told.append("latencies do not compare with others: both servers shared this machine")
    return told


def _client(server: RunningServer, config: AskingConfig) -> ReplayClient:
    return ReplayClient(server.endpoint, server.engine, config)


def _failure_of(reply: Reply) -> str | None:
    """What may be the server's fault; its refusal of one prompt (4xx) is an answer of a kind."""
    return reply.error if reply.error and not 400 <= reply.status < 500 else None


def _failure_of_either(answered: Answered) -> str | None:
    return _failure_of(answered.champion) or _failure_of(answered.candidate)


def _failure_of_candidate(answered: Answered) -> str | None:
    return _failure_of(answered.candidate)


if __name__ == "__main__":
    sys.exit(main({"replay": (ReplayJob, replay)}))
