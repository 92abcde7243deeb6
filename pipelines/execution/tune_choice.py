"""Which cell of a tuner's grid is the best, and what is to be said of the others. Pure: from records only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.recipe.tune_config import AtConcurrency, AtRate, deciding_point
from pipelines.records.tune_record import TuneCell
from registry.contracts import Failure, ServingRecord

Objective = AtConcurrency | AtRate


class Choice(NamedTuple):
    """The cells, the best first, and the winner among them."""

    cells: list[TuneCell]
    winner: TuneCell | None
    reason: str
    """One sentence: why this one, or why none."""


def measured_cell(parameters: dict[str, Any], serving: ServingRecord, objective: Objective) -> TuneCell:
    """A cell whose load test took place."""
    point = deciding_point(serving, objective)
    if point is None:
        doubtful = [point.invalid for point in serving.load_points if point.invalid]
        note = "the SLO was missed at the lowest rate tried" + "".join(f"; {text}" for text in doubtful[:1])
        return TuneCell(parameters=parameters, goodput_requests_per_second=0.0, note=note, serving=serving)
    goodput = point.good_requests_per_second
    if isinstance(objective, AtRate):
        goodput = point.requests_per_second_offered
    if point.invalid:
        goodput, note = None, f"invalid: {point.invalid}"
    elif not goodput:
        note = "no request kept the SLO"
    else:
        note = f"{point.failed} of {point.requests} requests failed" if point.failed else ""
    return TuneCell(parameters=parameters, goodput_requests_per_second=goodput, note=note, serving=serving)


def failed_cell(parameters: dict[str, Any], failure: Failure) -> TuneCell:
    """A cell that could not be measured: mostly parameters that the engine does not take together."""
    what = failure.what.strip().splitlines()[0]
    return TuneCell(parameters=parameters, goodput_requests_per_second=None, note=f"failed: {what}", failure=failure)


def choose(cells: Sequence[TuneCell], objective: Objective, tie_share: float) -> Choice:
    """The cell with the highest goodput; among those that come as close as runs differ, the one with the lowest p95.

    Args:
        cells: In the grid's order, which decides what nothing else does.
        objective: Of the search.
        tie_share: How close, as a share of the highest goodput.

    Returns:
        Without a winner where no cell kept the SLO or none was measured.
    """
    good = [cell for cell in cells if cell.goodput_requests_per_second]
    ranked = sorted(cells, key=lambda cell: (cell.failure is not None, -_goodput(cell, missing=-1.0)))
    if not good:
        return Choice(ranked, None, _why_none(cells))
    highest = max(map(_goodput, good))
    close = [cell for cell in good if _goodput(cell) >= (1 - tie_share) * highest]
    # Equal latencies leave the order of goodput, and then the grid's.
    winner = min(close, key=lambda cell: (_p95(cell, objective), -_goodput(cell)))
    if len(close) == 1:
        reason = f"{winner.name} has the highest goodput, {highest:.3g} requests/s"
    else:
        reason = (
            f"{len(close)} cells come within {100 * tie_share:.3g} % of the highest goodput, {highest:.3g} requests/s,"
            f" which is no difference; of these {winner.name} has the lowest end-to-end latency at p95"
        )
    tied = {cell.name for cell in close} - {winner.name}
    told = [_with_note(cell, "ties with the best, slower at p95") if cell.name in tied else cell for cell in ranked]
    told.sort(key=lambda cell: cell.name != winner.name)
    return Choice(told, winner, reason)


def _why_none(cells: Sequence[TuneCell]) -> str:
    measured = [cell for cell in cells if cell.failure is None]
    if not measured:
        return f"none of {len(cells)} cells could be measured"
    counted = [cell for cell in measured if cell.goodput_requests_per_second is not None]
    if not counted:
        return f"none of {len(measured)} measured cells is valid"
    return f"the SLO was missed by all of {len(counted)} cells that count; loosen it, or lower the load"


def _goodput(cell: TuneCell, missing: float = 0.0) -> float:
    return missing if cell.goodput_requests_per_second is None else cell.goodput_requests_per_second


def _p95(cell: TuneCell, objective: Objective) -> float:
    point = deciding_point(cell.serving, objective) if cell.serving else None
    return point.e2e.p95_seconds if point else float("inf")


def _with_note(cell: TuneCell, note: str) -> TuneCell:
    return cell.model_copy(update={"note": f"{cell.note}; {note}" if cell.note else note})
