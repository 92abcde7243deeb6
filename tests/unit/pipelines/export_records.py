"""A workspace with one real object and a finished run that tells of it, and key pairs to sign it with."""

import functools
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.execution.workspace import Workspace
from pipelines.records.artifact_of_run import ArtifactOfRun
from pipelines.records.events import StageOutcome
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from registry.contracts import StageResult
from registry.sealed import write_sealed
from tests.records import calibration_record
from tests.unit.pipelines.report_records import report_record

FILES = {"config.json": '{"a": 1}', "model.safetensors": "weights" * 1000, "README.md": "# as the method wrote it\n"}
CHECKPOINT, CALIBRATION, SUITE = (f"sha256:{character * 64}" for character in "cab")
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def handed_on(digest: str, run_dir: Path, **config: Any) -> RunRecord:
    """The run of `report_records`, with digests that are some, and `digest` for its gptq artifact."""
    record = _reported()
    baseline, *artifacts = record.rows
    assert baseline.checkpoint is not None
    checkpoint = baseline.checkpoint.model_copy(update={"digest": CHECKPOINT, "license": "apache-2.0"})
    rows = [baseline.model_copy(update={"checkpoint": checkpoint})]
    rows += [with_digest(row, digest) if row.name == "gptq" else row for row in artifacts]
    calibration = calibration_record(CALIBRATION).model_dump(mode="json")
    measured = {"torch": "2.13.0+cpu", "lm-eval": "0.4.13"}
    outcomes = [
        one.model_copy(update={"result": one.result.model_copy(update={"versions": measured})})
        if one.name == "measure:gptq"
        else one
        for one in record.outcomes
    ]
    result = StageResult(stage="calibrate", record=calibration)
    outcomes.append(StageOutcome(name="calibrate", how="done", wall_seconds=1.0, result=result))
    source = {"kind": "hub", "id": HUB_ID, "revision": "main"}
    told = {"run_id": run_dir.name, "run_dir": run_dir, "page": run_dir / "report.html"}
    made = {"rows": rows, "outcomes": outcomes, "config": record.config | {"source": source} | config}
    return record.model_copy(update=told | made)


@functools.cache
def _reported() -> RunRecord:
    return report_record(Path("nowhere"))


def with_digest(row: Row, digest: str) -> Row:
    assert row.artifact is not None and row.measurement is not None
    made = {"digest": digest, "checkpoint_digest": CHECKPOINT, "calibration_digest": CALIBRATION}
    made |= {"engine_versions": {"gptqmodel": "7.3.6", "torch": "2.6.0"}}
    evaluation = row.measurement.evaluation.model_copy(update={"suite_digest": SUITE})
    return row.model_copy(
        update={
            "artifact": row.artifact.model_copy(update=made),
            "measurement": row.measurement.model_copy(update={"evaluation": evaluation}),
        }
    )


def workspace_with(folder: Path, **config: Any) -> tuple[Workspace, str]:
    """A workspace whose last run made one artifact, gptq; and the artifact's digest."""
    workspace = Workspace(folder / "workspace")
    workspace.create()
    with workspace.store.staging() as staging:
        for name, text in FILES.items():
            (staging / name).write_text(text)
        digest = workspace.store.put(staging).digest
    run_dir = workspace.root / "runs" / "20260501T120000-demo-1a2b3c"
    write_sealed(run_dir / "result.json", handed_on(digest, run_dir, **config))
    return workspace, digest


def found_in(workspace: Workspace, digest: str, **config: Any) -> ArtifactOfRun:
    record = handed_on(digest, workspace.root / "runs" / "run", **config)
    row = next(row for row in record.rows if row.name == "gptq")
    assert row.artifact is not None
    return ArtifactOfRun(record, row, row.artifact, workspace.store.manifest(digest).files)


def write_keys(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """An EC key pair in PEM, as OpenSSL writes it: private, public."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(private_pem(key))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    content: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return content
