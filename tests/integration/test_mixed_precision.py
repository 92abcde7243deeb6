"""Mixed precision from calibration rows to inspected artifacts, by the real engines on a tiny Llama."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from quantizers.__main__ import inspect_stage, quantize_stage, sensitivity_stage
from quantizers.base import QuantizeJob, mixed_precision_of, packing_of, parse_config
from quantizers.checkpoints.checkpoint import describe
from quantizers.inspection.inspection import InspectJob
from quantizers.precision.choice import choose_precision
from quantizers.sensitivity.stage import SensitivityJob
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionRecord, SensitivityRecord
from registry.stage_process import StageClock
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine


class Lab(NamedTuple):
    checkpoint_dir: Path
    checkpoint: CheckpointRecord
    calibration_dir: Path
    sensitivity: SensitivityRecord
    clock: StageClock


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("mixed")
    folder = make_tiny_llama(root / "model", layers=3)
    checkpoint, calibration = describe(folder, origin="a random Llama"), root / "calibration"
    calibration.mkdir()
    rows = [[4 + (row * 37 + column * column * 11) % 296 for column in range(64)] for row in range(16)]
    (calibration / "rows.json").write_text(json.dumps(rows))
    clock = StageClock(root / "progress")
    job = SensitivityJob(
        stage="sensitivity",
        result_file=root / "result.json",
        checkpoint_dir=folder,
        checkpoint=checkpoint,
        calibration_dir=calibration,
        calibration_digest="sha256:" + "0" * 64,
        group_size=64,
        trials=48,
        trials_file=root / "trials.jsonl",
        device="cpu",
        dtype="float32",
        threads=1,
    )
    record = SensitivityRecord.model_validate(sensitivity_stage(job, clock).record)
    return Lab(folder, checkpoint, calibration, record, clock)


def made(lab: Lab, output: Path, entry: dict[str, Any], dtype: str = "float32") -> tuple[Path, ArtifactRecord]:
    output.mkdir(parents=True)
    config = parse_config(entry)
    mixed = mixed_precision_of(config)
    assert mixed is not None
    job = QuantizeJob.model_validate(
        {
            "stage": "quantize",
            "result_file": output / "../result.json",
            "output_dir": output,
            "name": "mixed",
            "config": config,
            "checkpoint_dir": lab.checkpoint_dir,
            "checkpoint": lab.checkpoint,
            "calibration_dir": lab.calibration_dir,
            "calibration_digest": lab.sensitivity.calibration_digest,
            "precision": choose_precision(mixed, packing_of(config), lab.checkpoint, lab.sensitivity),
            "device": "cpu",
            "dtype": dtype,
            "threads": 1,
        }
    )
    return output, ArtifactRecord.model_validate(quantize_stage(job, lab.clock).record)


def inspected(lab: Lab, artifact: tuple[Path, ArtifactRecord]) -> dict[str, Any]:
    job = InspectJob(
        stage="inspect",
        result_file=artifact[0] / "../result.json",
        checkpoint_dir=lab.checkpoint_dir,
        checkpoint=lab.checkpoint,
        artifact_dir=artifact[0],
        artifact=artifact[1],
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )
    record = InspectionRecord.model_validate(inspect_stage(job, lab.clock).record)
    return {check.name: check for check in record.checks}


ENTRIES: dict[str, dict[str, Any]] = {
    "gptq": {"method": "gptq", "budget": "7.5 bits", "choices": [4, 8, 16]},
    "gptq-size": {"method": "gptq", "budget": "0.62 MB", "choices": [4, 16]},
    "awq": {"method": "awq", "budget": "9 bits", "choices": [4, 16]},
    "rtn": {"method": "rtn", "budget": "7 bits", "choices": [4, 8, 16]},
    "w8a8": {"method": "w8a8", "budget": "11 bits", "choices": [8, 16]},
}


@pytest.mark.parametrize("name", ENTRIES)
def test_each_module_has_the_bits_that_were_chosen(lab: Lab, tmp_path: Path, name: str) -> None:
    entry = dict(ENTRIES[name])
    mixed = {"budget": entry.pop("budget"), "choices": entry.pop("choices")}
    group = {} if name == "w8a8" else {"group_size": 64}
    dtype = "float32" if entry["method"] in ("gptq", "awq") else "bfloat16"
    artifact = made(lab, tmp_path / "artifact", {**entry, **group, "mixed_precision": mixed}, dtype)
    checks = inspected(lab, artifact)
    assert [check.detail for check in checks.values() if not check.passed] == []
    assert {"precision", "budget", "weight_agreement", "reload"} <= set(checks)
    precision = artifact[1].precision
    assert precision is not None
    assert len(set(precision.module_bits.values())) > 1
    assert precision.expected_bytes <= precision.budget_bytes
    if mixed["budget"].endswith("bits"):
        stored = artifact[1].bits_per_weight * sum(a * b for a, b in lab.checkpoint.linear_shapes.values()) / 8
        assert round(stored) == precision.expected_bytes
