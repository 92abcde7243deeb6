"""A sealed file is read as it was written or not at all."""

import json
import math
from pathlib import Path

import pytest

from registry.contracts import StageResult
from registry.contracts.base import Record
from registry.sealed import DamagedFile, read_sealed, write_sealed


class Reading(Record):
    name: str
    value: float
    more: dict[str, list[float | None]] = {}


class OtherReading(Record):
    other: str


READING = Reading(name="täst\n", value=0.1 + 0.2, more={"a": [1.0, None, 1e300]})


def test_as_it_was_written(tmp_path: Path) -> None:
    write_sealed(tmp_path / "file", READING)
    assert read_sealed(tmp_path / "file", Reading) == READING
    assert json.loads((tmp_path / "file").read_text())["value"] == READING.value


def test_what_json_has_no_word_for_is_kept(tmp_path: Path) -> None:
    """Null would be read as `not known`, or as damage where a number is wanted."""
    write_sealed(tmp_path / "file", Reading(name="n", value=math.inf, more={"a": [math.nan, None, -math.inf]}))
    read = read_sealed(tmp_path / "file", Reading)
    assert read.value == math.inf
    assert math.isnan(read.more["a"][0] or 0) and read.more["a"][1:] == [None, -math.inf]


def test_a_stage_hands_on_what_is_no_number() -> None:
    result = StageResult(stage="measure", record=Reading(name="n", value=math.nan).model_dump(mode="json"))
    again = StageResult.model_validate_json(result.model_dump_json())
    assert math.isnan(Reading.model_validate(again.record).value)


def test_any_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_sealed(path, READING)
    whole = path.read_bytes()
    noticed = 0
    for place in range(8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            assert read_sealed(path, Reading) == READING
        except DamagedFile:
            noticed += 1
    assert noticed > 7 * len(whole)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"checksum": 1}', "[" * 100_000, '{"name": "n", "value": 1}']
)
def test_what_is_no_sealed_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(DamagedFile, match="file"):
        read_sealed(tmp_path / "file", Reading)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_sealed(tmp_path / "file", Reading)


def test_another_record(tmp_path: Path) -> None:
    write_sealed(tmp_path / "file", READING)
    with pytest.raises(DamagedFile, match="no OtherReading of this version"):
        read_sealed(tmp_path / "file", OtherReading)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "file", Reading)
