"""When a recipe is run by itself: five fields of cron in a time zone."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator

from configs.base import StrictModel

_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_TERM = r"(\*(/\d+)?|\d+(-\d+(/\d+)?)?)"
_FIELD = re.compile(rf"{_TERM}(,{_TERM})*")
"""What every cron reads alike: numbers, ranges, steps of ranges and of `*`, lists. No names, `L`, `#`, `?` or `@daily`.
"""
_SOME_DAY = datetime(2024, 1, 1)


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"five fields are wanted ({', '.join(_FIELDS)}), such as `0 4 * * 0` for Sundays at 4:00")
    for name, field in zip(_FIELDS, fields, strict=True):
        if not _FIELD.fullmatch(field):
            raise ValueError(
                f"the {name}, {field!r}, is not what every cron reads: write numbers, ranges such as 1-5, lists, and"
                " steps such as */2; a Sunday is 0"
            )
    try:
        known = CronSim(" ".join(fields), _SOME_DAY)
    except (CronSimError, ValueError) as error:
        raise ValueError(
            f"{str(error).removeprefix('Bad ')}: a number is out of bounds, or a range ends early"
        ) from None
    if next(known, None) is None:
        raise ValueError("there is no such day in any year")
    return " ".join(fields)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}: write one such as UTC or Europe/Berlin") from None
    return name


class ScheduleConfig(StrictModel):
    """Nothing in Quantbench waits for it: `quantbench schedule render` writes it for schedulers that exist."""

    cron: Annotated[str, AfterValidator(_cron)]
    """Minute, hour, day of the month, month, day of the week, such as `0 4 * * 0`. Where both days are given, either is
    enough, as in cron."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Of the IANA time zone database."""

    def values(self) -> CronSim:
        """What the fields mean: `minutes`, `hours`, `days`, `months`, `weekdays` as sets, `day_and`."""
        return CronSim(self.cron, _SOME_DAY)

    def local_times(self, after: datetime) -> Iterator[datetime]:
        """When clocks on the wall show a time of it, whatever they do in between.

        Args:
            after: Local, without a zone.
        """
        return CronSim(self.cron, after)

    def times(self, after: datetime) -> Iterator[datetime]:
        """When it is due, in its zone.

        Args:
            after: With a zone; the first time is later.
        """
        zone = ZoneInfo(self.timezone)
        # CronSim's own times with a zone leave some out after clocks that change by half an hour (Lord Howe).
        for local in self.local_times(after.astimezone(zone).replace(tzinfo=None)):
            # What clocks skip is shown once they have: through UTC, since no clock shows it.
            time = local.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)
            if time > after:
                yield time
