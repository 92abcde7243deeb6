"""The order of things around the load tests; sender, server and prompts are stand-ins."""

import urllib.error
from collections.abc import Callable, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Self

import pytest

from configs.errors import RequestError, StageError
from registry.contracts import Endpoint
from serving_checks.engines.base import MetricNames
from serving_checks.engines.vllm import VllmEngine
from serving_checks.load import LoadConfig, generator
from serving_checks.load.adapter import Load, Sent
from serving_checks.load.config import MixName, Prompts
from serving_checks.load.generator import LoadTests
from serving_checks.load.job import LoadJob, LoadProgress, LoadStart
from serving_checks.load.prompts import Prompt
from serving_checks.load.requests import RequestRow, read_rows
from serving_checks.load.watch import ServerCounts
from serving_checks.readings.energy import Counter, EnergyMeter, EnergyTold

ENDPOINT = Endpoint(base_url="http://here", served_model_name="model", model_path="/nowhere", max_model_len=128)


class Source:
    """Prompts without text."""

    def prompt(self, tokens: int) -> Prompt:
        return Prompt("", tokens)

    def mix(self, prompts: Prompts, mix: MixName, count: int) -> list[Prompt]:
        return [self.prompt(prompts.lengths(mix)[0]) for _ in range(count)]


class Sender:
    """Of `VllmGenerator`: every request takes a second, and at some load they fail."""

    def __init__(self, happened: list[str], fails: Callable[[Load], bool], error: str) -> None:
        self._happened, self._fails, self._error = happened, fails, error

    def send(
        self,
        endpoint: Endpoint,
        load: Load,
        prompts: Sequence[Prompt],
        output_tokens: int,
        *,
        seed: int = 0,
        point: int = 0,
    ) -> Sent:
        lengths = sorted(prompt.tokens for prompt in prompts)
        self._happened.append(f"send {load}: {lengths} -> {output_tokens}")
        failed = self._fails(load)
        rows = [
            RequestRow(
                point=point,
                profile=load.profile,
                prompts=load.mix,
                request=place,
                arrival_seconds=0.0,
                start_seconds=0.0,
                ttft_seconds=None if failed else (load.requests_per_second or 1.0) / 10,
                itl_seconds=[],
                e2e_seconds=1.0,
                prompt_tokens=prompt.tokens,
                output_tokens=0 if failed else output_tokens,
                outcome="failed" if failed else "ok",
                error=self._error if failed else "",
            )
            for place, prompt in enumerate(prompts)
        ]
        return Sent(rows, len(prompts) / (load.concurrency or 1))


class Watch:
    """Of `ServerWatch`: a server that tells nothing."""

    def __init__(self, endpoint: Endpoint, names: MetricNames) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *arguments: object) -> None: ...

    def counts(self, prompt_tokens: int, output_tokens: int) -> ServerCounts:
        return ServerCounts(None, None, None, None)


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []

    monkeypatch.setattr(VllmEngine, "reset_caches", lambda self, base_url: told.append("reset " + base_url))
    monkeypatch.setattr(generator, "await_idle", lambda *arguments: told.append("idle"))
    monkeypatch.setattr(generator, "get_text", lambda url, api_key_variable: "{}")
    monkeypatch.setattr(generator, "ServerWatch", Watch)
    return told


def load_tests(
    folder: Path,
    happened: list[str],
    config: dict[str, Any],
    fails: Callable[[Load], bool] = lambda load: False,
    error: str = "reset by peer",
    serving: dict[str, Any] | None = None,
) -> LoadTests:
    job = LoadJob.model_validate(
        {
            "config": LoadConfig.model_validate(config),
            "tokenizer_dir": folder,
            "serving": serving or {"engine": "vllm"},
            "start_file": folder / "start",
            "progress_file": folder / "progress",
            "outcome_file": folder / "outcome",
        }
    )
    start = LoadStart(endpoint=ENDPOINT, requests_file=folder / "rows.parquet")
    return LoadTests(job, start, Source(), Sender(happened, fails, error))  # type: ignore[arg-type]


SHORT = {"prompts": {"short": 8, "medium": 16, "long": 32}, "requests": 4, "output_tokens": 6}


def test_each_load_test_is_warmed_up_and_begins_with_empty_caches(tmp_path: Path, happened: list[str]) -> None:
    config = SHORT | {"profiles": [{"kind": "concurrent", "levels": [1, 4]}]}
    config["prompts"] = SHORT["prompts"] | {"mixes": ["short", "mixed"]}  # type: ignore[operator]
    tests = load_tests(tmp_path, happened, config)
    tests.run()
    assert happened[:8] == [
        "send short prompts, concurrency 1: [8] -> 4",
        "idle",
        "reset http://here",
        "send short prompts, concurrency 1: [8, 8, 8, 8] -> 6",
        "send short prompts, concurrency 4: [8, 8, 8, 8] -> 4",
        "idle",
        "reset http://here",
        "send short prompts, concurrency 4: [8, 8, 8, 8] -> 6",
    ]
    assert "send mixed prompts, concurrency 1: [8, 16, 32] -> 4" in happened
    assert [(point.prompts, point.concurrency) for point in tests.points] == [
        ("short", 1),
        ("short", 4),
        ("mixed", 1),
        ("mixed", 4),
    ]
    # Written before the last of them.
    assert LoadProgress.model_validate_json((tmp_path / "progress").read_text()) == LoadProgress(done=3, most=4)
    assert [row.point for row in read_rows(tmp_path / "rows.parquet")] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_the_warm_up_can_be_left_out(tmp_path: Path, happened: list[str]) -> None:
    load_tests(tmp_path, happened, SHORT | {"profiles": [{"kind": "synchronous"}], "warmup_output_tokens": 0}).run()
    assert sum(line.startswith("send") for line in happened) == 1


def test_an_engine_whose_cache_cannot_be_emptied_is_tested_all_the_same(
    tmp_path: Path, happened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reset_caches(self: VllmEngine, base_url: str) -> bool:
        raise urllib.error.HTTPError(base_url, 404, "not found", Message(), None)

    monkeypatch.setattr(VllmEngine, "reset_caches", reset_caches)
    tests = load_tests(tmp_path, happened, SHORT | {"profiles": [{"kind": "synchronous"}]})
    tests.run()
    assert len(tests.points) == 1


def test_a_load_test_without_a_completed_request_ends_them(tmp_path: Path, happened: list[str]) -> None:
    config = SHORT | {"profiles": [{"kind": "concurrent", "levels": [1, 2, 4]}]}
    tests = load_tests(tmp_path, happened, config, fails=lambda load: load.concurrency == 2)
    with pytest.raises(StageError, match=r"no request completed \(short prompts, concurrency 2\).*'reset by peer'"):
        tests.run()
    assert [point.concurrency for point in tests.points] == [1]
    outcomes = [row.outcome for row in read_rows(tmp_path / "rows.parquet")]
    assert outcomes == ["ok"] * 4 + ["failed"] * 4


def test_what_the_config_has_the_server_refuse_is_a_wrong_request(tmp_path: Path, happened: list[str]) -> None:
    config = SHORT | {"profiles": [{"kind": "synchronous"}]}
    address = {"engine": "openai", "base_url": "http://127.0.0.1:1", "served_model_name": "theirs"}
    error = 'HTTP 422 Unprocessable Entity: {"detail": "unexpected fields: ignore_eos"}'
    for serving, kind in ((address, RequestError), (None, StageError)):
        with pytest.raises(kind, match=r"no request completed .*unexpected fields: ignore_eos") as caught:
            load_tests(tmp_path, happened, config, lambda load: True, error, serving).run()
        assert ("`serving.fixed_length`" in caught.value.remedy) == (serving is address)


def test_a_dead_server_is_called_dead(tmp_path: Path, happened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, api_key_variable: str | None) -> str:
        raise ConnectionRefusedError

    monkeypatch.setattr(generator, "get_text", refuse)
    config = SHORT | {"profiles": [{"kind": "synchronous"}]}
    with pytest.raises(StageError, match=r"the server died during a load test .*0 of 4 requests completed"):
        load_tests(tmp_path, happened, config, fails=lambda load: True).run()
    assert [row.outcome for row in read_rows(tmp_path / "rows.parquet")] == ["failed"] * 4


def test_a_sweep_runs_last_between_floor_and_ceiling(tmp_path: Path, happened: list[str]) -> None:
    profiles = [{"kind": "sweep", "ceiling_concurrency": 4, "steps": 4}, {"kind": "synchronous"}]
    tests = load_tests(tmp_path, happened, SHORT | {"profiles": profiles, "slo": {"ttft_seconds": 0.2}})
    tests.run()
    # One request a second and place: the floor is 1, the ceiling 4, and the time to the first token is rate / 10.
    assert [point.concurrency for point in tests.points] == [1, 1, 4, None, None, None, None]
    assert tests.rate_search is not None
    assert tests.rate_search.tried == [0.5, 4.0, 2.25, 1.375]
    assert tests.rate_search.highest_good_requests_per_second == 1.375


def test_each_load_test_has_its_energy_or_a_note(
    tmp_path: Path, happened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read before and after each of three: it moves by 5 J, stands still, and moves by 7 J.
    left = [100.0, 105.0, 105.0, 105.0, 110.0, 117.0]
    meter = EnergyMeter("RAPL package-0", [Counter("package-0", lambda: left.pop(0))])
    monkeypatch.setattr(generator, "energy_meter", lambda metered: meter)
    tests = load_tests(tmp_path, happened, SHORT | {"profiles": [{"kind": "concurrent", "levels": [1, 2, 4]}]})
    tests.run()
    assert [point.energy_joules for point in tests.points] == [5.0, None, 7.0]
    note = "short prompts, concurrency 2: the energy counter of package-0 did not move"
    assert tests.energy == EnergyTold(source="RAPL package-0", notes=[note])


def test_a_server_that_was_not_started_here_has_no_energy(tmp_path: Path, happened: list[str]) -> None:
    tests = load_tests(tmp_path, happened, SHORT | {"profiles": [{"kind": "synchronous"}]})
    tests.run()
    assert tests.points[0].energy_joules is None
    assert tests.energy == EnergyTold(notes=["no energy: the server was not started here"])
