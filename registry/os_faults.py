"""What the machine refused, in words: the one place that reads the numbers of operating-system errors.

A full disk, a missing right and a server that is gone all come as OSError; the number tells them apart. Libraries in
Rust and C++ wrap the number into errors of their own, so it is looked for in texts and causes as well.
"""

import errno
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configs.errors import Blame, StageError

_REFUSED_RESOURCES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
)
"""What a library never asks for on purpose: found anywhere behind an error, it is the error."""


class _Meaning(NamedTuple):
    """What some error numbers have in common."""

    numbers: frozenset[int]
    what: str
    """With `{path}`, `{room}` on its disk, and the number of open `{files}` that is allowed."""
    remedy: str
    blame: Blame | None


_MEANINGS = (
    _Meaning(
        frozenset({errno.ENOSPC}),
        "there is no room on the disk of {path}, {room}",
        "free space there or name a --workspace on another disk, then run the same command: finished stages are kept",
        "machine",
    ),
    _Meaning(
        frozenset({errno.EDQUOT}),
        "your quota is used up on the disk of {path}, {room}",
        "remove files of yours there or have it raised, then run the same command: finished stages are kept",
        "machine",
    ),
    _Meaning(
        frozenset({errno.EFBIG}),
        "{path} may not grow further",
        "raise this shell's limit (`ulimit -f`), or name a place on another file system",
        "machine",
    ),
    _Meaning(
        frozenset({errno.EROFS}),
        "the disk of {path} is mounted read-only",
        "mount it for writing, or name a place on another disk",
        "machine",
    ),
    _Meaning(
        frozenset({errno.EACCES, errno.EPERM}),
        "this user has no right to use {path}",
        "give the user the right to read and write there (`ls -ld` shows who has it), or name another place",
        "machine",
    ),
    _Meaning(
        frozenset({errno.EMFILE, errno.ENFILE}),
        "too many files are open; this shell allows {files}",
        "raise the limit (`ulimit -n`) before the command",
        "machine",
    ),
    _Meaning(
        frozenset({errno.ENOMEM, errno.EAGAIN}),
        "no more memory, or no further process, was to be had",
        "end what else runs here or take a larger machine; smaller batches, fewer calibration rows and a smaller KV"
        " cache take less",
        "machine",
    ),
    _Meaning(
        frozenset({errno.EIO, errno.ESTALE, errno.EBADMSG, errno.EUCLEAN}),
        "the disk of {path} gives errors",
        "look into the kernel's log (`dmesg`), and use another disk",
        "machine",
    ),
    _Meaning(
        frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}),
        "{path} is not there, or not what it has to be",
        "put it back or name another",
        None,
    ),
    _Meaning(
        frozenset(
            {
                errno.ECONNREFUSED,
                errno.ECONNRESET,
                errno.ECONNABORTED,
                errno.EPIPE,
                errno.ETIMEDOUT,
                errno.EHOSTUNREACH,
                errno.ENETUNREACH,
            }
        ),
        "the other side of a connection is gone",
        "see whether that server runs, and what its log says",
        None,
    ),
)
_ANY_OTHER = _Meaning(
    frozenset(), "{path} cannot be used", "mend what the words in brackets say; nothing changes by itself", "machine"
)
_NUMBER = re.compile(r"\[[Ee]rrno (\d+)\]|\(os error (\d+)\)|[Ee]rror code (\d+) \(")
"""As Python and pyarrow, Rust (std::io::Error), and torch's allocator write it."""
_SAID = (
    ("database or disk is full", errno.ENOSPC),
    ("attempt to write a readonly database", errno.EROFS),
    ("disk I/O error", errno.EIO),
    ("std::bad_alloc", errno.ENOMEM),
    ("out of memory", errno.ENOMEM),
)
"""What sqlite (sqlite3_errstr), C++ and CUDA say instead of a number."""
_SMALL_FILE_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200
"""Of a library's own words."""


class Refusal(NamedTuple):
    """What the operating system refused."""

    number: int
    """Of errno(3)."""
    path: str | None = None
    """The file that it is about, where that is known."""


def refusal_in(text: str) -> Refusal | None:
    """The refused resource that a library's message or a log names; None where it names none."""
    said = [number for words, number in _SAID if words in text]
    numbers = [int(next(filter(None, found))) for found in _NUMBER.findall(text)]
    return next((Refusal(number) for number in (*numbers, *said) if number in _REFUSED_RESOURCES), None)


def refusal_behind(error: BaseException) -> Refusal | None:
    """What the operating system refused, if that is what `error` comes from.

    Any number counts that an OSError has itself or that was named as its cause. What lies further behind may have been
    tried on purpose, such as a file that need not be there; of that only refused resources count.
    """
    for place, one in enumerate(_chain(error)):
        if isinstance(one, OSError) and one.errno is not None and (place == 0 or one.errno in _REFUSED_RESOURCES):
            return Refusal(one.errno, str(one.filename) if one.filename else None)
        if isinstance(one, MemoryError):
            return Refusal(errno.ENOMEM)
        found = refusal_in(str(one))
        if found:
            return found
    return None


def machine_fault(error: BaseException, doing: str, place: Path) -> StageError | None:
    """`error` as a sentence about the machine; None where it does not come from there.

    Args:
        doing: What was going on, the sentence's beginning.
        place: The folder that was written, where the error names no file.
    """
    refusal = refusal_behind(error)
    if refusal is None:
        return None
    wrapped = not (isinstance(error, OSError) and error.errno == refusal.number)
    return told(refusal, doing, place, f"{type(error).__name__}: {error}" if wrapped else "")


def check_not_refused(error: BaseException, doing: str, place: Path) -> None:
    """To be asked before something else is concluded from `error`, such as that a file is damaged.

    Raises:
        StageError: The machine refused a resource or a right, and nothing else is known.
    """
    fault = machine_fault(error, doing, place)
    if fault and fault.blame == "machine":
        raise fault from error


def told(refusal: Refusal, doing: str, place: Path, said: str = "") -> StageError:
    """A refusal as an error that says what, where, and what to change.

    Args:
        said: The words in which it was told, if others than the system's.
    """
    path = Path(refusal.path) if refusal.path else place
    meaning = next((one for one in _MEANINGS if refusal.number in one.numbers), _ANY_OTHER)
    what = meaning.what.format(path=path, room=_room(path), files=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    words = "; ".join([os.strerror(refusal.number), *([" ".join(said.split())[:_SHOWN_CHARACTERS]] if said else [])])
    return StageError(f"{doing}: {what} ({words})", remedy=meaning.remedy, blame=meaning.blame)


def is_full(folder: Path) -> bool:
    """Whether the disk of `folder` has no room left for a small file."""
    try:
        found = os.statvfs(_existing(folder))
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _SMALL_FILE_BYTES or bool(found.f_files and not found.f_favail)


def _room(path: Path) -> str:
    """How much is free there, files that can still be made included: a disk without those says that it is full."""
    try:
        found = os.statvfs(_existing(path))
    except OSError:
        return "how much is free cannot be read"
    free = f"{found.f_bavail * found.f_frsize / 2**20:.1f} MiB free"
    return f"{free}, but no file can be made there any more" if found.f_files and not found.f_favail else free


def _existing(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause or what was being handled, and so on."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
