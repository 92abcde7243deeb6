"""`quantbench bench`: what is refused before a server is started, what is told in the end, and what failures leave."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.errors import ConfigError, QuantbenchError, RequestError, StageError
from configs.loading import load_yaml_model
from pipelines.cli import main
from pipelines.execution import bench
from pipelines.execution.bench import OpenBench, execute_bench, open_bench
from pipelines.execution.workspace import Workspace
from pipelines.planning.stages import folder_dtype
from pipelines.recipe.bench_config import BenchConfig, method_of
from pipelines.records.bench_result import BenchResult
from pipelines.report.bench_page import write_bench_page
from pipelines.report.bench_table import print_bench
from pipelines.report.work_console import WorkConsole
from pipelines.stage_programs.serving_stage import _other_lengths, _shard_facts
from registry.contracts import CheckRecord, Endpoint, Failure, ServingRecord, StageResult
from registry.contracts.serving import SLO, RateSearch
from serving_checks.engines.table import engine_of
from serving_checks.server import RunningServer
from tests.records import check_record, load_point, measurement_record
from tests.unit.pipelines.test_runner import MACHINE, ROOT
from tests.unit.serving_checks.test_server import request

CONFIG = """\
version: 1
name: mine
model: {model}
serving:
  engine: openai
  base_url: http://127.0.0.1:9
  served_model_name: theirs
load: {{requests: 4, profiles: [{{kind: synchronous}}]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    path = tmp_path / "bench.yaml"
    path.write_text(CONFIG.format(model=model))
    return path


def served(**changes: Any) -> ServingRecord:
    return measurement_record("sha256:m").serving.model_copy(update=changes)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "bench").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_sound(path: Path) -> None:
    assert load_yaml_model(path, BenchConfig).serving.engine == path.stem


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: mine", "name: mine\nprofil: true", ["bench.yaml:3", "unknown key", "did you mean `profile`?"]),
        ("version: 1", "version: 2", ["bench.yaml:1"]),
        ("engine: openai", "engine: sglang", ["bench.yaml", "vllm, transformers, llamacpp, openai"]),
        ("theirs\n", "theirs\n  max_modl_len: 9\n", ["bench.yaml:8", "did you mean `max_model_len`?"]),
        ("requests: 4", "requests: 0", ["bench.yaml:8", "greater than or equal to 1"]),
        ("name: mine\n", "name: mine\nevaluation: {suite: demo}\n", ["bench.yaml:3", "unknown key `evaluation`"]),
        ("theirs\n", "theirs\n  fixed_length: true\n", ["bench.yaml:8", "valid dictionary"]),
    ],
)
def test_a_wrong_config_is_refused_at_its_line(config: Path, old: str, new: str, said: list[str]) -> None:
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(ConfigError) as caught:
        open_bench(config, [])
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=nowhere"], "no tokenizer in .*nowhere"),
        (["serving.api_key_variable=NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set"),
        (["load.prompts.file=missing.txt"], "missing.txt: cannot be read"),
        (["serving.max_model_len=64"], "does not fit the server's 64"),
        (["serving={engine: vllm}"], "config.json cannot be read"),
    ],
)
def test_what_cannot_work_is_told_before_a_server_is_started(config: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        open_bench(config, overrides)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"hidden_size": 96, "num_attention_heads": 4}, "this model's is 24"),
        ({"head_dim": 24, "hidden_size": 4096, "num_attention_heads": 32}, "this model's is 24"),
        ({"max_position_embeddings": 256}, "max_model_len 2048 exceeds the model's 256 positions"),
        ({"max_position_embeddings": 256, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, None),
        ({"head_dim": "24", "max_position_embeddings": True}, None),
    ],
)
def test_what_the_folder_says_of_its_sizes_is_held_against_the_engine_s_limits(
    config: Path, told: dict[str, Any], says: str | None
) -> None:
    (config.parent / "model" / "config.json").write_text(json.dumps(told))
    overrides = ["serving={engine: vllm}", "device=cpu"]
    if says is None:
        open_bench(config, overrides)
    else:
        with pytest.raises(RequestError, match=says):
            open_bench(config, overrides)


def test_an_engine_s_own_refusals_are_told_before_it_is_started(config: Path) -> None:
    (config.parent / "model" / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="does not serve"):
        open_bench(config, ["serving={engine: transformers}"])


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bnb_nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb_int8"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "rtn"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "w8a8"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "fp8"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, None),
        ({"quant_method": "fp8"}, None),
        ("words", None),
        (None, None),
    ],
)
def test_the_dtype_follows_what_the_folder_holds(tmp_path: Path, quantization: Any, method: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    assert method_of(tmp_path) == method
    slow = MACHINE.model_copy(update={"fast_bfloat16": False})
    asked = BenchConfig(version=1, name="mine", model=tmp_path)
    expected = "bfloat16" if method in ("gptq", "bnb_nf4", "rtn", "nvfp4") else "float32"
    assert folder_dtype(tmp_path, asked.serving, "auto", slow) == expected
    assert folder_dtype(tmp_path, asked.serving, "float16", slow) == "float16"


@pytest.mark.parametrize(
    ("changes", "exit_code"),
    [
        ({}, 0),
        ({"checks": [check_record("batching"), check_record("sharding", "not_run")]}, 0),
        ({"checks": [check_record("batching"), check_record("starvation", "fail")]}, 1),
        ({"load_points": [load_point(1, 2.0).model_copy(update={"invalid": "counters differ"})]}, 1),
        ({"load_points": [load_point(1, 2.0).model_copy(update={"saturated": True})]}, 0),
    ],
)
def test_the_exit_code_says_whether_all_is_sound(changes: dict[str, Any], exit_code: int) -> None:
    assert BenchResult("mine", served(**changes), Path(), Path()).exit_code == exit_code


def test_the_command_tells_on_stderr_and_gives_the_record_on_stdout(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = served(checks=[check_record("starvation", "fail")], warnings=["an odd thing"])
    ended = StageResult(stage="bench", record=record.model_dump(mode="json"))
    run_stand_in(monkeypatch, ended)
    workspace = config.parent / "workspace"
    assert main(["bench", str(config), "--workspace", str(workspace), "--json"]) == 1
    told = capsys.readouterr()
    assert ServingRecord.model_validate_json(told.out) == record
    for said in ("mine: loading", "starvation fail", "an odd thing", "report: "):
        assert said in told.err
    (directory,) = workspace.glob("bench/mine/*")
    assert sorted(path.name for path in directory.iterdir()) == [
        "load_requests.parquet",
        "record.json",
        "report.html",
        "server.log",
    ]
    assert ServingRecord.model_validate_json((directory / "record.json").read_text()) == record


def run_stand_in(monkeypatch: pytest.MonkeyPatch, ended: StageResult | BaseException) -> None:
    """In place of the stage's process: leaves its files and gives a result or an error."""

    def run_job(job: Any, module: str, name: str, log_file: Path, **options: Any) -> StageResult:
        assert module == "pipelines.stage_programs.bench_stage"
        options["on_progress"]("loading")
        job.result_file.parent.mkdir()
        job.result_file.write_text("{}")
        for file in (log_file, job.server_log_file, job.output_dir / "load_requests.parquet"):
            file.write_text("x")
        (job.output_dir / ".load_requests.parquet.half").write_text("x")
        if isinstance(ended, BaseException):
            raise ended
        (job.output_dir / ".load_requests.parquet.half").unlink()
        return ended

    monkeypatch.setattr(bench, "run_job", run_job)


@pytest.mark.parametrize(
    ("ended", "kind", "left"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, ["load_requests.parquet"]),
        (StageError("it died", remedy="x"), StageError, ["bench.log", "load_requests.parquet", "server.log"]),
        (Failure(what="no key", remedy="x", exit_code=2), RequestError, ["load_requests.parquet"]),
        (Failure(what="it died", remedy="x"), StageError, ["bench.log", "load_requests.parquet", "server.log"]),
    ],
)
def test_what_fails_leaves_no_half_result(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: BaseException | Failure,
    kind: type[BaseException],
    left: list[str],
) -> None:
    failed = StageResult(stage="bench", failure=ended) if isinstance(ended, Failure) else ended
    run_stand_in(monkeypatch, failed)
    workspace = Workspace(config.parent / "workspace")
    workspace.create()
    with pytest.raises(kind) as caught:
        execute_bench(open_bench(config, []), workspace, lambda text: None)
    assert not isinstance(caught.value, QuantbenchError) or caught.value.remedy == "x"
    (directory,) = workspace.root.glob("bench/mine/*")
    assert sorted(path.name for path in directory.iterdir()) == left


def test_what_fails_before_anything_was_measured_leaves_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bench: OpenBench, directory: Path, on_progress: Any) -> ServingRecord:
        raise RequestError("no server", remedy="start it")

    monkeypatch.setattr(bench, "_measured", refuse)
    workspace = Workspace(config.parent / "workspace")
    workspace.create()
    with pytest.raises(RequestError):
        execute_bench(open_bench(config, []), workspace, lambda text: None)
    assert not list(workspace.root.glob("bench/*"))


def test_the_page_shows_what_was_measured_and_loads_nothing(tmp_path: Path) -> None:
    record = served(
        checks=[check_record("batching"), check_record("starvation", "fail")],
        warnings=["<script>alert(1)</script>"],
        load_requests_file="load_requests.parquet",
        load_points=[load_point(1, 20.0), load_point(8, 64.0).model_copy(update={"invalid": "counters differ"})],
    )
    asked = BenchConfig(version=1, name="mine", model=tmp_path, description="what is <b>asked</b>")
    page = write_bench_page(asked, MACHINE, record, tmp_path).read_text()
    for said in (
        "8 at a time",
        "counters differ",
        "starvation",
        "FAILED",
        "<svg",
        "resident weights",
        "beside this page",
    ):
        assert said in page, said
    for absent in (
        "<script",
        "<b>",
        "src=",
        "http://",
        "https://",
        "room gained",
        "measurement's object",
        "evaluation<",
    ):
        assert absent not in page, absent
    none = served(load_points=[], checks=[], command=[], start_seconds=None)
    assert "No load test was run" in write_bench_page(asked, MACHINE, none, tmp_path).read_text()


def test_a_terminal_of_any_width_shows_the_result(tmp_path: Path) -> None:
    for width in (40, 200):
        text = io.StringIO()
        console = Console(file=text, width=width, force_terminal=True)
        with WorkConsole("mine", console) as shown:
            shown.on_progress("load test [bold]")
        print_bench(
            console, BenchResult("mine", served(checks=[check_record("batching")]), tmp_path, tmp_path / "page")
        )
        assert "report: " in text.getvalue()


@pytest.mark.parametrize(("highest", "told"), [(9.5, "9.50 requests/s"), (None, "even the lowest rate tried did not")])
def test_the_rate_that_a_sweep_found_is_told(tmp_path: Path, highest: float | None, told: str) -> None:
    search = RateSearch(slo=SLO(ttft_seconds=0.5), share=0.95, highest_good_requests_per_second=highest, tried=[9.5])
    text = io.StringIO()
    record = served().model_copy(update={"rate_search": search})
    print_bench(Console(file=text, width=60), BenchResult("mine", record, tmp_path, tmp_path / "page"))
    assert f"highest rate at which 95 % of requests kept TTFT ≤ 500 ms: {told}" in text.getvalue()


def test_ranks_that_cannot_be_asked_are_no_failure(config: Path, tmp_path: Path) -> None:
    asked = open_bench(config, ["serving.tensor_parallel_size=2"]).config
    endpoint = Endpoint(base_url="http://127.0.0.1:9", served_model_name="theirs", model_path="", max_model_len=64)
    found = _shard_facts(RunningServer(engine_of(asked.serving), endpoint), request(tmp_path))
    assert isinstance(found, CheckRecord)
    assert (found.outcome, found.reason) == ("not_run", "the engine openai does not tell what its ranks hold")


def test_a_model_that_the_engine_does_not_shard_is_asked_nothing(tmp_path: Path) -> None:
    int8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    other = request(tmp_path, int8, tensor_parallel_size=2)
    nobody = Endpoint(base_url="http://127.0.0.1:9", served_model_name="theirs", model_path="", max_model_len=64)
    found = _shard_facts(RunningServer(engine_of(other.config), nobody), other)
    assert isinstance(found, CheckRecord)
    assert found.outcome == "not_run"
    assert "bitsandbytes weights cannot be split over 2 ranks" in found.reason


def test_answers_of_another_length_are_told() -> None:
    full = load_point(1, 20.0)
    assert _other_lengths([full, full], asked=20) == []
    short = full.model_copy(update={"output_tokens": 30})
    (told,) = _other_lengths([full, short], asked=20)
    assert "1 of 2 load tests have answers of another length than the 20 tokens" in told
    assert "7.5 to 7.5 on average" in told
