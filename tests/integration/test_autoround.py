"""AutoRound in its environment: served and read as GPTQ, rows of one length, and rows that it leaves out are told."""

from pathlib import Path
from typing import Any

import pytest

from quantizers.checkpoints.sources import read_config
from tests.model_trial import MOST_ERROR, relative_error, token_ids
from tests.stage_in_environment import inspected, job_in, run, run_replaced
from tests.tiny_families import make_tiny_of
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.environment

ENTRY: dict[str, Any] = {"method": "autoround", "group_size": 32, "iterations": 5}
ROWS = token_ids(16, 48)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


def test_equal_work_gives_equal_bytes_and_a_sound_artifact(source: Path, tmp_path: Path) -> None:
    jobs = [job_in(tmp_path / name, source, ROWS, ENTRY) for name in ("one", "other")]
    one, other = map(run, jobs)
    assert one.failure is None
    assert one.object is not None
    assert one.object == other.object
    assert [check for check in inspected(jobs[0], one).checks if not check.passed] == []
    folder = jobs[0].output_dir
    assert folder is not None
    assert read_config(folder)["dtype"] == read_config(folder)["torch_dtype"] == "bfloat16"
    assert relative_error(source, folder) < MOST_ERROR


def test_rows_of_several_lengths_are_refused(source: Path, tmp_path: Path) -> None:
    failure = run(job_in(tmp_path, source, [*token_ids(4, 48), *token_ids(4, 32)], ENTRY)).failure
    assert failure is not None
    assert "rows of one length, and these have 32 to 48 tokens" in failure.what
    assert failure.blame == "recipe"


def test_rows_that_the_engine_leaves_out_are_told(source: Path, tmp_path: Path) -> None:
    job = job_in(tmp_path, source, ROWS, ENTRY)
    one_less = (
        "import auto_round; whole = auto_round.AutoRound\n"
        "auto_round.AutoRound = lambda model, tokenizer, *, dataset, **options: whole("
        "model, tokenizer, dataset=dataset[1:], **options)"
    )
    failure = run_replaced(job, "autoround_engine", one_less).failure
    assert failure is not None
    assert "left 1 of 16 calibration rows out" in failure.what


@pytest.mark.slow
def test_an_expert_that_no_token_reaches_is_told(tmp_path: Path) -> None:
    """One expert a token, and the last one's score is never above another's."""
    job = job_in(tmp_path / "work", make_tiny_of("qwen3_moe", tmp_path / "model", lonely_expert=True), ROWS, ENTRY)
    failure = run(job).failure
    assert failure is not None
    assert "no calibration token reached 2 of 8 experts: model.layers.0.mlp.experts.3" in failure.what
    assert failure.blame == "recipe"
