"""Which commit a branch of the hub is now: asked of a hub that a test holds, and told clearly when none answers."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from configs.errors import RequestError, StageError
from pipelines.planning.open_run import opened
from quantizers.checkpoints.hub_revision import at_commit
from quantizers.checkpoints.sources import HubSource
from serving_checks.server import free_port
from tests.unit.pipelines.test_runner import run_config

FIRST, SECOND = "1" * 40, "2" * 40


class Hub:
    """Knows one model, org/model, whose branches point where a test says."""

    def __init__(self) -> None:
        self.branches: dict[str, str | None] = {"main": FIRST}
        self.asked: list[str] = []
        self.status = 200
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                _, _, revision = self.path.partition("/api/models/org/model/revision/")
                found = hub.status == 200 and revision in hub.branches
                self.send_response(hub.status if hub.status != 200 else 200 if found else 404)
                if not found and hub.status == 200:
                    self.send_header("X-Error-Code", "RevisionNotFound" if revision else "RepoNotFound")
                body = json.dumps({"id": "org/model", "sha": hub.branches.get(revision)} if found else {"error": "no"})
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *ignored: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.url)
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def source(revision: str = "main", model: str = "org/model") -> HubSource:
    return HubSource(kind="hub", id=model, revision=revision)


def test_a_branch_is_the_commit_that_it_points_to(hub: Hub) -> None:
    assert at_commit(source()).revision == FIRST
    hub.branches["main"] = SECOND
    assert at_commit(source()).revision == SECOND


def test_a_commit_is_not_asked_about(hub: Hub) -> None:
    assert at_commit(source(SECOND)).revision == SECOND
    assert hub.asked == []


def test_what_the_hub_does_not_have(hub: Hub) -> None:
    with pytest.raises(RequestError, match="the hub has no revision next of org/model"):
        at_commit(source("next"))
    with pytest.raises(RequestError, match="the hub does not show org/other"):
        at_commit(source(model="org/other"))
    hub.branches["main"] = None
    with pytest.raises(StageError, match="tells no commit of org/model at main"):
        at_commit(source())


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port(None)}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StageError, match="the hub does not tell which commit org/model at main is now") as raised:
        at_commit(source())
    assert (raised.value.blame, raised.value.exit_code) == ("machine", 3)
    assert raised.value.remedy == "try again when it answers, or name a commit, which needs no answer"


def test_a_run_knows_what_was_asked_and_what_that_is(hub: Hub) -> None:
    config = run_config(source={"kind": "hub", "id": "org/model", "revision": "main"})
    run = opened(config, datetime.now(UTC), 0.0)
    assert run.asked_revision == "main"
    assert run.context.config.source == source(FIRST)
    assert run.stages[0].config["source"] == source(FIRST).model_dump(mode="json")
    at_first = opened(run.context.config, datetime.now(UTC), 0.0)
    assert at_first.asked_revision is None and at_first.stages[0] == run.stages[0]
    hub.branches["main"] = SECOND
    assert opened(config, datetime.now(UTC), 0.0).stages[0] != run.stages[0]


@pytest.mark.slow
def test_a_recipe_s_branch_is_planned_as_its_commit(hub: Hub, tmp_path: Path) -> None:
    """The whole command, which knows the hub by its variable only."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "version: 1\nname: moving\nsource: {kind: hub, id: org/model, revision: main}\n"
        "calibration: {source: self, samples: 4, tokens: 16}\nmethods:\n  int8: {method: bnb_int8}\n"
        "evaluation: {suite: demo}\n"
    )

    def planned() -> str:
        command = [sys.executable, "-P", "-m", "pipelines.cli", "plan", str(recipe), "--json"]
        env = {"HF_ENDPOINT": hub.url, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        key = json.loads(done.stdout)["stages"][0]["key_digest"]
        assert isinstance(key, str)
        return key

    first = planned()
    hub.branches["main"] = SECOND
    assert planned() != first
