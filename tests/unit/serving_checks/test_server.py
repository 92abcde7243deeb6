import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerCommand, ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.processes.guard import descendants_of
from serving_checks.readings.memory import memory_record
from serving_checks.server import serve
from tests.fake_engine import FakeEngine

pytestmark = pytest.mark.slow


def model_dir(path: Path, quantization: dict | None = None) -> Path:
    config = {"architectures": ["LlamaForCausalLM"]} | ({"quantization_config": quantization} if quantization else {})
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"x" * 100)
    return path


def request(path: Path, quantization: dict | None = None, dtype="float32", device="cpu", threads=None, **config):
    return ServerRequest(VllmServerConfig(**config), model_dir(path, quantization), dtype, device, threads)


def serve_fake(mode: str, asked: ServerRequest, log_file: Path):
    return serve(asked, log_file, FakeEngine(asked.config, "--mode", mode))


def command(asked: ServerRequest, port: int) -> ServerCommand:
    return VllmEngine(asked.config).command(asked, port)


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_serves_answers_and_leaves_nothing(tmp_path):
    asked = request(tmp_path)
    with serve_fake("grandchild", asked, tmp_path / "log") as server:
        assert smoke_answer(server.endpoint, max_tokens=2) == " w0 w1"
        record = memory_record(server, tmp_path, "cpu")
        left = descendants_of(server.pid)
        assert len(left) == 2
    assert (record.artifact_bytes, record.resident_weights_bytes, record.kv_cache_tokens) == (100, 2000, 4096)
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]


def test_taken_port_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RequestError, match=str(port)),
            serve_fake("ok", request(tmp_path, port=port), tmp_path / "log"),
        ):
            pass
    assert not (tmp_path / "log").exists()


def test_death_at_start_tells_why_and_how_to_repeat_it(tmp_path):
    with pytest.raises(StageError) as caught, serve_fake("die", request(tmp_path), tmp_path / "log"):
        pass
    assert "exit code 1" in caught.value.what
    assert "ValueError: ordered to die" in caught.value.what
    assert "serving_checks.fake.fake_server" in caught.value.what
    assert "kv_cache_gib" in caught.value.remedy


def test_server_that_hangs_is_stopped_at_the_deadline(tmp_path):
    with (
        pytest.raises(StageError, match="not healthy and was stopped: no end after 1 s"),
        serve_fake("hang", request(tmp_path, start_deadline_seconds=1.0), tmp_path / "log"),
    ):
        pass
    assert not descendants_of(os.getpid())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_dies_behind_the_last_answer_is_an_error(tmp_path, how):
    """What it is asked then is put down as it was started, and nobody would know."""
    with (
        pytest.raises(StageError, match="died amid its work") as caught,
        serve_fake("ok", request(tmp_path), tmp_path / "log") as server,
    ):
        assert smoke_answer(server.endpoint, max_tokens=2) == " w0 w1"
        for pid in descendants_of(server.pid):
            os.kill(pid, how)
        server.child.wait(10)
        assert server.facts.dtype is None
    assert "at the end of its work" in caught.value.what


@pytest.mark.parametrize("mode", ["errors", "empty"])
def test_smoke_refuses_no_answer(tmp_path, mode):
    with serve_fake(mode, request(tmp_path), tmp_path / "log") as server, pytest.raises(StageError, match="answer"):
        smoke_answer(server.endpoint)


def test_death_half_way_is_an_error(tmp_path):
    with (
        pytest.raises(StageError, match="died amid its work") as caught,
        serve_fake("die-half-way", request(tmp_path), tmp_path / "log") as server,
    ):
        for _ in range(3):
            smoke_answer(server.endpoint)
        smoke_answer(server.endpoint)
    assert "no answer" in caught.value.what


@pytest.mark.parametrize(
    "quantization",
    [{"quant_method": "gptq"}, {"quant_method": "awq"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}],
)
def test_four_bits_in_float32_are_refused(tmp_path, quantization):
    with pytest.raises(RequestError, match="float32"), serve(request(tmp_path, quantization), tmp_path / "log"):
        pass


def test_int8_over_two_ranks_is_refused(tmp_path):
    asked = request(tmp_path, {"quant_method": "bitsandbytes", "load_in_8bit": True}, tensor_parallel_size=2)
    with pytest.raises(RequestError, match="2 ranks"), serve(asked, tmp_path / "log"):
        pass


def test_a_pipeline_on_a_cpu_is_refused(tmp_path):
    with (
        pytest.raises(RequestError, match="2 pipeline stages on a CPU"),
        serve(request(tmp_path, pipeline_parallel_size=2), tmp_path / "log"),
    ):
        pass


def test_ranks_are_forked_on_a_cpu_and_never_on_a_gpu(tmp_path):
    engine = VllmEngine(VllmServerConfig(tensor_parallel_size=2))
    forking = engine.fork_server("cpu", 2, tmp_path / "socket")
    assert forking is not None
    assert "vllm.v1.executor.multiproc_executor" in forking.argv
    assert forking.env["OMP_NUM_THREADS"] == "1"
    assert engine.fork_server("cuda", 2, tmp_path / "socket") is None


@pytest.mark.parametrize("content", [None, "{"])
def test_directory_without_a_readable_config_is_refused(tmp_path, content):
    asked = request(tmp_path)
    (tmp_path / "config.json").unlink()
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match=r"config\.json"), serve(asked, tmp_path / "log"):
        pass


@pytest.mark.parametrize("bad", [{"port": 0}, {"kv_cache_gib": 0}, {"tensor_parallel_size": 0}, {"colour": "red"}])
def test_bad_config_is_refused(bad):
    with pytest.raises(ValidationError):
        VllmServerConfig(**bad)


def test_cpu_command_is_one_engine_process_on_loopback(tmp_path):
    argv, env = command(request(tmp_path, kv_cache_gib=0.5, threads=3), 8123)
    assert argv[:4] == [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert (option(argv, "--host"), option(argv, "--port"), option(argv, "--dtype")) == ("127.0.0.1", "8123", "float32")
    assert option(argv, "--kv-cache-memory-bytes") == str(2**29)
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["HF_HUB_OFFLINE"] == "1"


def test_cpu_ranks_are_placed_on_the_cores_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4, 6})
    _, env = command(request(tmp_path, tensor_parallel_size=3), 1)
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "4|6|4"
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"


def test_cuda_command_leaves_threads_and_processes_to_the_engine(tmp_path):
    argv, env = command(request(tmp_path, dtype="bfloat16", device="cuda", tensor_parallel_size=2), 1)
    assert (option(argv, "--tensor-parallel-size"), option(argv, "--pipeline-parallel-size")) == ("2", "1")
    assert not {"OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING"} & env.keys()


def test_what_the_engine_may_choose_is_not_named_and_what_is_chosen_is(tmp_path):
    plain = command(request(tmp_path), 1).argv
    assert not [word for word in plain if "batched" in word or "caching" in word or "chunked" in word or "prof" in word]
    tuned = command(
        request(tmp_path, max_num_batched_tokens=256, enable_prefix_caching=False, enable_chunked_prefill=True), 1
    ).argv
    assert option(tuned, "--max-num-batched-tokens") == "256"
    assert {"--no-enable-prefix-caching", "--enable-chunked-prefill"} <= set(tuned)


def test_a_server_that_is_to_be_profiled_knows_where_its_traces_go(tmp_path):
    argv = command(request(tmp_path)._replace(trace_dir=tmp_path / "traces"), 1).argv
    config = json.loads(option(argv, "--profiler-config"))
    assert config["torch_profiler_dir"] == str(tmp_path / "traces")
    assert config["profiler"] == "torch"
    # The API server's profiler would be made at start; the engine's is made when it is asked for.
    assert config["ignore_frontend"] is True


@pytest.mark.parametrize(("unquantized", "blame"), [(True, "source"), (False, "engine")])
def test_an_empty_answer_is_blamed_on_what_was_served(tmp_path, unquantized, blame):
    with serve_fake("empty", request(tmp_path), tmp_path / "log") as server, pytest.raises(StageError) as caught:
        smoke_answer(server.endpoint, unquantized=unquantized)
    assert caught.value.blame == blame
    assert ("artifact" in caught.value.remedy) != unquantized
