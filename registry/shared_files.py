"""The files of a shared store, wherever they lie: what `SharedStore` asks of a place, and a folder that nodes mount."""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from registry.files import fsync, make_way

_CHUNK_BYTES = 8 << 20
_ABANDONED_SECONDS = 24 * 3600
"""A file that nobody has written to for so long is of a process that is gone. Locks would say it at once, but not every
shared file system carries them from node to node."""

Sent = Callable[[int], None]
"""Is told of bytes as they go over, from any thread."""


class SharedFiles(Protocol):
    """Files by their POSIX path below an address. Each is there whole or not at all, whoever writes it beside others.

    What fails raises OSError or StageError.
    """

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below `folder`, by its path there; none where there is no such folder."""

    def send(self, source: Path, name: str, sent: Sent) -> None:
        """Write the file `name`."""

    def receive(self, name: str, target: Path, sent: Sent) -> None:
        """Read the file `name` into `target`, whose folder is there."""

    def read(self, name: str) -> bytes:
        """A small file. FileNotFoundError where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""

    def remove(self, name: str) -> None:
        """Remove a file or all below a folder; harmless where there is none."""

    def free_bytes(self) -> int | None:
        """What there is room for; None where that is without a limit, or not told."""


class SharedFolder:
    """A folder on a file system that all nodes mount at the same path.

    A file is written under another name below `incoming`, flushed to disk and renamed.

    Args:
        root: The folder. It is not made: where a file system is not mounted, it would be the node's own.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self, folder: str) -> dict[str, int]:
        top = self._root / folder
        return {
            path.relative_to(top).as_posix(): path.stat().st_size for path in sorted(top.rglob("*")) if path.is_file()
        }

    def send(self, source: Path, name: str, sent: Sent) -> None:
        with self._arriving(name) as file:
            _copy(source, file, sent)

    def receive(self, name: str, target: Path, sent: Sent) -> None:
        with target.open("xb") as file:
            _copy(self._root / name, file, sent)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with self._arriving(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        path = self._root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self._root).free

    @contextmanager
    def _arriving(self, name: str) -> Iterator[BinaryIO]:
        incoming = self._root / "incoming"
        incoming.mkdir(exist_ok=True)
        self._sweep(incoming)
        path, target = incoming / secrets.token_hex(8), self._root / name
        try:
            with path.open("xb") as file, _naming(path):
                yield file
                file.flush()
                os.fsync(file.fileno())
            make_way(target)
            path.replace(target)
            fsync(target.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    @staticmethod
    def _sweep(incoming: Path) -> None:
        for path in incoming.iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()


def _copy(source: Path, target: BinaryIO, sent: Sent) -> None:
    with source.open("rb") as file:
        while True:
            with _naming(source):
                chunk = file.read(_CHUNK_BYTES)
            if not chunk:
                return
            with _naming(Path(target.name)):
                target.write(chunk)
            sent(len(chunk))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """read(2), write(2) and fsync(2) do not say which file they failed at, and the two lie on different disks."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
