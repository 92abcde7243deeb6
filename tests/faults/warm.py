"""Keeps the processes from which runs of the campaign are forked; `program.py` wishes for them."""

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from serving_checks.processes.supervisor import Supervised

_ALSO = ("tests.faults.stand_in_engine", "tests.faults.stand_in", "transformers.models.llama.modeling_llama")
"""Imported beside what is wished for, so that vLLM's adapter starts the stand-in."""
_SERVER = "serving_checks.processes.fork_server"


class Warm:
    """Fork servers that outlive the runs they serve; leaving the block ends them.

    Args:
        folder: Private to the user and with a short path, for the sockets.
        env: What every process of the campaign has on top of this one's environment.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self._env = folder, env
        self._children: dict[str, Supervised] = {}
        self._running = ExitStack()

    def grant(self) -> None:
        """Start what was wished for, and anew what has died."""
        for wish in self.folder.glob("*.wish"):
            asked = json.loads(wish.read_text())
            wish.unlink()
            self._start(wish.stem, asked["modules"], asked["env"])
        for key, child in self._children.items():
            if child.poll() is not None:
                (self.folder / key).unlink(missing_ok=True)

    @property
    def pids(self) -> set[int]:
        """The guards' process ids; everything below a warm process's own child belongs to a run."""
        return {child.pid for child in self._children.values() if child.poll() is None}

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _start(self, key: str, modules: list[str], env: dict[str, str]) -> None:
        socket = self.folder / key
        if socket.exists():
            return
        imported = [*modules, *(name for name in _ALSO if "mlflow" not in modules[0] and name not in modules)]
        argv = [sys.executable, "-P", "-m", _SERVER, str(socket), *imported]
        self._children[key] = self._running.enter_context(
            Supervised(argv, env={**self._env, **env}, log_file=self.folder / f"{key}.log", grace_seconds=1.0)
        )
        while not socket.exists() and self._children[key].poll() is None:
            time.sleep(0.02)
