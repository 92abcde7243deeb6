"""cron's five fields as systemd's calendar events (systemd.time(7))."""

from collections.abc import Collection

from pipelines.recipe.schedule_config import ScheduleConfig

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def on_calendar(schedule: ScheduleConfig) -> list[str]:
    """The events that together mean the schedule: two where either of two days is enough, as in cron."""
    values = schedule.values()
    minutes, hours = _listed(values.minutes, range(60), "{:02}"), _listed(values.hours, range(24), "{:02}")
    months = _listed(values.months, range(1, 13), "{:02}")
    days = _listed(values.days, range(1, 32), "{:02}")
    weekdays = {day % 7 for day in values.weekdays if isinstance(day, int)}
    named = "" if len(weekdays) == 7 else ",".join(_WEEKDAYS[day] for day in sorted(weekdays)) + " "
    time = f"{hours}:{minutes}:00 {schedule.timezone}"
    if values.day_and or not named or days == "*":
        return [f"{named}*-{months}-{days} {time}"] if values.day_and else [f"*-{months}-* {time}"]
    return [f"*-{months}-{days} {time}", f"{named}*-{months}-* {time}"]


def _listed(values: Collection[int], all_values: range, form: str) -> str:
    return "*" if len(values) == len(all_values) else ",".join(form.format(value) for value in sorted(values))
