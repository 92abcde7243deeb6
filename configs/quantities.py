"""The numbers, words and paths that a config may hold: each number has a unit, is finite and has bounds.

The bounds are those of anything that could be meant, not of what is wise: beyond them a value is a slip of the pen, and
an engine would fail on it after the work before it was done. A field adds the lower bound that it needs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints

_LONGEST_PATH_BYTES = 4095
_LONGEST_PART_BYTES = 255
"""Of a path (Linux, limits.h)."""


def _no_truth_value(value: object) -> object:
    # YAML reads `on` and `yes` as true, and pydantic reads true as 1.
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


def _usable_path(path: Path) -> Path:
    text = str(path)
    if not text.isprintable():
        raise ValueError("the path holds a control character")
    if len(text.encode()) > _LONGEST_PATH_BYTES or any(len(part.encode()) > _LONGEST_PART_BYTES for part in path.parts):
        raise ValueError("the path is longer than any file's can be")
    return path


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a control character or a line end")
    return text


@dataclass(frozen=True)
class Within:
    """Checks bounds. Not pydantic's own: those of a field would take the place of its type's."""

    least: float
    most: float

    def __call__(self, value: float) -> float:
        # Not a number is not within either.
        if not self.least <= value <= self.most:
            raise ValueError(f"a number from {self.least} to {self.most} is wanted")
        return value


_NUMBER = BeforeValidator(_no_truth_value)

Count = Annotated[int, AfterValidator(Within(0, 10_000_000)), _NUMBER]
"""Items, rows, requests."""
Tokens = Annotated[int, AfterValidator(Within(0, 100_000_000)), _NUMBER]
Ranks = Annotated[int, AfterValidator(Within(1, 1024)), _NUMBER]
"""Processes that share a model."""
Seed = Annotated[int, AfterValidator(Within(0, 2**32 - 1)), _NUMBER]
"""What every generator of random numbers takes, NumPy's too."""
Seconds = Annotated[float, AfterValidator(Within(0, 30 * 86_400)), _NUMBER]
Minutes = Annotated[float, AfterValidator(Within(0, 365 * 24 * 60)), _NUMBER]
Gibibytes = Annotated[float, AfterValidator(Within(0, 65_536)), _NUMBER]
Mebibytes = Annotated[float, AfterValidator(Within(0, 64 * 1024 * 1024)), _NUMBER]
Price = Annotated[float, AfterValidator(Within(0, 1_000_000_000)), _NUMBER]
"""In any currency."""
Share = Annotated[float, AfterValidator(Within(0, 1)), _NUMBER]
"""Of a whole."""
Ratio = Annotated[float, AfterValidator(Within(0, 1_000_000)), _NUMBER]
"""Of one quantity to another, or a quantity without a unit."""
PerSecond = Annotated[float, AfterValidator(Within(0, 1_000_000)), _NUMBER]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
"""Of what gets files and records of its own."""
Label = Annotated[str, StringConstraints(min_length=1, max_length=250), AfterValidator(_printable)]
"""One line that is shown, or that another system knows."""
LocalPath = Annotated[Path, AfterValidator(_usable_path)]
"""A path that a file can have; whether one is there is seen when it is read."""
