"""vLLM's load generator against a server that dies half-way."""

import json
import socket
import sys
from pathlib import Path

import pytest

from configs.errors import StageError
from registry.contracts import Endpoint
from serving_checks.load import LoadClient, LoadConfig
from serving_checks.supervisor import Supervised
from tests.tiny_llama import make_tiny_tokenizer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.engine
def test_requests_that_fail_are_told_and_a_dead_server_is_no_throughput(tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "load").mkdir()
    port = free_port()
    config = LoadConfig(concurrency=[1, 2], requests=5, prompt_tokens=8, output_tokens=4, warmup_requests=0)
    endpoint = Endpoint(
        base_url=f"http://127.0.0.1:{port}",
        served_model_name="model",
        model_path=str(tmp_path / "tokenizer"),
        max_model_len=128,
    )
    # Three completions, and /tokenize, which vLLM's generator asks first.
    arguments = ["--port", str(port), "--mode", "die-half-way", "--die-after", "4"]
    server = Supervised(
        [sys.executable, "-P", "-m", "serving_checks.fake_server", *arguments], log_file=tmp_path / "server.log"
    )
    with (
        LoadClient(config, tmp_path / "tokenizer", tmp_path / "load") as client,
        server,
        pytest.raises(StageError, match=r"no request completed at concurrency \[2\]"),
    ):
        client.run(endpoint)
    points = json.loads((tmp_path / "load" / "points.json").read_text())
    counted = [(point["completed"], point["failed"], point["output_tokens"]) for point in points]
    assert counted == [(3, 2, 12), (0, 5, 0)]
