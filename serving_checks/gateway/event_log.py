"""What happened, a line of JSON each: who was asked and how it ended, who answers from when, what went wrong.

A line is one of the types below and has no other fields, so that no word of a prompt or an answer, no key and no header
of a client can come into it. The one thing that a client may choose is the request's id (`x-request-id`, at most 128
printable characters), by which its line is found.
"""

import queue
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import msgspec

from registry.contracts.shadow_verdict import Outcome
from registry.files import make_way
from serving_checks.gateway.config import LogConfig
from serving_checks.gateway.observed import Arm
from serving_checks.gateway.served_metrics import Traffic

EVENTS_FILE, REQUESTS_FILE = "events.jsonl", "requests.jsonl"
"""The gateway's and the observer's: a file has one writer."""

_GATHERED_SECONDS = 0.2
_MOST_WAITING = 10_000


class AnswerEvent(msgspec.Struct, tag_field="event", tag="answered", frozen=True, omit_defaults=True):
    """A model's answer was read. What is not known is left out."""

    at: datetime
    id: str
    arm: Arm
    version: str
    traffic: Traffic
    operation: Literal["chat", "text_completion"]
    streamed: bool
    status: int
    seconds: float
    first_token_seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class RefusalEvent(msgspec.Struct, tag_field="event", tag="refused", frozen=True, omit_defaults=True):
    """A client was told an error, by the gateway or by the model's server, or did not wait (499)."""

    at: datetime
    id: str
    status: int
    code: str = ""
    """A word of ours for what was wrong."""
    arm: Arm | None = None
    """Who was asked; nobody where there is none."""
    version: str = ""


class MoveEvent(msgspec.Struct, tag_field="event", tag="moved", frozen=True, omit_defaults=True):
    """Others answer from now on."""

    at: datetime
    champion: str
    candidate: str = ""


class StepEvent(msgspec.Struct, tag_field="event", tag="stepped", frozen=True):
    """The candidate answers another share."""

    at: datetime
    share: float
    step: int | None = None
    steps: int | None = None


class VerdictEvent(msgspec.Struct, tag_field="event", tag="judged", frozen=True):
    """The verdict is another one than before."""

    at: datetime
    outcome: Outcome
    pairs: int


class FaultEvent(msgspec.Struct, tag_field="event", tag="fault", frozen=True):
    """Something of ours went wrong; clients go on."""

    at: datetime
    what: str
    """The first line of our own error."""


Event = AnswerEvent | RefusalEvent | MoveEvent | StepEvent | VerdictEvent | FaultEvent


class EventLog:
    """Writes events by a thread of its own, so that whoever tells one waits for no disk; use as a context manager.

    Args:
        path: The file; standard error when None.
        config: How large it gets.
    """

    def __init__(self, path: Path | None, config: LogConfig) -> None:
        self._path, self._config = path, config
        self._waiting: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="event-log", daemon=True)
        self.dropped = 0
        """Events that found no room or no disk."""

    def __enter__(self) -> Self:
        if self._path is not None:
            make_way(self._path)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def tell(self, event: Event) -> None:
        """Write it soon; one that finds no room is dropped and counted."""
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        ended = False
        while not ended:
            events = [self._waiting.get()]
            time.sleep(_GATHERED_SECONDS if events[0] is not None else 0)
            while not self._waiting.empty():
                events.append(self._waiting.get_nowait())
            ended = None in events
            told = [event for event in events if event is not None]
            if not told:
                continue
            try:
                self._write(b"".join(msgspec.json.encode(event) + b"\n" for event in told))
            except OSError:
                # A full disk costs lines and no client's answer.
                self.dropped += len(told)

    def _write(self, lines: bytes) -> None:
        if self._path is None:
            sys.stderr.buffer.write(lines)
            sys.stderr.buffer.flush()
            return
        with self._opened(self._path) as file:
            file.write(lines)
            size = file.tell()
        if size > self._config.file_mib * 2**20:
            self._put_aside(self._path)

    def _opened(self, path: Path) -> IO[bytes]:
        path.touch(mode=0o600)
        return path.open("ab")

    def _put_aside(self, path: Path) -> None:
        """`events.jsonl` becomes `events.1.jsonl`, and that `events.2.jsonl`."""
        names = [path.with_suffix(f".{number}{path.suffix}") for number in range(1, self._config.kept + 1)]
        for older, newer in zip(reversed(names), reversed([path, *names[:-1]]), strict=True):
            if newer.exists():
                newer.replace(older)


def now() -> datetime:
    """UTC."""
    return datetime.now(UTC)
