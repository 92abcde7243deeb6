"""A long run against the gateway, in which all goes wrong that may: is a request lost, an answer mixed up, memory kept?

    .venv/bin/python -P benchmarks/gateway_soak.py [--requests 100000] [--concurrency 16] [--folder FOLDER]

`gateway_of_fakes.py` is asked: the gateway's own process, its observer, and a process for each version. A tenth of the
requests is streamed, a tenth hung up by the client. The shadow is killed twice and the champion swapped thrice while
requests are under way; with `--champion-dies` its server is killed too, of which clients may be told. Each prompt is a
word of its own that its answer has to repeat, piece by piece where it is streamed, and so has the pair that is kept of
it. Ends with 1 where anything is off.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from registry.pair_database import read_pair_database
from serving_checks.server import free_port

FAKES = Path(__file__).with_name("gateway_of_fakes.py")
WORDS = 8
"""Pieces of a streamed answer, as `gateway_of_fakes.py` has them."""
_STARTING_SECONDS, _SETTLING_SECONDS = 60.0, 30.0
_GROWTH_MIB = 8.0
"""Of a process between the run's second quarter and its last: less is what allocators do."""
_CHAMPION_DIES = (0.85, "champion dies")
_JUDGED = (
    *("unobserved", "mirror_waiting", "mirror_done", "mirror_failed", "mirror_dropped"),
    *("pairs_written", "pairs_dropped"),
)
"""Of the page under /metrics."""
_EVENTS = (
    (0.15, "shadow dies"),
    (0.3, "champion=3"),
    (0.45, "champion=1"),
    (0.55, "shadow dies"),
    (0.7, "champion=3"),
)
"""At which share of the requests what happens."""


class Soak:
    """One run.

    Args:
        folder: Of the gateway.
        requests: How many.
        champion_dies: Kill its server too.
    """

    def __init__(self, folder: Path, requests: int, *, champion_dies: bool) -> None:
        self.folder, self.requests = folder, requests
        self.events = (*_EVENTS, *([_CHAMPION_DIES] if champion_dies else []))
        self.port = free_port(None)
        self.url = f"http://127.0.0.1:{self.port}"
        self.out = folder / "gateway.out"
        self.sent = self.answered = self.hung_up = self.refused = self.failed = 0
        self.faults: list[str] = []
        self.champions = {"1"}
        """Who may answer now: two while one takes the other's place."""
        self.down = False
        """The champion's server was killed and is not back: clients may be told so."""
        self.happening = 0
        """The request before which what happens now has to be over; 0 while nothing does."""
        self.memory: dict[str, list[float]] = {"gateway": [], "observer": []}
        """MiB, a sample each second."""

    async def run(self, concurrency: int) -> bool:
        """Whether all is well; prints what was seen."""
        with self.out.open("wb") as out:
            gateway = subprocess.Popen(
                [sys.executable, "-P", str(FAKES), str(self.folder), "--port", str(self.port)], stdout=out, stderr=out
            )
        try:
            await self._told("version 2 is served", 1)
            process = psutil.Process(gateway.pid)
            files = process.num_fds()
            watching = asyncio.create_task(self._watch(process))
            began = time.monotonic()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                await self._load(session, concurrency)
                page = await self._settled(session)
            watching.cancel()
            print(f"{self.sent} requests in {time.monotonic() - began:.0f} s", flush=True)
            await asyncio.sleep(1)
            gateway.send_signal(signal.SIGUSR1)
            await self._told("tasks ", 1)
            self._judge_process(process, files)
        finally:
            gateway.terminate()
            code = gateway.wait(_STARTING_SECONDS)
        if code:
            self.faults.append(f"the gateway ended with {code}; {self.out} says why")
        self._judge_numbers(page)
        self._judge_pairs(page)
        for fault in self.faults[:20]:
            print(f"FAULT {fault}")
        print("all is well" if not self.faults else f"{len(self.faults)} faults")
        return not self.faults

    async def _load(self, session: aiohttp.ClientSession, concurrency: int) -> None:
        numbers = iter(range(self.requests))

        async def work() -> None:
            for number in numbers:
                # What happens takes seconds, and is to happen amid requests.
                while self.happening and self.sent >= self.happening:
                    await asyncio.sleep(0.05)
                if self.happening - self.sent > 0:
                    await asyncio.sleep(max(0.0, 0.2 - (self.happening - self.sent) / 20_000))
                self.sent += 1
                if self.sent % 5000 == 0:
                    print(f"  {self.sent} of {self.requests}", flush=True)
                await self._one(session, number)

        happening = asyncio.create_task(self._happen())
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
        await happening

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        word, champions, down = f"word-{number}", set(self.champions), self.down
        streams, hangs_up = number % 10 == 3, number % 10 == 7
        body = {"model": "demo", "prompt": word, "stream": streams or (hangs_up and number % 20 == 7)}
        try:
            async with session.post(f"{self.url}/v1/completions", json=body, headers={"x-request-id": word}) as answer:
                if hangs_up:
                    await answer.content.readany()
                    self.hung_up += 1
                    answer.close()
                    return
                told = await answer.read()
                if answer.status == 502 and (down or self.down):
                    self.refused += 1
                    return
                said = [told.decode()] if answer.status != 200 else _said(told, streams)
        except aiohttp.ClientError as error:
            if hangs_up or down or self.down:
                self.refused += 1
            else:
                self.failed += 1
                self.faults.append(f"{word}: {error!r}")
            return
        self.answered += 1
        expected = [
            [f"{word} of {version} at {place};" for place in range(WORDS)] if streams else [f"{word} of {version}"]
            for version in champions | self.champions
        ]
        if said not in expected:
            self.faults.append(f"{word}: {answer.status} {said}")

    async def _happen(self) -> None:
        ends = [share for share, _ in self.events[1:]] + [0.97]
        for (share, event), end in zip(self.events, ends, strict=True):
            self.happening = 0
            while self.sent < share * self.requests:
                await asyncio.sleep(0.05)
            self.happening = round(end * self.requests)
            print(f"  {self.sent}: {event}", flush=True)
            if event.endswith("dies"):
                await self._kill(event.removesuffix(" dies"))
            else:
                await self._promote(event.removeprefix("champion="))
        self.happening = 0

    async def _kill(self, alias: str) -> None:
        (version,) = {"2"} if alias == "shadow" else self.champions
        log = self.folder / "workspace" / "shadow" / "live" / f"version-{version}.log"
        pid = int(re.findall(r"^pid (\d+)", log.read_text(), flags=re.MULTILINE)[-1])
        before = self.out.read_text().count(f"version {version} is served")
        self.down = alias == "champion"
        os.kill(pid, signal.SIGKILL)
        await self._told(f"version {version} is served", before + 1)
        await asyncio.sleep(0.5)
        self.down = False

    async def _promote(self, version: str) -> None:
        old = set(self.champions)
        before = self.out.read_text().count(f"version {version} answers clients")
        self.champions.add(version)
        moving = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(FAKES), str(self.folder), "--move", f"champion={version}"
        )
        if await moving.wait():
            self.faults.append(f"version {version} could not be promoted")
        await self._told(f"version {version} answers clients", before + 1)
        self.champions -= old

    async def _told(self, text: str, times: int) -> None:
        until = time.monotonic() + _STARTING_SECONDS
        while self.out.read_text().count(text) < times:
            if time.monotonic() > until:
                raise SystemExit(f"the gateway did not say `{text}`:\n{self.out.read_text()}")
            await asyncio.sleep(0.05)

    async def _watch(self, process: psutil.Process) -> None:
        while True:
            with suppress(psutil.Error):
                self.memory["gateway"].append(process.memory_info().rss / 2**20)
                for child in process.children():
                    if "pipelines.stage_programs.observer" in child.cmdline():
                        self.memory["observer"].append(child.memory_info().rss / 2**20)
            await asyncio.sleep(1)

    async def _settled(self, session: aiohttp.ClientSession) -> dict[str, float]:
        """The gateway's numbers once the shadow has been asked all."""
        until = time.monotonic() + _SETTLING_SECONDS
        before: dict[str, float] = {}
        while time.monotonic() < until:
            async with session.get(f"{self.url}/metrics") as answer:
                now = _numbers(await answer.text())
            if now == before and not now["mirror_waiting"]:
                return now
            before = now
            await asyncio.sleep(1)
        self.faults.append("the shadow's queue does not end")
        return before

    def _judge_process(self, process: psutil.Process, files: int) -> None:
        found = process.num_fds()
        tasks = int(re.findall(r"^tasks (\d+)", self.out.read_text(), flags=re.MULTILINE)[-1])
        print(f"open files {files} before, {found} after; {tasks} tasks after")
        # Connections to servers are kept for seconds; those of clients are gone.
        if found > files + 20 or tasks > 8:
            self.faults.append(f"{found} open files and {tasks} tasks are left")
        for name, samples in self.memory.items():
            quarter = len(samples) // 4
            if quarter < 2:
                continue
            early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
            slope = (late - early) * 1024 / (self.sent / 2 / 1000)
            print(f"{name}: {early:.1f} MiB, later {late:.1f} MiB, {slope:+.1f} KiB a thousand requests")
            if late - early > _GROWTH_MIB:
                self.faults.append(f"the {name} grows: {early:.0f} to {late:.0f} MiB")

    def _judge_numbers(self, page: dict[str, float]) -> None:
        print(f"{self.answered} answered, {self.hung_up} hung up, {self.refused} refused while the champion was down")
        print("gateway: " + ", ".join(f"{name} {value:.0f}" for name, value in page.items()))
        if self.answered + self.hung_up + self.refused + self.failed != self.sent:
            self.faults.append("requests are lost")
        if page["mirror_done"] != page["pairs_written"] + page["pairs_dropped"]:
            self.faults.append("what the shadow was asked is not what was kept")
        told = page["status 200"] - page["unobserved"] - page["mirror_dropped"] - page["mirror_failed"]
        # While it is down nobody is asked.
        if page["mirror_done"] > told:
            self.faults.append(f"{told:.0f} answers had a shadow to ask, {page['mirror_done']:.0f} were asked")

    def _judge_pairs(self, page: dict[str, float]) -> None:
        pairs = read_pair_database(self.folder / "workspace" / "shadow" / "live" / "pairs.db").to_pylist()
        print(f"{len(pairs)} pairs are kept")
        if len(pairs) != page["pairs_written"] or len({pair["id"] for pair in pairs}) != len(pairs):
            self.faults.append(f"{len(pairs)} pairs are there, {page['pairs_written']:.0f} were written")
        for pair in pairs:
            word = json.loads(pair["prompt"])["prompt"]
            sides = [pair[side]["text"] for side in ("champion", "candidate") if not pair[side]["error"]]
            if pair["id"] != word or any(not re.match(rf"{word} of \d\b", text) for text in sides):
                self.faults.append(f"the pair {pair['id']} is mixed up: {word}, {sides}")


def _said(body: bytes, streams: bool) -> list[str]:
    if not streams:
        return [json.loads(body)["choices"][0]["text"]]
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    if events[-1:] != [b"[DONE]"]:
        return ["no end"]
    return [json.loads(event)["choices"][0]["text"] for event in events[:-1]]


def _numbers(page: str) -> dict[str, float]:
    """What is judged; statuses of clients' requests over all versions."""
    found: dict[str, Any] = dict.fromkeys(("status 200", "status 499", "status 502"), 0.0)
    for name, labels, value in re.findall(r"^quantbench_gateway_(\w+?)(?:_total)?(\{.*\})? (\S+)$", page, re.MULTILINE):
        if name == "requests" and '"client"' in labels:
            status = "status " + re.findall(r'status="(\d+)"', labels)[0]
            found[status] = found.get(status, 0.0) + float(value)
        elif name in _JUDGED:
            found[name] = float(value)
    return found


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="keeps the gateway's files (a temporary one)")
    parser.add_argument("--champion-dies", action="store_true", help="kill the champion's server as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder, options.requests, champion_dies=options.champion_dies)
        return 0 if asyncio.run(soak.run(options.concurrency)) else 1


if __name__ == "__main__":
    sys.exit(main())
