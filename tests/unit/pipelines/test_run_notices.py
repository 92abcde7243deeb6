"""Commands and webhooks that are told of a run: real ones, and what they may do wrong."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pipelines.execution.run_notices import check_notices, send_notices
from pipelines.execution.tell_command import tell_command
from pipelines.recipe.notify_config import NoticeConfig
from pipelines.records.run_outcome import RunOutcome, ToldRegression
from serving_checks.server import free_port

REGRESSED = RunOutcome(
    recipe="weekly",
    recipe_file=Path("weekly.yaml"),
    workspace=Path("/w"),
    status="finished",
    exit_code=0,
    why="finished: 3 done",
    started_at=datetime(2026, 5, 1, tzinfo=UTC),
    seconds=1.0,
    verdicts={"int8": "pass"},
    verdicts_before={"int8": "pass"},
    regressions=[ToldRegression(artifact="int8", quantity="knowledge", text="70 % after 80 %")],
)
LATE = 60.0
"""Seconds; what a test waits for comes long before."""


def notice(**fields: Any) -> NoticeConfig:
    made: NoticeConfig = TypeAdapter(NoticeConfig).validate_python({"on": ["regression"]} | fields)
    return made


def told(one: NoticeConfig, outcome: RunOutcome = REGRESSED) -> list[str]:
    """What is warned of."""
    warnings: list[str] = []
    send_notices([one], outcome, warnings.append)
    return warnings


class Hook:
    """A web server that keeps what it is sent, and answers as a test says."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.status, self.answer_headers, self.body = 204, dict[str, str](), b""
        self.silent, self.over = False, threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.headers.append(dict(self.headers))
                hook.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                if hook.silent:
                    hook.over.wait(LATE)
                    return
                self.send_response(hook.status)
                for name, value in hook.answer_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(hook.body)

            do_GET = do_POST

            def log_message(self, *ignored: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/s3cr3t-path"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.over.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_a_webhook_gets_the_outcome_and_the_secret(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "Bearer s3cr3t")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # none stands before this machine itself
    one = notice(kind="webhook", url=hook.url, header={"variable": "HOOK_TOKEN"})
    assert told(one) == []
    (body,) = hook.bodies
    assert RunOutcome.model_validate_json(body) == REGRESSED
    assert hook.headers[0]["Authorization"] == "Bearer s3cr3t"
    assert hook.headers[0]["Content-Type"] == "application/json"


def test_an_address_may_be_a_secret(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    one = notice(kind="webhook", url_variable="HOOK_URL")
    assert told(one) == [
        "`notify`: webhook of HOOK_URL was not told: the environment variable HOOK_URL is not set: it holds the"
        " webhook's address"
    ]
    monkeypatch.setenv("HOOK_URL", hook.url)
    assert told(one) == [] and len(hook.bodies) == 1
    hook.status = 500
    assert told(one) == ["`notify`: webhook of HOOK_URL was not told: it answered HTTP 500"]
    monkeypatch.setenv("HOOK_URL", "http://hooks.example/s3cr3t-path")
    (warning,) = told(one)
    assert "https is wanted" in warning and "s3cr3t" not in warning


def test_only_those_who_want_to_know_are_told(hook: Hook) -> None:
    one = notice(kind="webhook", url=hook.url, on=["failure", "verdict"])
    assert told(one) == []
    for status in ("unchanged", "left", "interrupted"):
        everything = notice(kind="webhook", url=hook.url, on=["failure", "verdict", "regression", "finished"])
        assert told(everything, REGRESSED.model_copy(update={"status": status})) == []
    assert hook.bodies == []
    assert told(one, REGRESSED.model_copy(update={"status": "refused", "exit_code": 2})) == []
    assert told(one, REGRESSED.model_copy(update={"verdicts": {"int8": "fail"}})) == []
    assert len(hook.bodies) == 2


def test_a_redirect_is_not_followed(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cr3t")
    for status in (301, 302, 303, 307, 308):
        hook.status, hook.answer_headers = status, {"Location": f"{hook.url}/elsewhere"}
        one = notice(kind="webhook", url=hook.url, header={"name": "X-Token", "variable": "HOOK_TOKEN"})
        (warning,) = told(one)
        assert f"it answered HTTP {status}, which is a redirect and is not followed" in warning
        assert "s3cr3t" not in warning
    assert len(hook.bodies) == 5


def test_a_server_that_says_nothing_is_given_up_on(hook: Hook) -> None:
    hook.silent = True
    (warning,) = told(notice(kind="webhook", url=hook.url, timeout_seconds=0.3))
    assert warning == "`notify`: webhook 127.0.0.1 was not told: it did not answer within 0.3 s"


def test_an_answer_without_end_is_not_read(hook: Hook) -> None:
    hook.status, hook.body = 200, b"x" * (8 << 20)
    assert told(notice(kind="webhook", url=hook.url)) == []


def test_a_host_that_is_not_there() -> None:
    (warning,) = told(notice(kind="webhook", url=f"http://127.0.0.1:{free_port(None)}/s3cr3t"))
    assert "webhook 127.0.0.1 was not told: it does not answer: " in warning and "s3cr3t" not in warning
    (warning,) = told(notice(kind="webhook", url="https://no-such-host.invalid/s3cr3t", timeout_seconds=5))
    assert warning.startswith("`notify`: webhook no-such-host.invalid was not told: ") and "s3cr3t" not in warning


def test_what_answers_is_no_web_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        port = server.getsockname()[1]
        (warning,) = told(notice(kind="webhook", url=f"http://127.0.0.1:{port}/"))
        thread.join()
    assert "it does not answer as a web server does: " in warning


def test_a_secret_that_is_no_header_s_value_is_not_shown(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    one = notice(kind="webhook", url=hook.url, header={"variable": "HOOK_TOKEN"})
    warnings: list[str] = []
    check_notices([one], warnings.append)
    assert warnings == [
        "`notify`: webhook 127.0.0.1 will not be told: the environment variable HOOK_TOKEN is not set: it holds the"
        " header's value"
    ]
    for value in ("s3cr3t\nX-Other: 1", "s3cr3t€"):
        monkeypatch.setenv("HOOK_TOKEN", value)
        (warning,) = told(one)
        assert "holds is no value of a header" in warning and "s3cr3t" not in warning
    assert hook.bodies == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "webhook", "url": "http://hooks.example/"}, "https is wanted"),
        ({"kind": "webhook", "url": "ftp://hooks.example/"}, "https is wanted"),
        ({"kind": "webhook", "url": "file:///etc/passwd"}, "it is no address"),
        ({"kind": "webhook", "url": "https://user:pass@hooks.example/"}, "holds no password"),
        ({"kind": "webhook", "url": "https://[::1/"}, "it is no address"),
        ({"kind": "webhook", "url": "https://hooks.example:99999/"}, "it is no address"),
        ({"kind": "webhook"}, "either `url` or `url_variable`"),
        ({"kind": "webhook", "url": "https://a.example/", "url_variable": "A"}, "either `url` or `url_variable`"),
        ({"kind": "command", "command": []}, "at least 1"),
        ({"kind": "command", "command": ["true"], "on": []}, "at least 1"),
        ({"kind": "command", "command": ["true"], "on": ["success"]}, "'failure', 'verdict', 'regression'"),
        ({"kind": "command", "command": ["true"], "timeout_seconds": 0}, "greater than 0"),
        ({"kind": "mail", "to": "me@example"}, "does not match any of the expected tags"),
    ],
)
def test_a_recipe_that_would_tell_nobody_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        notice(**fields)


def test_a_command_gets_the_outcome_on_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "a file; rm -rf $HOME"
    assert told(notice(kind="command", command=["tee", str(file)])) == []
    assert json.loads(file.read_text())["regressions"][0]["quantity"] == "knowledge"


def test_a_command_that_fails_says_why() -> None:
    why = tell_command([sys.executable, "-c", "import sys; sys.exit('nobody\\nlistens')"], "{}", LATE)
    assert why == f"{sys.executable} ended with exit code 1: nobody listens"
    why = tell_command(["no-such-program"], "{}", LATE)
    assert why is not None and "exit code 127" in why and "not found" in why


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """One of them in a session of its own, and all of them deaf to SIGTERM."""
    pids = tmp_path / "pids"
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if not child: os.setsid()\n"
        f"with open({str(pids)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        "while True: time.sleep(1)\n"
    )
    why = tell_command([sys.executable, "-c", program], "{}", 2.0)
    assert why is not None and "did not end within 2 s and was ended" in why
    found = [int(line) for line in pids.read_text().split()]
    assert len(found) == 2
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]


def test_what_a_command_leaves_running_goes_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert tell_command(["/bin/sh", "-c", f"sleep 600 & echo $! > {pid}"], "{}", LATE) is None
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_command_may_print_without_end_and_need_not_read() -> None:
    program = "import sys\nfor _ in range(64): print('x' * (1 << 20))\nsys.exit('the last word')"
    why = tell_command([sys.executable, "-c", program], "x" * (4 << 20), LATE)
    assert why is not None and why.endswith("the last word") and len(why) < 500
    began = time.monotonic()
    why = tell_command(["yes"], "{}", 0.5)
    assert why == "yes did not end within 0.5 s and was ended"
    assert time.monotonic() - began < LATE
