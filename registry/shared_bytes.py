"""Files that are had a second time without their bytes being written a second time, where the file system can.

A clone (FICLONE, ioctl_ficlone(2): XFS, btrfs, bcachefs) shares blocks until either file is written to, so neither sees
what becomes of the other. A hard link is the same file: what is written into one is in both. So only files are linked
that nobody is expected to write into, those without a right to write and those of the hub's cache, which are known by
their hash and replaced as a whole. Where somebody does so all the same, the store finds it: the kernel's time of change
is another, the bytes are read again and are not those of the digest (`registry/verified_files.py`).
"""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Literal

Sharing = Literal["cloned", "linked", "copied"]

_FICLONE = 0x40049409
_NO_CLONES = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.ETXTBSY)
_NO_LINKS = (errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK)


def share(source: Path, target: Path) -> Sharing:
    """Have the bytes of `source` as the new file `target`: cloned, else linked, else copied.

    Raises:
        OSError: The source cannot be read, or the target not be written.
    """
    with source.open("rb") as read:
        with target.open("xb") as written:
            if _cloned(read.fileno(), written.fileno()):
                return "cloned"
        if _stays(source):
            target.unlink()
            try:
                # Of a link, what it leads to: the hub's cache holds files by their hash, and links to them by name.
                os.link(source.resolve(), target)
                return "linked"
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
    shutil.copyfile(source, target)
    return "copied"


def would_share(source: Path, folder: Path) -> bool:
    """Whether a file would be shared with a new one in `folder`, which is there."""
    if source.stat().st_dev != folder.stat().st_dev:
        return False
    if _stays(source):
        return True
    try:
        with source.open("rb") as read:
            # Without a name, and gone when it is closed.
            handle = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb"):
                return _cloned(read.fileno(), handle)
    except OSError:
        return False


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_CLONES:
            raise
        return False
    return True


def _stays(source: Path) -> bool:
    """Whether nobody is expected to write into a file."""
    file = source.resolve()
    of_the_hub = source.is_symlink() and file.parent.name == "blobs"
    return of_the_hub or not file.stat().st_mode & 0o222
