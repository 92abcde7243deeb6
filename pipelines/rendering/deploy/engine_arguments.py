"""A command line's arguments in other forms: as the engine's own fields, and as variables."""

from collections.abc import Iterator


def fields_of(arguments: list[str]) -> dict[str, str | int | bool]:
    """Field -> value, as Triton's backend hands them to the engine: `--max-model-len 512` is `max_model_len: 512`."""
    found: dict[str, str | int | bool] = {}
    for flag, value in _pairs(arguments):
        name = flag.removeprefix("--").replace("-", "_")
        if value is None:
            found[name.removeprefix("no_")] = not name.startswith("no_")
        else:
            found[name] = int(value) if value.isdecimal() else value
    return found


def variables_of(arguments: list[str], prefix: str) -> dict[str, str]:
    """Variable -> value, empty for a switch: `--max-model-len 512` is `PREFIX_MAX_MODEL_LEN=512`."""
    return {
        prefix + flag.removeprefix("--").replace("-", "_").upper(): value or "" for flag, value in _pairs(arguments)
    }


def _pairs(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag with its value; None for a switch, which the next flag follows."""
    words = [*arguments, "--"]
    place = 0
    while place < len(arguments):
        value = None if words[place + 1].startswith("--") else words[place + 1]
        yield words[place], value
        place += 1 if value is None else 2
