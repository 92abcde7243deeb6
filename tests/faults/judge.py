"""What became of a fault. Pure but for `leftovers`, which looks at files.

Each fault ends in one class, the worst that was found:

    wrong        another digest or score than the undisturbed run's, without a word
    lost         a finished result was made again or cannot be had any more
    left behind  processes, shared memory, temporary files, half-made folders, sockets, MLflow runs that still run
    unexplained  a traceback, a wait without end, a wrong blame or an error without a remedy
    survived     the undisturbed result, after an explained refusal where one is right
"""

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

Class = Literal["survived", "unexplained", "left behind", "lost", "wrong"]
CLASSES: tuple[Class, ...] = ("survived", "unexplained", "left behind", "lost", "wrong")
"""From good to worst."""

_TRACEBACK = "Traceback (most recent call last)"
_NOT_EXPLAINED = "this failure is not an explained one"
_PYTHON_WORDS = re.compile(
    r"\b(Attribute|Key|Type|Index|Assertion|UnicodeDecode|Name|NotImplemented|ZeroDivision)Error\b"
)
_MEASURED = {
    "serving", "duration_seconds", "requests_sent", "answers_from_cache", "timings_seconds", "peak_memory_bytes",
}  # fmt: skip
"""Keys of a row that differ from run to run: times, and what was still in the cache."""


class Finding(NamedTuple):
    """One thing that should not be."""

    kind: Class
    what: str


class Result(NamedTuple):
    """What a run of the recipe gave, as far as it does not depend on the machine's speed."""

    rows: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    """Stage -> its whole result, times included: what is reused has to be the same to the letter."""
    hows: dict[str, str]
    """Stage -> done, reused, failed or skipped."""

    @property
    def made(self) -> "Result":
        """The part that this run has made itself: what others may reuse."""
        return self._replace(stages={name: one for name, one in self.stages.items() if self.hows[name] == "done"})


def result_of(record: Mapping[str, Any]) -> Result:
    """Read a run's record."""
    return Result(
        rows={row["name"]: _steady(row) for row in record["rows"]},
        stages={one["name"]: one["result"] for one in record["outcomes"]},
        hows={one["name"]: one["how"] for one in record["outcomes"]},
    )


def wrong_in(result: Result, golden: Result, seen: Iterable[Result], *, unseen: bool = False) -> list[Finding]:
    """Compare a run that says all is well with the undisturbed one.

    Args:
        seen: Runs whose results it may have reused.
        unseen: A run that was cut off may have made a result that nobody saw; its times are then not known.
    """
    found = [
        Finding("wrong", f"{name}: {place}: {told!r}, not {true!r}")
        for name, row in golden.rows.items()
        for place, told, true in _differences(result.rows.get(name), row)
    ]
    known = list(seen)
    for name, how in result.hows.items():
        candidates = [one.stages[name] for one in known if name in one.stages]
        if how != "reused" or result.stages[name] in candidates:
            continue
        # Its files hold times too, so the object may be another.
        if unseen and any(_steady(result.stages[name]["record"]) == _steady(one["record"]) for one in candidates):
            continue
        places = [place for place, _, _ in _differences(result.stages[name], candidates[0] if candidates else None)]
        found.append(Finding("wrong", f"{name} was reused with another result than was made: {places[:4]}"))
    return found


def explained(text: str, exit_code: int | None, blame: str | None = None) -> list[Finding]:
    """Whether what a user sees of a failed command is what a fault deserves.

    Args:
        blame: A pattern that the message has to match.
    """
    told = _without_quoted_logs(text)
    if _TRACEBACK in told or _NOT_EXPLAINED in told:
        return [Finding("unexplained", f"traceback: {_last_lines(told)}")]
    if exit_code not in (2, 3):
        return [Finding("unexplained", f"exit code {exit_code}: {_last_lines(told)}")]
    if "remedy" not in told:
        return [Finding("unexplained", f"no remedy: {_last_lines(told)}")]
    if _PYTHON_WORDS.search(told):
        return [Finding("unexplained", f"Python's own words: {_last_lines(told)}")]
    if blame and not re.search(blame, text, re.IGNORECASE):
        return [Finding("unexplained", f"does not name the cause ({blame}): {_last_lines(told)}")]
    return []


def lost_in(result: Result, finished: Mapping[str, str]) -> list[Finding]:
    """Stages that had a result and were made again.

    Args:
        finished: Stages that have to be reused -> why.
    """
    return [
        Finding("lost", f"{name} was made again although {why}")
        for name, why in finished.items()
        if result.hows.get(name) == "done"
    ]


def finished_stages(workspace: Path, before: Iterable[str] = ()) -> dict[str, str]:
    """Stages whose end stands in a run's events: they are in the cache and need no second making.

    Args:
        before: Names of runs that say nothing, since what they made may have been forgotten.
    """
    found: dict[str, str] = {}
    for path in sorted(workspace.glob("runs/*/events.jsonl")):
        if path.parent.name in before:
            continue
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                if event["how"] in ("done", "reused"):
                    found[str(event["name"])] = f"{path.parent.name} had finished it"
                else:
                    found.pop(str(event["name"]), None)
    return found


def leftovers(workspace: Path, tmp: Path, shared_memory: Path = Path("/dev/shm")) -> list[Finding]:  # noqa: S108
    """Files that nobody needs any more; the folder in which all runs of a user have theirs stays, empty."""
    of_user = f"qb-{os.getuid()}"
    places = [
        *workspace.glob("store/staging/*"),
        *workspace.glob("scratch/*"),
        *(path for path in workspace.rglob(".*") if path.is_file()),
        *(path for path in workspace.rglob("*") if path.is_socket() or path.is_fifo()),
        *(path for path in tmp.iterdir() if path.name != of_user),
        *(tmp / of_user).glob("*"),
        *shared_memory.iterdir(),
    ]
    found = [Finding("left behind", str(path)) for path in places]
    running = _running_in_mlflow(workspace / "mlflow.db")
    return found + [Finding("left behind", f"run {name} of MLflow is RUNNING") for name in running]


def worst(findings: Iterable[Finding]) -> Class:
    """The class of a fault."""
    return max((one.kind for one in findings), key=CLASSES.index, default="survived")


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _steady(one) for key, one in value.items() if key not in _MEASURED}
        serving = value.get("serving")
        if isinstance(serving, dict):
            kept["serving"] = {key: serving.get(key) for key in ("model_digest", "dtype", "smoke_answer", "engine")}
        return kept
    return [_steady(one) for one in value] if isinstance(value, list) else value


def _differences(told: Any, true: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(told, dict) and isinstance(true, dict):
        return [
            one
            for key in {**told, **true}
            for one in _differences(told.get(key), true.get(key), f"{place}.{key}" if place else str(key))
        ]
    if isinstance(told, list) and isinstance(true, list) and len(told) == len(true):
        return [
            one for at, pair in enumerate(zip(told, true, strict=True)) for one in _differences(*pair, f"{place}[{at}]")
        ]
    return [] if told == true else [(place, _short(told), _short(true))]


def _short(value: Any) -> Any:
    text = json.dumps(value, default=str)
    return value if len(text) < 80 else text[:80] + "..."


def _without_quoted_logs(text: str) -> str:
    """A message may end with the end of a log, four spaces in: that is evidence, not the explanation."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-4:])[-600:]


def _running_in_mlflow(database: Path) -> list[str]:
    if not database.is_file():
        return []
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [str(name) for (name,) in connection.execute("SELECT name FROM runs WHERE status = 'RUNNING'")]
    return []
