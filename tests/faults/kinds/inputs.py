"""Hostile recipes, suites, overrides and checkpoints: refused with place and remedy, or carried out soundly."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.faults.checkpoint_faults import CHECKPOINTS
from tests.faults.hostile import TEXTS, VALUES, CheckpointFault, Right, drawn, edited, edits, places
from tests.faults.judge import Result, explained, result_of, wrong_in
from tests.faults.lab import Finished
from tests.faults.trial import Kind, Trial, gist

_PLAN_SECONDS = 30.0
_RUN_SECONDS = 90.0
"""Of a recipe that was taken: what it asks for may be much, and is then ended without blame."""


def _number(trial: Trial) -> int:
    return trial.rng.randrange(2**32)


def _judged(trial: Trial, finished: Finished, right: Right, blame: str | None = None) -> None:
    """A refusal is explained; what was not to be refused is not."""
    trial.tell(f"exit {finished.exit_code} after {finished.seconds:.1f} s")
    if finished.hung:
        alive = [(one.pid, one.log or one.command) for one in finished.hung]
        trial.find("unexplained", f"no end; alive were {alive}")
        return
    if finished.exit_code:
        found = explained(finished.text, finished.exit_code, blame)
        trial.findings += found
        trial.refused = trial.refused or not found
        trial.tell(gist(finished.text))
        if right == "as before":
            trial.find("unexplained", f"refused, although nothing is wrong: {gist(finished.text)}")
    elif right == "refused":
        trial.find("wrong", "taken for sound")


def _planned(trial: Trial, recipe: Path, right: Right, *more: str) -> None:
    """`plan` tells what is wrong without work; what it takes is run, since not all can be told before."""
    lab = trial.lab
    planned = lab.run("plan", str(recipe), *more, seconds=_PLAN_SECONDS)
    _judged(trial, planned, "either" if right == "refused" else right)
    if planned.exit_code == 0:
        finished = lab.run("run", str(recipe), "--json", *more, seconds=_RUN_SECONDS)
        if finished.hung:  # a recipe may ask for more than a minute's work
            trial.tell("ended after a while")
        else:
            _judged(trial, finished, right)
            if right == "as before" and finished.record:
                trial.findings += wrong_in(result_of(finished.record), trial.golden, [*trial.seen])
    for one in lab.left_processes(30.0):
        trial.find("left behind", f"process {one.pid}: {one.log or one.command}")
    lab.clear_tmp() if not trial.findings else None


def _cleaned(trial: Trial, *paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    trial.settle()


def _recipe(trial: Trial) -> None:
    path = trial.lab.root / "edited.yaml"
    tree = yaml.safe_load(trial.lab.recipe.read_text())
    changes = drawn(edits(tree), _number(trial))
    path.write_text(yaml.safe_dump(edited(tree, changes), sort_keys=False), errors="surrogatepass")
    trial.tell(f"{changes!r}"[:300])
    _planned(trial, path, "either")
    _cleaned(trial, path)


def _override(trial: Trial) -> None:
    tree = yaml.safe_load(trial.lab.recipe.read_text())
    pair = st.tuples(st.sampled_from(places(tree)), VALUES)
    where, value = drawn(pair, _number(trial))
    text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...")
    override = f"{'.'.join(map(str, where))}={text}".replace("\0", "")
    trial.tell(f"--set {override!r}"[:300])
    _planned(trial, trial.lab.recipe, "either", "--set", override)
    trial.settle()


def _text(trial: Trial, of: str) -> None:
    """A recipe or a suite whose text was mangled on its way."""
    lab = trial.lab
    name = trial.rng.choice(sorted(TEXTS))
    mangle, right = TEXTS[name]
    path = lab.root / "edited.yaml"
    trial.tell(f"{of}: {name}")
    if of == "recipe":
        path.write_bytes(mangle(lab.recipe.read_bytes()))
        _planned(trial, path, right)
    else:
        path.write_bytes(mangle((lab.root / "suite.yaml").read_bytes().replace(b"tiny", b"faults")))
        # Suites include nothing; a file of another name is another suite.
        asked = "either" if name.startswith("include") else right
        _planned(trial, lab.recipe, asked, "--set", f"evaluation.suite={path}")
    _cleaned(trial, path)


def _suite(trial: Trial) -> None:
    lab = trial.lab
    path = lab.root / "edited.yaml"
    tree = yaml.safe_load((lab.root / "suite.yaml").read_text())
    changes = drawn(edits(tree), _number(trial))
    path.write_text(yaml.safe_dump(edited(tree, changes), sort_keys=False), errors="surrogatepass")
    trial.tell(f"{changes!r}"[:300])
    _planned(trial, lab.recipe, "either", "--set", f"evaluation.suite={path}")
    _cleaned(trial, path)


def _checkpoint(trial: Trial, faults: tuple[CheckpointFault, ...]) -> None:
    """A model folder with a fault, through the whole of a small run."""
    lab = trial.lab
    fault = trial.rng.choice(faults)
    folder, path = lab.root / "edited", lab.root / "edited.yaml"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(lab.root / "model", folder)
    did = drawn(_applied(fault, lab.root / "model", folder), _number(trial))
    trial.tell(f"{fault.name}: {did}")
    recipe = yaml.safe_load(lab.recipe.read_text())
    recipe["source"]["path"] = str(folder)
    recipe["methods"].pop("nf4")
    path.write_text(yaml.safe_dump(recipe))
    finished = lab.run("run", str(path), "--json", seconds=_RUN_SECONDS)
    blame = f"(?s){fault.blame}" if fault.blame else None
    _judged(trial, finished, fault.right, blame)
    if fault.right == "as before" and finished.record and not finished.exit_code:
        rows = {name: row for name, row in trial.golden.rows.items() if name != "nf4"}
        told = result_of(finished.record)
        same = Result(_scores(rows), {}, {})
        trial.findings += wrong_in(Result(_scores(told.rows), told.stages, {}), same, [])
    for one in lab.left_processes(30.0):
        trial.find("left behind", f"process {one.pid}: {one.log or one.command}")
    _cleaned(trial, folder, path)


def _scores(rows: dict[str, Any]) -> dict[str, Any]:
    """Of each model and category: a checkpoint in other files has another digest and the same scores."""
    return {
        name: {one["category"]: one["value"] for one in row["measurement"]["evaluation"]["categories"]}
        for name, row in rows.items()
        if row.get("measurement")
    }


@st.composite
def _applied(draw: Any, fault: CheckpointFault, source: Path, folder: Path) -> str:
    """Hypothesis draws several times; each draw begins with the sound folder, and the last one stays."""
    shutil.rmtree(folder)
    shutil.copytree(source, folder)
    return fault.apply(folder, draw)


_TOKENIZER = tuple(fault for fault in CHECKPOINTS if "tokenizer" in fault.name or fault.name == "template")
_FOLDER = tuple(fault for fault in CHECKPOINTS if fault not in _TOKENIZER)

KINDS = (
    Kind("inputs: recipe", 5.0, _recipe),
    Kind("inputs: recipe's text", 2.0, partial(_text, of="recipe")),
    Kind("inputs: override", 2.0, _override),
    Kind("inputs: suite", 3.0, _suite),
    Kind("inputs: suite's text", 1.0, partial(_text, of="suite")),
    Kind("inputs: checkpoint", 8.0, partial(_checkpoint, faults=_FOLDER)),
    Kind("inputs: tokenizer", 3.0, partial(_checkpoint, faults=_TOKENIZER)),
)
