"""`quantbench` as it is, but for fork servers and recorder: those come from processes that the campaign keeps warm.

An import of a run's libraries takes half a minute and a fault a few seconds, so a campaign pays for the imports once.
The product's own code asks for a fork server, waits for its socket and forks from it, all as ever; only what listens
there was started before. Without `WARM` in the environment this is `quantbench` and nothing else.

    python -P -m tests.faults.program run recipe.yaml
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

WARM = "QUANTBENCH_FAULTS_WARM"
"""Names the folder in which the campaign keeps its warm processes (`warm.py`)."""
FORK_SERVER = "fork_server"
RECORDER = "pipelines.stage_programs.record"
_STAGE_PROGRAMS = "pipelines.stage_programs."
_STAND_IN_STAGE = "tests.faults.stand_in_stage"
_WAIT_SECONDS = 120.0


def key_of(modules: list[str], env: dict[str, str]) -> str:
    """Names what was imported and under which variables: fork servers with one key are the same to a run."""
    return hashlib.sha256(json.dumps([modules, sorted(env.items())]).encode()).hexdigest()[:16]


def warm_socket(folder: Path, modules: list[str], env: dict[str, str]) -> Path:
    """The socket of a warm process with these imports; asks the campaign for one where there is none yet."""
    env = {name: value for name, value in env.items() if name != "TMPDIR"}  # a run's own folder shapes no import
    key = key_of(modules, env)
    socket, wish = folder / key, folder / f"{key}.wish"
    if not socket.exists():
        draft = wish.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({"modules": modules, "env": env}))
        draft.rename(wish)
    deadline = time.monotonic() + _WAIT_SECONDS
    while not socket.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody keeps {modules} warm in {folder}")
        time.sleep(0.02)
    return socket


def take_warm(folder: Path) -> None:
    """From now on this process starts no fork server and no recorder itself."""
    from serving_checks.processes.supervisor import Supervised

    hand_on_scratch()
    start = Supervised.start

    def start_warm(self: Supervised) -> Supervised:
        module = self.argv[3] if self.argv[1:3] == ["-P", "-m"] and len(self.argv) > 3 else ""
        if module.endswith(FORK_SERVER):
            Path(self.argv[4]).symlink_to(warm_socket(folder, self.argv[5:], self.env))
            self.argv = ["sleep", "infinity"]
        elif module == RECORDER:
            self._fork_server = warm_socket(folder, ["mlflow.store.tracking.sqlalchemy_store", RECORDER], self.env)
        return start(self)

    patched: Any = start_warm
    Supervised.start = patched
    fork: Any = Supervised._fork

    def fork_or_stand_in(self: Supervised, *arguments: Any) -> Any:
        """A guard that is killed before it has told its number means a plain start, which would serve by vLLM."""
        forked = fork(self, *arguments)
        module = self.argv[3] if self.argv[1:3] == ["-P", "-m"] else ""
        if forked is None and module.startswith(_STAGE_PROGRAMS) and module != RECORDER:
            self.argv = [*self.argv[:3], _STAND_IN_STAGE, *self.argv[3:]]
        return forked

    patched_fork: Any = fork_or_stand_in
    Supervised._fork = patched_fork


def hand_on_scratch() -> None:
    """A fork inherits the run's folder for scratch from its fork server; a warm one does not know the run."""
    from serving_checks.processes.guard import SCRATCH_VARIABLE
    from serving_checks.processes.supervisor import Supervised

    fork: Any = Supervised._fork

    def fork_with_scratch(self: Supervised, *arguments: Any) -> Any:
        handed = {name: os.environ[name] for name in ("TMPDIR", SCRATCH_VARIABLE) if name in os.environ}
        self.env = handed | self.env
        return fork(self, *arguments)

    patched: Any = fork_with_scratch
    Supervised._fork = patched


if __name__ == "__main__":
    if WARM in os.environ:
        take_warm(Path(os.environ[WARM]))
    from pipelines.cli import main

    sys.exit(main())
