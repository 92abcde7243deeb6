"""One real server: start, smoke, load, memory, end."""

import shutil
import tempfile
from pathlib import Path

import pytest

from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.load import LoadClient, LoadConfig
from serving_checks.load.requests import read_rows
from serving_checks.processes.guard import descendants_of
from serving_checks.readings.memory import memory_record
from serving_checks.server import serve
from tests.tiny_llama import make_tiny_llama


@pytest.mark.engine
def test_tiny_llama_is_served_measured_and_gone(tmp_path, monkeypatch):
    scratch = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    model = tmp_path / "model"
    make_tiny_llama(model)
    weights_bytes = (model / "model.safetensors").stat().st_size
    config = VllmServerConfig(max_model_len=128, max_num_seqs=4, kv_cache_gib=0.25)
    load = LoadConfig.model_validate(
        {
            "profiles": [{"kind": "concurrent", "levels": [1, 2]}, {"kind": "poisson", "requests_per_second": [20]}],
            "prompts": {"mixes": ["mixed"], "short": 12, "medium": 30, "long": 100},
            "slo": {"e2e_seconds": 60},
            "requests": 6,
            "output_tokens": 4,
        }
    )
    (tmp_path / "load").mkdir()
    with (
        LoadClient(load, config, model, tmp_path / "load") as client,
        serve(ServerRequest(config, model, "float32", "cpu", None), tmp_path / "server.log") as server,
    ):
        assert smoke_answer(server.endpoint)
        points, _, requests_file, *_ = client.run(server.endpoint, tmp_path / "out", tmp_path / "server.log")
        memory = memory_record(server, model, "cpu")
        left = descendants_of(server.pid)
    assert [(point.concurrency, point.completed, point.failed, point.output_tokens) for point in points] == [
        (1, 6, 0, 24),
        (2, 6, 0, 24),
        (None, 6, 0, 24),
    ]
    for point in points:
        # The engine counted the very tokens that the prompts were cut to, and those that came back.
        assert (point.prompt_tokens, point.invalid) == (2 * (12 + 30 + 100), None)
        assert (point.server_prompt_tokens, point.server_output_tokens) == (point.prompt_tokens, 24)
        assert point.good_requests_per_second == point.requests_per_second
        assert 0 < point.ttft.p50_seconds < point.e2e.p50_seconds
    assert len(read_rows(requests_file)) == 18
    assert memory.notes == []
    # Served in float32: the file's 16-bit weights twice over, and packed copies of embedding and output layer.
    assert memory.resident_weights_bytes is not None
    assert 2 * weights_bytes < memory.resident_weights_bytes < 3 * weights_bytes
    assert memory.kv_cache_tokens is not None
    assert memory.kv_cache_tokens > 128
    assert memory.peak_process_bytes is not None
    assert memory.peak_process_bytes > memory.resident_weights_bytes
    assert left
    assert not list(scratch.glob("qb-*"))
    shutil.rmtree(scratch)
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
