"""Pairs on disk: parts and journal, what is read once, and what damage does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.errors import StageError
from registry.contracts.pair import Answer, Pair
from registry.pairs import PairWriter, read_pair_table

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def pair(number: int, **changes: Any) -> Pair:
    fields: dict[str, Any] = {
        "id": f"id-{number}",
        "number": number,
        "source": "replay",
        "at": AT + timedelta(seconds=number),
        "prompt_hash": "sha256:p",
        "prompt_characters": 9,
        "champion": Answer(status=200, characters=3, text_hash="sha256:a", completion_tokens=4, seconds=0.25),
        "candidate": Answer(error="HTTP 500"),
    }
    return Pair.model_validate(fields | changes)


def pairs_of(folder: Path) -> list[Pair]:
    return [Pair.model_validate(row) for row in read_pair_table(folder).to_pylist()]


def test_pairs_come_back_by_number_from_parts_and_journal(tmp_path: Path) -> None:
    pairs = [pair(number, same=None if number % 2 else True, first_difference=number) for number in range(7)]
    with PairWriter(tmp_path, pairs_per_part=3) as writer:
        for one in reversed(pairs[:6]):
            writer.write(one)
        writer.write(pairs[6])
        # While it is at work, what fills no part yet is read from the journal.
        assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == [
            "newest.jsonl",
            "part-000000.parquet",
            "part-000001.parquet",
        ]
        assert pairs_of(tmp_path) == pairs
    assert pairs_of(tmp_path) == pairs
    assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == [
        f"part-{number:06}.parquet" for number in range(3)
    ]
    columns = read_pair_table(tmp_path).schema
    assert columns.names == [name for name in Pair.model_fields if name != "schema_version"]
    assert pyarrow.types.is_struct(columns.field("champion").type)
    assert columns.field("champion").type.field("seconds").nullable
    assert not columns.field("number").nullable


def test_a_pair_that_is_there_twice_is_read_once_and_the_first_is_kept(tmp_path: Path) -> None:
    with PairWriter(tmp_path) as writer:
        writer.write(pair(1, prompt_class="first"))
    with PairWriter(tmp_path) as writer:
        writer.write(pair(1, prompt_class="second"))
        writer.write(pair(0))
    assert [(one.id, one.prompt_class) for one in pairs_of(tmp_path)] == [("id-0", ""), ("id-1", "first")]


def test_what_an_error_or_a_kill_left_is_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyError), PairWriter(tmp_path, pairs_per_part=2) as writer:
        for number in range(3):
            writer.write(pair(number))
        raise KeyError
    assert [one.number for one in pairs_of(tmp_path)] == [0, 1, 2]
    # A part was written and its process killed before the journal was cleared.
    with (tmp_path / "pairs" / "newest.jsonl").open("ab") as file:
        file.write(b'{"checksum":"sha256:torn')
    with PairWriter(tmp_path, pairs_per_part=2) as writer:
        writer.write(pair(3))
    assert [one.number for one in pairs_of(tmp_path)] == [0, 1, 2, 3]
    assert len(list((tmp_path / "pairs").glob("*.parquet"))) == 2


def test_nothing_is_an_empty_table(tmp_path: Path) -> None:
    assert read_pair_table(tmp_path).num_rows == 0
    with PairWriter(tmp_path):
        pass
    assert list((tmp_path / "pairs").iterdir()) == []


def test_a_new_part_takes_no_other_s_place(tmp_path: Path) -> None:
    for number in range(3):
        with PairWriter(tmp_path) as writer:
            writer.write(pair(number))
    (tmp_path / "pairs" / "part-000001.parquet").unlink()
    with PairWriter(tmp_path) as writer:
        writer.write(pair(3))
    assert [one.number for one in pairs_of(tmp_path)] == [0, 2, 3]


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_damaged_part_is_told(tmp_path: Path, place: float) -> None:
    with PairWriter(tmp_path) as writer:
        for number in range(50):
            writer.write(pair(number))
    (part,) = (tmp_path / "pairs").iterdir()
    content = bytearray(part.read_bytes())
    content[int(len(content) * place)] ^= 0xFF
    part.write_bytes(content)
    try:
        found = pairs_of(tmp_path)
    except StageError as error:
        assert str(part) in error.what and "remove the file" in error.remedy
    else:
        # A byte that says nothing, such as one of the writer's name.
        assert [one.number for one in found] == list(range(50))


def test_columns_of_another_version_are_told(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    table = pyarrow.table({"id": ["a"], "number": [0]})
    pyarrow.parquet.write_table(table, tmp_path / "pairs" / "part-000000.parquet")
    with pytest.raises(StageError, match="other columns than pairs of this version"):
        read_pair_table(tmp_path)
