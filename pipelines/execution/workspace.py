"""Where a run keeps its things, and the lock that keeps two runs from measuring beside each other."""

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Event

from configs.errors import RequestError
from pipelines.records.comparison import Comparison
from pipelines.records.run_record import Recorded
from registry.contracts import RetentionRecord, TokenAgreementRecord
from registry.contracts.base import Record
from registry.contracts.record_types import RECORD_TYPES
from registry.explain import explanation_of
from registry.files import make_way
from registry.stage_cache import StageCache, StageKey
from registry.store import Store
from registry.tracking.address import sqlite_uri
from serving_checks.processes.pulse import vitals_of

_LOCK_POLL_SECONDS = 0.5


class Workspace:
    """`store/`, `cache/`, `answers/`, `trials/`, `rounded/`, `runs/<id>/`, `bench/<name>/<time>/`, `shadow/<name>/`,
    `mlflow.db` below one folder.

    The folder need not be there yet.

    Raises:
        RequestError: Something else than a folder has that name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if self.root.exists() and not self.root.is_dir():
            raise RequestError(f"the workspace {self.root} is a file", remedy="name a folder with --workspace")
        self.store = Store(self.root / "store")
        others: dict[str, type[Record]] = {
            "served": TokenAgreementRecord,
            "compare": Comparison,
            "record": Recorded,
            "regression": RetentionRecord,
        }
        self.cache = StageCache(self.root / "cache", self.store, {**RECORD_TYPES, **others})

    def create(self) -> None:
        """Make the folder and sweep away what killed runs left half-made.

        Raises:
            RequestError: The folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "runs").mkdir(exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK):  # it was there, and is not ours or on a read-only disk
                raise PermissionError(errno.EACCES, "it is read-only")
        except OSError as error:
            told = explanation_of(error, f"cannot write the workspace {self.root}", self.root)
            remedy = told.remedy if "--workspace" in told.remedy else f"{told.remedy} with --workspace"
            raise RequestError(told.what, remedy=remedy, blame=told.blame) from None
        self.store.sweep()

    def check_exists(self) -> None:
        """For commands that only read: a wrong name would look like an empty workspace.

        Raises:
            RequestError: The folder is not there.
        """
        if not self.root.is_dir():
            raise RequestError(
                f"there is no workspace {self.root}", remedy="name one with --workspace, or run a recipe first"
            )

    @property
    def answers_dir(self) -> Path:
        """What models answered in evaluations, a file for each model and engine (`evals.asking.request_cache`)."""
        return self.root / "answers"

    def trials_file(self, key: StageKey) -> Path:
        """What a stage has measured trial by trial, for the next one if it is killed; gone once its result is kept."""
        return self.root / "trials" / f"{key.digest.removeprefix('sha256:')}.jsonl"

    def kept_dir(self, key: StageKey) -> Path:
        """What a stage has quantized module by module, for the same end."""
        return self.root / "rounded" / key.digest.removeprefix("sha256:")

    def forget_unfinished(self, key: StageKey) -> None:
        """Remove both: the stage's result is kept. What cannot be removed is collected by `gc`."""
        with suppress(OSError):
            self.trials_file(key).unlink()
        shutil.rmtree(self.kept_dir(key), ignore_errors=True)

    @property
    def default_tracking_uri(self) -> str:
        return sqlite_uri(self.root / "mlflow.db")

    @property
    def ledger_file(self) -> Path:
        """Who approved and moved what, unless a recipe names another database."""
        return self.root / "ledger.db"

    def new_run_dir(self, name: str) -> Path:
        """`runs/<time>-<name>-<random>/`, made, and in use."""
        directory = self.root / "runs" / f"{time.strftime('%Y%m%dT%H%M%S')}-{name}-{secrets.token_hex(3)}"
        (self.root / "store").mkdir(parents=True, exist_ok=True)
        self.store.in_use.hold(directory.name)
        (directory / "logs").mkdir(parents=True)
        return directory

    def new_bench_dir(self, name: str) -> Path:
        """`bench/<name>/<UTC time>/`, made; a second of them at a time, since each holds the machine's lock."""
        directory = self.root / "bench" / name / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        directory.mkdir(parents=True)
        return directory

    def replay_dir(self, name: str) -> Path:
        """`shadow/<name>/`, made where it is not there: its owner's only, since what users said may be in it."""
        directory = self.root / "shadow" / name
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    def machine_lock(
        self, on_wait: Callable[[str], None], given_up: Event | None = None
    ) -> AbstractContextManager[None]:
        """Hold the machine for a run's stages: a measurement beside another run's work measures that.

        Args:
            on_wait: Called with the holder's process id when the lock is taken, and again if somebody stops it.
            given_up: Set when nobody waits any more.

        Raises:
            CancelledError: That was set.
        """
        return self._lock("machine.lock", on_wait, given_up or Event())

    def recording_lock(self, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        """Record one run at a time: of two equal ones the second finds the first."""
        return self._lock("record.lock", on_wait, Event())

    def recipe_lock(self, name: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold a recipe for a whole run, by its name: `on_wait` may raise, where the other run is left to go on."""
        return self._lock(f"{name}.recipe.lock", on_wait, Event())

    @contextmanager
    def _lock(self, name: str, on_wait: Callable[[str], None], given_up: Event) -> Iterator[None]:
        """The kernel drops the lock when its holder dies, however it dies; see `machine_lock` for the arguments."""
        path = self.root / name
        make_way(path)
        with path.open("a+", errors="replace") as file:
            told = ""
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    file.seek(0)
                    holder = _holder(file.read().strip())
                    if holder != told:
                        on_wait(holder)
                        told = holder
                    if given_up.wait(_LOCK_POLL_SECONDS):
                        raise CancelledError from None
            file.truncate(0)
            with suppress(OSError):  # for want of room the one who waits is not told for whom
                os.write(file.fileno(), str(os.getpid()).encode())
            yield


def _holder(pid: str) -> str:
    """Who holds the lock, and whether his work stands still."""
    if not pid.isdigit():
        return "?"
    return f"{pid}, which is suspended" if vitals_of(int(pid)).suspended else pid
