"""Workspaces and sources in odd places: names that some reader takes apart, moved, copied, linked, read-only."""

import shutil
import subprocess
from pathlib import Path

from tests.faults.inject import forget
from tests.faults.trial import Kind, Missed, Trial, gist

NAMES = (
    "with space", "what?", "per%41cent", "ha#sh", "am&per;sand", "plus+eq=ual", "quo'te", 'dou"ble', "back\\slash",
    "ümlaut-漢字-🦙", "-dash", "~tilde", "$HOME", "{brace}", "[bracket]", "star*", "semi;colon", "new\nline", "tab\tt",
    "trailing ", "..dots..", "a:b", "a,b", "x" * 200, "%", "%zz", "file:", "sqlite:",
)  # fmt: skip


def _moved(trial: Trial) -> None:
    """The workspace has another name now: all in it is still there."""
    lab, rng = trial.lab, trial.rng
    name = rng.choice(NAMES)
    place = lab.root / "places" / name
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir()
    how = rng.choice(("moved", "copied", "linked", "new"))
    if how == "moved":
        shutil.move(lab.workspace, place)
    elif how == "copied":
        subprocess.run(["cp", "-a", str(lab.workspace), str(place)], check=True)
    elif how == "linked":
        place.symlink_to(lab.workspace)
    trial.tell(f"{how} to {name!r}")
    work = how == "new" or rng.random() < 0.5
    if work and how != "new":
        trial.tell(forget(place, rng))
    workspace = Path("places") / name if rng.random() < 0.3 and not name.startswith("-") else place
    before = {} if work else dict.fromkeys(trial.golden.hows, "it was finished before the move")
    # Twice: what was made at the odd place has to be found there again.
    for _ in range(2):
        finished = trial.ended(lab.run("run", str(lab.recipe), "--json", workspace=workspace), finished_before=before)
        if finished.exit_code != 0:
            if "workspace" not in finished.text:
                trial.find("lost", f"refused for its place: {gist(finished.text)}")
            break
        before = dict.fromkeys(trial.golden.hows, "it was finished at the odd place")
    shutil.rmtree(lab.root / "places")
    lab.restore()


def _odd_source(trial: Trial) -> None:
    """Model, suite and recipe in an oddly named folder."""
    lab = trial.lab
    name = trial.rng.choice(NAMES)
    place = lab.root / "places" / name
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir()
    shutil.copytree(lab.root / "model", place / "model")
    import yaml

    recipe = yaml.safe_load(lab.recipe.read_text())
    recipe["source"]["path"] = str(place / "model")
    shutil.copy(lab.root / "suite.yaml", place / "suite.yaml")
    recipe["evaluation"]["suite"] = str(place / "suite.yaml")
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=trial.rng.random() < 0.5))
    trial.tell(f"source and recipe in {name!r}")
    trial.run("run", str(place / "recipe.yaml"), "--json")
    shutil.rmtree(lab.root / "places")
    trial.settle()


def _read_only(trial: Trial) -> None:
    """A workspace, or a part of it, that may be read and not written."""
    lab, rng = trial.lab, trial.rng
    if rng.random() < 0.5:
        trial.tell(forget(lab.workspace, rng))
    part = lab.workspace / rng.choice(("", "", "store", "cache", "runs", "answers", "mlartifacts"))
    if subprocess.run(
        ["mount", "--bind", "-o", "ro", str(part), str(part)], capture_output=True, check=False
    ).returncode:
        raise Missed("cannot mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(part)], capture_output=True, check=False)
    try:
        trial.tell(f"read-only: {part.name}")
        trial.run(blame=r"read-only|may write|cannot (be )?writ|permission")
    finally:
        subprocess.run(["umount", "-l", str(part)], check=False)
    trial.settle()


KINDS = (
    Kind("places: workspace", 5.0, _moved),
    Kind("places: source", 2.0, _odd_source),
    Kind("places: read-only", 2.0, _read_only, mounts=True),
)
