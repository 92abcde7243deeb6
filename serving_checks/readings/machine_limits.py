"""Takes the machine's limits: memory bandwidth and matrix rates, in some two seconds and a process of its own."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from configs.errors import StageError
from registry.contracts.base import Device
from registry.contracts.machine_limits import MachineLimits
from serving_checks.processes.pulse import Patience
from serving_checks.processes.supervisor import Supervised, quoted

_PROGRAM = [sys.executable, "-P", "-m", "serving_checks.readings.machine_rates"]
_PATIENCE = Patience(deadline_seconds=180.0, suspended_seconds=30.0)
"""Beside the two seconds, torch is imported: half a minute from a cold disk."""


def take_limits(
    device: Device, threads: int, *, gpus: list[str] | None = None, fork_server: Path | None = None
) -> MachineLimits:
    """Measure while nothing else runs, on the CPUs of this process; other work then is seen and said (`doubts`).

    Args:
        threads: Of a server on this CPU; without meaning on a GPU.
        gpus: Those of the server, as CUDA_VISIBLE_DEVICES names them; the first is measured. Empty for all.
        fork_server: Address of a fork server that has imported torch, if there is one.

    Raises:
        StageError: The process failed, or took minutes.
    """
    with TemporaryDirectory() as folder:
        result_file, log_file = Path(folder) / "limits.json", Path(folder) / "limits.log"
        env = {"OMP_NUM_THREADS": str(threads)} if device == "cpu" else {}
        env |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        argv = [*_PROGRAM, device, str(threads), str(result_file)]
        with Supervised(argv, log_file=log_file, env=env, fork_server=fork_server) as child:
            exit_code = child.attend(_PATIENCE)
            held = child.suspended_seconds
            command, tail = child.command_line, child.log_tail()
        try:
            limits = MachineLimits.model_validate_json(result_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise StageError(
                f"the process that measures the machine's limits ended with exit code {exit_code}: {command}\n"
                + quoted(tail),
                remedy="run the command by hand to see why; measurements go on without the share of the limit",
            ) from None
    doubt = (
        [f"the process that measured the machine's limits was stopped from outside for {held:.1f} s"] if held else []
    )
    return limits.model_copy(update={"doubts": [*limits.doubts, *doubt]})
