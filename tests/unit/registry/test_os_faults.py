"""What the machine refused is told by its number, whoever wrapped it."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from registry.os_faults import machine_fault, refusal_behind, refusal_in

NOWHERE = Path("/no/such/folder")


@pytest.mark.parametrize(
    ("number", "what", "remedy", "blame"),
    [
        (errno.ENOSPC, "no room on the disk of /no/such/folder/file", "free space", "machine"),
        (errno.EDQUOT, "quota", "remove files of yours", "machine"),
        (errno.EFBIG, "may not grow", "ulimit -f", "machine"),
        (errno.EACCES, "no right to use /no/such/folder/file", "the right to read and write", "machine"),
        (errno.EPERM, "no right", "the right", "machine"),
        (errno.EROFS, "mounted read-only", "another disk", "machine"),
        (errno.EMFILE, "too many files are open", "ulimit -n", "machine"),
        (errno.ENFILE, "too many files are open", "ulimit -n", "machine"),
        (errno.ENOMEM, "no more memory", "larger machine", "machine"),
        (errno.EIO, "gives errors", "dmesg", "machine"),
        (errno.ENOENT, "/no/such/folder/file is not there", "name another", None),
        (errno.ECONNREFUSED, "the other side of a connection", "that server", None),
        (errno.EXDEV, "cannot be used", "nothing changes by itself", "machine"),
    ],
)
def test_each_number_has_its_sentence(number: int, what: str, remedy: str, blame: str | None) -> None:
    error = OSError(number, os.strerror(number), str(NOWHERE / "file"))
    told = machine_fault(error, "writing", NOWHERE)
    assert told is not None
    assert told.what.startswith("writing: ")
    assert what in told.what
    assert os.strerror(number) in told.what
    assert remedy in told.remedy
    assert told.blame == blame
    # What would go the same way again is not told to be tried again.
    assert "run the same command" not in told.remedy or number in (errno.ENOSPC, errno.EDQUOT)


def test_a_full_disk_is_told_with_what_is_free_there(tmp_path: Path) -> None:
    told = machine_fault(OSError(errno.ENOSPC, "No space left on device"), "saving", tmp_path / "not" / "yet")
    assert told is not None
    free = os.statvfs(tmp_path)
    assert f"{free.f_bavail * free.f_frsize / 2**20:.0f}"[:2] in told.what
    assert "MiB free" in told.what


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device", errno.ENOSPC),
        ("DefaultCPUAllocator: can't allocate memory: ... Error code 12 (Cannot allocate memory)", errno.ENOMEM),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", errno.ENOMEM),
        ("terminate called after throwing an instance of 'std::bad_alloc'", errno.ENOMEM),
        ("database or disk is full", errno.ENOSPC),
    ],
)
def test_libraries_hide_the_number_in_their_words(text: str, number: int) -> None:
    refusal = refusal_behind(RuntimeError(text))
    assert refusal is not None
    assert refusal.number == number
    told = machine_fault(RuntimeError(text), "saving", NOWHERE)
    assert told is not None
    assert text[:40] in told.what


@pytest.mark.parametrize("text", ["error 28", "[Errno 2] No such file or directory", "shape (28, 28)", ""])
def test_other_words_are_no_refusal(text: str) -> None:
    assert refusal_in(text) is None
    assert machine_fault(ValueError(text), "saving", NOWHERE) is None


def test_the_cause_counts_and_what_was_tried_on_purpose_does_not() -> None:
    def wrapped(inner: OSError) -> Exception:
        try:
            try:
                raise inner
            except OSError:
                raise KeyError("not in the index")  # noqa: B904 - as libraries do
        except KeyError as error:
            return error

    assert refusal_behind(wrapped(FileNotFoundError(errno.ENOENT, "no such file", "adapter.json"))) is None
    full = refusal_behind(wrapped(OSError(errno.ENOSPC, "no space", "model.safetensors")))
    assert full is not None
    assert full.path == "model.safetensors"


def test_an_error_of_a_library_that_calls_it_os_error_is_not_the_machine_s() -> None:
    assert machine_fault(OSError("tiny is not a local folder"), "loading", NOWHERE) is None


def test_a_real_full_disk_is_told_by_sqlite_and_by_a_file(tmp_path: Path) -> None:
    """`/dev/full` is Linux's disk without room; sqlite's is a database that may hold two pages."""
    with pytest.raises(OSError, match="space") as caught, Path("/dev/full").open("w") as file:
        file.write("x")
        file.flush()
    refusal = refusal_behind(caught.value)
    assert refusal is not None
    assert refusal.number == errno.ENOSPC
    connection = sqlite3.connect(tmp_path / "small.db")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t (x)")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    refusal = refusal_behind(full.value)
    assert refusal is not None
    assert refusal.number == errno.ENOSPC
