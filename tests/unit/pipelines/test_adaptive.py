"""`adaptive: true` in a recipe: what it does to keys and jobs, and how what it measured is compared and shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loading import load_yaml_model
from evals.samples import SAMPLES_FILE, write_samples
from evals.suites.suite import Category, Suite
from pipelines.cli import main
from pipelines.execution import comparison
from pipelines.execution.comparison import compare_measured
from pipelines.execution.workspace import Workspace
from pipelines.planning.stages import STATISTICS_LIBRARIES, Stage, stages_of
from pipelines.recipe.run_config import EvaluationConfig, RunConfig
from pipelines.records.comparison import Comparison
from pipelines.report.judged import judged
from pipelines.stage_programs.measure import MeasureJob
from registry.contracts import CategoryLook, ObjectRef, StageResult
from registry.sealed import write_sealed
from registry.stage_cache import StageKey
from tests.records import measurement_record
from tests.unit.pipelines.loss_records import token_agreement
from tests.unit.pipelines.report_records import outcome, report_record
from tests.unit.pipelines.test_compare import DIGESTS, SUITE_FILE, samples
from tests.unit.pipelines.test_runner import FINGERPRINTS, INT8, MACHINE, Bench, run_config

ADAPTIVE = {"suite": "demo", "adaptive": True}


def stages(**evaluation: object) -> dict[str, Stage]:
    config = run_config(methods={"int8": INT8}, evaluation={"suite": "demo"} | evaluation)
    return {stage.name: stage for stage in stages_of(config, MACHINE, FINGERPRINTS)}


def key_of(stage: Stage, baseline: str = "sha256:b") -> StageKey:
    digests = {name: f"sha256:{role}" for role, name in stage.inputs.items()} | {"measure:baseline": baseline}
    results = {
        name: StageResult(stage="", object=ObjectRef(digest=digest, size_bytes=1)) for name, digest in digests.items()
    }
    key = stage.key(results)
    assert key is not None
    return key


def test_only_the_artifacts_of_an_adaptive_run_have_other_keys() -> None:
    plain, unused, adaptive = stages(), stages(looks={"spending": "pocock"}), stages(adaptive=True)
    assert plain == unused
    assert {name for name in plain if plain[name] != adaptive[name]} == {"measure:int8"}
    key = key_of(plain["measure:int8"])
    assert key.config["evaluation"] == {"num_concurrent": 32}
    assert set(key.inputs) == {"model", "inspection"}
    assert not {"looks", "statistics"} & key.config.keys()
    assert not set(STATISTICS_LIBRARIES) & key.libraries.keys()


def test_an_adaptive_key_holds_the_looks_the_statistics_and_what_the_baseline_answered() -> None:
    stage = stages(adaptive=True)["measure:int8"]
    key = key_of(stage)
    assert key.config["looks"] == {"fractions": [0.25, 0.5, 1.0], "spending": "obrien_fleming"}
    assert "scipy" in key.libraries
    others = [
        key_of(stage, baseline="sha256:other"),
        *(
            key_of(stages(adaptive=True, looks=looks)["measure:int8"])
            for looks in ({"fractions": [0.5, 1.0]}, {"spending": "pocock"})
        ),
    ]
    assert len({one.digest for one in [key, *others]}) == 4
    assert stage.key({"quantize:int8": StageResult(stage="", record={})}) is None


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ("{fractions: [0.5, 0.25, 1.0]}", "looks ascend from above 0 to 1"),
        ("{fractions: [0.25, 0.5]}", "looks ascend from above 0 to 1"),
        ("{fractions: []}", "looks ascend"),
        ("{fractions: [0.5, 0.51, 1.0]}", "at least 0.05 of the items apart"),
        ("{spending: all}", "'obrien_fleming' or 'pocock'"),
        ("{fraction: [1.0]}", "did you mean `fractions`?"),
    ],
)
def test_looks_that_make_no_sense_are_refused_with_their_line(tmp_path: Path, looks: str, said: str) -> None:
    path = tmp_path / "evaluation.yaml"
    path.write_text(f"suite: demo\nadaptive: true\nlooks: {looks}\n")
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(path, EvaluationConfig)
    assert said in str(caught.value)
    assert "evaluation.yaml:3" in str(caught.value)


def adaptive_config() -> RunConfig:
    return run_config(methods={"int8": INT8}, evaluation=ADAPTIVE)


@pytest.mark.slow
def test_the_job_of_an_artifact_names_what_the_baseline_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    outcomes = bench.run(adaptive_config())
    assert {one.how for one in outcomes.values()} == {"done"}
    (folder,) = bench.workspace.root.glob("runs/*/stages")
    ours, theirs = (
        MeasureJob.model_validate_json((folder / f"measure-{name}.job.json").read_text())
        for name in ("int8", "baseline")
    )
    assert theirs.adaptive is None
    assert ours.adaptive is not None
    stored = outcomes["measure:baseline"].result.object
    assert stored is not None
    assert ours.adaptive.baseline_samples == bench.workspace.store.path(stored.digest) / SAMPLES_FILE
    assert ours.adaptive.baseline_samples.exists()
    assert {one.how for one in bench.run(adaptive_config()).values()} == {"reused"}


@pytest.mark.slow
def test_without_a_baseline_nothing_is_asked_adaptively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Bench(tmp_path, monkeypatch).run(adaptive_config(), measure_baseline="fail")
    assert (outcomes["inspect:int8"].how, outcomes["measure:int8"].how) == ("done", "skipped")


def look_at(number: int, spending: str = "obrien_fleming") -> CategoryLook:
    fractions = (0.25, 0.5, 1.0)
    return CategoryLook.model_validate(
        {
            "category": "knowledge",
            "number": number,
            "fractions": fractions,
            "spending": spending,
            "items": 600 * fractions[number - 1],
            "items_available": 600,
        }
    )


def measured(
    workspace: Workspace, name: str, wrong: int, look: CategoryLook | None = None, **change: str
) -> StageResult:
    """An artifact that was asked its first items up to `look`."""
    with workspace.store.staging() as staging:
        mine = samples(wrong)[: look.items if look else None]
        write_samples(staging / SAMPLES_FILE, [one.model_copy(update=change) for one in mine])
        (staging / "name.txt").write_text(name)
        stored = workspace.store.put(staging)
    record = measurement_record(f"sha256:{name}{'0' * 58}")
    update: dict[str, Any] = {"samples_file": SAMPLES_FILE, "looks": [look] if look else []}
    record = record.model_copy(update={"evaluation": record.evaluation.model_copy(update=update)})
    return StageResult(stage="measure", record=record.model_dump(mode="json"), object=stored)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A baseline and two artifacts that stopped at the first and at the second of three looks."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    (tmp_path / "suite.yaml").write_text(SUITE_FILE)
    results = {
        "baseline": measured(workspace, DIGESTS["baseline"], 0),
        "early": measured(workspace, DIGESTS["far"], 60, look_at(1)),
        "later": measured(workspace, DIGESTS["near"], 70, look_at(2)),
        "odd": measured(workspace, DIGESTS["same"], 0, look_at(1), prompt_hash="odd"),
    }
    outcomes = [
        outcome(f"measure:{name}", "done", 1.0).model_copy(update={"result": one}) for name, one in results.items()
    ]
    config = {"name": "test", "description": "", "evaluation": {"suite": str(tmp_path / "suite.yaml")}}
    run_dir = workspace.new_run_dir("test")
    write_sealed(run_dir / "result.json", report_record(run_dir, outcomes=outcomes, config=config))
    return workspace


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("baseline", "early", "Decided at look 1 of 3, 150 of 600 items"),
        ("baseline", "later", "Decided at look 2 of 3, 300 of 600 items"),
        ("early", "later", "at look 1 of 3, 150 of 600 items"),
        ("later", "early", "at look 1 of 3, 150 of 600 items"),
    ],
)
def test_compare_pairs_what_both_answered_and_says_so(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], one: str, other: str, said: str
) -> None:
    code = main(["compare", one, other, "--workspace", str(workspace.root), "--json"])
    (kept,) = json.loads(capsys.readouterr().out)["retention"]["categories"]
    assert said in kept["verdict_reason"]
    assert code == {"pass": 0, "fail": 1, "inconclusive": 4}[kept["verdict"]]
    assert kept["items"] == kept["look"]["items"]
    main(["compare", one, other, "--workspace", str(workspace.root)])
    assert f"{kept['items']} of 600" in capsys.readouterr().out


def test_other_prompts_do_not_pair_however_few_were_asked(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in ("baseline", "early", "later"):
        assert main(["compare", other, "odd", "--workspace", str(workspace.root)]) == 3
        assert "asked different prompts" in capsys.readouterr().err


def test_equal_answers_at_other_looks_are_not_one_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes may stop at the same items by other rules: the p-values differ, and so must what is kept."""
    monkeypatch.setattr(comparison, "agree", lambda *files: token_agreement("int8"))
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    category = Category(name="knowledge", description="", tasks=["demo_knowledge"], metric="acc", margin=0.05)
    suite = Suite(name="demo", version="1", description="", categories=[category])
    baseline = measured(workspace, DIGESTS["baseline"], 0)

    def compared(spending: str) -> Comparison:
        found = compare_measured(baseline, measured(workspace, "a", 19, look_at(1, spending)), suite, workspace)
        assert found is not None
        return found

    reasons = {spending: compared(spending).retention.categories[0] for spending in ("obrien_fleming", "pocock")}
    assert {one.look.spending for one in reasons.values() if one.look} == set(reasons)
    assert len({one.verdict for one in reasons.values()}) == 2
    assert [one.items for one in judged(compared("pocock").retention)] == ["150 of 600"]
