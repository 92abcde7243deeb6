"""Stages on nodes: what goes over, comes back and is refused. The cluster is this process, stages are stand-ins."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from pydantic import ValidationError

from configs.errors import RequestError
from evals.suites.resolve import load_suite
from pipelines.execution import node_work, ray_work, stage_work
from pipelines.execution import run as runs
from pipelines.execution.ray_cluster import ClusterGone, RayCluster
from pipelines.execution.ray_work import CheckedCluster
from pipelines.execution.recording import Ended, Recorder
from pipelines.execution.run import execute_run
from pipelines.execution.workspace import Workspace
from pipelines.planning.concurrency import sharing_of_nodes, startable, waits_of
from pipelines.planning.context import JobContext
from pipelines.planning.device import MachineRecord
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import stages_of
from pipelines.recipe.executor_config import RayExecutor
from pipelines.recipe.run_config import RunConfig
from pipelines.records.run_record import RunRecord
from pipelines.stage_programs.ray_broker import Call, ClusterNode
from registry.store import Store
from tests.architecture.repository import ROOT
from tests.unit.pipelines.test_run import Silent
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, run_config
from tests.walks import take, walk_of

NODE = ClusterNode(node_id="a", name="10.0.0.1", cpus=2, gpus=0)
ADDRESSES = ["auto", "local", "ray://head:10001", "10.0.0.1:6379", "[::1]:6379"]


class OneNode(RayCluster):
    """A cluster whose node is this process; one stage at a time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.dies_at, self.gone = "", False
        self._lock = threading.Lock()

    def nodes(self) -> list[ClusterNode]:
        return [NODE, NODE]

    def call(self, call: Call, given_up: threading.Event, on_progress: Callable[[str], None]) -> str:
        with self._lock:
            self.calls.append(call)
            self.gone |= json.loads(call.text).get("name") == self.dies_at
            if self.gone:
                raise ClusterGone("the Ray cluster auto is gone: it said nothing", remedy="start it again")
            return str(getattr(node_work, call.function)(call.text, on_progress))


class Lab:
    """A run's machine, a node, and what they share."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(folder / "executed.log"))
        monkeypatch.setenv(node_work.NODE_FOLDER_VARIABLE, str(folder / "node"))
        monkeypatch.setattr(stage_work, "STAGE_MODULES", dict.fromkeys(stage_work.STAGE_MODULES, "tests.fake_stages"))
        monkeypatch.setattr(runs, "check_rules", lambda *_: None)
        monkeypatch.setattr(runs, "import_ahead", lambda: None)
        monkeypatch.setattr(Recorder, "start", lambda self: None)
        monkeypatch.setattr(Recorder, "record", lambda *_: Ended("nowhere"))
        monkeypatch.setattr(node_work, "detect_machine", lambda _: self.machine)
        monkeypatch.setattr(ray_work, "RayCluster", self._connected)
        self.machine, self.cluster = MACHINE, OneNode()
        self.shared, self.node = folder / "shared", Workspace(folder / "node")
        self.shared.mkdir()
        self.workspace = Workspace(folder / "workspace")
        self.workspace.create()

    def config(self, **executor: object) -> RunConfig:
        asked = {"kind": "ray", "store": str(self.shared), **executor}
        return run_config(executor=asked, fork_servers=False)

    def opened(self, config: RunConfig) -> OpenRun:
        stages = stages_of(config, MACHINE, FINGERPRINTS)
        context = JobContext(config, MACHINE, load_suite("demo"), ["a text of the suite"])
        return OpenRun(context, stages, datetime.now(UTC), 0.0, {}, FINGERPRINTS)

    def run(self, config: RunConfig | None = None, workspace: Workspace | None = None, **behaviours: str) -> RunRecord:
        told = {name.replace("_", "-"): behaviour for name, behaviour in behaviours.items()}
        self._monkeypatch.setenv("QUANTBENCH_FAKE", json.dumps(told))
        return execute_run(self.opened(config or self.config()), workspace or self.workspace, Silent())

    def _connected(self, executor: RayExecutor, log_file: Path) -> "Lab":
        return self

    def __enter__(self) -> OneNode:
        return self.cluster

    def __exit__(self, *_: object) -> None:
        return


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(ray_work, "_checked_nodes", lambda run, executor, cluster: cluster.nodes())
    with patch.dict(os.environ):  # the run and its node have a TMPDIR each, in one process here
        yield Lab(tmp_path, monkeypatch)
        while node_work._kept:
            node_work._kept.pop().close()


def digests(record: RunRecord) -> dict[str, tuple[str, str | None]]:
    return {one.name: (one.how, one.result.object.digest if one.result.object else None) for one in record.outcomes}


@pytest.mark.slow
def test_a_run_on_nodes_comes_to_what_a_run_here_comes_to(lab: Lab, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other")
    other.create()
    here = lab.run(run_config(fork_servers=False), other)
    there = lab.run()
    assert digests(there) == digests(here)
    nodes = {one.name: one.node for one in there.outcomes}
    assert nodes.pop("prepare") is None  # its files lie on the run's machine
    assert all(nodes.values())
    # Everything is in all three stores: the run's, the node's, and the shared one.
    made = {digest for _, digest in digests(there).values() if digest}
    assert made <= set(lab.workspace.store.digests())
    assert made <= set(lab.node.store.digests())
    assert made <= set(Store(lab.shared).digests())
    logs = {path.name for path in (there.run_dir / "logs").iterdir()}
    assert {"quantize-int8.log", "measure-int8.log"} <= logs
    assert {one.how for one in lab.run().outcomes} == {"reused"}


@pytest.mark.slow
def test_texts_of_the_suite_go_to_who_reads_them_only(lab: Lab) -> None:
    lab.run()
    asked = {one["name"]: one for call in lab.cluster.calls if "name" in (one := json.loads(call.text))}
    assert {name for name, one in asked.items() if one["excluded_texts"]} == {"calibrate"}
    assert all(call.whole and call.retries == 3 and call.cpus == 2 for call in lab.cluster.calls)


@pytest.mark.slow
def test_a_stage_that_fails_there_is_told_with_its_node_and_its_log(lab: Lab) -> None:
    record = lab.run(quantize_int8="die")
    outcome = next(one for one in record.outcomes if one.name == "quantize:int8")
    assert outcome.how == "failed" and outcome.result.failure
    assert f"on {outcome.node}: quantize:int8" in outcome.result.failure.what
    assert f"{record.run_dir}/logs/quantize-int8.log" in outcome.result.failure.what
    assert "imaginary kernel" in (record.run_dir / "logs" / "quantize-int8.log").read_text()
    assert not list((lab.node.root / "store" / "staging").glob("*"))
    # What such a stage keeps lies in the node's workspace, for the next one there.
    (job_file,) = lab.node.root.glob("runs/*/stages/quantize-int8.job.json")
    kept = Path(json.loads(job_file.read_text())["kept_dir"])
    assert kept.parent == lab.node.root / "rounded"
    kept.mkdir(parents=True)
    assert digests(lab.run())["quantize:int8"][0] == "done"
    assert not kept.exists()


@pytest.mark.slow
def test_a_cluster_that_goes_costs_what_was_not_done(lab: Lab) -> None:
    lab.cluster.dies_at = "measure:baseline"
    first = digests(lab.run())
    assert {first[name][0] for name in ("prepare", "soundness")} == {"done"}
    assert first["measure:baseline"][0] == "failed"
    lab.cluster.dies_at, lab.cluster.gone = "", False
    second = digests(lab.run())
    assert {second[name][0] for name in ("prepare", "soundness")} == {"reused"}
    assert second["measure:int8"][0] == "done"


@pytest.mark.slow
def test_an_input_that_is_damaged_at_the_node_is_fetched_again(lab: Lab) -> None:
    record = lab.run(quantize_int8="harm")
    assert digests(record)["quantize:int8"][0] == "done"
    assert all(not lab.node.store.differences(digest) for _, digest in digests(record).values() if digest)


@pytest.mark.slow
def test_a_node_that_came_later_and_is_another_machine_makes_nothing(lab: Lab) -> None:
    lab.machine = MACHINE.model_copy(update={"device_name": "another"})
    outcome = next(one for one in lab.run().outcomes if one.name == "measure:baseline")
    assert outcome.result.failure
    assert "config.device_name" in outcome.result.failure.what
    assert "another" in outcome.result.failure.what


@pytest.mark.parametrize(
    ("machine", "token", "word"),
    [
        (MACHINE, True, None),
        (MACHINE.model_copy(update={"threads": MACHINE.threads + 1}), True, "threads: 3 here, 2 on the run's machine"),
        (MACHINE.model_copy(update={"cpu_flags": ["avx9"]}), True, "cpu_flags"),
        (MACHINE, False, "is not the one that the run writes to"),
    ],
)
def test_a_node_is_asked_before_work(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, machine: MachineRecord, token: bool, word: str | None
) -> None:
    lab.machine = machine
    monkeypatch.setattr(node_work, "_unlike_files", lambda _: [])
    run, shared = lab.opened(lab.config()), ray_work.SharedStore(str(lab.shared))
    with shared.probe() as known:
        asked = node_work.CheckAsked(
            config=run.context.config,
            machine=MACHINE,
            suite=run.context.suite,
            fingerprints=FINGERPRINTS,
            shaping={stage.name: stage.shaping for stage in run.stages},
            token=known if token else "0" * 32,
        )
        told = node_work.CheckTold.model_validate_json(node_work.check_node(asked.model_dump_json(), lambda _: None))
    assert [word in one for one in told.refusals] == ([True] if word else [])


def test_other_libraries_on_a_node_are_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    run = lab.opened(lab.config())
    shaping = {stage.name: stage.shaping for stage in run.stages}
    older = shaping["prepare"].model_copy(update={"libraries": {**shaping["prepare"].libraries, "torch": "1.0"}})
    monkeypatch.setattr(node_work, "detect_machine", lambda _: MACHINE)
    asked = node_work.CheckAsked(
        config=run.context.config,
        machine=MACHINE,
        suite=run.context.suite,
        fingerprints=FINGERPRINTS,
        shaping=shaping | {"prepare": older},
        token="0",  # noqa: S106
    )
    assert [line.split(":")[0] for line in node_work._differences(asked)] == ["libraries.torch"]


def test_all_nodes_that_are_refused_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch)
    lab.machine = MACHINE.model_copy(update={"device_name": "another"})
    with pytest.raises(RequestError, match=r"node 10.0.0.1 .* cannot be used: device_name: 'another' here"):
        lab.run()
    assert not lab.workspace.cache.entries()


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_of_ray(address: str) -> None:
    assert RayExecutor(kind="ray", address=address, store="/mnt/shared").address == address


@pytest.mark.parametrize(
    ("address", "store"),
    [
        *[(one, "/mnt/shared") for one in ("", "head", "head:0", "head:70000", "http://head:6379", "ray://u:p@h:1")],
        *[("auto", one) for one in ("", "shared", "s3://key:secret@models/prefix", "/")],
    ],
)
def test_what_is_no_address_is_refused(address: str, store: str) -> None:
    with pytest.raises((ValidationError, RequestError)) as raised:
        RayExecutor(kind="ray", address=address, store=store)
    assert isinstance(raised.value, RequestError) or "secret" not in raised.value.errors()[0]["msg"]


def test_where_stages_work_is_no_part_of_a_key(lab: Lab) -> None:
    there, here = lab.config(address="local"), run_config(fork_servers=False)
    shaping = [[stage.shaping for stage in stages_of(one, MACHINE, FINGERPRINTS)] for one in (there, here)]
    assert shaping[0] == shaping[1]


def test_models_are_measured_beside_each_other_once_what_they_are_compared_with_is() -> None:
    stages = stages_of(run_config(dtype={"serve": "auto"}), MACHINE, FINGERPRINTS)
    waits = waits_of(stages, measured_in_turn=False)
    for stage in (one for one in stages if one.kind == "measure" and one.method):
        measured = {name for name in waits[stage.name] if name.startswith("measure:")}
        compared = {"measure:baseline", f"measure:baseline+{stage.dtype}"} & {one.name for one in stages}
        assert measured == compared


@pytest.mark.parametrize(("nodes", "expected"), [(1, 1), (2, 2), (4, 3)])
def test_as_many_stages_begin_as_there_are_nodes(nodes: int, expected: int) -> None:
    stages = stages_of(run_config(), MACHINE, FINGERPRINTS)
    ended = {"prepare", "soundness", "measure:baseline"}
    waiting = [stage for stage in stages if stage.name not in ended]
    waits, sharing = waits_of(stages, measured_in_turn=False), sharing_of_nodes(run_config(), nodes)
    begun = [stage.name for stage in startable(waiting, [], ended, waits, sharing)]
    assert len(begun) == min(nodes, len(begun))
    assert begun[0] == "quantize:int8"
    assert len(begun) <= expected


def test_a_recipe_may_ask_for_fewer_stages_than_nodes() -> None:
    assert sharing_of_nodes(run_config(concurrency={"stages": 2}), 8).stages == 2


def test_a_checked_cluster_is_what_a_run_gets(lab: Lab, tmp_path: Path) -> None:
    with ray_work.cluster_of(lab.opened(lab.config()), tmp_path) as checked:
        assert isinstance(checked, CheckedCluster) and len(checked.nodes) == 2
    with ray_work.cluster_of(lab.opened(run_config()), tmp_path) as none:
        assert none is None


def test_the_document_s_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    take(walk_of(ROOT / "docs" / "ray.md"), capsys)
