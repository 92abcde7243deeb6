"""The gateway follows the ledger: promoted, taken back, and never without an answer. Servers are stand-ins."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from pipelines.execution import served_aliases
from pipelines.execution.gateway import PAIRS_FILE, _Serving, begun, open_gateway, run_gateway
from pipelines.execution.workspace import Workspace
from pipelines.recipe.gateway_config import GatewayConfig
from registry.contracts import Endpoint
from registry.contracts.gateway import ADDRESS_FILE
from registry.held_file import read_held
from registry.ledger import Entry, Ledger
from registry.pair_database import read_pair_database
from registry.sealed import write_sealed
from registry.tracking.address import sqlite_uri
from serving_checks.processes.pulse import Patience
from serving_checks.server import free_port, serve
from serving_checks.transport.http_json import get_text
from tests.fake_servers import fake_server
from tests.scripted_server import Scripted, scripted_server, text_events
from tests.unit.pipelines.report_records import report_record

pytestmark = pytest.mark.slow

Asking = Callable[[], Any]


AT = {"engine": "openai", "base_url": "http://127.0.0.1:9", "served_model_name": "model"}


class Lab:
    """A workspace with three artifacts, a ledger, and servers that say which version they are."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, ledger: str | None = None) -> None:
        self.workspace = Workspace(folder / "workspace")
        self.workspace.create()
        run_dir = self.workspace.root / "runs" / "one"
        run_dir.mkdir()
        run = report_record(run_dir)
        run = run.model_copy(update={"config": run.config | {"registry": {"ledger": ledger}}})
        write_sealed(run_dir / "result.json", run)
        self.model = str(run.config["name"])
        self.ledger = Ledger(ledger or sqlite_uri(self.workspace.root / "ledger.db"))
        self.artifacts = {version: self._stored(version) for version in ("1", "2", "3")}
        self.port = free_port(None)
        self.told: list[str] = []
        self.says: dict[str, str] = {}
        """What a version answers, where it is not its number."""
        self.up: list[str] = []
        """Versions whose servers run."""
        self.started: list[str] = []
        """Versions whose servers were started, one for each time."""
        self.ended: set[str] = set()
        """Versions whose servers ended by themselves."""
        self.refused = ""
        """The version that cannot be served."""
        self.given_up: list[str] = []
        """Versions whose start was broken off."""
        self.may_start = threading.Event()
        self.may_start.set()
        self.config_file = folder / "gateway.yaml"
        listen = f"listen: {{port: {self.port}}}\nfollow_seconds: 0.02\n"
        self.config_file.write_text(f"version: 1\nname: live\nmodel: demo\n{listen}")
        monkeypatch.setattr(served_aliases, "checked_folder", self._checked)
        monkeypatch.setattr(served_aliases, "served", self._serve)

    def _stored(self, version: str) -> str:
        with self.workspace.store.staging() as staging:
            (staging / "model.safetensors").write_text(version)
            return self.workspace.store.put(staging).digest

    def _checked(self, model: Path, *_: object) -> Any:
        return SimpleNamespace(model=model, serving=None, dtype="float32")

    @contextmanager
    def _serve(self, request: Any, log: Path, patience: Patience) -> Iterator[Any]:
        version = (request.model_dir / "model.safetensors").read_text()
        if version == self.refused:
            raise StageError(f"version {version} does not start", remedy="none")
        while not self.may_start.wait(0.01):
            if patience.given_up is not None and patience.given_up.is_set():
                self.given_up.append(version)
                raise StageError("nobody waits for it any more", remedy="none")
        with scripted_server(lambda path, body: self.answered(version, body)) as (endpoint, _):
            self.up.append(version)
            self.started.append(version)
            served = Endpoint(
                base_url=endpoint.base_url, served_model_name=f"v{version}", model_path="", max_model_len=512
            )
            yield SimpleNamespace(endpoint=served, watch=SimpleNamespace(over=lambda _: version in self.ended))
            self.up.remove(version)

    def answered(self, version: str, body: dict[str, Any]) -> Scripted:
        said = self.says.get(version, f"from {version}")
        if body.get("stream"):
            return Scripted(text_events(*said), pause_seconds=0.05)
        return Scripted([{"choices": [{"text": said, "finish_reason": "stop"}]}], end="finish")

    def move(self, alias: str, version: str | None) -> None:
        """As `quantbench registry` does it."""
        last = self.ledger.last(self.model, f"alias:{alias}")
        entry = Entry(
            model=self.model,
            stream=f"alias:{alias}",
            sequence=0,
            kind="promote",
            at=datetime.now(UTC),
            who="a tester",
            why="",
            version_to=version,
            artifact=self.artifacts[version] if version else None,
        )
        self.ledger.append(entry, last)

    @asynccontextmanager
    async def running(self, *overrides: str) -> AsyncIterator[aiohttp.ClientSession]:
        opened = open_gateway(self.config_file, list(overrides), self.workspace)
        directory, told = self.workspace.replay_dir(opened.config.name), list[str]()
        record = begun(opened.config, directory)

        def tell(text: str) -> None:
            told.append(text)
            self.told.append(text)

        serving = _Serving(opened, self.workspace, directory, record, tell)
        task = asyncio.create_task(serving.run())
        try:
            async with asyncio.timeout(180), aiohttp.ClientSession() as session:
                await self.until(lambda: any("answers as demo" in text for text in told), task)
                yield session
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, holds: Asking, task: asyncio.Task[None] | None = None) -> None:
        while not holds():
            assert task is None or not task.done(), task.exception()
            await asyncio.sleep(0.01)

    async def ask(self, session: aiohttp.ClientSession, user: str = "", port: int | None = None) -> tuple[int, str]:
        url = f"http://127.0.0.1:{port or self.port}/v1/completions"
        async with session.post(url, json={"model": "demo", "prompt": "one", "user": user}) as answer:
            body = await answer.json(content_type=None)
            return answer.status, body["choices"][0]["text"] if answer.status == 200 else json.dumps(body)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_it_follows_the_ledger_and_keeps_pairs(one: Lab) -> None:
    async def run() -> None:
        one.move("champion", "1")
        address = one.workspace.replay_dir("live") / ADDRESS_FILE
        async with one.running() as session:
            assert await one.ask(session) == (200, "from 1")
            assert read_held(address) == f"http://127.0.0.1:{one.port}/"
            one.move("shadow", "2")
            await one.until(lambda: one.up == ["1", "2"])
            await asyncio.sleep(0.1)
            assert await one.ask(session) == (200, "from 1"), "the shadow answers nobody"
            # What was the shadow becomes the champion: its server is there already.
            one.move("champion", "2")
            await one.until(lambda: "version 2 answers clients" in one.told)
            assert await one.ask(session) == (200, "from 2")
            await one.until(lambda: one.up == ["2"])
            assert one.started == ["1", "2"], "once each"
            # And back, as a rollback does.
            one.move("champion", "1")
            await one.until(lambda: "version 1 answers clients" in one.told)
            assert await one.ask(session) == (200, "from 1")
        assert one.up == [], "none is left behind"
        assert read_held(address) is None

    asyncio.run(run())
    folder = one.workspace.root / "shadow" / "live"
    (first, *_) = read_pair_database(folder / PAIRS_FILE).to_pylist()
    assert (first["same"], first["source"], first["prompt"]) == (False, "mirror", "")


def test_what_cannot_be_served_changes_nothing_for_clients(one: Lab) -> None:
    async def run() -> None:
        one.move("champion", "1")
        one.refused = "3"
        async with one.running() as session:
            one.move("champion", "3")
            await one.until(lambda: "not followed: version 3 does not start" in one.told)
            assert await one.ask(session) == (200, "from 1")
            one.move("champion", None)
            await asyncio.sleep(0.1)
            assert await one.ask(session) == (200, "from 1"), "no champion is no reason to answer nobody"
            one.refused = ""
            one.move("champion", "3")
            await one.until(lambda: "version 3 answers clients" in one.told)
            assert await one.ask(session) == (200, "from 3")

    asyncio.run(run())


def test_clients_go_on_while_champions_come_and_go(one: Lab) -> None:
    async def run() -> None:
        one.move("champion", "1")
        answers: list[tuple[int, str]] = []
        async with one.running() as session:

            async def client() -> None:
                while len(answers) < 400 or not any("version 3" in text for text in one.told):
                    answers.append(await one.ask(session))

            clients = [asyncio.create_task(client()) for _ in range(4)]
            for version in ("2", "1", "3"):
                before = len(answers)
                await one.until(lambda before=before: len(answers) > before + 20)
                one.move("champion", version)
                await one.until(lambda version=version: one.up == [version])
            await asyncio.gather(*clients)
        assert {status for status, _ in answers} == {200}
        assert {text for _, text in answers} == {"from 1", "from 2", "from 3"}

    asyncio.run(run())


def test_a_rollback_finds_the_server_that_still_answers(one: Lab) -> None:
    async def run() -> None:
        one.move("champion", "1")
        async with one.running() as session:
            one.move("shadow", "2")
            await one.until(lambda: "version 2 is served" in one.told)
            url, body = (
                f"http://127.0.0.1:{one.port}/v1/completions",
                {"model": "demo", "prompt": "one", "stream": True},
            )
            async with session.post(url, json=body) as stream:
                await stream.content.readline()
                one.move("champion", "2")
                await one.until(lambda: "version 2 answers clients" in one.told)
                assert await one.ask(session) == (200, "from 2")
                one.told.clear()
                one.move("champion", "1")
                await one.until(lambda: "version 1 answers clients" in one.told)
                assert await one.ask(session) == (200, "from 1")
                assert (await stream.read()).endswith(b"data: [DONE]\n\n")
            await asyncio.sleep(0.2)
            assert (one.up, one.started) == (["1", "2"], ["1", "2"]), "nothing was stopped, nor started again"

    asyncio.run(run())


def test_what_is_still_starting_holds_up_nothing(one: Lab) -> None:
    """A champion that starts for minutes, and takes back; a shadow that does not start."""

    async def run() -> None:
        one.move("champion", "1")
        async with one.running() as session:
            one.may_start.clear()
            one.move("champion", "3")
            await one.until(lambda: "starting version 3" in one.told)
            one.move("champion", "1")
            one.move("shadow", "2")
            await one.until(lambda: "starting version 2" in one.told)
            assert await one.ask(session) == (200, "from 1")
            await one.until(lambda: one.given_up == ["3"])
            one.may_start.set()
            await one.until(lambda: one.up == ["1", "2"])
            one.refused = "3"
            one.move("shadow", "3")
            await one.until(lambda: "not followed: version 3 does not start" in one.told)
            one.move("champion", "2")
            await one.until(lambda: "version 2 answers clients" in one.told)
            assert await one.ask(session) == (200, "from 2"), "a shadow's fault is no champion's"
            assert one.told.count("not followed: version 3 does not start") <= 2, "once for each move"
            # As long as it has not ended, it would be called back and not started.
            await one.until(lambda: one.up == ["2"])
            one.refused = ""
            one.may_start.clear()
            one.told.clear()
            one.move("shadow", "1")
            await one.until(lambda: "starting version 1" in one.told)
        assert (one.up, one.given_up) == ([], ["3", "1"]), "and an end is one at once"

    asyncio.run(run())


def test_a_ledger_that_is_away_changes_nothing(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise StageError("the ledger is away", remedy="wait")

    async def run() -> None:
        one.move("champion", "1")
        async with one.running() as session:
            one.move("shadow", "2")
            await one.until(lambda: "version 2 is served" in one.told)
            with monkeypatch.context() as patch:
                patch.setattr(Ledger, "last", away)
                await one.until(lambda: "not followed: the ledger is away" in one.told)
                await asyncio.sleep(0.2)
                assert await one.ask(session) == (200, "from 1")
                assert one.told.count("not followed: the ledger is away") == 1
            await asyncio.sleep(0.1)
            with monkeypatch.context() as patch:
                patch.setattr(Ledger, "last", away)
                await one.until(lambda: one.told.count("not followed: the ledger is away") == 2)
            one.move("champion", "2")
            await one.until(lambda: "version 2 answers clients" in one.told)

    asyncio.run(run())


def test_a_server_that_ended_is_started_anew(one: Lab) -> None:
    async def run() -> None:
        one.move("champion", "1")
        one.move("shadow", "2")
        async with one.running() as session:
            await one.until(lambda: one.up == ["1", "2"])
            for version in ("1", "2"):
                one.told.clear()
                one.ended.add(version)
                await one.until(lambda version=version: f"starting version {version}" in one.told)
                one.ended.clear()
                await one.until(lambda version=version: f"version {version} is served" in one.told)
                assert await one.ask(session) == (200, "from 1")
        assert one.up == []

    asyncio.run(run())


def test_it_starts_again_into_the_same_state(one: Lab) -> None:
    async def run() -> None:
        one.move("champion", "1")
        async with one.running():
            one.move("champion", "2")
            await one.until(lambda: "version 2 answers clients" in one.told)
        one.told.clear()
        async with one.running() as session:
            assert await one.ask(session) == (200, "from 2")

    asyncio.run(run())


def test_a_server_that_runs_already_is_asked_where_it_is(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_aliases, "served", serve)
    monkeypatch.setattr(
        served_aliases,
        "checked_folder",
        lambda model, serving, *_: SimpleNamespace(model=model, serving=serving, dtype="float32"),
    )
    digest = one.artifacts["1"].removeprefix("sha256:")[:12]

    async def run(base_url: str) -> None:
        one.move("champion", "1")
        at = f"attach={{{digest}: {{engine: openai, base_url: '{base_url}', served_model_name: model}}}}"
        async with one.running(at) as session:
            status, text = await one.ask(session)
            assert (status, bool(text)) == (200, True)

    with fake_server(one.workspace.root, "--tpot-seconds", "0") as endpoint:
        asyncio.run(run(endpoint.base_url))
        get_text(f"{endpoint.base_url}/v1/models", timeout_seconds=5)


@pytest.mark.parametrize(
    ("attach", "says"),
    [
        ({"9f3c2a": {"engine": "vllm"}}, "is a server that runs already"),
        ({"9f3c2a": AT, "9f3c2a1b": AT}, "may be one artifact"),
        ({"nine": AT}, "should match pattern"),
    ],
)
def test_servers_that_cannot_be_told_apart(attach: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GatewayConfig.model_validate({"version": 1, "name": "live", "model": "demo", "attach": attach})


def test_refused_before_anything_is_started(one: Lab) -> None:
    with pytest.raises(RequestError, match=r"nothing of .* is champion"):
        open_gateway(one.config_file, [], one.workspace)
    one.move("champion", "1")
    with pytest.raises(RequestError, match="names a server that runs already"):
        serving = '{"engine": "openai", "base_url": "http://127.0.0.1:1", "served_model_name": "x"}'
        open_gateway(one.config_file, [f"serving={serving}"], one.workspace)
    with pytest.raises(RequestError, match="other machines"):
        open_gateway(one.config_file, ["listen.host=0.0.0.0"], one.workspace)
    with (
        scripted_server(lambda path, body: Scripted()) as (endpoint, _),
        pytest.raises(RequestError, match="cannot be used"),
    ):
        open_gateway(one.config_file, [f"listen.port={endpoint.base_url.rpartition(':')[2]}"], one.workspace)


def test_another_verdict_is_not_taken_for_the_frozen_one(one: Lab) -> None:
    one.move("champion", "1")
    directory = one.workspace.replay_dir("live")
    for _ in range(2):
        begun(open_gateway(one.config_file, [], one.workspace).config, directory)
    other = open_gateway(one.config_file, ["verdict.alpha=0.2"], one.workspace)
    with pytest.raises(RequestError, match="judged by another `verdict`"):
        run_gateway(other, one.workspace, one.told.append)
