"""The machine as the stages of one run share it. Other runs of the workspace wait while any of them works."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

from pipelines.execution.workspace import Workspace
from pipelines.planning.concurrency import Sharing
from pipelines.planning.stages import Stage
from registry.machine_turns import MachineTurns


class Place(NamedTuple):
    """Of a stage that works, on the machine."""

    beside: list[Stage]
    """Those that worked already when it began."""
    waited_seconds: float
    """Until load tests and proofs of another stage had ended."""


class SharedMachine:
    """Held by each stage for as long as it works; safe to use by several threads.

    Args:
        workspace: Whose other runs wait.
        turns_dir: Where a measurement waits to be alone; stages follow one another without.
    """

    def __init__(self, workspace: Workspace, turns_dir: Path | None = None) -> None:
        self._workspace, self._turns_dir = workspace, turns_dir
        self._lock, self._working, self._held = Lock(), list[Stage](), ExitStack()
        self.given_up = Event()
        """Set when nobody waits for the stages any more: those that work are ended, and none begins."""
        self.sharing: Sharing | None = None
        """None as long as one stage at a time is all there is."""

    @property
    def turns_dir(self) -> Path | None:
        """Where a measurement has to ask to be alone; None where nothing works beside it anyway."""
        return self._turns_dir if self.sharing and self.sharing.evaluation else None

    def making_env(self, stage: Stage) -> dict[str, str]:
        """Variables of a stage that makes something beside others; see `Sharing`."""
        return self.sharing.making_env if self.sharing and stage.kind != "measure" else {}

    @contextmanager
    def held_for(self, stage: Stage, on_wait: Callable[[str], None]) -> Iterator[Place]:
        """Hold the machine for the length of the block.

        Args:
            stage: Is going to work.
            on_wait: Called with whom it waits for.

        Raises:
            CancelledError: Nobody waits for it any more.
        """
        with self._lock:
            if not self._working:
                self._held.enter_context(
                    self._workspace.machine_lock(lambda pid: on_wait(f"run of process {pid}"), self.given_up)
                )
            beside = list(self._working)
            self._working.append(stage)
        try:
            began = time.monotonic()
            with self._turn(stage, on_wait):
                yield Place(beside, time.monotonic() - began)
        finally:
            with self._lock:
                self._working.remove(stage)
                if not self._working:
                    self._held.close()

    def _turn(self, stage: Stage, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        if self.turns_dir is None or stage.kind == "measure":  # which asks by itself, when it comes to that
            return nullcontext()

        def wait() -> None:
            if self.given_up.is_set():
                raise CancelledError
            on_wait("load tests and proofs, which are alone")

        return MachineTurns(self.turns_dir).beside_others(wait)
