"""Runs on the nodes of a Ray cluster of this machine, against the same recipe run without: equal digests and scores."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from serving_checks.processes.guard import SCRATCH_VARIABLE, alive
from tests.architecture.repository import ROOT
from tests.e2e.test_pipeline import SUITE
from tests.tiny_llama import make_tiny_llama

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1800)]

RECIPE = """\
version: 1
name: tiny.nodes
source: {kind: folder, path: model}
calibration: {source: self, samples: 4, tokens: 16}
methods:
  rtn: {method: rtn}
  nf4: {method: bnb_nf4}
  gptq: {method: gptq, group_size: 32}
evaluation: {suite: suite.yaml}
serving: {max_model_len: 256, max_num_seqs: 8, kv_cache_gib: 0.25}
load:
  profiles: [{kind: concurrent, levels: [1]}]
  prompts: {short: 16}
  requests: 4
  output_tokens: 8
"""
WAIT_SECONDS = 600.0
"""For what comes for sure, on a machine that is busy."""


class Lab(NamedTuple):
    """What all tests share."""

    folder: Path
    python: Path
    """Of an environment with Ray."""

    def env(self, **variables: str) -> dict[str, str]:
        """Of a process in it."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "QUANTBENCH_"))}
        # Compiled anew, imports take so long that Ray gives its agents up.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        return env | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"} | variables

    def command(self, name: str, *overrides: str) -> list[str]:
        """Of a run in a workspace of that name."""
        command = [str(self.python), "-P", "-m", "pipelines.cli", "run", str(self.folder / "recipe.yaml")]
        command += ["--workspace", str(self.folder / name), "--json"]
        return command + [part for override in overrides for part in ("--set", override)]

    def run(self, name: str, *overrides: str) -> "subprocess.CompletedProcess[str]":
        """Run the recipe to its end."""
        command = self.command(name, *overrides)
        return subprocess.run(
            command, env=self.env(), cwd=self.folder, capture_output=True, text=True, check=False, timeout=1500
        )

    def begun(self, name: str, *overrides: str) -> "subprocess.Popen[str]":
        """Begin to run it."""
        return subprocess.Popen(
            self.command(name, *overrides),
            env=self.env(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Nodes:
    """Ray nodes that run."""

    def __init__(self, process: "subprocess.Popen[str]", folders: list[Path], store: Path) -> None:
        assert process.stdout is not None
        self._process, self.folders = process, folders
        line = next((line for line in process.stdout if '"address"' in line), "{}")
        self.executor = f"executor={{kind: ray, address: '{json.loads(line)['address']}', store: {store}}}"

    def kill(self, number: int) -> None:
        """Kill a node with all its processes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        assert "removed" in next(line for line in self._process.stdout if "removed" in line)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("nodes")
    make_tiny_llama(folder / "model")
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "recipe.yaml").write_text(RECIPE)
    with in_use(environment_named("ray", "cpu"), print) as python:
        yield Lab(folder, python)


@contextmanager
def nodes_of(lab: Lab, name: str, *env: dict[str, str]) -> Iterator[Nodes]:
    """Nodes with workspaces of their own; a mapping of variables each."""
    store = lab.folder / f"{name}-shared"
    store.mkdir(exist_ok=True)
    folders = [lab.folder / f"{name}-{number}" for number in range(len(env))]
    wanted = [{"folder": str(folder), "env": one} for folder, one in zip(folders, env, strict=True)]
    command = [str(lab.python), "-P", str(ROOT / "tests" / "orchestrators" / "ray_program.py"), json.dumps(wanted)]
    log = (lab.folder / f"{name}.log").open("w")
    with (
        log,
        subprocess.Popen(
            command, env=lab.env(), cwd=lab.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            yield Nodes(process, folders, store)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def local(lab: Lab) -> dict[str, Any]:
    """What the recipe gives on this machine, without Ray."""
    return told(lab.run("local"))


def told(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-8000:]
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def facts(record: dict[str, Any]) -> dict[str, tuple[str | None, dict[str, float]]]:
    """Row -> its artifact's digest and its scores."""
    return {
        row["name"]: (
            row["artifact"]["digest"] if row.get("artifact") else None,
            {one["task"]: one["value"] for one in row["measurement"]["evaluation"]["tasks"]},
        )
        for row in record["rows"]
    }


def hosts(record: dict[str, Any]) -> dict[str, str | None]:
    return {outcome["name"]: outcome["node"] for outcome in record["outcomes"]}


def until(found: Callable[[], Any]) -> Any:
    """What `found` gives, once it is something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := found()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)
    return value


def of_node(folder: Path) -> dict[int, bytes]:
    """The processes that came of a node -> the name that each has given itself, or its command."""
    found = {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended just now
            if f"QUANTBENCH_NODE={folder}".encode() in environ.read_bytes().split(b"\0"):
                found[int(environ.parent.name)] = environ.with_name("cmdline").read_bytes()
    return {pid: found[pid] for pid in alive(found)}


def workers_of(folder: Path) -> list[int]:
    """Ray's processes that have a stage in hand."""
    return [pid for pid, name in of_node(folder).items() if name.startswith(b"ray::") and b"on_node" in name]


def stage_processes(folder: Path) -> list[int]:
    """What a node's workers have started: stages, servers, guards, and what those are forked from."""
    return [pid for pid in of_node(folder) if any(one.startswith(f"{SCRATCH_VARIABLE}=") for one in _variables(pid))]


def works_on(folder: Path, stem: str, times: int = 1) -> bool:
    """Whether the stage is in the middle of its work at a node, in the run of that number that came so far."""
    begun = list(folder.glob(f"runs/*/stages/{stem}.result.progress"))
    return len(begun) == times and not list(folder.glob(f"runs/*/stages/{stem}.result.json"))


def _variables(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    return []


def test_two_nodes_give_what_one_machine_gives(lab: Lab, local: dict[str, Any]) -> None:
    with nodes_of(lab, "two", {}, {}) as nodes:
        record = told(lab.run("on-two", nodes.executor))
        assert facts(record) == facts(local)
        assert hosts(record)["prepare"] is None
        assert all(host for name, host in hosts(record).items() if name != "prepare")
        worked = [folder for folder in nodes.folders if list(folder.glob("runs/*/stages/*.result.json"))]
        assert worked == nodes.folders  # both did something
        logs = {path.name for path in (lab.folder / "on-two").glob("runs/*/logs/*.log")}
        assert {"quantize-gptq.log", "measure-gptq.log", "measure-gptq+server.log"} <= logs
        again = told(lab.run("on-two", nodes.executor))
        assert {outcome["how"] for outcome in again["outcomes"]} == {"reused"}
        until(lambda: not [pid for folder in nodes.folders for pid in stage_processes(folder)])


def test_workers_that_are_killed_cost_no_result(lab: Lab, local: dict[str, Any]) -> None:
    with nodes_of(lab, "killed", {}) as nodes:
        run = lab.begun("on-killed", nodes.executor)
        for stem in ("measure-rtn", "quantize-gptq"):
            until(lambda stem=stem: works_on(nodes.folders[0], stem))  # type: ignore[misc]
            for worker in until(lambda: workers_of(nodes.folders[0])):
                os.kill(worker, signal.SIGKILL)
        out, err = run.communicate(timeout=1500)
        assert run.returncode == 0, err[-8000:]
        assert facts(json.loads(out)) == facts(local)


def test_a_node_that_dies_costs_no_result(lab: Lab, local: dict[str, Any]) -> None:
    with nodes_of(lab, "dies", {}, {}, {}) as nodes:
        run = lab.begun("on-dying", nodes.executor)
        until(lambda: stage_processes(nodes.folders[1]))
        nodes.kill(1)
        out, err = run.communicate(timeout=1500)
        assert run.returncode == 0, err[-8000:]
        assert facts(json.loads(out)) == facts(local)
        until(lambda: not stage_processes(nodes.folders[1]))


def test_a_run_that_is_broken_off_three_ways_leaves_nothing_and_goes_on(lab: Lab, local: dict[str, Any]) -> None:
    """By kill -9, by SIGTERM, and by a cluster that goes."""
    with nodes_of(lab, "gone", {}) as nodes:
        (folder,) = nodes.folders
        for times, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
            run = lab.begun("on-gone", nodes.executor)
            until(lambda times=times: works_on(folder, "measure-baseline", times))  # type: ignore[misc]
            assert stage_processes(folder)
            run.send_signal(number)
            _, err = run.communicate(timeout=WAIT_SECONDS)
            assert run.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), err[-8000:]
            until(lambda: not stage_processes(folder))
        run = lab.begun("on-gone", nodes.executor)
        until(lambda: works_on(folder, "measure-baseline", 3))
    _, err = run.communicate(timeout=1500)
    assert run.returncode == 3, err[-8000:]
    assert "the Ray cluster" in err
    assert "finished stages are kept" in err
    with nodes_of(lab, "gone", {}) as nodes:
        record = told(lab.run("on-gone", nodes.executor))
    assert facts(record) == facts(local)
    reused = {outcome["name"] for outcome in record["outcomes"] if outcome["how"] == "reused"}
    assert {"prepare", "soundness"} <= reused


def test_nodes_that_would_give_other_results_are_refused(lab: Lab) -> None:
    """One that lacks Quantbench, and one whose shared folder is another."""
    with nodes_of(lab, "refused", {}, {"PYTHONPATH": str(lab.folder)}) as nodes:
        done = lab.run("on-refused", nodes.executor)
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
    assert "No module named 'pipelines'" in done.stderr
    assert not (lab.folder / "on-refused" / "cache").exists()


def test_no_cluster_is_told(lab: Lab) -> None:
    store = lab.folder / "none-shared"
    store.mkdir(exist_ok=True)
    done = lab.run("on-none", f"executor={{kind: ray, address: '127.0.0.2:9', store: {store}}}")
    assert done.returncode == 3
    assert "the Ray cluster 127.0.0.2:9 does not answer" in done.stderr
