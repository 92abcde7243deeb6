"""Any exception as an explained failure: what the machine refused by its number, all else by whose code raised it."""

import sysconfig
import traceback
from pathlib import Path

from configs.errors import Blame, QuantbenchError, StageError
from registry.os_faults import machine_fault

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
_PLAIN = frozenset({"pydantic", "yaml", "numpy", "pyarrow", "aiohttp"})
"""Libraries that do what they are told: what they raise is the fault of whoever called them."""
_OURS = str(Path(__file__).resolve().parents[1])


def explanation_of(error: Exception, doing: str, place: Path) -> QuantbenchError:
    """What to tell of `error`; one that is explained already stays as it is.

    Args:
        doing: What was going on, the sentence's beginning.
        place: The folder that was written.
    """
    if isinstance(error, QuantbenchError):
        return error
    return machine_fault(error, doing, place) or _unforeseen(error, doing)


def _unforeseen(error: Exception, doing: str) -> StageError:
    """`error` with its place, and what can be done about it.

    The innermost line that is neither Python's own nor of a plain library says whose it is: an engine's, or ours.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place, blame, library = "", None, ""
    for frame in reversed(frames):
        blame, library = _owner(frame.filename)
        if blame:
            place = f" ({_short(frame.filename)}:{frame.lineno})"
            break
    told = f"{library} raised this, and would again: change what it is asked to do, or its version"
    remedy = told if blame == "engine" else "this failure is not an explained one: report it with its traceback"
    return StageError(f"{doing}: {type(error).__name__}: {error}{place}", remedy=remedy, blame=blame)


def _owner(file: str) -> tuple[Blame | None, str]:
    """Whose a source file is, and the library's name."""
    for folder in _LIBRARIES:
        if file.startswith(folder + "/"):
            library = file.removeprefix(folder + "/").partition("/")[0].removesuffix(".py")
            return (None, "") if library in _PLAIN else ("engine", library)
    return ("quantbench", "") if file.startswith(_OURS + "/") else (None, "")


def _short(file: str) -> str:
    for folder in (*_LIBRARIES, _OURS):
        if file.startswith(folder + "/"):
            return file.removeprefix(folder + "/")
    return file
