"""What a category's paired scores say to the gate."""

from evals.statistics.score import PairedCells, difference_interval
from registry.gates import Evidence


def share_evidence(category: str, cells: PairedCells, margin: float, chance: float | None, items: int) -> Evidence:
    """Of a category whose items score 0 to 1.

    Args:
        category: Its name.
        cells: Both models' scores.
        margin: The largest acceptable loss.
        chance: What guessing scores; None where guessing has no score.
        items: Rows that the cells are made of.
    """
    low, high = difference_interval(cells, cells.reach)
    score_low, score_high = cells.baseline_interval()
    guessing = chance or 0.0
    p_pass, p_fail = cells.tails(cells.mean_z(-margin))
    return Evidence(
        category=category,
        unit="share",
        items=items,
        margin=margin,
        loss=-cells.mean_difference,
        loss_low=-high,
        loss_high=-low,
        p_pass=p_pass,
        p_fail=p_fail,
        chance=guessing,
        headroom=cells.mean_baseline - guessing,
        headroom_low=score_low - guessing,
        headroom_high=score_high - guessing,
    )
