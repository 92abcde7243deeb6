"""What a shell, a scheduler or a container hands to a run: streams, folders, limits, locales."""

import os
from collections.abc import Callable
from typing import Any

from tests.faults.inject import forget
from tests.faults.trial import Kind, Missed, Trial


def _environment(**variables: str) -> Callable[[Trial], dict[str, Any]]:
    return lambda trial: {"env": {name: value.format(root=trial.lab.root) for name, value in variables.items()}}


def _limit(*options: str) -> Callable[[Trial], dict[str, Any]]:
    return lambda trial: {"prefix": ("prlimit", *options)}


SURROUNDINGS: dict[str, Callable[[Trial], dict[str, Any]]] = {
    "no HOME": _environment(HOME="/nowhere"),
    "HOME is a file": _environment(HOME="{root}/suite.yaml"),
    "TMPDIR is gone": _environment(TMPDIR="{root}/not-there"),
    "TMPDIR is long": _environment(TMPDIR="{root}/tmp/" + "long-" * 30),
    "C locale": _environment(LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "ASCII streams": _environment(PYTHONIOENCODING="ascii"),
    "tiny terminal": _environment(COLUMNS="1", LINES="1"),
    "odd terminal": _environment(TERM="no-such-terminal", FORCE_COLOR="1"),
    "proxies": _environment(
        HTTP_PROXY="http://127.0.0.1:1", http_proxy="http://127.0.0.1:1", ALL_PROXY="socks5://127.0.0.1:1"
    ),
    "few files": _limit("--nofile=40:40"),
    "small files": _limit("--fsize=20000"),
    "warnings are errors": _environment(PYTHONWARNINGS="error"),
    "another Python's home": _environment(PYTHONSTARTUP="/nowhere", PYTHONSAFEPATH="1"),
}


def _odd(trial: Trial) -> None:
    rng, lab = trial.rng, trial.lab
    if rng.random() < 0.6:
        trial.tell(forget(lab.workspace, rng))
    name = rng.choice(sorted(SURROUNDINGS))
    how = SURROUNDINGS[name](trial)
    if "TMPDIR" in how.get("env", {}) and "long" in name:
        os.makedirs(how["env"]["TMPDIR"], mode=0o700)  # noqa: PTH103
    trial.tell(name)
    trial.run(**how)
    trial.lab.clear_tmp()
    trial.settle()


def _full_stream(trial: Trial) -> None:
    """The result cannot be printed; it is kept all the same."""
    rng, lab = trial.rng, trial.lab
    if rng.random() < 0.6:
        trial.tell(forget(lab.workspace, rng))
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        raise Missed("no /dev/full")
    stream = os.open("/dev/full", os.O_WRONLY)
    try:
        finished = lab.run("run", str(lab.recipe), "--json", stdout=stream)
    finally:
        os.close(stream)
    trial.cut_off = True
    trial.tell(f"stdout is full: exit {finished.exit_code}")
    if finished.exit_code == 0:
        trial.find("wrong", "exit 0 although its result could not be written")
    elif "Traceback" in finished.stderr or "not an explained" in finished.stderr:
        trial.find("unexplained", finished.stderr[-300:])
    trial.settle(trial.finished_stages())


KINDS = (Kind("surroundings: odd", 3.0, _odd), Kind("surroundings: full stream", 0.5, _full_stream))
