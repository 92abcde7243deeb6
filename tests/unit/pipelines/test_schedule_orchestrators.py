"""Files for Airflow and Dagster as Python reads them (the two read them elsewhere), and for KubeRay by its schema."""

import ast
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import RequestError, StageError
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import stages_of
from pipelines.recipe.run_config import RunConfig
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.rendering.schedules import dagster
from pipelines.rendering.schedules.rendered import FOR_SCHEDULERS
from pipelines.rendering.schedules.targets import render_schedule
from pipelines.rendering.validation import check_documents
from tests.unit.pipelines.loss_records import SUITE
from tests.unit.pipelines.test_runner import FINGERPRINTS, GPTQ, INT8, MACHINE, run_config
from tests.unit.pipelines.test_schedule import WEEKLY, scheduled

STRANGE = Path('/srv/it\'s "50 %" of {{ ds }} and {% raw %} \\n $HOME ${x}/é')
METHODS: dict[str, Any] = {"gptq": GPTQ, "int8": INT8}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made of the recipe alone, not of this machine and a model."""

    def opened(config: RunConfig, *_: object) -> OpenRun:
        context = JobContext(config, MACHINE, SUITE, [])
        return OpenRun(context, stages_of(config, MACHINE, FINGERPRINTS), datetime(2026, 5, 1, tzinfo=UTC), 0.0)

    monkeypatch.setattr(dagster, "opened", opened)


def file_for(target: str, **changes: Any) -> str:
    config = run_config(name="weekly", methods=METHODS, schedule=WEEKLY.model_dump())
    (text,) = render_schedule(scheduled(**({"config": config} | changes)), target).values()
    return text


def values_of(text: str) -> dict[str, Any]:
    """What the file's constants are."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


@pytest.mark.parametrize("target", ["airflow", "dagster"])
@pytest.mark.usefixtures("planned")
def test_paths_and_changes_are_what_they_were(target: str) -> None:
    run = {"recipe": STRANGE / "weekly.yaml", "folder": STRANGE, "overrides": ['description="""$told"""']}
    text = file_for(target, **run)
    wanted = ["run", str(STRANGE / "weekly.yaml"), "--set", 'description="""$told"""', "--workspace", "/srv/workspace"]
    overlap = "leave" if target == "airflow" else "wait"
    assert values_of(text)["COMMAND"] == ["/bin/true", *wanted, *FOR_SCHEDULERS, overlap]
    if target == "dagster":
        assert values_of(text)["FOLDER"] == str(STRANGE)
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring and "Rendered by `quantbench schedule render` from weekly.yaml" in docstring.replace("\n", " ")


def test_a_file_name_ends_no_docstring() -> None:
    text = file_for("airflow", recipe=Path('/srv/a"""\\"\nimport os".yaml'.replace("\n", "")))
    assert [type(node).__name__ for node in ast.parse(text).body][:2] == ["Expr", "Import"]


def test_airflow_s_script_prints_the_line_last_and_keeps_the_code(tmp_path: Path) -> None:
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\necho "$@"\necho told later >&2\nexit 3\n')
    program.chmod(0o755)
    text = file_for("airflow", program=[str(program)])
    found: dict[str, Any] = {"shlex": shlex}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("COMMAND", "SCRIPT"):
            exec(compile(ast.Module([node], []), "rendered", "exec"), found)  # noqa: S102 - two assignments
    command = ["bash", "-c", found["SCRIPT"]]
    pipe = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    first, last = pipe.stdout.splitlines()
    assert (first, last) == ("told later", " ".join(found["COMMAND"][1:]))
    assert pipe.returncode == 3


def test_verdicts_count_where_that_is_asked_for() -> None:
    assert "skip_on_exit_code=None," in file_for("airflow")
    strict = file_for("airflow", require_pass=True)
    assert "skip_on_exit_code=4," in strict
    assert values_of(strict)["COMMAND"][-1] == "--require-pass"


@pytest.mark.usefixtures("planned")
def test_dagster_has_an_asset_a_stage_and_a_check_an_artifact() -> None:
    values = values_of(file_for("dagster"))
    stages = [stage.name for stage in stages_of(run_config(methods=METHODS), MACHINE, FINGERPRINTS)]
    assert list(values["ASSETS"]) == list(values["INPUTS"]) == stages
    assert values["ASSETS"]["measure:baseline+bfloat16"] == "weekly/measure/baseline_bfloat16"
    assert values["INPUTS"]["quantize:gptq"] == ["calibrate", "prepare"]
    assert values["INPUTS"]["prepare"] == []
    assert values["JUDGED"] == ["measure:int8", "measure:gptq"]


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"config": run_config(name="weekly", methods={"int-8": INT8, "int_8": INT8})},
            "quantize:int-8 and quantize:int_8 would be one asset",
        ),
        ({"require_pass": True}, "Dagster takes no assets of such a step"),
    ],
)
def test_what_dagster_cannot_take(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        file_for("dagster", **changes)


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("target", ["airflow", "dagster"])
def test_days_that_croniter_reads_otherwise_than_cron(target: str) -> None:
    for cron in ("0 4 */10 * 1", "0 4 1 * */2"):
        with pytest.raises(RequestError, match="do not agree on what"):
            file_for(target, schedule=ScheduleConfig(cron=cron))
    for cron in ("0 4 */10 * *", "0 4 * * */2", "0 4 1 * 1", "*/30 * * * *"):
        assert f'"{cron}"' in file_for(target, schedule=ScheduleConfig(cron=cron))


def ray_documents(**changes: Any) -> dict[str, dict[str, Any]]:
    text = file_for("ray-cronjob", **changes)
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_a_raycronjob_makes_a_cluster_for_each_run() -> None:
    config = run_config(
        name="weekly", methods=METHODS, device="cuda", serving={"engine": "vllm", "tensor_parallel_size": 2}
    )
    found = ray_documents(config=config, workers=3, require_pass=True, schedule=ScheduleConfig(cron="0 4 * * 7"))
    assert list(found) == ["ConfigMap", "PersistentVolumeClaim", "RayCronJob"]
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = found["RayCronJob"]["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 4 * * 0", "UTC")
    job = spec["jobTemplate"]
    command = ["env", "--chdir", "/workspace", "quantbench", "run", "/recipe/recipe.yaml", "--workspace", "/workspace"]
    assert shlex.split(job["entrypoint"]) == [*command, *FOR_SCHEDULERS, "leave", "--require-pass"]
    assert job["shutdownAfterJobFinishes"] is True
    (workers,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["replicas"], workers["maxReplicas"]) == (3, 3, 3)
    for group in (job["rayClusterSpec"]["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
        assert "command" not in container  # KubeRay's: it starts Ray


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("spec", "concurrencyPolicy"), "'concurrencyPolicy' was unexpected"),
        (("spec", "jobTemplate", "retries"), "'retries' was unexpected"),
        (
            ("spec", "jobTemplate", "rayClusterSpec", "headGroupSpec", "template", "spec", "gpus"),
            "'gpus' was unexpected",
        ),
    ],
)
def test_a_field_that_kuberay_does_not_know_is_found(place: tuple[str, ...], said: str) -> None:
    document = ray_documents()["RayCronJob"]
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = "Forbid"
    with pytest.raises(StageError, match=said):
        check_documents([document], "kuberay.json")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image": None}, "a RayCronJob runs a container"),
        ({"config": run_config(name="a" * 40)}, "a RayCronJob's name has 36 characters at most"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_what_is_no_raycronjob(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        file_for("ray-cronjob", **changes)
