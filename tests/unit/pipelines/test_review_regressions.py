"""What became worse: against whom, by which numbers, and only where it is sure."""

import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from evals.samples import SAMPLES_FILE, write_samples
from pipelines.execution.workspace import Workspace
from pipelines.records.rows import Row
from pipelines.review.page_data import PageData, Regression
from registry.contracts import CategoryScore, StageResult
from registry.contracts.stage import ObjectRef
from registry.ledger import Entry, Ledger
from registry.tracking.address import sqlite_uri
from tests.records import samples
from tests.review_workspace import FIRST, collected, put_run
from tests.unit.pipelines.report_records import outcome, report_rows
from tests.unit.pipelines.test_limits_report import SLOW, limited

HOUR = timedelta(hours=1)


def scored(name: str, value: float, items: int = 400, **changes: Any) -> CategoryScore:
    stderr = math.sqrt(value * (1 - value) / items)
    score = CategoryScore(
        category=name,
        metric="acc",
        value=value,
        stderr=stderr,
        items=items,
        higher_is_better=True,
        chance=0.25,
        unit="share",
    )
    return score.model_copy(update=changes)


def rows_with(scores: Sequence[CategoryScore], digest: str = "sha256:new", **point: Any) -> list[Row]:
    """The baseline and int8, which scored so, is of these bytes, and whose load tests went so."""
    baseline, int8 = report_rows()[:2]
    assert int8.measurement and int8.artifact
    serving = int8.measurement.serving
    points = [one.model_copy(update=point) for one in serving.load_points]
    update = {
        "evaluation": int8.measurement.evaluation.model_copy(update={"categories": list(scores)}),
        "serving": serving.model_copy(update={"load_points": points}),
    }
    measurement = int8.measurement.model_copy(update=update)
    artifact = int8.artifact.model_copy(update={"digest": digest})
    return [baseline, int8.model_copy(update={"measurement": measurement, "artifact": artifact})]


def of(data: PageData, quantity: str, run: str | None = None) -> Regression:
    found = [
        one
        for one in data.regressions
        if one.quantity == quantity and run in (None, data.runs.id[data.models.run[one.model]])
    ]
    assert len(found) == 1, data.regressions
    return found[0]


def against(data: PageData, one: Regression) -> str:
    assert one.against is not None
    return data.runs.id[data.models.run[one.against]]


def approve(root: Path, row: Row, hours: float, stream: str = "", kind: Any = "approve", version: str = "7") -> Entry:
    """Write that the bytes were approved, or with `alias:...` promoted."""
    ledger = Ledger(sqlite_uri(root / "ledger.db"))
    stream = stream or f"approval:{row.digest}"
    last = ledger.last("smollm2-135m-demo", stream)
    entry = Entry(
        model="smollm2-135m-demo",
        stream=stream,
        sequence=0,
        kind=kind,
        at=FIRST + hours * HOUR,
        who="me",
        why="so",
        version_to=version,
        artifact=row.digest,
    )
    return ledger.append(entry, last)


def test_a_loss_beyond_both_intervals_is_worse_and_a_small_one_is_not(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", FIRST, rows=rows_with([scored("a", 0.80), scored("b", 0.60)]))
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([scored("a", 0.60), scored("b", 0.58)]))
    data = collected(tmp_path)
    worse, same = of(data, "a"), of(data, "b")
    assert (worse.change, same.change) == ("worse", "same")
    assert worse.how == "intervals"
    # By hand: both standard errors are 0.02 and 0.0245, so theirs together 0.0316 and 1.96 of them 0.062.
    assert worse.difference == pytest.approx(-0.2)
    assert worse.low == pytest.approx(-0.262, abs=1e-3)
    assert worse.high == pytest.approx(-0.138, abs=1e-3)
    assert "60.0 % after 80.0 % of the run before, run-0" in worse.text
    assert "-20.0 [-26.2, -13.8] points" in worse.text
    assert against(data, worse) == "run-0"


def test_better_is_told_too_and_perplexity_turns_around(tmp_path: Path) -> None:
    text = scored("text", 0.5, unit="perplexity", chance=None, stderr=0.3, higher_is_better=False)
    before, after = (text.model_copy(update={"value": value}) for value in (20.0, 25.0))
    put_run(tmp_path, "run-0", rows=rows_with([scored("a", 0.5), before]))
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([scored("a", 0.8), after]))
    data = collected(tmp_path)
    assert of(data, "a").change == "better"
    assert of(data, "text").change == "worse"
    assert "perplexity 25 after perplexity 20" in of(data, "text").text


def test_the_number_of_categories_is_allowed_for(tmp_path: Path) -> None:
    """One loss at p = 0.02 is sure alone, and not among ten (Holm)."""
    drop = 2.33 * math.hypot(0.02, 0.02)
    before = [scored("a", 0.8, stderr=0.02)]
    after = [scored("a", 0.8 - drop, stderr=0.02)]
    others = [scored(f"c{number}", 0.5) for number in range(9)]
    for name, more, change in (("alone", [], "worse"), ("among ten", others, "same")):
        root = tmp_path / name
        put_run(root, "run-0", rows=rows_with([*before, *more]))
        put_run(root, "run-1", FIRST + HOUR, rows=rows_with([*after, *more]))
        assert of(collected(root), "a").change == change


def test_all_right_is_not_sure_for_ever(tmp_path: Path) -> None:
    """Its standard error is 0: the interval of the share says how sure it is."""
    perfect = scored("a", 1.0, items=20, stderr=0.0, low=0.84, high=1.0)
    put_run(tmp_path, "run-0", rows=rows_with([perfect]))
    less = scored("a", 0.95, items=20, stderr=0.05, low=0.76, high=0.99)
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([less]))
    assert of(collected(tmp_path), "a").change == "same"


def test_a_score_without_an_interval_is_unknown(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", rows=rows_with([scored("a", 0.9)]))
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([scored("a", 0.1, stderr=None)]))
    assert of(collected(tmp_path), "a").change == "unknown"


def test_a_category_that_was_not_asked_before_is_compared_with_nothing(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", rows=rows_with([scored("a", 0.9)]))
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([scored("b", 0.1)]))
    quantities = {one.quantity for one in collected(tmp_path).regressions}
    assert not quantities & {"a", "b"}
    assert "disk_bytes" in quantities


def test_speeds_change_beyond_a_stated_tolerance(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", rows=rows_with([], output_tokens_per_second=100.0))
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([], output_tokens_per_second=96.0))
    put_run(tmp_path, "run-2", FIRST + 2 * HOUR, rows=rows_with([], output_tokens_per_second=80.0))
    data = collected(tmp_path)
    assert of(data, "tokens_per_second", "run-1").change == "same"
    worse = of(data, "tokens_per_second", "run-2")
    assert (worse.change, worse.how, worse.low) == ("worse", "numbers", None)
    assert worse.difference == pytest.approx(-16)
    assert "-16.7 %" in worse.text and "up to 5 % are not told apart" in worse.text


def test_the_share_of_the_limit_tells_a_slower_server_from_a_faster_machine(tmp_path: Path) -> None:
    memory = SLOW.serving.memory_bytes_per_second
    for number, times in enumerate((0.1, 0.11, 0.16)):
        rates = SLOW.serving.model_copy(update={"memory_bytes_per_second": times * memory})
        rows = [limited(row, SLOW.model_copy(update={"serving": rates})) for row in rows_with([])]
        put_run(tmp_path, f"run-{number}", FIRST + number * HOUR, rows=rows)
    data = collected(tmp_path)
    assert of(data, "tokens_per_second", "run-2").change == "same"
    assert of(data, "decode_share", "run-1").change == "same"
    worse = of(data, "decode_share", "run-2")
    assert worse.change == "worse" and worse.value and worse.before
    assert f"{100 * worse.value:,.1f} % of what the machine allows in decoding" in worse.text
    assert "up to 25 % are not told apart" in worse.text


def test_runs_of_other_machines_are_not_compared(tmp_path: Path) -> None:
    first = put_run(tmp_path, "run-0", rows=rows_with([scored("a", 0.9)]))
    other = first.machine.model_copy(update={"threads": 64})
    put_run(tmp_path, "run-1", FIRST + HOUR, rows=rows_with([scored("a", 0.1)]), machine=other)
    assert not collected(tmp_path).regressions


def test_the_champion_comes_before_the_approved_and_that_before_the_run_before(tmp_path: Path) -> None:
    values = {"run-0": 0.9, "run-1": 0.8, "run-2": 0.7, "run-3": 0.6}
    rows = {name: rows_with([scored("a", value)], f"sha256:{name}") for name, value in values.items()}
    for number, name in enumerate(values):
        put_run(tmp_path, name, FIRST + number * HOUR, rows=rows[name])
    before = of(collected(tmp_path), "a", "run-3")
    assert against(collected(tmp_path), before) == "run-2"
    assert "the run before, run-2" in before.text
    approve(tmp_path, rows["run-1"][1], 1.5, version="2")
    data = collected(tmp_path)
    assert against(data, of(data, "a", "run-3")) == "run-1"
    assert "version 2, approved last" in of(data, "a", "run-3").text
    approve(tmp_path, rows["run-0"][1], 1.6, stream="alias:champion", kind="promote", version="1")
    data = collected(tmp_path)
    assert against(data, of(data, "a", "run-3")) == "run-0"
    assert "version 1, which was champion" in of(data, "a", "run-3").text
    assert against(data, of(data, "a", "run-1")) == "run-0", "as it was when that run began: nothing was accepted"
    assert "the run before" in of(data, "a", "run-1").text


def test_what_was_rejected_after_its_approval_is_not_accepted(tmp_path: Path) -> None:
    rows = [rows_with([scored("a", 0.9 - number / 10)], f"sha256:{number}") for number in range(3)]
    for number, of_run in enumerate(rows):
        put_run(tmp_path, f"run-{number}", FIRST + number * HOUR, rows=of_run)
    approve(tmp_path, rows[0][1], 0.5)
    approve(tmp_path, rows[0][1], 0.6, kind="reject")
    data = collected(tmp_path)
    assert against(data, of(data, "a", "run-2")) == "run-1"


def test_a_run_that_measured_nothing_anew_is_compared_with_nothing(tmp_path: Path) -> None:
    rows = rows_with([scored("a", 0.9)])
    for number in range(2):
        put_run(tmp_path, f"run-{number}", FIRST + number * HOUR, rows=rows, outcomes=_measured("sha256:" + "a" * 64))
    assert not collected(tmp_path).regressions


def test_older_comparisons_tell_what_changed_alone(tmp_path: Path) -> None:
    for number in range(6):
        score = scored("a", 0.9 if number < 2 else 0.5)
        put_run(tmp_path, f"run-{number}", FIRST + number * HOUR, rows=rows_with([score]))
    data = collected(tmp_path)
    told = [(data.runs.id[data.models.run[one.model]], one.change) for one in data.regressions if one.quantity == "a"]
    assert told == [("run-5", "same"), ("run-4", "same"), ("run-2", "worse")]


def _measured(digest: str) -> list[Any]:
    """Outcomes of a run whose int8 was measured into this object."""
    result = outcome("measure:int8", "done", 10.0).result.model_copy(
        update={"object": ObjectRef(digest=digest, size_bytes=1)}
    )
    return [outcome("measure:int8", "done", 10.0).model_copy(update={"result": StageResult.model_validate(result)})]


def put_measured(workspace: Workspace, name: str, number: int, wrong: int) -> None:
    """A run whose int8 answered the items of `tests.records.samples`, the first ones wrong, which are in the store."""
    with workspace.store.staging() as staging:
        write_samples(staging / SAMPLES_FILE, samples(wrong))
        (staging / "which").write_text(name)
        digest = workspace.store.put(staging).digest
    score = scored("knowledge", (20 - wrong) / 20, items=20)
    put_run(workspace.root, name, FIRST + number * HOUR, rows=rows_with([score]), outcomes=_measured(digest))


def test_items_that_are_in_the_store_are_paired_and_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    put_measured(workspace, "run-0", 0, wrong=0)
    put_measured(workspace, "run-1", 1, wrong=8)
    one = of(collected(tmp_path), "knowledge")
    assert (one.how, one.change) == ("paired", "worse")
    assert one.value == pytest.approx(0.6)
    assert one.before == pytest.approx(1.0)
    assert one.difference == pytest.approx(-0.4)
    assert one.low is not None and one.high is not None and one.low < -0.4 < one.high < 0
    # Eight items were lost and none won: McNemar's exact test says 2 / 2^8.
    assert "over the same 20 items, p = 0.008" in one.text

    def never(*_: object) -> None:
        raise AssertionError("it is kept")

    monkeypatch.setattr("evals.judging.retention.compare", never)
    assert of(collected(tmp_path), "knowledge") == one


def test_items_that_do_not_pair_are_told_and_compared_by_their_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    put_measured(workspace, "run-0", 0, wrong=0)
    put_measured(workspace, "run-1", 1, wrong=8)

    def asked_otherwise(*_: object) -> None:
        raise StageError("the suite changed", remedy="measure again")

    monkeypatch.setattr("evals.judging.retention.compare", asked_otherwise)
    one = of(collected(tmp_path), "knowledge")
    assert one.how == "intervals"
    assert "they do not pair: the suite changed" in one.text


def test_items_that_were_damaged_are_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put_measured(workspace, "run-0", 0, wrong=0)
    put_measured(workspace, "run-1", 1, wrong=8)
    for path in (tmp_path / "store" / "objects").glob(f"*/{SAMPLES_FILE}"):
        path.write_bytes(b"nothing")
    one = of(collected(tmp_path), "knowledge")
    assert one.how == "intervals"
    assert "they do not pair" in one.text
