"""Errors that a user is meant to read: what happened, where, and what to do next.

QuantbenchError            anything we can explain; the command line prints it without a traceback
├── RequestError           the request is wrong (config, arguments, input files)        exit code 2
│   ├── UnreadableError    ... and a file that others wrote does not hold what it should
│   └── ConfigError        ... and the place is a line of a config file
└── StageError             the request was fine, the work failed                        exit code 3
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Blame = Literal["source", "recipe", "engine", "machine", "quantbench"]
"""Where a fault lies: in the model that came in, in what was asked for, in a library that works for us, in the machine
(disk, memory, rights, whoever ended a process), or in our own code."""


class QuantbenchError(Exception):
    """An explained failure.

    Args:
        what: One sentence naming the fact and the place.
        remedy: What the user can do next; always present, since an error without one is only a complaint.
        blame: Where the fault lies, where there is evidence for it; that of the class when left out.
    """

    exit_code = 3
    blame: Blame | None = None

    def __init__(self, what: str, *, remedy: str, blame: Blame | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        if blame is not None:
            self.blame = blame

    def __str__(self) -> str:
        return f"{self.what}\n  remedy: {self.remedy}"


class RequestError(QuantbenchError):
    """The request cannot be carried out as it is written; nothing was started."""

    exit_code = 2
    blame: Blame | None = "recipe"


class StageError(QuantbenchError):
    """A stage was started and failed; what it had written was removed."""

    exit_code = 3


class UnreadableError(RequestError):
    """A file that others wrote cannot be read as what it should be; `what` begins with the place.

    Args:
        fact: What is wrong, without the place.
        remedy: What to do about it.
        file: The file.
        line: 1-based; None where it is not known or the fact is about the whole file.
    """

    def __init__(self, fact: str, *, remedy: str, file: Path, line: int | None = None) -> None:
        super().__init__(f"{file}: {fact}" if line is None else f"{file}:{line}: {fact}", remedy=remedy)
        self.fact, self.file, self.line = fact, file, line


@contextmanager
def blaming(blame: Blame) -> Iterator[None]:
    """What is refused in the block is so for what lies there, and not for how the recipe asks for it."""
    try:
        yield
    except RequestError as error:
        error.blame = blame
        raise


@contextmanager
def naming(copy: Path, original: str) -> Iterator[None]:
    """What is refused in the block is told of the original that the user knows, and not of our copy of it."""
    try:
        yield
    except QuantbenchError as error:
        error.what = error.what.replace(str(copy), original)
        error.remedy = error.remedy.replace(str(copy), original)
        raise


class ConfigError(RequestError):
    """A config file is wrong at a known place.

    Args:
        what: The fact, without the place.
        remedy: What to write instead.
        file: The file that holds the value.
        line: 1-based line of the value, or None where the text does not hold it (a default, `--set`).
        snippet: The offending line as it stands in the file.
    """

    def __init__(
        self, what: str, *, remedy: str, file: Path | None = None, line: int | None = None, snippet: str | None = None
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.file, self.line, self.snippet = file, line, snippet

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        quoted = f"\n  {self.line} | {self.snippet}" if self.snippet is not None else ""
        return f"{place + ': ' if place else ''}{self.what}{quoted}\n  remedy: {self.remedy}"
