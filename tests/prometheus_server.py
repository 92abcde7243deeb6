"""A real Prometheus server on loopback that looks at one gateway, and Prometheus' own tool."""

import json
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port
from serving_checks.transport.http_json import get_text

JOB = "quantbench-gateway"
"""As configs/shadow/alerts.yaml has it."""


class Prometheus:
    """One that runs."""

    def __init__(self, base: str) -> None:
        self.base = base

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now: label sets with a value each."""
        return list(self._get("query", query=expression)["result"])

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """What it was: label sets with values over time."""
        return list(self._get("query_range", query=expression, start=start, end=end, step=step)["result"])

    def rules(self) -> list[dict[str, Any]]:
        """The alerts that it judges."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **asked: Any) -> dict[str, Any]:
        answer = json.loads(get_text(f"{self.base}/api/v1/{what}?{urllib.parse.urlencode(asked)}"))
        assert answer["status"] == "success", answer
        return dict(answer["data"])


@contextmanager
def prometheus(folder: Path, target: str, rules: Path | None = None) -> Iterator[Prometheus]:
    """One that reads `target`, a host with its port, twice a second."""
    program = _program("prometheus")
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target]}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    base = f"http://127.0.0.1:{free_port(None)}"
    argv = [program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    argv += [f"--web.listen-address={base.removeprefix('http://')}", "--query.lookback-delta=10s"]
    with Supervised(argv, log_file=folder / "prometheus.log") as server:
        deadline = time.monotonic() + 60
        while True:
            try:
                get_text(f"{base}/-/ready", timeout_seconds=2)
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, server.log_tail(40)
                time.sleep(0.1)
        yield Prometheus(base)


def promtool(*arguments: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run Prometheus' tool; what it says."""
    done = subprocess.run(
        [_program("promtool"), *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not here: `make services` installs it"
    return found
