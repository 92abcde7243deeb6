"""Flipped, swapped, cut and missing bytes in every kind of file of a workspace."""

from functools import partial

from tests.faults.inject import FILES, OTHER_FILES, damage, files_of, forget
from tests.faults.trial import Kind, Missed, Trial

_OBJECTS = ("weights", "model files", "measured files")
"""What `artifacts verify` has to tell of; a manifest is written anew from bytes that prove themselves."""


def _damaged(trial: Trial, kind: str) -> None:
    rng, workspace = trial.rng, trial.lab.workspace
    files = files_of(workspace, kind)
    if not files:
        raise Missed(f"there are no {kind}")
    for _ in range(rng.choice((1, 1, 1, 2))):
        path = rng.choice(files)
        if path.is_file():
            trial.tell(f"{path.relative_to(workspace)}: {damage(path, rng, files)}")
    if kind in _OBJECTS and rng.random() < 0.3:
        _verified(trial)
    if rng.random() < 0.7:
        trial.tell(forget(workspace, rng))
    if rng.random() < 0.3:
        _read_only(trial)
    trial.run()
    trial.settle()


def _verified(trial: Trial) -> None:
    """What the store is asked for has to be told."""
    finished = trial.lab.run("artifacts", "verify")
    if finished.exit_code == 0:
        trial.find("wrong", "`artifacts verify` calls it whole")
    elif "Traceback" in finished.stderr or finished.exit_code not in (2, 3):
        trial.find("unexplained", f"`artifacts verify` ends with {finished.exit_code}: {finished.stderr[-300:]}")


def _read_only(trial: Trial) -> None:
    """One bad file blocks no command."""
    recipe = str(trial.lab.recipe)
    command = trial.rng.choice((["artifacts", "list"], ["plan", recipe], ["compare", "baseline", "int8"]))
    finished = trial.lab.run(*command)
    trial.tell(f"{' '.join(command[:1])}: exit {finished.exit_code}")
    if finished.hung or "Traceback" in finished.stderr or "not an explained one" in finished.stderr:
        trial.find("unexplained", f"{' '.join(command)}: {finished.exit_code} {finished.stderr[-300:]}")
    elif finished.exit_code not in (0, 1, 2, 3, 4):
        trial.find("unexplained", f"{' '.join(command)} ends with {finished.exit_code}")


_WEIGHTS = {"weights": 3.0, "cache entries": 3.0, "answers": 2.0, "manifests": 2.0, "measured files": 2.0}

KINDS = tuple(
    Kind(f"bytes: {kind}", _WEIGHTS.get(kind, 1.0), partial(_damaged, kind=kind)) for kind in (*FILES, OTHER_FILES)
)
