"""The observer's process: fed, killed, ended, orphaned, and what its socket may bring. The process is the real one."""

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import msgspec
import pytest

from configs.errors import StageError
from pipelines.execution.gateway import OBSERVER
from registry.contracts import Endpoint
from registry.pair_database import read_pair_database
from serving_checks.gateway.asked import COMPLETIONS, Asked
from serving_checks.gateway.config import MirrorConfig, PatienceConfig
from serving_checks.gateway.observed import Arms, Begin, End, Message, Observed, ObserverJob, Served, frame_of, messages
from serving_checks.gateway.observer import Observer
from serving_checks.gateway.upstream import Answered
from tests.unit.pipelines.test_live_pairs import says
from tests.unit.serving_checks.test_gateway import ASKED, Behind

pytestmark = pytest.mark.slow

BODY = b'{"choices": [{"text": "two", "finish_reason": "stop"}]}'


def observed(number: int, version: str = "1") -> Observed:
    asked = Asked(f"id-{number}", COMPLETIONS, {}, msgspec.json.encode(ASKED), ASKED)
    now = perf_counter()
    return Observed(asked, Answered(200, "application/json", BODY, now, now, now), "champion", version)


def job(folder: Path) -> ObserverJob:
    return ObserverJob(
        database=folder / "pairs.db",
        keep_days=1,
        keep_prompts=False,
        mirror=MirrorConfig(timeout_seconds=20),
        patience=PatienceConfig(),
        model="demo",
    )


@asynccontextmanager
async def running(folder: Path, told: list[str], shadow: Behind) -> AsyncIterator[Observer]:
    async with (
        shadow.answering() as endpoint,
        Observer(OBSERVER, job(folder), folder / "observer.log", told.append) as observer,
        asyncio.timeout(60),
    ):
        observer.ask(Arms(None, Served.at("2", endpoint)))
        yield observer


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_killed_it_is_started_again_and_what_was_lost_is_counted(tmp_path: Path) -> None:
    told: list[str] = []

    async def run() -> None:
        before = children()
        async with running(tmp_path, told, Behind(says("two"), "other")) as observer:
            (first,) = children() - before
            for number in range(3):
                observer.offer(observed(number))
            observer.offer(observed(3, version="2"))
            observer.offer(observed(4)._replace(is_attempt=True))
            await until(lambda: observer.counts.written == 3 and observer.counts.read == 5)
            assert observer.counts.mirrored == 3, "a model is not compared with itself, nor what no client has"
            os.kill(first, signal.SIGKILL)
            await until(lambda: told)
            for number in range(10, 13):
                observer.offer(observed(number))
            assert observer.unobserved == 3, "there was nobody"
            await until(lambda: children() - before - {first})
            observer.offer(observed(20))
            await until(lambda: observer.unobserved > 3 or observer.counts.read == 5)

            def written_at_last() -> bool:
                # It may take a while until there is somebody; of one id there is one pair.
                observer.offer(observed(21))
                return observer.counts.written >= 4

            await until(written_at_last)
        assert children() == before, "none is left behind"

    asyncio.run(run())
    assert "the observer ended, and is started again in 0.5 s" in told[0]
    pairs = read_pair_database(tmp_path / "pairs.db").to_pylist()
    found = {pair["id"] for pair in pairs}
    assert {"id-0", "id-1", "id-2"} < found
    assert not {"id-3", "id-4", "id-10", "id-11", "id-12"} & found
    assert {(pair["champion"]["version"], pair["candidate"]["version"]) for pair in pairs} == {("1", "2")}


def test_at_the_end_what_waits_is_asked_and_written(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path, [], Behind(says("two"), "other")) as observer:
            for number in range(50):
                observer.offer(observed(number))
        assert (observer.counts.written, observer.counts.waiting, observer.unobserved) == (50, 0, 0)

    asyncio.run(run())
    assert read_pair_database(tmp_path / "pairs.db").num_rows == 50


def test_one_that_does_not_start_is_an_error_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_checks.gateway.observer._STARTING_SECONDS", 0.3)
    argv = (sys.executable, "-c", "import sys; sys.exit('no such module')")

    async def run() -> None:
        with pytest.raises(StageError, match=r"did not start; .*observer.log says why"):
            async with Observer(argv, job(tmp_path), tmp_path / "observer.log", lambda text: None):
                pass

    asyncio.run(run())
    assert "no such module" in (tmp_path / "observer.log").read_text()


@pytest.mark.parametrize("wrong", ["says no frame", "has no log"])
def test_whatever_ends_it_it_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setattr("serving_checks.gateway.observer._LEAST_REST_SECONDS", 0.01)
    monkeypatch.setattr("serving_checks.gateway.observer._MOST_REST_SECONDS", 0.05)
    told: list[str] = []
    said = r"b'\x00\x00\x00\x01\xc1'"
    argv = (sys.executable, "-c", f"import os, sys; os.write(int(sys.argv[1]), {said})")

    async def run() -> None:
        observer = Observer(argv, job(tmp_path), tmp_path / "logs" / "observer.log", told.append)
        if wrong == "says no frame":
            (tmp_path / "logs").mkdir()
        async with asyncio.timeout(60):
            observer._task = asyncio.create_task(observer._keep_running())
            await until(lambda: len(told) > 2)
            await observer._stopped()

    asyncio.run(run())
    assert ("DecodeError" if wrong == "says no frame" else "No such file") in told[0]


def test_what_is_no_text_costs_nobody_an_answer(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path, [], Behind(says("two"), "other")) as observer:
            one = observed(1)
            odd = one._replace(answered=one.answered._replace(content_type="text/\udcff"))
            observer.offer(odd)
            assert observer.unobserved == 1
            observer.offer(observed(2))
            await until(lambda: observer.counts.written == 1)

    asyncio.run(run())


def test_a_signal_to_all_does_not_end_it_before_the_gateway(tmp_path: Path) -> None:
    async def run() -> None:
        before = children()
        async with running(tmp_path, [], Behind(says("two"), "other")) as observer:
            (pid,) = children() - before
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
            observer.offer(observed(1))
            await until(lambda: observer.counts.written == 1)

    asyncio.run(run())


def test_it_ends_when_the_gateway_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        mine, others = socket.socketpair()
        process = await asyncio.create_subprocess_exec(*OBSERVER, str(others.fileno()), pass_fds=(others.fileno(),))
        others.close()
        reader, writer = await asyncio.open_connection(sock=mine)
        writer.write(frame_of(Begin(job(tmp_path).model_dump_json())))
        hanging = Endpoint(base_url="http://127.0.0.1:9", served_model_name="x", model_path="", max_model_len=1)
        writer.write(frame_of(Arms(None, Served.at("2", hanging))))
        await anext(messages(reader))
        writer.close()
        async with asyncio.timeout(20):
            assert await process.wait() == 0

    asyncio.run(run())


async def _read(data: bytes) -> list[Message]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return [message async for message in messages(reader)]


def test_frames_are_read_as_they_were_written_and_nothing_else_is() -> None:
    sent = [Begin("{}"), Arms(None, None), End()]
    frames = b"".join(frame_of(one) for one in sent)
    assert asyncio.run(_read(frames)) == sent
    assert asyncio.run(_read(frames[:-1])) == sent[:-1], "cut off, the last one was never sent"
    for wrong in (struct.pack(">I", 1 << 31), struct.pack(">I", 3) + b"\x93\xa1\xc1", struct.pack(">I", 1) + b"\x01"):
        with pytest.raises((ValueError, msgspec.DecodeError)):
            asyncio.run(_read(wrong))
