"""vLLM's load generator, in its process and out of it, against servers that answer and servers that do not."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.errors import StageError
from registry.contracts import Endpoint
from serving_checks.engines.table import default_config
from serving_checks.load import LoadClient, LoadConfig
from serving_checks.load.adapter import Load, Sent, VllmGenerator
from serving_checks.load.config import Concurrent, Prompts
from serving_checks.load.prompts import Prompt
from serving_checks.load.requests import LOAD_REQUESTS_FILE, read_rows
from serving_checks.processes.supervisor import Supervised
from serving_checks.transport.http_json import get_text
from tests.tiny_llama import make_tiny_tokenizer

pytestmark = pytest.mark.engine
TOKENS = 4
FIELDS = {"temperature": 0.0, "ignore_eos": True}


@contextmanager
def fake_server(folder: Path, *arguments: str) -> Iterator[Endpoint]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    base_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", "-m", "serving_checks.fake.fake_server", "--port", str(port), *arguments]
    with Supervised(command, log_file=folder / "server.log") as child:
        while child.wait(0.05) is None:
            try:
                get_text(f"{base_url}/health")
                break
            except OSError:
                pass
        yield Endpoint(base_url=base_url, served_model_name="model", model_path=str(folder), max_model_len=128)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> VllmGenerator:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(folder)
    return VllmGenerator(AutoTokenizer.from_pretrained(folder), request_timeout_seconds=2.0, fields=FIELDS)


def sent(generator: VllmGenerator, folder: Path, load: Load, *arguments: str) -> Sent:
    prompts = [Prompt(f"one two three {number}", 4) for number in range(6)]
    with fake_server(folder, *arguments) as endpoint:
        return generator.send(endpoint, load, prompts, TOKENS, seed=0, point=5)


@pytest.mark.parametrize("load", [Load("short", 2, None), Load("short", None, 20.0)])
def test_every_request_leaves_its_times(generator: VllmGenerator, tmp_path: Path, load: Load) -> None:
    found = sent(generator, tmp_path, load, "--delay-seconds", "0.05")
    assert [row.request for row in found.rows] == list(range(6))
    for row in found.rows:
        assert (row.outcome, row.error, row.point, row.profile) == ("ok", "", 5, load.profile)
        assert (row.prompt_tokens, row.output_tokens, len(row.itl_seconds)) == (4, TOKENS, TOKENS - 1)
        assert row.ttft_seconds is not None
        assert 0.05 <= row.ttft_seconds <= row.e2e_seconds
        assert row.e2e_seconds == pytest.approx(row.ttft_seconds + sum(row.itl_seconds))
        assert row.queue_seconds >= -1e-3
        assert row.end_seconds <= found.duration_seconds
    in_flight = [
        sum(other.start_seconds < row.start_seconds < other.end_seconds for other in found.rows) for row in found.rows
    ]
    assert max(in_flight) >= 1
    if load.concurrency:
        assert max(in_flight) < load.concurrency
    else:
        assert found.rows[-1].arrival_seconds == pytest.approx(5 / 20.0)


@pytest.mark.parametrize(
    ("arguments", "outcome", "error"),
    [
        (["--mode", "errors"], "failed", "Internal Server Error"),
        (["--mode", "empty"], "failed", "no token came back"),
        (["--delay-seconds", "30"], "timed_out", "timed out"),
    ],
)
def test_a_request_that_fails_says_why(
    generator: VllmGenerator, tmp_path: Path, arguments: list[str], outcome: str, error: str
) -> None:
    found = sent(generator, tmp_path, Load("short", 6, None), *arguments)
    for row in found.rows:
        assert (row.outcome, row.ttft_seconds, row.output_tokens) == (outcome, None, 0)
        assert error in row.error
        assert row.e2e_seconds > (1.9 if outcome == "timed_out" else 0.0)


def test_a_server_that_dies_is_called_dead_and_its_answers_are_kept(tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "load").mkdir()
    config = LoadConfig(
        profiles=[Concurrent(kind="concurrent", levels=[1, 2])],
        prompts=Prompts(short=8),
        requests=5,
        output_tokens=TOKENS,
        warmup_output_tokens=0,
    )
    with (
        LoadClient(config, default_config(), tmp_path / "tokenizer", tmp_path / "load") as client,
        # Three completions, after the question to empty the prefix cache.
        fake_server(tmp_path, "--mode", "die-half-way", "--die-after", "4") as endpoint,
        pytest.raises(StageError, match=r"the server died during a load test .*3 of 5 requests completed"),
    ):
        client.run(endpoint, tmp_path / "out", tmp_path / "server.log")
    rows = read_rows(tmp_path / f"server.{LOAD_REQUESTS_FILE}")
    assert [(row.point, row.outcome) for row in rows] == [(0, "ok")] * 3 + [(0, "failed")] * 2
    assert "load test 1: short prompts, concurrency 1" in (tmp_path / "load" / "load.log").read_text()
