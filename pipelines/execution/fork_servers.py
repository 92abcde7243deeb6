"""The processes from which a run's stages and model servers are forked, so that long imports are done once a run."""

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from evals.asking.hub_data import OFFLINE
from pipelines.planning.device import MachineRecord
from pipelines.planning.stages import Stage
from serving_checks.engines.base import ServerCommand, ServingConfig
from serving_checks.engines.table import engine_of
from serving_checks.processes.supervisor import Supervised

_STAGE_IMPORTS = (
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
    "transformers.integrations.bitsandbytes",
    "lm_eval.tasks",
    "aiohttp",
    "pyarrow.parquet",
    "pipelines.stage_programs.measure",
    "quantizers.__main__",
)
"""What most stages import. GPTQModel is not among them: its import starts threads, which do not survive a fork."""

_SOCKET_SECONDS = 30.0


class _Addresses(NamedTuple):
    stages: Path | None
    servers: Path | None
    servers_env: Mapping[str, str]
    """Variables that the servers' libraries read when they were imported."""


class ServingPlan(Protocol):
    """What is read of a recipe or a bench's config."""

    @property
    def serving(self) -> ServingConfig:
        """Shapes what servers are forked from."""

    @property
    def fork_servers(self) -> bool:
        """Whether they are wanted."""


class ForkServers:
    """Started when the first stage needs them, ended with the block. On a GPU there are none: CUDA forbids it.

    Args:
        config: Of the run.
        machine: Where the run takes place.
        log_dir: Gets a log each.
        for_stages: Stages are forked too, and not model servers and load generators alone.
    """

    def __init__(self, config: ServingPlan, machine: MachineRecord, log_dir: Path, *, for_stages: bool = True) -> None:
        self._config, self._machine, self._log_dir = config, machine, log_dir
        self._for_stages = for_stages
        self._addresses: _Addresses | None = None
        self._starting = Lock()
        self._running = ExitStack()

    def for_stage(self, stage: Stage) -> Path | None:
        """The address to fork `stage` from; None where it has to be started in the plain way."""
        addresses = self._started()
        return None if stage.interpreter or fetches(stage) else addresses.stages

    def for_model_servers(self, stage: Stage, serving: ServingConfig) -> Path | None:
        """The address to fork the servers and load generators of `stage` from; None as above.

        Args:
            serving: The config that `stage` serves by. It may differ from the run's, but not in what is read at import.
        """
        addresses = self._started()
        if stage.interpreter or addresses.servers is None:
            return None
        wanted = engine_of(serving).fork_server("cpu", self._machine.serving_threads, addresses.servers)
        return addresses.servers if wanted and wanted.env == addresses.servers_env else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _started(self) -> _Addresses:
        with self._starting:  # stages that work side by side ask at the same time
            if self._addresses is None:
                possible = self._config.fork_servers and self._machine.device == "cpu"
                self._addresses = self._start() if possible else _Addresses(None, None, {})
            return self._addresses

    def _start(self) -> _Addresses:
        # In a short folder of the user's own: a socket's path has at most 107 characters.
        folder = Path(tempfile.mkdtemp(prefix="quantbench-"))
        self._running.callback(shutil.rmtree, folder, ignore_errors=True)
        stages, servers = folder / "stages", folder / "servers"
        argv = [sys.executable, "-P", "-m", "serving_checks.processes.fork_server", str(stages), *_STAGE_IMPORTS]
        of_servers = engine_of(self._config.serving).fork_server("cpu", self._machine.serving_threads, servers)
        return _Addresses(
            self._listening(stages, ServerCommand(argv, OFFLINE)) if self._for_stages else None,
            self._listening(servers, of_servers) if of_servers else None,
            of_servers.env if of_servers else {},
        )

    def _listening(self, address: Path, command: ServerCommand) -> Path | None:
        log_file = self._log_dir / f"fork-server-{address.name}.log"
        child = Supervised(command.argv, env=command.env, log_file=log_file, grace_seconds=1.0)
        self._running.push(child)  # before it runs, so that nothing comes between
        child.start()
        deadline = time.monotonic() + _SOCKET_SECONDS
        while not address.exists():
            if child.wait(0.02) is not None or time.monotonic() > deadline:
                return None
        return address


def fetches(stage: Stage) -> bool:
    """Whether the stage may read from the hub."""
    imported = stage.config.get("method", {}).get("source", {}) if stage.kind == "quantize" else {}
    return "hub" in (
        stage.config.get("source", {}).get("kind"),
        stage.config.get("calibration", {}).get("source"),
        imported.get("kind"),
    )
