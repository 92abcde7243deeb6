"""What the load tests' outcomes are called; the generator's process is a stand-in that ends as it is told."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from configs.errors import RequestError, StageError
from registry.contracts import Endpoint
from serving_checks.engines.table import AnyServingConfig, default_config
from serving_checks.load import LoadClient, LoadConfig, LoadResult, client
from serving_checks.load.config import Concurrent, Prompts
from serving_checks.load.job import LoadFailure, LoadJob, LoadOutcome, LoadProgress, LoadStart
from serving_checks.processes.endings import Ending
from serving_checks.processes.pulse import Patience
from serving_checks.readings.energy import EnergyTold
from tests.records import load_point

ENDPOINT = Endpoint(base_url="http://127.0.0.1:1", served_model_name="model", model_path="/nowhere", max_model_len=128)
SERVING = default_config()
CONFIG = LoadConfig(
    profiles=[Concurrent(kind="concurrent", levels=[1, 2])],
    prompts=Prompts(short=16),
    requests=4,
    output_tokens=4,
    deadline_seconds=0.2,
)
SOUND = LoadOutcome(points=[load_point(1, 20.0), load_point(2, 30.0)], energy=EnergyTold(source="RAPL package-0"))


class StandIn:
    """Of `Supervised`: ends with `exit_code` and leaves an outcome."""

    command_line = "python -m serving_checks.load.generator"
    suspended_seconds = 0.0

    def __init__(self, exit_code: int | None, outcome: LoadOutcome, folder: Path) -> None:
        self.exit_code, self.outcome, self.folder = exit_code, outcome, folder
        self.ended = False

    def start(self) -> None: ...

    def stop(self) -> None:
        self.ended = True

    def attend(self, patience: Patience, on_tick: Callable[[bool], None]) -> int:
        assert patience == Patience(deadline_seconds=0.2)
        job = LoadJob.model_validate_json((self.folder / "load_job.json").read_text())
        job.progress_file.write_text(LoadProgress(done=1, most=2).model_dump_json())
        on_tick(False)
        if self.exit_code is None:
            raise StageError("no end after 0 s", remedy="see the log")
        job.outcome_file.write_text(self.outcome.model_dump_json())
        return self.exit_code

    def ending(self, exit_code: int) -> Ending:
        return Ending(exit_code, self.log_tail(), self.folder)

    def log_tail(self) -> str:
        return "the log's end"


def result_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: LoadOutcome = SOUND,
    exit_code: int | None = 0,
    endpoint: Endpoint = ENDPOINT,
    on_progress: Callable[[int, int], None] | None = None,
) -> LoadResult:
    child = StandIn(exit_code, outcome, folder)
    monkeypatch.setattr(client, "Supervised", lambda *arguments, **options: child)
    try:
        with LoadClient(CONFIG, SERVING, folder, folder) as load_client:
            return load_client.run(endpoint, folder / "out", folder / "server.log", on_progress)
    finally:
        assert child.ended


def test_points_and_the_place_of_the_requests_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of(tmp_path, monkeypatch)
    assert result == (SOUND.points, None, tmp_path / "out" / "load_requests.parquet", 0.0, SOUND.energy)
    start = LoadStart.model_validate_json((tmp_path / "load_start.json").read_text())
    assert start == LoadStart(endpoint=ENDPOINT, requests_file=result.requests_file)


def test_progress_is_told_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    result_of(tmp_path, monkeypatch, on_progress=lambda done, most: told.append((done, most)))
    assert told == [(1, 2)]


def test_the_requests_of_a_failed_load_stay_beside_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "load_requests.parquet").write_text("rows")
    with pytest.raises(StageError, match=r"all requests until then: .*/server\.load_requests\.parquet"):
        result_of(tmp_path, monkeypatch, exit_code=1)
    assert (tmp_path / "server.load_requests.parquet").read_text() == "rows"
    assert not list((tmp_path / "out").iterdir())


def test_a_failure_is_told_with_the_ends_of_both_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.log").write_text("long ago\n" + "x\n" * 15 + "out of memory\n")
    failure = LoadFailure(what="the server died", remedy="look there", bad_request=False)
    with pytest.raises(StageError, match="the server died") as caught:
        result_of(tmp_path, monkeypatch, LoadOutcome(points=[], failure=failure))
    assert "the log's end" in caught.value.what
    assert "out of memory" in caught.value.what
    assert "long ago" not in caught.value.what
    assert caught.value.remedy == "look there"


def test_a_request_that_no_server_could_meet_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = LoadFailure(what="too few texts", remedy="name more", bad_request=True)
    with pytest.raises(RequestError, match="too few texts"):
        result_of(tmp_path, monkeypatch, LoadOutcome(points=[], failure=failure))


@pytest.mark.parametrize(
    ("exit_code", "said", "remedy"),
    [(None, "no end after", "deadline_seconds"), (137, "SIGKILL", "who ends processes"), (1, "exit code 1", "again")],
)
def test_a_generator_that_ends_badly_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int | None, said: str, remedy: str
) -> None:
    with pytest.raises(StageError, match=said) as caught:
        result_of(tmp_path, monkeypatch, exit_code=exit_code)
    assert "the log's end" in caught.value.what
    assert remedy in caught.value.remedy


def test_the_generator_gets_the_key_by_its_variable_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    secrets: list[dict[str, str]] = []
    monkeypatch.setattr(client, "Supervised", lambda *arguments, **options: started.append(options))
    monkeypatch.setenv("SERVER_KEY", "not-to-be-shown")
    known = {"engine": "openai", "base_url": "http://127.0.0.1:1", "served_model_name": "theirs"}
    address = TypeAdapter(AnyServingConfig).validate_python(known | {"api_key_variable": "SERVER_KEY"})
    for serving in (address, SERVING):
        LoadClient(CONFIG, serving, tmp_path, tmp_path)
        secrets.append(started[-1].pop("secrets"))
        assert "not-to-be-shown" not in str(started) + (tmp_path / "load_job.json").read_text()
    assert secrets == [{"SERVER_KEY": "not-to-be-shown"}, {}]


def test_a_load_that_does_not_fit_is_refused_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ENDPOINT.model_copy(update={"max_model_len": 19})
    with pytest.raises(RequestError, match="20 tokens does not fit the server's 19"):
        result_of(tmp_path, monkeypatch, endpoint=small)
    assert not (tmp_path / "load_start.json").exists()


def test_too_few_file_handles_are_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (129, 4096))
    with pytest.raises(RequestError, match="2 requests in flight need 130 open files, this shell allows 129") as caught:
        LoadClient(CONFIG, SERVING, tmp_path, tmp_path)
    assert "`ulimit -n 130`" in caught.value.remedy
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    LoadClient(CONFIG, SERVING, tmp_path, tmp_path)


def test_a_text_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"prompts": Prompts(short=16, file=tmp_path / "missing.txt")})
    with pytest.raises(RequestError, match=r"missing\.txt: cannot be read"):
        LoadClient(config, SERVING, tmp_path, tmp_path)
