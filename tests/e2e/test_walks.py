"""What documents begin with, on one workspace: a run's artifact is replayed, judged, promoted, taken back, handed on.

The run's record is made up; its models are real ones, tiny, and the engine that serves them is the real one.
"""

import csv
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.decision.recommend import recommend
from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from pipelines.recipe.policy import Policy, RecommendConfig
from pipelines.records.rows import Row
from registry.sealed import write_sealed
from registry.tracking.address import sqlite_uri
from serving_checks.server import free_port
from tests.integration.test_mlflow_server import Lab
from tests.integration.test_promotion import key_pair
from tests.tiny_llama import make_tiny_llama
from tests.walks import take, walk_of

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.service, pytest.mark.timeout(900)]


class RealModels(Lab):
    """Each model is a tiny Llama; what the run measured of it is made up."""

    def _stored(self, row: Row) -> Row:
        made = {}
        for record in ("artifact", "checkpoint"):
            known = getattr(row, record)
            if known is not None:
                with self.workspace.store.staging() as staging:
                    make_tiny_llama(staging)
                    # Each has bytes of its own.
                    (staging / "name.txt").write_text(row.name)
                    digest = self.workspace.store.put(staging).digest
                origin = {"checkpoint_digest": "sha256:" + "c" * 64} if record == "artifact" else {}
                made[record] = known.model_copy(update={"digest": digest, **origin})
        if row.measurement:
            asked = row.measurement.evaluation.model_copy(update={"suite_digest": "sha256:" + "d" * 64})
            made["measurement"] = row.measurement.model_copy(update={"evaluation": asked})
        return row.model_copy(update=made)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with the demo's configs and a workspace whose run recommends w8a8."""
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("walk")
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    lab = RealModels(folder, sqlite_uri(folder / "workspace" / "mlflow.db"))
    rows = [row.model_copy(update={"name": "w8a8"}) if row.name == "int8" else row for row in lab.run.rows]
    recommendation = recommend(rows, Policy(), RecommendConfig(concurrency=4))
    assert recommendation.choice == "w8a8"
    config = lab.run.config | {"registry": {"approval": "policy"}}
    lab.run = lab.run.model_copy(update={"rows": rows, "recommendation": recommendation, "config": config})
    assert "registered model" in lab.record()
    write_sealed(lab.run.run_dir / "result.json", lab.run)
    # A port that is free here; OpenAI's client asks where this variable says.
    port = free_port(None)
    for config in (folder / "configs" / "shadow").glob("*.yaml"):
        config.write_text(config.read_text().replace("port: 8080", f"port: {port}"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    # Locust's clients ask the same.
    monkeypatch.setenv("LOCUST_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("QUANTBENCH_MODEL", "smollm2")
    (folder / "limits.yaml").write_text("metrics: {errors: 0.2}\n")
    key_pair(folder / "private.pem", folder / "public.pem")
    yield folder
    monkeypatch.undo()


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(
    "document",
    [
        *("replay", "verdict", "artifacts", "review", "gateway", "routing", "watching", "ramp", "rendering"),
        *("cost", "limits", "schedule"),
    ],
)
def test_the_walk_of_a_document(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this order: a verdict wants a replay, and a ramp a champion."""
    take(walk_of(ROOT / "docs" / f"{document}.md"), capsys)


def test_upstream_s_command_verifies_what_was_exported() -> None:
    document = (ROOT / "docs" / "artifacts.md").read_text()
    (command,) = re.findall(r"^\$ python (-m model_signing verify .*)$", document, flags=re.MULTILINE)
    python = str(ROOT / ".venv" / "bin" / "python")
    done = subprocess.run([python, *shlex.split(command)], capture_output=True, text=True, check=False)
    assert "Verification succeeded" in done.stdout + done.stderr


_PRINTED = {
    "&": "...version ... sees what clients ask\n...",
    "4": "800 of 800 prompts answered, 0 failed, ... s\n",
    "workspace/shadow/demo": "...verdict: ...",
    "workspace/shadow/ramp": "...verdict: ...",
    "%1": "...ended\n",
}
"""By a command's last word."""

_CLIENTS = f"-f {ROOT / 'benchmarks' / 'locustfile.py'} --headless --users 2 --spawn-rate 2 --csv asked"


def test_the_walk_of_the_readme(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replay, endpoint, promotion and rollback of the recommended artifact, each seen in the history.

    All the while locust asks, as clients do that know nothing of it, and none of its requests fails.
    """
    document = (ROOT / "README.md").read_text()
    (block,) = re.findall(
        r"^```\n(\.venv/bin/quantbench shadow replay .*?)^```$", document, flags=re.MULTILINE | re.DOTALL
    )
    commands = [line.partition("#")[0].strip().removeprefix(".venv/bin/") for line in block.splitlines()]
    # Other walks have left the aliases where this one puts them.
    for name, alias in (("w8a8", "champion"), ("baseline", "shadow")):
        main(["registry", "promote", name, "--to", alias])
    capsys.readouterr()
    walk = [(command, _PRINTED.get(command.split()[-1], "...\n")) for command in commands]
    (begins,) = (number for number, (command, _) in enumerate(walk) if command.endswith("&"))
    with in_use(environment_named("locust", "cpu"), print) as python:
        walk.insert(begins + 1, (f"{python.parent / 'locust'} {_CLIENTS} &", "...All users spawned..."))
        walk.insert(walk.index(("kill %1", _PRINTED["%1"])), ("kill %2", "..."))
        take(walk, capsys)
    with Path("asked_stats.csv").open() as file:
        (asked,) = (row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
    assert int(asked["Request Count"]) > 100
    assert asked["Failure Count"] == "0"
    capsys.readouterr()
    assert main(["registry", "history", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    moves = [
        (one["kind"], one["version_from"], one["version_to"]) for one in entries if one["stream"] == "alias:champion"
    ]
    assert [kind for kind, _, _ in moves[-2:]] == ["promote", "rollback"]
    assert moves[-2][2] == moves[-1][1]
    assert any(one["stream"] == "ramp:shadow" and one["kind"] == "begin" for one in entries)
    assert ("approve", "policy") in [(one["kind"], one["who"]) for one in entries]
