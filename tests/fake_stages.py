"""Stage processes without engines, for tests of failure and timing: they write small files and sound records.

`QUANTBENCH_FAKE` holds JSON: stage name -> `fail`, `die`, `leave`, `kill`, `stop`, `hang`, `disk_full`, `bug`,
`bad_result`, or `harm`, which once changes a byte of the checkpoint that the stage reads; for `soundness` also
the name of a check that fails, for `measure` also `other logits`; `meet STAGE` ends only when that one works too.
`QUANTBENCH_FAKE_LOG` names a file that gets a line for each stage that begins. Beside it, `.turns` gets `begin` and
`end` of each, and `alone` and `together` around that part of a measurement for which it asks to be alone.
"""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

from pydantic import ConfigDict

from configs.errors import StageError
from evals.samples import SAMPLES_FILE, write_samples
from registry.contracts import ObjectRef, StageJob, StageResult
from registry.contracts.token_logprobs import TOKEN_LOGPROBS_FILE
from registry.hashing import manifest_of
from registry.machine_turns import MachineTurns
from registry.stage_process import StageClock, main
from tests.records import (
    artifact_record,
    calibration_record,
    checkpoint_record,
    inspection_record,
    measurement_record,
    profile_record,
    prompt_logprobs,
    samples,
    sensitivity_record,
    soundness_record,
    tuned_record,
)


class FakeJob(StageJob):
    model_config = ConfigDict(extra="ignore")
    config: dict[str, object] | None = None
    checkpoint_dir: Path | None = None
    name: str = ""
    model_digest: str = ""
    serving: dict[str, object] = {}
    profile: bool = False
    turns_dir: Path | None = None


def work(job: StageJob, clock: StageClock) -> StageResult:
    assert isinstance(job, FakeJob)
    assert job.output_dir is not None
    stem = job.result_file.name.removesuffix(".result.json")
    with Path(os.environ["QUANTBENCH_FAKE_LOG"]).open("a") as log:
        log.write(stem + "\n")
    _tell(f"begin {stem}")
    behaviour = json.loads(os.environ.get("QUANTBENCH_FAKE", "{}")).get(stem)
    (job.output_dir / "content.txt").write_text(f"{stem} {json.dumps(job.config, sort_keys=True)}")
    with clock.part("load"):
        _misbehave(behaviour, job)
    if job.turns_dir:
        with MachineTurns(job.turns_dir).alone(lambda: clock.progress("wait")):
            _tell(f"alone {stem}")
            time.sleep(0.3)  # another's begin would be told in between
            _tell(f"together {stem}")
    if job.stage in ("soundness", "measure"):
        nats = 0.7 if behaviour == "other logits" else 0.1
        (job.output_dir / TOKEN_LOGPROBS_FILE).write_text(prompt_logprobs(nats).model_dump_json() + "\n")
    if job.stage == "measure":
        write_samples(job.output_dir / SAMPLES_FILE, samples(wrong=0 if "baseline" in stem else 5))
    digest = manifest_of(job.output_dir).digest
    wrong = 0 if "baseline" in stem else 5
    record = {
        "prepare": lambda: checkpoint_record(digest),
        "calibrate": lambda: calibration_record(digest),
        "soundness": lambda: soundness_record(digest, behaviour),
        "sensitivity": sensitivity_record,
        "quantize": lambda: artifact_record(digest, name=job.name),
        "inspect": lambda: inspection_record(digest),
        "tune": lambda: tuned_record(job.model_digest, job.serving["max_num_seqs"]),
        "measure": lambda: measurement_record(job.model_digest, wrong, profile_record() if job.profile else None),
    }[job.stage]()
    _tell(f"end {stem}")
    return StageResult(
        stage=job.stage,
        record=record.model_dump(mode="json"),
        object=ObjectRef(digest=digest, size_bytes=1),
    )


def _tell(line: str) -> None:
    with Path(os.environ["QUANTBENCH_FAKE_LOG"]).with_suffix(".turns").open("a") as turns:
        turns.write(line + "\n")


def _meet(other: str) -> None:
    turns, deadline = Path(os.environ["QUANTBENCH_FAKE_LOG"]).with_suffix(".turns"), time.monotonic() + 60
    while f"begin {other}\n" not in turns.read_text():
        if time.monotonic() > deadline:
            raise StageError(f"{other} never came", remedy="nothing")
        time.sleep(0.05)


def _misbehave(behaviour: str | None, job: FakeJob) -> None:
    if behaviour and behaviour.startswith("meet "):
        _meet(behaviour.removeprefix("meet "))
    if behaviour == "fail":
        raise StageError("the engine gave up", remedy="try another engine")
    if behaviour == "die":
        print("Segmentation fault in the imaginary kernel", file=sys.stderr)
        os._exit(1)
    if behaviour == "leave":
        print("ValueError: the weights are not numbers", file=sys.stderr, flush=True)
        os._exit(0)
    if behaviour == "bug":
        raise KeyError("no such thing")
    if behaviour == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hang":
        Path(os.environ["QUANTBENCH_FAKE_LOG"]).with_suffix(".pid").write_text(str(os.getpid()))
        time.sleep(300)
    if behaviour == "disk_full":
        raise OSError(errno.ENOSPC, "No space left on device", str(job.output_dir))
    if behaviour == "harm" and not Path(os.environ["QUANTBENCH_FAKE_LOG"]).with_suffix(".harmed").exists():
        Path(os.environ["QUANTBENCH_FAKE_LOG"]).with_suffix(".harmed").touch()
        assert job.checkpoint_dir is not None
        (job.checkpoint_dir / "content.txt").write_text("not what was prepared")
    if behaviour == "bad_result":
        job.result_file.write_text('{"stage": 3')
        os._exit(0)


if __name__ == "__main__":
    sys.exit(
        main(
            dict.fromkeys(
                ("prepare", "soundness", "calibrate", "sensitivity", "quantize", "inspect", "measure", "tune"),
                (FakeJob, work),
            )
        )
    )
