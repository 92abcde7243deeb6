"""Rendered deployments with the real things: started, asked, ended; and read by the platforms' own libraries."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import yaml

from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from pipelines.rendering.deploy.champion import MODELS
from pipelines.rendering.deploy.monitoring import panels_of
from pipelines.rendering.deploy.targets import render
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port
from serving_checks.transport.http_json import get_text, post_json
from tests.deployments import champion, unit_commands, unit_environment
from tests.tiny_llama import make_tiny_llama

PATIENCE_SECONDS = 800.0
CONFIG = {"serving": {"max_model_len": 256, "max_num_seqs": 16, "kv_cache_gib": 0.25}}
SMALL = {"peak_process_bytes": 2**29}
PYTHON = Path(sys.executable)
ASKED = {"model": "smollm2", "prompt": "one two", "max_tokens": 4, "temperature": 0}

engine = [pytest.mark.engine, pytest.mark.service, pytest.mark.timeout(1800)]
environment = [pytest.mark.environment, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("deployed") / "model"
    made.mkdir()
    make_tiny_llama(made)
    return made


@pytest.fixture(scope="module")
def platforms() -> Iterator[Path]:
    """Python of the environment that has Ray, botocore and Triton's client."""
    with in_use(environment_named("deploy", "cpu"), print) as python:
        yield python


def files_of(target: str, folder: Path, port: int, **more: Any) -> dict[str, str]:
    one = champion(
        target,
        config=CONFIG,
        serving={"threads": 1, "start_seconds": 100.0},
        memory=SMALL,
        storage=str(folder),
        python=str(PYTHON),
        port=port,
        **more,
    )
    return render(one, target).files(one)


def until(done: Callable[[], bool], process: Supervised) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert process.poll() is None, process.log_tail()
        assert time.monotonic() < deadline, process.log_tail()
        time.sleep(0.5)


def answers(port: int) -> bool:
    try:
        return "smollm2" in get_text(f"http://127.0.0.1:{port}/v1/models")
    except OSError:
        return False


def check_answers(port: int) -> None:
    """It completes, and its metrics page has every name that dashboards and scaling ask for."""
    answer = post_json(f"http://127.0.0.1:{port}/v1/completions", ASKED)
    assert answer["usage"]["completion_tokens"] == 4
    page = get_text(f"http://127.0.0.1:{port}/metrics")
    metrics = champion().container.metrics._asdict()
    labels = {metrics.pop("model_label"): "smollm2", metrics.pop("ended_label"): "length"}
    for kind in ("ttft", "itl"):
        metrics[kind] += "_bucket"
    for name in metrics.values():
        assert f"\n{name}{{" in page, name
    assert all(f'{label}="{value}"' in page for label, value in labels.items())


@pytest.mark.parametrize("target", [pytest.param(one, marks=engine) for one in ("docker-compose", "systemd")])
def test_what_a_machine_is_told_to_start_answers(target: str, folder: Path, tmp_path: Path) -> None:
    port = free_port(None)
    files = files_of(target, folder, port)
    if target == "systemd":
        argv, waiting = unit_commands(files["quantbench.service"])
        env = unit_environment(files["quantbench.service"])
    else:
        service = yaml.safe_load(files["compose.yaml"])["services"]["model"]
        # No container here: the CPU build has no `vllm` on its path, and the artifact is where it is.
        places = {MODELS: str(folder), "0.0.0.0": "127.0.0.1"}  # noqa: S104
        argv = [str(PYTHON), *champion().container.module, *(places.get(word, word) for word in service["command"])]
        env, waiting = service["environment"], [str(PYTHON), *service["healthcheck"]["test"][2:]]
    with Supervised(argv, env={**env, "HOME": str(tmp_path)}, log_file=tmp_path / "log") as process:

        def healthy() -> bool:
            return subprocess.run(waiting, capture_output=True, check=False, timeout=PATIENCE_SECONDS).returncode == 0

        until(healthy, process)
        check_answers(port)


@pytest.mark.parametrize("_", [pytest.param(None, marks=environment)])
def test_ray_serve_starts_what_is_rendered_and_a_killed_replica_leaves_no_server(
    _: None, folder: Path, platforms: Path, tmp_path: Path
) -> None:
    port = free_port(None)
    for name, text in files_of("ray-serve", folder, port).items():
        (tmp_path / name).write_text(text)
    # Sockets lie below it, whose paths have to be short.
    with TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as scratch:
        env = {"RAY_TMPDIR": scratch, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
        argv = [str(platforms.parent / "serve"), "run", "serve.yaml"]
        # Ray's workers import the application from where it was started.
        with Supervised(argv, env=env, cwd=tmp_path, log_file=tmp_path / "log", grace_seconds=30) as process:
            until(lambda: answers(port), process)
            check_answers(port)
            streamed = {**ASKED, "stream": True}
            curl = ["curl", "-sN", f"http://127.0.0.1:{port}/v1/completions", "--json", json.dumps(streamed)]
            said = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=60).stdout
            *events, done = [line.removeprefix("data: ") for line in said.splitlines() if line]
            whole = post_json(f"http://127.0.0.1:{port}/v1/completions", ASKED)
            # A busy engine puts several tokens into one event.
            assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]
            assert done == "[DONE]"
            (server,) = [
                one
                for one in psutil.Process(process.pid).children(recursive=True)
                if str(folder) in one.cmdline() and "ray::" not in one.cmdline()[0]
            ]
            replica = server.parent()
            assert replica is not None
            assert "ServeReplica" in " ".join(replica.cmdline())
            replica.kill()
            server.wait(60)


PROGRAMS = {
    "ray-serve": "import json, sys; from ray.serve.schema import ServeDeploySchema\n"
    "ServeDeploySchema.model_validate(json.load(sys.stdin)['serve.yaml'])",
    "sagemaker": "import json, sys; from botocore.loaders import Loader; from botocore.model import ServiceModel\n"
    "from botocore.validate import validate_parameters\n"
    "scaling = ('register-scalable-target', 'put-scaling-policy')\n"
    "for file, request in json.load(sys.stdin).items():\n"
    "    verb = file.removesuffix('.yaml')\n"
    "    service = 'application-autoscaling' if verb in scaling else 'sagemaker'\n"
    "    model = ServiceModel(Loader().load_service_model(service, 'service-2'))\n"
    "    operation = model.operation_model(verb.title().replace('-', ''))\n"
    "    validate_parameters(request, operation.input_shape)",
    "triton": "import json, sys; from google.protobuf import text_format\n"
    "from tritonclient.grpc.model_config_pb2 import ModelConfig\n"
    "(text,) = json.load(sys.stdin).values()\n"
    "config = text_format.Parse(text, ModelConfig())\n"
    "(group,) = config.instance_group\n"
    "assert (config.backend, group.kind) == ('vllm', group.KIND_MODEL), config",
}
"""Target -> how its own library reads what is rendered: file -> document, or text, from standard input."""
MISTAKES = {
    # Of keys that it does not know Ray says nothing; our schema does.
    "ray-serve": ("max_ongoing_requests: 20", "max_ongoing_requests: many", "max_ongoing_requests"),
    "sagemaker": ("Image:", "Imge:", "Imge"),
    "triton": ("backend", "bakend", "bakend"),
}
"""What is planted, and what is said of it."""


@pytest.mark.parametrize("target", [pytest.param(one, marks=environment) for one in PROGRAMS])
def test_a_platform_s_own_library_reads_what_is_rendered(target: str, platforms: Path) -> None:
    one = champion(target)
    files = {name: text for name, text in render(one, target).files(one).items() if name.endswith((".yaml", ".pbtxt"))}

    def read(texts: dict[str, str]) -> subprocess.CompletedProcess[str]:
        documents = {name: text if target == "triton" else yaml.safe_load(text) for name, text in texts.items()}
        argv = [str(platforms), "-P", "-c", PROGRAMS[target]]
        return subprocess.run(
            argv, input=json.dumps(documents), capture_output=True, text=True, check=False, timeout=300
        )

    done = read(files)
    assert done.returncode == 0, done.stderr
    right, wrong, said = MISTAKES[target]
    mistyped = {name: text.replace(right, wrong) for name, text in files.items()}
    assert mistyped != files
    done = read(mistyped)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.service
def test_prometheus_computes_what_servers_are_added_by(tmp_path: Path) -> None:
    """Two servers with 3 and 5 that wait; all first tokens between 0.5 and 2 s; and nobody who asks."""
    one = champion("kserve", scale={"percentile": 90})
    scaled = yaml.safe_load(render(one, "kserve").files(one)["scaled-object.yaml"])["spec"]["triggers"]
    rules = [{"record": f"scaled:{trigger['name']}", "expr": trigger["metadata"]["query"]} for trigger in scaled]
    panels = [asked.replace("$model", one.model) for panel in panels_of(one) for asked in panel.expressions.values()]
    rules += [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(panels)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))

    def series(name: str, values: str, **labels: str) -> dict[str, str]:
        told = ",".join(f'{label}="{value}"' for label, value in {"model_name": one.model, **labels}.items())
        return {"series": f"{name}{{{told}}}", "values": values}

    metrics = one.container.metrics
    buckets = {"0.5": "0x20", "2": "0+60x20", "+Inf": "0+60x20"}
    asked = [series(f"{metrics.ttft}_bucket", values, le=le) for le, values in buckets.items()]
    asked += [series(metrics.waiting, f"{count}x20", instance=instance) for instance, count in (("a", 3), ("b", 5))]
    nobody = [series(f"{metrics.ttft}_bucket", "7x20", le=le) for le in buckets]

    def expects(series: list[dict[str, str]], rule: str, value: float) -> dict[str, Any]:
        sample = {"labels": f"scaled:{rule}", "value": value}
        told = {"expr": f"scaled:{rule}", "eval_time": "10m", "exp_samples": [sample]}
        return {"interval": "1m", "input_series": series, "promql_expr_test": [told]}

    tests = [expects(asked, "waiting", 8), expects(asked, "ttft", 0.5 + 0.9 * 1.5), expects(nobody, "ttft", 0)]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    (tmp_path / "prometheus.yml").write_text(files_of("docker-compose", tmp_path, 8000)["prometheus.yml"])
    for command in ("check config prometheus.yml", "check rules rules.yaml", "test rules tests.yaml"):
        done = subprocess.run(
            [str(shutil.which("promtool")), *command.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.engine
def test_the_engine_has_each_field_that_triton_hands_to_it() -> None:
    import dataclasses

    from vllm.engine.arg_utils import AsyncEngineArgs

    one = champion("triton")
    fields = json.loads(render(one, "triton").files(one)["model_repository/quantbench/1/model.json"])
    known = {field.name: field for field in dataclasses.fields(AsyncEngineArgs)}
    assert fields.keys() <= known.keys()
