"""What is rendered for a scheduler: the command that it starts, and the files around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipelines.recipe.run_config import RunConfig
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.rendering.document import commented, wrapped

FOR_SCHEDULERS = ("--if-changed", "--json-line", "--overlap")
"""What a scheduler asks of a run: no work where nothing is new, one line that says what happened, and what to do beside
another run."""


class ScheduledRun(NamedTuple):
    """A recipe that has a schedule, on the machine that renders it."""

    config: RunConfig
    schedule: ScheduleConfig
    recipe: Path
    """Absolute, as the next three."""
    workspace: Path
    folder: Path
    """Relative paths in the recipe are meant from here."""
    program: Sequence[str]
    """That starts Quantbench."""
    overrides: Sequence[str] = ()
    user: str = "root"
    image: str | None = None
    """Container that holds Quantbench, for schedulers that run containers."""
    namespace: str = "default"
    storage: str = "200Gi"
    workers: int = 2
    """Of a Ray cluster, beside its head."""
    require_pass: bool = False
    """Verdicts count: a run ends with 1 or 4 where one is not a pass."""
    overlap: Literal["leave", "wait"] = "leave"

    @property
    def unit(self) -> str:
        """A name that cron.d, systemd and Kubernetes all take."""
        return "quantbench-" + self.config.name.replace(".", "-").replace("_", "-").rstrip("-")

    @property
    def command(self) -> list[str]:
        """Program and arguments."""
        changes = [part for override in self.overrides for part in ("--set", override)]
        place = ["--workspace", str(self.workspace)]
        return [*self.program, "run", str(self.recipe), *changes, *place, *self.manner]

    @property
    def manner(self) -> list[str]:
        """The arguments that say how it is run."""
        return [*FOR_SCHEDULERS, self.overlap, *(["--require-pass"] if self.require_pass else [])]


Files = Mapping[str, str]
"""For one scheduler: name -> content."""


def header(purpose: str, cannot: Sequence[str], commands: Sequence[str], recipe: Path) -> str:
    """The comment that a file begins with.

    Args:
        purpose: What it is.
        cannot: What its reader has to know, each a sentence.
        commands: That install it.
        recipe: What it was rendered from.
    """
    told = f"{purpose} Rendered by `quantbench schedule render` from {recipe.name}: change that and render anew."
    lines = wrapped(told)
    for sentence in cannot:
        lines += wrapped(sentence, "- ")
    return commented([*lines, "", *(f"  {command}" for command in commands)])
