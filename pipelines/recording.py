"""Hands a finished run to the recorder's process, unless an equal run was recorded before."""

import sys

from pipelines.record import RecordJob
from pipelines.run_config import TrackingConfig
from pipelines.run_record import RunRecord
from pipelines.workspace import Workspace
from registry.contracts import StageResult
from registry.files import write_text_atomically
from registry.hashing import digest_of
from registry.stage_cache import StageKey
from serving_checks import supervisor

_RECORD_VERSION = 2


def record_run(record: RunRecord, workspace: Workspace, tracking: TrackingConfig, start_seconds: float) -> str:
    """Write the run to MLflow in a process of its own: importing MLflow takes longer than finding nothing new.

    Args:
        start_seconds: `time.monotonic()` at the end of `record.breakdown`; the recorder adds the time since then.

    Returns:
        Where it is, in words. A failure is told in words too: the measurements are safe without MLflow, and the next
        run of the same command tries again.
    """
    uri = tracking.uri or workspace.default_tracking_uri
    facts = {"rows": [row.model_dump(mode="json") for row in record.rows], "config": record.config, "uri": uri}
    key = StageKey(
        stage="record", stage_version=_RECORD_VERSION, config={"run": digest_of(facts)}, inputs={}, libraries={}
    )
    known = workspace.cache.get(key)
    if known is not None and known.record is not None:
        return f"{known.record['where']} (recorded before)"
    stages = record.run_dir / "stages"
    job = RecordJob(
        stage="record",
        result_file=stages / "record.result.json",
        run=record,
        start_seconds=start_seconds,
        artifact_root=workspace.root / "mlartifacts",
        store_root=workspace.root / "store",
        tracking_uri=uri,
        tracking=tracking,
    )
    job_file = stages / "record.job.json"
    write_text_atomically(job_file, job.model_dump_json(indent=2))
    log_file = record.run_dir / "logs" / "record.log"
    supervisor.run([sys.executable, "-P", "-m", "pipelines.record", str(job_file)], log_file=log_file)
    try:
        result = StageResult.model_validate_json(job.result_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"not recorded in MLflow: the recorder ended without a result, see {log_file}"
    if result.failure is not None:
        return f"not recorded in MLflow: {result.failure.what}; {result.failure.remedy}"
    workspace.cache.put(key, "record", result)
    return str((result.record or {})["where"])
