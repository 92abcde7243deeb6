"""Which artifact is recommended: limits first, then what nothing beats, then the goal; undecided is an answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from pipelines.cli import main
from pipelines.decision.recommend import recommend
from pipelines.recipe.policy import Policy, RecommendConfig
from pipelines.records.decision import RecommendationRecord
from pipelines.records.model_cost import Pricing, pricing_of
from pipelines.records.rows import Row
from pipelines.report.console import print_recommendation
from pipelines.report.page import render_page
from registry.contracts import CheckRecord, VerbosityRecord
from registry.contracts.comparison import Verdict
from registry.sealed import write_sealed
from tests.records import check_record
from tests.unit.pipelines.report_records import SUITE, WRITTEN, report_record, report_rows
from tests.unit.pipelines.test_runner import run_config

ROOT = Path(__file__).parents[3]


def judged(row: Row, verdict: Verdict, kept: float | None = None, spread: float = 0.01) -> Row:
    """The row with another verdict, and what it kept of every category."""
    assert row.retention is not None
    categories = []
    for one in row.retention.categories:
        share = {"retention": kept, "chance_corrected_retention": kept} if kept is not None else {}
        if kept is not None:
            bounds = {"low": kept - spread, "high": kept + spread}
            share |= {f"{name}_{end}": value for name in list(share) for end, value in bounds.items()}
        categories.append(one.model_copy(update={**share, "verdict": verdict, "items_to_decide": None}))
    update = {"categories": categories, "verdict": verdict, "verdict_reason": f"it was judged {verdict}."}
    return row.model_copy(update={"retention": row.retention.model_copy(update=update)})


def three(**kept: float) -> list[Row]:
    """A baseline and three artifacts that pass; int8 is the largest, nf4 the smallest, gptq the fastest."""
    baseline, int8, nf4, gptq, _ = report_rows()
    passing = (judged(row, "pass", kept.get(row.name, 0.99)) for row in (int8, nf4, gptq))
    # Proofs about two of the servers failed.
    return [baseline, *(checked(row, []) for row in passing)]


def checked(row: Row, checks: list[CheckRecord]) -> Row:
    assert row.measurement is not None
    serving = row.measurement.serving.model_copy(update={"checks": checks})
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": serving})})


def asked(
    rows: list[Row], policy: dict[str, Any] | None = None, pricing: Pricing | None = None, **config: Any
) -> RecommendationRecord:
    # int8's load at 8 is invalid in these rows.
    asked_for = RecommendConfig.model_validate({"concurrency": 4} | config)
    return recommend(rows, Policy.model_validate(policy or {}), asked_for, pricing=pricing)


@pytest.mark.parametrize(
    ("goal", "choice"),
    # How much memory nf4's weights take is not known of it, so they have freed none.
    [("fastest", "gptq"), ("smallest", "nf4"), ("most users", "gptq"), ("most accurate", "int8")],
)
def test_the_goal_chooses(goal: str, choice: str) -> None:
    found = asked(three(int8=0.999, nf4=0.96, gptq=0.97), goal=goal)
    assert (found.kind, found.choice) == ("artifact", choice)
    assert found.digest is not None
    assert found.next_step.startswith("quantbench registry approve ")
    assert f"take {choice}, the {goal} of those" in found.sentence
    assert [one.outcome for one in found.candidates] == ["pass"] * 3


def test_of_those_that_are_not_surely_worse_the_faster_is_taken() -> None:
    close = asked(three(int8=0.985, nf4=0.97, gptq=0.98))
    assert close.choice == "gptq", "its interval reaches int8's value"
    apart = asked(three(int8=0.999, nf4=0.97, gptq=0.98))
    assert apart.choice == "int8"


def test_what_is_beaten_in_all_is_told_by_whom() -> None:
    found = asked(three(int8=0.97, nf4=0.97, gptq=0.98), goal="smallest")
    by = {one.name: one.beaten_by for one in found.candidates}
    assert by == {"int8": "gptq", "nf4": None, "gptq": None}
    # Of two that are alike none beats the other.
    rows = three()
    twin = rows[3].model_copy(update={"name": "twin"})
    assert [one.beaten_by for one in asked([*rows, twin]).candidates][2:] == [None, None]


@pytest.mark.parametrize(
    ("policy", "name", "limit", "outcome", "said"),
    [
        ({"size_mib": 120}, "int8", "size", "fail", "take 155 MiB, allowed are 120"),
        ({"memory_mib": 1}, "gptq", "memory", "fail", "MiB, allowed are 1"),
        ({"loads": [{"concurrency": 4, "of_baseline": 1.0}]}, "nf4", "load at 4", "fail", "0.27 times the baseline's"),
        (
            {"loads": [{"concurrency": 4, "output_tokens_per_second": 60}]},
            "int8",
            "load at 4",
            "fail",
            "44.0 output tokens/s, asked for are 60",
        ),
        ({"loads": [{"concurrency": 4, "ttft_p50_seconds": 0.1}]}, "nf4", "load at 4", "fail", "TTFT p50 272 ms"),
        ({"loads": [{"concurrency": 4, "tpot_p99_seconds": 9.0}]}, "nf4", "load at 4", "pass", "TPOT p99"),
        (
            {"loads": [{"concurrency": 8, "of_baseline": 0.1}]},
            "int8",
            "load at 8",
            "inconclusive",
            "the client counted",
        ),
        ({"loads": [{"concurrency": 5, "of_baseline": 0.1}]}, "int8", "load at 5", "inconclusive", "was not loaded so"),
    ],
)
def test_limits(policy: dict[str, Any], name: str, limit: str, outcome: Verdict, said: str) -> None:
    found = asked(three(), policy)
    (one,) = [one for one in found.candidates if one.name == name]
    (told,) = [told for told in one.limits if told.limit == limit]
    assert told.outcome == outcome
    assert said in told.reason
    assert one.outcome == outcome
    if outcome != "pass":
        assert found.choice != name


@pytest.mark.parametrize(
    ("ratio", "low", "high", "outcome"),
    [
        (1.05, 1.01, 1.09, "pass"),
        (1.05, 0.97, 1.13, "inconclusive"),
        (1.2, 1.12, 1.28, "fail"),
        (1.05, None, None, "inconclusive"),
    ],
)
def test_verbosity(ratio: float, low: float | None, high: float | None, outcome: Verdict) -> None:
    rows = three()
    found = VerbosityRecord(items=80, baseline_tokens=50, artifact_tokens=50 * ratio, ratio=ratio, low=low, high=high)
    rows[1] = rows[1].model_copy(update={"verbosity": found})
    int8, nf4, _ = asked(rows, {"verbosity": 1.1}).candidates
    (told,) = [one for one in int8.limits if one.limit == "verbosity"]
    assert told.outcome == outcome
    assert f"take {ratio:.2f}" in told.reason
    assert "(80 items), allowed are 1.1 times" in told.reason
    (unknown,) = [one for one in nf4.limits if one.limit == "verbosity"]
    assert unknown.outcome == "inconclusive", "not known is not good enough"
    assert not [one for one in asked(rows).candidates[0].limits if one.limit == "verbosity"]


def test_checks_and_fallbacks() -> None:
    rows = three()
    rows[1] = checked(rows[1], [check_record("batching", "fail")])
    (int8, *_) = asked(rows).candidates
    assert [one.limit for one in int8.limits if one.outcome == "fail"] == ["checks"]
    (int8, *_) = asked(rows, {"checks": False}).candidates
    assert int8.outcome == "pass"


def test_what_is_not_sound_or_not_good_enough_is_rejected_with_its_reason() -> None:
    found = recommend(report_rows(), Policy(), RecommendConfig(concurrency=4))
    reasons = {one.name: [told.reason for told in one.limits if told.outcome == "fail"] for one in found.candidates}
    assert found.choice == "int8"
    assert "arithmetic" in reasons["nf4"][0]
    assert reasons["awq"] == [
        "inspect:awq: the artifact did not pass its inspection: weight_agreement: lowest correlation 0.31"
    ]


def test_where_the_policy_approves_the_next_step_is_to_promote() -> None:
    found = recommend(report_rows(), Policy(), RecommendConfig(concurrency=4), "policy")
    assert found.next_step == "quantbench registry promote int8 --to shadow"


def test_nothing_to_take() -> None:
    baseline, int8, *_ = three()
    found = asked([baseline, judged(int8, "fail")])
    assert (found.kind, found.choice, found.digest) == ("none", None, None)
    assert "serve the baseline" in found.sentence


def test_undecided_says_how_many_items_would_decide() -> None:
    baseline, int8, nf4, _ = three()
    open_one = judged(int8, "inconclusive")
    assert open_one.retention is not None
    first, *others = open_one.retention.categories
    told = [first.model_copy(update={"items_to_decide": 1234}), *others]
    open_one = open_one.model_copy(update={"retention": open_one.retention.model_copy(update={"categories": told})})
    found = asked([baseline, open_one, judged(nf4, "fail")])
    assert found.kind == "undecided"
    assert "int8 may" in found.sentence
    wanted = f'quantbench run RECIPE --set "evaluation.items={{{first.category}: 1234}}"'
    assert found.next_step.startswith(wanted)
    # What surely passes is taken before what may.
    assert asked([baseline, open_one, nf4]).choice == "nf4"


def test_replicates_are_no_candidates() -> None:
    rows = three()
    again = rows[3].model_copy(update={"name": "gptq+2"})
    assert [one.name for one in asked([*rows, again]).candidates] == ["int8", "nf4", "gptq"]


def priced(**changes: Any) -> Pricing:
    told = {"device": "a GPU", "currency": "EUR", "per_hour": 3.6, "source": "a page", "read_on": "2026-01-02"}
    pricing = pricing_of({"price": told | changes})
    assert pricing is not None
    return pricing


def prefilling(row: Row, share: float | None) -> Row:
    """The row with so much of its requests' seconds before the first token; None: answers came in one piece."""
    assert row.measurement is not None
    points = []
    for point in row.load_points:
        seconds = point.request_seconds or 0.0
        split = {"prefill_seconds": share * seconds, "decode_seconds": (1 - share) * seconds} if share else {}
        points.append(point.model_copy(update=split or {"prefill_seconds": 0.0, "decode_seconds": 0.0}))
    serving = row.measurement.serving.model_copy(update={"load_points": points})
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": serving})})


def test_the_cheapest_is_that_of_the_lowest_blended_price() -> None:
    found = asked(three(), pricing=priced(), goal="cheapest")
    assert found.choice == "gptq"
    # 80 tokens are written in 80 / 71 s at 0.1 cent a second, and 40 read in a quarter of the time.
    paid = 3.6 / 3600 * 80 / 71.0
    blended = (3 * 0.25 * paid / 40 + 0.75 * paid / 80) / 4 * 1e6
    assert f"costs {blended:.2f} EUR a million tokens there (blended 3:1), and takes" in found.sentence
    assert "the cheapest of those" in found.sentence
    assert "MADE UP" not in found.sentence
    assert "EUR (MADE UP) a million" in asked(three(), pricing=priced(made_up=True), goal="fastest").sentence


def test_one_that_is_slower_and_cheaper_is_not_beaten() -> None:
    baseline, int8, nf4, gptq = three()
    # Three of four blended tokens are read ones: int8 reads in a tenth of its time what takes gptq nine tenths.
    rows = [baseline, prefilling(int8, 0.1), nf4, prefilling(gptq, 0.9)]
    assert asked(rows, pricing=priced(), goal="cheapest").choice == "int8"
    assert asked(rows, pricing=priced(), goal="fastest").choice == "gptq"


def test_what_is_not_known_is_said_and_chosen_last() -> None:
    baseline, int8, nf4, gptq = three()
    some = asked([baseline, int8, nf4, prefilling(gptq, None)], pricing=priced(), goal="cheapest")
    assert some.choice == "int8"
    assert "what gptq costs is not known" in some.sentence
    none = asked([baseline, prefilling(gptq, None)], pricing=priced(), goal="cheapest")
    assert "take gptq, the fastest, since what it costs is not known (its answers came in one piece)," in none.sentence
    assert "the run has no price" in asked(three(), goal="cheapest").sentence


def test_cheapest_needs_a_price_and_there_is_one_place_for_it() -> None:
    assert run_config(recommend={"goal": "cheapest"}, price=priced().price.model_dump(mode="json")).price is not None
    with pytest.raises(ValidationError, match=r"needs a `price`: write `include: ../prices/cpu.yaml`"):
        run_config(recommend={"goal": "cheapest"})
    with pytest.raises(ValidationError, match="the price stands beside `recommend`"):
        run_config(recommend={"price_per_hour": 3.6})


def test_a_run_s_price_is_its_own_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = tmp_path / "workspace"
    record = report_record(workspace / "runs" / "r1", rows=three())
    # As recipes were before.
    record = record.model_copy(update={"config": record.config | {"recommend": {"price_per_hour": None}}})
    record.run_dir.mkdir(parents=True)
    write_sealed(record.run_dir / "result.json", record)
    command = ["recommend", "--workspace", str(workspace), "--goal", "cheapest"]
    assert main(command) == 2
    assert "has no price, so nobody knows what is cheapest" in capsys.readouterr().err
    assert main([*command, "--price", str(ROOT / "configs" / "prices" / "cpu.yaml")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "USD (MADE UP) a million tokens there" in said
    assert main([*command, "--price", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read" in capsys.readouterr().err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("price: {device: a GPU, currency: USD, per_hour: 0, source: a page, read_on: '2026-01-02'}\n")
    assert main([*command, "--price", str(wrong)]) == 2
    assert "greater than 0" in capsys.readouterr().err


def test_a_recipe_asks_for_speeds_that_it_measures() -> None:
    assert run_config(policy={"loads": [{"concurrency": 4, "of_baseline": 0.5}]}).policy.loads
    for wrong in ({"policy": {"loads": [{"concurrency": 5, "of_baseline": 0.5}]}}, {"recommend": {"concurrency": 5}}):
        with pytest.raises(ValidationError, match="with 5 requests at a time is asked for, and `load` measures 1, 4"):
            run_config(**wrong)
    with pytest.raises(ValidationError, match="a load without a limit says nothing"):
        run_config(policy={"loads": [{"concurrency": 4}]})


def test_it_stands_in_terminal_and_page(tmp_path: Path) -> None:
    found = recommend(report_rows(), Policy(), RecommendConfig(goal="fastest", concurrency=4))
    console = Console(record=True, width=200, file=None, quiet=False)
    with console.capture() as capture:
        print_recommendation(console, found)
    said = capture.get()
    assert "recommended: take int8, the fastest" in said
    assert "nf4 fail, quality: " in said
    record = report_record(tmp_path, recommendation=found)
    page = render_page(record, SUITE, WRITTEN)
    assert "<strong>Recommended:</strong> take int8, the fastest" in page
    assert "Recommended:" not in render_page(report_record(tmp_path), SUITE, WRITTEN)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "workspace" / "runs" / "one"
    run_dir.mkdir(parents=True)
    record = report_record(run_dir)
    write_sealed(run_dir / "result.json", record)
    place = ["--workspace", str(tmp_path / "workspace")]
    assert main(["recommend", *place]) == 0
    assert "recommended: take int8" in capsys.readouterr().out
    assert main(["recommend", "on", "--goal", "smallest", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)["goal"] == "smallest"
    strict = record.model_copy(update={"config": record.config | {"policy": {"size_mib": 1}}})
    write_sealed(run_dir / "result.json", strict)
    assert main(["recommend", *place]) == 1
    assert "serve the baseline" in capsys.readouterr().out
    assert main(["recommend", "two", *place]) == 2
    assert "no finished run" in capsys.readouterr().err
    (run_dir / "result.json").write_text("{}")
    assert main(["recommend", *place]) == 2
    assert main(["recommend", "one", *place]) == 2
    assert main(["recommend", "--workspace", str(tmp_path / "nowhere")]) == 2
