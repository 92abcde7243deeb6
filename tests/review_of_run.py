"""The review of the report tests' run, with all that its record does not hold by itself: made up, for the browser."""

from pathlib import Path
from typing import Any

from pipelines.records.decision import Candidate, LimitOutcome, RecommendationRecord
from pipelines.records.run_record import RunRecord
from pipelines.review.page_data import PageData, PriceShown, Regression
from pipelines.review.report_page import data_of_run
from registry.contracts.comparison import Verdict
from tests.unit.pipelines.report_records import WRITTEN, report_record

WORSE = "arithmetic: 30.1 % after 33.0 %, −2.9 points [−5.0, −1.0] on the same 120 items"


def _held(name: str, outcome: Verdict, limit: str, reason: str) -> Candidate:
    return Candidate(name=name, digest=None, limits=[LimitOutcome(limit=limit, outcome=outcome, reason=reason)])


RECOMMENDED = RecommendationRecord(
    goal="most accurate",
    kind="artifact",
    choice="int8",
    digest="sha256:int8",
    sentence="take int8, the most accurate of those that keep all limits: it keeps 0.95 in its lowest category",
    candidates=[
        _held("int8", "pass", "quality", "every category loses less than its margin"),
        _held("nf4", "fail", "quality", "scores 12.4 points lower in arithmetic, and 2 are allowed"),
        _held("gptq", "inconclusive", "load at 8", "the load test is not to be believed"),
        _held("awq", "fail", "soundness", "did not pass its inspection"),
    ],
    next_step="quantbench registry approve int8",
)


def decided_record(folder: Path, **changes: Any) -> RunRecord:
    """The run of `report_record`, with a recommendation, of a source that no line holds."""
    record = report_record(folder, recommendation=RECOMMENDED, **changes)
    baseline = record.rows[0]
    if baseline.checkpoint is None:
        return record
    origin = f"gguf SmolLM2-135M-Instruct.Q4_1.gguf (sha256:{'b179' * 16})"
    checkpoint = baseline.checkpoint.model_copy(update={"origin": origin})
    rows = [baseline.model_copy(update={"checkpoint": checkpoint}), *record.rows[1:]]
    return record.model_copy(update={"rows": rows})


def reviewed(folder: Path, **changes: Any) -> PageData:
    """Its review, with a price, shares of the machine's limit, and what came of it beside the version before."""
    data = data_of_run(decided_record(folder), WRITTEN)
    models = data.models.model_copy(
        update={
            "decode_share": [0.61, 0.43, 0.12, 0.7, None],
            "cost_per_million": [3.2, 4.1, 8.8, 3.1, None],
            "cost_within_slo_per_million": [4.2, 5.1, None, 3.9, None],
        }
    )
    beside: dict[str, Any] = {"model": 1, "against": None, "value": None, "before": None, "difference": None}
    update = {
        "models": models,
        "prices": [
            PriceShown(
                currency="USD", device="c6i.large", per_hour=0.085, source="a list", read_on="2026-05-01", made_up=True
            )
        ],
        "regressions": [
            Regression(**beside, quantity="arithmetic", how="paired", change="worse", text=f"{WORSE}."),
            Regression(
                **beside,
                quantity="tokens_per_second",
                how="numbers",
                change="better",
                text="output tokens/s: 92.0 after 80.0.",
            ),
            Regression(**beside, quantity="knowledge", how="intervals", change="same", text="knowledge: as before."),
        ],
    }
    return data.model_copy(update=update | changes)
