"""`quantbench review` as a user calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pipelines.cli import main
from serving_checks.server import free_port
from tests.review_workspace import put_runs

KEY = "a long and random word"


def test_a_file_is_written_and_its_size_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_runs(tmp_path / "my workspace", 2)
    (tmp_path / "my workspace" / "runs" / "run-1" / "report.html").write_text("<p>a page</p>")
    out = tmp_path / "pages" / "review.html"
    place = ["--workspace", str(tmp_path / "my workspace"), "--no-mlflow"]
    assert main(["review", "--out", str(out), "--run", "run-0", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "bytes": out.stat().st_size}
    html = out.read_text()
    assert "../my%20workspace/runs/run-1/report.html" in html
    assert 'src="http' not in html
    assert main(["review", "--out", str(out), "--series", "no such series", *place]) == 0
    assert "run-0" not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--out", "a.html", "--decide"], "a file decides nothing"),
        (["--key-file", "keys"], "is for decisions"),
        (["--decide"], "QUANTBENCH_REVIEW_KEY is not set"),
        (["--decide", "--key-file", "nowhere"], "nowhere"),
        (["--port", "0"], "there is no port 0"),
        (["--out", "a.html", "--run", "nobody"], "no finished run"),
        (["--out", "a.html", "--price", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTBENCH_REVIEW_KEY", raising=False)
    put_runs(tmp_path / "workspace", 1)
    assert main(["review", *arguments]) == 2
    said = capsys.readouterr().err
    assert problem in " ".join(said.split())
    assert "remedy: " in said and "Traceback" not in said
    assert not (tmp_path / "a.html").exists()


def test_a_workspace_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert main(["review", "--workspace", str(tmp_path / "nowhere"), "--out", str(tmp_path / "a.html")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    """As a process: its key stands in its environment, and neither in its arguments nor in what it says."""
    put_runs(tmp_path, 1)
    port, log = free_port(None), tmp_path / "said"
    argv = [sys.executable, "-P", "-m", "pipelines.cli", "review", "--workspace", str(tmp_path), "--decide"]
    with log.open("wb") as file:
        env = {**os.environ, "QUANTBENCH_REVIEW_KEY": KEY}
        process = subprocess.Popen([*argv, "--port", str(port)], stderr=file, stdout=file, env=env)
    try:
        until = time.monotonic() + 120
        while f"http://127.0.0.1:{port}/" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            html = answer.read().decode()
        assert "run-0" in html and KEY not in html
        data = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/data.json"))
        assert data["deciding"]["csrf_token"] and data["shown"] is None
        process.send_signal(number)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert re.search(r"^ended$", log.read_text(), flags=re.MULTILINE)
    assert KEY not in log.read_text()
