"""The adapters of serving engines: what they refuse, start, read and never say. No engine is started here."""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.errors import RequestError
from registry.contracts import Endpoint
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest, ServingConfig
from serving_checks.engines.openai_address import OpenAIAddress, OpenAIServerConfig
from serving_checks.engines.table import ENGINES, AnyServingConfig, default_config, engine_of, engine_type
from serving_checks.engines.transformers_serve import TransformersEngine, TransformersServerConfig
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.readings.memory import memory_record
from serving_checks.server import check_servable, serve
from serving_checks.transport.http_json import refusal, refused_with

CONFIGS: TypeAdapter[ServingConfig] = TypeAdapter(AnyServingConfig)
LLAMA = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 128,
    "max_position_embeddings": 512,
}
"""256 values a token: a block of 256 tokens takes 256 KiB in float32, 128 KiB in bfloat16."""
ENDPOINT = Endpoint(base_url="http://127.0.0.1:9", served_model_name="m", model_path="", max_model_len=64)
KEY = "a-key-that-must-not-be-seen"


def model_dir(path: Path, **config: Any) -> Path:
    (path / "config.json").write_text(json.dumps(LLAMA | config))
    (path / "model.safetensors").write_bytes(b"x" * 100)
    return path


def transformers_request(path: Path, **config: Any) -> ServerRequest:
    asked = TransformersServerConfig(engine="transformers", **({"max_model_len": 512} | config))
    return ServerRequest(asked, model_dir(path), "float32", "cpu", 1)


def refusals(request: ServerRequest) -> list[str]:
    return engine_of(request.config).refusals(request)


class _Foreign(BaseHTTPRequestHandler):
    """Somebody else's server: lists its models, completes, and counts under names of its own."""

    key: str | None = None
    metrics = "sglang:max_total_num_tokens 4096\n"
    models: Any = {"object": "list", "data": [{"id": "theirs"}]}
    redirect_to: str | None = None
    seen: list[str | None] = []

    def do_GET(self) -> None:
        if self.redirect_to:
            self.send_response(302)
            self.send_header("Location", f"{self.redirect_to}{self.path}")
            self.end_headers()
            return
        pages = {"/v1/models": json.dumps(self.models), "/metrics": self.metrics}
        self._send(pages.get(self.path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert "logprobs" not in body
        self._send(json.dumps({"choices": [{"text": f"from {body['model']}"}]}))

    def _send(self, content: str | None) -> None:
        self.seen.append(self.headers["Authorization"])
        refused = self.key is not None and self.headers["Authorization"] != f"Bearer {self.key}"
        self.send_response(401 if refused else 200 if content is not None else 404)
        self.end_headers()
        self.wfile.write(b"" if refused or content is None else content.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def foreign_server(**changes: Any) -> Iterator[tuple[str, type[_Foreign]]]:
    handler = type("Handler", (_Foreign,), {"seen": [], **changes})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def address(url: str, **config: Any) -> OpenAIServerConfig:
    return OpenAIServerConfig(engine="openai", base_url=url, **({"served_model_name": "theirs"} | config))


def ask_for(config: OpenAIServerConfig, path: Path) -> ServerRequest:
    return ServerRequest(config, model_dir(path), "float32", "cpu", None)


@pytest.mark.parametrize("name", ENGINES)
def test_the_table_s_names_are_the_engines_own(name: str) -> None:
    engine = engine_type(name)
    assert engine.name == name
    assert str(engine.config_type.model_fields["engine"].annotation) == f"typing.Literal['{name}']"


def test_a_config_without_an_engine_is_the_first_engine_s() -> None:
    assert CONFIGS.validate_python({"max_num_seqs": 4}) == VllmServerConfig(max_num_seqs=4)
    assert default_config() == VllmServerConfig()


@pytest.mark.parametrize(
    "config",
    [
        VllmServerConfig(enforce_eager=False),
        TransformersServerConfig(engine="transformers", max_num_batched_tokens=64),
        address("https://far.example:8443", api_key_variable="THEIR_KEY"),
    ],
)
def test_a_config_survives_a_job_file(config: ServingConfig) -> None:
    again = CONFIGS.validate_json(CONFIGS.dump_json(config))
    assert again == config
    assert type(engine_of(again)).name == config.engine


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"engine": "sglang"}, "the serving engines are vllm, transformers, llamacpp, openai"),
        ({"engine": ["vllm"]}, "the serving engines are"),
        ({"engine": "transformers", "enforce_eager": True}, "enforce_eager"),
        ({"engine": "transformers", "max_num_seqs": 8}, "max_num_seqs"),
        ({"engine": "transformers", "tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"engine": "openai", "served_model_name": "m"}, "base_url"),
        ({"engine": "openai", "base_url": "http://127.0.0.1:1"}, "served_model_name"),
        ({"engine": "openai", "base_url": "http://127.0.0.1:1", "served_model_name": "m", "port": 3}, "port"),
        (["vllm"], "dictionary"),
    ],
)
def test_a_config_that_is_no_engine_s_is_refused(bad: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CONFIGS.validate_python(bad)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "http://127.0.0.1:8000/v1",
        "http://user:secret@127.0.0.1",
        "http://127.0.0.1?key=secret",
        "http://",
        "",
    ],
)
def test_an_address_is_scheme_host_and_port(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        address(url)


@pytest.mark.parametrize("variable", ["", "sk-0123", "$KEY", "A KEY"])
def test_a_key_is_named_and_not_written(variable: str) -> None:
    with pytest.raises(ValidationError, match="api_key_variable"):
        address("http://127.0.0.1:1", api_key_variable=variable)


@pytest.mark.parametrize("url", ["http://10.0.0.7:8000", "http://far.example", "http://127.0.0.1.far.example"])
def test_a_key_leaves_the_machine_over_https_only(url: str) -> None:
    with pytest.raises(ValidationError, match="https"):
        address(url, api_key_variable="THEIR_KEY")
    assert address(url).api_key_variable is None


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1", "https://far.example"])
def test_a_key_may_go_to_this_machine(url: str) -> None:
    assert address(url, api_key_variable="THEIR_KEY").api_key_variable == "THEIR_KEY"


def test_a_server_that_runs_already_is_checked_and_left_alone(tmp_path: Path) -> None:
    with foreign_server() as (url, _):
        names = {"kv_cache_tokens": "sglang:max_total_num_tokens"}
        asked = ask_for(address(url, metrics=names, max_model_len=64), tmp_path)
        with serve(asked, tmp_path / "log") as server:
            assert not server.engine.gives_logprobs
            assert smoke_answer(server.endpoint, with_logprobs=False) == "from theirs"
            record = memory_record(server, tmp_path, "cpu")
            assert (server.pid, server.start_seconds, server.command, server.command_line) == (None, None, [], None)
            assert server.facts.kernel is None
            assert "not started here" in server.facts.warnings[0]
        assert server.endpoint.max_model_len == 64
        assert smoke_answer(server.endpoint, with_logprobs=False), "it was stopped"
    assert not (tmp_path / "log").exists()
    assert (record.artifact_bytes, record.kv_cache_tokens) == (100, 4096)
    assert record.weights_bytes_by_rank is record.peak_process_bytes is None
    assert [note.partition(":")[0] for note in record.notes] == ["resident weights", "KV cache", "peak"]
    assert "do not tell its budget bytes, requests" in record.notes[1]


def test_the_key_comes_from_the_environment_and_is_seen_by_the_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)
    with foreign_server(key=KEY) as (url, handler):
        asked = ask_for(address(url, api_key_variable="THEIR_KEY"), tmp_path)
        with serve(asked, tmp_path / "log") as server:
            assert smoke_answer(server.endpoint, with_logprobs=False)
            record = memory_record(server, tmp_path, "cpu")
        told = f"{server} {record} {server.endpoint.model_dump_json()} {asked} {server.facts}"
    assert set(handler.seen) == {f"Bearer {KEY}"}
    assert KEY not in told


def test_the_key_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)
    with foreign_server() as (elsewhere, other), foreign_server(redirect_to=elsewhere) as (url, _):
        with serve(ask_for(address(url, api_key_variable="THEIR_KEY"), tmp_path), tmp_path / "log"):
            pass
        assert other.seen == [None]


@pytest.mark.parametrize(
    ("value", "says", "remedy"),
    [(None, "THEIR_KEY is not set", "set it"), ("wrong", "answers 401", "api_key_variable")],
)
def test_a_key_that_is_missing_or_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, says: str, remedy: str
) -> None:
    monkeypatch.delenv("THEIR_KEY", raising=False)
    if value:
        monkeypatch.setenv("THEIR_KEY", value)
    with (
        foreign_server(key=KEY) as (url, _),
        pytest.raises(RequestError, match=says) as caught,
        serve(ask_for(address(url, api_key_variable="THEIR_KEY"), tmp_path), tmp_path / "log"),
    ):
        pass
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("models", "says", "remedy"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, "does not serve 'theirs'", "a, b"),
        ({"data": []}, "does not serve 'theirs'", "nothing yet"),
        ({"models": []}, "does not answer as an OpenAI-compatible server", "base_url"),
        ([], "does not answer as an OpenAI-compatible server", "base_url"),
    ],
)
def test_a_server_of_something_else_is_told(tmp_path: Path, models: Any, says: str, remedy: str) -> None:
    with (
        foreign_server(models=models) as (url, _),
        pytest.raises(RequestError, match=says) as caught,
        serve(ask_for(address(url), tmp_path), tmp_path / "log"),
    ):
        pass
    assert remedy in caught.value.remedy


def test_nobody_at_the_address_is_told(tmp_path: Path) -> None:
    asked = ask_for(address("http://127.0.0.1:9"), tmp_path)
    with pytest.raises(RequestError, match=r"nothing answers at http://127\.0\.0\.1:9/v1/models"):
        OpenAIAddress(asked.config).attach(asked)


def test_transformers_command_keeps_the_cache_budget_on_loopback(tmp_path: Path) -> None:
    asked = transformers_request(tmp_path, kv_cache_gib=1 / 256, max_num_batched_tokens=64)
    engine = TransformersEngine(asked.config)
    assert engine.refusals(asked) == []
    argv, env = engine.command(asked, 8123)
    assert argv[:6] == [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", str(tmp_path)]
    options = dict(zip(argv[7::2], argv[8::2], strict=True))
    assert argv[6] == "--continuous-batching"
    assert options == {
        "--host": "127.0.0.1",
        "--port": "8123",
        "--device": "cpu",
        "--dtype": "float32",
        "--cb-num-blocks": "16",
        "--cb-max-batch-tokens": "64",
    }
    assert (env["HF_HUB_OFFLINE"], env["OMP_NUM_THREADS"]) == ("1", "1")
    narrow, _ = engine.command(asked._replace(dtype="bfloat16", device="cuda"), 1)
    assert narrow[narrow.index("--cb-num-blocks") + 1] == "32"


@pytest.mark.parametrize(
    ("config", "says"),
    [({"max_model_len": 513}, "513 is beyond the 512 tokens"), ({"kv_cache_gib": 1 / 4096}, "holds 256 tokens")],
)
def test_what_transformers_would_fail_on_later_is_refused(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    (line,) = refusals(transformers_request(tmp_path, **config))
    assert says in line


def test_a_path_that_transformers_reads_as_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model@v1").mkdir()
    (line,) = refusals(transformers_request(tmp_path / "model@v1"))
    assert "another path" in line


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"num_hidden_layers": "two"}'])
def test_a_config_that_says_no_shapes_is_refused(tmp_path: Path, content: str) -> None:
    asked = transformers_request(tmp_path)
    (tmp_path / "config.json").write_text(content)
    (line,) = refusals(asked)
    assert "config.json cannot be read" in line


@pytest.mark.parametrize(
    ("log", "reason", "remedy"),
    [
        ("Traceback\nValueError: a\n\nOSError: no weights here", "OSError: no weights here", "read the log"),
        ("torch.OutOfMemoryError: CUDA out of memory", "OutOfMemoryError: CUDA out of memory", "kv_cache_gib"),
    ],
)
def test_why_transformers_died(log: str, reason: str, remedy: str) -> None:
    death = TransformersEngine(TransformersServerConfig(engine="transformers")).death_of(log)
    assert death is not None
    assert reason in death.reason
    assert remedy in death.remedy


def test_a_fallback_of_transformers_is_a_warning_once() -> None:
    line = "[transformers] OddForCausalLM does not support continuous batching. Falling back to sequential generation."
    log = f"[transformers] Loading /m@main\n{line}\nINFO:     Started server process [1]\n{line}\n"
    log += "W1 torch/utils/_pytree.py:630] Calling register_constant() on Enum subclasses is deprecated and ...\n"
    facts = TransformersEngine(TransformersServerConfig(engine="transformers")).facts(ENDPOINT, log)
    assert facts.warnings == [line.removeprefix("[transformers] ")]


def test_what_vllm_tells_of_its_cache_is_read_where_it_answers() -> None:
    page = 'vllm:cache_config_info{block_size="16",enable_prefix_caching="%s",num_gpu_blocks="9"} 1.0\n'
    engine = VllmEngine(VllmServerConfig(max_num_seqs=4))
    told = {}
    for said in ("True", "False", "None"):
        with foreign_server(metrics=page % said) as (url, _):
            there = ENDPOINT.model_copy(update={"base_url": url})
            told[said] = (engine.prefix_block_tokens(there), engine.facts(there, "").prefix_caching)
    assert told == {"True": (16, True), "False": (None, False), "None": (None, None)}
    assert engine.prefix_block_tokens(ENDPOINT) is engine.facts(ENDPOINT, "").prefix_caching is None
    assert (engine.facts(ENDPOINT, "").eager, engine.facts(ENDPOINT, "").max_num_seqs) == (True, 4)


def test_each_engine_has_fields_of_its_own_for_answers_of_full_length() -> None:
    assert VllmEngine(VllmServerConfig()).fixed_length == {"ignore_eos": True}
    fields = TransformersEngine(TransformersServerConfig(engine="transformers")).fixed_length
    assert {name: json.loads(value) for name, value in fields.items()} == {"generation_config": {"eos_token_id": -1}}
    assert OpenAIAddress(address("http://127.0.0.1:1")).fixed_length == {"ignore_eos": True}
    theirs = {"min_tokens": 32}
    assert OpenAIAddress(address("http://127.0.0.1:1", fixed_length=theirs)).fixed_length == theirs


@pytest.mark.parametrize(
    ("status", "config", "says"),
    [
        (401, {}, "api_key_variable"),
        (403, {}, "api_key_variable"),
        (422, {}, 'serving.fixed_length` to .*"ignore_eos": true'),
        (400, {}, "serving.fixed_length"),
        (422, {"fixed_length": {}}, None),
        (500, {}, None),
    ],
)
def test_a_refusal_is_answered_with_the_key_to_change(status: int, config: dict[str, Any], says: str | None) -> None:
    remedy = OpenAIAddress(address("http://127.0.0.1:1", **config)).remedy_for(status)
    assert (remedy is None) == (says is None)
    assert says is None or re.search(says, remedy or "")
    assert VllmEngine(VllmServerConfig()).remedy_for(status) is None


def test_a_key_that_a_server_repeats_is_not_told() -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    told = refusal(401, "Unauthorized", f'{{"error":\n "no such key: {KEY}"}}', headers)
    assert told == 'HTTP 401 Unauthorized: {"error": "no such key: ***"}'
    assert (refused_with(told), refused_with("reset by peer")) == (401, None)
    assert refusal(503, None, "", {}) == "HTTP 503"


@pytest.mark.parametrize(
    ("url", "here"), [("http://localhost:1", True), ("http://[::1]:1", True), ("https://far.example", False)]
)
def test_an_address_tells_whether_it_is_this_machine_s(url: str, here: bool) -> None:
    assert OpenAIAddress(address(url)).runs_here is here


def test_a_server_that_runs_needs_no_model_here(tmp_path: Path) -> None:
    asked = ServerRequest(address("http://127.0.0.1:1"), tmp_path, "float32", "cpu", None)
    check_servable(engine_of(asked.config), asked)
