"""The live review page over real HTTP: what is served, to whom, and what is refused. What is decided is in
tests/integration/test_review_decisions.py."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from configs.errors import RequestError
from pipelines.execution.reviewing import mark_of, offered, review_keys
from pipelines.execution.workspace import Workspace
from pipelines.review.collect import Collector
from pipelines.review.server import Decider, Decision, ReviewServer
from registry.contracts.base import Record
from serving_checks.server import free_port
from tests.review_workspace import FIRST, put_run, put_runs

KEY = "a long and random word"
LOADS = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}


class Said(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Live:
    """A server on a port of its own, in a thread."""

    def __init__(self, root: Path, decide: Any = None) -> None:
        workspace = Workspace(root)
        self.root, self.collections = workspace.root, 0
        collector = Collector(workspace.root, workspace.store, workspace.cache)

        def collect(deciding: Any) -> Any:
            self.collections += 1
            return collector.collect(most_bytes=1_000_000, deciding=deciding)

        self.port = free_port(None)
        keys = review_keys(None, {"QUANTBENCH_REVIEW_KEY": KEY})
        self._server = ReviewServer(
            workspace.root,
            self.port,
            lambda: mark_of(workspace),
            collect,
            collector.detail,
            lambda data: f"<html>{data.runs.id}</html>",
            Decider(keys, offered, decide) if decide else None,
        )

    @contextmanager
    def running(self) -> Iterator["Live"]:
        loop = asyncio.new_event_loop()
        started = threading.Event()

        async def serve() -> None:
            runner = web.ServerRunner(self._server.connections)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            started.set()
            await self._ended
            await runner.cleanup()

        self._ended = loop.create_future()
        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        try:
            assert started.wait(30)
            yield self
        finally:
            loop.call_soon_threadsafe(self._ended.set_result, None)
            thread.join()
            loop.close()

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Said:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"host": f"127.0.0.1:{self.port}"} | told)
        response = connection.getresponse()
        found = Said(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        connection.close()
        return found

    def decide(self, changes: dict[str, Any] | None = None, **headers: str) -> Said:
        token = self.ask("/data.json").json["deciding"]["csrf_token"]
        decision = {"action": "approve", "run": "run-0", "name": "int8", "why": "so", "seen": None, "csrf_token": token}
        body = json.dumps(decision | (changes or {})).encode()
        return self.ask("/decide", "POST", body, **(LOADS | headers))


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    put_runs(tmp_path, 2)
    (tmp_path / "runs" / "run-0" / "report.html").write_text("<p>a report</p>")
    with Live(tmp_path).running() as running:
        yield running


@pytest.fixture
def decisions() -> list[Decision]:
    return []


@pytest.fixture
def deciding(tmp_path: Path, decisions: list[Decision]) -> Iterator[Live]:
    class Written(Record):
        kind: str = "approve"

    def decide(decision: Decision) -> Record:
        decisions.append(decision)
        if decision.why == "not allowed":
            raise RequestError("the policy forbids it", remedy="take another")
        return Written()

    put_runs(tmp_path, 1)
    with Live(tmp_path, decide).running() as running:
        yield running


def test_the_page_its_data_a_run_and_its_report(live: Live) -> None:
    page = live.ask("/")
    assert (page.status, page.body) == (200, b"<html>['run-1', 'run-0']</html>")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert live.ask("/", "HEAD").status == 200
    data = live.ask("/data.json")
    assert data.json["runs"]["id"] == ["run-1", "run-0"]
    assert data.json["deciding"] is None
    assert live.ask("/run.json?id=run-0").json["models"][1]["name"] == "int8"
    report = live.ask("/runs/run-0/report.html")
    assert (report.status, report.body) == (200, b"<p>a report</p>")
    assert "sandbox" in report.headers["content-security-policy"]


def test_data_are_collected_again_where_something_changed_alone(live: Live) -> None:
    first = live.ask("/data.json")
    same = live.ask("/data.json", if_none_match=first.headers["etag"])
    assert (same.status, same.body, live.collections) == (304, b"", 1)
    put_run(live.root, "run-2", FIRST)
    changed = live.ask("/data.json", if_none_match=first.headers["etag"])
    assert (changed.status, live.collections) == (200, 2)
    assert "run-2" in changed.json["runs"]["id"]
    (live.root / "shadow" / "one").mkdir(parents=True)
    (live.root / "shadow" / "one" / "replay.json").write_text("{")
    assert "one" in [notice["about"] for notice in live.ask("/data.json").json["notices"]]


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../../etc/passwd",
        "/runs/%2e%2e%2f%2e%2e%2fetc/report.html",
        "/runs/..%2frun-0/report.html",
        "/runs/run-1/report.html",
        "/runs/nobody/report.html",
        "/runs/run-0/result.json",
        "/run.json",
        "/run.json?id=../run-0",
        "/nothing",
        "/" + "a" * 4000,
    ],
)
def test_what_is_not_there_is_not_found_whatever_it_is_called(live: Live, path: str) -> None:
    found = live.ask(path)
    assert found.status == 404
    assert found.json["remedy"]


def test_a_report_that_is_no_file_is_not_followed(live: Live) -> None:
    report = live.root / "runs" / "run-1" / "report.html"
    report.symlink_to("/etc/passwd")
    assert live.ask("/runs/run-1/report.html").status == 404
    report.unlink()
    os.mkfifo(report)
    assert live.ask("/runs/run-1/report.html").status == 404, "and nobody is waited for"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1", ""])
def test_a_name_that_was_pointed_here_is_refused(live: Live, host: str) -> None:
    found = live.ask("/data.json", host=host.format(port=live.port))
    assert found.status == 421
    assert b"runs" not in found.body


def test_a_page_without_decisions_decides_nothing(live: Live) -> None:
    found = live.ask("/decide", "POST", b"{}", **LOADS)
    assert found.status == 403
    assert "--decide" in found.json["remedy"]
    assert live.ask("/", "POST", b"").status == 405


def test_a_decision_is_handed_over_as_it_was_sent(deciding: Live, decisions: list[Decision]) -> None:
    said = deciding.decide({"why": "  it is better  "})
    assert said.status == 200
    assert said.json["kind"] == "approve"
    (one,) = decisions
    assert (one.action, one.run, one.name, one.why) == ("approve", "run-0", "int8", "it is better")


def test_what_the_checks_forbid_comes_back_with_its_remedy(deciding: Live) -> None:
    said = deciding.decide({"why": "not allowed"})
    assert said.status == 409
    assert said.json == {"message": "the policy forbids it", "remedy": "take another"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer another key of that length"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"content_type": "text/plain"}, 415),
    ],
)
def test_who_may_not_decide_is_refused(
    deciding: Live, decisions: list[Decision], headers: dict[str, str], status: int
) -> None:
    if "content_type" in headers:
        headers = {"content-type": headers["content_type"]}
    said = deciding.decide(**headers)
    assert said.status == status, said
    assert said.json["message"] and said.json["remedy"]
    assert KEY.encode() not in said.body
    assert not decisions


def test_the_page_s_own_origin_may(deciding: Live) -> None:
    own = f"http://127.0.0.1:{deciding.port}"
    assert deciding.decide(origin=own, sec_fetch_site="same-origin").status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"csrf_token": "another"},
        {"csrf_token": ""},
        {"csrf_token": "ä"},
        {"why": ""},
        {"why": " \n "},
        {"why": "a" * 2001},
        {"why": None},
        {"action": "delete"},
        {"unknown": 1},
        {"run": "a" * 251},
    ],
)
def test_what_is_no_decision_is_refused(deciding: Live, decisions: list[Decision], changes: dict[str, Any]) -> None:
    said = deciding.decide(changes)
    assert said.status == (403 if "csrf_token" in changes else 400)
    assert said.json["message"] and said.json["remedy"]
    assert not decisions


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"action": NaN}', b"\xff", b'{"why": "a", "why": "b"}'])
def test_bad_json_is_refused(deciding: Live, decisions: list[Decision], body: bytes) -> None:
    assert deciding.ask("/decide", "POST", body, **LOADS).status == 400
    assert not decisions


def test_a_hundred_megabytes_are_refused_unread(deciding: Live) -> None:
    """Whether they are announced or come in pieces."""
    with socket.create_connection(("127.0.0.1", deciding.port), timeout=60) as client:
        head = f"POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{deciding.port}\r\nauthorization: Bearer {KEY}\r\n"
        client.sendall(f"{head}content-type: application/json\r\ncontent-length: 104857600\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", deciding.port), timeout=60) as client:
        client.sendall(f"{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        piece = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
        try:
            for _ in range(3200):
                client.sendall(piece)
        except ConnectionError:
            return  # it hung up before all of it was sent
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_after_some_wrong_keys_none_is_looked_at(deciding: Live, decisions: list[Decision]) -> None:
    for _ in range(5):
        assert deciding.decide(authorization="Bearer a wrong one").status == 401
    said = deciding.decide()
    assert said.status == 429
    assert not decisions


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "holds no line"), ("a plain key", "holds no line"), (f"sha256:{'a' * 64}\nsha256:short", "holds no line")],
)
def test_a_key_file_holds_hashes(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(RequestError, match=problem) as error:
        review_keys(tmp_path / "keys")
    assert "a plain key" not in str(error.value)


def test_a_key_is_there_and_long_enough(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not set"):
        review_keys(None, {})
    with pytest.raises(RequestError, match="has 5 characters") as error:
        review_keys(None, {"QUANTBENCH_REVIEW_KEY": "short"})
    assert "short" not in str(error.value)
    (tmp_path / "keys").write_text(f"sha256:{'a' * 64}\n")
    assert review_keys(tmp_path / "keys") == [f"sha256:{'a' * 64}"]


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with Live(tmp_path).running() as running, pytest.raises(RequestError):
        free_port(running.port)
