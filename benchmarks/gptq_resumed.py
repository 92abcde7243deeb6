"""What a killed GPTQ gains by what it kept: `python -P -m benchmarks.gptq_resumed FOLDER [LINEARS]`

A prepared checkpoint folder is quantized whole, then again by a process that is killed as soon as `LINEARS` of its
Linears are kept (two thirds of them, unless told otherwise), and once more, which goes on from there. Told are the
seconds of each, the size of what was kept, and whether both artifacts are the same.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from registry.contracts import CheckpointRecord, StageResult
from tests.integration.test_gptq_kept import KILLED
from tests.model_trial import quantize_job

ROWS, TOKENS = 32, 128


def job_file(checkpoint: CheckpointRecord, room: Path, kept: Path | None) -> Path:
    """The stage's job in a room of its own, as the executor writes it."""
    room.mkdir()
    job = quantize_job(checkpoint, "gptq", room, group_size=64)
    # Any ids do: what is measured is time.
    rows = [[(row * 37 + place * place * 11 + place * row) % 40000 for place in range(TOKENS)] for row in range(ROWS)]
    (room / "rows.json").write_text(json.dumps(rows))
    whole = QuantizeJob.model_validate(job.model_dump() | {"threads": 2, "kept_dir": kept})
    (room / "job.json").write_text(whole.model_dump_json())
    return room / "job.json"


def timed(name: str, job: Path, program: list[str]) -> int:
    """The exit status of the stage as a process of its own."""
    began = time.monotonic()
    with (job.parent / "log").open("w") as log:
        status = subprocess.run([sys.executable, "-P", *program], stdout=log, stderr=log, check=False).returncode
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return status


def made(name: str, job: Path) -> StageResult:
    """What the stage made, and how long it took."""
    timed(name, job, ["-m", "quantizers", str(job)])
    return StageResult.model_validate_json((job.parent / "result.json").read_bytes())


def main(folder: Path, linears: int | None = None) -> None:
    """Three processes, one after the other."""
    checkpoint = describe(folder, origin=str(folder))
    killed_after = linears or 2 * len(checkpoint.linear_shapes) // 3
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        whole = made("whole", job_file(checkpoint, room / "whole", None))
        killed = job_file(checkpoint, room / "killed", room / "kept")
        status = timed(f"killed after {killed_after} Linears", killed, ["-c", KILLED, str(killed), str(killed_after)])
        if status != -signal.SIGKILL:
            raise SystemExit(f"it was to be killed and ended with {status}; see {killed.parent / 'log'}")
        size = sum(path.stat().st_size for path in (room / "kept").rglob("*") if path.is_file())
        resumed = made("gone on", job_file(checkpoint, room / "again", room / "kept"))
        print(f"kept: {size / 1e6:.1f} MB; the same artifact: {whole.object == resumed.object}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
