"""One piece of work in the terminal, while it lasts: what is being done, and how far it is."""

import re
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from pipelines.report.console import HEARTBEAT_SECONDS
from pipelines.report.table import printable

_NUMBER = re.compile(r"\d+")


class WorkConsole:
    """Tells what is being done; use as a context manager around it.

    Args:
        name: Of the bench or the replay.
        console: Where to write: stderr, so that stdout stays free for `--json`.
    """

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._status = Status("", console=console) if console.is_terminal else None
        self._work = ""
        self._since = self._last_word = time.monotonic()

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def on_progress(self, text: str) -> None:
        """Show it; without a terminal, say so when it is other work, and how far it is every `HEARTBEAT_SECONDS`."""
        now = time.monotonic()
        work = _NUMBER.sub("", text)
        is_new = work != self._work
        if is_new:
            self._work, self._since = work, now
        told = f"{self._name}: {text}" + ("" if is_new else f", {now - self._since:.0f} s")
        if self._status:
            self._status.update(Text(printable(told)))
        elif is_new or now - self._last_word >= HEARTBEAT_SECONDS:
            self._last_word = now
            self._console.print(Text(printable(told)), soft_wrap=True)
