"""Journals: what a kill leaves of them, and what damage does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import StageError
from registry.contracts.reply import ToolCall
from registry.journal import opened_journal, read_journal

CALLS = [ToolCall(name="weather", arguments='{"a": 1}'), ToolCall(name="ü", arguments="\x00\n\r\u2028 \x85")]


def written(path: Path) -> Path:
    with opened_journal(path, ToolCall) as journal:
        for call in CALLS:
            journal.append(call)
    return path


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = written(tmp_path / "below" / "calls.jsonl")
    assert read_journal(path, ToolCall) == CALLS
    assert path.stat().st_mode & 0o777 == 0o600
    written(path)
    assert read_journal(path, ToolCall) == [*CALLS, *CALLS]
    assert read_journal(tmp_path / "none.jsonl", ToolCall) == []


@pytest.mark.parametrize("cut", [1, 20])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "calls.jsonl")
    os.truncate(path, path.stat().st_size - cut)
    assert read_journal(path, ToolCall) == CALLS[:1]
    written(path)
    assert read_journal(path, ToolCall) == [CALLS[0], *CALLS]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"weather", b"whether", "line 1: its checksum is not that of its content"),
        (b'{"checksum"', b'["checksum"', "line 1: not JSON"),
        (b'"checksum"', b'"check"', "line 1"),
    ],
)
def test_damage_is_told_with_its_line(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    path = written(tmp_path / "calls.jsonl")
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(StageError, match=says) as caught:
        read_journal(path, ToolCall)
    assert str(path) in caught.value.what


def test_a_record_of_another_kind_is_damage(tmp_path: Path) -> None:
    from registry.contracts.pair import Answer

    with pytest.raises(StageError, match="line 1 is no Answer"):
        read_journal(written(tmp_path / "calls.jsonl"), Answer)


def test_a_killed_process_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom registry.contracts.reply import ToolCall\n"
        "from registry.journal import opened_journal\n"
        f"with opened_journal(Path({str(path)!r}), ToolCall) as journal:\n"
        "    for number in range(50): journal.append(ToolCall(name=str(number), arguments=''))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=False)
    assert [call.name for call in read_journal(path, ToolCall)] == [str(number) for number in range(50)]
