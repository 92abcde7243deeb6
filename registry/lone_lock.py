"""A lock by a name, for one process and thread at a time; it goes with its holder, however that ends (flock(2))."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def lone_lock(path: Path) -> Iterator[None]:
    """Hold `path`, whose folder is there, for the length of the block; the file goes with the last holder.

    On a file system without locks nobody waits.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            # Whoever held it before may have removed the name: another one may hold a file of that name now.
            if os.fstat(file).st_nlink:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(file)
