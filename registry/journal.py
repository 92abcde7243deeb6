"""Records that are kept one by one as they come: a line each, which a killed process leaves whole or not at all.

A file of lines because each record is there as soon as it is written; what reads a lot of them takes Parquet.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from configs.errors import StageError
from configs.reading.json_text import parse_json
from registry.contracts.base import Record
from registry.files import make_way
from registry.hashing import digest_of
from registry.os_faults import check_not_refused

R = TypeVar("R", bound=Record)


class Journal(Generic[R]):
    """An open journal of one process; `opened_journal` makes it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def append(self, record: R) -> None:
        """Keep `record`: the kernel has it when this returns, a process that is killed then loses nothing."""
        fields = record.model_dump(mode="json")
        line = f'{{"checksum":"{digest_of(fields)}","record":{record.model_dump_json()}}}\n'.encode()
        while line:
            line = line[os.write(self._handle, line) :]

    def clear(self) -> None:
        """Forget all records: they are kept elsewhere by now."""
        os.ftruncate(self._handle, 0)


@contextmanager
def opened_journal(path: Path, kind: type[R]) -> Iterator[Journal[R]]:
    """The journal at `path`, readable by its owner only, for as long as the block lasts; a torn last line is cut off.

    Args:
        kind: Of its records.
    """
    make_way(path)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(handle, _whole_bytes(path))
        yield Journal(handle)
        os.fsync(handle)
    finally:
        os.close(handle)


def read_journal(path: Path, kind: type[R]) -> list[R]:
    """Its records in the order in which they came; none where there is no file. What was cut off amid a line is not
    among them.

    Raises:
        StageError: A line is not as it was written.
    """
    try:
        content = path.read_bytes()[: _whole_bytes(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        check_not_refused(error, f"reading {path}", path)
        raise _damaged(path, str(error)) from error
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            sealed = parse_json(line, of_model=True)
            if sealed["checksum"] != digest_of(sealed["record"]):
                raise ValueError("its checksum is not that of its content")
            found.append(kind.model_validate(sealed["record"]))
        except ValidationError as error:
            raise _damaged(path, f"line {number} is no {kind.__name__}: {error.errors()[0]['msg']}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise _damaged(path, f"line {number}: {error}") from error
    return found


def _whole_bytes(path: Path) -> int:
    """How long the file is up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _damaged(path: Path, how: str) -> StageError:
    return StageError(
        f"{path} is damaged: {how}",
        remedy="check the disk (dmesg); then remove the folder that it is in, and run the same command again",
    )
