"""One fault from the restored workspace to its class: what kinds are written with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.judge import (
    Class,
    Finding,
    Result,
    explained,
    finished_stages,
    leftovers,
    lost_in,
    result_of,
    worst,
    wrong_in,
)
from tests.faults.lab import Command, Finished, Lab

_PROCESS_SECONDS = 30.0
"""A guard's grace, its own seconds, and a busy machine."""
_REPEATS = 2
INTERRUPTED = 130


class Missed(Exception):
    """The moment of the fault never came, or this machine cannot make it: it is no injected fault."""


@dataclass
class Trial:
    """What one fault needs to know, and what was found.

    Args:
        lab: Where it takes place.
        golden: What the undisturbed run gave.
        rng: The only source of chance.
    """

    lab: Lab
    golden: Result
    rng: Random
    findings: list[Finding] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    """What was done and seen, in order."""
    seen: list[Result] = field(default_factory=list)
    cut_off: bool = False
    """A run was ended in the middle: what it had made is known by its events at most."""
    refused: bool = False
    """The fault was answered by an explained refusal."""

    def __post_init__(self) -> None:
        self.seen.append(self.golden)

    @property
    def kind(self) -> Class:
        """The class as far as it is known."""
        return worst(self.findings)

    def tell(self, text: str) -> None:
        """Add to the story."""
        self.story.append(text)

    def find(self, kind: Class, what: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, what))

    def run(self, *arguments: str, blame: str | None = None, **how: Any) -> Finished:
        """Run a command, the recipe when none is given, and judge its end: golden results, or an explained refusal."""
        return self.ended(self.lab.run(*arguments, **how), blame=blame)

    def ended(
        self,
        finished: Finished,
        *,
        blame: str | None = None,
        interrupted: bool = False,
        finished_before: Mapping[str, str] | None = None,
    ) -> Finished:
        """Judge how a run of the recipe ended.

        Args:
            blame: Pattern that an explanation has to match.
            interrupted: It got a signal that is meant for it.
            finished_before: Stages that have to be reused -> why.
        """
        self.tell(f"exit {finished.exit_code} after {finished.seconds:.1f} s")
        self.cut_off = self.cut_off or interrupted or finished.record is None
        if finished.hung:
            self.find(
                "unexplained", f"no end; alive were {[(one.pid, one.log or one.command) for one in finished.hung]}"
            )
        elif finished.exit_code == 0:
            self._judge_result(finished, finished_before or {})
        elif interrupted and finished.exit_code is not None:
            told = "" if finished.exit_code < 0 else finished.stderr
            # A signal that comes before the first line of the program has run ends it as it ends any.
            if (finished.exit_code > 0 and finished.exit_code != INTERRUPTED) or "Traceback" in told:
                self.find("unexplained", f"interrupted, and ended with {finished.exit_code}: {told[-400:]}")
        else:
            found = explained(finished.text, finished.exit_code, blame)
            self.refused = self.refused or not found
            self.findings += found
            if finished.record:
                self.seen.append(result_of(finished.record).made)
            if not found:
                self.tell(gist(finished.text))
        self._no_processes()
        return finished

    def settle(self, finished_before: Mapping[str, str] | None = None) -> None:
        """The repeated command has to end with the undisturbed results, and nothing may be left behind."""
        for attempt in range(_REPEATS):
            finished = self.ended(self.lab.run(), finished_before=finished_before)
            if finished.exit_code == 0:
                break
            if attempt + 1 == _REPEATS:
                self.find("lost", f"the repeated command does not get there: {gist(finished.text)}")
        self.no_leftovers()

    def no_leftovers(self) -> None:
        """Look for files that nobody needs any more."""
        self.findings += leftovers(self.lab.workspace, self.lab.tmp, self.lab.shared_memory)

    def finished_stages(self) -> dict[str, str]:
        """Stages that this fault's runs have finished by now."""
        return finished_stages(self.lab.workspace, self.lab.old_runs)

    def _judge_result(self, finished: Finished, finished_before: Mapping[str, str]) -> None:
        if finished.record is None:
            self.find("unexplained", f"exit 0 without a result: {finished.stderr[-300:]}")
            return
        result = result_of(finished.record)
        self.findings += wrong_in(result, self.golden, self.seen, unseen=self.cut_off) + lost_in(
            result, finished_before
        )
        self.seen.append(result.made)
        again = sorted(name for name, how in result.hows.items() if how == "done")
        self.tell(f"made: {', '.join(again) or 'nothing'}")
        page = finished.record.get("page")
        if not (page and Path(page).is_file()):
            self.find("lost", f"there is no page {page}")

    def _no_processes(self) -> None:
        if self.lab.running:  # the other one of two
            return
        for one in self.lab.left_processes(_PROCESS_SECONDS):
            self.find("left behind", f"process {one.pid}: {one.log or one.command}")


def gist(text: str) -> str:
    """Beginning and end of a message, on one line."""
    line = " | ".join(part.strip() for part in text.splitlines() if part.strip())
    return line if len(line) < 700 else f"{line[:450]} [...] {line[-250:]}"


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: `group: what`; the table has a row a group.
        weight: How often it is drawn, beside the others' weights.
        inject: Does it to a trial whose workspace is the undisturbed one.
        mounts: Needs the right to mount.
        real: Runs the real serving engine: a minute or two.
    """

    name: str
    weight: float
    inject: Callable[[Trial], None]
    mounts: bool = False
    real: bool = False

    @property
    def group(self) -> str:
        """The part before the colon."""
        return self.name.partition(":")[0]


def at_moment(trial: Trial, command: Command, when: float, act: Callable[[], bool], seconds: float = 120.0) -> Finished:
    """Let a run go on until `when` seconds after its start and then act; False from `act` means: not yet."""
    done = False

    def tick(passed: float) -> None:
        nonlocal done
        if not done and passed >= when:
            done = act()

    finished = trial.lab.finish(command, seconds, tick)
    if not done:
        raise Missed("the run ended before")
    return finished
