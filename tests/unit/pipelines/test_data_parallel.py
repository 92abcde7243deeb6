"""How many servers share a model's items, which GPUs they see, and what happens when one of them does not live."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError, StageError
from pipelines.planning.data_parallel import check_data_parallel, servers_of
from pipelines.planning.device import detect_machine
from pipelines.planning.stages import stages_of
from pipelines.stage_programs.serving_stage import Further, ServeJob, serve_and_measure
from registry.stage_process import StageClock
from serving_checks import server as serving
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.processes.guard import descendants_of
from serving_checks.server import RunningServer
from tests.fake_engine import FakeEngine
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, run_config
from tests.unit.serving_checks.test_server import model_dir

pytestmark = pytest.mark.slow

EIGHT = {"device": "cuda", "gpus": [f"GPU-{number}" for number in range(8)], "memory_bytes": 1 << 40}
OPENAI = {"engine": "openai", "base_url": "http://127.0.0.1:8000", "served_model_name": "theirs"}


@pytest.mark.parametrize(
    ("size", "machine", "serving", "servers"),
    [
        (1, {}, {}, [[]]),
        (2, {}, {}, [[], []]),
        ("auto", {"memory_bytes": 16 << 30}, {}, [[], []]),
        # A server has all cores but one: a second one of as many threads would spin beside it.
        ("auto", {"memory_bytes": 16 << 30, "threads": 16}, {}, [[]]),
        ("auto", {"memory_bytes": 16 << 30, "threads": 1}, {}, [[]]),
        # Twice the weights and the cache for each.
        ("auto", {"memory_bytes": 5 << 30}, {"kv_cache_gib": 1}, [[]]),
        ("auto", {"memory_bytes": 6 << 30}, {"kv_cache_gib": 1}, [[], []]),
        ("auto", EIGHT, {}, [[f"GPU-{number}"] for number in range(8)]),
        ("auto", EIGHT, {"tensor_parallel_size": 4}, [EIGHT["gpus"][:4], EIGHT["gpus"][4:]]),
        (2, EIGHT, {"tensor_parallel_size": 2}, [EIGHT["gpus"][:2], EIGHT["gpus"][2:4]]),
        ("auto", {}, OPENAI, [[]]),
    ],
)
def test_servers_beside_one_another(
    size: Any, machine: dict[str, Any], serving: dict[str, Any], servers: list[list[str]]
) -> None:
    config = run_config(evaluation={"suite": "demo", "data_parallel_size": size}, serving=serving)
    here = MACHINE.model_copy(update=machine)
    check_data_parallel(config, here)
    assert servers_of(config, here, model_bytes=1 << 30) == servers


@pytest.mark.parametrize(
    ("size", "machine", "serving", "why"),
    [
        (3, {}, {}, "takes 2: each computes on 1 of 2 cores"),
        (2, {"threads": 4}, {}, "takes 1: each computes on 3 of 4 cores"),
        (3, EIGHT, {"tensor_parallel_size": 4}, "takes 2: each takes GPUs of its own, 4 of the 8"),
        (2, {}, OPENAI, "takes 1: a server of openai runs already"),
    ],
)
def test_more_than_there_is_room_for_is_refused(
    size: int, machine: dict[str, Any], serving: dict[str, Any], why: str
) -> None:
    config = run_config(evaluation={"suite": "demo", "data_parallel_size": size}, serving=serving)
    with pytest.raises(RequestError) as caught:
        check_data_parallel(config, MACHINE.model_copy(update=machine))
    assert why in caught.value.what
    assert "auto" in caught.value.remedy


def test_how_many_share_is_no_part_of_what_is_measured() -> None:
    one, two = (
        stages_of(run_config(evaluation={"suite": "demo", "data_parallel_size": size}), MACHINE, FINGERPRINTS)
        for size in (1, 2)
    )
    assert [stage.config for stage in one] == [stage.config for stage in two]


def test_visible_gpus_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect_machine("cpu").gpus == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert detect_machine("cpu").gpus == [], "a run on the CPU takes none"


def measured(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluate: Callable[[RunningServer, Further], None],
    *modes: str,
    servers: list[list[str]] | None = None,
) -> Any:
    """What comes of measuring on as many fake servers as there are modes."""
    left = iter(modes)

    def engine_of(config: VllmServerConfig) -> FakeEngine:
        return FakeEngine(config, "--mode", next(left))

    monkeypatch.setattr(serving, "engine_of", engine_of)
    job = ServeJob(
        stage="measure",
        result_file=path / "result.json",
        model_dir=model_dir(path),
        model_digest="sha256:m",
        serving=VllmServerConfig(start_deadline_seconds=20),
        load=None,
        device="cpu",
        device_name="a test's CPU",
        dtype="float32",
        threads=1,
        servers=servers or [[] for _ in modes],
        server_log_file=path / "measure+server.log",
    )
    (path / "out").mkdir()
    return serve_and_measure(job, StageClock(path / "progress"), path / "out", lambda: evaluate)


def test_the_servers_beside_the_measured_one_live_as_long_as_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls: list[str] = []
    processes: list[int] = []

    def evaluate(server: RunningServer, further: Further) -> None:
        for endpoint in (server.endpoint, *further()):
            assert smoke_answer(endpoint, max_tokens=2) == " w0 w1"
            urls.append(endpoint.base_url)
        processes.extend(descendants_of(os.getpid()))

    record = measured(tmp_path, monkeypatch, evaluate, "ok", "ok", "ok")
    assert len(set(urls)) == 3
    assert record.smoke_answer
    assert sorted(path.name for path in tmp_path.glob("*.log")) == [
        "measure+server+2.log",
        "measure+server+3.log",
        "measure+server.log",
    ]
    assert processes
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_one_that_does_not_start_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(server: RunningServer, further: Further) -> None:
        further()

    with pytest.raises(StageError, match="died at start") as caught:
        measured(tmp_path, monkeypatch, evaluate, "ok", "die")
    assert "measure+server+2.log" in caught.value.what
    assert not descendants_of(os.getpid())


@pytest.mark.parametrize("dying", [0, 1])
def test_one_that_dies_amid_an_evaluation_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: int
) -> None:
    def evaluate(server: RunningServer, further: Further) -> None:
        endpoints = [server.endpoint, *further()]
        port = endpoints[dying].base_url.rsplit(":", 1)[1]
        for pid in descendants_of(os.getpid()):
            if f"--port\0{port}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        smoke_answer(endpoints[dying])

    with pytest.raises(StageError, match="died amid its work") as caught:
        measured(tmp_path, monkeypatch, evaluate, "ok", "ok")
    assert ("measure+server.log", "measure+server+2.log")[dying] in caught.value.what
    assert not descendants_of(os.getpid())


def test_an_evaluation_that_fails_before_they_are_there_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(server: RunningServer, further: Further) -> None:
        raise StageError("no tokenizer", remedy="add it")

    with pytest.raises(StageError, match="no tokenizer"):
        measured(tmp_path, monkeypatch, evaluate, "ok", "ok")
    assert not descendants_of(os.getpid())


def test_a_server_sees_its_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def evaluate(server: RunningServer, further: Further) -> None:
        further()
        for pid in descendants_of(os.getpid()):
            seen.extend(
                line.decode().partition("=")[2]
                for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if line.startswith(b"CUDA_VISIBLE_DEVICES=")
            )

    measured(tmp_path, monkeypatch, evaluate, "ok", "ok", servers=[["GPU-a", "GPU-b"], ["GPU-c", "GPU-d"]])
    assert set(seen) == {"GPU-a,GPU-b", "GPU-c,GPU-d"}
