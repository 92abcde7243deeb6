"""The tuner and the profiler on a real server with a tiny Llama."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.readings.profiling import profile
from serving_checks.server import serve
from tests.tiny_llama import make_tiny_llama

pytestmark = [pytest.mark.engine, pytest.mark.thorough]

RECIPE = """
version: 1
name: tiny
source: {{kind: folder, path: {model}}}
calibration: {{source: self, samples: 16, tokens: 64}}
methods: {{nf4: {{method: bnb_nf4}}}}
evaluation: {{suite: demo}}
serving: {{max_model_len: 128, kv_cache_gib: 0.25, enable_chunked_prefill: false}}
load: {{profiles: [{{kind: synchronous}}], prompts: {{short: 16}}, requests: 4, output_tokens: 4}}
tune:
  objective: {{kind: concurrency, concurrency: 2}}
  slo: {{e2e_seconds: 60}}
  grid: {{max_num_seqs: [4], max_num_batched_tokens: [64, 256]}}
"""


def test_a_cell_that_the_engine_refuses_does_not_stop_the_search(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "model")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tmp_path / "model"))
    command = [sys.executable, "-P", "-m", "pipelines.cli", "tune", str(recipe), "--json"]
    finished = subprocess.run(
        [*command, "--workspace", str(tmp_path / "workspace")], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    record = json.loads(finished.stdout)
    best, refused = record["cells"]
    assert record["winner"] == best["parameters"] == {"max_num_seqs": 4, "max_num_batched_tokens": 256}
    assert best["goodput_requests_per_second"] > 0
    assert best["serving"]["forked"]
    assert "--no-enable-chunked-prefill" in best["serving"]["command"]
    assert "max_num_batched_tokens (64) is smaller than max_model_len (128)" in refused["note"]
    winner = yaml.safe_load(Path(record["winner_file"]).read_text())
    assert winner == {"serving": record["winner"]}


def test_a_server_profiles_a_few_steps_and_goes_on_serving(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "model")
    config = VllmServerConfig(max_model_len=128, max_num_seqs=4, kv_cache_gib=0.25)
    request = ServerRequest(config, tmp_path / "model", "float32", "cpu", None, tmp_path / "traces")
    with serve(request, tmp_path / "server.log") as server:
        before = smoke_answer(server.endpoint)
        assert not list(tmp_path.glob("traces/*"))
        record = profile(server.endpoint, tmp_path / "traces", tmp_path)
        assert smoke_answer(server.endpoint) == before
    names = [name for name, _, _ in record.operators]
    # The Linears of vLLM on a CPU, by the library that it found for them.
    assert any("mm" in name or "linear" in name for name in names)
    assert all(own > 0 and 0 < share < 1 for _, own, share in record.operators)
    trace = json.loads(gzip.decompress((tmp_path / record.trace_file).read_bytes()))
    steps = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    # Eight tokens each: one or more steps for the prompts, seven or more for the rest.
    assert 8 <= len([name for name in steps if name.startswith("execute_")]) <= 32
