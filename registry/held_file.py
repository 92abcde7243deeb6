"""A file that says something for as long as the process that wrote it lives, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST_BYTES = 1 << 16


@contextmanager
def held_file(path: Path, text: str) -> Iterator[None]:
    """Have `text` in the file for the length of the block; where another process holds it, that one's text stays.

    The holder is known by flock(2), which the kernel drops at its end, and not by a process id (see `owned_folders`).
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield
            return
        os.ftruncate(file, 0)
        os.write(file, text.encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def read_held(path: Path) -> str | None:
    """What its holder says; None where nobody holds it.

    Raises:
        OSError: It cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(file, _MOST_BYTES).decode(errors="replace")
    else:
        return None
    finally:
        os.close(file)
