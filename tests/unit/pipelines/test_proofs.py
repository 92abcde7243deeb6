"""Which proofs are made of a served model, and what becomes of them where a second server is no help."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import StageError
from pipelines.stage_programs import proofs
from pipelines.stage_programs.proofs import prove_scheduling, prove_sharding
from serving_checks.checks.config import ChecksConfig
from serving_checks.checks.sharding import ShardFacts, ShardingConfig
from serving_checks.engines.base import ServerRequest
from serving_checks.server import RunningServer
from tests.unit.serving_checks.test_server import request, serve_fake
from tests.unit.serving_checks.test_sharding import WHOLE, rank

CONFIG = ShardingConfig(tensor_parallel_size=2)
FIRST = ShardFacts(ranks=[rank(0, WHOLE, size=1)], pids_below_server=[100], answers=[])


@contextmanager
def dies(asked: ServerRequest) -> Iterator[RunningServer]:
    raise StageError("the server died at start with exit code 1: out of memory\n  command: ...", remedy="more memory")
    yield


def test_ranks_that_do_not_start_fail_the_check(tmp_path: Path) -> None:
    record = prove_sharding(FIRST, request(tmp_path, tensor_parallel_size=2), CONFIG, dies)
    assert record.outcome == "fail"
    assert record.reason == "a server of 2 ranks: the server died at start with exit code 1: out of memory"


def test_a_model_too_large_for_one_rank_is_no_failure(tmp_path: Path) -> None:
    record = prove_sharding(FIRST, request(tmp_path), CONFIG, dies)
    assert record.outcome == "not_run"
    assert "no unsharded server to compare with" in record.reason


def test_only_wanted_checks_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(proofs, "check_batching")
    monkeypatch.delattr(proofs, "check_starvation")
    with serve_fake("ok", request(tmp_path), tmp_path / "log") as server:
        assert prove_scheduling(server, ChecksConfig(batching=None, starvation=None)) == []


def test_both_checks_are_made_on_the_server(tmp_path: Path) -> None:
    config = ChecksConfig.model_validate(
        {"starvation": {"short_requests": 2, "long_requests": 1, "long_prompt_tokens": 64, "short_prompt_tokens": 4}}
    )
    asked = request(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    with serve_fake("ok", asked, tmp_path / "log") as server:
        found = prove_scheduling(server, config)
    assert [record.check for record in found] == ["batching", "starvation"]


@pytest.mark.parametrize(
    ("config", "serving_ranks", "expected"),
    [({}, 1, None), ({}, 4, 4), ({"sharding": {"tensor_parallel_size": 3}}, 1, 3), ({"sharding": None}, 4, None)],
)
def test_over_how_many_ranks(config: dict[str, object], serving_ranks: int, expected: int | None) -> None:
    assert ChecksConfig.model_validate(config).sharded_over(serving_ranks) == expected


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(ValidationError):
        ChecksConfig.model_validate({"batchng": {}})
