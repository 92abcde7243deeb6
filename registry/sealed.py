"""Records in JSON files that hold a checksum of themselves: what was changed since is noticed, whatever it was."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from configs.errors import UnreadableError
from configs.reading.text import TEXT_FILE_BYTES, read_bytes
from registry.contracts.base import Record
from registry.files import write_text_atomically
from registry.hashing import digest_of

_CHECKSUM = "checksum"

R = TypeVar("R", bound=Record)


class DamagedFile(Exception):
    """A file of the workspace does not hold what was written to it; the text says which, and how that showed."""


def write_sealed(path: Path, record: Record) -> None:
    """Write `record` as JSON with one field more, the checksum of all others."""
    # Through JSON first: what it cannot hold, such as NaN, is in the checksum as it will be read.
    fields: dict[str, Any] = json.loads(record.model_dump_json())
    text = json.dumps(fields | {_CHECKSUM: digest_of(fields)}, indent=2, ensure_ascii=False)
    write_text_atomically(path, text)


def read_sealed(path: Path, kind: type[R]) -> R:
    """What `write_sealed` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It is not as it was written, or of a version that wrote other fields.
    """
    try:
        return parse_sealed(read_bytes(path, TEXT_FILE_BYTES).decode(), str(path), kind)
    except UnreadableError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise DamagedFile(str(error)) from None
    except (OSError, ValueError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from None


def parse_sealed(text: str, where: str, kind: type[R]) -> R:
    """The same of a text that was read elsewhere.

    Args:
        where: It was read, for the error.
    """
    try:
        fields = json.loads(text)
        checksum = fields.pop(_CHECKSUM, None) if isinstance(fields, dict) else None
        if checksum is None:
            raise DamagedFile(f"{where} holds no checksum: it is damaged, or of an earlier version")
        if checksum != digest_of(fields):
            raise DamagedFile(f"{where} is damaged: its checksum is not that of its content")
        return kind.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise DamagedFile(f"{where} is no {kind.__name__} of this version: {error.errors()[0]['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} cannot be read: {error}") from None
