"""The highest Poisson rate that keeps the SLO, in a declared number of load tests."""

from collections.abc import Callable

from registry.contracts.serving import SLO, RateSearch
from serving_checks.load.config import Sweep


def search_rate(sweep: Sweep, slo: SLO, floor: float, ceiling: float, keeps_slo: Callable[[float], bool]) -> RateSearch:
    """Bisect between half of `floor` and `ceiling`.

    Args:
        sweep: How many rates to try, and the share that the record names.
        slo: Likewise.
        floor: Requests per second of a closed loop of one. At half of it a request rarely meets another, so an SLO that
            is not kept there is kept at no rate worth a search.
        ceiling: Requests per second of the fullest closed loop; no rate above it can last.
        keeps_slo: Runs a load test at a rate, in requests per second.
    """
    low, high = floor / 2, max(ceiling, floor)
    tried: list[float] = []

    def good(rate: float) -> bool:
        tried.append(rate)
        return keeps_slo(rate)

    highest: float | None = None
    if good(low):
        highest = low
        if good(high):
            highest = high
        while highest < high and len(tried) < sweep.steps:
            rate = (highest + high) / 2
            if good(rate):
                highest = rate
            else:
                high = rate
    return RateSearch(slo=slo, share=sweep.share, highest_good_requests_per_second=highest, tried=tried)
