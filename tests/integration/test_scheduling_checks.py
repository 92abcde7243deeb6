"""The checks of scheduling against a real engine: one that batches, and the same limited to one request at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.contracts.serving import Endpoint
from serving_checks.checks.batching import BatchingConfig, check_batching
from serving_checks.checks.starvation import StarvationConfig, check_starvation
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import serve
from tests.fake_servers import GAUGES
from tests.tiny_llama import make_tiny_llama

SERVER = VllmServerConfig(max_model_len=512, max_num_seqs=4, kv_cache_gib=0.25)
FIXED_LENGTH = VllmEngine(SERVER).fixed_length
BATCHING = BatchingConfig(answer_tokens=32, sample_seconds=0.02, deadline_seconds=120)
STARVATION = StarvationConfig(short_requests=8, long_requests=4, long_prompt_tokens=480, max_ttft_ratio=1000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fork")
    address = folder / "socket"
    command = VllmEngine(SERVER).fork_server("cpu", 1, address)
    assert command is not None
    with Supervised(command.argv, env=command.env, log_file=folder / "fork-server.log") as child:
        while not address.exists():
            assert child.wait(0.05) is None, child.log_tail()
        yield address


@contextmanager
def served(model: Path, fork_server: Path, log_file: Path, max_num_seqs: int) -> Iterator[Endpoint]:
    config = SERVER.model_copy(update={"max_num_seqs": max_num_seqs})
    with serve(ServerRequest(config, model, "float32", "cpu", 1), log_file, fork_server=fork_server) as server:
        yield server.endpoint


@pytest.mark.engine
def test_an_engine_batches_continuously_and_starves_nobody(model: Path, fork_server: Path, tmp_path: Path) -> None:
    with served(model, fork_server, tmp_path / "server.log", 4) as endpoint:
        batching = check_batching(endpoint, BATCHING, 4, gauges=GAUGES, fixed_length=FIXED_LENGTH)
        starvation = check_starvation(endpoint, STARVATION, fixed_length=FIXED_LENGTH)
        impatient = STARVATION.model_copy(update={"max_long_ttft_seconds": 1e-6})
        assert check_starvation(endpoint, impatient, fixed_length=FIXED_LENGTH).outcome == "fail"
    assert batching.outcome == "pass", batching
    assert 1 < batching.numbers["requests_running_while_others_waited"] <= 4
    assert batching.numbers["requests_waiting_then"] > 0
    assert batching.numbers["late_requests_before_long_ones"] == 4
    assert starvation.outcome == "pass", starvation
    assert starvation.numbers["short_requests_alone"] == 8
    assert starvation.numbers["long_requests"] == 4


@pytest.mark.engine
def test_the_same_engine_limited_to_one_request_fails(model: Path, fork_server: Path, tmp_path: Path) -> None:
    with served(model, fork_server, tmp_path / "server.log", 1) as endpoint:
        record = check_batching(endpoint, BATCHING, 4, gauges=GAUGES, fixed_length=FIXED_LENGTH)
    assert record.outcome == "fail", record
    assert "at most 1 requests were at work" in record.reason
    assert record.numbers["late_requests_before_long_ones"] == 0
