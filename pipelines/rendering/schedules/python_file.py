"""What files for orchestrators have in common: they are Python, and their times are read by croniter."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from configs.errors import RequestError
from pipelines.recipe.schedule_config import ScheduleConfig

RETRIES = 2
RETRY_MINUTES = 10
TIMEOUT_HOURS = 24
"""When a run is ended, and tried again: it goes on where it was."""
_WIDTH = 100


def python_file(template: str, told: Sequence[str], recipe: Path, values: Mapping[str, object]) -> str:
    """A file whose docstring says what it is.

    Args:
        template: With `$name` where a value is put as a Python literal, and `$told` in the docstring.
        told: What it is, then what its reader has to know, each a sentence or a command.
        recipe: What it was rendered from.
        values: Of strings, numbers, lists, dictionaries and None.
    """
    first, *more = told
    rendered = f"{first} Rendered by `quantbench schedule render` from {recipe.name}: change that and render anew."
    lines = textwrap.wrap(rendered, _WIDTH)
    for sentence in more:
        lines += ["", *textwrap.wrap(sentence, _WIDTH, break_long_words=False, break_on_hyphens=False)]
    # Nothing in a file's name ends the docstring that it stands in.
    docstring = "\n".join(lines).replace("\\", "/").replace('"', "'")
    return Template(template).substitute({name: _literal(value) for name, value in values.items()}, told=docstring)


def cron_of(schedule: ScheduleConfig, scheduler: str) -> str:
    """The five fields, for a scheduler that reads them by croniter.

    Raises:
        RequestError: Both days are given and one begins with a star, such as `*/2`: cron runs on days that are both,
            croniter on days that are either.
    """
    _, _, day, _, weekday = schedule.cron.split()
    if "*" not in (day, weekday) and schedule.values().day_and:
        raise RequestError(
            f"{scheduler} and cron do not agree on what `{schedule.cron}` means: where one of the two days begins with"
            " a star and the other is given too, cron runs on days that are both, and it on days that are either",
            remedy="write the days as a list, such as 1,11,21,31, or give one of the two fields only",
        )
    return schedule.cron


def _literal(value: object) -> str:
    """As Python writes it, with the quotes of our own code; lists and dictionaries an entry a line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return _lines("{", [f"{_literal(key)}: {_literal_in(one)}" for key, one in value.items()], "}")
    if isinstance(value, list):
        return _lines("[", [_literal_in(one) for one in value], "]")
    return repr(value)


def _literal_in(value: object) -> str:
    return f"[{', '.join(map(_literal, value))}]" if isinstance(value, list) else _literal(value)


def _lines(begin: str, entries: Sequence[str], end: str) -> str:
    return "\n".join([begin, *(f"    {entry}," for entry in entries), end]) if entries else begin + end
