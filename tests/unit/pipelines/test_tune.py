"""The tuner: which grids are refused, which cell is chosen and why, and what becomes of cells that fail."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError, RequestError, StageError
from configs.loading import load_yaml_model
from evals.suites.resolve import load_suite
from pipelines.cli import main
from pipelines.execution import stage_work
from pipelines.execution.tune import execute_tune, open_tune
from pipelines.execution.tune_choice import choose, failed_cell, measured_cell
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import stages_of
from pipelines.recipe.run_config import RunConfig
from pipelines.recipe.tune_config import AtConcurrency, AtRate, TuneConfig, cell_load
from pipelines.records.events import StageOutcome
from pipelines.records.tune_record import TABLE_FILE, TuneCell, TuneRecord
from registry.contracts import Failure, RateSearch, ServingRecord
from registry.contracts.serving import SLO
from serving_checks.load import LoadConfig
from serving_checks.load.config import Concurrent, Prompts, Sweep, Synchronous
from tests.records import load_point, measurement_record, percentiles
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, ROOT, run_config

AT_2 = AtConcurrency(kind="concurrency", concurrency=2)
AT_RATE = AtRate(kind="rate")
TUNE: dict[str, Any] = {
    "objective": {"kind": "concurrency", "concurrency": 2},
    "slo": {"ttft_seconds": 1.0},
    "grid": {"max_num_seqs": [4, 8]},
}
RECIPE = """\
version: 1
name: test
source: {kind: folder, path: model}
calibration: {source: self, samples: 4, tokens: 16}
methods: {int8: {method: bnb_int8}}
evaluation: {suite: demo}
tune:
  objective: {kind: concurrency, concurrency: 8}
  slo: {ttft_seconds: 1.0}
  grid:
    max_num_seqs: [8, 16]
    enable_prefix_caching: [true, null]
"""


def refused(folder: Path, old: str, new: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(path, RunConfig)
    return str(caught.value)


def test_a_grid_is_the_product_of_its_lists(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    tune = load_yaml_model(path, RunConfig).tune
    assert tune is not None
    assert list(tune.cells()) == [
        {"max_num_seqs": 8, "enable_prefix_caching": True},
        {"max_num_seqs": 8, "enable_prefix_caching": None},
        {"max_num_seqs": 16, "enable_prefix_caching": True},
        {"max_num_seqs": 16, "enable_prefix_caching": None},
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_num_seqs", "max_num_seq", ["recipe.yaml:11: unknown key", "did you mean `max_num_seqs`?"]),
        ("max_num_seqs", "port", ["recipe.yaml:11: unknown key", "known keys here: enable_chunked_prefill"]),
        ("[8, 16]", "[]", ["recipe.yaml:11", "at least 1 item"]),
        ("[8, 16]", "8", ["recipe.yaml:11", "valid list"]),
        ("[8, 16]", "[8, 0]", ["recipe.yaml:11", "greater than or equal to 1"]),
        ("[8, 16]", "[8, null]", ["recipe.yaml:11", "valid integer"]),
        ("[8, 16]", "[8, 8]", ["`grid.max_num_seqs` holds a value twice: [8, 8]"]),
        ("[8, 16]", str(list(range(1, 34))), ["66 cells, 33 (max_num_seqs) x 2 (enable_prefix_caching)", "at most 64"]),
        ("kind: concurrency", "kind: throughput", ["recipe.yaml:8", "'concurrency', 'rate'"]),
        ("concurrency: 8", "concurrency: 0", ["recipe.yaml:8", "greater than or equal to 1"]),
        ("  grid:\n    max_num_seqs: [8, 16]\n    enable_prefix_caching: [true, null]", "  grid: {}", ["no parameter"]),
        ("ttft_seconds", "tft_seconds", ["recipe.yaml:9", "did you mean `ttft_seconds`?"]),
    ],
)
def test_a_wrong_grid_is_refused_at_its_line(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    text = refused(tmp_path, old, new)
    for part in said:
        assert part in text


def tune_config(**changes: Any) -> TuneConfig:
    return TuneConfig.model_validate(TUNE | changes)


def test_each_cell_is_loaded_with_what_the_objective_needs() -> None:
    prompts = Prompts(mixes=["medium", "long"])
    one = LoadConfig(profiles=[Synchronous(kind="synchronous")], requests=8, slo=SLO(e2e_seconds=3.0), prompts=prompts)
    closed = cell_load(one, tune_config())
    assert closed.profiles == [Concurrent(kind="concurrent", levels=[2])]
    assert (closed.slo, closed.prompts.mixes, closed.requests) == (SLO(ttft_seconds=1.0), ["medium"], 8)
    own_sweep = LoadConfig(profiles=[Sweep(kind="sweep", steps=3)], slo=SLO(e2e_seconds=3.0))
    searched = cell_load(own_sweep, tune_config(objective={"kind": "rate"}, slo=None))
    assert (searched.profiles, searched.slo) == (own_sweep.profiles, own_sweep.slo)
    assert cell_load(LoadConfig(), tune_config(objective={"kind": "rate"})).profiles == [Sweep(kind="sweep")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slo": None}, "neither `tune` nor `load` has one"),
        ({"slo": {}}, "needs at least one of ttft_seconds"),
        ({"objective": {"kind": "concurrency", "concurrency": 33}}, "33 requests in flight need as many"),
    ],
)
def test_a_search_that_does_not_fit_the_load_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        cell_load(LoadConfig(), tune_config(**changes))


def served(goodput: float | None, p95: float = 1.0, **changes: Any) -> ServingRecord:
    fields = {"good_requests_per_second": goodput, "e2e": percentiles(p95, p95)} | changes
    point = load_point(2, 40.0).model_copy(update=fields)
    return measurement_record("sha256:m").serving.model_copy(update={"load_points": [point]})


def cell(seqs: int, goodput: float | None, p95: float = 1.0, **changes: Any) -> TuneCell:
    return measured_cell({"max_num_seqs": seqs}, served(goodput, p95, **changes), AT_2)


BROKEN = failed_cell({"max_num_seqs": 99}, Failure(what="the server died: ValueError\n  its log", remedy="mend it"))


def test_the_highest_goodput_wins_and_all_are_ranked() -> None:
    choice = choose([BROKEN, cell(4, 1.0), cell(8, None, invalid="counters"), cell(16, 0.0), cell(32, 2.0)], AT_2, 0.03)
    assert choice.winner is not None
    assert choice.winner.parameters == {"max_num_seqs": 32}
    assert [one.parameters["max_num_seqs"] for one in choice.cells] == [32, 4, 16, 8, 99]
    assert [one.note for one in choice.cells] == [
        "",
        "",
        "no request kept the SLO",
        "invalid: counters",
        "failed: the server died: ValueError",
    ]
    assert choice.reason == "max_num_seqs=32 has the highest goodput, 2 requests/s"


def test_an_invalid_point_never_wins() -> None:
    choice = choose([cell(4, 9.0, invalid="the counters disagree"), cell(8, 1.0)], AT_2, 0.03)
    assert choice.winner is not None
    assert choice.winner.parameters == {"max_num_seqs": 8}
    assert choose([cell(4, 9.0, invalid="x")], AT_2, 0.03).reason == "none of 1 measured cells is valid"


def test_of_equals_the_one_with_the_lowest_latency_wins() -> None:
    cells = [cell(4, 1.0, p95=2.0), cell(8, 0.98, p95=1.0), cell(16, 0.5, p95=0.1)]
    choice = choose(cells, AT_2, 0.03)
    assert [one.parameters["max_num_seqs"] for one in choice.cells] == [8, 4, 16]
    assert [one.note for one in choice.cells] == ["", "ties with the best, slower at p95", ""]
    assert "2 cells come within 3 % of the highest goodput, 1 requests/s" in choice.reason
    strict = choose(cells, AT_2, 0.0)
    assert strict.winner is not None
    assert strict.winner.parameters == {"max_num_seqs": 4}


def test_the_grid_s_order_decides_what_nothing_else_does() -> None:
    choice = choose([cell(8, 1.0), cell(4, 1.0)], AT_2, 0.03)
    assert choice.winner is not None
    assert choice.winner.parameters == {"max_num_seqs": 8}


def test_an_slo_that_all_missed_has_no_winner() -> None:
    choice = choose([cell(4, 0.0), cell(8, 0.0), BROKEN], AT_2, 0.03)
    assert choice.winner is None
    assert choice.reason == "the SLO was missed by all of 2 cells that count; loosen it, or lower the load"
    assert choose([BROKEN], AT_2, 0.03).reason == "none of 1 cells could be measured"


def test_failed_requests_are_told_beside_the_goodput() -> None:
    assert cell(4, 1.0, failed=1, completed=3).note == "1 of 4 requests failed"


def test_a_rate_search_is_judged_by_the_rate_that_it_found() -> None:
    slo = SLO(ttft_seconds=1.0)
    floor, slow, fast = load_point(1, 40.0), load_point(2, 40.0), load_point(2, 40.0)
    open_loop = {"profile": "poisson", "concurrency": None}
    points = [
        floor,
        slow.model_copy(update=open_loop | {"requests_per_second_offered": 1.5, "good_requests_per_second": 1.4}),
        fast.model_copy(update=open_loop | {"requests_per_second_offered": 3.0, "invalid": "tokens were lost"}),
    ]
    search = RateSearch(slo=slo, share=0.95, highest_good_requests_per_second=1.5, tried=[1.5, 3.0])
    record = measurement_record("sha256:m").serving.model_copy(update={"load_points": points, "rate_search": search})
    assert measured_cell({}, record, AT_RATE).goodput_requests_per_second == 1.5
    none = search.model_copy(update={"highest_good_requests_per_second": None})
    missed = measured_cell({}, record.model_copy(update={"rate_search": none}), AT_RATE)
    assert missed.goodput_requests_per_second == 0.0
    assert missed.note == "the SLO was missed at the lowest rate tried; tokens were lost"


class Watcher:
    """An observer that remembers how each stage ended."""

    def __init__(self) -> None:
        self.how: dict[str, str] = {}

    def on_progress(self, *told: object) -> None: ...

    def on_outcome(self, outcome: StageOutcome, rows: list[Any]) -> None:
        self.how[outcome.name] = outcome.how


def opened(**changes: Any) -> OpenRun:
    config = run_config(fork_servers=False, tune=TUNE | changes)
    context = JobContext(config, MACHINE, load_suite("demo"), [])
    return OpenRun(context, stages_of(config, MACHINE, FINGERPRINTS), datetime(2026, 5, 1, tzinfo=UTC), 0.0)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(tmp_path / "executed.log"))
    monkeypatch.setattr(stage_work, "STAGE_MODULES", dict.fromkeys(stage_work.STAGE_MODULES, "tests.fake_stages"))
    made = Workspace(tmp_path / "workspace")
    made.create()
    return made


def tuned(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, behaviours: dict[str, str], **changes: Any
) -> tuple[TuneRecord, dict[str, str]]:
    monkeypatch.setenv("QUANTBENCH_FAKE", json.dumps(behaviours))
    watcher = Watcher()
    record = execute_tune(open_tune(opened(**changes)), workspace, watcher)
    return record, watcher.how


def test_only_what_makes_the_model_runs_before_the_cells() -> None:
    assert [stage.name for stage in open_tune(opened()).stages] == [
        "prepare",
        "tune:max_num_seqs=4",
        "tune:max_num_seqs=8",
    ]
    of_artifact = open_tune(opened(model="gptq", grid={"enable_chunked_prefill": [False, None]}))
    assert [stage.name for stage in of_artifact.stages] == [
        "prepare",
        "calibrate",
        "quantize:gptq",
        "inspect:gptq",
        "tune:enable_chunked_prefill=false",
        "tune:enable_chunked_prefill=default",
    ]
    assert of_artifact.stages[-1].config["serving"]["enable_chunked_prefill"] is None
    assert of_artifact.stages[-1].config["dtype"] == of_artifact.stages[3].dtype


def test_a_recipe_without_a_grid_or_with_another_model_is_refused() -> None:
    with pytest.raises(RequestError, match=r"`tune.model` is 'gpttq'") as caught:
        open_tune(opened(model="gpttq"))
    assert caught.value.remedy == "write one of baseline, int8, gptq"
    run = opened()
    config = run.context.config.model_copy(update={"tune": None})
    with pytest.raises(RequestError, match="no `tune` section"):
        open_tune(replace(run, context=replace(run.context, config=config)))


@pytest.mark.slow
def test_the_winner_is_written_and_nothing_is_measured_twice(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, how = tuned(workspace, monkeypatch, {"tune-max_num_seqs=4": "fail"})
    assert how == {"prepare": "done", "tune:max_num_seqs=4": "failed", "tune:max_num_seqs=8": "done"}
    assert (record.exit_code, record.winner) == (0, {"max_num_seqs": 8})
    assert record.cells[1].note == "failed: the engine gave up"
    assert record.winner_file is not None
    text = record.winner_file.read_text()
    assert yaml.safe_load(text) == {"serving": {"max_num_seqs": 8}}
    assert "0.8 requests/s with 2 requests in flight" in text
    assert "ttft_seconds 1" in text
    assert TuneRecord.model_validate_json((record.run_dir / TABLE_FILE).read_text()) == record
    # The failure is tried again, a new value of the grid is measured, the rest is there.
    record, how = tuned(workspace, monkeypatch, {}, grid={"max_num_seqs": [4, 8, 16]})
    assert how == {
        "prepare": "reused",
        "tune:max_num_seqs=4": "done",
        "tune:max_num_seqs=8": "reused",
        "tune:max_num_seqs=16": "done",
    }
    assert record.winner == {"max_num_seqs": 16}


@pytest.mark.slow
def test_a_winner_can_be_included(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record, _ = tuned(workspace, monkeypatch, {})
    (tmp_path / "recipe.yaml").write_text(RECIPE + "serving: {max_num_seqs: 2, max_model_len: 999}\n")
    (tmp_path / "tuned.yaml").write_text(f"include: [recipe.yaml, {record.winner_file}]\n")
    serving = load_yaml_model(tmp_path / "tuned.yaml", RunConfig).serving
    assert (serving.max_num_seqs, serving.max_model_len) == (8, 999)


@pytest.mark.slow
def test_without_a_measured_cell_the_search_failed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = tuned(workspace, monkeypatch, {"tune-max_num_seqs=4": "die", "tune-max_num_seqs=8": "fail"})
    assert (record.exit_code, record.winner, record.winner_file) == (3, None, None)
    assert (record.run_dir / TABLE_FILE).exists()


def test_without_a_model_there_is_nothing_to_tune(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="prepare failed, so there is nothing to tune: the engine gave up"):
        tuned(workspace, monkeypatch, {"prepare": "fail"})


def test_the_command_shows_the_table(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.cli import tune as command

    monkeypatch.setenv("QUANTBENCH_FAKE", "{}")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(command, "open_run", lambda *arguments: opened())
    assert main(["tune", "recipe.yaml", "--workspace", str(workspace.root), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["winner"] == {"max_num_seqs": 8}
    assert "max_num_seqs=8 has the highest goodput, 0.8 requests/s" in shown.err
    assert shown.err.index("taken") < shown.err.index("serving.yaml")


@pytest.mark.slow
def test_an_slo_that_is_missed_ends_with_1(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.execution.tune.measured_cell",
        lambda parameters, serving, objective: cell(parameters["max_num_seqs"], 0.0),
    )
    record, _ = tuned(workspace, monkeypatch, {})
    assert (record.exit_code, record.winner, record.winner_file) == (1, None, None)
    assert "the SLO was missed by all of 2" in record.reason
