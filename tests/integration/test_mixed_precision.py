"""Mixed precision from calibration rows to inspected artifacts, by the real engines on a tiny Llama."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from quantizers.__main__ import inspect_stage, quantize_stage, sensitivity_stage
from quantizers.base import QuantizeJob, mixed_precision_of, packing_of, parse_config
from quantizers.checkpoints.checkpoint import describe
from quantizers.inspection.dequantize import TensorFiles, dequantize
from quantizers.inspection.inspection import InspectJob
from quantizers.precision.choice import choose_precision
from quantizers.sensitivity.stage import SensitivityJob
from registry.contracts import (
    ArtifactRecord,
    CheckpointRecord,
    InspectionRecord,
    SensitivityRecord,
    SensitivityTrial,
    StageResult,
)
from registry.hashing import manifest_of
from registry.journal import read_journal
from registry.stage_process import StageClock
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.server import serve
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
        bits=[4, 8],
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "gptq" else pytest.mark.thorough) for name in ENTRIES]
)
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


def test_an_engine_that_ignores_the_rules_is_found_out(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quantizers.engines.compressed_tensors_engine._groups",
        lambda _, weights, activations: {
            "linear": {"targets": ["Linear"], "weights": weights, "input_activations": activations}
        },
    )
    mixed = {"budget": "7 bits", "choices": [4, 8]}
    artifact = made(
        lab, tmp_path / "artifact", {"method": "rtn", "group_size": 64, "mixed_precision": mixed}, "bfloat16"
    )
    found = inspected(lab, artifact)["precision"]
    assert not found.passed
    assert "is stored in 4 bits, the record says 8" in found.detail


def test_a_config_that_only_one_reader_understands_is_found_out(lab: Lab, tmp_path: Path) -> None:
    mixed = {"budget": "9 bits", "choices": [4, 16]}
    folder, record = made(
        lab, tmp_path / "artifact", {"method": "rtn", "group_size": 64, "mixed_precision": mixed}, "bfloat16"
    )
    config = json.loads((folder / "config.json").read_text())
    left_alone = config["quantization_config"]["ignore"]
    config["quantization_config"]["ignore"] = left_alone[:1]
    (folder / "config.json").write_text(json.dumps(config))
    changed = record.model_copy(update={"digest": manifest_of(folder).digest})
    found = inspected(lab, (folder, changed))["precision"]
    assert not found.passed
    assert "config.json has" in found.detail
    # A size that is beyond the budget is no artifact of this recipe.
    assert record.precision is not None
    tight = record.precision.model_copy(update={"budget": "6 bits"})
    found = inspected(lab, (folder, changed.model_copy(update={"precision": tight})))["budget"]
    assert not found.passed
    assert "6 bits are allowed" in found.detail


@pytest.mark.thorough
def test_a_killed_stage_goes_on_from_its_last_trial(lab: Lab, tmp_path: Path) -> None:
    trials = tmp_path / "trials.jsonl"
    job = SensitivityJob(
        stage="sensitivity",
        result_file=tmp_path / "stage.result.json",
        checkpoint_dir=lab.checkpoint_dir,
        checkpoint=lab.checkpoint,
        calibration_dir=lab.calibration_dir,
        calibration_digest=lab.sensitivity.calibration_digest,
        group_size=64,
        bits=[4, 8],
        trials=48,
        trials_file=trials,
        device="cpu",
        dtype="float32",
        threads=1,
    )
    job_file = tmp_path / "job.json"
    job_file.write_text(job.model_dump_json())
    argv = [sys.executable, "-P", "-m", "quantizers", str(job_file)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not trials.exists() or trials.read_bytes().count(b"\n") < 3):
            os.sched_yield()
        process.kill()
    kept = read_journal(trials, SensitivityTrial)
    assert len(kept) >= 3
    subprocess.run(argv, env=env, check=True, stderr=subprocess.DEVNULL)
    result = StageResult.model_validate_json(job.result_file.read_text())
    assert SensitivityRecord.model_validate(result.record) == lab.sensitivity
    assert read_journal(trials, SensitivityTrial)[: len(kept)] == kept


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["gptq", "awq", "rtn"])
def test_vllm_serves_what_was_written(lab: Lab, tmp_path: Path, method: str) -> None:
    """The served log-probabilities are those of the weights in the files, and not those of the source."""
    import torch
    from transformers import AutoModelForCausalLM

    mixed = {"budget": "9 bits", "choices": [4, 16]}
    dtype = "bfloat16" if method == "rtn" else "float32"
    entry = {"method": method, "group_size": 64, "mixed_precision": mixed}
    folder, record = made(lab, tmp_path / "artifact", entry, dtype)
    assert record.precision is not None
    assert {4, 16} == set(record.precision.module_bits.values())
    ids = [4 + 7 * place % 290 for place in range(48)]
    model = AutoModelForCausalLM.from_pretrained(lab.checkpoint_dir, dtype=torch.float32).eval()
    source = _logprobs(model, ids)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    with TensorFiles(folder) as files, torch.no_grad():
        for name, parameter in model.named_parameters():
            module = name.removesuffix(".weight")
            written = (
                dequantize(files, module, record.method, config) if module in lab.checkpoint.linear_shapes else None
            )
            parameter.copy_(files.read(name).float() if written is None else written)
    own = _logprobs(model, ids)
    serving = VllmServerConfig(max_model_len=128, max_num_seqs=2, kv_cache_gib=0.25)
    with serve(ServerRequest(serving, folder, "bfloat16", "cpu", None), tmp_path / "server.log") as server:
        asked = {"model": server.endpoint.served_model_name, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
        answer = requests.post(f"{server.endpoint.base_url}/v1/completions", json=asked, timeout=120)
        told = answer.json()["choices"][0]["prompt_logprobs"]
    served = [told[place][str(token)]["logprob"] for place, token in enumerate(ids) if place]
    off = [max(abs(a - b) for a, b in zip(served, ours, strict=True)) for ours in (own, source)]
    assert off[0] < 0.05
    assert off[0] < off[1] / 3


def _logprobs(model: Any, ids: list[int]) -> list[float]:
    import torch

    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logprobs[place - 1, token]) for place, token in enumerate(ids) if place]
