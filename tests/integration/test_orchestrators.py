"""Rendered for cron, Airflow and Dagster and run by them: one recipe, equal bytes and scores.

The last two run without their servers.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.records.run_outcome import RunOutcome
from pipelines.records.run_record import RESULT_FILE, RunRecord
from pipelines.rendering.schedules.targets import render_schedule
from registry.sealed import read_sealed
from tests.architecture.repository import ROOT
from tests.e2e.test_pipeline import SUITE
from tests.tiny_llama import make_tiny_llama
from tests.unit.pipelines.test_runner import INT8, run_config
from tests.unit.pipelines.test_schedule import scheduled

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1800)]

RECIPE = """\
version: 1
name: tiny.orchestrated
source: {kind: folder, path: model}
calibration: {source: self, samples: 4, tokens: 16}
methods:
  int8: {method: bnb_int8}
evaluation: {suite: suite.yaml}
serving: {max_model_len: 256, max_num_seqs: 8, kv_cache_gib: 0.25}
load:
  profiles: [{kind: concurrent, levels: [1]}]
  prompts: {short: 16}
  requests: 4
  output_tokens: 8
schedule: {cron: "0 4 * * 0", timezone: Europe/Berlin}
"""
CRONS = {"0 4 * * 0": "Europe/Berlin", "30 5 1,15 * 7": "America/New_York", "15 4-6/2 * */3 1-5": "Asia/Kolkata"}
BEGIN = datetime(2027, 3, 1, tzinfo=UTC)
STAGES = ["prepare", "soundness", "measure/baseline", "quantize/int8", "inspect/int8", "measure/int8"]
CRON = shutil.which("cron")
CRON_SECONDS = 900
"""cron looks once a minute, and a run takes one or two."""
NEVER = ("AIRFLOW", "DAGSTER", "PYTHONPATH", "QUANTBENCH_FAKE")
"""Beginnings of variables' names that are of this process only."""


def program_in(environment: str, program: str, arguments: list[str], **variables: str) -> Any:
    """The line that a program prints which runs in the environment of an orchestrator."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(NEVER)} | variables
    with in_use(environment_named(environment, "cpu"), print) as python:
        command = [str(python), str(ROOT / "tests" / "orchestrators" / program), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def by_airflow(home: Path, dags: Path, *runs: str) -> dict[str, dict[str, Any]]:
    """What came of the DAGs in a folder."""
    variables = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    told: dict[str, dict[str, Any]] = program_in("airflow", "airflow_program.py", [str(dags), *runs], **variables)
    return told


def by_dagster(home: Path, *files: Path, runs: int = 1) -> list[dict[str, Any]]:
    """What came of files of definitions, of which the first are run."""
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    arguments = [str(runs), *map(str, files)]
    told: list[dict[str, Any]] = program_in("dagster", "dagster_program.py", arguments, DAGSTER_HOME=str(home))
    return told


def rendered(folder: Path, target: str, changes: Mapping[str, Any], *, quick: bool = False) -> Path:
    """A file around a stand-in for the command; `quick` tries again after a second, once."""
    ((name, text),) = render_schedule(scheduled(**changes), target).items()
    if quick:
        text = text.replace("RETRIES = 2", "RETRIES = 1").replace("timedelta(minutes=10)", "timedelta(seconds=1)")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def stand_in(folder: Path, code: int) -> dict[str, Any]:
    """Says where it is and what it was asked, on stderr last, and ends with a code."""
    folder.mkdir()
    program = folder / "quantbench"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps({'status': 'finished', 'asked': [os.getcwd(), *sys.argv[1:]]}), flush=True)\n"
        f"print('told last', file=sys.stderr)\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return {"program": [str(program)], "folder": folder, "recipe": folder / "weekly.yaml"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a real recipe."""
    folder = tmp_path_factory.mktemp("orchestrated")
    make_tiny_llama(folder / "model")
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        yield folder


def render_real(place: Path, target: str, workspace: str) -> Path:
    out = place / workspace / "rendered"
    arguments = ["--target", target, "--out", str(out), "--workspace", str(place / workspace)]
    assert main(["schedule", "render", "recipe.yaml", *arguments]) == 0
    (file,) = out.iterdir()
    return file


def scores_of(record: RunRecord) -> dict[str, Any]:
    """What a run gives that no machine's hour changes."""
    return {
        row.name: (row.digest, [(one.category, one.value) for one in row.measurement.evaluation.categories])
        for row in record.rows
        if row.measurement
    }


def record_in(workspace: Path) -> RunRecord:
    (file,) = workspace.glob(f"runs/*/{RESULT_FILE}")
    return read_sealed(file, RunRecord)


@pytest.fixture(scope="module")
def airflow(place: Path) -> tuple[Path, RunOutcome]:
    """A DAG that was run, and its line."""
    (place / "recipe.yaml").write_text(RECIPE)
    dag = render_real(place, "airflow", "of-airflow")
    (told,) = by_airflow(place / "airflow", dag.parent, dag.name).values()
    assert (told["id"], told["run"], told["tries"], told["active"]) == ("quantbench-tiny-orchestrated", "success", 1, 1)
    (line,) = told["returned"]
    outcome = RunOutcome.model_validate(line)
    assert (outcome.status, outcome.exit_code, outcome.stages) == ("finished", 0, {"done": len(STAGES)})
    return dag, outcome


@pytest.mark.engine
def test_airflow_and_dagster_run_one_recipe_to_equal_bytes_and_scores(
    place: Path, airflow: tuple[Path, RunOutcome]
) -> None:
    dag, outcome = airflow
    (place / "recipe.yaml").write_text(RECIPE)
    definitions = render_real(place, "dagster", "of-dagster")
    (told,) = by_dagster(place / "dagster", definitions)
    assert told["success"], told["errors"]
    assert list(told["assets"]) == [f"tiny.orchestrated/{stage}" for stage in STAGES]
    measured = told["assets"]["tiny.orchestrated/measure/int8"]
    passed = outcome.verdicts["int8"] == "pass"
    assert measured["verdict"] == outcome.verdicts["int8"]
    severity = "ERROR" if outcome.verdicts["int8"] == "fail" else "WARN"
    assert told["checks"] == {"tiny.orchestrated/measure/int8": ["verdict", passed, severity]}

    records = [record_in(place / workspace) for workspace in ("of-airflow", "of-dagster")]
    assert scores_of(records[0]) == scores_of(records[1])
    assert told["assets"]["tiny.orchestrated/quantize/int8"]["digest"] == scores_of(records[0])["int8"][0]

    # Again: nothing to do, which Airflow's line says, and Dagster has the same versions of the data.
    (again,) = by_airflow(place / "airflow", dag.parent, dag.name).values()
    assert RunOutcome.model_validate(again["returned"][0]).status == "unchanged"
    (repeated,) = by_dagster(place / "dagster", definitions)
    assert repeated["success"] and repeated["versions"] == told["versions"]
    assert {one["how"] for one in repeated["assets"].values()} == {"reused"}


@pytest.mark.engine
@pytest.mark.service
@pytest.mark.skipif(CRON is None or os.geteuid() != 0, reason="Debian's cron as root is needed: make services")
def test_cron_runs_it_to_the_same(place: Path, airflow: tuple[Path, RunOutcome]) -> None:
    """In cron's own surroundings, which have next to no variables."""
    every_minute = RECIPE.replace('"0 4 * * 0", timezone: Europe/Berlin', '"* * * * *", timezone: UTC')
    (place / "recipe.yaml").write_text(every_minute)
    file = render_real(place, "cron", "of-cron")
    outcome, *left = by_cron(file, place / "of-cron" / f"{file.name}.jsonl")
    assert all(one.status == "left" for one in left)
    assert (outcome.status, outcome.exit_code, outcome.recipe_file) == ("finished", 0, place / "recipe.yaml")
    assert outcome.verdicts == airflow[1].verdicts
    assert scores_of(record_in(place / "of-cron")) == scores_of(record_in(place / "of-airflow"))


def by_cron(file: Path, said: Path) -> list[RunOutcome]:
    """What the first run says, at its end, and then what those say that were started meanwhile."""
    installed = Path("/etc/cron.d") / f"{file.name}-test-{os.getpid()}"
    until = time.monotonic() + CRON_SECONDS
    told: list[RunOutcome] = []
    # Where the system's own daemon runs, this one ends at once.
    assert CRON is not None
    with subprocess.Popen([CRON, "-f"]) as daemon:
        try:
            installed.write_text(file.read_text())
            while all(one.status == "left" for one in told):
                assert time.monotonic() < until, f"nothing that cron has started came to its end: {told}"
                time.sleep(0.5)
                lines = said.read_text().splitlines(keepends=True) if said.is_file() else []
                told = [RunOutcome.model_validate_json(line) for line in lines if line.endswith("\n")]
        finally:
            installed.unlink()
            daemon.terminate()
    return sorted(told, key=lambda one: one.status == "left")


def test_airflow_takes_exit_codes_as_they_are_meant(tmp_path: Path) -> None:
    dags = tmp_path / "dags"

    def dag(name: str, code: int, **changes: Any) -> str:
        config = run_config(name=name, methods={"int8": INT8})
        changes = stand_in(tmp_path / changes.pop("folder", name), code) | {"config": config} | changes
        return rendered(dags, "airflow", changes, quick=True).name

    strange = "it's {{ ds }} of $HOME %s"
    plain, failing = dag("plain", 0, folder=strange), dag("failing", 3)
    undecided = dag("undecided", 4, require_pass=True)
    ours = {
        "program": [sys.executable, "-P", "-m", "pipelines.cli"],
        "folder": tmp_path,
        "recipe": tmp_path / "none.yaml",
    }
    refused = rendered(dags, "airflow", {"config": run_config(name="refused")} | ours, quick=True).name
    for number, (cron, zone) in enumerate(CRONS.items()):
        schedule = ScheduleConfig(cron=cron, timezone=zone)
        rendered(dags, "airflow", {"config": run_config(name=f"times{number}"), "schedule": schedule})
    told = by_airflow(tmp_path / "airflow", dags, plain, failing, undecided, refused)

    assert (told[plain]["run"], told[plain]["tries"]) == ("success", 1)
    (line,) = told[plain]["returned"]
    folder, *asked = line["asked"]
    assert folder == str(tmp_path / strange)
    assert asked[:2] == ["run", str(tmp_path / strange / "weekly.yaml")]
    # Tried again as RETRIES says, and then failed.
    assert (told[failing]["run"], told[failing]["tries"], told[failing]["returned"]) == ("failed", 2, [])
    assert (told[refused]["run"], told[refused]["tries"], told[refused]["returned"]) == ("failed", 1, [])
    assert (told[undecided]["task"], told[undecided]["tries"]) == ("skipped", 1)
    for number, (cron, zone) in enumerate(CRONS.items()):
        assert_times(told[f"quantbench-times{number}.py"]["times"], cron, zone)
    # Down for ten weeks: the last time that was missed is run, and then none before its time.
    caught_up, following = map(datetime.fromisoformat, told["quantbench-times0.py"]["missed"])
    now = datetime.fromisoformat(told["quantbench-times0.py"]["now"])
    assert caught_up <= now < following and (following - caught_up).days in (6, 7)


def assert_times(found: list[str], cron: str, zone: str) -> None:
    wanted = [one.astimezone(UTC) for one in islice(ScheduleConfig(cron=cron, timezone=zone).times(BEGIN), 20)]
    assert [datetime.fromisoformat(one).astimezone(UTC) for one in found] == wanted


def test_definitions_of_another_recipe_run_nothing(place: Path) -> None:
    (place / "recipe.yaml").write_text(RECIPE)
    file = render_real(place, "dagster", "of-another")
    (place / "recipe.yaml").write_text(RECIPE.replace("int8:", "other:"))
    (refused,) = by_dagster(place / "dagster", file)
    assert not refused["success"] and refused["assets"] == {} and refused["retries"] == 0
    assert any("failed with code 2" in text for text in refused["errors"]), refused["errors"]
    assert list((place / "of-another").glob("runs/*")) == []


def test_dagster_takes_no_asset_of_a_run_that_failed(place: Path, tmp_path: Path) -> None:
    (place / "recipe.yaml").write_text(RECIPE)
    file = render_real(place, "dagster", "of-a-stand-in")
    text = file.read_text().replace("max_retries=2, delay=600", "max_retries=1, delay=1")
    program = json.dumps(stand_in(tmp_path / "failing", 3)["program"][0])
    failing = tmp_path / "failing.py"
    failing.write_text(text.replace('COMMAND = [\n    "', f'COMMAND = [\n    {program},\n    "'))
    # What says that it is done and reports nothing is no success either: Dagster would take all for materialized.
    silent = tmp_path / "silent.py"
    program = json.dumps(stand_in(tmp_path / "silent", 0)["program"][0])
    silent.write_text(text.replace('COMMAND = [\n    "', f'COMMAND = [\n    {program},\n    "'))
    others = []
    for number, (cron, zone) in enumerate(CRONS.items()):
        others.append(tmp_path / f"times{number}.py")
        others[-1].write_text(text.replace("0 4 * * 0", cron).replace("Europe/Berlin", zone))
    failed, unreported, *told = by_dagster(tmp_path / "dagster", failing, silent, *others, runs=2)
    assert not failed["success"] and failed["assets"] == {}
    assert failed["retries"] == 1
    assert any("failed with code 3" in text for text in failed["errors"])
    assert not unreported["success"] and unreported["assets"] == {}
    for one, (cron, zone) in zip(told, CRONS.items(), strict=True):
        assert_times(one["times"], cron, zone)
