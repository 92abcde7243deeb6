"""Every architecture that is supported, by every method: made and found sound, or refused before work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.environments.definition import MAIN, environment_named
from pipelines.execution.stage_job import run_job
from quantizers.__main__ import inspect_stage, quantize_stage
from quantizers.base import METHODS, QuantizeJob, load_method
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.sources import ARCHITECTURES
from quantizers.inspection.inspection import InspectJob
from quantizers.methods.families import family_violations
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionRecord, StageResult
from registry.contracts.base import Method
from registry.stage_process import StageClock
from serving_checks.processes.pulse import UNBOUNDED
from tests.tiny_families import FAMILIES, make_tiny

pytestmark = [pytest.mark.engine, pytest.mark.thorough]

PARAMETERS: dict[str, dict[str, Any]] = {
    "gptq": {"group_size": 64},
    "awq": {"group_size": 64},
    "rtn": {"group_size": 64},
    "awq_autoawq": {"group_size": 64},
}
WORK_DTYPES = {"bnb_int8": "float32", "gptq": "float32"}
MOST_ERROR = 0.35
"""Of the logits, relative to the source's: 4 bits have 0.12 (SmolLM3) to 0.26 (Gemma 3) here."""


METHODS_AND_MARKS = [
    pytest.param(method, marks=[] if load_method(method).environment == MAIN else pytest.mark.environment)
    for method in METHODS
]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRecord:
    folder = make_tiny(request.param, tmp_path_factory.mktemp("family") / "model")
    return describe(folder, origin=str(folder))


def test_every_supported_architecture_is_here() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES)


@pytest.mark.parametrize("method", METHODS_AND_MARKS)
def test_it_is_made_and_found_sound_or_refused(checkpoint: CheckpointRecord, method: Method, tmp_path: Path) -> None:
    if refused := family_violations(method, checkpoint.architecture):
        assert method in refused[0]
        return
    if method == "gptq_autogptq":
        pytest.skip("AutoGPTQ quantizes with CUDA only")
    (tmp_path / "rows.json").write_text(json.dumps(token_ids(16, 48)))
    artifact, folder, clock = tmp_path / "artifact", Path(checkpoint.origin), StageClock(tmp_path / "progress")
    artifact.mkdir()
    common: dict[str, Any] = {
        "result_file": tmp_path / "result.json",
        "checkpoint_dir": folder,
        "checkpoint": checkpoint,
        "device": "cpu",
        "threads": 1,
    }
    job = QuantizeJob(
        stage="quantize",
        output_dir=artifact,
        name=method,
        config={"method": method, **PARAMETERS.get(method, {})},  # type: ignore[arg-type]
        calibration_dir=tmp_path,
        calibration_digest="sha256:0",
        dtype=WORK_DTYPES.get(method, "bfloat16"),  # type: ignore[arg-type]
        **common,
    )
    made = ArtifactRecord.model_validate(quantized(job, clock).record)
    assert {module.name for module in made.quantized_modules} == set(checkpoint.linear_shapes)
    seen = InspectJob(stage="inspect", artifact_dir=artifact, artifact=made, dtype="bfloat16", **common)
    found = InspectionRecord.model_validate(inspect_stage(seen, clock).record)
    assert [check for check in found.checks if not check.passed] == []
    assert relative_error(folder, artifact) < MOST_ERROR


def quantized(job: QuantizeJob, clock: StageClock) -> StageResult:
    """Here, or in the environment of the method's engine."""
    environment = load_method(job.config.method).environment
    if environment == MAIN:
        return quantize_stage(job, clock)
    return run_job(
        job,
        "quantizers",
        job.name,
        job.result_file.with_suffix(".log"),
        env={},
        patience=UNBOUNDED,
        on_progress=lambda _: None,
        interpreter=environment_named(environment, "cpu"),
    )


def token_ids(rows: int, tokens: int) -> list[list[int]]:
    """None of them special."""
    found: list[list[int]] = np.random.default_rng(0).integers(5, 500, (rows, tokens)).tolist()
    return found


def relative_error(source: Path, artifact: Path) -> float:
    """Of the logits of some tokens: how far apart the two models answer, as a share of the source's own norm."""
    import torch
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor(token_ids(1, 40))
    with torch.inference_mode():
        one, other = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")(tokens).logits.float()
            for folder in (source, artifact)
        )
    return float((other - one).norm() / one.norm())
