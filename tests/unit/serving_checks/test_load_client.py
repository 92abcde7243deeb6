"""What the load test's outcomes are called; the generator's process is a stand-in that ends as it is told."""

import json
from pathlib import Path

import pytest

from configs.errors import RequestError, StageError
from registry.contracts import Endpoint, LoadPoint
from serving_checks import load
from serving_checks.load import LoadClient, LoadConfig
from tests.records import measurement_record

ENDPOINT = Endpoint(base_url="http://127.0.0.1:1", served_model_name="model", model_path="/nowhere", max_model_len=128)
CONFIG = LoadConfig(concurrency=[1, 2], requests=4, prompt_tokens=16, output_tokens=4, deadline_seconds=77.0)


class StandIn:
    """Of `Supervised`: ends with `exit_code` and leaves one point for each number of completed requests."""

    command_line = "python -m serving_checks.load"

    def __init__(self, exit_code: int | None, completed: list[int], points_file: Path) -> None:
        self.exit_code, self.completed, self.points_file = exit_code, completed, points_file
        self.ended = False

    def start(self) -> None: ...

    def stop(self) -> None:
        self.ended = True

    def wait(self, deadline_seconds: float) -> int | None:
        assert deadline_seconds == 77.0
        point = measurement_record("sha256:m").serving.load_points[0]
        points = [
            point.model_copy(update={"concurrency": place + 1, "completed": number, "failed": 4 - number})
            for place, number in enumerate(self.completed)
        ]
        self.points_file.write_text(json.dumps([one.model_dump() for one in points]))
        return self.exit_code

    def log_tail(self) -> str:
        return "the log's end"


def points_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *completed: int,
    exit_code: int | None = 0,
    endpoint: Endpoint = ENDPOINT,
) -> list[LoadPoint]:
    child = StandIn(exit_code, list(completed), folder / "points.json")
    monkeypatch.setattr(load, "Supervised", lambda *arguments, **options: child)
    try:
        with LoadClient(CONFIG, folder, folder) as client:
            return client.run(endpoint)
    finally:
        assert child.ended


def test_failed_requests_are_counted_beside_the_completed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = points_of(tmp_path, monkeypatch, 4, 1)
    assert [(point.concurrency, point.completed, point.failed) for point in points] == [(1, 4, 0), (2, 1, 3)]
    assert Endpoint.model_validate_json((tmp_path / "endpoint.json").read_text()) == ENDPOINT


def test_a_level_without_a_completed_request_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"no request completed at concurrency \[2\]\nthe log's end") as caught:
        points_of(tmp_path, monkeypatch, 4, 0)
    assert "server's log" in caught.value.remedy


@pytest.mark.parametrize(("exit_code", "said"), [(None, "was not done in time"), (137, "failed with exit code 137")])
def test_a_generator_that_ends_badly_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int | None, said: str
) -> None:
    with pytest.raises(StageError, match=said) as caught:
        points_of(tmp_path, monkeypatch, exit_code=exit_code)
    assert "the log's end" in caught.value.what
    assert "deadline_seconds" in caught.value.remedy


def test_a_load_that_does_not_fit_is_refused_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ENDPOINT.model_copy(update={"max_model_len": 19})
    with pytest.raises(RequestError, match="20 tokens does not fit the server's 19"):
        points_of(tmp_path, monkeypatch, 4, 4, endpoint=small)
    assert not (tmp_path / "endpoint.json").exists()
