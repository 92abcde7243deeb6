"""Shadow folders on the review page: counts and verdicts, without reading the pairs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.execution.shadow_evidence import Tried, record_verdict
from pipelines.review.page_data import PageData
from registry.contracts import GatewayRecord, ReplayRecord
from registry.contracts.gateway import ADDRESS_FILE, GATEWAY_FILE, PAIRS_FILE
from registry.contracts.replay import REPLAY_FILE
from registry.held_file import held_file
from registry.ledger import Ledger
from registry.pair_database import PairDatabase, Trial, keep_decision
from registry.pairs import PairWriter
from registry.sealed import write_sealed
from registry.tracking.address import sqlite_uri
from tests.review_workspace import collected, collector, put_run, put_runs
from tests.shadow_pairs import pair
from tests.unit.pipelines.report_records import report_rows
from tests.unit.pipelines.test_ramp import verdict

MODEL = "smollm2-135m-demo"


def replay_record(**changes: Any) -> ReplayRecord:
    side = {"engine": "vllm", "engine_version": "0", "dtype": "float32"}
    told = {
        "name": "demo",
        "config": {},
        "config_digest": "sha256:c",
        "prompts": {
            "file": "log.jsonl",
            "format": "openai",
            "digest": "sha256:p",
            "lines": 9,
            "broken": 0,
            "broken_lines": [],
            "prompts": 9,
        },
        "champion": side | {"name": "baseline", "digest": "sha256:old"},
        "candidate": side | {"name": "int8", "digest": "sha256:new"},
        "device": "cpu",
        "device_name": "a CPU",
        "verdict": {},
        "verdict_digest": "sha256:v",
        "started_at": datetime(2026, 5, 1, tzinfo=UTC),
        "finished_at": datetime(2026, 5, 2, tzinfo=UTC),
        "pairs": 9,
    }
    return ReplayRecord.model_validate(told | changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put_runs(tmp_path, 1)
    return tmp_path


def only(data: PageData) -> Any:
    assert not data.notices
    (one,) = data.shadow
    return one


def test_a_replay_has_the_verdict_that_somebody_recorded_of_its_artifacts(root: Path) -> None:
    folder = root / "shadow" / "demo"
    write_sealed(folder / REPLAY_FILE, replay_record())
    one = only(collected(root))
    assert (one.kind, one.pairs, one.champion, one.candidate, one.outcome) == ("replay", 9, "baseline", "int8", None)
    ledger = Ledger(sqlite_uri(root / "ledger.db"))
    record_verdict(ledger, MODEL, "me", Tried("sha256:other", "sha256:new"), verdict("fail"))
    assert only(collected(root)).outcome is None, "beside another champion"
    record_verdict(ledger, MODEL, "me", Tried("sha256:old", "sha256:new"), verdict("pass"))
    one = only(collected(root))
    assert (one.outcome, one.exploratory) == ("pass", False)
    assert one.reason


def test_a_replay_that_goes_on_counts_its_parts(root: Path) -> None:
    folder = root / "shadow" / "demo"
    write_sealed(folder / REPLAY_FILE, replay_record(finished_at=None, pairs=0))
    assert only(collected(root)).pairs == 0
    with PairWriter(folder) as writer:
        for number in range(5):
            writer.write(pair(number))
    assert only(collected(root)).pairs == 5


def test_a_gateway_has_the_pairs_and_the_verdict_of_its_newest_trial(root: Path) -> None:
    folder = root / "shadow" / "live"
    record = GatewayRecord(
        name="live", model="smollm2", verdict={}, verdict_digest="sha256:v", started_at=datetime(2026, 5, 1, tzinfo=UTC)
    )
    write_sealed(folder / GATEWAY_FILE, record)
    assert only(collected(root)).pairs == 0
    trial = Trial("first", "sha256:" + "a" * 64, "sha256:" + "b" * 64)
    with PairDatabase(folder / PAIRS_FILE) as database:
        for number in range(3):
            database.offer(pair(number), trial)
    one = only(collected(root))
    assert (one.kind, one.model, one.pairs, one.outcome) == ("gateway", "smollm2", 3, None)
    assert (one.champion, one.candidate) == ("a" * 12, "b" * 12)
    keep_decision(folder / PAIRS_FILE, "first", verdict("fail"))
    with held_file(folder / ADDRESS_FILE, "http://127.0.0.1:8080/"):
        found = only(collected(root))
    assert (found.outcome, found.status) == ("fail", "http://127.0.0.1:8080/")
    assert only(collected(root)).status is None, "it does not run any more"


@pytest.mark.parametrize("name", [REPLAY_FILE, GATEWAY_FILE])
def test_a_damaged_folder_is_told_and_the_others_are_shown(root: Path, name: str) -> None:
    write_sealed(root / "shadow" / "demo" / REPLAY_FILE, replay_record())
    (root / "shadow" / "broken").mkdir()
    (root / "shadow" / "broken" / name).write_text("{")
    data = collected(root)
    assert [one.name for one in data.shadow] == ["demo"]
    (notice,) = data.notices
    assert notice.about == "broken"


def test_a_damaged_database_is_told(root: Path) -> None:
    folder = root / "shadow" / "live"
    record = GatewayRecord(
        name="live", model="smollm2", verdict={}, verdict_digest="sha256:v", started_at=datetime(2026, 5, 1, tzinfo=UTC)
    )
    write_sealed(folder / GATEWAY_FILE, record)
    (folder / PAIRS_FILE).write_text("no database" * 200)
    (notice,) = collected(root).notices
    assert notice.about == "live"
    assert PAIRS_FILE in notice.text


def test_a_model_s_lineage_ends_with_its_traffic(root: Path) -> None:
    baseline, artifact = (row.digest for row in report_rows()[:2])
    assert baseline and artifact
    put_run(root, "run-1")
    record = GatewayRecord(
        name="live", model="smollm2", verdict={}, verdict_digest="sha256:v", started_at=datetime(2026, 5, 1, tzinfo=UTC)
    )
    write_sealed(root / "shadow" / "live" / GATEWAY_FILE, record)
    with PairDatabase(root / "shadow" / "live" / PAIRS_FILE) as database:
        database.offer(pair(0), Trial("first", baseline, artifact))
    reader = collector(root)
    shown = reader.collect(most_bytes=0).details
    assert len(shown) == 1
    for run in ("run-0", "run-1"):
        detail = reader.detail(run)
        told = [dict(model.lineage)["traffic"] for model in detail.models[:3]]
        assert told == ["live", "live", "none"], "a run that is not in the page too"
        assert shown.get(run, detail) == detail
