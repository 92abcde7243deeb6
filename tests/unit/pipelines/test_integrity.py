"""Whatever happens to a file of the workspace, the next run ends as the undisturbed one did; no engine is involved."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.suites.resolve import load_suite
from pipelines.execution.comparison import compare_measured
from pipelines.planning.plan import plan_stages
from pipelines.planning.stages import stages_of
from pipelines.records.events import StageOutcome
from registry.contracts import MeasurementRecord
from registry.store import DamagedObject
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, Bench, changed, how, run_config

pytestmark = pytest.mark.slow  # whole runs

Outcomes = dict[str, StageOutcome]


def digests(outcomes: Outcomes) -> dict[str, str]:
    """All that is content-addressed, and the scores."""
    found = {}
    for name, outcome in outcomes.items():
        assert outcome.result.failure is None, name
        assert outcome.result.object is not None
        found[name] = outcome.result.object.digest
        if name.startswith("measure:"):
            evaluation = MeasurementRecord.model_validate(outcome.result.record).evaluation
            found[f"scores {name}"] = evaluation.model_dump_json()
    return found


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def object_of(bench: Bench, outcomes: Outcomes, stage: str) -> Path:
    reference = outcomes[stage].result.object
    assert reference is not None
    return bench.workspace.store.path(reference.digest)


@pytest.mark.parametrize("stage", ["prepare", "calibrate", "quantize:int8", "measure:baseline"])
def test_only_the_stage_whose_object_is_damaged_runs_again(
    first: tuple[Bench, Outcomes], bench: Bench, stage: str
) -> None:
    flip(object_of(bench, first[1], stage) / "content.txt")
    again = bench.run()
    assert bench.executed == [stage.replace(":", "-")]
    assert digests(again) == digests(first[1])
    assert how(bench.run()) == dict.fromkeys(first[1], "reused")


def test_the_plan_tells_damage_and_touches_nothing(first: tuple[Bench, Outcomes], bench: Bench) -> None:
    damaged = object_of(bench, first[1], "quantize:int8")
    flip(damaged / "content.txt")
    planned, _ = plan_stages(stages_of(run_config(), MACHINE, FINGERPRINTS), bench.workspace.cache)
    reasons = {stage.name: stage.reason for stage in planned if stage.action == "run"}
    assert reasons["quantize:int8"] == "its result was damaged or removed"
    assert damaged.exists()


def test_two_artifacts_in_each_other_s_place(first: tuple[Bench, Outcomes], bench: Bench) -> None:
    one, other = (object_of(bench, first[1], f"quantize:{name}") for name in ("int8", "gptq"))
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)
    again = bench.run()
    assert sorted(bench.executed) == ["quantize-gptq", "quantize-int8"]
    assert digests(again) == digests(first[1])


@pytest.mark.slow
def test_two_measurements_under_each_other_s_key(first: tuple[Bench, Outcomes], bench: Bench) -> None:
    entries = sorted((bench.workspace.root / "cache" / "measure").glob("*.json"))
    texts = [path.read_text() for path in entries]
    for path, text in zip(entries, texts[1:] + texts[:1], strict=True):
        path.write_text(text)
    again = bench.run()
    assert sorted(bench.executed) == [
        *("measure-baseline", "measure-baseline+bfloat16", "measure-gptq", "measure-int8")
    ]
    assert digests(again) == digests(first[1])


@pytest.mark.slow
def test_an_input_that_changes_while_it_is_read_is_made_anew_and_what_was_made_of_it_too(
    first: tuple[Bench, Outcomes], bench: Bench
) -> None:
    config = changed(int8={"threshold": 5.0})
    again = bench.run(config, quantize_int8="harm")
    assert bench.executed[:3] == ["quantize-int8", "prepare", "quantize-int8"]
    assert how(again)["quantize:int8"] == "done"
    undisturbed = digests(bench.run(config))
    assert bench.executed == []
    assert digests(again) == undisturbed


def test_damage_that_shows_at_the_comparison_fails_it_and_is_mended_by_the_next_run(
    first: tuple[Bench, Outcomes], bench: Bench
) -> None:
    flip(object_of(bench, first[1], "measure:int8") / "content.txt")
    results = (first[1][name].result for name in ("measure:baseline", "measure:int8"))
    with pytest.raises(DamagedObject, match=r"content\.txt: changed"):
        compare_measured(*results, load_suite("demo"), bench.workspace)
    bench.run()
    assert bench.executed == ["measure-int8"]


def damaged_copies(workspace: Path) -> list[Path]:
    return [path.relative_to(workspace) for path in sorted(workspace.rglob("*")) if path.is_file()]


KINDS = ("store/objects", "store/manifests", "store/verified", "cache/prepare", "cache/measure/latest", "machine.lock")
"""Quick ones; the slow test takes every file."""


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["bit", "lost", "cut"])
def test_one_file_of_each_kind(first: tuple[Bench, Outcomes], bench: Bench, damage: Callable[[Path], None]) -> None:
    bench.run()  # remembers what was verified
    root = bench.workspace.root
    for kind in KINDS:
        path = root / kind
        path = path if path.is_file() else next(file for file in sorted(path.rglob("*")) if file.is_file())
        if path.stat().st_size:
            damage(path)
    assert digests(bench.run()) == digests(first[1])


@pytest.mark.thorough
def test_every_file_in_turn(first: tuple[Bench, Outcomes], bench: Bench, tmp_path: Path) -> None:
    wanted = digests(first[1])
    bench.run()
    root, whole = bench.workspace.root, tmp_path / "whole"
    shutil.copytree(root, whole)
    for name in damaged_copies(whole):
        if (root / name).stat().st_size == 0:
            continue
        flip(root / name)
        assert digests(bench.run()) == wanted, name
        assert len(bench.executed) <= 1, name
        assert bench.leftovers() == []
