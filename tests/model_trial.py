"""One method on one tiny model, by the pipeline's own stages: made and found sound, or why not."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from quantizers.__main__ import inspect_stage, quantize_stage
from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.expert_names import has_experts
from quantizers.checkpoints.stored_model import gguf_file
from quantizers.inspection.gguf_file import read_as_source
from quantizers.inspection.inspection import InspectJob
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionRecord
from registry.contracts.base import Method, format_of
from registry.stage_process import StageClock
from tests.tiny_families import make_tiny_of

_GROUPED = {"group_size": 32}
PARAMETERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gptq", "awq", "rtn", "awq_autoawq", "w4a16_gptq"), _GROUPED),
    "autoround": {**_GROUPED, "iterations": 20},
}
TRIAL_SECONDS = 120
_MOST_LETTERS = 400
MOST_ERROR = 0.8
"""Of the logits, relative to the source's: sound artifacts of these models have 0.02 to 0.35 in 4 bits, those of touchy
ones 0.5 to 0.77 (Granite's and MiniCPM3's factors, four layers of Olmo 3 or Qwen 3.5: their artifacts answer exactly as
their dequantized weights do), unsound ones 0.97 and more."""
WORK_DTYPES = dict.fromkeys(("bnb_int8", "gptq", "awq"), "float32")


def token_ids(rows: int, tokens: int) -> list[list[int]]:
    """None of them special."""
    found: list[list[int]] = np.random.default_rng(0).integers(5, 500, (rows, tokens)).tolist()
    return found


def quantize_job(checkpoint: CheckpointRecord, method: Method, room: Path, **parameters: Any) -> QuantizeJob:
    """A job that makes `room / "artifact"` of the checkpoint that the record describes; its origin is its folder."""
    (room / "rows.json").write_text(json.dumps(token_ids(16, 48)))
    (room / "artifact").mkdir()
    return QuantizeJob(
        stage="quantize",
        result_file=room / "result.json",
        output_dir=room / "artifact",
        name=method,
        config={"method": method, **PARAMETERS.get(method, {}), **parameters},  # type: ignore[arg-type]
        checkpoint_dir=Path(checkpoint.origin),
        checkpoint=checkpoint,
        calibration_dir=room,
        calibration_digest="sha256:0",
        device="cpu",
        dtype=WORK_DTYPES.get(method, "bfloat16"),  # type: ignore[arg-type]
        threads=1,
    )


def inspected(job: QuantizeJob, made: ArtifactRecord) -> InspectionRecord:
    """What the inspection says of the artifact of `job`."""
    asked = InspectJob(
        stage="inspect",
        result_file=job.result_file,
        checkpoint_dir=job.checkpoint_dir,
        checkpoint=job.checkpoint,
        artifact_dir=job.output_dir,
        artifact=made,
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )
    clock = StageClock(job.output_dir.parent / "progress")
    return InspectionRecord.model_validate(inspect_stage(asked, clock).record)


def made_and_inspected(
    checkpoint: CheckpointRecord, method: Method, room: Path, **parameters: Any
) -> tuple[ArtifactRecord, InspectionRecord]:
    """Quantize and inspect in this process, in the empty folder `room`."""
    job = quantize_job(checkpoint, method, room, **parameters)
    made = ArtifactRecord.model_validate(quantize_stage(job, StageClock(room / "progress")).record)
    return made, inspected(job, made)


class NotSoundError(ValueError):
    """What was made is not what its source is."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def trial(model_type: str, method: Method) -> None:
    """Make a tiny model and look at what became of it; an exception says why it is not made.

    What is not sound is tried once more with other random weights: a tiny model may answer nothing, or be a touchy one.
    """
    try:
        _trial(model_type, method, seed=0)
    except NotSoundError:
        _trial(model_type, method, seed=1)


def _trial(model_type: str, method: Method, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Path(name) / "work"
        room.mkdir()
        folder = make_tiny_of(model_type, Path(name) / "model", seed)
        record = describe(folder, origin=str(folder))
        check_sound(record, *made_and_inspected(record, method, room), room / "artifact")


def check_sound(checkpoint: CheckpointRecord, made: ArtifactRecord, found: InspectionRecord, artifact: Path) -> None:
    """Raise NotSoundError where an artifact fails its inspection, lacks a Linear, or answers unlike its source."""
    if failed := [check for check in found.checks if not check.passed]:
        raise NotSoundError(f"the artifact fails its inspection: {failed[0].detail}")
    if {module.name for module in made.quantized_modules} != set(checkpoint.linear_shapes):
        raise NotSoundError("its record names other modules than the checkpoint's Linears")
    experts = has_experts(checkpoint.linear_shapes)
    error = relative_error(Path(checkpoint.origin), artifact, format_of(made.method), experts=experts)
    if not error < MOST_ERROR:
        raise NotSoundError(f"a tiny artifact's logits are off by {error:.2f} of the source's")


def relative_error(source: Path, artifact: Path, kind: str = "", *, experts: bool = False) -> float:
    """Of the logits of some tokens: how far apart the two models answer, as a share of the source's own norm.

    Args:
        source: The checkpoint.
        artifact: What was made of it.
        kind: The artifact's format.
        experts: Whether it is a mixture of experts, whose GPTQ and AWQ only GPTQModel reads.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from quantizers.engines.compressed_tensors_engine import integer_experts_read
    from quantizers.engines.gptqmodel_engine import load_artifact

    def loaded(folder: Path) -> Any:
        if file := gguf_file(folder):
            return read_as_source(file, source, "bfloat16")[0]
        with integer_experts_read():
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")

    tokens = torch.tensor(token_ids(1, 40))
    with torch.inference_mode():
        one = loaded(source)(tokens).logits.float()
        by_engine = experts and kind in ("gptq", "awq")
        model = load_artifact(artifact, kind, "cpu", torch.bfloat16, 1) if by_engine else loaded(artifact)
        other = model(tokens).logits.float()
    return float((other - one).norm() / one.norm())


def apart(work: Callable[[], Any]) -> Any:
    """The result of `work` in a fork, since engines leave other classes behind; or why there is none, as ValueError."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child(pipe: Connection) -> None:
        # The engine's log has a thread that writes, which no fork has: it makes another one for another stream.
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        try:
            pipe.send((True, work()))
        except BaseException as error:  # An engine raises whatever it stumbles over.
            pipe.send((False, words(error)))
        os._exit(0)

    process = context.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    try:
        sound, found = ours.recv() if ours.poll(TRIAL_SECONDS) else (False, f"it took more than {TRIAL_SECONDS} s")
    except EOFError:
        sound, found = False, "the engine ended its process"
    process.kill()
    process.join()
    if not sound:
        raise ValueError(found)
    return found


def words(error: Any) -> str:
    """What an exception or a stage's failure says, without folders, and with one layer for all of them."""
    what = getattr(error, "what", None) or f"{type(error).__name__}: {error}"
    what = re.sub(r"/\S*/", "", " ".join(str(what).split()))
    what = re.sub(r"\.\d+\.", ".*.", what)
    return what if len(what) <= _MOST_LETTERS else what[: what.rfind(" ", 0, _MOST_LETTERS)] + " ..."
