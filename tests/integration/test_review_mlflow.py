"""Runs that other machines recorded, read from a real MLflow store as the workspace itself knows them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.records.run_record import RESULT_FILE
from pipelines.review.one_run import run_detail
from pipelines.review.page_data import PageData
from pipelines.review.shared_run import SHARED_FILE, SharedRun
from pipelines.review.summaries import VERSION
from registry.sealed import parse_sealed, write_sealed
from registry.tracking.address import sqlite_uri
from registry.tracking.aliases import version_of, versions_of
from registry.tracking.recorded_runs import RecordedRuns
from registry.tracking.rest import NoAnswerError
from tests.integration.test_promotion import Lab, _lab
from tests.mlflow_server import mlflow_server
from tests.review_workspace import collector, put_run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["database", pytest.param("server", marks=pytest.mark.service)])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("elsewhere")
    if request.param == "database":
        yield _lab(folder, sqlite_uri(folder / "mlflow.db"))
        return
    with mlflow_server(folder / "server") as (uri, _):
        yield _lab(folder, uri)


@pytest.fixture
def others(recorded: Lab, tmp_path: Path) -> PageData:
    """The page of another machine's workspace, which has one run of its own."""
    config = recorded.run.config | {"name": "mine"}
    put_run(tmp_path, "my-own", config=config)
    return collector(tmp_path, mlflow=True).collect(most_bytes=1_000_000)


@pytest.fixture(params=["whole", "gone", "damaged", "of another version"])
def left(request: pytest.FixtureRequest, recorded: Lab) -> Iterator[str]:
    """What has become of the file that the run left for the page."""
    below = recorded.workspace.root.parent  # the server's files are there too
    (file,) = (path for path in below.rglob(SHARED_FILE) if path.parent.name == "artifacts")
    whole = file.read_text()
    if request.param == "gone":
        file.unlink()
    elif request.param == "damaged":
        file.write_text(whole[:-200])
    elif request.param == "of another version":
        shared = parse_sealed(whole, "it", SharedRun)
        write_sealed(file, shared.model_copy(update={"version": VERSION + 1}))
    yield str(request.param)
    file.write_text(whole)


def test_a_run_of_another_machine_has_the_numbers_of_its_record(
    recorded: Lab, left: str, others: PageData, tmp_path: Path
) -> None:
    assert sorted(others.runs.origin) == ["mlflow", "workspace"]
    place = others.runs.origin.index("mlflow")
    assert others.runs.id[place] == recorded.run.run_id
    assert others.runs.page[place] is None
    assert others.details.keys() == ({"my-own", recorded.run.run_id} if left == "whole" else {"my-own"})
    here = tmp_path / "theirs"
    shutil.copytree(recorded.run.run_dir, here / "runs" / recorded.run.run_dir.name)
    write_sealed(here / "runs" / recorded.run.run_dir.name / RESULT_FILE, recorded.run)
    known = collector(here).collect(most_bytes=0)
    there = {others.models.name[index]: index for index, run in enumerate(others.models.run) if run == place}
    mine = [there[name] for name in known.models.name]
    assert len(there) == len(mine)
    for column in (
        *("method", "dtype", "kernel", "weights_bytes", "peak_bytes", "kv_tokens", "concurrency", "verdict"),
        *("kept", "kept_low", "kept_high", "worst_category", "tokens_per_second", "ttft_p95_seconds"),
        *("tpot_p95_seconds", "tokens_per_second_alone"),
    ):
        found, wanted = getattr(others.models, column), getattr(known.models, column)
        for index, value in zip(mine, wanted, strict=True):
            expected = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            assert found[index] == expected, (column, known.models.name[mine.index(index)])
    categories = {column.name: column for column in others.categories}
    assert categories.keys() == {column.name for column in known.categories}
    for column in known.categories:
        theirs = categories[column.name]
        scores = {model: score for model, score in zip(theirs.model, theirs.score, strict=True) if model in mine}
        wanted = dict(zip(column.model, column.score, strict=True))
        for model, score in wanted.items():
            assert scores[mine[model]] == pytest.approx(score, rel=1e-5)


def test_a_run_of_another_machine_has_all_that_is_asked_of_one(recorded: Lab, tmp_path: Path) -> None:
    put_run(tmp_path, "my-own", config=recorded.run.config | {"name": "mine"})
    of_others = collector(tmp_path, mlflow=True)
    data = of_others.collect(most_bytes=0)
    assert data.details.keys() == {data.runs.id[0]}, "the rest is asked for"
    theirs, own = of_others.detail(recorded.run.run_id), run_detail(recorded.run)
    for one, same in zip(theirs.models, own.models, strict=True):
        lineage = same.lineage
        assert one == same.model_copy(update={"lineage": one.lineage})
        assert one.lineage[: len(lineage)] == lineage
        assert [what for what, _ in one.lineage[len(lineage) :]] == ["registry", "traffic"]
    assert theirs.slo == own.slo
    assert theirs.config.items() <= own.config.items(), "the registry's part was added after it was recorded"
    with pytest.raises(LookupError):
        of_others.detail("no such run")


def test_what_was_read_of_a_finished_run_is_kept(
    recorded: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(tmp_path, "my-own", config=recorded.run.config | {"name": "mine"})
    of_others = collector(tmp_path, mlflow=True)
    first = of_others.collect(most_bytes=0)
    monkeypatch.setattr(RecordedRuns, "file_of", None)
    put_run(tmp_path, "my-next", config=recorded.run.config | {"name": "mine"})
    again = of_others.collect(most_bytes=0)
    assert set(again.runs.id) == {"my-next", *first.runs.id}


def test_versions_are_those_of_the_registered_model(recorded: Lab, others: PageData) -> None:
    uri, model = str(recorded.tracking.uri), str(recorded.tracking.registered_model)
    digests = {row.name: row.digest for row in recorded.run.rows if row.digest}
    known = versions_of(uri, model)
    for name in ("int8", "nf4", "gptq"):
        version = version_of(uri, model, str(digests[name]))
        assert known[str(digests[name])] == version
        place = others.models.name.index(name)
        places = [at for at, one in enumerate(others.models.name) if one == name]
        assert version in [others.models.version[at] for at in places], place


def test_a_run_that_the_workspace_has_is_shown_once(recorded: Lab) -> None:
    data = collector(recorded.workspace.root, mlflow=True).collect(most_bytes=0)
    assert data.runs.origin == ["workspace"]
    assert str(recorded.tracking.uri) in data.where


def test_paging_ends_with_what_is_asked_for(recorded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.tracking.recorded_runs._ON_A_PAGE", 2)
    runs = RecordedRuns(str(recorded.tracking.uri), recorded.tracking.experiment)
    (parent,) = runs.newest(10)
    assert {one.name for one in runs.models_of(parent)} == {row.name for row in recorded.run.rows}
    assert len(runs.models_of(parent, most=3)) == 3
    assert RecordedRuns(str(recorded.tracking.uri), "no such experiment").newest(10) == []


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://someone@localhost/mlflow"])
def test_a_store_that_does_not_answer_is_told_and_the_rest_is_shown(tmp_path: Path, uri: str) -> None:
    put_run(tmp_path, "my-own", config={"name": "mine", "tracking": {"uri": uri}})
    data = collector(tmp_path, mlflow=True).collect(most_bytes=0)
    assert data.runs.id == ["my-own"]
    (notice,) = data.notices
    assert notice.about == "MLflow"
    assert uri in notice.text and "--no-mlflow" in notice.text


def test_a_damaged_database_is_told_and_no_password_is(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 200)
    put_run(tmp_path, "my-own")
    (notice,) = collector(tmp_path, mlflow=True).collect(most_bytes=0).notices
    assert "mlflow.db does not answer" in notice.text
    other = tmp_path / "other"
    put_run(other, "my-own", config={"name": "mine", "tracking": {"uri": "http://me:***@127.0.0.1:9"}})
    (notice,) = collector(other, mlflow=True).collect(most_bytes=0).notices
    assert "MLFLOW_TRACKING_PASSWORD" in notice.text


def test_what_is_no_mlflow_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match="neither a server nor a local database"):
        RecordedRuns("file:///tmp/mlruns", "any").newest(1)
