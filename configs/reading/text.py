"""Files that others wrote: regular files of bounded size, UTF-8 with byte order mark and line ends settled."""

import codecs
import errno
import os
import re
import stat
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from configs.errors import UnreadableError

MODEL_FILE_BYTES = 64 << 20
"""JSON and templates beside weights; a parsed value may take twenty times its text."""
TEXT_FILE_BYTES = 1 << 30
"""Texts and rows that are held in memory as a whole."""
WEIGHTS_FILE_BYTES = 1 << 50
"""Not read as a whole; the bound is the file system's."""
LINE_BYTES = 64 << 20
"""One row of JSON lines."""

ANSWER_BYTES = 64 << 20
"""Of a server."""

_SHOWN_BYTES = 1 << 16
"""Looked at, on both sides of a byte that is not UTF-8, for what the text may be instead."""
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Byte order marks; the first of UTF-32's begins as one of UTF-16's does."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
_OF_THE_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""What the path or the file's rights are to blame for; others, such as too many open files, say nothing of the file."""
_ANOTHER_FILE = "name a file with text"


class MalformedError(ValueError):
    """Text that is not what it should be.

    Args:
        fact: What is wrong, without the place.
        line: 1-based; None where it is not known.
        remedy: What to do about it.
    """

    def __init__(self, fact: str, *, line: int | None = None, remedy: str = "mend the text at this place") -> None:
        super().__init__(fact if line is None else f"line {line}: {fact}")
        self.fact, self.line, self.remedy = fact, line, remedy

    def in_file(self, file: Path, first_line: int | None = None) -> UnreadableError:
        """The same as an error of `file`; the text began at its line `first_line`, or is all of it."""
        line = first_line if self.line is None else self.line + (first_line or 1) - 1
        return UnreadableError(self.fact, file=file, line=line, remedy=self.remedy)


@contextmanager
def opened(path: Path, most_bytes: int) -> Iterator[BinaryIO]:
    """A regular file, or a link to one, open for reading.

    Raises:
        UnreadableError: It is not there, may not be read, is larger than `most_bytes`, or is no regular file: a device
            or a pipe may have no end.
        OSError: The machine cannot read now.
    """
    with _open(path, most_bytes) as file:
        yield file


def _open(path: Path, most_bytes: int) -> BinaryIO:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "no file")
            raise UnreadableError(f"is {kind}, not a file", file=path, remedy=_ANOTHER_FILE)
        if status.st_size > most_bytes:
            raise _too_large(path, most_bytes)
        # Some files of /proc and /sys are called regular and would wait for ever.
        return open(path, "rb", opener=_without_waiting)
    except OSError as error:
        if error.errno not in _OF_THE_PATH:
            raise
        raise UnreadableError(
            f"cannot be read: {error.strerror or error}", file=path, remedy="mend the path or the file's permissions"
        ) from error
    except ValueError as error:
        # What the operating system cannot take for a name, such as a NUL.
        raise UnreadableError(f"cannot be read: {error}", file=Path(ascii(str(path))), remedy="mend the path") from None


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """The content of a file; see `opened` for what is refused (UnreadableError)."""
    with opened(path, most_bytes) as file:
        content = file.read(most_bytes + 1) or b""
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def read_text(path: Path, most_bytes: int = TEXT_FILE_BYTES) -> str:
    """The text of a UTF-8 file, without byte order mark, its lines ended by "\\n" alone.

    Raises:
        UnreadableError: See `opened`; or it is not UTF-8, or holds a NUL.
    """
    try:
        return text_of(read_bytes(path, most_bytes))
    except MalformedError as error:
        raise error.in_file(path) from None


def lines_of(path: Path, most_bytes: int = 64 << 30) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a UTF-8 file, one at a time, without its end.

    Only "\\n", "\\r\\n" and "\\r" end a line: the others of `str.splitlines` may stand in a JSON text.

    Raises:
        UnreadableError: See `read_text`; or a line is longer than LINE_BYTES.
    """
    number, offset = 0, 0
    with opened(path, most_bytes) as file:
        while content := file.readline(LINE_BYTES + 1):
            if len(content) > LINE_BYTES:
                raise UnreadableError(
                    f"the line is longer than {LINE_BYTES >> 20} MiB",
                    file=path,
                    line=number + 1,
                    remedy="write one row a line",
                )
            try:
                text = text_of(content, offset)
            except MalformedError as error:
                raise error.in_file(path, number + 1) from None
            offset += len(content)
            for line in text.removesuffix("\n").split("\n"):
                number += 1
                yield number, line


async def gathered(chunks: AsyncIterable[bytes], most_bytes: int = ANSWER_BYTES) -> bytes:
    """An answer's body, read to its end.

    Raises:
        MalformedError: It is larger than `most_bytes`.
    """
    parts, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > most_bytes:
            raise too_long(most_bytes)
        parts.append(chunk)
    return b"".join(parts)


def too_long(most_bytes: int) -> MalformedError:
    """What is said of an answer of more than `most_bytes`."""
    return MalformedError(f"the answer is larger than {most_bytes >> 20} MiB", remedy="see what answers there")


def text_of(content: bytes, offset: int = 0) -> str:
    """UTF-8 bytes as text, without byte order mark and with "\\n" as its only line end.

    Args:
        content: All of a file, or a line of it.
        offset: Of its first byte in the file, for messages.

    Raises:
        MalformedError: It is in another encoding, is cut off inside a character, or holds a NUL.
    """
    for mark, encoding in _OTHER_MARKS if offset == 0 else ():
        if content.startswith(mark):
            raise MalformedError(f"it is {encoding}, as its first bytes say, not UTF-8", remedy=_converting(encoding))
    nul = content.find(0)
    if nul >= 0:
        around = content[: 2 * _SHOWN_BYTES]
        if max(around[::2].count(0), around[1::2].count(0)) > len(around) / 4:
            raise MalformedError("it looks like UTF-16 without a byte order mark", remedy=_converting("UTF-16LE"))
        raise MalformedError(
            f"byte {offset + nul} is NUL, which stands in no text",
            line=_line_at(content, nul),
            remedy="name a text file; this one is binary or damaged",
        )
    try:
        text = content.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        # The codec counts from behind the mark.
        place = error.start + (len(codecs.BOM_UTF8) if offset == 0 and content.startswith(codecs.BOM_UTF8) else 0)
        raise _not_utf8(content, place, offset) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_utf8(content: bytes, place: int, offset: int) -> MalformedError:
    line, where = _line_at(content, place), f"byte {offset + place} (0x{content[place]:02x})"
    around = content[max(0, place - _SHOWN_BYTES) : place + _SHOWN_BYTES]
    high = re.findall(rb"[\x80-\xff]+", around)
    read = around.decode("utf-8", errors="replace")
    damaged = read.count("\N{REPLACEMENT CHARACTER}")
    if sum(character > "\x7f" for character in read) > 2 * damaged:
        return MalformedError(
            f"{where} is not UTF-8, though what is around it is: the text is damaged or cut off",
            line=line,
            remedy="fetch or write the file again",
        )
    if 2 * sum(len(run) == 1 for run in high) < len(high):
        return MalformedError(
            f"{where} is not UTF-8: it is text in another encoding, or no text",
            line=line,
            remedy="convert it to UTF-8: iconv -f ENCODING -t UTF-8 FILE > NEW",
        )
    windows = re.search(rb"[\x80-\x9f]", around)
    encoding, name = ("WINDOWS-1252", "Windows-1252") if windows else ("ISO-8859-1", "latin-1 (ISO 8859-1)")
    return MalformedError(f"{where} is not UTF-8; the text looks like {name}", line=line, remedy=_converting(encoding))


def _line_at(content: bytes, place: int) -> int:
    before = content[:place].replace(b"\r\n", b"\n")
    return 1 + before.count(b"\n") + before.count(b"\r")


def _converting(encoding: str) -> str:
    return f"convert it to UTF-8: iconv -f {encoding} -t UTF-8 FILE > NEW"


def _too_large(path: Path, most_bytes: int) -> UnreadableError:
    size = f"{most_bytes >> 20} MiB" if most_bytes >= 1 << 20 else f"{most_bytes >> 10} KiB"
    return UnreadableError(f"is larger than {size}", file=path, remedy=_ANOTHER_FILE + " of at most that size")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
