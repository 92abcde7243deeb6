"""Times of a schedule that its zone's clocks skip or show twice: schedulers do not agree on what they mean."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from configs.errors import RequestError
from pipelines.recipe.schedule_config import ScheduleConfig

_YEARS_AHEAD = 5
_STEP = timedelta(minutes=15)
"""No zone changes its clocks between two quarters of an hour."""


class _Change(NamedTuple):
    begin: datetime
    """Local, without a zone: the first time that is skipped, or shown twice."""
    end: datetime
    """The first that is neither."""
    twice: bool


def check_clock_changes(schedule: ScheduleConfig, now: datetime) -> None:
    """Refuse a schedule that would not mean the same to all schedulers in the next years.

    On the night when clocks go forward, cron runs what was skipped as soon as they have, systemd and Kubernetes leave
    it out; when they go back, some run every quarter of the hour that comes twice once, some twice.

    Raises:
        RequestError: One of its times is skipped or comes twice.
    """
    for change in _changes(ZoneInfo(schedule.timezone), now):
        due = next(schedule.local_times(change.begin - timedelta(minutes=1)), None)
        if due is not None and due < change.end:
            how = "comes twice" if change.twice else "does not come"
            raise RequestError(
                f"in {schedule.timezone}, {due:%H:%M} {how} on {due:%Y-%m-%d}, when clocks change:"
                f" schedulers do not agree on what `{schedule.cron}` means then",
                remedy="take an hour at which no clock is changed, such as 4:00 to 23:00, or `timezone: UTC`",
            )


def _changes(zone: ZoneInfo, now: datetime) -> Iterator[_Change]:
    day = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for _ in range(_YEARS_AHEAD * 366):
        later = day + timedelta(days=1)
        at = day
        while _offset(zone, at) != _offset(zone, later):
            before, at = _offset(zone, at), at + _STEP
            after = _offset(zone, at)
            if before != after:
                local = at.replace(tzinfo=None)
                yield _Change(local + min(before, after), local + max(before, after), twice=after < before)
        day = later


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()
